// Statistics of rows of logits, one workgroup per row. Exponentials are taken in single precision, sums
// over the vocabulary in double precision.

// The largest logit and ln sum e^x.
KERNEL(log_sum_exp)(const float* logits, float* stats, Params p) {
    ROW(row);
    const size_t vocab = p.v[1];
    logits += row * vocab;
    float max = -infinity();
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) max = larger(max, logits[i]);
    max = group_max(max);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) sum += (double)expf(logits[i] - max);
    sum = group_sum(sum);
    if (threadIdx.x == 0) {
        stats[row * 2] = max;
        stats[row * 2 + 1] = (float)((double)max + log(sum));
    }
}

KERNEL(distances)(const float* logits, const float* stats, const u32* references, float* out, Params p) {
    ROW(row);
    const size_t vocab = p.v[1], reference = references[row];
    const float *x = logits + row * vocab, *y = logits + reference * vocab;
    const float x_lse = stats[row * 2 + 1], y_lse = stats[reference * 2 + 1];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
        const double d = (double)(expf(x[i] - x_lse) - expf(y[i] - y_lse));
        sum = fma(d, d, sum);
    }
    sum = group_sum(sum);
    if (threadIdx.x == 0) out[row] = (float)sqrt(sum);
}

// 2 artanh v for v in [0, 1/3], which equals ln(1 + u) for v = u / (2 + u).
__device__ __forceinline__ float twice_artanh(float v) {
    const float w = v * v, w2 = w * w;
    const float first = fmaf(w, 1.0f / 3.0f, 1.0f);
    const float second = fmaf(w, 1.0f / 7.0f, 0.2f);
    const float third = fmaf(w, 1.0f / 11.0f, 1.0f / 9.0f);
    const float fourth = fmaf(w, 1.0f / 15.0f, 1.0f / 13.0f);
    return 2.0f * v * fmaf(w2, fmaf(w2, fmaf(w2, fourth, third), second), first);
}

// p (ln p - ln m) + q (ln q - ln m) with m = (p + q) / 2: twice the term of the Jensen-Shannon divergence.
// `gap` is ln p - ln q.
__device__ __forceinline__ float jsd_term(float p, float q, float gap) {
    if (p == 0.0f || q == 0.0f) return (p + q) * 0.69314718f;
    if (fabsf(gap) < 0.5f) {
        // With t = (p - q) / (p + q) it is (p + q) ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2, and nothing
        // cancels in the series of that.
        const float t = tanhf(0.5f * gap), w = t * t;
        const float series = fmaf(w, fmaf(w, fmaf(w, fmaf(w, 1.0f / 90.0f, 1.0f / 56.0f), 1.0f / 30.0f), 1.0f / 12.0f), 0.5f);
        return (p + q) * w * series;
    }
    // With u the smaller probability divided by the larger one it is
    // (p + q) (ln 2 - ln(1 + u)) - smaller |ln p - ln q|.
    const float less = p > q ? q : p, more = p > q ? p : q;
    const float even = 0.69314718f - twice_artanh(less / fmaf(2.0f, more, less));
    return fmaf(p + q, even, -(less * fabsf(gap)));
}

// p (ln p - ln q) - p + q, which is never negative and sums to KL(p || q). `gap` is ln p - ln q.
__device__ __forceinline__ float kl_term(float p, float q, float gap) {
    if (p == 0.0f) return q;
    if (!(fabsf(gap) < 0.5f)) return fmaf(p, gap, q - p);
    // q (e^g (g - 1) + 1), of which nothing cancels in the series.
    const float g = gap;
    const float high = fmaf(g, fmaf(g, fmaf(g, 1.0f / 45360.0f, 1.0f / 5760.0f), 1.0f / 840.0f), 1.0f / 144.0f);
    const float low = fmaf(g, fmaf(g, fmaf(g, fmaf(g, high, 1.0f / 30.0f), 0.125f), 1.0f / 3.0f), 0.5f);
    return q * (g * g) * low;
}

// Rounding may give a divergence below zero; NaN must stay NaN.
__device__ __forceinline__ float least_zero(double x) { return x < 0.0 ? 0.0f : (float)x; }

KERNEL(divergences)(const float* logits, const float* stats, float* out, Params p) {
    ROW(row);
    const size_t vocab = p.v[1], levels = p.v[2], reference = row / levels * levels + levels - 1;
    const float *x = logits + row * vocab, *y = logits + reference * vocab;
    const float x_lse = stats[row * 2 + 1], y_lse = stats[reference * 2 + 1];
    // Sums of p, q, p ln p, the terms of both KL divergences, and twice the JSD in nats.
    double sums[6] = {};
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
        const float log_p = x[i] - x_lse, log_q = y[i] - y_lse;
        // In this order the first difference is exact where the logits are close.
        const float gap = (x[i] - y[i]) - (x_lse - y_lse);
        const float p_i = expf(log_p), q_i = expf(log_q);
        // Tokens of probability zero in both rows add nothing, even where the gap is not a number.
        if (p_i == 0.0f && q_i == 0.0f) continue;
        sums[0] += (double)p_i;
        sums[1] += (double)q_i;
        if (p_i != 0.0f) sums[2] = fma((double)p_i, (double)log_p, sums[2]);
        sums[3] += (double)kl_term(p_i, q_i, gap);
        sums[4] += (double)kl_term(q_i, p_i, -gap);
        sums[5] += (double)jsd_term(p_i, q_i, gap);
    }
    group_sums(sums);
    if (threadIdx.x != 0) return;
    // The normalisers were rounded to single precision, so p and q sum to 1 only nearly; the logarithms of their
    // sums are what was lost. The gaps are wrong by their difference, to which the terms are corrected.
    const double x_rest = log(sums[0]), y_rest = log(sums[1]), shift = x_rest - y_rest;
    const double kl = sums[3] / sums[1], reverse = sums[4] / sums[0];
    float* to = out + row * 4;
    to[0] = least_zero(kl * (1.0 - shift) - 0.5 * shift * shift);
    to[1] = least_zero(reverse * (1.0 + shift) - 0.5 * shift * shift);
    to[2] = least_zero(0.5 * sums[5] / 0.693147180559945309);
    to[3] = least_zero(x_rest - sums[2] / sums[0]);
}

#define TOP 5

// Orders logits as unsigned integers, ties by the lower index; NaN counts as the smallest. Zero is less
// than every key, and its index is that of a missing token.
__device__ __forceinline__ u64 top_key(float x, u32 index) {
    if (x != x) x = -infinity();
    const u32 bits = __float_as_uint(x + 0.0f);
    const u32 order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)order << 32 | (u32)~index;
}

__device__ __forceinline__ u64 group_max_key(u64 x) {
    __shared__ u64 parts[THREADS / WARP];
    __syncthreads();
    for (int step = WARP / 2; step > 0; step /= 2) {
        const u64 other = __shfl_xor_sync(ALL_LANES, x, step);
        x = other > x ? other : x;
    }
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = parts[0];
    for (int w = 1; w < THREADS / WARP; w++) x = parts[w] > x ? parts[w] : x;
    return x;
}

KERNEL(top)(const float* logits, u32* out, Params p) {
    ROW(row);
    const size_t vocab = p.v[1];
    logits += row * vocab;
    // The largest of each thread, in order.
    u64 best[TOP] = {};
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
        u64 key = top_key(logits[i], i);
        if (key < best[TOP - 1]) continue;
        for (int t = 0; t < TOP; t++) {
            const u64 less = key < best[t] ? key : best[t];
            best[t] = key < best[t] ? best[t] : key;
            key = less;
        }
    }
    for (int t = 0; t < TOP; t++) {
        const u64 key = group_max_key(best[0]);
        if (threadIdx.x == 0) out[row * TOP + t] = ~(u32)key;
        if (best[0] == key) {
            for (int s = 1; s < TOP; s++) best[s - 1] = best[s];
            best[TOP - 1] = 0;
        }
    }
}

KERNEL(probability_backward)(const float* stats, const u32* tokens, float* logits, Params p) {
    ROW(row);
    const size_t vocab = p.v[1];
    const bool has_cap = p.v[2];
    const float cap = parameter_float(p.v[3]), lse = stats[row * 2 + 1];
    logits += row * vocab;
    const u32 token = tokens[row];
    const float probability = expf(logits[token] - lse);
    // 1 - p is summed from the other probabilities, which is accurate where p is close to 1.
    double others = 0.0;
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
        if (i != token) others += (double)expf(logits[i] - lse);
    }
    const float rest = (float)group_sum(others);
    for (u32 i = threadIdx.x; i < vocab; i += THREADS) {
        const float y = logits[i], d = probability * (i == token ? rest : -expf(y - lse));
        // With t = y / cap the slope is 1 - t^2; this form stays accurate near t = 1.
        const float t = y / cap;
        logits[i] = has_cap ? d * ((1.0f - t) * (1.0f + t)) : d;
    }
}
