// Products of bfloat16 matrices on tensor cores, with sums in single precision.
//
// A workgroup computes a BM x BN tile in steps of STEP, of which several are on their way to shared memory at
// a time. Every element of a result is one chain of the same instruction in the order of the reduced
// dimension, so tiles of all shapes give the same bits and the height of a batch may choose among them.

// Elements that one copy to shared memory or one row of a matrix instruction holds: 16 bytes.
#define CHUNK 8

__device__ __forceinline__ u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// Copies 16 bytes asynchronously, or writes zeros.
__device__ __forceinline__ void copy_chunk(u32 to, const u16* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void load_matrices(u32 (&x)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void load_transposed(u32 (&x)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Bytes from the start of a tile to a chunk of it. The chunks of a row are permuted such that those that one
// matrix instruction reads, of eight rows, lie on different banks.
template <int ROW_CHUNKS>
__device__ __forceinline__ u32 chunk_at(u32 row, u32 chunk) {
    static_assert(ROW_CHUNKS == 4 || ROW_CHUNKS % 8 == 0, "rows must fill the banks evenly");
    return (row * ROW_CHUNKS + (chunk ^ (ROW_CHUNKS == 4 ? row / 2 % 4 : row % 8))) * 16;
}

// A matrix in memory: rows of `stride` elements, whole chunks, of which `rows` and `columns` exist.
struct Matrix {
    const u16* at;
    size_t stride;
    u32 rows, columns;
};

// The part of a thread in copying ROWS rows of ROW_CHUNKS chunks from (row, column) on.
template <int ROWS, int ROW_CHUNKS, int COUNT>
struct Copier {
    static constexpr int STRIDE = COUNT / ROW_CHUNKS;
    static constexpr int CHUNKS = ROWS / STRIDE;
    static_assert(ROWS * ROW_CHUNKS % COUNT == 0 && COUNT % ROW_CHUNKS == 0, "threads must share the tile");
    const u16* at;
    const u16* start;
    size_t pitch;
    u32 to, first, rows, column, columns;

    __device__ __forceinline__ Copier(const Matrix& from, u32 row, u32 column_) {
        const u32 chunk = threadIdx.x % ROW_CHUNKS;
        first = row + threadIdx.x / ROW_CHUNKS;
        column = column_ + chunk * CHUNK;
        start = from.at;
        at = from.at + first * from.stride + column;
        pitch = STRIDE * from.stride;
        rows = from.rows;
        columns = from.columns;
        to = chunk_at<ROW_CHUNKS>(threadIdx.x / ROW_CHUNKS, chunk);
    }

    // Copies every PARTS-th chunk. Rows that are STRIDE apart have their chunks in the same place, because
    // STRIDE is a multiple of the period of the permutation.
    template <int PARTS>
    __device__ __forceinline__ void copy(u32 tile, int part) const {
        static_assert(STRIDE % 8 == 0, "the permutation must repeat");
        const bool inside = column < columns;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            if (i % PARTS != part) continue;
            const bool exists = inside && first + i * STRIDE < rows;
            copy_chunk(tile + to + i * STRIDE * ROW_CHUNKS * 16, exists ? at + i * pitch : start, exists);
        }
    }

    // Goes on by columns, or by rows.
    __device__ __forceinline__ void next_columns(u32 count) {
        column += count;
        at += count;
    }
    __device__ __forceinline__ void next_rows(u32 count) {
        first += count;
        at += count / STRIDE * pitch;
    }
};

// BACKWARD: the second matrix is [reduced, columns] rather than [columns, reduced].
template <bool BACKWARD, int BM, int BN, int WM, int WN, int STEP, int STAGES>
__device__ __forceinline__ void product(const Matrix& a, const Matrix& b, const float* bias, float* out,
                                        const Params& p) {
    constexpr int COUNT = (BM / WM) * (BN / WN) * WARP;
    constexpr int A_BYTES = BM * STEP * 2, B_BYTES = BN * STEP * 2;
    constexpr int ROWS = WM / 16, PAIRS = WN / 16, PARTS = STEP / 16;
    static_assert(PARTS % 2 == 0, "registers must alternate over steps");
    extern __shared__ uint4 shared[];
    const u32 tiles = shared_address(shared);
    const u32 m = p.v[0], columns = p.v[1], reduced = p.v[2], tiles_m = p.v[5], tiles_n = p.v[6];

    // Neighbouring workgroups share rows and columns, which are then in the cache.
    const u32 band = 16 * tiles_n, top = blockIdx.x / band * 16, height = min(tiles_m - top, 16u);
    const u32 m0 = (top + blockIdx.x % band % height) * BM, n0 = blockIdx.x % band / height * BN;

    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 warp_m = warp % (BM / WM) * WM, warp_n = warp / (BM / WM) * WN;

    Copier<BM, STEP / CHUNK, COUNT> left(a, m0, 0);
    Copier<BACKWARD ? STEP : BN, (BACKWARD ? BN : STEP) / CHUNK, COUNT> right(b, BACKWARD ? 0 : n0,
                                                                              BACKWARD ? n0 : 0);
    auto advance = [&]() {
        left.next_columns(STEP);
        if (BACKWARD) {
            right.next_rows(STEP);
        } else {
            right.next_columns(STEP);
        }
    };
    u32 x[2][ROWS][4], y[2][PAIRS][4];
    auto load = [&](u32 tile, int k, int to) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            load_matrices(x[to][i], tile + chunk_at<STEP / CHUNK>(warp_m + i * 16 + lane % 16, k * 2 + lane / 16));
        }
        const u32 second = tile + A_BYTES;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const u32 n = warp_n + j * 16;
            if (BACKWARD) {
                load_transposed(y[to][j], second + chunk_at<BN / CHUNK>(k * 16 + lane % 16, n / CHUNK + lane / 16));
            } else {
                load_matrices(y[to][j], second + chunk_at<STEP / CHUNK>(n + lane / 16 * 8 + lane % 8,
                                                                       k * 2 + lane / 8 % 2));
            }
        }
    };

    float sums[ROWS][PAIRS * 2][4] = {};
    const u32 steps = (reduced + STEP - 1) / STEP;
    u32 from = tiles, to = tiles;
    auto next = [&](u32 tile) {
        tile += A_BYTES + B_BYTES;
        return tile == tiles + STAGES * (A_BYTES + B_BYTES) ? tiles : tile;
    };
    // Copies beyond the last step read nothing and write zeros.
#pragma unroll 1
    for (u32 s = 0; s < STAGES - 1; s++) {
        left.template copy<1>(to, 0);
        right.template copy<1>(to + A_BYTES, 0);
        commit();
        advance();
        to = next(to);
    }
    wait_for_all_but<STAGES - 2>();
    __syncthreads();
    load(from, 0, 0);
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            // What the next matrix instructions take is loaded before these start, across steps too. A part of
            // the copies at a time does not hold them up.
            if (k + 1 < PARTS) {
                load(from, k + 1, (k + 1) % 2);
                left.template copy<PARTS - 1>(to, k);
                right.template copy<PARTS - 1>(to + A_BYTES, k);
                if (k + 2 == PARTS) commit();
            } else {
                wait_for_all_but<STAGES - 2>();
                __syncthreads();
                from = next(from);
                load(from, 0, 0);
                advance();
                to = next(to);
            }
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int j = 0; j < PAIRS; j++) {
                    multiply_add(sums[i][j * 2], x[k % 2][i], y[k % 2][j][0], y[k % 2][j][1]);
                    multiply_add(sums[i][j * 2 + 1], x[k % 2][i], y[k % 2][j][2], y[k % 2][j][3]);
                }
            }
        }
    }
    wait_for_all_but<0>();
    const bool paired = columns % 2 == 0;
#pragma unroll
    for (int i = 0; i < ROWS * 2; i++) {
        const u32 row = m0 + warp_m + i * 8 + lane / 4;
        if (row >= m) continue;
        float* line = out + (size_t)row * columns;
#pragma unroll
        for (int j = 0; j < PAIRS * 2; j++) {
            const u32 column = n0 + warp_n + j * 8 + lane % 4 * 2;
            float first = sums[i / 2][j][i % 2 * 2], second = sums[i / 2][j][i % 2 * 2 + 1];
            if (bias && column < columns) first += bias[column];
            if (bias && column + 1 < columns) second += bias[column + 1];
            if (paired && column < columns) {
                *(float2*)(line + column) = make_float2(first, second);
            } else {
                if (column < columns) line[column] = first;
                if (column + 1 < columns) line[column + 1] = second;
            }
        }
    }
}

// Parameters: rows, columns of the result, reduced length, strides of both matrices, tiles per column and row
// of the result.
#define PRODUCT(name, BACKWARD, BM, BN, WM, WN, STEP, STAGES)                                                   \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * WARP, 1) fathom_##name(                \
        const u16* left, const u16* weights, const float* bias, float* out, Params p) {                         \
        const Matrix a = {left, p.v[3], p.v[0], p.v[3]};                                                        \
        const Matrix b = {weights, p.v[4], BACKWARD ? p.v[2] : p.v[1], p.v[4]};                                 \
        product<BACKWARD, BM, BN, WM, WN, STEP, STAGES>(a, b, bias, out, p);                                    \
    }

PRODUCT(forward_huge, false, 128, 256, 64, 64, 64, HUGE_STAGES)
PRODUCT(forward_large, false, 128, 128, 64, 32, 64, 3)
PRODUCT(forward_medium, false, 64, 64, 32, 32, 64, 4)
PRODUCT(forward_small, false, 32, 32, 16, 16, 128, 5)
PRODUCT(backward_huge, true, 128, 256, 64, 64, 64, HUGE_STAGES)
PRODUCT(backward_large, true, 128, 128, 64, 32, 64, 3)
PRODUCT(backward_medium, true, 64, 64, 32, 32, 64, 4)
PRODUCT(backward_small, true, 32, 32, 16, 16, 128, 5)

// Rounds a matrix of floats to rows of `stride` elements, padded with zeros.
// Parameters: pairs of elements, pairs per row, columns.
KERNEL(round)(const float* x, u32* to, Params p) {
    ELEMENT(i);
    const u32 pairs = p.v[1], columns = p.v[2], column = i % pairs * 2;
    const float* from = x + i / pairs * columns + column;
    to[i] = round_pair(column < columns ? from[0] : 0.0f, column + 1 < columns ? from[1] : 0.0f);
}

// Decodes weights to bfloat16 in rows of the same stride.
// Parameters: quads of elements, quads per row, columns, stride, columns per quantised block, blocks per row,
// bias of nibbles.
template <int FORMAT>
__device__ __forceinline__ void decode(const void* words, const float2* scales, uint2* to, const Params& p) {
    ELEMENT(i);
    const Weights weights = {words, scales, p.v[3], p.v[4], p.v[5], (int)p.v[6]};
    const u32 row = i / p.v[1], column = i % p.v[1] * 4, columns = p.v[2];
    float4 w = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (column < columns) w = four_weights<FORMAT>(weights, row, column);
    // Zeros beyond the last column may have an offset.
    if (column + 1 >= columns) w.y = 0.0f;
    if (column + 2 >= columns) w.z = 0.0f;
    if (column + 3 >= columns) w.w = 0.0f;
    to[i] = make_uint2(round_pair(w.x, w.y), round_pair(w.z, w.w));
}

KERNEL(decode_f32)(const void* words, const float2* scales, uint2* to, Params p) { decode<F32>(words, scales, to, p); }
KERNEL(decode_f16)(const void* words, const float2* scales, uint2* to, Params p) { decode<F16>(words, scales, to, p); }
KERNEL(decode_int8)(const void* words, const float2* scales, uint2* to, Params p) { decode<INT8>(words, scales, to, p); }
KERNEL(decode_int4)(const void* words, const float2* scales, uint2* to, Params p) { decode<INT4>(words, scales, to, p); }
