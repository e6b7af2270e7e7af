//! Micro-benchmarks of the kernels, for developers. They measure and never assert; `fathom bench` compares
//! kernels with the peak of the processor.
//!
//! Run with `cargo bench -p fathom-kernels [FILTER]`. Items per second are multiply-adds for products and
//! attention, and elements otherwise.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fathom_kernels::attention::{AttentionRun, AttentionShape, HeadBias, KvSegment, Visibility, attend};
use fathom_kernels::distribution::Softmax;
use fathom_kernels::{Dtype, Linear, OutOfMemory, norm};
use std::ops::Range;

fn main() {
    divan::main();
}

/// Numbers between -0.5 and 0.5, none of them subnormal.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// Storage formats of weights.
#[derive(Clone, Copy, Debug)]
enum Format {
    /// Panels of floats.
    F32,
    /// bfloat16, multiplied in `f32`.
    F32FromBf16,
    /// 8-bit integers with a scale per 32 columns, multiplied in `f32`.
    F32FromQ8,
    /// Panels of bfloat16 pairs.
    Bf16,
}

const FORMATS: [Format; 4] = [Format::F32, Format::F32FromBf16, Format::F32FromQ8, Format::Bf16];

/// Inputs and outputs of a layer about as large as those of a 0.5B model.
const K: usize = 896;
const N: usize = 4864;

/// Rows of one token, of a tile, and of a prompt.
const ROWS: [usize; 3] = [1, 14, 200];

fn layer(format: Format) -> Linear {
    let weights = numbers(N * K);
    let fill = |rows: Range<usize>, block: &mut [f32]| {
        for (to, w) in block.iter_mut().zip(&weights[rows.start * K..]) {
            *to = match format {
                Format::F32FromBf16 => f32::from_bits(w.to_bits() & 0xffff_0000),
                _ => *w,
            };
        }
        Ok::<(), OutOfMemory>(())
    };
    let packed = match format {
        Format::F32 | Format::F32FromBf16 => Linear::pack(N, K, Dtype::F32, None, fill),
        Format::Bf16 => Linear::pack(N, K, Dtype::Bf16, None, fill),
        Format::F32FromQ8 => Linear::pack_quantised(N, K, 32, Dtype::F32, None, |_, blocks| {
            blocks.values.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 97) as u8 as i8);
            blocks.scales.fill(1.0 / 256.0);
            blocks.offsets.fill(0.0);
            Ok(())
        }),
    };
    packed.expect("a layer of a few megabytes fits into memory")
}

/// Every format with every number of rows.
fn cases() -> impl Iterator<Item = (Format, usize)> {
    FORMATS.into_iter().flat_map(|format| ROWS.map(|rows| (format, rows)))
}

#[divan::bench(args = cases().map(Case))]
fn linear_forward(bencher: Bencher<'_, '_>, Case((format, rows)): Case) {
    let (layer, x) = (layer(format), numbers(rows * K));
    let mut y = vec![0.0; rows * N];
    bencher.counter(ItemsCount::new(rows * K * N)).bench_local(|| layer.forward(black_box(&x), &mut y));
}

#[divan::bench(args = cases().map(Case))]
fn linear_backward(bencher: Bencher<'_, '_>, Case((format, rows)): Case) {
    let (layer, dy) = (layer(format), numbers(rows * N));
    let mut dx = vec![0.0; rows * K];
    bencher.counter(ItemsCount::new(rows * K * N)).bench_local(|| layer.backward(black_box(&dy), &mut dx));
}

/// A benchmark argument with a readable name.
#[derive(Clone, Copy)]
struct Case((Format, usize));

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {} rows", self.0.0, self.0.1)
    }
}

/// Tokens of a text, with and without a sliding window.
#[divan::bench(args = [(128, None), (1024, None), (1024, Some(256))])]
fn attention(bencher: Bencher<'_, '_>, (tokens, window): (usize, Option<usize>)) {
    let shape = AttentionShape {
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        visibility: Visibility::causal(window),
    };
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (q, k, v) = (numbers(tokens * width), numbers(tokens * kv_width), numbers(tokens * kv_width));
    let mut out = vec![0.0; tokens * width];
    let seen: usize = (1..=tokens).map(|seen| window.map_or(seen, |w| seen.min(w))).sum();
    bencher.counter(ItemsCount::new(2 * seen * width)).bench_local(|| {
        let segment = KvSegment { keys: &k, values: &v, stride: kv_width, count: tokens };
        let run = AttentionRun { rows: 0..tokens, first: 0, segments: vec![segment] };
        attend(&shape, HeadBias::default(), black_box(&q), width, &[run], &mut out);
    });
}

#[divan::bench(args = [1, 200])]
fn rms_norm(bencher: Bencher<'_, '_>, rows: usize) {
    let (mut x, weight) = (numbers(rows * K), numbers(K));
    bencher.counter(ItemsCount::new(rows * K)).bench_local(|| {
        norm::rows(black_box(&mut x), K, |row| norm::rms_row(row, &weight, 1e-5));
    });
}

#[divan::bench(args = [1, 200])]
fn layer_norm(bencher: Bencher<'_, '_>, rows: usize) {
    let (mut x, weight) = (numbers(rows * K), numbers(K));
    bencher.counter(ItemsCount::new(rows * K)).bench_local(|| {
        norm::rows(black_box(&mut x), K, |row| norm::layer_row(row, &weight, None, 1e-5));
    });
}

/// All divergences of two distributions over a vocabulary.
#[divan::bench(args = [49_152, 151_936])]
fn divergences(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let row: Vec<f32> = numbers(vocabulary).iter().map(|x| 20.0 * x).collect();
    let other: Vec<f32> = row.iter().rev().copied().collect();
    let [mut of_row, mut of_other] = [vec![], vec![]];
    let reference = Softmax::new(&row, &mut of_row);
    bencher
        .counter(ItemsCount::new(vocabulary))
        .bench_local(|| Softmax::new(black_box(&other), &mut of_other).divergence_from(&reference));
}
