// Products of floats and weights of the format STORED, in single precision.
//
// Every element of a result is one chain of fused multiply-adds in the order of the reduced dimension, so
// tiles of all shapes give the same bits and the height of a batch may choose among them.

// How far the inner loop of large tiles is unrolled, backward: as far as registers allow.
#if __CUDA_ARCH__ >= 1000
#define BACKWARD_UNROLL 2
#else
#define BACKWARD_UNROLL 8
#endif

// Where the second factor comes from: rows of weights, transposed (forward), or as they are (backward).
template <bool BACKWARD>
struct Product {
    // [m, reduced], and its rows.
    const float* a;
    Weights weights;
    u32 m, columns, reduced;

    __device__ __forceinline__ float4 left(u32 row, u32 at, bool aligned) const {
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row >= m || at >= reduced) return x;
        const float* from = a + (size_t)row * reduced + at;
        if (aligned) return *(const float4*)from;
        x.x = from[0];
        if (at + 1 < reduced) x.y = from[1];
        if (at + 2 < reduced) x.z = from[2];
        if (at + 3 < reduced) x.w = from[3];
        return x;
    }

    // Four steps of the reduced dimension of one column (forward), or four columns of one step (backward).
    __device__ __forceinline__ float4 right(u32 row, u32 at) const {
        const bool inside = BACKWARD ? row < reduced && at < columns : row < columns && at < reduced;
        return inside ? four_weights<STORED>(weights, row, at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
};

// Stores a quad along the reduced dimension in a tile that has it as its first dimension.
__device__ __forceinline__ void store_transposed(float* tile, u32 pitch, u32 step, u32 column, float4 x) {
    float* to = tile + step * pitch + column;
    to[0] = x.x;
    to[pitch] = x.y;
    to[2 * pitch] = x.z;
    to[3 * pitch] = x.w;
}

// A workgroup computes BM x BN results in steps of BK, a thread TM x TN of them in parts of four rows and
// PART columns. DEPTH steps are on their way to registers at a time: with two, workgroups that are alone on a
// multiprocessor wait less.
template <bool BACKWARD, int BM, int BN, int BK, int TM, int TN, int DEPTH>
__device__ __forceinline__ void product(const Product<BACKWARD>& q, const float* bias, float* out, u32 tiles_m) {
    constexpr int COUNT = (BM / TM) * (BN / TN);
    constexpr int PART = TN < 4 ? TN : 4;
    constexpr int LEFT = BM * BK / 4 / COUNT, RIGHT = BN * BK / 4 / COUNT;
    static_assert(LEFT * COUNT * 4 == BM * BK && RIGHT * COUNT * 4 == BN * BK, "threads must share the tiles");
    __shared__ float4 a_tiles[2][BK * (BM + 4) / 4], b_tiles[2][BK * (BN + 4) / 4];
    const u32 m0 = blockIdx.x % tiles_m * BM, n0 = blockIdx.x / tiles_m * BN;
    const u32 tx = threadIdx.x % (BN / TN), ty = threadIdx.x / (BN / TN);
    const bool aligned = q.reduced % 4 == 0;
    float4 left[DEPTH][LEFT], right[DEPTH][RIGHT];

    auto fetch = [&](u32 k0, int set) {
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            const u32 at = threadIdx.x + i * COUNT;
            left[set][i] = q.left(m0 + at / (BK / 4), k0 + at % (BK / 4) * 4, aligned);
        }
#pragma unroll
        for (int i = 0; i < RIGHT; i++) {
            const u32 at = threadIdx.x + i * COUNT;
            right[set][i] = BACKWARD ? q.right(k0 + at / (BN / 4), n0 + at % (BN / 4) * 4)
                                : q.right(n0 + at / (BK / 4), k0 + at % (BK / 4) * 4);
        }
    };
    auto store = [&](int stage, int set) {
        float *a = (float*)a_tiles[stage], *b = (float*)b_tiles[stage];
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            const u32 at = threadIdx.x + i * COUNT;
            store_transposed(a, BM + 4, at % (BK / 4) * 4, at / (BK / 4), left[set][i]);
        }
#pragma unroll
        for (int i = 0; i < RIGHT; i++) {
            const u32 at = threadIdx.x + i * COUNT;
            if (BACKWARD) {
                *(float4*)(b + at / (BN / 4) * (BN + 4) + at % (BN / 4) * 4) = right[set][i];
            } else {
                store_transposed(b, BN + 4, at % (BK / 4) * 4, at / (BK / 4), right[set][i]);
            }
        }
    };

    float sums[TM][TN] = {};
    auto multiply = [&](int stage) {
        const float *a = (const float*)a_tiles[stage], *b = (const float*)b_tiles[stage];
#pragma unroll (BACKWARD && BM == 128 ? BACKWARD_UNROLL : 8)
        for (int k = 0; k < BK; k++) {
            float x[TM], y[TN];
#pragma unroll
            for (int i = 0; i < TM; i += 4) {
                *(float4*)(x + i) = *(const float4*)(a + k * (BM + 4) + i / 4 * (BM / (TM / 4)) + ty * 4);
            }
#pragma unroll
            for (int j = 0; j < TN; j += PART) {
                const float* from = b + k * (BN + 4) + j / PART * (BN / (TN / PART)) + tx * PART;
                if (PART == 4) {
                    *(float4*)(y + j) = *(const float4*)from;
                } else {
                    for (int i = 0; i < PART; i++) y[j + i] = from[i];
                }
            }
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
            }
        }
    };

    fetch(0, 0);
    store(0, 0);
    if (DEPTH == 2) {
        fetch(BK, 0);
        fetch(2 * BK, DEPTH - 1);
    }
    __syncthreads();
    // Steps beyond the last are zeros, which change no sum.
    for (u32 k0 = 0; k0 < q.reduced; k0 += 2 * BK) {
#pragma unroll
        for (int stage = 0; stage < 2; stage++) {
            const u32 k = k0 + stage * BK;
            if (DEPTH == 1) fetch(k + BK, 0);
            multiply(stage);
            store(stage ^ 1, DEPTH == 1 ? 0 : stage);
            __syncthreads();
            if (DEPTH == 2) fetch(k + 3 * BK, DEPTH == 1 ? 0 : stage);
        }
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const u32 row = m0 + i / 4 * (BM / (TM / 4)) + ty * 4 + i % 4;
        if (row >= q.m) continue;
        float* to = out + (size_t)row * q.columns;
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const u32 column = n0 + j / PART * (BN / (TN / PART)) + tx * PART + j % PART;
            if (column < q.columns) to[column] = bias ? sums[i][j] + bias[column] : sums[i][j];
        }
    }
}

// Parameters: rows, columns of the result, reduced length, stride of the weights, columns per quantised
// block, blocks per row, bias of nibbles, tiles per column of the result.
#define PRODUCT(name, BACKWARD, BM, BN, BK, TM, TN, DEPTH)                                                       \
    extern "C" __global__ void __launch_bounds__((BM / TM) * (BN / TN), (BM) == 128 ? 2 : 1) fathom_##name(     \
        const float* a, const void* words, const float2* scales, const float* bias, float* out, Params p) {   \
        const Weights weights = {words, scales, p.v[3], p.v[4], p.v[5], (int)p.v[6]};                         \
        const Product<BACKWARD> q = {a, weights, p.v[0], p.v[1], p.v[2]};                                     \
        product<BACKWARD, BM, BN, BK, TM, TN, DEPTH>(q, bias, out, p.v[7]);                                          \
    }

PRODUCT(forward_large, false, 128, 128, 8, 8, 8, 1)
PRODUCT(forward_medium, false, 64, 64, 32, 4, 4, 1)
PRODUCT(forward_small, false, 32, 32, 64, 4, 2, 2)
PRODUCT(backward_large, true, 128, 128, 8, 8, 8, 1)
PRODUCT(backward_medium, true, 64, 64, 32, 4, 4, 1)
PRODUCT(backward_small, true, 32, 32, 64, 4, 2, 2)
