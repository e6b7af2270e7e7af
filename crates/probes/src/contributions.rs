//! What each sublayer adds to the stream (arXiv 2505.13898): relative norms
//! |a|/|h|, |m|/|h+a|, |D|/|h| and cosines cos(a,h), cos(m,h+a), cos(D,h).

use crate::number::{add_weighted, median, short};
use crate::vector::{SMALLEST, cosine, dot};
use fathom_model::Trace;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// One thing of attention, one of the MLP, one of the whole layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// Of attention: a against h.
    pub attn: T,
    /// Of the MLP: m against h + a.
    pub mlp: T,
    /// Of the layer: D = a + m against h.
    pub layer: T,
}

/// A quantity on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerToken {
    /// Mean over tokens, `[L]`.
    pub mean: Vec<f64>,
    /// Every token's value to five digits, `[L][T]`.
    pub tokens: Vec<Vec<f64>>,
}

/// The probe on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Norm of what is added, relative to the stream.
    pub relative_norm: Parts<PerToken>,
    /// Cosine of what is added with the stream.
    pub cosine: Parts<PerToken>,
}

/// A quantity over all tokens of all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Average {
    /// Mean, `[L]`.
    pub mean: Vec<f64>,
    /// Median, `[L]`: a few tokens, mostly the first, carry enormous norms and
    /// pull the mean.
    pub median: Vec<f64>,
}

/// The probe over all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Norm of what is added, relative to the stream.
    pub relative_norm: Parts<Average>,
    /// Cosine of what is added with the stream.
    pub cosine: Parts<Average>,
}

/// Relative norms of attn, mlp, layer, then their cosines.
type Values = [f64; 6];

/// The work of [`measure`]: products of vectors of the stream.
pub(crate) fn plan(depth: usize, tokens: usize, hidden: usize) -> crate::Work {
    crate::Work::plain(0, (8 * depth * tokens * hidden) as u64)
}

/// Measures one prompt.
pub fn measure(trace: &Trace) -> Sample {
    let d = trace.hidden;
    let layers: Vec<Vec<Values>> = (0..trace.attn_out.len())
        .into_par_iter()
        .map(|l| {
            let h = trace.resid[l].chunks_exact(d);
            let a = trace.attn_out[l].chunks_exact(d);
            let m = trace.mlp_out[l].chunks_exact(d);
            h.zip(a).zip(m).map(|((h, a), m)| values(h, a, m)).collect()
        })
        .collect();
    let pick = |which: usize| PerToken {
        mean: layers.iter().map(|t| t.iter().map(|v| v[which]).sum::<f64>() / t.len() as f64).collect(),
        tokens: layers.iter().map(|t| t.iter().map(|v| short(v[which])).collect()).collect(),
    };
    let parts = |first: usize| Parts { attn: pick(first), mlp: pick(first + 1), layer: pick(first + 2) };
    Sample { relative_norm: parts(0), cosine: parts(3) }
}

fn values(h: &[f32], a: &[f32], m: &[f32]) -> Values {
    let mid: Vec<f32> = h.iter().zip(a).map(|(h, a)| h + a).collect();
    let added: Vec<f32> = a.iter().zip(m).map(|(a, m)| a + m).collect();
    let norm = |x: &[f32]| dot(x, x).sqrt();
    let (h_norm, mid_norm) = (norm(h), norm(&mid));
    let (a_norm, m_norm, added_norm) = (norm(a), norm(m), norm(&added));
    [
        a_norm / h_norm.max(SMALLEST),
        m_norm / mid_norm.max(SMALLEST),
        added_norm / h_norm.max(SMALLEST),
        cosine(dot(a, h), a_norm, h_norm),
        cosine(dot(m, &mid), m_norm, mid_norm),
        cosine(dot(&added, h), added_norm, h_norm),
    ]
}

/// Puts prompts together: means weighted by tokens, medians over all tokens.
pub fn summarise(samples: &[&Sample]) -> Summary {
    let parts = |pick: &dyn Fn(&Sample) -> &Parts<PerToken>| Parts {
        attn: average(samples, |s| &pick(s).attn),
        mlp: average(samples, |s| &pick(s).mlp),
        layer: average(samples, |s| &pick(s).layer),
    };
    Summary { relative_norm: parts(&|s| &s.relative_norm), cosine: parts(&|s| &s.cosine) }
}

fn average(samples: &[&Sample], pick: impl Fn(&Sample) -> &PerToken) -> Average {
    let tokens = |s: &Sample| pick(s).tokens.first().map_or(0, Vec::len) as f64;
    let total: f64 = samples.iter().map(|s| tokens(s)).sum();
    let mut mean = Vec::new();
    for sample in samples {
        add_weighted(&mut mean, &pick(sample).mean, tokens(sample) / total);
    }
    let median = (0..mean.len())
        .map(|l| {
            let mut all: Vec<f64> =
                samples.iter().filter_map(|s| pick(s).tokens.get(l)).flatten().copied().collect();
            median(&mut all)
        })
        .collect();
    Average { mean, median }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    /// Two tokens, two dimensions, one layer, worked out by hand.
    #[test]
    fn a_layer_worked_out_by_hand() {
        let trace = Trace {
            tokens: vec![1, 2],
            hidden: 2,
            resid: vec![vec![3.0, 4.0, 1.0, 0.0], vec![0.0, 0.0, 1.0, 0.0]],
            attn_out: vec![vec![0.0, 1.0, 0.0, 2.0]],
            mlp_out: vec![vec![-3.0, -5.0, 0.0, -2.0]],
            keys_values: vec![],
        };
        let s = measure(&trace);
        let n = &s.relative_norm;
        assert_relative_eq!(n.attn.mean[0], (0.2 + 2.0) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(n.mlp.mean[0], (1.0 + 2.0 / 5f64.sqrt()) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(n.layer.mean[0], (1.0 + 0.0) / 2.0, epsilon = 1e-12);
        let c = &s.cosine;
        assert_relative_eq!(c.attn.mean[0], (0.8 + 0.0) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(c.mlp.tokens[0][0], -1.0);
        // Nothing added has no direction.
        assert_eq!(c.layer.tokens[0], [-1.0, 0.0]);
    }

    #[test]
    fn means_weigh_tokens_and_medians_count_them() {
        let sample = |values: &[f64]| Sample {
            relative_norm: Parts {
                attn: PerToken {
                    mean: vec![values.iter().sum::<f64>() / values.len() as f64],
                    tokens: vec![values.to_vec()],
                },
                ..Parts::default()
            },
            ..Sample::default()
        };
        let (a, b) = (sample(&[1.0, 2.0, 30.0]), sample(&[7.0]));
        let s = summarise(&[&a, &b]).relative_norm.attn;
        assert_relative_eq!(s.mean[0], 10.0, epsilon = 1e-12);
        assert_relative_eq!(s.median[0], 4.5);
    }
}
