// Kernels with one workgroup per row. Sums are taken in double precision.

#define RMS 0

// The vector of a norm: rows of `stride`, each with `count` vectors of `width` from `start` on.
__device__ __forceinline__ size_t vector_start(size_t id, const Params& p) {
    const size_t stride = p.v[1], start = p.v[2], width = p.v[3], count = p.v[4];
    return id / count * stride + start + id % count * width;
}

__device__ __forceinline__ float mean_of(const float* x, u32 width) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum += (double)x[i];
    return (float)(group_sum(sum) / width);
}

// 1 / sqrt(mean (x - shift)^2 + eps).
__device__ __forceinline__ float inverse_deviation(const float* x, float shift, u32 width, float eps) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        const double c = (double)(x[i] - shift);
        sum = fma(c, c, sum);
    }
    return (float)(1.0 / sqrt(group_sum(sum) / width + (double)eps));
}

KERNEL(norm)(const float* weight, const float* bias, float* x, Params p) {
    ROW(id);
    const u32 width = p.v[3], kind = p.v[5], has_bias = p.v[7];
    const float eps = parameter_float(p.v[6]);
    x += vector_start(id, p);
    const float mean = kind == RMS ? 0.0f : mean_of(x, width);
    const float scale = inverse_deviation(x, mean, width, eps);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        const float y = (x[i] - mean) * scale * weight[i];
        x[i] = has_bias ? y + bias[i] : y;
    }
}

KERNEL(norm_backward)(const float* x, const float* weight, float* d, Params p) {
    ROW(id);
    const u32 width = p.v[3], kind = p.v[5];
    const float eps = parameter_float(p.v[6]);
    const size_t at = vector_start(id, p);
    x += at;
    d += at;
    const float mean = kind == RMS ? 0.0f : mean_of(x, width);
    const float scale = inverse_deviation(x, mean, width, eps);
    double sums[2] = {0.0, 0.0};
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        const double wd = (double)weight[i] * (double)d[i];
        sums[0] += wd;
        sums[1] = fma((double)(x[i] - mean), wd, sums[1]);
    }
    group_sums(sums);
    const float shift = kind == RMS ? 0.0f : (float)(sums[0] / width);
    // y = x s w with s = (mean x^2 + eps)^(-1/2), so ds/dx = -s^3 x / width.
    const float back = (float)(sums[1] * scale * scale / width);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        d[i] = scale * (d[i] * weight[i] - shift - (x[i] - mean) * back);
    }
}

KERNEL(contribution_sums)(const float* h, const float* a, const float* m, float* out, Params p) {
    ROW(row);
    const size_t width = p.v[1];
    h += row * width;
    a += row * width;
    m += row * width;
    double sums[8] = {};
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        const float hi = h[i], ai = a[i], mi = m[i];
        const double x = hi, y = ai, z = mi, mid = hi + ai, added = ai + mi;
        sums[0] = fma(x, x, sums[0]);
        sums[1] = fma(mid, mid, sums[1]);
        sums[2] = fma(y, y, sums[2]);
        sums[3] = fma(z, z, sums[3]);
        sums[4] = fma(added, added, sums[4]);
        sums[5] = fma(y, x, sums[5]);
        sums[6] = fma(z, mid, sums[6]);
        sums[7] = fma(added, x, sums[7]);
    }
    group_sums(sums);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 8; i++) out[row * 8 + i] = (float)sums[i];
    }
}

KERNEL(change_sums)(const float* added, const u32* rows, const float* attn, const float* mlp,
                   const u32* positions, float* out, Params p) {
    ROW(row);
    const size_t width = p.v[1];
    added += rows[row] * width;
    attn += positions[row] * width;
    mlp += positions[row] * width;
    double sums[2] = {};
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        // Rounded as the edited contribution was, so that equal ones cancel exactly.
        const float clean = attn[i] + mlp[i];
        const double difference = (double)clean - (double)added[i];
        sums[0] = fma(difference, difference, sums[0]);
        sums[1] = fma((double)clean, (double)clean, sums[1]);
    }
    group_sums(sums);
    if (threadIdx.x == 0) {
        out[row * 2] = (float)sums[0];
        out[row * 2 + 1] = (float)sums[1];
    }
}

__device__ __forceinline__ double group_dot(const float* a, const float* b, u32 width) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum = fma((double)a[i], (double)b[i], sum);
    return group_sum(sum);
}

KERNEL(row_dots)(const float* a, const float* b, float* out, Params p) {
    ROW(row);
    const size_t width = p.v[1];
    const double dot = group_dot(a + row * width, b + row % p.v[2] * width, width);
    if (threadIdx.x == 0) out[row] = (float)dot;
}

KERNEL(row_sums)(const float* x, float* out, Params p) {
    ROW(row);
    const size_t width = p.v[1];
    x += row * width;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum += (double)x[i];
    sum = group_sum(sum);
    if (threadIdx.x == 0) out[row] = (float)sum;
}

KERNEL(gram)(const float* x, float* out, Params p) {
    ROW(id);
    const u32 n = p.v[1], width = p.v[2], pairs = n * (n + 1) / 2;
    u32 pair = id % pairs, i = 0;
    while (pair >= n - i) pair -= n - i++;
    x += id / pairs * n * width;
    const double dot = group_dot(x + (size_t)i * width, x + (size_t)(i + pair) * width, width);
    if (threadIdx.x == 0) out[id] = (float)dot;
}
