//! Depth rules on weighted prompts.

use super::{BootstrapOptions, Curve, Over, PromptCurves};
use crate::Error;
use fathom_depth::{Curves, Depth, Interval, Resampling, Rule, Thresholds, depth, with_interval};
use fathom_results::{SETTLING_THRESHOLD_BITS, Sample};

impl PromptCurves {
    /// Whether the probe of a rule was run on every prompt.
    pub fn feeds(&self, rule: Rule) -> bool {
        match rule {
            Rule::Cosine => self.plain[3..6].iter().all(Option::is_some),
            Rule::Kl | Rule::KlLast => self.plain[6].is_some(),
            Rule::Overlap => self.plain[7].is_some(),
            Rule::Top1 => self.plain[10].is_some(),
            Rule::Settling => self.settling.is_some(),
            Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => {
                self.skip.is_some()
            }
        }
    }

    /// The curves that `rule` reads, on weighted prompts; only rules on skip effects depend on `over`.
    pub(crate) fn pooled(&self, rule: Rule, weights: &[u32], over: Over) -> Option<Pooled> {
        let mut pooled = Pooled { layers: self.layers, ..Pooled::default() };
        match rule {
            Rule::Cosine => {
                let mean = |curve| self.mean(curve, weights);
                pooled.cosine =
                    Some([mean(Curve::CosineAttn)?, mean(Curve::CosineMlp)?, mean(Curve::CosineLayer)?]);
            }
            Rule::Kl | Rule::KlLast => pooled.kl = Some(self.mean(Curve::KlLensFinal, weights)?),
            Rule::Overlap => pooled.overlap = Some(self.mean(Curve::Overlap, weights)?),
            Rule::Top1 => pooled.top1 = Some(self.mean(Curve::Top1, weights)?),
            Rule::Settling => {
                let each = self.settling.as_ref()?.iter().zip(weights).map(|(s, w)| (s, f64::from(*w)));
                let (sum, tokens) = each.fold((0.0, 0.0), |all, (s, w)| (all.0 + s.0 * w, all.1 + s.1 * w));
                pooled.settle = Some(sum / tokens);
            }
            Rule::SkipLayer => {
                let flat = self.skip(weights, |s| &s.layers, over)?;
                pooled.layer_effect = Some(flat.chunks(self.layers).map(<[f64]>::to_vec).collect());
            }
            Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => {
                pooled.output_effect = Some(self.skip(weights, |s| &s.output, over)?);
            }
        }
        Some(pooled)
    }

    /// A rule on weighted prompts, without an interval; `None` if its probe was not run or all weights
    /// are 0. A weight is the number of times a resample drew the prompt.
    pub fn apply(&self, rule: Rule, weights: &[u32], thresholds: &Thresholds) -> Option<Depth> {
        let depth = self.pooled(rule, weights, Over::Largest)?.depth(rule, thresholds);
        let mean = rule.reads_largest().then(|| self.estimate(rule, weights, thresholds)).flatten();
        Some(Depth { mean, ..depth })
    }

    /// The statistic behind intervals and comparisons of a rule ([`Depth::estimate`]), on weighted
    /// prompts.
    pub fn estimate(&self, rule: Rule, weights: &[u32], thresholds: &Thresholds) -> Option<f64> {
        self.pooled(rule, weights, Over::Mean)?.depth(rule, thresholds).value
    }

    /// The bias-corrected estimate of a rule on each resample.
    pub(crate) fn resampled(
        &self,
        rule: Rule,
        resampling: &Resampling,
        thresholds: &Thresholds,
    ) -> Vec<Option<f64>> {
        let mut values = resampling.each(|weights| self.estimate(rule, weights, thresholds));
        self.correct_bias(rule, thresholds, &mut values);
        values
    }

    /// Corrects the bias of a biased rule's estimates on resamples. Resamples deviate from the sample as
    /// the sample deviates from the truth, so values centred on the truth are shifted by twice the bias.
    pub(crate) fn correct_bias(&self, rule: Rule, thresholds: &Thresholds, values: &mut [Option<f64>]) {
        let Some(estimate) = self.estimate(rule, &self.once(), thresholds).filter(|_| rule.is_biased())
        else {
            return;
        };
        let present: Vec<f64> = values.iter().flatten().copied().collect();
        let bias = present.iter().sum::<f64>() / present.len().max(1) as f64 - estimate;
        let layers = self.layers as f64;
        values.iter_mut().flatten().for_each(|value| *value = (*value - 2.0 * bias).clamp(0.0, layers));
    }
}

/// The curves that one rule reads, pooled over prompts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pooled {
    layers: usize,
    cosine: Option<[Vec<f64>; 3]>,
    kl: Option<Vec<f64>>,
    overlap: Option<Vec<f64>>,
    top1: Option<Vec<f64>>,
    layer_effect: Option<Vec<Vec<f64>>>,
    output_effect: Option<Vec<f64>>,
    settle: Option<f64>,
}

impl Pooled {
    pub(crate) fn depth(&self, rule: Rule, thresholds: &Thresholds) -> Depth {
        let curves = Curves {
            layers: self.layers,
            cosine: self.cosine.as_ref().map(|[attn, mlp, layer]| [&attn[..], &mlp[..], &layer[..]]),
            kl_lens_final: self.kl.as_deref(),
            overlap: self.overlap.as_deref(),
            top1: self.top1.as_deref(),
            layer_effect: self.layer_effect.as_deref(),
            output_effect: self.output_effect.as_deref(),
            settle_mean: self.settle,
        };
        // The probe has already applied this threshold; reporting another would be wrong.
        let thresholds = thresholds.with(Rule::Settling, SETTLING_THRESHOLD_BITS);
        depth(rule, &curves, &thresholds)
    }
}

/// The depth table: every rule whose probe was run, with a 95 % bootstrap interval over prompts.
///
/// # Errors
/// [`Error::Length`] if a curve does not fit the number of layers.
pub fn rows(samples: &[Sample], layers: usize, options: &BootstrapOptions) -> Result<Vec<Depth>, Error> {
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    Ok(rows_of(&PromptCurves::of(samples, layers)?, options))
}

/// As [`rows`], from the curves.
pub fn rows_of(curves: &PromptCurves, options: &BootstrapOptions) -> Vec<Depth> {
    let once = curves.once();
    let row = |rule: Rule| {
        let measured = curves.apply(rule, &once, &options.thresholds)?;
        if measured.estimate().is_none() || curves.text_count() < 2 {
            return Some(measured);
        }
        let interval = curves.resampling(options).and_then(|resampling| {
            Interval::of(curves.resampled(rule, &resampling, &options.thresholds), resampling.correction())
        });
        Some(with_interval(measured, &interval))
    };
    Rule::ALL.into_iter().filter_map(row).collect()
}
