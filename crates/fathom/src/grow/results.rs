//! `grow.json` from what was measured.

use super::execute::OnTexts;
use super::write::Written;
use crate::observer::uncounted;
use crate::texts::Texts;
use crate::{Grow, Observer};
use fathom_depth::bootstrap;
use fathom_results::{
    Estimated, GROW_SCHEMA_VERSION, GrowMeasured, GrowMethod, Growing, LayerOrigin, Resources, Work,
};
use std::collections::BTreeMap;
use std::time::Instant;

/// Everything that the results are made of.
pub(super) struct Parts<'a> {
    pub(super) g: &'a Grow,
    pub(super) texts: &'a Texts,
    pub(super) origins: Vec<LayerOrigin>,
    pub(super) before: OnTexts,
    pub(super) after: OnTexts,
    pub(super) written: &'a Written,
    pub(super) sha256: Vec<String>,
    pub(super) difference: Option<f64>,
    pub(super) started: Instant,
}

impl Parts<'_> {
    pub(super) fn results(self, observer: &dyn Observer) -> Growing {
        let resampling = uncounted(observer, "resampling texts");
        let (before, after) = (self.measured(&self.before), self.measured(&self.after));
        let nll_increase = self.per_token(|i| self.after.nll[i] - self.before.nll[i]);
        drop(resampling);
        let mut measure = self.before.work;
        measure += self.after.work;
        let train = Work { macs: self.written.macs, ..Work::default() };
        let cost = [("train", train), ("measure", measure)];
        let resources = |seconds: f64| Resources { seconds, peak_bytes: fathom_probes::peak_bytes() };
        let all = resources(self.started.elapsed().as_secs_f64());
        let stages = [("make", resources(self.written.seconds)), ("all", all)];
        Growing {
            schema_version: GROW_SCHEMA_VERSION,
            conclusion: conclusion(self.g.recipe.method, &before, &after, &nll_increase, self.difference),
            model: self.before.info.clone(),
            method: self.g.recipe.method,
            layers: self.origins,
            heldout: self.texts.about.clone(),
            before,
            after,
            nll_increase,
            largest_logit_difference: self.difference,
            networks: self.written.networks.clone(),
            path: self.written.path.clone(),
            bytes: self.written.bytes,
            sha256: self.sha256,
            cost: cost.map(|(stage, work)| (stage.to_owned(), work)).into(),
            resources: BTreeMap::from(stages.map(|(stage, r)| (stage.to_owned(), r))),
        }
    }

    fn tokens(&self, text: usize) -> f64 {
        self.texts.texts[text].scored.len() as f64
    }

    /// A sum over texts in shares of another one, with its interval.
    fn ratio(&self, of: impl Fn(usize) -> f64 + Sync, by: impl Fn(usize) -> f64 + Sync) -> Estimated {
        let texts = self.texts.texts.len();
        let weighted = |weights: &[u32]| {
            let mut sums = (0.0, 0.0);
            for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
                sums.0 += f64::from(*weight) * of(i);
                sums.1 += f64::from(*weight) * by(i);
            }
            (sums.1 > 0.0).then(|| sums.0 / sums.1)
        };
        let options = &self.g.options;
        let interval = bootstrap(texts, options.resamples, options.data.seed, weighted);
        let value = weighted(&vec![1; texts]).unwrap_or(f64::NAN);
        Estimated { value, interval: interval.ok().filter(|_| value.is_finite()).map(|i| [i.lo, i.hi]) }
    }

    fn per_token(&self, of: impl Fn(usize) -> f64 + Sync) -> Estimated {
        self.ratio(of, |i| self.tokens(i))
    }

    fn measured(&self, on: &OnTexts) -> GrowMeasured {
        let nll = self.per_token(|i| on.nll[i]);
        GrowMeasured {
            layers: on.info.layers,
            parameters: on.info.parameters,
            perplexity: nll.value.exp(),
            mean_perplexity: self.ratio(|i| (on.nll[i] / self.tokens(i)).exp(), |_| 1.0),
            nll,
            depth: Vec::new(),
        }
    }
}

/// What was found, in a sentence.
fn conclusion(
    method: GrowMethod,
    before: &GrowMeasured,
    after: &GrowMeasured,
    increase: &Estimated,
    difference: Option<f64>,
) -> String {
    let layers = format!("{} layers instead of {} by {}", after.layers, before.layers, method.name());
    if difference == Some(0.0) {
        return format!(
            "{layers} leave every compared logit as it was, bit for bit; what they can add takes training."
        );
    }
    let interval = match increase.interval {
        Some([low, high]) => format!(" ({low:.3} to {high:.3})"),
        None => String::new(),
    };
    let what = if increase.value >= 0.0 { "raise" } else { "lower" };
    format!(
        "Before any training, {layers} {what} the loss by {:.3}{interval} nats per token: perplexity {:.4} becomes {:.4}.",
        increase.value.abs(),
        before.perplexity,
        after.perplexity
    )
}

#[cfg(test)]
mod tests {
    use super::conclusion;
    use fathom_results::{Estimated, GrowMeasured, GrowMethod};

    #[test]
    fn the_sentence_says_which_way_the_loss_went() {
        let estimated = |value| Estimated { value, interval: None };
        let measured = |layers, nll: f64| GrowMeasured {
            layers,
            parameters: 1000,
            nll: estimated(nll),
            perplexity: nll.exp(),
            mean_perplexity: estimated(nll.exp()),
            depth: Vec::new(),
        };
        let (before, after) = (measured(6, 3.0), measured(8, 3.4));
        let of = |value, difference| {
            let increase = Estimated { value, interval: Some([value - 0.1, value + 0.1]) };
            conclusion(GrowMethod::Solar, &before, &after, &increase, difference)
        };
        assert!(
            of(0.4, None).contains("8 layers instead of 6 by solar raise the loss by 0.400 (0.300 to 0.500)")
        );
        assert!(of(-0.4, None).contains("lower the loss by 0.400"));
        assert!(of(0.0, Some(0.0)).contains("bit for bit"));
    }
}
