//! Every operation on every device present, compared with the CPU.
//!
//! Each test says which devices it ran on. Without any, it says that it was skipped, or fails where
//! `FATHOM_TEST_REQUIRE` is 1.

#![allow(clippy::print_stderr, reason = "tests say what they ran on and how large errors were")]

use fathom_gpu::{Cuda, Gpu, Interface, Wgpu, devices, open_cuda, open_wgpu};
use fathom_kernels::attention::{AttentionShape, HeadBias, Visibility};
use fathom_kernels::backend::{Backend, Columns, Cpu, LENS_NUMBERS, Norm, RowAction, RowEdit, Run, Span};
use fathom_kernels::elementwise::{Activation, Rotation};
use fathom_kernels::norm::NormKind;
use fathom_kernels::{Dtype, OutOfMemory, QuantBlocks};
use std::ops::Range;
use std::sync::OnceLock;

struct Devices {
    cuda: Vec<Gpu<Cuda>>,
    wgpu: Vec<Gpu<Wgpu>>,
}

fn open_devices() -> &'static Devices {
    static OPEN: OnceLock<Devices> = OnceLock::new();
    OPEN.get_or_init(|| {
        let found = devices();
        let of = |interface| found.iter().filter(move |d| d.interface == interface).map(|d| d.index);
        let cuda: Vec<_> =
            of(Interface::Cuda).map(|i| open_cuda(i).expect("a listed device opens")).collect();
        let wgpu: Vec<_> =
            of(Interface::Wgpu).map(|i| open_wgpu(i).expect("a listed device opens")).collect();
        if cuda.is_empty() && wgpu.is_empty() {
            let required = std::env::var("FATHOM_TEST_REQUIRE")
                .is_ok_and(|v| v.split(',').any(|n| n == "1" || n == "gpu"));
            assert!(!required, "no device was found behind CUDA, Vulkan, Metal or DirectX 12");
            eprintln!("skipped: no device was found behind CUDA, Vulkan, Metal or DirectX 12");
        }
        Devices { cuda, wgpu }
    })
}

/// Numbers in [-scale, scale), in full precision.
fn data(len: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state >> ((state >> 28) + 4)) ^ state;
        let x = x.wrapping_mul(277_803_737);
        ((x >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

/// Compares results, each with a tolerance relative to the root mean square of its elements.
fn check_all(what: &str, device: &str, got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what} on {device}: results");
    let errors = got.iter().zip(want).enumerate().map(|(i, (got, want))| {
        let error = difference(&format!("{what} on {device}: result {i}"), got, want);
        assert!(error <= tolerance, "{what} on {device}: result {i} has an error of {error:.1e}");
        error
    });
    let worst = errors.fold(0.0, f64::max);
    eprintln!("{what} on {device}: largest error {worst:.1e}");
}

/// The largest difference of two elements.
fn difference(what: &str, got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let finite = want.iter().filter(|x| x.is_finite()).map(|x| f64::from(*x));
    let scale = (finite.map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt().max(1e-30);
    let mut worst = 0.0;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.is_nan(), w.is_nan(), "{what}: element {i} is {g}, not {w}");
        if g != w && !w.is_nan() {
            worst = f64::max(worst, f64::from(g - w).abs() / scale.max(f64::from(w.abs())));
        }
    }
    worst
}

/// A test that runs the same code on every device and on the CPU.
macro_rules! as_on_the_cpu {
    ($(#[$meta:meta])* $name:ident, $tolerance:expr, |$b:ident| $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            fn operation<B: Backend>($b: &B) -> Vec<Vec<f32>> $body
            let want = operation(&Cpu);
            for gpu in &open_devices().cuda {
                check_all(stringify!($name), &gpu.name(), &operation(gpu), &want, $tolerance);
            }
            for gpu in &open_devices().wgpu {
                check_all(stringify!($name), &gpu.name(), &operation(gpu), &want, $tolerance);
            }
        }
    };
}

/// A test that runs on every device.
macro_rules! on_every_device {
    ($(#[$meta:meta])* $name:ident, |$b:ident| $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            fn operation<B: Backend>($b: &B) $body
            for gpu in &open_devices().cuda {
                operation(gpu);
                eprintln!("{} ran on {}", stringify!($name), gpu.name());
            }
            for gpu in &open_devices().wgpu {
                operation(gpu);
                eprintln!("{} ran on {}", stringify!($name), gpu.name());
            }
        }
    };
}

fn all<B: Backend>(b: &B, buffer: &B::Buffer) -> Vec<f32> {
    b.download(buffer, 0..b.len(buffer))
}

fn numbers<B: Backend>(b: &B, numbers: B::Numbers) -> Vec<f32> {
    b.read(vec![numbers]).concat().into_iter().map(|x| x as f32).collect()
}

/// Runs an operation that fills a buffer.
fn filled<B: Backend>(b: &B, fill: impl FnOnce(&mut B::Buffer)) -> Vec<f32> {
    let mut out = b.empty();
    fill(&mut out);
    all(b, &out)
}

/// Runs an operation on a buffer with the given contents.
fn changed<B: Backend>(b: &B, values: &[f32], change: impl FnOnce(&mut B::Buffer)) -> Vec<f32> {
    let mut x = b.buffer_of(values);
    change(&mut x);
    all(b, &x)
}

// Buffers

on_every_device!(buffers_keep_what_is_written, |b| {
    let values = data(1003, 1, 2.0);
    let mut x = b.buffer_of(&values);
    assert_eq!(all(b, &x), values);
    assert_eq!(b.download(&x, 7..7), []);
    assert_eq!(b.download(&x, 5..9), values[5..9]);
    let y = b.copy(&x, 100..903);
    b.upload(&values[..17], &mut x);
    assert_eq!((b.len(&x), b.len(&y)), (17, 803));
    assert_eq!(all(b, &x), values[..17]);
    assert_eq!(all(b, &y), values[100..903]);
    b.upload(&[], &mut x);
    assert_eq!(all(b, &x), []);
});

on_every_device!(writes_keep_their_place_among_launches, |b| {
    // Memory is reused while launches that read it wait.
    let ones = b.buffer_of(&[1.0; 500]);
    let mut sums = Vec::new();
    for i in 0..300 {
        let x = b.buffer_of(&[i as f32; 500]);
        let mut sum = b.empty();
        b.add(&x, &ones, &mut sum);
        sums.push(sum);
    }
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(all(b, sum), [i as f32 + 1.0; 500]);
    }
});

on_every_device!(too_much_memory_is_refused, |b| {
    let mut x = b.buffer_of(&[1.0]);
    let error = b.try_resize(&mut x, 1 << 45).unwrap_err();
    assert_eq!(error, OutOfMemory { bytes: 1 << 47 });
    assert_eq!(b.len(&x), 0);
    b.upload(&[2.0], &mut x);
    assert_eq!(all(b, &x), [2.0]);
});

as_on_the_cpu!(rows_are_gathered_and_scattered, 0.0, |b| {
    let from = b.buffer_of(&data(37 * 13, 2, 1.0));
    let mut out = vec![filled(b, |to| b.gather(13, &from, &[36, 0, 5, 5], to))];
    let part = b.buffer_of(&data(3 * 13, 3, 1.0));
    out.push(changed(b, &data(37 * 13, 4, 1.0), |to| b.scatter(13, &part, &[7, 36, 0], to)));
    let columns = Columns { stride: 13, start: 2, width: 3, count: 2 };
    out.push(all(b, &b.copy_columns(columns, &from, 4..31)));
    out
});

// Linear layers

#[derive(Clone, Copy, Debug)]
enum Weights {
    Floats,
    Bf16,
    F16,
    /// Bytes in blocks of columns.
    Int8(usize),
    /// Nibbles in blocks of columns, from the given least value on.
    Int4(usize, i8),
}

fn pack<B: Backend>(b: &B, weights: Weights, n: usize, k: usize, dtype: Dtype, bias: bool) -> B::Linear {
    let bias = bias.then(|| data(n, 77, 1.0));
    let row = |row: usize| -> Vec<f32> {
        let values = data(k, row as u32 + 1000, 0.5).into_iter();
        let rounded = values.map(|w| match weights {
            Weights::Bf16 => f32::from_bits(w.to_bits() & 0xffff_0000),
            // Subnormal ones too.
            Weights::F16 => half::f16::from_f32(if w.abs() < 0.1 { w * 1e-5 } else { w }).to_f32(),
            _ => w,
        });
        rounded.collect()
    };
    let floats = |rows: Range<usize>, to: &mut [f32]| -> Result<(), OutOfMemory> {
        rows.zip(to.chunks_exact_mut(k)).for_each(|(r, to)| to.copy_from_slice(&row(r)));
        Ok(())
    };
    let (columns, least, span) = match weights {
        Weights::Int8(columns) => (columns, -127.0, 254.0),
        Weights::Int4(columns, least) => (columns, f32::from(least), 15.0),
        _ => return b.pack(n, k, dtype, bias, floats).unwrap(),
    };
    let blocks = k / columns;
    let integers = |rows: Range<usize>, to: QuantBlocks<'_>| -> Result<(), OutOfMemory> {
        for (i, r) in rows.enumerate() {
            for (to, w) in to.values[i * k..].iter_mut().zip(row(r)) {
                *to = (least + ((w + 0.5) * span).round()) as i8;
            }
            let scales = data(2 * blocks, r as u32 + 5000, 0.01);
            to.scales[i * blocks..(i + 1) * blocks].copy_from_slice(&scales[..blocks]);
            to.offsets[i * blocks..(i + 1) * blocks].copy_from_slice(&scales[blocks..]);
        }
        Ok(())
    };
    b.pack_quantised(n, k, columns, dtype, bias, integers).unwrap()
}

/// Products forward and backward of all formats.
fn products<B: Backend>(b: &B, dtype: Dtype, formats: &[Weights], shapes: &[[usize; 3]]) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    for &[m, n, k] in shapes {
        let (x, dy) = (b.buffer_of(&data(m * k, 5, 1.0)), b.buffer_of(&data(m * n, 6, 1.0)));
        for weights in formats {
            for bias in [false, true] {
                let layer = pack(b, *weights, n, k, dtype, bias);
                out.push(filled(b, |y| b.linear(&layer, &x, y)));
            }
            let layer = pack(b, *weights, n, k, dtype, true);
            out.push(filled(b, |dx| b.linear_backward(&layer, &dy, dx)));
        }
    }
    out
}

const FLOATS: [Weights; 3] = [Weights::Floats, Weights::Bf16, Weights::F16];

as_on_the_cpu!(products_in_f32, 2e-6, |b| {
    products(b, Dtype::F32, &FLOATS, &[[1, 1, 1], [3, 67, 131], [70, 130, 52], [65, 5, 200]])
});

as_on_the_cpu!(products_in_bf16, 2e-6, |b| {
    products(b, Dtype::Bf16, &FLOATS, &[[3, 67, 131], [70, 130, 52]])
});

as_on_the_cpu!(quantised_products_in_f32, 2e-6, |b| {
    let mut out = products(b, Dtype::F32, &[Weights::Int8(12), Weights::Int4(12, -8)], &[[5, 67, 84]]);
    out.extend(products(b, Dtype::F32, &[Weights::Int8(32), Weights::Int4(32, 0)], &[[66, 70, 96]]));
    out
});

as_on_the_cpu!(quantised_products_in_bf16, 2e-6, |b| {
    products(
        b,
        Dtype::Bf16,
        &[Weights::Int8(32), Weights::Int4(16, -8), Weights::Int4(32, -3)],
        &[[5, 67, 96]],
    )
});

on_every_device!(products_round_to_bfloat16_as_the_cpu, |b| {
    // Ties go to even, and NaN and infinity stay.
    let x =
        [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -3.4e38, f32::NAN, f32::INFINITY, f32::from_bits(0x7f80_0001)];
    let layer = b
        .pack(1, 1, Dtype::Bf16, None, |_, to| {
            to.fill(1.0);
            Ok::<(), OutOfMemory>(())
        })
        .unwrap();
    let x = b.buffer_of(&x);
    let got = filled(b, |y| b.linear(&layer, &x, y));
    assert_eq!(got[..2], [1.0, 1.0 + 4.0 / 256.0]);
    assert!(got[2] < -3.3e38 && got[3].is_nan() && got[4] == f32::INFINITY && got[5].is_nan());
});

on_every_device!(rows_of_products_do_not_depend_on_their_batch, |b| {
    let (m, n, k) = (141, 70, 203);
    let values = data(m * k, 8, 1.0);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let layer = pack(b, Weights::Floats, n, k, dtype, true);
        let (x, dy) = (b.buffer_of(&values), b.buffer_of(&data(m * n, 9, 1.0)));
        let y = filled(b, |y| b.linear(&layer, &x, y));
        let dx = filled(b, |dx| b.linear_backward(&layer, &dy, dx));
        for rows in [0..1, 3..70, 64..65, 77..141] {
            let x = b.copy(&x, rows.start * k..rows.end * k);
            let dy = b.copy(&dy, rows.start * n..rows.end * n);
            let y_part = filled(b, |y| b.linear(&layer, &x, y));
            let dx_part = filled(b, |dx| b.linear_backward(&layer, &dy, dx));
            assert_eq!(bits(&y_part), bits(&y[rows.start * n..rows.end * n]));
            assert_eq!(bits(&dx_part), bits(&dx[rows.start * k..rows.end * k]));
        }
    }
});

on_every_device!(products_agree_with_f64, |b| {
    let (m, n, k) = (5, 70, 4099);
    let (x, w) = (data(m * k, 43, 1.0), data(n * k, 44, 1.0));
    let fill = |rows: Range<usize>, to: &mut [f32]| {
        to.copy_from_slice(&w[rows.start * k..rows.end * k]);
        Ok::<(), OutOfMemory>(())
    };
    let layer = b.pack(n, k, Dtype::F32, None, fill).unwrap();
    let device_x = b.buffer_of(&x);
    let got = filled(b, |y| b.linear(&layer, &device_x, y));
    let dot = |(a, b): (&[f32], &[f32])| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    };
    let pairs = x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| (x, w)));
    let error = difference("products", &got, &pairs.map(dot).collect::<Vec<_>>());
    eprintln!("error {error:.1e}");
    assert!(error < 8e-6);
});

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

as_on_the_cpu!(nan_stays_in_its_row, 2e-6, |b| {
    let (m, n, k) = (66, 67, 40);
    let mut x = data(m * k, 10, 1.0);
    x[65 * k + 3] = f32::NAN;
    x[2 * k] = f32::NAN;
    let x = b.buffer_of(&x);
    let layer = pack(b, Weights::Floats, n, k, Dtype::F32, true);
    vec![filled(b, |y| b.linear(&layer, &x, y))]
});

// Layers

fn norm_of<B: Backend>(b: &B, kind: NormKind, width: usize) -> Norm<B> {
    let bias = (kind == NormKind::Layer).then(|| b.buffer_of(&data(width, 12, 1.0)));
    Norm { weight: b.buffer_of(&data(width, 11, 2.0)), bias, eps: 1e-5, kind }
}

as_on_the_cpu!(norms_and_their_gradients, 3e-6, |b| {
    let mut out = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for columns in [Columns::whole(517), Columns { stride: 517, start: 35, width: 37, count: 12 }] {
            let norm = norm_of(b, kind, columns.width);
            let mut values = data(9 * 517, 13, 3.0);
            values.iter_mut().for_each(|x| *x += 1.0);
            values[4 * 517 + 40] = f32::NAN;
            let x = b.buffer_of(&values);
            out.push(changed(b, &values, |x| b.norm(&norm, columns, x)));
            out.push(changed(b, &data(9 * 517, 14, 1.0), |d| b.norm_backward(&norm, columns, &x, d)));
        }
    }
    out
});

const ACTIVATIONS: [Activation; 7] = [
    Activation::Silu,
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Sigmoid,
    Activation::ClampedSwiglu,
];

as_on_the_cpu!(activations_and_their_gradients, 1e-6, |b| {
    let mut out = Vec::new();
    let mut values = data(14 * 101, 15, 8.0);
    values[..8].copy_from_slice(&[f32::NAN, 100.0, -100.0, 0.0, -0.0, 1e-20, 1e30, -1e30]);
    let (x, d) = (b.buffer_of(&values), data(14 * 101, 16, 1.0));
    let half = b.buffer_of(&d[..7 * 101]);
    for act in ACTIVATIONS {
        let mut mine = changed(b, &values, |x| b.activate(act, x));
        // Powers of values as large as these overflow on the way.
        mine[6..8].fill(0.0);
        out.push(mine);
        let mut mine = changed(b, &d, |d| b.activate_backward(act, &x, d));
        mine[6..8].fill(0.0);
        out.push(mine);
    }
    values[6..8].fill(1.0);
    let x = b.buffer_of(&values);
    for act in ACTIVATIONS {
        out.push(filled(b, |out| b.gated(act, 101, &x, out)));
        out.push(filled(b, |d| b.gated_backward(act, 101, &x, &half, d)));
    }
    out
});

as_on_the_cpu!(arithmetic, 1e-6, |b| {
    let mut values = data(12 * 43, 17, 30.0);
    values[5] = f32::NAN;
    let (x, y) = (b.buffer_of(&values), b.buffer_of(&data(12 * 43, 18, 1.0)));
    let row = b.buffer_of(&data(43, 19, 1.0));
    let mut out = vec![filled(b, |out| b.add(&x, &y, out))];
    out.push(filled(b, |out| b.subtract(&x, &y, out)));
    out.push(changed(b, &values, |x| b.scale(-0.3, x)));
    out.push(changed(b, &values, |x| b.softcap(20.0, x)));
    out.push(changed(b, &values, |x| b.add_assign(x, &y)));
    out.push(changed(b, &values, |x| b.add_assign(x, &row)));
    out.push(filled(b, |out| b.interpolate(&x, &y, &[0.0, 0.25, 1.0], out)));
    out
});

as_on_the_cpu!(edits_apply_in_order, 0.0, |b| {
    let (from, other) = (b.buffer_of(&data(5 * 31, 20, 1.0)), b.buffer_of(&data(2 * 31, 21, 1.0)));
    let edit = |row, action| RowEdit { row, action };
    let edits = [
        edit(1, RowAction::Scale(0.5)),
        edit(2, RowAction::Zero),
        edit(3, RowAction::Replace(&from, 4)),
        edit(3, RowAction::Add(&from, 0)),
        edit(4, RowAction::Subtract(&other, 1)),
        edit(1, RowAction::Add(&other, 0)),
        edit(0, RowAction::Add(&from, 1)),
    ];
    vec![changed(b, &data(6 * 31, 22, 1.0), |x| b.edit(31, &edits, x))]
});

// Attention

fn run(rows: Range<usize>, first: usize, past: Vec<Span>) -> Run {
    Run { length: first + rows.len(), rows, first, past }
}

fn rotation(places: Vec<usize>, half: usize) -> Rotation {
    let count = (places.iter().max().unwrap() + 1) * half;
    let angles = data(count, 23, 3.0);
    let (cos, sin) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    Rotation { cos, sin, half, places }
}

as_on_the_cpu!(rotations, 1e-6, |b| {
    let batch = b.batch(&[run(0..7, 0, vec![])], vec![rotation(vec![0, 3, 3, 1, 9, 2, 4], 5)]);
    let values = data(7 * 50, 24, 1.0);
    let heads = Columns { stride: 50, start: 0, width: 13, count: 3 };
    let mut out = vec![changed(b, &values, |x| b.rotate(&batch, 0, heads, false, x))];
    out.push(changed(b, &values, |x| b.rotate(&batch, 0, heads, true, x)));
    out
});

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 0.4, softcap: None, visibility: Visibility::Causal }
}

const SHAPES: [fn() -> AttentionShape; 11] = [
    || shape(4, 2, 16),
    || AttentionShape { visibility: Visibility::Window(7), ..shape(3, 3, 5) },
    || AttentionShape { visibility: Visibility::Window(u32::MAX as usize - 10), ..shape(2, 1, 20) },
    || AttentionShape { visibility: Visibility::Window(usize::MAX / 2), ..shape(2, 2, 8) },
    || AttentionShape { softcap: Some(3.0), ..shape(6, 2, 80) },
    || AttentionShape { visibility: Visibility::Window(40), softcap: Some(5.0), ..shape(2, 1, 130) },
    || AttentionShape { scale: 0.1, ..shape(1, 1, 256) },
    || AttentionShape { visibility: Visibility::Full, ..shape(4, 2, 16) },
    || AttentionShape { visibility: Visibility::Full, softcap: Some(5.0), ..shape(2, 1, 130) },
    || AttentionShape { visibility: Visibility::Around(9), ..shape(3, 3, 20) },
    || AttentionShape { visibility: Visibility::Around(0), ..shape(2, 2, 8) },
];

/// Sinks and slopes of heads, or neither.
fn bias_of<B: Backend>(b: &B, heads: usize, [sinks, slopes]: [bool; 2]) -> HeadBias<B::Buffer> {
    HeadBias {
        sinks: sinks.then(|| b.buffer_of(&data(heads, 51, 3.0))),
        slopes: slopes.then(|| b.buffer_of(&data(heads, 52, 0.2))),
        rounded: false,
    }
}

as_on_the_cpu!(slopes_in_bf16, 1e-5, |b| {
    let mut out = Vec::new();
    for shape in [shape(4, 2, 16), shape(2, 1, 130)] {
        let stride = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let slopes = [0.06f32, 0.011, 0.3, 0.0005].map(|x| half::bf16::from_f32(x).to_f32());
        let bias = HeadBias { slopes: Some(b.buffer_of(&slopes[..shape.heads])), rounded: true, sinks: None };
        // Beyond 256 positions are rounded too.
        let batch = b.batch(&[run(0..300, 0, vec![])], vec![]);
        let qkv = b.buffer_of(&data(300 * stride, 53, 1.0));
        let d_out = b.buffer_of(&data(300 * shape.heads * shape.head_dim, 54, 1.0));
        out.push(filled(b, |out| b.attend(&shape, &bias, &batch, None, &qkv, out)));
        out.push(filled(b, |d| b.attend_backward(&shape, &bias, &batch, &qkv, &d_out, d)));
    }
    out
});

/// Each shape as it is, and some of them with sinks, slopes, and both.
fn biased_shapes() -> impl Iterator<Item = (AttentionShape, [bool; 2])> {
    let plain = SHAPES.iter().map(|shape| (shape(), [false; 2]));
    let some = [0, 1, 4, 6, 7].into_iter().map(|i| SHAPES[i]());
    plain.chain(some.flat_map(|shape| [[true, false], [false, true], [true, true]].map(|bias| (shape, bias))))
}

as_on_the_cpu!(attention_over_several_segments, 4e-6, |b| {
    let mut out = Vec::new();
    for (shape, bias) in biased_shapes() {
        let bias = bias_of(b, shape.heads, bias);
        let stride = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let kv = 2 * shape.kv_heads * shape.head_dim;
        let runs = [
            run(0..53, 0, vec![]),
            run(53..54, 20, vec![Span::Cache(3..23)]),
            run(54..73, 61, vec![Span::Cache(0..40), Span::Rows(10..20), Span::Cache(60..71)]),
            run(73..73, 0, vec![]),
            run(73..90, 33, vec![Span::Rows(0..33)]),
        ];
        let batch = b.batch(&runs, vec![]);
        let (past, qkv) = (b.buffer_of(&data(71 * kv, 25, 1.0)), b.buffer_of(&data(90 * stride, 26, 1.0)));
        out.push(filled(b, |out| b.attend(&shape, &bias, &batch, Some(&past), &qkv, out)));
    }
    out
});

on_every_device!(attention_does_not_depend_on_the_batch, |b| {
    let shape = AttentionShape { visibility: Visibility::Window(50), ..shape(4, 2, 72) };
    let (stride, kv, width) = (8 * 72, 4 * 72, 4 * 72);
    let bias = bias_of(b, 4, [true, true]);
    let mut values = data(150 * stride, 27, 1.0);
    // Rows with NaN after the others must not reach them.
    values[149 * stride..].fill(f32::NAN);
    let batch = b.batch(&[run(0..150, 0, vec![])], vec![]);
    let qkv = b.buffer_of(&values);
    let whole = filled(b, |out| b.attend(&shape, &bias, &batch, None, &qkv, out));
    assert!(whole[..149 * width].iter().all(|x| x.is_finite()));
    assert!(whole[149 * width..].iter().all(|x| x.is_nan()));
    let columns = Columns { stride, start: 4 * 72, width: kv, count: 1 };
    let past = b.copy_columns(columns, &qkv, 0..150);
    for rows in [0..1, 17..18, 61..110, 140..149] {
        let runs =
            [run(0..2, 0, vec![]), run(2..2 + rows.len(), rows.start, vec![Span::Cache(0..rows.start)])];
        let batch = b.batch(&runs, vec![]);
        let mut some = data(2 * stride, 28, 1.0);
        some.extend(&values[rows.start * stride..rows.end * stride]);
        let some = b.buffer_of(&some);
        let part = filled(b, |out| b.attend(&shape, &bias, &batch, Some(&past), &some, out));
        assert_eq!(bits(&part[2 * width..]), bits(&whole[rows.start * width..rows.end * width]), "{rows:?}");
    }
});

as_on_the_cpu!(gradients_of_attention, 5e-6, |b| {
    let mut out = Vec::new();
    for (shape, bias) in biased_shapes() {
        let bias = bias_of(b, shape.heads, bias);
        let stride = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let batch = b.batch(&[run(0..37, 0, vec![]), run(37..38, 0, vec![]), run(38..61, 0, vec![])], vec![]);
        let qkv = b.buffer_of(&data(61 * stride, 29, 1.0));
        let d_out = b.buffer_of(&data(61 * shape.heads * shape.head_dim, 30, 1.0));
        out.push(filled(b, |d| b.attend_backward(&shape, &bias, &batch, &qkv, &d_out, d)));
    }
    out
});

on_every_device!(wider_heads_work_or_are_refused, |b| {
    let shape = AttentionShape { scale: 0.05, ..shape(2, 1, 300) };
    let values = data(21 * 4 * 300, 41, 1.0);
    let attend = |b: &B| {
        let batch = b.batch(&[run(0..21, 0, vec![])], vec![]);
        let qkv = b.buffer_of(&values);
        filled(b, |out| b.attend(&shape, &HeadBias::default(), &batch, None, &qkv, out))
    };
    let want = naive_attention(&shape, [None; 2], &values);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attend(b))) {
        Ok(got) => assert!(difference("wide heads", &got, &want) < 1e-6),
        Err(error) => assert!(error.downcast_ref::<String>().is_some_and(|text| text.contains("300"))),
    }
});

on_every_device!(attention_agrees_with_f64, |b| {
    for (shape, has) in biased_shapes() {
        let bias = bias_of(b, shape.heads, has);
        let stride = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let values = data(61 * stride, 42, 1.0);
        let batch = b.batch(&[run(0..61, 0, vec![])], vec![]);
        let qkv = b.buffer_of(&values);
        let got = filled(b, |out| b.attend(&shape, &bias, &batch, None, &qkv, out));
        let numbers = [bias.sinks.as_ref(), bias.slopes.as_ref()].map(|x| x.map(|x| all(b, x)));
        let error = difference(
            "attention",
            &got,
            &naive_attention(&shape, numbers.each_ref().map(|x| x.as_deref()), &values),
        );
        eprintln!("error {error:.1e} with {shape:?}, sinks and slopes {has:?}");
        assert!(error < 2e-6);
    }
});

/// Attention over one text, in `f64`.
fn naive_attention(shape: &AttentionShape, [sinks, slopes]: [Option<&[f32]>; 2], qkv: &[f32]) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_dim, scale, softcap, visibility } = *shape;
    let stride = (heads + 2 * kv_heads) * head_dim;
    let rows = qkv.len() / stride;
    let vector = |row: usize, head: usize| &qkv[row * stride + head * head_dim..][..head_dim];
    let mut out = Vec::new();
    for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
        let kv = heads + head / (heads / kv_heads);
        let seen = visibility.seen(row, rows);
        let score = |key: usize| {
            let pairs = vector(row, head).iter().zip(vector(key, kv));
            let s = f64::from(scale) * pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let s = softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh());
            let slope = slopes.map_or(0.0, |all| f64::from(all[head]));
            (s + slope * (key as f64 - row as f64)).exp()
        };
        let weights: Vec<f64> = seen.clone().map(score).collect();
        let norm = weights.iter().sum::<f64>() + sinks.map_or(0.0, |all| f64::from(all[head]).exp());
        let of = |d: usize| {
            let values = seen.clone().map(|key| f64::from(vector(key, kv + kv_heads)[d]));
            (values.zip(&weights).map(|(v, w)| v * w).sum::<f64>() / norm) as f32
        };
        out.extend((0..head_dim).map(of));
    }
    out
}

// Reductions

as_on_the_cpu!(sums_and_products_of_rows, 1e-6, |b| {
    let width = 1537;
    let mut values = data(7 * width, 31, 1.0);
    values[3 * width + 5] = f32::NAN;
    let x = b.buffer_of(&values);
    let [h, a, m] = [32, 33, 34].map(|seed| b.buffer_of(&data(7 * width, seed, 1.0)));
    let two = b.buffer_of(&data(2 * width, 35, 1.0));
    let mut out = vec![numbers(b, b.contribution_sums(width, &h, &a, &m))];
    out.push(numbers(b, b.contribution_sums(width, &x, &a, &m)));
    out.push(numbers(b, b.gram(width, &[&h, &a, &m, &h, &x])));
    out.push(numbers(b, b.change_sums(width, &h, &[6, 1, 1], [&a, &m], &[0, 2, 3])));
    out.push(numbers(b, b.row_dots(width, &x, &two)));
    out.push(numbers(b, b.row_dots(width, &h, &h)));
    out.push(numbers(b, b.row_sums(width, &x)));
    out.push(numbers(b, b.column_sums(width, &x)));
    out
});

on_every_device!(numbers_that_are_not_finite_are_found, |b| {
    let mut values = data(100_003, 36, 1.0);
    let sound = b.buffer_of(&values);
    assert!(b.all_finite(&[&sound, &b.empty()]));
    for (at, x) in [(0, f32::NAN), (100_002, f32::INFINITY), (50_000, f32::NEG_INFINITY)] {
        let before = std::mem::replace(&mut values[at], x);
        let x = b.buffer_of(&values);
        assert!(!b.all_finite(&[&sound, &x]));
        values[at] = before;
    }
});

on_every_device!(numbers_are_read_together_in_order, |b| {
    let sums: Vec<_> = (1..6).map(|i| b.row_sums(3, &b.buffer_of(&vec![i as f32; 3 * i]))).collect();
    let want: Vec<Vec<f64>> = (1..6).map(|i| vec![3.0 * i as f64; i]).collect();
    assert_eq!(b.read(sums), want);
    assert_eq!(b.read(vec![]), Vec::<Vec<f64>>::new());
});

// Distributions

as_on_the_cpu!(lenses, 3e-6, |b| {
    let mut out = Vec::new();
    for (vocab, levels, scale) in [(3, 3, 1.0), (1000, 3, 8.0), (20_011, 3, 4.0), (257, 4, 60.0)] {
        let mut logits = data(2 * levels * vocab, 37, scale);
        // One row close to the reference, and one that equals it.
        for i in 0..vocab {
            logits[i] = logits[(levels - 1) * vocab + i] * 1.001 + 3.0;
        }
        logits.copy_within((2 * levels - 1) * vocab.., levels * vocab);
        let logits = b.buffer_of(&logits);
        let tokens: Vec<u32> = (0..2 * levels as u32).map(|row| row * 7 % vocab as u32).collect();
        let numbers = numbers(b, b.lens(vocab, levels, &logits, &tokens));
        // Each column on its own scale.
        for column in 0..LENS_NUMBERS {
            out.push(numbers.iter().skip(column).step_by(LENS_NUMBERS).copied().collect());
        }
        let last = &numbers[(levels - 1) * LENS_NUMBERS..levels * LENS_NUMBERS];
        assert_eq!(last[..3], [0.0; 3]);
        assert_eq!((last[4], last[5]), (vocab.min(5) as f32, 1.0));
        assert!(numbers.as_chunks::<LENS_NUMBERS>().0.iter().all(|row| row[..6].iter().all(|x| *x >= 0.0)));
    }
    out
});

on_every_device!(small_divergences_agree_with_f64, |b| {
    let vocab = 20_011;
    let last = data(vocab, 45, 6.0);
    for gap in [1.0, 0.1, 0.01, 0.001] {
        let first: Vec<f32> = last.iter().zip(data(vocab, 46, gap)).map(|(x, d)| x + d).collect();
        let want = divergences(&first, &last);
        let got = numbers(b, b.lens(vocab, 2, &b.buffer_of(&[&first[..], &last].concat()), &[0, 1]));
        let errors: Vec<f64> = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).collect();
        eprintln!("{want:?}: errors {errors:?}");
        assert!(errors.iter().zip(want).all(|(error, w)| *error < 2e-7 + 2e-6 * w), "{errors:?}");
    }
});

/// `KL(p || q)`, `KL(q || p)` and the Jensen-Shannon divergence in bits of two rows of logits, in `f64`.
fn divergences(x: &[f32], y: &[f32]) -> [f64; 3] {
    let soft = |x: &[f32]| -> Vec<f64> {
        let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
        x.iter().map(|x| f64::from(*x).exp() / sum).collect()
    };
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    let (p, q) = (soft(x), soft(y));
    let mean: Vec<f64> = p.iter().zip(&q).map(|(p, q)| 0.5 * (p + q)).collect();
    [kl(&p, &q), kl(&q, &p), 0.5 * (kl(&p, &mean) + kl(&q, &mean)) / std::f64::consts::LN_2]
}

as_on_the_cpu!(lenses_with_ties_and_nan, 1e-6, |b| {
    let mut logits: Vec<f32> = data(6 * 301, 38, 4.0).into_iter().map(f32::round).collect();
    logits[2 * 301 + 17] = f32::NAN;
    logits[5 * 301 + 299] = 7.0;
    logits[3 * 301 + 5] = -1e30;
    let logits = b.buffer_of(&logits);
    vec![numbers(b, b.lens(301, 2, &logits, &[1, 2, 3, 4, 5, 6]))]
});

as_on_the_cpu!(distances_and_log_probabilities, 2e-6, |b| {
    let vocab = 5003;
    let mut values = data(6 * vocab, 39, 9.0);
    values[4 * vocab] = f32::NAN;
    let logits = b.buffer_of(&values);
    let mut out = vec![numbers(b, b.distances(vocab, &logits, &[0, 0, 1, 5, 3, 4]))];
    assert_eq!(out[0][0], 0.0);
    out.push(numbers(b, b.log_probabilities(vocab, &logits, &[0, 5002, 17, 3, 4, 9])));
    for cap in [None, Some(20.0)] {
        let mut x = b.buffer_of(&values);
        let p = b.probability_backward(vocab, &[0, 5002, 17, 3, 4, 9], cap, &mut x);
        out.push(numbers(b, p));
        out.push(all(b, &x));
    }
    out
});

on_every_device!(gradients_of_likely_tokens_are_accurate, |b| {
    let mut logits = b.buffer_of(&[20.0, 0.0, 1.0]);
    let p = numbers(b, b.probability_backward(3, &[0], None, &mut logits));
    let rest = (-20f64).exp() + (-19f64).exp();
    let want = rest / (1.0 + rest).powi(2);
    let got = all(b, &logits);
    assert!((f64::from(p[0]) - 1.0 / (1.0 + rest)).abs() < 1e-6);
    assert!((f64::from(got[0]) / want - 1.0).abs() < 1e-5, "{got:?}");
});

on_every_device!(the_peak_is_measured, |b| {
    let peak = b.peak(Dtype::F32, 2);
    eprintln!("{:.1} GFLOP/s", 2e-9 * peak);
    assert!(peak > 1e8);
});

as_on_the_cpu!(buffers_are_assigned, 0.0, |b| {
    let x = b.buffer_of(&data(1001, 40, 1.0));
    let mut to = b.buffer_of(&[1.0; 3]);
    b.assign(&x, &mut to);
    b.wait();
    vec![all(b, &to), filled(b, |to| b.assign(&b.empty(), to))]
});
