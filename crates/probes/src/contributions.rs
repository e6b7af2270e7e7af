//! Contributions of the sublayers to the residual stream (arXiv 2505.13898): relative norms
//! |a|/|h|, |m|/|h+a|, |D|/|h| and cosines cos(a,h), cos(m,h+a), cos(D,h).

use crate::number::{median, short};
use crate::vector::{SMALLEST, cosine};
use fathom_kernels::backend::CONTRIBUTION_SUMS;
use fathom_model::{Backend, Trace};
use fathom_results::{Contributions, ContributionsSample, MeanMedian, Parts, PerToken};

/// Relative norms of attention, MLP and layer, then their cosines.
type Values = [f64; 6];

/// The work of [`measure`]: dot products of residual vectors.
pub(crate) fn plan(depth: usize, tokens: usize, hidden: usize) -> crate::Work {
    crate::Work::plain(0, (8 * depth * tokens * hidden) as u64)
}

/// Measures one prompt.
pub fn measure<B: Backend>(on: &B, trace: &Trace<B>) -> ContributionsSample {
    let sums =
        |l: usize| on.contribution_sums(trace.hidden, &trace.resid[l], &trace.attn_out[l], &trace.mlp_out[l]);
    let layers = match trace.post_norm.is_empty() {
        true => on.read((0..trace.depth()).map(sums).collect()),
        false => post_norm(on, trace),
    };
    let layers: Vec<Vec<Values>> =
        layers.iter().map(|tokens| tokens.as_chunks().0.iter().map(values).collect()).collect();
    let mean = |tokens: &Vec<Values>, which: usize| {
        let values = tokens.iter().map(|v| v[which]).filter(|x| !x.is_nan());
        let count = values.clone().count();
        values.sum::<f64>() / count.max(1) as f64
    };
    let pick = |which: usize| PerToken {
        mean: layers.iter().map(|t| mean(t, which)).collect(),
        tokens: layers.iter().map(|t| t.iter().map(|v| short(v[which])).collect()).collect(),
    };
    let present = |which: usize, without: &[usize]| {
        let mut all = pick(which);
        for l in without {
            all.mean[*l] = f64::NAN;
            all.tokens[*l].clear();
        }
        all
    };
    let [no_attn, no_mlp] = &trace.without;
    let parts = |first: usize| Parts {
        attn: present(first, no_attn),
        mlp: present(first + 1, no_mlp),
        layer: pick(first + 2),
    };
    ContributionsSample { relative_norm: parts(0), cosine: parts(3) }
}

/// The sums of each layer of post-norm blocks, whose streams between and behind the sublayers are normalised: from the
/// same products of other pairs of matrices, each as the stream and as what is added to it.
fn post_norm<B: Backend>(on: &B, trace: &Trace<B>) -> Vec<Vec<f64>> {
    let pairs = |l: usize| {
        let [added, zeros] = trace.contribution(l);
        let sums = |h: &B::Buffer, a: &B::Buffer| on.contribution_sums(trace.hidden, h, a, zeros);
        let (h, mid) = (&trace.resid[l], &trace.post_norm[l].mid);
        [sums(h, &trace.attn_out[l]), sums(mid, &trace.mlp_out[l]), sums(h, added)]
    };
    let all = on.read((0..trace.depth()).flat_map(pairs).collect());
    let of_layer = |of: &[Vec<f64>]| {
        let rows = |i: usize| of[i].as_chunks::<CONTRIBUTION_SUMS>().0;
        let row = |((attn, mlp), layer): ((&[f64; 8], &[f64; 8]), &[f64; 8])| {
            // Of each pair: the stream with itself, what is added with itself, and their product.
            let [h, _, a, _, _, a_h, ..] = *attn;
            let [mid, _, m, _, _, m_mid, ..] = *mlp;
            let [_, _, added, _, _, added_h, ..] = *layer;
            [h, mid, a, m, added, a_h, m_mid, added_h]
        };
        rows(0).iter().zip(rows(1)).zip(rows(2)).flat_map(row).collect()
    };
    all.chunks(3).map(of_layer).collect()
}

fn values(sums: &[f64; CONTRIBUTION_SUMS]) -> Values {
    let [h, mid, a, m, added, a_h, m_mid, added_h] = *sums;
    let [h, mid, a, m, added] = [h, mid, a, m, added].map(f64::sqrt);
    let defined = |value: f64, stream: f64| if stream == 0.0 { f64::NAN } else { value };
    [
        defined(a / h.max(SMALLEST), h),
        defined(m / mid.max(SMALLEST), mid),
        defined(added / h.max(SMALLEST), h),
        defined(cosine(a_h, a, h), h),
        defined(cosine(m_mid, m, mid), mid),
        defined(cosine(added_h, added, h), h),
    ]
}

/// Combines prompts: means weighted by tokens, medians over all tokens.
pub fn summarise(samples: &[&ContributionsSample]) -> Contributions {
    let parts = |pick: &dyn Fn(&ContributionsSample) -> &Parts<PerToken>| Parts {
        attn: average(samples, |s| &pick(s).attn),
        mlp: average(samples, |s| &pick(s).mlp),
        layer: average(samples, |s| &pick(s).layer),
    };
    let left_out = |pick: &dyn Fn(&Parts<PerToken>) -> &PerToken| -> Vec<usize> {
        let depth = samples.first().map_or(0, |s| s.relative_norm.attn.mean.len());
        let of = |s: &&ContributionsSample, l| {
            let values = pick(&s.relative_norm);
            values.tokens.get(l).map_or(0, Vec::len) - values.count(l)
        };
        (0..depth).map(|l| samples.iter().map(|s| of(s, l)).sum()).collect()
    };
    let left_out =
        Parts { attn: left_out(&|p| &p.attn), mlp: left_out(&|p| &p.mlp), layer: left_out(&|p| &p.layer) };
    let any = [&left_out.attn, &left_out.mlp].iter().any(|counts| counts.iter().any(|n| *n > 0));
    Contributions {
        relative_norm: parts(&|s| &s.relative_norm),
        cosine: parts(&|s| &s.cosine),
        left_out: any.then_some(left_out),
    }
}

fn average(samples: &[&ContributionsSample], pick: impl Fn(&ContributionsSample) -> &PerToken) -> MeanMedian {
    let depth = samples.iter().map(|s| pick(s).mean.len()).max().unwrap_or(0);
    let at = |l: usize| {
        let counts: Vec<usize> = samples.iter().map(|s| pick(s).count(l)).collect();
        let total: f64 = counts.iter().sum::<usize>().max(1) as f64;
        let means = samples.iter().filter_map(|s| pick(s).mean.get(l));
        let mean = means.zip(&counts).map(|(mean, count)| *count as f64 / total * mean).sum::<f64>();
        let tokens = samples.iter().filter_map(|s| pick(s).tokens.get(l)).flatten();
        let mut all: Vec<f64> = tokens.copied().filter(|x| !x.is_nan()).collect();
        (mean, median(&mut all))
    };
    let (mean, median) = (0..depth).map(at).unzip();
    MeanMedian { mean, median }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use fathom_model::Cpu;

    /// Two tokens, two dimensions, one layer, computed by hand.
    #[test]
    fn a_layer_computed_by_hand() {
        let trace = Trace {
            tokens: vec![1, 2],
            hidden: 2,
            resid: vec![vec![3.0, 4.0, 1.0, 0.0].into(), vec![0.0, 0.0, 1.0, 0.0].into()],
            attn_out: vec![vec![0.0, 1.0, 0.0, 2.0].into()],
            mlp_out: vec![vec![-3.0, -5.0, 0.0, -2.0].into()],
            kv_cache: vec![],
            token_inputs: vec![],
            post_norm: vec![],
            routes: vec![],
            without: Default::default(),
        };
        let s = measure(&Cpu, &trace);
        let n = &s.relative_norm;
        assert_relative_eq!(n.attn.mean[0], (0.2 + 2.0) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(n.mlp.mean[0], (1.0 + 2.0 / 5f64.sqrt()) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(n.layer.mean[0], (1.0 + 0.0) / 2.0, epsilon = 1e-12);
        let c = &s.cosine;
        assert_relative_eq!(c.attn.mean[0], (0.8 + 0.0) / 2.0, epsilon = 1e-12);
        assert_relative_eq!(c.mlp.tokens[0][0], -1.0);
        // A zero contribution has no direction.
        assert_eq!(c.layer.tokens[0], [-1.0, 0.0]);
    }

    /// A token with a zero residual vector has no ratio and no direction, and is not counted.
    #[test]
    fn tokens_with_a_zero_stream_are_skipped_and_counted() {
        let trace = Trace {
            tokens: vec![1, 2],
            hidden: 2,
            resid: vec![vec![0.0, 0.0, 2.0, 0.0].into(), vec![0.0, 0.0, 1.0, 0.0].into()],
            attn_out: vec![vec![0.0, 1.0, 4.0, 0.0].into()],
            mlp_out: vec![vec![3.0, 0.0, 3.0, 0.0].into()],
            kv_cache: vec![],
            token_inputs: vec![],
            post_norm: vec![],
            routes: vec![],
            without: Default::default(),
        };
        let sample = measure(&Cpu, &trace);
        assert!(sample.relative_norm.attn.tokens[0][0].is_nan() && sample.cosine.layer.tokens[0][0].is_nan());
        assert_eq!((sample.relative_norm.attn.mean[0], sample.cosine.attn.mean[0]), (2.0, 1.0));
        // After attention, the stream is not zero.
        assert_eq!(sample.relative_norm.mlp.tokens[0], [3.0, 0.5]);
        let back: ContributionsSample =
            serde_json::from_str(&serde_json::to_string(&sample).unwrap()).unwrap();
        assert!(back.relative_norm.attn.tokens[0][0].is_nan());
        let plain = Trace { resid: vec![vec![1.0, 0.0, 1.0, 0.0].into(), vec![0.0; 4].into()], ..trace };
        let summary = summarise(&[&sample, &measure(&Cpu, &plain)]);
        assert_relative_eq!(summary.relative_norm.attn.mean[0], (2.0 + 1.0 + 4.0) / 3.0, epsilon = 1e-12);
        assert_relative_eq!(summary.relative_norm.attn.median[0], 2.0);
        let left_out = summary.left_out.unwrap();
        assert_eq!(
            (&left_out.attn[..], &left_out.mlp[..], &left_out.layer[..]),
            (&[1][..], &[0][..], &[1][..])
        );
        assert!(summarise(&[&measure(&Cpu, &plain)]).left_out.is_none());
    }

    #[test]
    fn means_are_weighted_by_tokens_and_medians_pool_tokens() {
        let sample = |values: &[f64]| ContributionsSample {
            relative_norm: Parts {
                attn: PerToken {
                    mean: vec![values.iter().sum::<f64>() / values.len() as f64],
                    tokens: vec![values.to_vec()],
                },
                ..Parts::default()
            },
            ..ContributionsSample::default()
        };
        let (a, b) = (sample(&[1.0, 2.0, 30.0]), sample(&[7.0]));
        let s = summarise(&[&a, &b]).relative_norm.attn;
        assert_relative_eq!(s.mean[0], 10.0, epsilon = 1e-12);
        assert_relative_eq!(s.median[0], 4.5);
    }
}
