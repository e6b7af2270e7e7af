// Attention and its backward pass. Each warp owns some rows of one head and keeps their sums in registers,
// while tiles of the other side (keys and values, or queries and gradients) pass through shared memory, one or
// two rows of the tile per lane.
//
// Tiles start at multiples of their size counted from position 0. What lies outside of a row's view gets a
// weight of exactly zero, so the bits of a row do not depend on the rows beside it.
//
// HEAD is the width of a head rounded up to a multiple of 32.

#define OWN_ROWS 16
// One float4 more per row keeps the lanes of a warp, which read different rows, on different banks.
#define PITCH (HEAD + 4)
// Columns of a head per lane.
#define LANE_COLUMNS (HEAD / WARP)
// GROUPS groups at least run on a multiprocessor at a time: a limit on registers that needs no spills.
#define ATTENTION(name, COUNT, GROUPS) extern "C" __global__ void __launch_bounds__(COUNT, GROUPS) fathom_##name

// Where the rows of a tile lie; null for rows that do not exist.
struct Contiguous {
    const float* first;
    size_t stride;
    u32 count;
    __device__ const float* operator()(u32 row) const { return row < count ? first + row * stride : nullptr; }
};

struct Scattered {
    const float* const* places;
    size_t shift;
    __device__ const float* operator()(u32 row) const {
        return places[row] ? places[row] + shift : nullptr;
    }
};

// Copies `rows` rows of a head to shared memory, padded with zeros.
template <typename Source>
__device__ __forceinline__ void load_rows(float* to, u32 pitch, u32 rows, u32 head_dim, bool aligned, Source source) {
    const u32 quads = HEAD / 4;
    for (u32 i = threadIdx.x; i < rows * quads; i += blockDim.x) {
        const u32 row = i / quads, column = i % quads * 4;
        const float* from = source(row);
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (from && aligned && column < head_dim) {
            x = *(const float4*)(from + column);
        } else if (from) {
            if (column < head_dim) x.x = from[column];
            if (column + 1 < head_dim) x.y = from[column + 1];
            if (column + 2 < head_dim) x.z = from[column + 2];
            if (column + 3 < head_dim) x.w = from[column + 3];
        }
        *(float4*)(to + row * pitch + column) = x;
    }
}

// Dot products of a warp's R rows with those rows of a tile that belong to the lane.
template <int R, int ROWS>
__device__ __forceinline__ void dots(const float* own, const float* tile, float (&s)[R][ROWS]) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int j = 0; j < ROWS; j++) s[r][j] = 0.0f;
    }
#pragma unroll 2
    for (int d = 0; d < HEAD; d += 4) {
        float4 y[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) y[j] = *(const float4*)(tile + (lane + j * WARP) * PITCH + d);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float4 x = *(const float4*)(own + r * HEAD + d);
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                s[r][j] = fmaf(x.x, y[j].x, s[r][j]);
                s[r][j] = fmaf(x.y, y[j].y, s[r][j]);
                s[r][j] = fmaf(x.z, y[j].z, s[r][j]);
                s[r][j] = fmaf(x.w, y[j].w, s[r][j]);
            }
        }
    }
}

// A position that no text reaches.
#define FAR (1 << 30)

// The part of a tile that each of a warp's R rows sees: rows of the tile from low + r to high + r, and less than
// end. Only the first `live` of the R rows exist.
template <int R>
struct View {
    int low, high, end, live;
    __device__ __forceinline__ bool sees(int r, int row) const {
        return r < live && row >= low + r && row < high + r && row < end;
    }
    // Whether all rows see the whole tile, or none sees any of it.
    __device__ __forceinline__ bool whole(int rows) const {
        return live == R && low + R - 1 <= 0 && high >= rows && end >= rows;
    }
    __device__ __forceinline__ bool nothing(int rows) const {
        return live <= 0 || low >= rows || high + live - 1 <= 0 || end <= 0;
    }
};

// Adds the rows of a tile, weighted, to the sums of a warp's R rows. Where all rows see the WHOLE tile nothing
// needs to be compared. Elsewhere a weight of zero is not enough: zero times NaN is NaN.
template <bool WHOLE, int ROWS, int R>
__device__ __forceinline__ void mix_part(const float* weights, const float* tile, const View<R>& view,
                                         float (&sums)[R][LANE_COLUMNS]) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll 1
    for (int j = 0; j < ROWS; j += 4) {
        float4 w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = *(const float4*)(weights + r * (ROWS + 4) + j);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float* row = tile + (j + i) * PITCH + lane;
            float v[LANE_COLUMNS];
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; c++) v[c] = row[c * WARP];
#pragma unroll
            for (int r = 0; r < R; r++) {
                const float weight = i == 0 ? w[r].x : i == 1 ? w[r].y : i == 2 ? w[r].z : w[r].w;
                if (!WHOLE && !view.sees(r, j + i)) continue;
#pragma unroll
                for (int c = 0; c < LANE_COLUMNS; c++) sums[r][c] = fmaf(weight, v[c], sums[r][c]);
            }
        }
    }
}

template <int ROWS, int R>
__device__ __forceinline__ void mix(const float* weights, const float* tile, const View<R>& view,
                                    float (&sums)[R][LANE_COLUMNS]) {
    if (view.whole(ROWS)) {
        mix_part<true, ROWS>(weights, tile, view, sums);
    } else {
        mix_part<false, ROWS>(weights, tile, view, sums);
    }
}

// The score of a dot product without what depends on positions, and its slope with respect to the product.
__device__ __forceinline__ float2 score(float dot, float scale, bool has_cap, float cap) {
    dot *= scale;
    if (!has_cap) return make_float2(dot, scale);
    const float t = tanhf(dot / cap);
    return make_float2(cap * t, scale * ((1.0f - t) * (1.0f + t)));
}

// The slope of a head by which scores depend on distances; zero without one.
__device__ __forceinline__ float slope_of(const float* slopes, u32 has_slopes, u32 head) {
    return has_slopes ? slopes[head] : 0.0f;
}

__device__ __forceinline__ float to_bf16(float x) {
    const u32 bits = __float_as_uint(x);
    return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u);
}

// What is added to the score of a query and a key by a head of this slope.
__device__ __forceinline__ float by_positions(u32 has_slopes, float slope, float scale, int query, int key) {
    if (has_slopes == 2) return scale * to_bf16(slope * to_bf16((float)key));
    return slope * (float)(key - query);
}

__device__ __forceinline__ int max_of(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ int first_seen(int position, u32 window) {
    return window != 0 && (u32)position + 1 > window ? position + 1 - (int)window : 0;
}

// One past the last position that a position of a text sees.
__device__ __forceinline__ int end_seen(int position, u32 ahead, int length) {
    return min_of(position + 1 + (int)ahead, length);
}

// What e^x is taken of minus the maximum; a maximum over nothing counts as zero.
__device__ __forceinline__ float finite_or_zero(float max) { return max == -infinity() ? 0.0f : max; }

#if HEAD <= 128
#define KEYS 64
#define MOST_SLOTS 4
#else
#define KEYS 32
#define MOST_SLOTS 2
#endif
#define LANE_KEYS (KEYS / WARP)
// Rows of a warp in the forward pass: as many as registers hold.
#if HEAD <= 256
#define ROWS 8
#else
#define ROWS 4
#endif
// Threads that compute the rows of one tile and head.
#define SLOT_THREADS (OWN_ROWS / ROWS * WARP)

// Two neighbouring tiles of one or two heads that share keys: slots of a group. Slots of one run take the same
// keys at a time. Parameters beyond those of the table: tiles, heads of a group.
ATTENTION(attention, MOST_SLOTS * SLOT_THREADS, HEAD <= 128 ? 2 : 1)(const float* qkv, const float* cache, const u32* tiles,
                                                   const u32* segments, const float* sinks,
                                                   const float* slopes, float* out, Params p) {
    extern __shared__ float4 shared[];
    __shared__ const float* places[KEYS];
    const u32 heads = p.v[1], kv_heads = p.v[2], head_dim = p.v[3], window = p.v[8], ahead = p.v[9];
    const size_t stride = p.v[4], cache_stride = p.v[12];
    const float scale = parameter_float(p.v[5]), cap = parameter_float(p.v[7]);
    const bool has_cap = p.v[6], has_sinks = p.v[10];
    const u32 count = p.v[13], group_heads = p.v[14], slots = 2 * group_heads, columns = heads / group_heads;
    float* own = (float*)shared;
    float* tile = own + slots * OWN_ROWS * HEAD;
    float* weights = tile + KEYS * PITCH;

    const u32 slot = threadIdx.x / SLOT_THREADS, lane = threadIdx.x % WARP;
    // Long runs come last in a table of tiles, and take longest; they start first.
    const u32 pair = (count + 1) / 2 - 1 - blockIdx.x / columns;
    const u32 head = blockIdx.x % columns * group_heads + slot % group_heads;
    const u32 kv_head = head / (heads / kv_heads);
    const float slope = slope_of(slopes, p.v[11], head);
    const u32 *left = tiles + (size_t)pair * 12, *right = pair * 2 + 1 < count ? left + 6 : left;
    const bool single = left == right, same_run = !single && left[3] == right[3] && left[4] == right[4];
    const u32* entry = slot < group_heads ? left : right;
    const u32 row = entry[0], rows = single && slot >= group_heads ? 0 : entry[1];
    const int first = entry[2];
    const u32 own_row = threadIdx.x % SLOT_THREADS / WARP * ROWS;
    const bool aligned = head_dim % 4 == 0 && stride % 4 == 0 && cache_stride % 4 == 0;
    for (u32 s = 0; s < slots; s++) {
        const u32* of = s < group_heads ? left : right;
        const u32 at = blockIdx.x % columns * group_heads + s % group_heads;
        const Contiguous queries = {qkv + of[0] * stride + at * head_dim, stride, of[1]};
        load_rows(own + s * OWN_ROWS * HEAD, HEAD, OWN_ROWS, head_dim, aligned, queries);
    }
    own += (slot * OWN_ROWS + own_row) * HEAD;
    weights += (slot * OWN_ROWS + own_row) * (KEYS + 4);

    float max[ROWS], sum[ROWS], mixed[ROWS][LANE_COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        max[r] = has_sinks ? sinks[head] : -infinity();
        // Lanes have parts of the sum.
        sum[r] = has_sinks && lane == 0 ? 1.0f : 0.0f;
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; c++) mixed[r][c] = 0.0f;
    }

    // Tiles of different runs take turns.
    for (u32 turn = 0; turn < (single || same_run ? 1 : 2); turn++) {
        const u32* from_tile = turn == 0 ? left : right;
        const u32* to_tile = same_run ? right : from_tile;
        const bool active = same_run || single || (slot >= group_heads) == (turn == 1);
        const int length = from_tile[5];
        const int last = max_of((int)(from_tile[2] + from_tile[1]), (int)(to_tile[2] + to_tile[1])) - 1;
        const int end = end_seen(last, ahead, length);
        const u32 end_segment = from_tile[4];
        u32 segment = from_tile[3];
        const int low = min_of(first_seen(from_tile[2], window), first_seen(to_tile[2], window));
        for (int start = low / KEYS * KEYS; start < end; start += KEYS) {
            __syncthreads();
            if (threadIdx.x < KEYS) {
                const u32 position = start + threadIdx.x;
                while (segment + 1 < end_segment && segments[(segment + 1) * 3] <= position) segment++;
                const u32* from = segments + (size_t)segment * 3;
                const size_t at = (size_t)from[2] + (position - from[0]);
                const float* key = from[1] ? cache + at * cache_stride + kv_head * head_dim
                                           : qkv + at * stride + (heads + kv_head) * head_dim;
                places[threadIdx.x] = position < (u32)end ? key : nullptr;
            }
            __syncthreads();
            const Scattered keys = {places, 0}, values = {places, (size_t)kv_heads * head_dim};
            load_rows(tile, PITCH, KEYS, head_dim, aligned, keys);
            __syncthreads();
            const int position = first + (int)own_row - start;
            const View<ROWS> view = {window && window < FAR ? position + 1 - (int)window : -FAR,
                                     position + 1 + (int)ahead, length - start,
                                     active ? (int)rows - (int)own_row : 0};
            const bool any = !view.nothing(KEYS);
            if (any) {
                float s[ROWS][LANE_KEYS];
                dots(own, tile, s);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    float most = max[r];
#pragma unroll
                    for (int j = 0; j < LANE_KEYS; j++) {
                        const bool seen = view.sees(r, lane + j * WARP);
                        const int key = start + (int)(lane + j * WARP);
                        const float added = by_positions(p.v[11], slope, scale, start + position + r, key);
                        s[r][j] = seen ? score(s[r][j], scale, has_cap, cap).x + added : -infinity();
                        most = larger(most, s[r][j]);
                    }
                    most = warp_max(most);
                    const float shift = finite_or_zero(most), factor = expf(max[r] - shift);
                    max[r] = most;
                    sum[r] *= factor;
#pragma unroll
                    for (int j = 0; j < LANE_KEYS; j++) {
                        const float w = expf(s[r][j] - shift);
                        sum[r] += w;
                        weights[r * (KEYS + 4) + lane + j * WARP] = w;
                    }
#pragma unroll
                    for (int c = 0; c < LANE_COLUMNS; c++) mixed[r][c] *= factor;
                }
            }
            __syncthreads();
            load_rows(tile, PITCH, KEYS, head_dim, aligned, values);
            __syncthreads();
            if (any) mix<KEYS>(weights, tile, view, mixed);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float total = warp_sum(sum[r]);
        if (own_row + r >= rows) continue;
        float* to = out + ((row + own_row + r) * (size_t)heads + head) * head_dim;
        for (int c = 0; c < LANE_COLUMNS; c++) {
            const u32 column = lane + c * WARP;
            if (column < head_dim) to[column] = mixed[r][c] / total;
        }
    }
}

// The backward pass, over whole texts. A group takes two neighbouring tiles: together where one continues the
// other, else one after the other. Parameters beyond those of the table: tiles.

#define GROUP_WARPS 4
#define GROUP_THREADS (GROUP_WARPS * WARP)
// Rows of a group.
#if HEAD <= 128
#define GROUP_ROWS (2 * OWN_ROWS)
#else
#define GROUP_ROWS OWN_ROWS
#endif
#define WARP_ROWS (GROUP_ROWS / GROUP_WARPS)

// What the kernels of the backward pass have in common.
struct Backward {
    u32 heads, kv_heads, head_dim, window, ahead, row, rows, text, count, own_row, unit_head;
    size_t stride;
    float scale, cap;
    u32 has_slopes;
    bool has_cap, aligned, has_sinks;
    const u32 *left, *right;

    __device__ __forceinline__ Backward(const u32* tiles, u32 pair, u32 head, const Params& p) {
        heads = p.v[1], kv_heads = p.v[2], head_dim = p.v[3], window = p.v[8], ahead = p.v[9];
        stride = p.v[4];
        scale = parameter_float(p.v[5]), cap = parameter_float(p.v[7]);
        has_cap = p.v[6], has_sinks = p.v[10], has_slopes = p.v[11];
        aligned = head_dim % 4 == 0 && stride % 4 == 0;
        unit_head = head;
        own_row = threadIdx.x / WARP * WARP_ROWS;
        left = tiles + (size_t)pair * 8;
        right = pair * 2 + 1 < p.v[12] ? left + 4 : nullptr;
        take(left);
        if (GROUP_ROWS > OWN_ROWS && right && right[2] == text && right[0] == row + rows) {
            rows += right[1];
            right = nullptr;
        }
    }

    __device__ __forceinline__ void take(const u32* entry) {
        row = entry[0], rows = entry[1], text = entry[2], count = entry[3] - entry[2];
    }

    // Goes on with the second tile, if it is still to be done.
    __device__ __forceinline__ bool next() {
        if (!right) return false;
        take(right);
        right = nullptr;
        // The group is done with the rows of the first.
        __syncthreads();
        return true;
    }

    // Rows from `first` on of a head in qkv, of which `limit` at most are wanted.
    __device__ __forceinline__ Contiguous part(const float* qkv, u32 head, u32 first, u32 limit) const {
        const u32 left = text + count - first;
        return {qkv + first * stride + head * head_dim, stride, left < limit ? left : limit};
    }

    // The same in a matrix that has the query heads alone.
    __device__ __forceinline__ Contiguous output(const float* d_out, u32 head, u32 first, u32 limit) const {
        const u32 left = text + count - first;
        const size_t width = (size_t)heads * head_dim;
        return {d_out + first * width + head * head_dim, width, left < limit ? left : limit};
    }

    __device__ __forceinline__ void load_own(float* to, Contiguous rows) const {
        load_rows(to, HEAD, GROUP_ROWS, head_dim, aligned, rows);
    }

    // Dot products with the rows of a tile, which is loaded first.
    __device__ __forceinline__ void dots_with(const float* own, float* tile, Contiguous rows,
                                              float (&s)[WARP_ROWS][LANE_KEYS]) const {
        __syncthreads();
        load_rows(tile, PITCH, KEYS, head_dim, aligned, rows);
        __syncthreads();
        dots(own + own_row * HEAD, tile, s);
    }

    // The keys from position `start` on that the warp's queries see.
    __device__ __forceinline__ View<WARP_ROWS> keys_seen(int start) const {
        const int position = (int)(row - text + own_row) - start;
        return {window && window < FAR ? position + 1 - (int)window : -FAR, position + 1 + (int)ahead,
                (int)count - start, (int)rows - (int)own_row};
    }

    // The queries from position `start` on that see the warp's keys.
    __device__ __forceinline__ View<WARP_ROWS> queries_seeing(int start) const {
        const int position = (int)(row - text + own_row) - start;
        return {position - (int)ahead, window && window < FAR ? position + (int)window : FAR, (int)count - start,
                (int)rows - (int)own_row};
    }

    // The position of row `r` of the warp in its text.
    __device__ __forceinline__ int position(int r) const { return (int)(row - text + own_row) + r; }

    __device__ __forceinline__ float added(float slope, int query, int key) const {
        return by_positions(has_slopes, slope, scale, query, key);
    }

    // The first tile of keys that a query of the group sees.
    __device__ __forceinline__ int first_tile() const {
        return first_seen(row - text, window) / KEYS * KEYS;
    }

    // Beyond the last key that a query of the group sees.
    __device__ __forceinline__ int end_of_keys() const {
        return end_seen(row - text + rows - 1, ahead, count);
    }

    // The first query that sees a key of the group.
    __device__ __forceinline__ u32 first_query() const {
        const u32 first = row - text;
        return first > ahead ? first - ahead : 0;
    }

    __device__ __forceinline__ void store(float* to, u32 head, const float (&sums)[WARP_ROWS][LANE_COLUMNS]) const {
        const u32 lane = threadIdx.x % WARP;
        to += row * stride + head * head_dim;
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            if (own_row + r >= rows) continue;
            for (int c = 0; c < LANE_COLUMNS; c++) {
                const u32 column = lane + c * WARP;
                if (column < head_dim) to[(own_row + r) * stride + column] = sums[r][c];
            }
        }
    }
};

// The pair of tiles of a group where the last take longest and start first.
__device__ __forceinline__ u32 pair_from_the_end(u32 tiles, u32 units) {
    return (tiles + 1) / 2 - 1 - blockIdx.x / units;
}

// Per row and head: the largest score m, the sum of e^(score - m), and the mean gradient of the weights.
ATTENTION(attention_stats, GROUP_THREADS, 2)(const float* qkv, const float* d_out, const u32* tiles,
                                             const float* sinks, const float* slopes, float* stats, Params p) {
    extern __shared__ float4 shared[];
    float* queries = (float*)shared;
    float* d_rows = queries + GROUP_ROWS * HEAD;
    float* tile = d_rows + GROUP_ROWS * HEAD;
    Backward b(tiles, pair_from_the_end(p.v[12], p.v[1]), blockIdx.x % p.v[1], p);
    const u32 head = b.unit_head, kv_head = head / (b.heads / b.kv_heads), lane = threadIdx.x % WARP;
    do {
        b.load_own(queries, b.part(qkv, head, b.row, b.rows));
        b.load_own(d_rows, b.output(d_out, head, b.row, b.rows));
        float max[WARP_ROWS];
        // Both sums use the same weights, so rounding of the weights hardly moves the mean.
        double sum[WARP_ROWS] = {}, d_sum[WARP_ROWS] = {};
        const float slope = slope_of(slopes, b.has_slopes, head);
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            max[r] = b.has_sinks ? sinks[head] : -infinity();
            // Lanes have parts of the sum.
            if (b.has_sinks && lane == 0) sum[r] = 1.0;
        }
        const int end = b.end_of_keys();
        for (int start = b.first_tile(); start < end; start += KEYS) {
            float s[WARP_ROWS][LANE_KEYS], d[WARP_ROWS][LANE_KEYS];
            b.dots_with(queries, tile, b.part(qkv, b.heads + kv_head, b.text + start, KEYS), s);
            b.dots_with(d_rows, tile, b.part(qkv, b.heads + b.kv_heads + kv_head, b.text + start, KEYS), d);
            const View<WARP_ROWS> view = b.keys_seen(start);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) {
                float most = max[r];
#pragma unroll
                for (int j = 0; j < LANE_KEYS; j++) {
                    const bool seen = view.sees(r, lane + j * WARP);
                    const float added = b.added(slope, b.position(r), start + (int)(lane + j * WARP));
                    s[r][j] = seen ? score(s[r][j], b.scale, b.has_cap, b.cap).x + added : -infinity();
                    most = larger(most, s[r][j]);
                }
                most = warp_max(most);
                const float shift = finite_or_zero(most), factor = expf(max[r] - shift);
                max[r] = most;
                sum[r] *= (double)factor;
                d_sum[r] *= (double)factor;
#pragma unroll
                for (int j = 0; j < LANE_KEYS; j++) {
                    if (!view.sees(r, lane + j * WARP)) continue;
                    const double w = (double)expf(s[r][j] - shift);
                    sum[r] += w;
                    d_sum[r] = fma(w, (double)d[r][j], d_sum[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            const double total = warp_sum(sum[r]), d_total = warp_sum(d_sum[r]);
            if (b.own_row + r >= b.rows || lane != 0) continue;
            float* to = stats + ((b.row + b.own_row + r) * (size_t)b.heads + head) * 3;
            to[0] = max[r];
            to[1] = (float)total;
            to[2] = (float)(d_total / total);
        }
    } while (b.next());
}

// The weight of a query and a key, and the gradient of their dot product. `added` is what depends on their positions.
__device__ __forceinline__ float2 weigh(const Backward& b, const float* stats, float dot, float added,
                                        float d_weight) {
    const float2 s = score(dot, b.scale, b.has_cap, b.cap);
    const float w = expf(s.x + added - stats[0]) / stats[1];
    return make_float2(w, w * (d_weight - stats[2]) * s.y);
}

ATTENTION(attention_dq, GROUP_THREADS, 2)(const float* qkv, const float* d_out, const u32* tiles,
                                          const float* slopes, const float* stats, float* d_qkv, Params p) {
    extern __shared__ float4 shared[];
    float* queries = (float*)shared;
    float* d_rows = queries + GROUP_ROWS * HEAD;
    float* tile = d_rows + GROUP_ROWS * HEAD;
    Backward b(tiles, pair_from_the_end(p.v[12], p.v[1]), blockIdx.x % p.v[1], p);
    float* weights = tile + KEYS * PITCH + b.own_row * (KEYS + 4);
    const u32 head = b.unit_head, kv_head = head / (b.heads / b.kv_heads), lane = threadIdx.x % WARP;
    do {
        b.load_own(queries, b.part(qkv, head, b.row, b.rows));
        b.load_own(d_rows, b.output(d_out, head, b.row, b.rows));
        const float* of_row = stats + ((b.row + b.own_row) * (size_t)b.heads + head) * 3;
        const float slope = slope_of(slopes, b.has_slopes, head);
        float sums[WARP_ROWS][LANE_COLUMNS] = {};
        const int end = b.end_of_keys();
        for (int start = b.first_tile(); start < end; start += KEYS) {
            float s[WARP_ROWS][LANE_KEYS], d[WARP_ROWS][LANE_KEYS];
            b.dots_with(d_rows, tile, b.part(qkv, b.heads + b.kv_heads + kv_head, b.text + start, KEYS), d);
            b.dots_with(queries, tile, b.part(qkv, b.heads + kv_head, b.text + start, KEYS), s);
            const View<WARP_ROWS> view = b.keys_seen(start);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
                for (int j = 0; j < LANE_KEYS; j++) {
                    float gradient = 0.0f;
                    if (view.sees(r, lane + j * WARP)) {
                        const float added = b.added(slope, b.position(r), start + (int)(lane + j * WARP));
                        gradient = weigh(b, of_row + (size_t)r * b.heads * 3, s[r][j], added, d[r][j]).y;
                    }
                    weights[r * (KEYS + 4) + lane + j * WARP] = gradient;
                }
            }
            __syncwarp();
            mix<KEYS>(weights, tile, view, sums);
        }
        b.store(d_qkv, head, sums);
    } while (b.next());
}

ATTENTION(attention_dkv, GROUP_THREADS, 2)(const float* qkv, const float* d_out, const u32* tiles,
                                           const float* slopes, const float* stats, float* d_qkv, Params p) {
    extern __shared__ float4 shared[];
    float* keys = (float*)shared;
    float* values = keys + GROUP_ROWS * HEAD;
    float* tile = values + GROUP_ROWS * HEAD;
    Backward b(tiles, blockIdx.x / p.v[2], blockIdx.x % p.v[2], p);
    float* weights = tile + KEYS * PITCH + b.own_row * (KEYS + 4);
    const u32 kv_head = b.unit_head, group = b.heads / b.kv_heads, lane = threadIdx.x % WARP;
    const u32 key_head = b.heads + kv_head, value_head = key_head + b.kv_heads;
    do {
        b.load_own(keys, b.part(qkv, key_head, b.row, b.rows));
        b.load_own(values, b.part(qkv, value_head, b.row, b.rows));
        float d_keys[WARP_ROWS][LANE_COLUMNS] = {}, d_values[WARP_ROWS][LANE_COLUMNS] = {};
        const u32 first = b.row - b.text;
        // Beyond the last query that sees the last key.
        u32 end = b.count;
        if (b.window != 0 && b.window < end && first + b.rows - 1 + b.window < end) {
            end = first + b.rows - 1 + b.window;
        }
        for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
            const float slope = slope_of(slopes, b.has_slopes, head);
            for (u32 start = b.first_query() / KEYS * KEYS; start < end; start += KEYS) {
                const Contiguous queries = b.part(qkv, head, b.text + start, KEYS);
                float s[WARP_ROWS][LANE_KEYS], d[WARP_ROWS][LANE_KEYS];
                b.dots_with(keys, tile, queries, s);
                b.dots_with(values, tile, b.output(d_out, head, b.text + start, KEYS), d);
                const View<WARP_ROWS> view = b.queries_seeing(start);
                const float* of_query = stats + ((b.text + start + lane) * (size_t)b.heads + head) * 3;
#pragma unroll
                for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
                    for (int j = 0; j < LANE_KEYS; j++) {
                        float2 w = make_float2(0.0f, 0.0f);
                        if (view.sees(r, lane + j * WARP)) {
                            const float added = b.added(slope, start + lane + j * WARP, b.position(r));
                            w = weigh(b, of_query + (size_t)j * WARP * b.heads * 3, s[r][j], added, d[r][j]);
                        }
                        s[r][j] = w.y;
                        weights[r * (KEYS + 4) + lane + j * WARP] = w.x;
                    }
                }
                __syncwarp();
                mix<KEYS>(weights, tile, view, d_values);
                __syncwarp();
#pragma unroll
                for (int r = 0; r < WARP_ROWS; r++) {
#pragma unroll
                    for (int j = 0; j < LANE_KEYS; j++) weights[r * (KEYS + 4) + lane + j * WARP] = s[r][j];
                }
                __syncthreads();
                load_rows(tile, PITCH, KEYS, b.head_dim, b.aligned, queries);
                __syncthreads();
                mix<KEYS>(weights, tile, view, d_keys);
            }
        }
        b.store(d_qkv, key_head, d_keys);
        b.store(d_qkv, value_head, d_values);
    } while (b.next());
}
