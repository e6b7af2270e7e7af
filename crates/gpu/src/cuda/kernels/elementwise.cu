// Kernels with one thread per element.

#define SILU 0
#define GELU_TANH 1
#define RELU 3
#define RELU_SQUARED 4
#define SIGMOID 6
#define CLAMPED_SWIGLU 5

KERNEL(add)(const float* a, const float* b, float* out, Params p) {
    ELEMENT(i);
    out[i] = a[i] + b[i];
}

KERNEL(subtract)(const float* a, const float* b, float* out, Params p) {
    ELEMENT(i);
    out[i] = a[i] - b[i];
}

KERNEL(add_assign)(const float* from, float* to, Params p) {
    ELEMENT(i);
    to[i] += from[i % p.v[1]];
}

KERNEL(interpolate)(const float* base, const float* direction, const float* at, float* out, Params p) {
    ELEMENT(i);
    const size_t period = p.v[1];
    out[i] = fmaf(at[i / period], direction[i % period], base[i % period]);
}

KERNEL(gather_rows)(const float* from, const u32* rows, float* to, Params p) {
    ELEMENT(i);
    const size_t width = p.v[1];
    to[i] = from[rows[i / width] * width + i % width];
}

KERNEL(scatter_rows)(const float* from, const u32* rows, float* to, Params p) {
    ELEMENT(i);
    const size_t width = p.v[1];
    to[rows[i / width] * width + i % width] = from[i];
}

KERNEL(copy_columns)(const float* from, float* to, Params p) {
    ELEMENT(i);
    const size_t first_row = p.v[1], stride = p.v[2], start = p.v[3], total = p.v[4];
    to[i] = from[(first_row + i / total) * stride + start + i % total];
}

__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

// The value of an activation.
__device__ __forceinline__ float activation(u32 kind, float x) {
    if (kind == SILU) return x / (1.0f + expf(-x));
    if (kind == GELU_TANH) {
        // x (1 + tanh u) / 2 = x / (1 + e^-2u)
        const float u = 0.7978846f * (x + 0.044715f * x * x * x);
        return x / (1.0f + expf(-2.0f * u));
    }
    if (kind == RELU) return x <= 0.0f ? 0.0f : x;
    if (kind == RELU_SQUARED) return x <= 0.0f ? 0.0f : x * x;
    if (kind == SIGMOID) return logistic(x);
    if (kind == CLAMPED_SWIGLU) {
        const float clamped = x > 7.0f ? 7.0f : x;
        return clamped / (1.0f + expf(-1.702f * clamped));
    }
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

// The value of an activation and its derivative.
__device__ __forceinline__ float2 activation_slope(u32 kind, float x) {
    if (kind == SILU) {
        const float s = logistic(x);
        return make_float2(x * s, s * (1.0f + x * (1.0f - s)));
    }
    if (kind == GELU_TANH) {
        const float twice = 1.5957692f * (x + 0.044715f * x * x * x);
        const float slope = 1.5957692f * (1.0f + 0.134145f * x * x);
        const float s = logistic(twice);
        return make_float2(x * s, s + x * s * (1.0f - s) * slope);
    }
    if (kind == CLAMPED_SWIGLU) {
        const float clamped = x > 7.0f ? 7.0f : x, s = logistic(1.702f * clamped);
        return make_float2(clamped * s, x > 7.0f ? 0.0f : s * (1.0f + 1.702f * x * (1.0f - s)));
    }
    if (kind == RELU || kind == RELU_SQUARED) {
        if (x <= 0.0f) return make_float2(0.0f, 0.0f);
        return kind == RELU ? make_float2(x, 1.0f) : make_float2(x * x, 2.0f * x);
    }
    if (kind == SIGMOID) return make_float2(logistic(x), logistic(x) * logistic(-x));
    const float below = 0.5f * (1.0f + erff(x * 0.70710678f));
    return make_float2(x * below, below + x * 0.3989423f * expf(-0.5f * x * x));
}

// The other factor of a gated MLP and its slope.
__device__ __forceinline__ float2 other_factor(u32 kind, float x) {
    if (kind != CLAMPED_SWIGLU) return make_float2(x, 1.0f);
    const float clamped = x > 7.0f ? 7.0f : x < -7.0f ? -7.0f : x;
    return make_float2(clamped + 1.0f, x > 7.0f || x < -7.0f ? 0.0f : 1.0f);
}

KERNEL(activate)(float* x, Params p) {
    ELEMENT(i);
    x[i] = activation(p.v[1], x[i]);
}

KERNEL(activate_backward)(const float* x, float* d, Params p) {
    ELEMENT(i);
    d[i] *= activation_slope(p.v[1], x[i]).y;
}

KERNEL(gate)(const float* wide, float* out, Params p) {
    ELEMENT(i);
    const size_t f = p.v[1];
    const float* row = wide + i / f * 2 * f + i % f;
    out[i] = activation(p.v[2], row[0]) * other_factor(p.v[2], row[f]).x;
}

KERNEL(gate_backward)(const float* wide, const float* d_out, float* d_wide, Params p) {
    ELEMENT(i);
    const size_t f = p.v[1], at = i / f * 2 * f + i % f;
    const float2 act = activation_slope(p.v[2], wide[at]);
    const float2 other = other_factor(p.v[2], wide[at + f]);
    d_wide[at] = d_out[i] * other.x * act.y;
    d_wide[at + f] = d_out[i] * act.x * other.y;
}

KERNEL(scale)(float* x, Params p) {
    ELEMENT(i);
    x[i] *= parameter_float(p.v[1]);
}

KERNEL(softcap)(float* x, Params p) {
    ELEMENT(i);
    const float cap = parameter_float(p.v[1]);
    x[i] = cap * tanhf(x[i] / cap);
}

KERNEL(rotate)(const float* cos, const float* sin, const u32* places, float* x, Params p) {
    ELEMENT(id);
    const size_t stride = p.v[1], heads = p.v[2], head_dim = p.v[3], half = p.v[4];
    const size_t i = id % half, head = id / half % heads, row = id / half / heads;
    const size_t at = places[row] * half + i;
    const float c = cos[at], s = p.v[5] ? -sin[at] : sin[at];
    float* lo = x + row * stride + head * head_dim + i;
    float* hi = lo + half;
    const float a = *lo, b = *hi;
    *lo = a * c - b * s;
    *hi = b * c + a * s;
}

// Each edit is four words: the row, what happens to it, a factor, and the row of the values.
KERNEL(edit_rows)(const u32* table, const float* values, float* x, Params p) {
    ELEMENT(id);
    const size_t width = p.v[1], column = id % width;
    const u32* edit = table + id / width * 4;
    float* at = x + edit[0] * width + column;
    const float* value = values + edit[3] * width + column;
    switch (edit[1]) {
    case 0: *at = 0.0f; break;
    case 1: *at *= parameter_float(edit[2]); break;
    case 2: *at = *value; break;
    case 3: *at += *value; break;
    default: *at -= *value; break;
    }
}

KERNEL(find_not_finite)(const float* x, u32* flag, Params p) {
    ELEMENT(i);
    // Every thread that writes writes the same.
    if (!(fabsf(x[i]) < infinity())) flag[0] = 1;
}

KERNEL(column_sums)(const float* x, float* out, Params p) {
    ELEMENT(column);
    const size_t width = p.v[0], rows = p.v[1];
    double sum = 0.0;
    for (size_t row = 0; row < rows; row++) sum += (double)x[row * width + column];
    out[column] = (float)sum;
}

KERNEL(pick)(const float* logits, const float* stats, const u32* tokens, float* out, Params p) {
    ELEMENT(row);
    out[row] = logits[row * p.v[1] + tokens[row]] - stats[row * 2 + 1];
}

// Multiply-adds on registers: independent sums hide the latency of an instruction.
KERNEL(peak)(float* out, Params p) {
    ELEMENT(i);
    const u32 steps = p.v[1];
    float sum[32];
    const float x = 0.999999f, start = i * 1e-9f;
#pragma unroll
    for (int j = 0; j < 32; ++j) sum[j] = start + j;
    if (p.v[2]) {
        const u32 lane = (u32)i;
        u32 a[4] = {lane, lane + 1, lane + 2, lane + 3};
#pragma unroll 1
        for (u32 step = 0; step < steps; ++step) {
#pragma unroll
            for (int j = 0; j < 8; ++j)
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                             "{%8, %9}, {%0, %1, %2, %3};"
                             : "+f"(sum[4 * j]), "+f"(sum[4 * j + 1]), "+f"(sum[4 * j + 2]), "+f"(sum[4 * j + 3])
                             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[1]), "r"(a[2]));
        }
    } else {
#pragma unroll 1
        for (u32 step = 0; step < steps; ++step) {
#pragma unroll
            for (int j = 0; j < 32; ++j) sum[j] = fmaf(sum[j], x, start);
        }
    }
    float total = 0.0f;
#pragma unroll
    for (int j = 0; j < 32; ++j) total += sum[j];
    out[i] = total;
}
