// Decoding of stored weights.

#define F32 0
#define BF16 1
#define F16 2
#define INT8 3
#define INT4 4

// A matrix of weights. Rows start at multiples of 32 elements, and what lies beyond the last column is zero.
struct Weights {
    const void* words;
    // Scale and offset of every block of a quantised row.
    const float2* scales;
    u32 stride, columns, blocks;
    int bias;
};

__device__ __forceinline__ float half_to_float(u32 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)bits));
    return x;
}

__device__ __forceinline__ float4 scaled(const Weights& w, u32 row, u32 column, float4 x) {
    const float2* scales = w.scales + (size_t)row * w.blocks;
    const u32 last = w.blocks - 1;
    // Blocks of most formats hold whole quads.
    if (w.columns % 4 == 0) {
        const float2 s = scales[column / w.columns];
        return make_float4(fmaf(x.x, s.x, s.y), fmaf(x.y, s.x, s.y), fmaf(x.z, s.x, s.y), fmaf(x.w, s.x, s.y));
    }
    const float2 a = scales[min(column / w.columns, last)], b = scales[min((column + 1) / w.columns, last)];
    const float2 c = scales[min((column + 2) / w.columns, last)], d = scales[min((column + 3) / w.columns, last)];
    return make_float4(fmaf(x.x, a.x, a.y), fmaf(x.y, b.x, b.y), fmaf(x.z, c.x, c.y), fmaf(x.w, d.x, d.y));
}

// Four weights of a row, from a column on that is a multiple of 4 and within the row.
template <int FORMAT>
__device__ __forceinline__ float4 four_weights(const Weights& w, u32 row, u32 column) {
    const size_t at = (size_t)row * w.stride + column;
    if (FORMAT == F32) return ((const float4*)w.words)[at / 4];
    if (FORMAT == BF16) {
        const uint2 x = ((const uint2*)w.words)[at / 4];
        return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
                           __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u));
    }
    if (FORMAT == F16) {
        const uint2 x = ((const uint2*)w.words)[at / 4];
        return make_float4(half_to_float(x.x & 0xffff), half_to_float(x.x >> 16), half_to_float(x.y & 0xffff),
                           half_to_float(x.y >> 16));
    }
    if (FORMAT == INT8) {
        const u32 x = ((const u32*)w.words)[at / 4];
        return scaled(w, row, column,
                      make_float4((float)(i8)x, (float)(i8)(x >> 8), (float)(i8)(x >> 16), (float)(i8)(x >> 24)));
    }
    const u32 x = ((const u16*)w.words)[at / 4];
    return scaled(w, row, column,
                  make_float4((float)((int)(x & 15) - w.bias), (float)((int)(x >> 4 & 15) - w.bias),
                              (float)((int)(x >> 8 & 15) - w.bias), (float)((int)(x >> 12) - w.bias)));
}

// Rounds two floats to bfloat16, ties to even; NaN stays NaN.
__device__ __forceinline__ u32 round_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
