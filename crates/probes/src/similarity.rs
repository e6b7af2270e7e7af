//! Similarity of the residual stream at different depths: block influence (arXiv 2403.03853) and angular
//! distance of blocks (arXiv 2403.17887).

use crate::vector::cosine;
use fathom_model::{Backend, Trace};
use fathom_results::Similarity;

/// The work of [`measure`]: dot products of residual vectors.
pub(crate) fn plan(depth: usize, tokens: usize, hidden: usize) -> crate::Work {
    crate::Work::plain(0, ((depth + 1) * (depth + 2) / 2 * tokens * hidden) as u64)
}

/// Measures one prompt.
pub fn measure<B: Backend>(on: &B, trace: &Trace<B>) -> Similarity {
    let levels = trace.resid.len();
    let tokens = trace.tokens.len();
    let products = on.gram(trace.hidden, &trace.resid.iter().collect::<Vec<_>>());
    let products = on.read(vec![products]).concat();
    let pairs = levels * (levels + 1) / 2;
    let per_token: Vec<Vec<f64>> =
        products.chunks_exact(pairs).map(|products| cosines(products, levels)).collect();
    let mut s = Similarity {
        angular_last: triangle(levels, |_, _| f64::NAN),
        angular_mean: triangle(levels, |_, _| 0.0),
        ..Similarity::default()
    };
    let mut cosine_sums = vec![0.0; levels - 1];
    let mut left_out = triangle(levels, |_, _| 0);
    for (t, cosines) in per_token.iter().enumerate() {
        let mut each = cosines.iter();
        for n in 1..levels {
            for (l, cos) in each.by_ref().take(levels - n).enumerate() {
                if cos.is_nan() {
                    left_out[n - 1][l] += 1;
                    continue;
                }
                let angle = cos.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
                s.angular_mean[n - 1][l] += angle;
                if t + 1 == tokens {
                    s.angular_last[n - 1][l] = angle;
                }
                if n == 1 {
                    cosine_sums[l] += cos;
                }
            }
        }
    }
    let counted = |n: usize, l: usize| (tokens - left_out[n - 1][l]).max(1) as f64;
    for (row, n) in s.angular_mean.iter_mut().zip(1..) {
        row.iter_mut().enumerate().for_each(|(l, sum)| *sum /= counted(n, l));
    }
    s.block_influence = cosine_sums.iter().enumerate().map(|(l, sum)| 1.0 - sum / counted(1, l)).collect();
    if left_out.iter().flatten().any(|n| *n > 0) {
        s.left_out = left_out;
    }
    s
}

fn triangle<T>(levels: usize, value: impl Fn(usize, usize) -> T) -> Vec<Vec<T>> {
    (1..levels).map(|n| (0..levels - n).map(|l| value(n, l)).collect()).collect()
}

/// cos(h_l, h_{l+n}) of one token, for n from 1 and l from 0, row by row, from the scalar products of all
/// pairs of levels; NaN where a residual vector is zero.
fn cosines(products: &[f64], levels: usize) -> Vec<f64> {
    // Rows of the upper triangle, each from the diagonal on.
    let product = |i: usize, j: usize| products[i * levels - i * (i + 1) / 2 + j];
    let norms: Vec<f64> = (0..levels).map(|l| product(l, l).sqrt()).collect();
    let cos = |n: usize, l: usize| match norms[l] == 0.0 || norms[l + n] == 0.0 {
        true => f64::NAN,
        false => cosine(product(l, l + n), norms[l], norms[l + n]),
    };
    triangle(levels, cos).concat()
}

/// Combines prompts, weighted by tokens; `angular_last` has one token per prompt.
pub fn summarise(samples: &[(&Similarity, usize)]) -> Similarity {
    let levels = samples.iter().map(|(s, _)| s.block_influence.len() + 1).max().unwrap_or(1);
    let left_out = |s: &Similarity, n: usize, l: usize| {
        s.left_out.get(n - 1).and_then(|row| row.get(l)).copied().unwrap_or(0)
    };
    // The mean of the present values, weighted by their number of tokens.
    let mean = |n: usize, l: usize, value: &dyn Fn(&Similarity) -> Option<f64>| {
        let of = |(s, tokens): &(&Similarity, usize)| Some((value(s)?, (tokens - left_out(s, n, l)) as f64));
        let parts: Vec<(f64, f64)> = samples.iter().filter_map(of).collect();
        let total: f64 = parts.iter().map(|part| part.1).sum();
        parts.iter().map(|(value, weight)| weight / total.max(1.0) * value).sum::<f64>()
    };
    let at = |rows: &[Vec<f64>], n: usize, l: usize| rows.get(n - 1).and_then(|row| row.get(l)).copied();
    let last = |n: usize, l: usize| {
        let values = samples.iter().filter_map(|(s, _)| at(&s.angular_last, n, l)).filter(|x| !x.is_nan());
        let count = values.clone().count();
        if count == 0 { f64::NAN } else { values.map(|x| x / count as f64).sum() }
    };
    let counts = triangle(levels, |n, l| samples.iter().map(|(s, _)| left_out(s, n, l)).sum::<usize>());
    Similarity {
        block_influence: (0..levels - 1)
            .map(|l| mean(1, l, &|s| s.block_influence.get(l).copied()))
            .collect(),
        angular_last: triangle(levels, last),
        angular_mean: triangle(levels, |n, l| mean(n, l, &|s| at(&s.angular_mean, n, l))),
        left_out: if counts.iter().flatten().any(|n| *n > 0) { counts } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use fathom_model::Cpu;

    #[test]
    fn angles_computed_by_hand() {
        let trace = Trace {
            tokens: vec![1, 2],
            hidden: 2,
            resid: [[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 1.0, 1.0], [-3.0, 0.0, 5.0, 0.0]]
                .map(|level| level.to_vec().into())
                .into(),
            attn_out: vec![],
            mlp_out: vec![],
            kv_cache: vec![],
            token_inputs: vec![],
            post_norm: vec![],
            routes: vec![],
            without: Default::default(),
        };
        let s = measure(&Cpu, &trace);
        let half = 1.0 / 2f64.sqrt();
        assert_relative_eq!(s.block_influence[0], 1.0 - half / 2.0, epsilon = 1e-12);
        assert_relative_eq!(s.angular_last[0][0], 0.25, epsilon = 1e-12);
        assert_relative_eq!(s.angular_mean[0][0], (0.5 + 0.25) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(s.angular_mean[1][0], (1.0 + 0.0) / 2.0, epsilon = 1e-12);
        assert_eq!(s.angular_mean.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
