//# norm: weight, bias | x [units, stride, start, width, count, kind, eps:f32, has_bias]
fn unit(i: u32, lane: u32) {
    let at = i / p.count * p.stride + p.start + i % p.count * p.width;
    var mean = 0.0;
    if (p.kind == 1u) {
        var total = 0.0;
        for (var j = lane; j < p.width; j += 256u) {
            total += x[at + j];
        }
        mean = group_sum(total, lane) / f32(p.width);
    }
    var squares = 0.0;
    for (var j = lane; j < p.width; j += 256u) {
        let centred = x[at + j] - mean;
        squares = fma(centred, centred, squares);
    }
    let scale = 1.0 / sqrt(group_sum(squares, lane) / f32(p.width) + p.eps);
    for (var j = lane; j < p.width; j += 256u) {
        var y = (x[at + j] - mean) * scale * weight[j];
        if (p.has_bias != 0u) {
            y += bias[j];
        }
        x[at + j] = y;
    }
}

//# norm_backward: x, weight | d [units, stride, start, width, count, kind, eps:f32, has_bias]
fn unit(i: u32, lane: u32) {
    let at = i / p.count * p.stride + p.start + i % p.count * p.width;
    let width = f32(p.width);
    var mean = 0.0;
    if (p.kind == 1u) {
        var total = 0.0;
        for (var j = lane; j < p.width; j += 256u) {
            total += x[at + j];
        }
        mean = group_sum(total, lane) / width;
    }
    // Squares, products with the weighted gradient, and the gradient itself.
    var t = vec4f();
    for (var j = lane; j < p.width; j += 256u) {
        let centred = x[at + j] - mean;
        let g = weight[j] * d[at + j];
        t += vec4f(centred * centred, centred * g, g, 0.0);
    }
    t = group_sum4(t, lane) / width;
    let scale = 1.0 / sqrt(t.x + p.eps);
    let back = t.y * scale * scale;
    let shift = select(0.0, t.z, p.kind == 1u);
    for (var j = lane; j < p.width; j += 256u) {
        d[at + j] = scale * (weight[j] * d[at + j] - shift - (x[at + j] - mean) * back);
    }
}

//# contribution_sums: h, a, m | out [rows, width]
fn unit(row: u32, lane: u32) {
    var s = vec4f();
    var t = vec4f();
    for (var j = lane; j < p.width; j += 256u) {
        let at = row * p.width + j;
        let mid = h[at] + a[at];
        let added = a[at] + m[at];
        s += vec4f(h[at] * h[at], mid * mid, a[at] * a[at], m[at] * m[at]);
        t += vec4f(added * added, a[at] * h[at], m[at] * mid, added * h[at]);
    }
    s = group_sum4(s, lane);
    t = group_sum4(t, lane);
    if (lane < 4u) {
        out[row * 8u + lane] = s[lane];
        out[row * 8u + 4u + lane] = t[lane];
    }
}

//# change_sums: added, rows:u32, attn, mlp, positions:u32 | out [units, width]
fn unit(i: u32, lane: u32) {
    let edited = rows[i] * p.width;
    let clean = positions[i] * p.width;
    var t = vec4f();
    for (var j = lane; j < p.width; j += 256u) {
        let c = attn[clean + j] + mlp[clean + j];
        let gap = c - added[edited + j];
        t += vec4f(gap * gap, c * c, 0.0, 0.0);
    }
    t = group_sum4(t, lane);
    if (lane < 2u) {
        out[i * 2u + lane] = t[lane];
    }
}

//# row_dots: a, b | out [rows, width, b_rows]
fn unit(row: u32, lane: u32) {
    let other = row % p.b_rows * p.width;
    var t = 0.0;
    for (var j = lane; j < p.width; j += 256u) {
        t = fma(a[row * p.width + j], b[other + j], t);
    }
    t = group_sum(t, lane);
    if (lane == 0u) {
        out[row] = t;
    }
}

//# row_sums: x | out [rows, width]
fn unit(row: u32, lane: u32) {
    var t = 0.0;
    for (var j = lane; j < p.width; j += 256u) {
        t += x[row * p.width + j];
    }
    t = group_sum(t, lane);
    if (lane == 0u) {
        out[row] = t;
    }
}

//# gram: x | out [units, n, width]
fn unit(i: u32, lane: u32) {
    let pairs = p.n * (p.n + 1u) / 2u;
    // The pair: rows of the triangle are n, n - 1, .. long.
    var first = 0u;
    var rest = i % pairs;
    for (; rest >= p.n - first; first++) {
        rest -= p.n - first;
    }
    let a = (i / pairs * p.n + first) * p.width;
    let b = a + rest * p.width;
    var t = 0.0;
    for (var j = lane; j < p.width; j += 256u) {
        t = fma(x[a + j], x[b + j], t);
    }
    t = group_sum(t, lane);
    if (lane == 0u) {
        out[i] = t;
    }
}
