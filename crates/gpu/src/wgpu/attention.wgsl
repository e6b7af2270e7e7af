//# attention_common: all of attention
// Vectors of a row of a chunk, and one to spread rows over the banks of the memory.
const PITCH: u32 = 17u;

fn first_seen(position: u32) -> u32 {
    if (p.window == 0u || position < p.window) {
        return 0u;
    }
    return position + 1u - p.window;
}

// One past the last position that a position of a text sees.
fn end_seen(position: u32, length: u32) -> u32 {
    return min(position + 1u + p.ahead, length);
}

fn to_bf16(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    return bitcast<f32>((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u);
}

// What is added to the score of a query and a key by a head of this slope.
fn by_positions(slope: f32, query: u32, key: u32) -> f32 {
    if (p.has_slopes == 2u) {
        return p.scale * to_bf16(slope * to_bf16(f32(key)));
    }
    return slope * (f32(key) - f32(query));
}

//# attention: qkv, cache, tiles:u32, segments:u32, sinks, slopes | out [units, heads, kv_heads, head_dim, stride, scale:f32, has_cap, cap:f32, window, ahead, has_sinks, has_slopes, cache_stride]
// A group computes one head of up to 16 rows. Keys and values come in blocks of 32 positions, which start
// at multiples of 32, and heads in chunks of 64 dimensions. Thread (r, t) owns keys t and t + 16 of row r, and
// dimensions 4 t to 4 t + 3 of every chunk of its output.
const ROWS: u32 = 16u;
const KEYS: u32 = 32u;
const SCORES: u32 = 33u;
const NONE: u32 = 0xffffffffu;

var<workgroup> left: array<vec4f, 272>;
var<workgroup> right: array<vec4f, 544>;
var<workgroup> weights: array<f32, 528>;
// Where the key of each position of the block starts, and in which buffer.
var<workgroup> starts: array<u32, 32>;
var<workgroup> sources: array<u32, 32>;

fn vector_of_batch(at: u32, d: u32) -> vec4f {
    var x = vec4f();
    if (d < p.head_dim) { x.x = qkv[at + d]; }
    if (d + 1u < p.head_dim) { x.y = qkv[at + d + 1u]; }
    if (d + 2u < p.head_dim) { x.z = qkv[at + d + 2u]; }
    if (d + 3u < p.head_dim) { x.w = qkv[at + d + 3u]; }
    return x;
}

fn vector_of_cache(at: u32, d: u32) -> vec4f {
    var x = vec4f();
    if (d < p.head_dim) { x.x = cache[at + d]; }
    if (d + 1u < p.head_dim) { x.y = cache[at + d + 1u]; }
    if (d + 2u < p.head_dim) { x.z = cache[at + d + 2u]; }
    if (d + 3u < p.head_dim) { x.w = cache[at + d + 3u]; }
    return x;
}

// Finds the positions `block..end` of the block in the segments.
fn locate(block: u32, end: u32, first_segment: u32, end_segment: u32, kv_head: u32, lane: u32) {
    if (lane >= KEYS) {
        return;
    }
    let position = block + lane;
    sources[lane] = NONE;
    if (position >= end) {
        return;
    }
    var segment = first_segment;
    while (segment + 1u < end_segment && segments[(segment + 1u) * 3u] <= position) {
        segment++;
    }
    let row = segments[segment * 3u + 2u] + position - segments[segment * 3u];
    let source = segments[segment * 3u + 1u];
    sources[lane] = source;
    starts[lane] = select(
        row * p.stride + (p.heads + kv_head) * p.head_dim,
        row * p.cache_stride + kv_head * p.head_dim,
        source == 1u,
    );
}

// Loads a chunk of the keys of the block, or of its values, which lie `offset` behind them.
fn fill_right(chunk: u32, offset: u32, lane: u32) {
    for (var id = lane; id < KEYS * 16u; id += 256u) {
        let key = id / 16u;
        let d = chunk * 64u + id % 16u * 4u;
        var x = vec4f();
        if (sources[key] == 0u) {
            x = vector_of_batch(starts[key] + offset, d);
        } else if (sources[key] == 1u) {
            x = vector_of_cache(starts[key] + offset, d);
        }
        right[key * PITCH + id % 16u] = x;
    }
}

// Adds the weighted values of one chunk to `sum`, for the positions of the block that the row sees.
fn mix(chunk: u32, sum: vec4f, seen: vec2u, lane: u32) -> vec4f {
    workgroupBarrier();
    fill_right(chunk, p.kv_heads * p.head_dim, lane);
    workgroupBarrier();
    var total = sum;
    for (var key = seen.x; key < seen.y; key++) {
        total = fma(vec4f(weights[lane / 16u * SCORES + key]), right[key * PITCH + lane % 16u], total);
    }
    return total;
}

fn store(row: u32, head: u32, d: u32, x: vec4f) {
    let at = (row * p.heads + head) * p.head_dim + d;
    if (d < p.head_dim) { out[at] = x.x; }
    if (d + 1u < p.head_dim) { out[at + 1u] = x.y; }
    if (d + 2u < p.head_dim) { out[at + 2u] = x.z; }
    if (d + 3u < p.head_dim) { out[at + 3u] = x.w; }
}

fn unit(i: u32, lane: u32) {
    let head = i % p.heads;
    let kv_head = head / (p.heads / p.kv_heads);
    let tile = i / p.heads * 6u;
    let first_row = tiles[tile];
    let rows = tiles[tile + 1u];
    let first = tiles[tile + 2u];
    let length = tiles[tile + 5u];
    let end = end_seen(first + rows - 1u, length);
    let r = lane / 16u;
    let t = lane % 16u;
    let position = first + r;
    let low = first_seen(position);
    let high = end_seen(position, length);
    let query = (first_row + r) * p.stride + head * p.head_dim;
    var most = LEAST;
    var norm = 0.0;
    if (p.has_sinks != 0u) {
        most = sinks[head];
        norm = 1.0;
    }
    var sum{c} = vec4f(); // each chunk
    for (var block = first_seen(first) / KEYS * KEYS; block < end; block += KEYS) {
        locate(block, end, tiles[tile + 3u], tiles[tile + 4u], kv_head, lane);
        var a = vec4f();
        var b = vec4f();
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            if (r < rows) {
                left[r * PITCH + t] = vector_of_batch(query, chunk * 64u + t * 4u);
            }
            fill_right(chunk, 0u, lane);
            workgroupBarrier();
            for (var d = 0u; d < 16u; d++) {
                let q = left[r * PITCH + d];
                a = fma(q, right[t * PITCH + d], a);
                b = fma(q, right[(t + 16u) * PITCH + d], b);
            }
        }
        var score = vec2f((a.x + a.y) + (a.z + a.w), (b.x + b.y) + (b.z + b.w)) * p.scale;
        if (p.has_cap != 0u) {
            score = vec2f(capped(p.cap, score.x), capped(p.cap, score.y));
        }
        let keys = vec2u(block + t, block + t + 16u);
        if (p.has_slopes != 0u) {
            let slope = slopes[head];
            score += vec2f(by_positions(slope, position, keys.x), by_positions(slope, position, keys.y));
        }
        let visible = (keys >= vec2u(low)) & (keys < vec2u(high)) & vec2<bool>(r < rows);
        weights[r * SCORES + t] = select(LEAST, score.x, visible.x);
        weights[r * SCORES + t + 16u] = select(LEAST, score.y, visible.y);
        workgroupBarrier();
        var now = most;
        for (var key = 0u; key < KEYS; key++) {
            now = max(now, weights[r * SCORES + key]);
        }
        workgroupBarrier();
        weights[r * SCORES + t] = select(0.0, e(score.x - now), visible.x);
        weights[r * SCORES + t + 16u] = select(0.0, e(score.y - now), visible.y);
        workgroupBarrier();
        // The part of the block that the row sees. A NaN elsewhere must not reach it.
        let seen = vec2u(max(low, block), max(min(high, block + KEYS), block)) - block;
        let shrink = e(most - now);
        var some = 0.0;
        for (var key = seen.x; key < seen.y; key++) {
            some += weights[r * SCORES + key];
        }
        norm = fma(norm, shrink, some);
        most = now;
        sum{c} = mix({c}u, sum{c} * shrink, seen, lane); // each chunk
    }
    if (r < rows) {
        store(first_row + r, head, {c}u * 64u + t * 4u, sum{c} / norm); // each chunk
    }
}
