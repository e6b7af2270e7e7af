// Shared by all kernels. NaN is tested by its bits, because compilers may assume that there is none.

const LEAST: f32 = -3.4028234e38;

// Columns of a long row that the group sums before it adds them to the rest: 16 per thread, few enough that
// rounding is negligible.
const BLOCK: u32 = 4096u;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// e^x to about two units in the last place, which the built-in function does not promise. As on the CPU,
// results below e^-80 are zero, and x is clamped to 88.37 instead of overflowing.
fn e(x: f32) -> f32 {
    let c = clamp(x, -80.0, 88.37);
    let n = round(c * 1.442695);
    // ln 2 in two parts; the first has trailing zero bits, so that its multiples are exact.
    let r = fma(n, 2.1219444e-4, fma(n, -0.693359375, c));
    let r2 = r * r;
    let low = fma(r2, fma(8.333452e-3, r, 4.1665796e-2), fma(0.16666665, r, 0.5));
    let high = fma(r2 * r2, fma(1.9875691e-4, r, 1.3981999e-3), low);
    let p = fma(high, r2, r) + 1.0;
    let scaled = p * bitcast<f32>(u32(i32(n) + 127) << 23u);
    return select(select(scaled, 0.0, x < -80.0), x, is_nan(x));
}

// ln of a sum of probabilities, accurate near 1.
fn ln_near_1(x: f32) -> f32 {
    let u = x - 1.0;
    let near = u * fma(u, fma(u, 0.33333334, -0.5), 1.0);
    return select(log(x), near, abs(u) < 0.01);
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + e(-x));
}

fn gelu_tanh(x: f32) -> f32 {
    // x (1 + tanh u) / 2 = x / (1 + e^-2u)
    let u = 0.7978846 * (x + 0.044715 * x * x * x);
    return x / (1.0 + e(-2.0 * u));
}

// The distribution function of the normal distribution, erfc(-x / sqrt 2) / 2, by a Chebyshev fit of erfc
// with a relative error of 1.2e-7.
fn normal(x: f32) -> f32 {
    let z = abs(x) * 0.70710677;
    let t = 1.0 / fma(0.5, z, 1.0);
    var p = fma(t, 0.17087277, -0.82215223);
    p = fma(t, p, 1.48851587);
    p = fma(t, p, -1.13520398);
    p = fma(t, p, 0.27886807);
    p = fma(t, p, -0.18628806);
    p = fma(t, p, 0.09678418);
    p = fma(t, p, 0.37409196);
    p = fma(t, p, 1.00002368);
    p = fma(t, p, -1.26551223);
    let tail = 0.5 * t * e(fma(-z, z, p));
    return select(select(tail, 1.0 - tail, x > 0.0), x, is_nan(x));
}

fn act(which: u32, x: f32) -> f32 {
    switch which {
        case 0u: { return silu(x); }
        case 1u: { return gelu_tanh(x); }
        case 3u: { return select(x, 0.0, x <= 0.0); }
        case 4u: { return select(x * x, 0.0, x <= 0.0); }
        case 6u: { return 1.0 / (1.0 + e(-x)); }
        case 5u: {
            let y = select(x, 7.0, x > 7.0);
            return y / (1.0 + e(-1.702 * y));
        }
        default: { return x * normal(x); }
    }
}

// The other factor of a gated MLP, and its slope.
fn factor(which: u32, x: f32) -> f32 {
    return select(x, select(select(x, 7.0, x > 7.0), -7.0, x < -7.0) + 1.0, which == 5u);
}

fn factor_slope(which: u32, x: f32) -> f32 {
    return select(1.0, 0.0, which == 5u && (x > 7.0 || x < -7.0));
}

fn act_slope(which: u32, x: f32) -> f32 {
    switch which {
        case 0u: {
            let s = 1.0 / (1.0 + e(-x));
            return s * fma(x, 1.0 - s, 1.0);
        }
        case 1u: {
            let twice = 1.5957692 * (x + 0.044715 * x * x * x);
            let slope = 1.5957692 * fma(0.134145 * x, x, 1.0);
            let s = 1.0 / (1.0 + e(-twice));
            return fma(x * s * (1.0 - s), slope, s);
        }
        case 3u: { return select(1.0, 0.0, x <= 0.0); }
        case 4u: { return select(2.0 * x, 0.0, x <= 0.0); }
        case 5u: {
            let s = 1.0 / (1.0 + e(-1.702 * x));
            return select(s * fma(1.702 * x, 1.0 - s, 1.0), 0.0, x > 7.0);
        }
        case 6u: {
            return 1.0 / ((1.0 + e(-x)) * (1.0 + e(x)));
        }
        default: { return fma(x * 0.3989423, e(-0.5 * x * x), normal(x)); }
    }
}

// cap tanh(x / cap), by tanh u = 1 - 2 / (1 + e^2u)
fn capped(cap: f32, x: f32) -> f32 {
    return cap * (1.0 - 2.0 / (1.0 + e(2.0 * x / cap)));
}

// The slope of soft-capping at the input of which y is the output.
fn capped_slope(cap: f32, y: f32) -> f32 {
    let t = y / cap;
    return (1.0 - t) * (1.0 + t);
}

var<workgroup> sums: array<vec4f, 256>;

// The sum over the threads of the group, in a fixed order, for all of them.
fn group_sum4(x: vec4f, lane: u32) -> vec4f {
    sums[lane] = x;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    let total = sums[0];
    workgroupBarrier();
    return total;
}

fn group_sum(x: f32, lane: u32) -> f32 {
    return group_sum4(vec4f(x, 0.0, 0.0, 0.0), lane).x;
}
