// Multiply-adds on registers: 64 sums per thread, enough to hide the latency of an instruction.
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
struct Parameters {
    steps: u32,
    factor: f32,
}
var<immediate> p: Parameters;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let x = vec4f(p.factor);
    let y = vec4f(f32(lane));
    var a = array<vec4f, 16>(y, y, y, y, y, y, y, y, y, y, y, y, y, y, y, y);
    a[1].x = 2.0; a[2].x = 3.0; a[3].x = 4.0; a[4].x = 5.0; a[5].x = 6.0; a[6].x = 7.0; a[7].x = 8.0;
    a[8].x = 9.0; a[9].y = 2.0; a[10].y = 3.0; a[11].y = 4.0; a[12].y = 5.0; a[13].y = 6.0; a[14].y = 7.0; a[15].y = 8.0;
    for (var step = 0u; step < p.steps; step++) {
        a[0] = fma(a[0], x, y); a[1] = fma(a[1], x, y); a[2] = fma(a[2], x, y); a[3] = fma(a[3], x, y);
        a[4] = fma(a[4], x, y); a[5] = fma(a[5], x, y); a[6] = fma(a[6], x, y); a[7] = fma(a[7], x, y);
        a[8] = fma(a[8], x, y); a[9] = fma(a[9], x, y); a[10] = fma(a[10], x, y); a[11] = fma(a[11], x, y);
        a[12] = fma(a[12], x, y); a[13] = fma(a[13], x, y); a[14] = fma(a[14], x, y); a[15] = fma(a[15], x, y);
    }
    let total = a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7]
        + a[8] + a[9] + a[10] + a[11] + a[12] + a[13] + a[14] + a[15];
    // The sums must be needed, but nothing needs to be written.
    if (total.x + total.y + total.z + total.w == 0.123) {
        out[lane % 64u] = 1.0;
    }
}
