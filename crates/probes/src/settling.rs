//! The layer at which the prediction of each token settles, and the deep-thinking ratio (arXiv 2602.13517).

use crate::lens::Points;
use fathom_results::{SETTLING_THRESHOLD_BITS, Settling, SettlingSample};

/// The share of the depth from which a settle layer counts as deep.
pub const DEEP_SHARE: f64 = 0.85;

/// Measures one prompt.
pub fn measure(points: &Points) -> SettlingSample {
    let settles = |token: &Vec<crate::lens::Point>| {
        token.iter().position(|p| p.divergence.jsd_bits <= SETTLING_THRESHOLD_BITS).unwrap_or(token.len())
    };
    SettlingSample { layers: points.iter().map(settles).collect() }
}

/// Combines prompts of a model with `depth` layers.
pub fn summarise(samples: &[&SettlingSample], depth: usize) -> Settling {
    let deep_layer = (DEEP_SHARE * depth as f64).ceil() as usize;
    let mut histogram = vec![0; depth + 1];
    let mut sum = 0;
    for layer in samples.iter().flat_map(|s| &s.layers) {
        histogram[(*layer).min(depth)] += 1;
        sum += layer;
    }
    let tokens: u64 = histogram.iter().sum();
    let deep: u64 = histogram.iter().skip(deep_layer).sum();
    Settling {
        mean_settle_layer: sum as f64 / tokens as f64,
        deep_thinking_ratio: deep as f64 / tokens as f64,
        threshold_bits: SETTLING_THRESHOLD_BITS,
        deep_layer,
        histogram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::Point;
    use fathom_kernels::distribution::Divergence;

    #[test]
    fn tokens_settle_at_the_first_fall_of_the_divergence() {
        let token = |jsd: &[f64]| {
            let point = |j: &f64| Point {
                divergence: Divergence { jsd_bits: *j, ..Divergence::default() },
                ..Point::default()
            };
            jsd.iter().map(point).collect::<Vec<_>>()
        };
        // The first fall counts, even if the divergence rises later.
        let sample = measure(&vec![token(&[0.9, 0.4, 0.8, 0.0]), token(&[0.9, 0.9, 0.51, 0.0])]);
        assert_eq!(sample.layers, [1, 3]);
        let s = summarise(&[&sample], 3);
        assert_eq!((s.mean_settle_layer, s.deep_thinking_ratio, s.deep_layer), (2.0, 0.5, 3));
        assert_eq!(s.histogram, [0, 1, 0, 1]);
    }
}
