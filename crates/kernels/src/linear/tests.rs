use super::*;
use crate::element::Element;
use proptest::prelude::*;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn linear(n: usize, k: usize, dtype: Dtype, w: &[f32], bias: Option<Vec<f32>>) -> Linear {
    Linear::pack(n, k, dtype, bias, |rows, block| {
        block.copy_from_slice(&w[rows.start * k..rows.end * k]);
        Ok::<(), OutOfMemory>(())
    })
    .unwrap()
}

/// The product in f64 and, beside each element, the sum of the blocking of its terms.
fn naive(x: &[f32], w: &[f32], bias: Option<&[f32]>, m: usize, n: usize, k: usize) -> Vec<(f64, f64)> {
    let mut y = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = bias.map_or((0.0, 0.0), |b| (f64::from(b[j]), f64::from(b[j].abs())));
            for kk in 0..k {
                let term = f64::from(x[i * k + kk]) * f64::from(w[j * k + kk]);
                sum += term;
                size += term.abs();
            }
            y.push((sum, size));
        }
    }
    y
}

/// The product of a row must have the same bits for any batch and any number of threads.
#[track_caller]
fn check_rows(layer: &Linear) {
    const MOST: usize = 100;
    let (n, k, dtype) = (layer.n, layer.k, layer.dtype);
    let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
    let (one, three) = (threads(1), threads(3));
    let (x, dy) = (numbers(MOST * k, 3), numbers(MOST * n, 4));
    for isa in Isa::available() {
        let (mut y, mut dx) = (vec![f32::NAN; MOST * n], vec![f32::NAN; MOST * k]);
        one.install(|| layer.forward_with(isa, &x, &mut y));
        one.install(|| layer.backward_with(isa, &dy, &mut dx));
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, MOST] {
            let from = MOST - m;
            let (mut y_part, mut dx_part) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
            three.install(|| layer.forward_with(isa, &x[from * k..], &mut y_part));
            three.install(|| layer.backward_with(isa, &dy[from * n..], &mut dx_part));
            assert_eq!(y_part, y[from * n..], "{isa:?}, {m} rows forward, {n} {k} {dtype:?}");
            assert_eq!(dx_part, dx[from * k..], "{isa:?}, {m} rows backward, {n} {k} {dtype:?}");
        }
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_batch_or_threads() {
    let check = |n: usize, k: usize, dtype| {
        check_rows(&linear(n, k, dtype, &numbers(n * k, 1), Some(numbers(n, 2))));
    };
    for (n, k) in [(1, 1), (3, 31), (33, 32), (45, 700), (700, 45), (64, 257)] {
        check(n, k, Dtype::F32);
        check(n, k, Dtype::Bf16);
    }
    // Many rows of exactly one page are copied.
    check(33, 1024, Dtype::F32);
    check(1024, 33, Dtype::F32);
    // Rows so long that a few fit into cache and many do not.
    check(33, 4300, Dtype::F32);
    check(33, 8600, Dtype::Bf16);
}

#[test]
fn long_chains_agree_with_a_naive_product() {
    for (m, n, k) in [(1, 37, 1001), (33, 65, 640), (50, 3, 2049), (70, 1, 1), (30, 40, 1024), (30, 1024, 40)]
    {
        let (mut x, mut w, mut dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        let halves = x.iter_mut().chain(&mut w).chain(&mut dy);
        halves.for_each(|v| *v = bf16::from_f32(*v).to_f32());
        let bias = numbers(n, 4);
        let layers = [Dtype::F32, Dtype::Bf16].map(|dtype| linear(n, k, dtype, &w, Some(bias.clone())));
        let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
        let (forward, backward) = (naive(&x, &w, Some(&bias), m, n, k), naive(&dy, &turned, None, m, k, n));
        for (isa, layer) in Isa::available().into_iter().flat_map(|isa| layers.iter().map(move |l| (isa, l)))
        {
            let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
            layer.forward_with(isa, &x, &mut y);
            layer.backward_with(isa, &dy, &mut dx);
            for (got, (want, size)) in y.iter().zip(&forward).chain(dx.iter().zip(&backward)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 2e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
            }
        }
    }
}

/// A row is followed by infinite ones, so that nothing may be read beyond its end; and an infinite or missing
/// number reaches exactly the elements that it is a part of.
#[test]
fn what_is_not_finite_stays_in_its_row_and_column_of_the_gradient() {
    for (n, k) in [(1, 1), (33, 7), (67, 75), (520, 13), (600, 37)] {
        let mut w = numbers(n * k, 1);
        w.iter_mut().for_each(|w| *w = bf16::from_f32(*w).to_f32());
        w[(n - 1) * k + k / 2] = f32::INFINITY;
        for (dtype, m) in [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|d| [(d, 1), (d, 4), (d, 9)]) {
            let layer = linear(n, k, dtype, &w, None);
            let mut dy = numbers(m * n, 2);
            dy.iter_mut().for_each(|dy| *dy = bf16::from_f32(*dy + 1.5).to_f32());
            (0..m).filter(|i| i % 3 == 1).for_each(|i| dy[i * n] = f32::NAN);
            for isa in Isa::available() {
                let mut dx = vec![0.0; m * k];
                layer.backward_with(isa, &dy, &mut dx);
                for (i, dx) in dx.iter().enumerate() {
                    let (row, column) = (i / k, i % k);
                    match (row % 3 == 1, column == k / 2) {
                        (true, _) => {
                            assert!(dx.is_nan(), "{isa:?}, {dtype:?}, {n} {k}: {dx} at {row}, {column}")
                        }
                        (_, true) => assert_eq!(*dx, f32::INFINITY, "{isa:?}, {dtype:?}, {n} {k}: row {row}"),
                        _ => assert!(dx.is_finite(), "{isa:?}, {dtype:?}, {n} {k}: {dx} at {row}, {column}"),
                    }
                }
            }
        }
    }
}

/// Every height of a tile, widths that end within panels, chains and blocks, and weights in every format.
#[test]
fn gradients_of_few_rows_agree_with_a_naive_product() {
    let bf16_values = |mut v: Vec<f32>| {
        v.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        v
    };
    for (n, k) in [(5, 3), (31, 4), (32, 5), (97, 6), (513, 9), (1030, 11), (515, 41)] {
        let halves = numbers(n * k, 2).iter().map(|w| half::f16::from_f32(*w).to_f32()).collect();
        let floats = numbers(n * k, 3);
        let uppers = bf16_values(numbers(n * k, 4));
        for (dtype, w) in
            [(Dtype::F32, halves), (Dtype::F32, floats), (Dtype::F32, uppers.clone()), (Dtype::Bf16, uppers)]
        {
            let layer = linear(n, k, dtype, &w, None);
            let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
            for m in 1..=9 {
                let dy = bf16_values(numbers(m * n, 5));
                let expected = naive(&dy, &turned, None, m, k, n);
                for isa in Isa::available() {
                    let mut dx = vec![f32::NAN; m * k];
                    layer.backward_with(isa, &dy, &mut dx);
                    for (got, (want, size)) in dx.iter().zip(&expected) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error <= 1e-6 * size + 1e-12,
                            "{isa:?}, {dtype:?}, {m} {n} {k}: {got}, {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Without the instructions for bfloat16, floats take their place: all instruction sets read the same
/// weights and differ by rounding only, also where values are rounded to bfloat16 while they are decoded.
#[test]
fn bfloat16_is_rounded_alike_on_every_instruction_set() {
    let (m, n, k) = (7, 70, 352);
    let w = numbers(n * k, 1);
    let quantised = Linear::pack_quantised(n, k, 32, Dtype::Bf16, None, |rows, blocks| {
        let first = rows.start * k;
        blocks.values.iter_mut().enumerate().for_each(|(i, v)| *v = ((first + i) * 57 % 251) as u8 as i8);
        blocks.scales.fill(1.0 / 128.0);
        blocks.offsets.fill(0.3);
        Ok::<(), OutOfMemory>(())
    });
    for layer in [linear(n, k, Dtype::Bf16, &w, None), quantised.unwrap()] {
        let mut rows = vec![0.0; n * k];
        rows.chunks_exact_mut(k).enumerate().for_each(|(i, row)| layer.row(i, row));
        let (x, dy) = (numbers(m * k, 2), numbers(m * n, 3));
        let rounded = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v).to_f32()).collect::<Vec<_>>();
        let turned: Vec<f32> = (0..n * k).map(|i| rows[i % n * k + i / n]).collect();
        let forward = naive(&rounded(&x), &rows, None, m, n, k);
        let backward = naive(&rounded(&dy), &turned, None, m, k, n);
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
            layer.forward_with(isa, &x, &mut y);
            layer.backward_with(isa, &dy, &mut dx);
            for (got, (want, size)) in y.iter().zip(&forward).chain(dx.iter().zip(&backward)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 1e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
            }
        }
    }
}

#[test]
fn nan_stays_in_its_row_and_column() {
    let (m, n, k) = (35, 67, 75);
    let mut w = numbers(n * k, 1);
    (0..n).for_each(|j| w[j * k + 74] = f32::NAN);
    let layer = linear(n, k, Dtype::Bf16, &w, None);
    for isa in Isa::available() {
        let mut dx = vec![0.0; m * k];
        layer.backward_with(isa, &numbers(m * n, 2), &mut dx);
        for (i, dx) in dx.iter().enumerate() {
            assert_eq!(dx.is_nan(), i % k == 74, "{isa:?}: column {} is {dx}", i % k);
        }
    }
    let mut x = numbers(m * k, 3);
    x[16 * k + 3] = f32::NAN;
    let layer = linear(n, k, Dtype::Bf16, &numbers(n * k, 4), None);
    for isa in Isa::available() {
        let mut y = vec![0.0; m * n];
        layer.forward_with(isa, &x, &mut y);
        for (i, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), i / n == 16, "{isa:?}: row {} is {y}", i / n);
        }
        // The same buffer now holds shorter rows, whose padding must be zero.
        let short = linear(n, 5, Dtype::Bf16, &numbers(n * 5, 5), None);
        layer.forward_with(isa, &vec![f32::NAN; m * k], &mut y);
        short.forward_with(isa, &numbers(m * 5, 6), &mut y);
        assert!(y.iter().all(|y| y.is_finite()), "{isa:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_naive_product(m in 1usize..40, n in 1usize..100, k in 1usize..90, seed: u32, bias: bool, half: bool) {
        let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
        let (mut x, mut w) = (numbers(m * k, seed), numbers(n * k, seed ^ 7));
        if half {
            x.iter_mut().chain(&mut w).for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
        let bias = bias.then(|| numbers(n, seed ^ 9));
        let layer = linear(n, k, dtype, &w, bias.clone());
        let expected = naive(&x, &w, bias.as_deref(), m, n, k);
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; m * n];
            layer.forward_with(isa, &x, &mut y);
            for (got, (want, size)) in y.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() <= 1e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
            }
        }
    }

    #[test]
    fn backward_agrees_with_a_naive_product(m in 1usize..40, n in 1usize..1100, k in 1usize..70, seed: u32, half: bool) {
        let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
        let (mut dy, mut w) = (numbers(m * n, seed), numbers(n * k, seed ^ 7));
        if half {
            dy.iter_mut().chain(&mut w).for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
        let layer = linear(n, k, dtype, &w, Some(numbers(n, seed ^ 9)));
        let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
        let expected = naive(&dy, &turned, None, m, k, n);
        for isa in Isa::available() {
            let mut dx = vec![f32::NAN; m * k];
            layer.backward_with(isa, &dy, &mut dx);
            for (got, (want, size)) in dx.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() <= 2e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
            }
            let mut one = vec![0.0; k];
            layer.backward_with(isa, &dy[(m - 1) * n..], &mut one);
            prop_assert_eq!(&dx[(m - 1) * k..], &one[..]);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch(m in 2usize..60, n in 1usize..70, k in 1usize..70, seed: u32) {
        let x = numbers(m * k, seed);
        let w = numbers(n * k, seed ^ 3);
        let layer = linear(n, k, Dtype::F32, &w, None);
        for isa in Isa::available() {
            let mut all = vec![0.0; m * n];
            layer.forward_with(isa, &x, &mut all);
            for i in 0..m {
                let mut one = vec![0.0; n];
                layer.forward_with(isa, &x[i * k..(i + 1) * k], &mut one);
                prop_assert_eq!(&all[i * n..(i + 1) * n], &one[..]);
            }
        }
    }
}

#[test]
fn rows_are_read_back() {
    let (n, k) = (45, 17);
    let w = numbers(n * k, 5);
    let layer = linear(n, k, Dtype::F32, &w, None);
    let mut row = vec![0.0; k];
    for i in 0..n {
        layer.row(i, &mut row);
        assert_eq!(row, w[i * k..(i + 1) * k]);
    }
}

/// Weights in a smaller storage format must give the same bits as panels.
#[track_caller]
fn check_format<E: Element>(n: usize, k: usize, w: &[f32], stored: Linear, bytes_per_weight: f64) {
    let Ok(weights) = Storage::panels::<E, OutOfMemory>(n, k, |rows, block| {
        block.copy_from_slice(&w[rows.start * k..rows.end * k]);
        Ok(())
    }) else {
        panic!("packing a few megabytes cannot fail")
    };
    let panels = Linear { n, k, dtype: stored.dtype, weights, bias: stored.bias.clone() };
    check_rows(&stored);
    let weights = (n.next_multiple_of(WIDTH) * k) as f64;
    assert_eq!(stored.bytes() as f64, (bytes_per_weight * weights).round());
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (isa, m) in Isa::available().into_iter().flat_map(|isa| [1, 14, 15, 100].map(|m| (isa, m))) {
        let (x, dy) = (numbers(m * k, 1), numbers(m * n, 2));
        let run = |layer: &Linear| {
            let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
            layer.forward_with(isa, &x, &mut y);
            layer.backward_with(isa, &dy, &mut dx);
            [bits(&y), bits(&dx)]
        };
        assert!(run(&stored) == run(&panels), "{isa:?}, {m} rows, {n} by {k}, {bytes_per_weight} bytes");
    }
    for i in 0..n {
        let mut row = vec![f32::NAN; k];
        stored.row(i, &mut row);
        let w = w[i * k..(i + 1) * k].iter().map(|w| E::from_f32(*w).to_f32());
        assert_eq!(bits(&row), bits(&w.collect::<Vec<_>>()));
    }
}

/// Widths below and above a chain, odd ones, some so large that only part of the rows fits into cache, and
/// one whose panels are too long to be decoded whole.
const SHAPES: [(usize, usize); 6] = [(1, 1), (33, 31), (70, 352), (65, 1024), (40, 4300), (33, 8640)];

#[test]
fn sixteen_bit_weights_take_two_bytes_and_are_lossless() {
    for (n, k) in SHAPES {
        let bias = Some(numbers(n, 3));
        let upper: Vec<f32> = numbers(n * k, 4).iter().map(|w| bf16::from_f32(*w).to_f32()).collect();
        check_format::<f32>(n, k, &upper, linear(n, k, Dtype::F32, &upper, bias.clone()), 2.0);
        // Some of these are subnormal in half precision.
        let half = |w: &f32| half::f16::from_f32(w.powi(9)).to_f32();
        let halves: Vec<f32> = numbers(n * k, 5).iter().map(half).collect();
        check_format::<f32>(n, k, &halves, linear(n, k, Dtype::F32, &halves, bias), 2.0);
    }
}

#[test]
fn one_weight_with_more_digits_keeps_all_in_f32() {
    let (n, k) = (70, 40);
    for weight in [1.0 + f32::EPSILON, f32::MIN_POSITIVE, 1e38, 0.1] {
        let mut w = vec![0.5; n * k];
        *w.last_mut().unwrap() = weight;
        let bytes = if weight == f32::MIN_POSITIVE { 2.0 } else { 4.0 };
        let stored = linear(n, k, Dtype::F32, &w, None);
        assert_eq!(stored.bytes() as f64, bytes * (96 * k) as f64, "{weight}");
    }
}

#[test]
fn quantised_weights_are_lossless() {
    // Blocks of 24 and 96 columns begin and end within steps, chains and the blocks of the backward pass.
    for (n, k, columns) in [
        (1, 4, 4),
        (40, 96, 12),
        (70, 352, 32),
        (350, 1152, 24),
        (65, 1024, 16),
        (66, 768, 96),
        (40, 4320, 16),
        (33, 8640, 32),
    ] {
        for integers in INTEGERS {
            check_quantised(n, k, columns, integers);
        }
    }
}

/// Eight bits, signed and unsigned ones of four, the floats of MXFP4 doubled, and 16 integers that no format has.
const INTEGERS: [fn(usize) -> i8; 5] = [
    |i| (i % 256) as u8 as i8,
    |i| (i % 16) as i8 - 8,
    |i| (i % 16) as i8,
    |i| [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12][i % 16],
    |i| (i % 16) as i8 * 8,
];

fn check_quantised(n: usize, k: usize, columns: usize, integers: fn(usize) -> i8) {
    let count = k / columns;
    // A value times its scale is exact, as in the real formats.
    let value = |j: usize, kk: usize| integers(j * 89 + kk * 57);
    let scale = |j: usize, b: usize| ((j * 31 + b * 17) % 100) as f32 / 1024.0 - 0.05;
    let scale = |j: usize, b: usize| bf16::from_f32(scale(j, b)).to_f32();
    let offset = |j: usize, b: usize| ((j + b * 7) % 13) as f32 / 7.0;
    let weight = |i: usize| {
        let (j, kk) = (i / k, i % k);
        f32::from(value(j, kk)).mul_add(scale(j, kk / columns), offset(j, kk / columns))
    };
    let w: Vec<f32> = (0..n * k).map(weight).collect();
    let pack = |dtype| {
        let stored = Linear::pack_quantised(n, k, columns, dtype, Some(numbers(n, 1)), |rows, blocks| {
            let place = |i: usize, width: usize| (rows.start + i / width, i % width);
            for (i, v) in blocks.values.iter_mut().enumerate() {
                *v = value(place(i, k).0, place(i, k).1);
            }
            for (i, (s, o)) in blocks.scales.iter_mut().zip(blocks.offsets).enumerate() {
                let (j, b) = place(i, count);
                (*s, *o) = (scale(j, b), offset(j, b));
            }
            Ok::<(), OutOfMemory>(())
        });
        stored.unwrap()
    };
    let present: Vec<i8> = (0..n * k).map(|i| value(i / k, i % k)).collect();
    let within = |low, high| present.iter().all(|v| (low..=high).contains(v));
    let coded =
        within(-8, 7) || within(0, 15) || present.iter().all(|v| (0..16).any(|i| INTEGERS[3](i) == *v));
    let bytes = if coded { 0.5 } else { 1.0 } + 8.0 / columns as f64;
    check_format::<f32>(n, k, &w, pack(Dtype::F32), bytes);
    if k.is_multiple_of(WIDTH) {
        check_format::<bf16>(n, k, &w, pack(Dtype::Bf16), bytes);
    }
}

#[test]
#[should_panic(expected = "blocks must fill rows")]
fn blocks_that_do_not_fill_rows_are_refused() {
    let _ = Linear::pack_quantised(4, 40, 16, Dtype::F32, None, |_, _| Ok::<(), OutOfMemory>(()));
}

#[derive(Debug, PartialEq)]
enum PackError {
    Read,
    Memory(OutOfMemory),
}

impl From<OutOfMemory> for PackError {
    fn from(error: OutOfMemory) -> Self {
        Self::Memory(error)
    }
}

#[test]
fn an_error_while_packing_is_returned() {
    let fill = |rows: Range<usize>, _: &mut [f32]| match rows.start {
        32 => Err(PackError::Read),
        _ => Ok(()),
    };
    let result = Linear::pack(40, 4, Dtype::F32, None, fill);
    assert_eq!(result.err(), Some(PackError::Read));
}

/// Within the address space, but more than any system has.
#[test]
fn a_matrix_without_memory_is_an_error() {
    let (n, k) = (1 << 30, 1 << 30);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let result = Linear::pack(n, k, dtype, None, |_, _| Ok::<(), PackError>(()));
        let Some(PackError::Memory(error)) = result.err() else { panic!("this memory cannot exist") };
        assert!(error.bytes >= n * k);
    }
}
