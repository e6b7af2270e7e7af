//# log_sum_exp: logits | stats [rows, vocab]
var<workgroup> maxima: array<f32, 256>;

fn unit(row: u32, lane: u32) {
    let at = row * p.vocab;
    var most = LEAST;
    for (var j = lane; j < p.vocab; j += 256u) {
        most = max(most, logits[at + j]);
    }
    maxima[lane] = most;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) {
            maxima[lane] = max(maxima[lane], maxima[lane + half]);
        }
        workgroupBarrier();
    }
    most = maxima[0];
    // NaN, which the maximum may ignore, reaches the sum.
    var t = 0.0;
    for (var first = lane; first < p.vocab; first += BLOCK) {
        var some = 0.0;
        let end = min(first + BLOCK, p.vocab);
        for (var j = first; j < end; j += 256u) {
            some += e(logits[at + j] - most);
        }
        t += some;
    }
    t = group_sum(t, lane);
    if (lane == 0u) {
        stats[row * 2u] = most;
        stats[row * 2u + 1u] = most + log(t);
    }
}

//# distances: logits, stats, references:u32 | out [rows, vocab]
fn unit(row: u32, lane: u32) {
    let other = references[row];
    let a = row * p.vocab;
    let b = other * p.vocab;
    var t = 0.0;
    for (var first = lane; first < p.vocab; first += BLOCK) {
        var some = 0.0;
        let end = min(first + BLOCK, p.vocab);
        for (var j = first; j < end; j += 256u) {
            let gap = e(logits[a + j] - stats[row * 2u + 1u]) - e(logits[b + j] - stats[other * 2u + 1u]);
            some = fma(gap, gap, some);
        }
        t += some;
    }
    t = group_sum(t, lane);
    if (lane == 0u) {
        out[row] = sqrt(t);
    }
}

//# divergences: logits, stats | out [rows, vocab, levels]
// 2 artanh v for v in [0, 1/3], which is ln(1 + u) for v = u / (2 + u).
fn twice_artanh(v: f32) -> f32 {
    let w = v * v;
    let w2 = w * w;
    let first = fma(w, 0.33333334, 1.0);
    let second = fma(w, 0.14285715, 0.2);
    let third = fma(w, 0.09090909, 0.11111111);
    let fourth = fma(w, 0.06666667, 0.07692308);
    return 2.0 * v * fma(w2, fma(w2, fma(w2, fourth, third), second), first);
}

// The terms of KL(p || q) and KL(q || p): p (g + e^-g - 1) and q (e^g - 1 - g) with g = ln(p / q), which are
// never negative. Summed over the vocabulary they differ from p g and -q g by the difference of two sums of
// probabilities, by which the rounding of the normalisers cancels.
fn relative_entropies(a: f32, b: f32, gap: f32) -> vec2f {
    // e^x - 1 - x by its series where it would cancel.
    let x = vec2f(-gap, gap);
    let high = fma(x, fma(x, vec2f(2.4801588e-5), vec2f(1.984127e-4)), vec2f(1.3888889e-3));
    let low = fma(x, fma(x, fma(x, high, vec2f(8.333334e-3)), vec2f(0.041666668)), vec2f(0.16666667));
    let near = vec2f(a, b) * x * x * fma(x, low, vec2f(0.5));
    // A probability of zero adds nothing, even where its logarithm is infinite.
    let far = vec2f(select(a * gap, 0.0, a == 0.0) - a + b, select(-b * gap, 0.0, b == 0.0) - b + a);
    return select(far, near, abs(x) < vec2f(0.5));
}

// p ln(p / m) + q ln(q / m) with m = (p + q) / 2.
fn divergence_from_mean(a: f32, b: f32) -> f32 {
    let sum = a + b;
    let r = (a - b) / sum;
    let w = r * r;
    // (1 + r) ln(1 + r) + (1 - r) ln(1 - r), halved: a series where its terms would cancel.
    let series = fma(w, fma(w, fma(w, fma(w, 0.022222222, 0.035714287), 0.06666667), 0.16666667), 1.0);
    let near = 0.5 * sum * w * series;
    let less = min(a, b);
    let more = max(a, b);
    // ln(1 + u), where u is the smaller probability divided by the larger one.
    let v = less / fma(2.0, more, less);
    let far = sum * (0.6931472 - twice_artanh(v)) - less * log(more / max(less, 1e-37));
    return select(select(far, near, abs(r) < 0.3), sum, sum == 0.0);
}

fn unit(row: u32, lane: u32) {
    let last = row / p.levels * p.levels + p.levels - 1u;
    let x_lse = stats[row * 2u + 1u];
    let y_lse = stats[last * 2u + 1u];
    // KL(p || q), KL(q || p), twice the Jensen-Shannon divergence, p ln p; and p, q.
    var t = vec4f();
    var totals = vec4f();
    for (var first = lane; first < p.vocab; first += BLOCK) {
        var some = vec4f();
        var some_totals = vec4f();
        let end = min(first + BLOCK, p.vocab);
        for (var j = first; j < end; j += 256u) {
            let log_p = logits[row * p.vocab + j] - x_lse;
            let log_q = logits[last * p.vocab + j] - y_lse;
            let gap = log_p - log_q;
            let a = e(log_p);
            let b = e(log_q);
            let log_term = select(a * log_p, 0.0, a == 0.0);
            some += vec4f(relative_entropies(a, b, gap), divergence_from_mean(a, b), log_term);
            some_totals += vec4f(a, b, 0.0, 0.0);
        }
        t += some;
        totals += some_totals;
    }
    t = group_sum4(t, lane);
    totals = group_sum4(totals, lane);
    if (lane != 0u) {
        return;
    }
    // The normalisers are rounded, so that probabilities sum to almost 1; their sums correct for it.
    var d = vec3f(t.x / totals.x, t.y / totals.y, t.z * 1.442695 / (totals.x + totals.y));
    // A row does not diverge from itself, unless it has no distribution.
    if (row == last && is_finite(totals.x)) {
        d = vec3f();
    }
    out[row * 4u] = d.x;
    out[row * 4u + 1u] = d.y;
    out[row * 4u + 2u] = d.z;
    out[row * 4u + 3u] = ln_near_1(totals.x) - t.w / totals.x;
}

//# top: logits | out:u32 [rows, vocab]
var<workgroup> keys: array<u32, 256>;
var<workgroup> indices: array<u32, 256>;

// A number that is ordered as the logits are; NaN is like negative infinity, and 0 is below all.
fn key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (is_nan(x)) {
        return 0x007fffffu;
    }
    if ((bits & 0x7fffffffu) == 0u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn before(a: u32, a_index: u32, b: u32, b_index: u32) -> bool {
    return a > b || (a == b && a_index < b_index);
}

fn unit(row: u32, lane: u32) {
    let at = row * p.vocab;
    // The thread's own largest, in order.
    var k0 = 0u; var k1 = 0u; var k2 = 0u; var k3 = 0u; var k4 = 0u;
    let none = 0xffffffffu;
    var i0 = none; var i1 = none; var i2 = none; var i3 = none; var i4 = none;
    for (var j = lane; j < p.vocab; j += 256u) {
        let k = key(logits[at + j]);
        // Indices grow, so that a tie stays behind.
        if (k > k4) {
            k4 = k; i4 = j;
            if (k4 > k3) { let k = k3; let i = i3; k3 = k4; i3 = i4; k4 = k; i4 = i; }
            if (k3 > k2) { let k = k2; let i = i2; k2 = k3; i2 = i3; k3 = k; i3 = i; }
            if (k2 > k1) { let k = k1; let i = i1; k1 = k2; i1 = i2; k2 = k; i2 = i; }
            if (k1 > k0) { let k = k0; let i = i0; k0 = k1; i0 = i1; k1 = k; i1 = i; }
        }
    }
    for (var place = 0u; place < 5u; place++) {
        keys[lane] = k0;
        indices[lane] = i0;
        workgroupBarrier();
        for (var half = 128u; half > 0u; half >>= 1u) {
            if (lane < half) {
                let k = keys[lane + half];
                let i = indices[lane + half];
                if (before(k, i, keys[lane], indices[lane])) {
                    keys[lane] = k;
                    indices[lane] = i;
                }
            }
            workgroupBarrier();
        }
        let best = indices[0];
        workgroupBarrier();
        if (i0 == best) {
            k0 = k1; k1 = k2; k2 = k3; k3 = k4; k4 = 0u;
            i0 = i1; i1 = i2; i2 = i3; i3 = i4; i4 = none;
        }
        if (lane == 0u) {
            out[row * 5u + place] = best;
        }
    }
}

//# probability_backward: stats, tokens:u32 | logits [rows, vocab, has_cap, cap:f32]
fn unit(row: u32, lane: u32) {
    let at = row * p.vocab;
    let token = tokens[row];
    let lse = stats[row * 2u + 1u];
    let picked = e(logits[at + token] - lse);
    // 1 - p is summed from the other probabilities, which is accurate where p is close to 1.
    var others = 0.0;
    for (var j = lane; j < p.vocab; j += 256u) {
        others += select(e(logits[at + j] - lse), 0.0, j == token);
    }
    others = group_sum(others, lane);
    for (var j = lane; j < p.vocab; j += 256u) {
        let y = logits[at + j];
        var d = picked * select(-e(y - lse), others, j == token);
        if (p.has_cap != 0u) {
            d *= capped_slope(p.cap, y);
        }
        logits[at + j] = d;
    }
}
