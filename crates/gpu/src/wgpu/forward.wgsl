var<workgroup> xs: array<vec4f, 320>;
var<workgroup> ws: array<vec4f, 320>;

// Stores an element of the result.
fn store(row: u32, column: u32, sum: f32) {
    if (row < p.m && column < p.n) {
        var y = sum;
        if (p.has_bias != 0u) {
            y += bias[p.first + column];
        }
        out[row * p.outputs + p.first + column] = y;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * 64u;
    let column = group.y * 64u;
    let tx = lane % 8u;
    let ty = lane / 8u;
    var c{i}{j} = 0.0; // each row // each column
    for (var k = 0u; k < p.k; k += STEP) {
        workgroupBarrier();
        for (var id = lane; id < 256u; id += 64u) {
            let at = k + id % 4u * 4u;
            xs[id / 4u * PITCH + id % 4u] = input(row + id / 4u, p.k, 0u, at, p.k);
            ws[id / 4u * PITCH + id % 4u] = weight(column + id / 4u, at);
        }
        workgroupBarrier();
        for (var part = 0u; part < 4u; part++) {
            let a{i} = xs[(ty + {i}u * 8u) * PITCH + part]; // each row
            let b{j} = ws[(tx + {j}u * 8u) * PITCH + part]; // each column
            c{i}{j} = fma(a{i}.w, b{j}.w, fma(a{i}.z, b{j}.z, fma(a{i}.y, b{j}.y, fma(a{i}.x, b{j}.x, c{i}{j})))); // each row // each column
        }
    }
    store(row + ty + {i}u * 8u, column + tx + {j}u * 8u, c{i}{j}); // each row // each column
}
