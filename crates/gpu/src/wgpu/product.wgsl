// Tiles of 64 rows and 64 columns of the result, computed by 64 threads of 8 x 8 elements each. The inner
// dimension goes by in steps of 16, in one chain of additions per element, whatever the number of rows.
//
// Declarations, the loads of weights, and lines for every row and column of a thread are generated.
const STEP: u32 = 16u;
// Vectors per row of a tile of x, of which one spreads the rows over the banks of the memory.
const PITCH: u32 = 5u;

struct Parameters {
    // Rows of x.
    m: u32,
    // Rows of these weights.
    n: u32,
    k: u32,
    // Elements from one row of weights to the next.
    stride: u32,
    // All outputs, and the first of these weights.
    outputs: u32,
    first: u32,
    // Columns per scale.
    columns: u32,
    // Whether the product is added to what the result holds.
    accumulate: u32,
    has_bias: u32,
}
var<immediate> p: Parameters;

// Rounds to bfloat16, to nearest and ties to even; NaN stays NaN.
fn rounded(x: vec4f) -> vec4f {
    let bits = bitcast<vec4u>(x);
    let near = (bits + 0x7fffu + ((bits >> vec4u(16u)) & vec4u(1u))) & vec4u(0xffff0000u);
    let nan = (bits & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
    return bitcast<vec4f>(select(near, (bits | vec4u(0x400000u)) & vec4u(0xffff0000u), nan));
}
