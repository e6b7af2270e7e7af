//! Effective depths and how certain they are.

use crate::{Rule, null};
use serde::{Deserialize, Serialize};

/// The effective depth by one rule: a row of the depth table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// The rule.
    pub rule: Rule,
    /// The cut-off it used, if it has one; for `kl` and `kl_last` the share of the maximum, not the divergence that
    /// it comes to.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// The effective depth: a layer's index from 0 or a mean of such indices, for `settling` a level, and for
    /// `influence_number` and `influence_90` a number of layers. Nothing where the rule finds none.
    #[serde(default)]
    pub value: Option<f64>,
    /// The number of layers that the value says are used ([`Rule::layers_used`]); older files have the ratio alone.
    #[serde(default)]
    pub layers_used: Option<f64>,
    /// The share of the depth, `layers_used / L`.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// What the rule gives on the mean effect over prompts, for rules whose value is read off the largest
    /// ([`Rule::reads_largest`]).
    #[serde(default)]
    pub mean: Option<f64>,
    /// The 95 % bootstrap interval over prompts of what `interval_of` names; `None` if an end of it is not a
    /// number.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
    /// Which number the interval is of; absent without one, and from older files, whose intervals are of the value.
    #[serde(default)]
    pub interval_of: Option<IntervalOf>,
    /// Why the value or the interval is missing, or what the interval leaves out.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why the value should not be taken at face value, where there is a reason.
    #[serde(default)]
    pub caution: Option<String>,
}

/// Which number of a [`Depth`] an interval is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalOf {
    /// Its value.
    Value,
    /// Its mean.
    Mean,
}

impl IntervalOf {
    /// Which number the intervals of a rule are of.
    pub fn rule(rule: Rule) -> Self {
        if rule.reads_largest() { Self::Mean } else { Self::Value }
    }
}

impl Depth {
    /// A row without a value, of a model of any depth.
    pub fn none(rule: Rule) -> Self {
        Self {
            rule,
            threshold: None,
            value: None,
            layers_used: None,
            ratio: None,
            mean: None,
            interval: None,
            interval_of: None,
            reason: None,
            caution: None,
        }
    }

    /// The number that intervals and comparisons are about: the mean where the rule reads the largest effect, or
    /// else the value. Nothing where it is missing.
    pub fn estimate(&self) -> Option<f64> {
        match IntervalOf::rule(self.rule) {
            IntervalOf::Value => self.value,
            IntervalOf::Mean => self.mean,
        }
    }

    /// The number to show: the mean where there is one, or else the value, of which older files have their
    /// intervals.
    pub fn shown(&self) -> Option<f64> {
        self.mean.or(self.value)
    }
}

/// How certain the effective depths are: `uncertainty` of results.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// The number of prompts.
    pub prompts: usize,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
    /// One entry for every rule whose probe was run.
    pub rules: Vec<RuleUncertainty>,
    /// The loss of the model's output, if the lens was run: `probes.lens.nll` at the last level. Absent from older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<OutputLoss>,
}

/// The negative log-likelihood per token of the model's output, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputLoss {
    /// The mean over all tokens that follow another one.
    pub value: f64,
    /// Its 95 % bootstrap interval over prompts; absent with fewer than two prompts.
    pub interval: Option<[f64; 2]>,
}

impl Uncertainty {
    /// The entry of one rule.
    pub fn of(&self, rule: Rule) -> Option<&RuleUncertainty> {
        self.rules.iter().find(|one| one.rule == rule)
    }
}

/// How certain one rule is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleUncertainty {
    /// The rule.
    pub rule: Rule,
    /// The depth at other thresholds, in ascending order and among them the one that the depth table uses; empty for
    /// rules without a threshold, and for `settling`, whose threshold acts in the probe.
    pub sweep: Vec<SweepPoint>,
    /// The interval against the number of prompts; empty with fewer than two.
    pub by_prompts: Vec<IntervalWidth>,
    /// The values over the resamples of all prompts; absent with fewer than two prompts, or where the rule finds
    /// nothing in any resample.
    #[serde(default)]
    pub histogram: Option<ResampleHistogram>,
}

impl RuleUncertainty {
    /// The smallest number of prompts tried from which on the interval is at most `width` layers wide; nothing if it
    /// still is wider with all of them.
    pub fn enough(&self, width: f64) -> Option<usize> {
        let narrow = |tried: &&IntervalWidth| tried.width.is_some_and(|found| found <= width);
        self.by_prompts.iter().rev().take_while(narrow).last().map(|tried| tried.prompts)
    }
}

/// The depth at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// The threshold.
    pub threshold: f64,
    /// The effective depth.
    #[serde(default)]
    pub value: Option<f64>,
    /// The share of the depth.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// The value on the mean effect over prompts, for rules that read the largest.
    #[serde(default)]
    pub mean: Option<f64>,
    /// The 95 % bootstrap interval of the mean where there is one, or else of the value.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
}

/// The interval that a number of prompts would give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntervalWidth {
    /// Prompts drawn for each resample.
    pub prompts: usize,
    /// The 95 % interval of what the depth table has an interval of; absent where no resample has one.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
    /// The interval's width in layers.
    #[serde(default)]
    pub width: Option<f64>,
    /// The share of the resamples in which the rule finds nothing.
    #[serde(deserialize_with = "null::number")]
    pub none_share: f64,
}

/// How estimates ([`Depth::estimate`]) are distributed over resamples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResampleHistogram {
    /// The ends of the bins in ascending order, one more than there are bins; each bin holds its lower end, and the
    /// last both. Whole-numbered values have bins of width 1 around them.
    pub edges: Vec<f64>,
    /// Values in each bin.
    pub counts: Vec<u64>,
    /// Resamples in which the rule finds nothing.
    pub none: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_from_where_the_interval_stays_narrow() {
        let width = |prompts, width| IntervalWidth { prompts, interval: None, width, none_share: 0.0 };
        let by_prompts =
            vec![width(2, Some(1.0)), width(4, Some(3.0)), width(8, Some(2.0)), width(9, Some(1.5))];
        let rule = RuleUncertainty { rule: Rule::Kl, sweep: vec![], by_prompts, histogram: None };
        assert_eq!((rule.enough(2.0), rule.enough(1.0), rule.enough(9.0)), (Some(8), None, Some(2)));
    }
}
