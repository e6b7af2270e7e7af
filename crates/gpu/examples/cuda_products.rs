//! Checks the CUDA kernels of products and attention against sums in `f64`, and times them.
//!
//! `cuda_products [check|time]`; both without an argument.

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use fathom_gpu::{Cuda, Device, Format, Kernel, ROW_ALIGNMENT, TILE_ROWS, Weights};
use fathom_kernels::Dtype;
use half::{bf16, f16};
use std::time::{Instant, SystemTime};

type Memory = <Cuda as Device>::Memory;

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let start = Instant::now();
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("{error}");
            std::process::exit(2);
        }
    };
    println!("{}: opened in {:.1} s", cuda.name(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    if let Err(error) = cuda.compile_all() {
        println!("{error}");
        std::process::exit(3);
    }
    println!("kernels: {:.1} s", start.elapsed().as_secs_f64());
    let mut failures = 0;
    if mode != "time" {
        failures += check_products(&cuda) + check_rows(&cuda) + check_attention(&cuda);
        println!("{failures} failures");
    }
    if mode != "check" {
        time_products(&cuda);
        time_quantised(&cuda);
        time_attention(&cuda);
    }
    std::process::exit(i32::from(failures > 0));
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Between -1 and 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

fn upload(cuda: &Cuda, words: &[u32]) -> Memory {
    let memory = cuda.allocate(words.len()).unwrap();
    cuda.write(&memory, 0, words);
    memory
}

fn upload_floats(cuda: &Cuda, floats: &[f32]) -> Memory {
    upload(cuda, &bits(floats))
}

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}

fn download(cuda: &Cuda, memory: &Memory, len: usize) -> Vec<f32> {
    cuda.read(memory, 0..len).into_iter().map(f32::from_bits).collect()
}

/// The relative Frobenius error.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    (difference / norm).sqrt()
}

/// Prints an error and counts it if it is too large.
fn judge(what: &str, error: f64, limit: f64) -> usize {
    let good = error <= limit;
    println!("{} {what}: {error:.2e}", if good { "ok  " } else { "FAIL" });
    usize::from(!good)
}

/// Random weights and their values `[n, k]`.
fn weights(
    cuda: &Cuda,
    random: &mut Random,
    [n, k]: [usize; 2],
    format: Format,
    dtype: Dtype,
    bias: Option<&[f32]>,
) -> (Weights<Memory>, Vec<f32>) {
    let stride = k.next_multiple_of(ROW_ALIGNMENT);
    let mut words = vec![0u32; n * stride / format.per_word()];
    let mut values = vec![0.0f32; n * k];
    let blocks = format.columns().map_or(0, |columns| k / columns);
    let scales: Vec<f32> =
        (0..n * blocks).flat_map(|_| [0.01 + random.float().abs(), random.float()]).collect();
    for row in 0..n {
        for column in 0..k {
            let scale = |columns: usize| {
                let at = 2 * (row * blocks + column / columns);
                (scales[at], scales[at + 1])
            };
            let (value, stored) = match format {
                Format::F32 => {
                    let x = random.float();
                    (x, x.to_bits())
                }
                Format::Bf16 => {
                    let x = bf16::from_f32(random.float());
                    (x.to_f32(), u32::from(x.to_bits()))
                }
                Format::F16 => {
                    let x = f16::from_f32(random.float());
                    (x.to_f32(), u32::from(x.to_bits()))
                }
                Format::Int8 { columns } => {
                    let x = random.next() as i8;
                    let (scale, offset) = scale(columns);
                    (f32::from(x).mul_add(scale, offset), u32::from(x as u8))
                }
                Format::Int4 { columns, bias } => {
                    let x = random.below(16) as u32;
                    let (scale, offset) = scale(columns);
                    (((x as i32 - bias) as f32).mul_add(scale, offset), x)
                }
            };
            values[row * k + column] = value;
            let at = row * stride + column;
            let shift = at % format.per_word() * (32 / format.per_word());
            words[at / format.per_word()] |= stored << shift;
        }
    }
    let layer = Weights {
        n,
        k,
        stride,
        format,
        words: upload(cuda, &words),
        scales: (blocks > 0).then(|| upload_floats(cuda, &scales)),
        bias: bias.map(|bias| upload_floats(cuda, bias)),
        dtype,
    };
    (layer, values)
}

fn rounded(values: &[f32], dtype: Dtype) -> Vec<f64> {
    let round = |x: &f32| match dtype {
        Dtype::F32 => f64::from(*x),
        Dtype::Bf16 => bf16::from_f32(*x).to_f64(),
    };
    values.iter().map(round).collect()
}

const FORMATS: [Format; 8] = [
    Format::F32,
    Format::Bf16,
    Format::F16,
    Format::Int8 { columns: 32 },
    Format::Int8 { columns: 16 },
    Format::Int8 { columns: 6 },
    Format::Int4 { columns: 32, bias: 8 },
    Format::Int4 { columns: 64, bias: 0 },
];

fn check_products(cuda: &Cuda) -> usize {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
    let mut random = Random(now);
    println!("seed {}", random.0);
    let mut failures = 0;
    // Small, medium and large tiles; edges everywhere.
    for (m, n, k) in
        [(1, 40, 192), (30, 77, 192), (200, 131, 960), (300, 1537, 576), (2100, 2051, 960), (65, 2000, 4800)]
    {
        for format in FORMATS {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let bias = random.floats(n);
                // Weights that are not quantised may have any width.
                let k = if format.columns().is_some() { k } else { k + 3 };
                let (layer, values) = weights(cuda, &mut random, [n, k], format, dtype, Some(&bias));
                failures += check_product(cuda, &mut random, &layer, &values, m, Some(&bias));
            }
        }
    }
    failures
}

fn check_product(
    cuda: &Cuda,
    random: &mut Random,
    layer: &Weights<Memory>,
    values: &[f32],
    m: usize,
    bias: Option<&[f32]>,
) -> usize {
    let (n, k) = (layer.n, layer.k);
    let limit = 4e-7 * (k.max(n) as f64).sqrt().max(4.0) / 4.0;
    let weights = rounded(values, layer.dtype);
    let (x, dy) = (random.floats(m * k), random.floats(m * n));
    let y = cuda.allocate(m * n).unwrap();
    cuda.linear(layer, &upload_floats(cuda, &x), m, &y);
    let y = download(cuda, &y, m * n);
    let x = rounded(&x, layer.dtype);
    let places: Vec<[usize; 2]> = (0..400).map(|_| [random.below(m), random.below(n)]).collect();
    let expected = places.iter().map(|&[i, j]| {
        let sum: f64 = x[i * k..][..k].iter().zip(&weights[j * k..][..k]).map(|(x, w)| x * w).sum();
        sum + bias.map_or(0.0, |bias| f64::from(bias[j]))
    });
    let expected: Vec<f64> = expected.collect();
    let found: Vec<f32> = places.iter().map(|&[i, j]| y[i * n + j]).collect();
    let what = format!("{:?} {:?} [{m}, {k}] x [{n}, {k}]", layer.dtype, layer.format);
    let mut failures = judge(&format!("forward  {what}"), error(&found, &expected), limit);

    let dx = cuda.allocate(m * k).unwrap();
    cuda.linear_backward(layer, &upload_floats(cuda, &dy), m, &dx);
    let dx = download(cuda, &dx, m * k);
    let dy = rounded(&dy, layer.dtype);
    let places: Vec<[usize; 2]> = (0..400).map(|_| [random.below(m), random.below(k)]).collect();
    let expected =
        places.iter().map(|&[i, j]| (0..n).map(|r| dy[i * n + r] * weights[r * k + j]).sum::<f64>());
    let expected: Vec<f64> = expected.collect();
    let found: Vec<f32> = places.iter().map(|&[i, j]| dx[i * k + j]).collect();
    failures += judge(&format!("backward {what}"), error(&found, &expected), limit);
    failures
}

/// The bits of rows must not depend on the height of the batch, nor on NaN in other rows.
fn check_rows(cuda: &Cuda) -> usize {
    let mut random = Random(7);
    let (n, k) = (1100, 837);
    let mut failures = 0;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (layer, _) = weights(cuda, &mut random, [n, k], Format::Bf16, dtype, None);
        for backward in [false, true] {
            let (inputs, outputs) = if backward { (n, k) } else { (k, n) };
            let mut all = random.floats(4096 * inputs);
            let run = |x: &[f32]| {
                let m = x.len() / inputs;
                let out = cuda.allocate(m * outputs).unwrap();
                let x = upload_floats(cuda, x);
                match backward {
                    false => cuda.linear(&layer, &x, m, &out),
                    true => cuda.linear_backward(&layer, &x, m, &out),
                }
                bits(&download(cuda, &out, m * outputs))
            };
            let one = run(&all[..inputs]);
            for m in [2, 30, 64, 130, 300, 700, 1500, 4096] {
                let many = run(&all[..m * inputs]);
                let same = many[..outputs] == one;
                failures +=
                    judge(&format!("row in {m} {dtype:?} {backward}"), f64::from(u8::from(!same)), 0.0);
            }
            all[inputs] = f32::NAN;
            let many = run(&all[..64 * inputs]);
            let same = many[..outputs] == one;
            let nan = many[outputs..2 * outputs].iter().all(|x| f32::from_bits(*x).is_nan());
            let clean = many[2 * outputs..].iter().all(|x| !f32::from_bits(*x).is_nan());
            let good = same && nan && clean;
            failures +=
                judge(&format!("NaN in one row {dtype:?} {backward}"), f64::from(u8::from(!good)), 0.0);
        }
    }
    failures
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    cap: Option<f32>,
    window: usize,
}

impl Shape {
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn parameters(&self, work: usize) -> Vec<u32> {
        let [heads, kv, dim, stride] = [self.heads, self.kv_heads, self.dim, self.stride()].map(|x| x as u32);
        let cap = self.cap.unwrap_or(0.0).to_bits();
        let has_cap = u32::from(self.cap.is_some());
        let cache_stride = 2 * kv * dim;
        let scale = self.scale().to_bits();
        vec![work as u32, heads, kv, dim, stride, scale, has_cap, cap, self.window as u32, cache_stride]
    }

    fn first(&self, position: usize) -> usize {
        if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) }
    }

    /// The score of a dot product and its slope.
    fn score(&self, dot: f64) -> (f64, f64) {
        let scale = f64::from(self.scale());
        match self.cap.map(f64::from) {
            None => (dot * scale, scale),
            Some(cap) => {
                let t = (dot * scale / cap).tanh();
                (cap * t, scale * (1.0 - t * t))
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

const SHAPES: [Shape; 7] = [
    Shape { heads: 4, kv_heads: 2, dim: 64, cap: None, window: 0 },
    Shape { heads: 6, kv_heads: 2, dim: 128, cap: None, window: 0 },
    Shape { heads: 2, kv_heads: 2, dim: 128, cap: Some(3.0), window: 37 },
    Shape { heads: 2, kv_heads: 1, dim: 80, cap: None, window: 100 },
    Shape { heads: 2, kv_heads: 1, dim: 30, cap: Some(2.0), window: 0 },
    Shape { heads: 2, kv_heads: 1, dim: 256, cap: Some(20.0), window: 0 },
    Shape { heads: 1, kv_heads: 1, dim: 192, cap: None, window: 1 },
];

fn check_attention(cuda: &Cuda) -> usize {
    let mut random = Random(11);
    let mut failures = 0;
    for shape in SHAPES {
        failures += check_forward(cuda, &mut random, shape) + check_backward(cuda, &mut random, shape);
    }
    failures
}

/// Two runs: one of a whole text, one that continues positions of the cache and of the first run.
fn check_forward(cuda: &Cuda, random: &mut Random, shape: Shape) -> usize {
    let (whole, cached, borrowed, own) = (131, 90, 50, 45);
    let rows = whole + own;
    let (stride, kv_width, dim) = (shape.stride(), shape.kv_heads * shape.dim, shape.dim);
    let qkv = random.floats(rows * stride);
    let cache = random.floats(120 * 2 * kv_width);
    // Cache rows 10.., then rows 20.. of the batch, then the run's own.
    let segments = [0, 0, 0, 0, 1, 10, cached, 0, 20, cached + borrowed, 0, whole].map(|x| x as u32);
    let past = cached + borrowed;
    let mut tiles = Vec::new();
    for (first_row, count, position, first_segment, end) in [(0, whole, 0, 0, 1), (whole, own, past, 1, 4)] {
        for start in (0..count).step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(count - start);
            tiles.extend([first_row + start, rows, position + start, first_segment, end].map(|x| x as u32));
        }
    }
    let out = cuda.allocate(rows * shape.heads * dim).unwrap();
    let work = tiles.len() / 5 * shape.heads;
    let inputs = [
        upload_floats(cuda, &qkv),
        upload_floats(cuda, &cache),
        upload(cuda, &tiles),
        upload(cuda, &segments),
    ];
    let [a, b, c, d] = &inputs;
    cuda.launch(Kernel::Attention, &[a, b, c, d, &out], &shape.parameters(work), work);
    let found = download(cuda, &out, rows * shape.heads * dim);

    // Keys and values of a position of a row's text.
    let places = |row: usize| -> Vec<(&[f32], usize, usize)> {
        let batch = |row: usize| (&qkv[..], row * stride + shape.heads * dim, kv_width);
        if row < whole {
            return (0..=row).map(batch).collect();
        }
        let cached = (10..10 + cached).map(|at| (&cache[..], at * 2 * kv_width, kv_width));
        cached.chain((20..20 + borrowed).map(batch)).chain((whole..=row).map(batch)).collect()
    };
    let mut expected = vec![0.0f64; found.len()];
    for row in 0..rows {
        let seen = places(row);
        let first = shape.first(seen.len() - 1);
        for head in 0..shape.heads {
            let query = &qkv[row * stride + head * dim..][..dim];
            let column = head / (shape.heads / shape.kv_heads) * dim;
            let scores: Vec<f64> = seen[first..]
                .iter()
                .map(|(m, at, _)| shape.score(dot(query, &m[at + column..][..dim])).0)
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let to = &mut expected[(row * shape.heads + head) * dim..][..dim];
            for (score, (m, at, shift)) in scores.iter().zip(&seen[first..]) {
                let weight = (score - max).exp() / total;
                let value = &m[at + shift + column..][..dim];
                to.iter_mut().zip(value).for_each(|(to, v)| *to += weight * f64::from(*v));
            }
        }
    }
    judge(&format!("attention {shape:?}"), error(&found, &expected), 1e-6)
}

fn check_backward(cuda: &Cuda, random: &mut Random, shape: Shape) -> usize {
    let texts = [0..75, 75..76, 76..177];
    let rows = 177;
    let (stride, dim, width) = (shape.stride(), shape.dim, shape.heads * shape.dim);
    let qkv = random.floats(rows * stride);
    let d_out = random.floats(rows * width);
    let mut tiles = Vec::new();
    for text in &texts {
        for start in text.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(text.end - start);
            tiles.extend([start, count, text.start, text.end].map(|x| x as u32));
        }
    }
    let count = tiles.len() / 4;
    let (qkv_memory, d_memory) = (upload_floats(cuda, &qkv), upload_floats(cuda, &d_out));
    let tiles = upload(cuda, &tiles);
    let stats = cuda.allocate(rows * shape.heads * 3).unwrap();
    let d_qkv = cuda.allocate(rows * stride).unwrap();
    let work = count * shape.heads;
    let inputs = [&qkv_memory, &d_memory, &tiles, &stats, &d_qkv];
    cuda.launch(Kernel::AttentionStats, &inputs[..4], &shape.parameters(work)[..9], work);
    cuda.launch(Kernel::AttentionDq, &inputs, &shape.parameters(work)[..9], work);
    let work = count * shape.kv_heads;
    cuda.launch(Kernel::AttentionDkv, &inputs, &shape.parameters(work)[..9], work);
    let found = download(cuda, &d_qkv, rows * stride);

    let mut expected = vec![0.0f64; found.len()];
    for text in texts {
        for row in text.clone() {
            let first = text.start + shape.first(row - text.start);
            for head in 0..shape.heads {
                let group = head / (shape.heads / shape.kv_heads);
                let [key, value] =
                    [shape.heads + group, shape.heads + shape.kv_heads + group].map(|h| h * dim);
                let query = &qkv[row * stride + head * dim..][..dim];
                let d_row = &d_out[row * width + head * dim..][..dim];
                let scores: Vec<(f64, f64)> =
                    (first..=row).map(|j| shape.score(dot(query, &qkv[j * stride + key..][..dim]))).collect();
                let max = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s.0 - max).exp()).sum();
                let weights: Vec<f64> = scores.iter().map(|s| (s.0 - max).exp() / total).collect();
                let d: Vec<f64> =
                    (first..=row).map(|j| dot(d_row, &qkv[j * stride + value..][..dim])).collect();
                let mean: f64 = weights.iter().zip(&d).map(|(w, d)| w * d).sum();
                for (i, j) in (first..=row).enumerate() {
                    let gradient = weights[i] * (d[i] - mean) * scores[i].1;
                    for c in 0..dim {
                        expected[row * stride + head * dim + c] +=
                            gradient * f64::from(qkv[j * stride + key + c]);
                        expected[j * stride + key + c] += gradient * f64::from(query[c]);
                        expected[j * stride + value + c] += weights[i] * f64::from(d_row[c]);
                    }
                }
            }
        }
    }
    judge(&format!("attention backward {shape:?}"), error(&found, &expected), 2e-6)
}

/// The fastest of a few rounds of launches, in seconds per launch.
fn fastest(cuda: &Cuda, launch: impl Fn()) -> f64 {
    launch();
    let once = cuda.time(&launch).as_secs_f64();
    let count = ((0.02 / once) as usize).clamp(1, 200);
    let round = |_| cuda.time(|| (0..count).for_each(|_| launch())).as_secs_f64() / count as f64;
    (0..3).map(round).fold(f64::INFINITY, f64::min)
}

/// Memory filled with small random bfloat16 numbers, or floats.
fn noise(cuda: &Cuda, words: usize, format: Format) -> Memory {
    let mut random = Random(3);
    let part: Vec<u32> = (0..words.min(1 << 20))
        .map(|_| match format {
            Format::Bf16 => {
                let [a, b] = [random.float(), random.float()].map(|x| u32::from(bf16::from_f32(x).to_bits()));
                a | b << 16
            }
            Format::F32 => random.float().to_bits(),
            _ => random.next() as u32,
        })
        .collect();
    let memory = cuda.allocate(words).unwrap();
    for at in (0..words).step_by(part.len()) {
        cuda.write(&memory, at, &part[..part.len().min(words - at)]);
    }
    memory
}

fn plain(cuda: &Cuda, n: usize, k: usize, format: Format, dtype: Dtype) -> Weights<Memory> {
    let words = noise(cuda, n * k / format.per_word(), format);
    let scales = format.columns().map(|columns| noise(cuda, n * k / columns * 2, Format::F32));
    Weights { n, k, stride: k, format, words, scales, bias: None, dtype }
}

fn time_products(cuda: &Cuda) {
    println!(
        "{:<28} {:>6} {:>12} {:>8} {:>12} {:>8}",
        "weights", "m", "forward us", "TFLOP/s", "backward us", "TFLOP/s"
    );
    for (format, dtype) in
        [(Format::Bf16, Dtype::Bf16), (Format::F32, Dtype::F32), (Format::Bf16, Dtype::F32)]
    {
        for (k, n) in [(1536, 1536), (1536, 8960), (8960, 1536), (4096, 4096), (1536, 151_936)] {
            let layer = plain(cuda, n, k, format, dtype);
            for m in [1, 32, 128, 512, 4096] {
                time_layer(cuda, &layer, m);
            }
        }
    }
}

fn time_quantised(cuda: &Cuda) {
    for dtype in [Dtype::Bf16, Dtype::F32] {
        for format in [Format::F16, Format::Int8 { columns: 32 }, Format::Int4 { columns: 32, bias: 8 }] {
            let layer = plain(cuda, 8960, 1536, format, dtype);
            for m in [32, 4096] {
                time_layer(cuda, &layer, m);
            }
        }
    }
}

fn time_layer(cuda: &Cuda, layer: &Weights<Memory>, m: usize) {
    let (n, k) = (layer.n, layer.k);
    let x = noise(cuda, m * k.max(n), Format::F32);
    let y = cuda.allocate(m * k.max(n)).unwrap();
    let forward = fastest(cuda, || cuda.linear(layer, &x, m, &y));
    let backward = fastest(cuda, || cuda.linear_backward(layer, &x, m, &y));
    let rate = |seconds: f64| 2e-12 * (m * n * k) as f64 / seconds;
    let what = format!("{:?} {:?} {k}x{n}", layer.dtype, layer.format);
    println!(
        "{what:<28} {m:>6} {:>12.1} {:>8.1} {:>12.1} {:>8.1}",
        forward * 1e6,
        rate(forward),
        backward * 1e6,
        rate(backward)
    );
}

fn time_attention(cuda: &Cuda) {
    for (heads, kv_heads, dim) in [(12, 2, 128), (16, 16, 64)] {
        for (texts, len) in [(1, 4096), (4, 1024), (32, 128)] {
            let shape = Shape { heads, kv_heads, dim, cap: None, window: 0 };
            time_one_attention(cuda, shape, texts, len);
        }
    }
}

fn time_one_attention(cuda: &Cuda, shape: Shape, texts: usize, len: usize) {
    let rows = texts * len;
    let (mut tiles, mut text_tiles, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for text in 0..texts {
        segments.extend([0, 0, text * len].map(|x| x as u32));
        for start in (0..len).step_by(TILE_ROWS) {
            let row = text * len + start;
            tiles.extend([row, TILE_ROWS, start, text, text + 1].map(|x| x as u32));
            text_tiles.extend([row, TILE_ROWS, text * len, (text + 1) * len].map(|x| x as u32));
        }
    }
    let count = tiles.len() / 5;
    let qkv = noise(cuda, rows * shape.stride(), Format::F32);
    let d_out = noise(cuda, rows * shape.heads * shape.dim, Format::F32);
    let out = cuda.allocate(rows * shape.heads * shape.dim).unwrap();
    let (stats, d_qkv) =
        (cuda.allocate(rows * shape.heads * 3).unwrap(), cuda.allocate(rows * shape.stride()).unwrap());
    let (tiles, segments, text_tiles) =
        (upload(cuda, &tiles), upload(cuda, &segments), upload(cuda, &text_tiles));
    let work = count * shape.heads;
    let parameters = shape.parameters(work);
    let forward = fastest(cuda, || {
        cuda.launch(Kernel::Attention, &[&qkv, &qkv, &tiles, &segments, &out], &parameters, work);
    });
    let inputs = [&qkv, &d_out, &text_tiles, &stats, &d_qkv];
    let kv_work = count * shape.kv_heads;
    let kv_parameters = shape.parameters(kv_work);
    let backward = fastest(cuda, || {
        cuda.launch(Kernel::AttentionStats, &inputs[..4], &parameters[..9], work);
        cuda.launch(Kernel::AttentionDq, &inputs, &parameters[..9], work);
        cuda.launch(Kernel::AttentionDkv, &inputs, &kv_parameters[..9], kv_work);
    });
    let flops = 2e-12 * (texts * len * len * shape.heads * shape.dim) as f64;
    println!(
        "attention {} heads of {}, {texts} texts of {len}: forward {:.0} us ({:.1} TFLOP/s), backward {:.0} us ({:.1} TFLOP/s)",
        shape.heads,
        shape.dim,
        forward * 1e6,
        flops / forward,
        backward * 1e6,
        2.5 * flops / backward
    );
}
