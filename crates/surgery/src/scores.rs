//! Candidates read off the clean runs: layers of least influence, blocks of least angular distance.

use crate::Removal;
use fathom_kernels::backend::CONTRIBUTION_SUMS;
use fathom_model::{Backend, Trace};
use fathom_results::SkipPart;

/// Block influence of every unit over the tokens of some texts: 1 minus the mean cosine between the stream before and
/// after it (ShortGPT, arXiv 2403.03853; for sublayers LLM-Drop, arXiv 2406.15786).
#[derive(Clone, Debug, PartialEq)]
pub struct Influence {
    unit: SkipPart,
    /// Sums of cosines, `[L]`.
    sums: Vec<f64>,
    tokens: u64,
}

impl Influence {
    /// No texts yet.
    pub fn new(unit: SkipPart, depth: usize) -> Self {
        Self { unit, sums: vec![0.0; depth], tokens: 0 }
    }

    /// Adds the tokens of a clean run.
    pub fn add<B: Backend>(&mut self, on: &B, trace: &Trace<B>) {
        let layers = (0..trace.depth()).map(|l| {
            on.contribution_sums(trace.hidden, &trace.resid[l], &trace.attn_out[l], &trace.mlp_out[l])
        });
        let layers = on.read(layers.collect());
        for (sum, products) in self.sums.iter_mut().zip(&layers) {
            *sum += products.as_chunks().0.iter().map(|p| cosine(self.unit, p)).sum::<f64>();
        }
        self.tokens += trace.tokens.len() as u64;
    }

    /// The influence of each unit, `[L]`.
    pub fn values(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| 1.0 - sum / self.tokens.max(1) as f64).collect()
    }
}

/// The cosine between what a unit reads of the stream and what it leaves, at one token. A stream of zeros has none;
/// it counts as unchanged.
fn cosine(unit: SkipPart, products: &[f64; CONTRIBUTION_SUMS]) -> f64 {
    let [h_h, mid_mid, _, m_m, d_d, a_h, m_mid, d_h] = *products;
    let out_out = h_h + 2.0 * d_h + d_d;
    let (product, norms) = match unit {
        SkipPart::Layer => (h_h + d_h, h_h * out_out),
        SkipPart::Attn => (h_h + a_h, h_h * mid_mid),
        SkipPart::Mlp => (mid_mid + m_mid, mid_mid * (mid_mid + 2.0 * m_mid + m_m)),
    };
    if norms > 0.0 { product / norms.sqrt() } else { 1.0 }
}

/// The `count` units of least score, the lower layer first where scores are equal. Scores that are not numbers are
/// never least.
pub fn least(unit: SkipPart, scores: &[f64], count: usize) -> Option<Removal> {
    let mut layers: Vec<usize> = (0..scores.len()).filter(|l| !scores[*l].is_nan()).collect();
    layers.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let layers = layers.get(..count)?;
    Removal::new(unit, layers.iter().copied()).ok()
}

/// The contiguous block of `count` layers of least angular distance `distances[count - 1][l]` between the stream
/// before and after it (arXiv 2403.17887).
pub fn least_angular(distances: &[Vec<f64>], count: usize) -> Option<Removal> {
    let starts = distances.get(count.checked_sub(1)?)?.iter().enumerate().filter(|(_, d)| !d.is_nan());
    let (start, _) = starts.min_by(|a, b| a.1.total_cmp(b.1))?;
    Some(Removal::block(SkipPart::Layer, start..start + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_are_chosen() {
        let scores = [0.3, f64::NAN, 0.1, 0.1, 0.2];
        let least = |count| least(SkipPart::Attn, &scores, count).map(|r| r.layers().to_vec());
        assert_eq!(least(2), Some(vec![2, 3]));
        assert_eq!(least(3), Some(vec![2, 3, 4]));
        assert_eq!(least(5), None);
        let distances = [vec![0.2, 0.1, 0.3], vec![f64::NAN, 0.4]];
        let blocks = [1, 2, 3].map(|n| least_angular(&distances, n).map(|r| r.ranges()));
        assert_eq!(blocks, [Some(vec![[1, 2]]), Some(vec![[1, 3]]), None]);
        assert_eq!(least_angular(&distances, 0), None);
    }

    #[test]
    fn cosines_by_hand() {
        // h = (1, 0), a = (0, 1), m = (-1, 0).
        let (h_h, mid_mid, a_a, m_m) = (1.0, 2.0, 1.0, 1.0);
        let (d_d, a_h, m_mid, d_h) = (2.0, 0.0, -1.0, -1.0);
        let products = [h_h, mid_mid, a_a, m_m, d_d, a_h, m_mid, d_h];
        // The stream goes from (1, 0) by (1, 1) to (0, 1).
        let half = 0.5f64.sqrt();
        for (unit, expected) in [(SkipPart::Layer, 0.0), (SkipPart::Attn, half), (SkipPart::Mlp, half)] {
            assert!((cosine(unit, &products) - expected).abs() < 1e-15, "{unit:?}");
        }
        assert_eq!(cosine(SkipPart::Layer, &[0.0; 8]), 1.0);
    }
}
