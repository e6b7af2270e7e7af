//# attention_gradients: the backward pass
// A group has a tile of up to 16 rows and takes the other side in blocks of 16 positions, which start at
// multiples of 16 of the text; heads come in chunks of 64 dimensions. Thread (r, t) owns the pair of row r
// and position t of the block, and dimensions 4 t to 4 t + 3 of every chunk of its results.
const SIDE: u32 = 16u;

var<workgroup> left: array<vec4f, 272>;
var<workgroup> right: array<vec4f, 272>;
var<workgroup> ones: array<f32, 272>;
var<workgroup> others: array<f32, 272>;

fn of_qkv(row: u32, head: u32, d: u32) -> vec4f {
    let at = row * p.stride + head * p.head_dim + d;
    var x = vec4f();
    if (d < p.head_dim) { x.x = qkv[at]; }
    if (d + 1u < p.head_dim) { x.y = qkv[at + 1u]; }
    if (d + 2u < p.head_dim) { x.z = qkv[at + 2u]; }
    if (d + 3u < p.head_dim) { x.w = qkv[at + 3u]; }
    return x;
}

fn of_d_out(row: u32, head: u32, d: u32) -> vec4f {
    let at = (row * p.heads + head) * p.head_dim + d;
    var x = vec4f();
    if (d < p.head_dim) { x.x = d_out[at]; }
    if (d + 1u < p.head_dim) { x.y = d_out[at + 1u]; }
    if (d + 2u < p.head_dim) { x.z = d_out[at + 2u]; }
    if (d + 3u < p.head_dim) { x.w = d_out[at + 3u]; }
    return x;
}

// The scalar product of the pair of this thread, added to `sum` by dimension modulo 4.
fn product(sum: vec4f, lane: u32) -> vec4f {
    var total = sum;
    for (var d = 0u; d < 16u; d++) {
        total = fma(left[lane / 16u * PITCH + d], right[lane % 16u * PITCH + d], total);
    }
    return total;
}

fn across(x: vec4f) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// `q . k` and `d_out . v` of the pair of row `row` and row `other`, whose side is absent beyond its end. On
// the left are the queries and gradients of `head`, or the keys and values of `kv_head`.
fn products(row: u32, has_row: bool, other: u32, has_other: bool, head: u32, keys_left: bool, lane: u32) -> vec2f {
    let kv_head = head / (p.heads / p.kv_heads);
    let d = lane % 16u * 4u;
    let columns = vec2u(head, p.heads + kv_head);
    var score = vec4f();
    var gradient = vec4f();
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        workgroupBarrier();
        left[lane / 16u * PITCH + lane % 16u] = vec4f();
        right[lane / 16u * PITCH + lane % 16u] = vec4f();
        if (has_row) {
            left[lane / 16u * PITCH + lane % 16u] =
                of_qkv(row, select(columns.x, columns.y, keys_left), chunk * 64u + d);
        }
        if (has_other) {
            right[lane / 16u * PITCH + lane % 16u] =
                of_qkv(other, select(columns.y, columns.x, keys_left), chunk * 64u + d);
        }
        workgroupBarrier();
        score = product(score, lane);
        workgroupBarrier();
        let values = columns.y + p.kv_heads;
        if (has_row) {
            if (keys_left) {
                left[lane / 16u * PITCH + lane % 16u] = of_qkv(row, values, chunk * 64u + d);
            } else {
                left[lane / 16u * PITCH + lane % 16u] = of_d_out(row, head, chunk * 64u + d);
            }
        }
        if (has_other) {
            if (keys_left) {
                right[lane / 16u * PITCH + lane % 16u] = of_d_out(other, head, chunk * 64u + d);
            } else {
                right[lane / 16u * PITCH + lane % 16u] = of_qkv(other, values, chunk * 64u + d);
            }
        }
        workgroupBarrier();
        gradient = product(gradient, lane);
    }
    var s = across(score) * p.scale;
    if (p.has_cap != 0u) {
        s = capped(p.cap, s);
    }
    return vec2f(s, across(gradient));
}

// What is added to the score of a pair of a query and a key, by their positions.
fn slope_of(head: u32, query: u32, key: u32) -> f32 {
    if (p.has_slopes == 0u) {
        return 0.0;
    }
    return by_positions(slopes[head], query, key);
}

// The gradient of `q . k` from the score without its slope, its weight, and the gradient of the weight less its mean.
fn score_gradient(score: f32, weight: f32, gradient: f32) -> f32 {
    var d = weight * gradient * p.scale;
    if (p.has_cap != 0u) {
        d *= capped_slope(p.cap, score);
    }
    return d;
}

//# attention_stats: qkv, d_out, tiles:u32, sinks, slopes | stats [units, heads, kv_heads, head_dim, stride, scale:f32, has_cap, cap:f32, window, ahead, has_sinks, has_slopes]
fn unit(i: u32, lane: u32) {
    let head = i % p.heads;
    let tile = i / p.heads * 4u;
    let text = tiles[tile + 2u];
    let rows = tiles[tile + 1u];
    let first = tiles[tile] - text;
    let length = tiles[tile + 3u] - text;
    let end = end_seen(first + rows - 1u, length);
    let r = lane / 16u;
    let t = lane % 16u;
    let position = first + r;
    var most = LEAST;
    var norm = 0.0;
    var mean = 0.0;
    if (p.has_sinks != 0u) {
        most = sinks[head];
        norm = 1.0;
    }
    for (var block = first_seen(first) / SIDE * SIDE; block < end; block += SIDE) {
        let key = block + t;
        let loaded = block + r;
        let pair = products(text + position, r < rows, text + loaded, loaded < end, head, false, lane);
        let visible = r < rows && key < end_seen(position, length) && key >= first_seen(position);
        let score = pair.x + slope_of(head, position, key);
        ones[r * PITCH + t] = select(LEAST, score, visible);
        workgroupBarrier();
        var now = most;
        for (var j = 0u; j < SIDE; j++) {
            now = max(now, ones[r * PITCH + j]);
        }
        workgroupBarrier();
        let weight = e(score - now);
        ones[r * PITCH + t] = select(0.0, weight, visible);
        others[r * PITCH + t] = select(0.0, weight * pair.y, visible);
        workgroupBarrier();
        var some = vec2f();
        for (var j = 0u; j < SIDE; j++) {
            some += vec2f(ones[r * PITCH + j], others[r * PITCH + j]);
        }
        let shrink = e(most - now);
        norm = fma(norm, shrink, some.x);
        mean = fma(mean, shrink, some.y);
        most = now;
    }
    if (r < rows && t == 0u) {
        let at = ((text + position) * p.heads + head) * 3u;
        stats[at] = most;
        stats[at + 1u] = norm;
        stats[at + 2u] = mean / norm;
    }
}

//# attention_stores: the kernels that write gradients
fn store(row: u32, head: u32, d: u32, x: vec4f) {
    let at = row * p.stride + head * p.head_dim + d;
    if (d < p.head_dim) { d_qkv[at] = x.x; }
    if (d + 1u < p.head_dim) { d_qkv[at + 1u] = x.y; }
    if (d + 2u < p.head_dim) { d_qkv[at + 2u] = x.z; }
    if (d + 3u < p.head_dim) { d_qkv[at + 3u] = x.w; }
}

//# attention_dq: qkv, d_out, tiles:u32, slopes, stats | d_qkv [units, heads, kv_heads, head_dim, stride, scale:f32, has_cap, cap:f32, window, ahead, has_sinks, has_slopes]
fn mix(chunk: u32, sum: vec4f, text: u32, block: u32, end: u32, head: u32, seen: vec2u, lane: u32) -> vec4f {
    workgroupBarrier();
    let key = block + lane / 16u;
    if (key < end) {
        let column = p.heads + head / (p.heads / p.kv_heads);
        right[lane / 16u * PITCH + lane % 16u] = of_qkv(text + key, column, chunk * 64u + lane % 16u * 4u);
    }
    workgroupBarrier();
    var total = sum;
    for (var j = seen.x; j < seen.y; j++) {
        total = fma(vec4f(ones[lane / 16u * PITCH + j]), right[j * PITCH + lane % 16u], total);
    }
    return total;
}

fn unit(i: u32, lane: u32) {
    let head = i % p.heads;
    let tile = i / p.heads * 4u;
    let text = tiles[tile + 2u];
    let rows = tiles[tile + 1u];
    let first = tiles[tile] - text;
    let length = tiles[tile + 3u] - text;
    let end = end_seen(first + rows - 1u, length);
    let r = lane / 16u;
    let t = lane % 16u;
    let position = first + r;
    let low = first_seen(position);
    let high = end_seen(position, length);
    let at = ((text + min(position, first + rows - 1u)) * p.heads + head) * 3u;
    var sum{c} = vec4f(); // each chunk
    for (var block = first_seen(first) / SIDE * SIDE; block < end; block += SIDE) {
        let loaded = block + r;
        let pair = products(text + position, r < rows, text + loaded, loaded < end, head, false, lane);
        let visible = r < rows && block + t < high && block + t >= low;
        let score = pair.x + slope_of(head, position, block + t);
        let weight = e(score - stats[at]) / stats[at + 1u];
        ones[r * PITCH + t] = select(0.0, score_gradient(pair.x, weight, pair.y - stats[at + 2u]), visible);
        let seen = vec2u(max(low, block), max(min(high, block + SIDE), block)) - block;
        sum{c} = mix({c}u, sum{c}, text, block, end, head, seen, lane); // each chunk
    }
    if (r < rows) {
        store(text + position, head, {c}u * 64u + t * 4u, sum{c}); // each chunk
    }
}

//# attention_dkv: qkv, d_out, tiles:u32, slopes, stats | d_qkv [units, heads, kv_heads, head_dim, stride, scale:f32, has_cap, cap:f32, window, ahead, has_sinks, has_slopes]
// Adds the weighted queries of one chunk of a block, or the weighted gradients.
fn mix(chunk: u32, sum: vec4f, row: u32, has_row: bool, head: u32, gradients: bool, seen: vec2u, lane: u32) -> vec4f {
    workgroupBarrier();
    if (has_row) {
        let d = chunk * 64u + lane % 16u * 4u;
        if (gradients) {
            right[lane / 16u * PITCH + lane % 16u] = of_d_out(row, head, d);
        } else {
            right[lane / 16u * PITCH + lane % 16u] = of_qkv(row, head, d);
        }
    }
    workgroupBarrier();
    var total = sum;
    for (var j = seen.x; j < seen.y; j++) {
        let at = lane / 16u * PITCH + j;
        total = fma(vec4f(select(ones[at], others[at], gradients)), right[j * PITCH + lane % 16u], total);
    }
    return total;
}

fn unit(i: u32, lane: u32) {
    let kv_head = i % p.kv_heads;
    let group = p.heads / p.kv_heads;
    let tile = i / p.kv_heads * 4u;
    let text = tiles[tile + 2u];
    let rows = tiles[tile + 1u];
    let first = tiles[tile] - text;
    let length = tiles[tile + 3u] - text;
    let r = lane / 16u;
    let t = lane % 16u;
    let position = first + r;
    var end = length;
    var my_end = length;
    if (p.window != 0u) {
        end = min(end, first + rows - 1u + p.window);
        my_end = min(my_end, position + p.window);
    }
    // The first query that sees a key.
    let my_start = position - min(position, p.ahead);
    let start = first - min(first, p.ahead);
    var keys{c} = vec4f(); // each chunk
    var values{c} = vec4f(); // each chunk
    for (var head = kv_head * group; head < (kv_head + 1u) * group; head++) {
        for (var block = start / SIDE * SIDE; block < end; block += SIDE) {
            let loaded = block + r;
            let pair = products(text + position, r < rows, text + loaded, loaded < length, head, true, lane);
            let query = block + t;
            let visible = r < rows && query >= my_start && query < my_end;
            let at = ((text + min(query, length - 1u)) * p.heads + head) * 3u;
            let score = pair.x + slope_of(head, query, position);
            let weight = e(score - stats[at]) / stats[at + 1u];
            ones[r * PITCH + t] = select(0.0, score_gradient(pair.x, weight, pair.y - stats[at + 2u]), visible);
            others[r * PITCH + t] = select(0.0, weight, visible);
            let seen = vec2u(clamp(my_start, block, block + SIDE), max(min(my_end, block + SIDE), block)) - block;
            keys{c} = mix({c}u, keys{c}, text + loaded, loaded < length, head, false, seen, lane); // each chunk
            values{c} = mix({c}u, values{c}, text + loaded, loaded < length, head, true, seen, lane); // each chunk
        }
    }
    if (r < rows) {
        store(text + position, p.heads + kv_head, {c}u * 64u + t * 4u, keys{c}); // each chunk
        store(text + position, p.heads + p.kv_heads + kv_head, {c}u * 64u + t * 4u, values{c}); // each chunk
    }
}
