//! How the streams at different depths resemble each other: block influence
//! (arXiv 2403.03853) and angular distance of blocks (arXiv 2403.17887).

use crate::number::add_weighted;
use crate::vector::{cosine, dot};
use fathom_model::Trace;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The probe on one prompt, and over all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// `1 - mean cos(h_l, h_{l+1})`, `[L]`.
    pub block_influence: Vec<f64>,
    /// `arccos(cos(h_l, h_{l+n})) / pi` at the last token, `[n - 1][l]` with `l <= L - n`.
    pub angular_last: Vec<Vec<f64>>,
    /// The same as a mean over all tokens.
    pub angular_mean: Vec<Vec<f64>>,
}

/// The work of [`measure`]: products of vectors of the stream.
pub(crate) fn plan(depth: usize, tokens: usize, hidden: usize) -> crate::Work {
    crate::Work::plain(0, ((depth + 1) * (depth + 2) / 2 * tokens * hidden) as u64)
}

/// Measures one prompt.
pub fn measure(trace: &Trace) -> Similarity {
    let levels = trace.resid.len();
    let tokens = trace.tokens.len();
    let per_token: Vec<Vec<f64>> = (0..tokens).into_par_iter().map(|t| cosines(trace, t)).collect();
    let share = 1.0 / tokens as f64;
    let mut s = Similarity {
        block_influence: vec![1.0; levels - 1],
        angular_last: triangle(levels, |_, _| 0.0),
        angular_mean: triangle(levels, |_, _| 0.0),
    };
    for (t, cosines) in per_token.iter().enumerate() {
        let mut each = cosines.iter();
        for n in 1..levels {
            for (l, cos) in each.by_ref().take(levels - n).enumerate() {
                let angle = cos.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
                s.angular_mean[n - 1][l] += share * angle;
                if t + 1 == tokens {
                    s.angular_last[n - 1][l] = angle;
                }
                if n == 1 {
                    s.block_influence[l] -= share * cos;
                }
            }
        }
    }
    s
}

fn triangle(levels: usize, value: impl Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
    (1..levels).map(|n| (0..levels - n).map(|l| value(n, l)).collect()).collect()
}

/// cos(h_l, h_{l+n}) of one token, for n from 1 and l from 0, row after row.
fn cosines(trace: &Trace, t: usize) -> Vec<f64> {
    let d = trace.hidden;
    let rows: Vec<&[f32]> = trace.resid.iter().map(|h| &h[t * d..(t + 1) * d]).collect();
    let norms: Vec<f64> = rows.iter().map(|h| dot(h, h).sqrt()).collect();
    let cos = |n: usize, l: usize| cosine(dot(rows[l], rows[l + n]), norms[l], norms[l + n]);
    triangle(rows.len(), cos).concat()
}

/// Puts prompts together: token-weighted, but for `angular_last`, which has one
/// token a prompt.
pub fn summarise(samples: &[(&Similarity, usize)]) -> Similarity {
    let total: usize = samples.iter().map(|s| s.1).sum();
    let mut all = Similarity::default();
    let grow = |sum: &mut Vec<Vec<f64>>, rows: &[Vec<f64>], weight: f64| {
        sum.resize(sum.len().max(rows.len()), Vec::new());
        sum.iter_mut().zip(rows).for_each(|(s, r)| add_weighted(s, r, weight));
    };
    for (s, tokens) in samples {
        let weight = *tokens as f64 / total as f64;
        add_weighted(&mut all.block_influence, &s.block_influence, weight);
        grow(&mut all.angular_mean, &s.angular_mean, weight);
        grow(&mut all.angular_last, &s.angular_last, 1.0 / samples.len() as f64);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn angles_worked_out_by_hand() {
        let trace = Trace {
            tokens: vec![1, 2],
            hidden: 2,
            resid: vec![vec![1.0, 0.0, 2.0, 0.0], vec![0.0, 1.0, 1.0, 1.0], vec![-3.0, 0.0, 5.0, 0.0]],
            ..Trace::default()
        };
        let s = measure(&trace);
        let half = 1.0 / 2f64.sqrt();
        assert_relative_eq!(s.block_influence[0], 1.0 - half / 2.0, epsilon = 1e-12);
        assert_relative_eq!(s.angular_last[0][0], 0.25, epsilon = 1e-12);
        assert_relative_eq!(s.angular_mean[0][0], (0.5 + 0.25) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(s.angular_mean[1][0], (1.0 + 0.0) / 2.0, epsilon = 1e-12);
        assert_eq!(s.angular_mean.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
