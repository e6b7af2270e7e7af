//! Samples to depth rows: each rule on the whole, and its bootstrap interval.

use fathom_depth::{Curves, Depth, Rule, Thresholds, bootstrap, depth, pool};
use fathom_probes::Sample;
use fathom_probes::skip::{Mode, Part};

/// Resamples of the bootstrap.
pub(crate) const RESAMPLES: usize = 2000;

/// The rules that the probes of these samples can feed, with intervals over prompts.
pub(crate) fn rows(samples: &[Sample], layers: usize, seed: u64) -> Vec<Depth> {
    if samples.is_empty() {
        return Vec::new();
    }
    let curves = PromptCurves::of(samples, layers);
    let whole = vec![1; samples.len()];
    let apply = |rule, weights: &[u32]| curves.apply(rule, weights);
    let rows = Rule::ALL.into_iter().filter_map(|rule| {
        let measured = apply(rule, &whole)?;
        if measured.value.is_none() || samples.len() < 2 {
            return Some(measured);
        }
        let interval = bootstrap(samples.len(), RESAMPLES, seed, |weights| apply(rule, weights)?.value);
        Some(measured.with_interval(&interval))
    });
    rows.collect()
}

/// The curves of each prompt; a probe that not every prompt has is absent.
struct PromptCurves<'a> {
    layers: usize,
    cosine: Option<[Vec<pool::Sample<'a>>; 3]>,
    kl: Option<Vec<pool::Sample<'a>>>,
    overlap: Option<Vec<pool::Sample<'a>>>,
    settling: Option<Vec<(f64, f64)>>,
    /// Effects of skipping whole layers on later tokens: on layers, flat, and on the output.
    skip: Option<Vec<(Vec<f64>, Vec<f64>)>>,
}

impl<'a> PromptCurves<'a> {
    fn of(samples: &'a [Sample], layers: usize) -> Self {
        let curve = |pick: &dyn Fn(&'a Sample) -> Option<&'a Vec<f64>>| -> Option<Vec<pool::Sample<'a>>> {
            let one = |s: &'a Sample| Some(pool::Sample { tokens: s.tokens.len() as f64, curve: pick(s)? });
            samples.iter().map(one).collect()
        };
        let cosine = |part: fn(&fathom_probes::contributions::Sample) -> &Vec<f64>| {
            curve(&move |s| s.contributions.as_ref().map(part))
        };
        let cosine = (
            cosine(|s| &s.cosine.attn.mean),
            cosine(|s| &s.cosine.mlp.mean),
            cosine(|s| &s.cosine.layer.mean),
        );
        let settled = |s: &Sample| {
            let layers = &s.settling.as_ref()?.layers;
            Some((layers.iter().sum::<usize>() as f64, layers.len() as f64))
        };
        Self {
            layers,
            cosine: match cosine {
                (Some(attn), Some(mlp), Some(layer)) => Some([attn, mlp, layer]),
                _ => None,
            },
            kl: curve(&|s| s.lens.as_ref().map(|l| &l.kl_lens_final)),
            overlap: curve(&|s| s.lens.as_ref().map(|l| &l.overlap)),
            settling: samples.iter().map(settled).collect(),
            skip: samples.iter().map(|s| future(s, layers)).collect(),
        }
    }

    /// A rule on prompts with these weights; nothing where its probe was not run.
    fn apply(&self, rule: Rule, weights: &[u32]) -> Option<Depth> {
        let mean = |curves: &Option<Vec<pool::Sample<'_>>>| pool::mean(curves.as_ref()?, weights);
        let thresholds = Thresholds::default();
        let empty = Curves { layers: self.layers, ..Curves::default() };
        match rule {
            Rule::Cosine => {
                let [attn, mlp, layer] = self.cosine.as_ref()?;
                let (attn, mlp, layer) =
                    (pool::mean(attn, weights)?, pool::mean(mlp, weights)?, pool::mean(layer, weights)?);
                Some(depth(rule, &Curves { cosine: Some([&attn, &mlp, &layer]), ..empty }, &thresholds))
            }
            Rule::Kl | Rule::KlLast => {
                let kl = mean(&self.kl)?;
                Some(depth(rule, &Curves { kl_lens_final: Some(&kl), ..empty }, &thresholds))
            }
            Rule::Overlap => {
                let overlap = mean(&self.overlap)?;
                Some(depth(rule, &Curves { overlap: Some(&overlap), ..empty }, &thresholds))
            }
            Rule::Settling => {
                let weighed = self.settling.as_ref()?.iter().zip(weights);
                let (sum, tokens) = weighed
                    .fold((0.0, 0.0), |(a, b), (s, w)| (a + s.0 * f64::from(*w), b + s.1 * f64::from(*w)));
                Some(depth(rule, &Curves { settle_mean: Some(sum / tokens), ..empty }, &thresholds))
            }
            Rule::SkipLayer => {
                let skips: Vec<&[f64]> = self.skip.as_ref()?.iter().map(|s| &s.0[..]).collect();
                let flat = pool::max(&skips, weights)?;
                let rows: Vec<Vec<f64>> = flat.chunks(self.layers).map(<[f64]>::to_vec).collect();
                Some(depth(rule, &Curves { layer_effect: Some(&rows), ..empty }, &thresholds))
            }
            Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => {
                let skips: Vec<&[f64]> = self.skip.as_ref()?.iter().map(|s| &s.1[..]).collect();
                let output = pool::max(&skips, weights)?;
                Some(depth(rule, &Curves { output_effect: Some(&output), ..empty }, &thresholds))
            }
            _ => None,
        }
    }
}

/// The future effects of skipping whole layers of one prompt. A prompt too short
/// for any position has no effects, which leaves a maximum over prompts as it is.
fn future(sample: &Sample, layers: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let effects = &sample.skip.as_ref()?.effects;
    let effects = effects.get(&Mode::Future).and_then(|parts| parts.get(&Part::Layer));
    Some(match effects {
        Some(effects) => (effects.layer_effect.concat(), effects.output_effect.clone()?),
        None => (vec![0.0; layers * layers], vec![0.0; layers]),
    })
}
