// Vectors per row of a tile of weights, of which one spreads the rows over the banks of the memory.
const WEIGHT_PITCH: u32 = 17u;

var<workgroup> xs: array<vec4f, 320>;
var<workgroup> ws: array<vec4f, 272>;

fn load_element(row: u32, column: u32) -> f32 {
    if (row < p.m && column < p.k) {
        return out[row * p.k + column];
    }
    return 0.0;
}

fn load(row: u32, column: u32) -> vec4f {
    if (p.accumulate == 0u) {
        return vec4f();
    }
    return vec4f(
        load_element(row, column),
        load_element(row, column + 1u),
        load_element(row, column + 2u),
        load_element(row, column + 3u),
    );
}

fn store_element(row: u32, column: u32, x: f32) {
    if (row < p.m && column < p.k) {
        out[row * p.k + column] = x;
    }
}

fn store(row: u32, column: u32, x: vec4f) {
    store_element(row, column, x.x);
    store_element(row, column + 1u, x.y);
    store_element(row, column + 2u, x.z);
    store_element(row, column + 3u, x.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * 64u;
    let column = group.y * 64u;
    let tx = lane % 8u;
    let ty = lane / 8u;
    var l{i} = load(row + ty + {i}u * 8u, column + tx * 4u); // each row
    var h{i} = load(row + ty + {i}u * 8u, column + tx * 4u + 32u); // each row
    for (var n = 0u; n < p.n; n += STEP) {
        workgroupBarrier();
        for (var id = lane; id < 256u; id += 64u) {
            xs[id / 4u * PITCH + id % 4u] = input(row + id / 4u, p.outputs, p.first, n + id % 4u * 4u, p.n);
            ws[id / 16u * WEIGHT_PITCH + id % 16u] = weight(n + id / 16u, column + id % 16u * 4u);
        }
        workgroupBarrier();
        for (var part = 0u; part < 4u; part++) {
            let a{i} = xs[(ty + {i}u * 8u) * PITCH + part]; // each row
            let x0 = ws[part * 4u * WEIGHT_PITCH + tx];
            let x1 = ws[part * 4u * WEIGHT_PITCH + tx + 8u];
            l{i} = fma(vec4f(a{i}.x), x0, l{i}); // each row
            h{i} = fma(vec4f(a{i}.x), x1, h{i}); // each row
            let y0 = ws[(part * 4u + 1u) * WEIGHT_PITCH + tx];
            let y1 = ws[(part * 4u + 1u) * WEIGHT_PITCH + tx + 8u];
            l{i} = fma(vec4f(a{i}.y), y0, l{i}); // each row
            h{i} = fma(vec4f(a{i}.y), y1, h{i}); // each row
            let z0 = ws[(part * 4u + 2u) * WEIGHT_PITCH + tx];
            let z1 = ws[(part * 4u + 2u) * WEIGHT_PITCH + tx + 8u];
            l{i} = fma(vec4f(a{i}.z), z0, l{i}); // each row
            h{i} = fma(vec4f(a{i}.z), z1, h{i}); // each row
            let w0 = ws[(part * 4u + 3u) * WEIGHT_PITCH + tx];
            let w1 = ws[(part * 4u + 3u) * WEIGHT_PITCH + tx + 8u];
            l{i} = fma(vec4f(a{i}.w), w0, l{i}); // each row
            h{i} = fma(vec4f(a{i}.w), w1, h{i}); // each row
        }
    }
    store(row + ty + {i}u * 8u, column + tx * 4u, l{i}); // each row
    store(row + ty + {i}u * 8u, column + tx * 4u + 32u, h{i}); // each row
}
