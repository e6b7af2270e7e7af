//! Times products and attention on the devices behind Vulkan, Metal and DirectX 12.
//!
//! `cargo run --release --example products -p fathom-gpu [rows]`

#![allow(clippy::print_stdout, reason = "the output of the example")]

use fathom_gpu::{Gpu, Interface, Wgpu, devices, open_wgpu};
use fathom_kernels::attention::{AttentionShape, HeadBias, Visibility};
use fathom_kernels::backend::{Backend, Run};
use fathom_kernels::{Dtype, OutOfMemory};
use std::time::Instant;

const SHAPES: [[usize; 2]; 4] = [[1536, 1536], [1536, 8960], [8960, 1536], [4096, 4096]];

/// Seconds of one call, the best of some.
fn time<B: Backend>(b: &B, mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        b.wait();
        let start = Instant::now();
        call();
        b.wait();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn products(gpu: &Gpu<Wgpu>, rows: &[usize]) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for [k, n] in SHAPES {
            let fill = |rows: std::ops::Range<usize>, to: &mut [f32]| {
                to.iter_mut().zip(rows.start * k..).for_each(|(w, i)| *w = (i as f32 * 0.37).sin());
                Ok::<(), OutOfMemory>(())
            };
            let layer = gpu.pack(n, k, dtype, None, fill).expect("the weights fit");
            for &m in rows {
                let (x, dy) = (gpu.buffer_of(&numbers(m * k)), gpu.buffer_of(&numbers(m * n)));
                let (mut y, mut dx) = (gpu.empty(), gpu.empty());
                let forward = time(gpu, || gpu.linear(&layer, &x, &mut y));
                let backward = time(gpu, || gpu.linear_backward(&layer, &dy, &mut dx));
                let rate = |seconds: f64| 2e-9 * (m * n * k) as f64 / seconds;
                println!(
                    "{} m {m:5} k {k:5} n {n:5}: forward {:8.1} GFLOP/s, backward {:8.1} GFLOP/s",
                    dtype.name(),
                    rate(forward),
                    rate(backward)
                );
            }
        }
    }
}

fn attention(gpu: &Gpu<Wgpu>, rows: &[usize]) {
    let shape = AttentionShape {
        heads: 12,
        kv_heads: 2,
        head_dim: 128,
        scale: 0.09,
        softcap: None,
        visibility: Visibility::Causal,
    };
    let bias = HeadBias::default();
    for &m in rows {
        let run = Run { rows: 0..m, first: 0, length: m, past: vec![] };
        let batch = gpu.batch(&[run], vec![]);
        let qkv = gpu.buffer_of(&numbers(m * 16 * 128));
        let (mut out, mut d_qkv) = (gpu.empty(), gpu.empty());
        let forward = time(gpu, || gpu.attend(&shape, &bias, &batch, None, &qkv, &mut out));
        let backward = time(gpu, || gpu.attend_backward(&shape, &bias, &batch, &qkv, &out, &mut d_qkv));
        println!("attention {m:5} rows: forward {:.2} ms, backward {:.2} ms", 1e3 * forward, 1e3 * backward);
    }
}

fn main() {
    let rows: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let rows = if rows.is_empty() { vec![32, 512, 4096] } else { rows };
    for info in devices().into_iter().filter(|d| d.interface == Interface::Wgpu) {
        println!("{info:?}");
        let gpu = open_wgpu(info.index).expect("a listed device opens");
        println!("peak {:.1} GFLOP/s", 2e-9 * gpu.peak(Dtype::F32, 3));
        products(&gpu, &rows);
        attention(&gpu, &rows);
    }
}
