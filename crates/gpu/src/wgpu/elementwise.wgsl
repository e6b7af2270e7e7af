//# add: a, b | out [n]
fn unit(i: u32) {
    out[i] = a[i] + b[i];
}

//# subtract: a, b | out [n]
fn unit(i: u32) {
    out[i] = a[i] - b[i];
}

//# add_assign: from_ | to [n, period]
fn unit(i: u32) {
    to[i] += from_[i % p.period];
}

//# interpolate: base, direction, at | out [n, period]
fn unit(i: u32) {
    let j = i % p.period;
    out[i] = base[j] + at[i / p.period] * direction[j];
}

//# gather_rows: from_, rows:u32 | to [n, width]
fn unit(i: u32) {
    to[i] = from_[rows[i / p.width] * p.width + i % p.width];
}

//# scatter_rows: from_, rows:u32 | to [n, width]
fn unit(i: u32) {
    to[rows[i / p.width] * p.width + i % p.width] = from_[i];
}

//# copy_columns: from_ | to [n, first_row, stride, start, total]
fn unit(i: u32) {
    to[i] = from_[(p.first_row + i / p.total) * p.stride + p.start + i % p.total];
}

//# activate: | x [n, act]
fn unit(i: u32) {
    x[i] = act(p.act, x[i]);
}

//# activate_backward: x | d [n, act]
fn unit(i: u32) {
    d[i] *= act_slope(p.act, x[i]);
}

//# gate: wide | out [n, f, act]
fn unit(i: u32) {
    let at = i / p.f * p.f * 2u + i % p.f;
    out[i] = act(p.act, wide[at]) * factor(p.act, wide[at + p.f]);
}

//# gate_backward: wide, d_out | d_wide [n, f, act]
fn unit(i: u32) {
    let at = i / p.f * p.f * 2u + i % p.f;
    let g = wide[at];
    let d = d_out[i];
    let u = wide[at + p.f];
    d_wide[at] = d * factor(p.act, u) * act_slope(p.act, g);
    d_wide[at + p.f] = d * act(p.act, g) * factor_slope(p.act, u);
}

//# scale: | x [n, factor:f32]
fn unit(i: u32) {
    x[i] *= p.factor;
}

//# softcap: | x [n, cap:f32]
fn unit(i: u32) {
    x[i] = capped(p.cap, x[i]);
}

//# rotate: cos_, sin_, places:u32 | x [n, stride, heads, head_dim, half, inverse]
fn unit(i: u32) {
    let j = i % p.half;
    let head = i / p.half % p.heads;
    let row = i / (p.half * p.heads);
    let place = places[row] * p.half + j;
    let c = cos_[place];
    let s = select(sin_[place], -sin_[place], p.inverse != 0u);
    let at = row * p.stride + head * p.head_dim + j;
    let a = x[at];
    let b = x[at + p.half];
    x[at] = a * c - b * s;
    x[at + p.half] = b * c + a * s;
}

//# edit_rows: table:u32, values | x [n, width]
fn unit(i: u32) {
    let edit = i / p.width * 4u;
    let column = i % p.width;
    let at = table[edit] * p.width + column;
    switch table[edit + 1u] {
        case 0u: { x[at] = 0.0; }
        case 1u: { x[at] *= bitcast<f32>(table[edit + 2u]); }
        case 2u: { x[at] = values[table[edit + 3u] * p.width + column]; }
        case 3u: { x[at] += values[table[edit + 3u] * p.width + column]; }
        default: { x[at] -= values[table[edit + 3u] * p.width + column]; }
    }
}

//# find_not_finite: x | flag:atomic [n]
fn unit(i: u32) {
    if (!is_finite(x[i])) {
        atomicStore(&flag[0], 1u);
    }
}

//# column_sums: x | out [width, rows]
fn unit(i: u32) {
    // Blocks of rows keep the rounding of long sums small.
    var total = 0.0;
    for (var first = 0u; first < p.rows; first += 64u) {
        var some = 0.0;
        let end = min(first + 64u, p.rows);
        for (var row = first; row < end; row++) {
            some += x[row * p.width + i];
        }
        total += some;
    }
    out[i] = total;
}

//# pick: logits, stats, tokens:u32 | out [rows, vocab]
fn unit(i: u32) {
    out[i] = logits[i * p.vocab + tokens[i]] - stats[2u * i + 1u];
}

//# peak: | out [n, steps, is_bf16]
fn unit(i: u32) {
    // Independent sums hide the latency of an instruction.
    let start = vec4<f32>(f32(i) * 1e-9);
    var a = start;
    var b = start + 0.1;
    var c = start + 0.2;
    var d = start + 0.3;
    var e = start + 0.4;
    var f = start + 0.5;
    var g = start + 0.6;
    var h = start + 0.7;
    let x = vec4<f32>(0.999999);
    for (var step = 0u; step < p.steps; step++) {
        a = fma(a, x, start);
        b = fma(b, x, start);
        c = fma(c, x, start);
        d = fma(d, x, start);
        e = fma(e, x, start);
        f = fma(f, x, start);
        g = fma(g, x, start);
        h = fma(h, x, start);
    }
    let sum = (a + b) + (c + d) + (e + f) + (g + h);
    out[i] = sum.x + sum.y + sum.z + sum.w;
}
