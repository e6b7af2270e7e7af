use super::*;

/// Numbers between -1 and 1.
pub(crate) fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// `x A + b`, A `[k, n]` row-major.
pub(crate) fn apply(x: &[f32], a: &[f64], b: &[f64]) -> Vec<f32> {
    let (n, k) = (b.len(), a.len() / b.len());
    let row = |row: &[f32]| -> Vec<f32> {
        let at = |j: usize| (0..k).map(|i| f64::from(row[i]) * a[i * n + j]).sum::<f64>() + b[j];
        (0..n).map(|j| at(j) as f32).collect()
    };
    x.chunks(k).flat_map(row).collect()
}

fn doubles(len: usize, seed: u32) -> Vec<f64> {
    numbers(len, seed).into_iter().map(f64::from).collect()
}

#[test]
fn a_planted_map_is_found_exactly() {
    for (k, n) in [(5, 5), (67, 130), (200, 3)] {
        for intercept in [Intercept::None, Intercept::Fitted] {
            let a = doubles(k * n, 7);
            let b = if intercept == Intercept::Fitted { doubles(n, 8) } else { vec![0.0; n] };
            let mut gram = Gram::new(k, n, intercept);
            for seed in 0..4 {
                let x = numbers(100 * k, seed);
                gram.add(&x, &apply(&x, &a, &b));
            }
            let map = gram.solve(0.0).unwrap();
            let close =
                |found: &[f64], planted: &[f64]| found.iter().zip(planted).all(|(f, p)| (f - p).abs() < 1e-5);
            assert!(close(&map.weight(), &a) && close(map.bias(), &b), "{k} {n} {intercept:?}");
            assert!(gram.error(&map) < 1e-10);
            assert_eq!(gram.tokens(), 400);
        }
    }
}

/// The normal equations of the whole problem, intercept as a column of ones, by nalgebra's LU.
#[test]
fn solutions_are_those_of_a_dense_solver() {
    let (k, n, tokens) = (150, 4, 300);
    let (x, z) = (numbers(tokens * k, 1), numbers(tokens * n, 2));
    let mut gram = Gram::new(k, n, Intercept::Fitted);
    gram.add(&x[..100 * k], &z[..100 * n]);
    gram.add(&x[100 * k..], &z[100 * n..]);
    let penalty = 1e-2;
    let map = gram.solve(penalty).unwrap();
    let dense =
        |x: &[f32], width: usize| DMatrix::from_row_iterator(tokens, width, x.iter().map(|x| f64::from(*x)));
    let (x, z) = (dense(&x, k), dense(&z, n));
    let centred = &x - DMatrix::from_fn(tokens, k, |_, j| x.column(j).mean());
    let ridge = penalty * (centred.transpose() * &centred).trace() / k as f64;
    let ones = x.clone().insert_column(k, 1.0);
    let mut normal = ones.transpose() * &ones;
    (0..k).for_each(|i| normal[(i, i)] += ridge);
    let expected = normal.lu().solve(&(ones.transpose() * &z)).unwrap();
    for j in 0..n {
        for i in 0..k {
            assert!((map.weight[(i, j)] - expected[(i, j)]).abs() < 1e-10, "{i} {j}");
        }
        assert!((map.bias[j] - expected[(k, j)]).abs() < 1e-10);
    }
    // The error is that of the residuals.
    let residual = (&ones * &expected - &z).norm_squared() / z.norm_squared();
    assert!((gram.error(&map) - residual).abs() < 1e-10);
}

#[test]
fn nothing_fits_what_vanishes() {
    let mut gram = Gram::new(3, 3, Intercept::None);
    gram.add(&[0.0; 9], &[1.0; 9]);
    assert!(gram.solve(0.1).is_none());
    gram.add(&[f32::NAN; 9], &[1.0; 9]);
    assert!(gram.solve(0.1).is_none());
}

#[test]
fn noise_is_given_a_penalty_and_a_relation_none() {
    let (k, n) = (20, 2);
    let (mut noise, mut relation) = (Fit::new(k, n, Intercept::Fitted), Fit::new(k, n, Intercept::Fitted));
    let (a, b) = (doubles(k * n, 7), doubles(n, 8));
    for seed in 0..10 {
        let x = numbers(6 * k, seed);
        noise.add(&x, &numbers(6 * n, 100 + seed));
        relation.add(&x, &apply(&x, &a, &b));
    }
    assert_eq!(noise.choose(n)[0].unwrap().0, 0.1);
    let fitted = relation.solve().unwrap();
    assert!(fitted.penalty <= 1e-6 && fitted.error < 1e-9, "{fitted:?}");
    // With so few tokens, what fits noise predicts worse than nothing.
    assert!(noise.solve().unwrap().error > 0.9);
}

#[test]
fn all_cores_and_one_give_the_same_bits() {
    let (k, n) = (130, 70);
    let solve = || {
        let mut fit = Fit::new(k, n, Intercept::Fitted);
        (0..10).for_each(|seed| fit.add(&numbers(40 * k, seed), &numbers(40 * n, 50 + seed)));
        fit.solve().unwrap().map
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(one.install(solve), three.install(solve));
}
