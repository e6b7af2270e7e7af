//! The thresholds of the rules.

use serde::{Deserialize, Serialize};

use crate::Rule;

/// The threshold of every rule that has one; stored with every result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// `kl` and `kl_last`: the share of the curve's maximum below which a layer
    /// counts, in (0, 1].
    pub kl_share: f64,
    /// `overlap`: the overlap above which a layer counts, in [0, 1).
    pub overlap: f64,
    /// `top1`: the share of tokens above which a level counts, in [0, 1).
    pub top1: f64,
    /// `influence_90`: the share of the effect to be carried, in (0, 1].
    pub influence_share: f64,
    /// `settling`: the Jensen-Shannon divergence in bits at which a token counts as
    /// settled. The probe applies it; here it is only recorded.
    pub settling_bits: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { kl_share: 0.5, overlap: 0.3, top1: 0.5, influence_share: 0.9, settling_bits: 0.5 }
    }
}

impl Thresholds {
    /// The threshold of a rule, if it has one.
    pub fn of(&self, rule: Rule) -> Option<f64> {
        match rule {
            Rule::Kl | Rule::KlLast => Some(self.kl_share),
            Rule::Overlap => Some(self.overlap),
            Rule::Top1 => Some(self.top1),
            Rule::Influence90 => Some(self.influence_share),
            Rule::Settling => Some(self.settling_bits),
            Rule::Cosine | Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber => None,
        }
    }

    /// Replaces the threshold of `rule`; no effect for a rule without one.
    pub fn with(mut self, rule: Rule, value: f64) -> Self {
        match rule {
            Rule::Kl | Rule::KlLast => self.kl_share = value,
            Rule::Overlap => self.overlap = value,
            Rule::Top1 => self.top1 = value,
            Rule::Influence90 => self.influence_share = value,
            Rule::Settling => self.settling_bits = value,
            Rule::Cosine | Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber => {}
        }
        self
    }

    /// Checks that the threshold of a rule is in range.
    ///
    /// # Errors
    /// A sentence with the value and the range.
    pub fn check(&self, rule: Rule) -> Result<(), String> {
        let Some(value) = self.of(rule) else { return Ok(()) };
        // Comparisons with NaN are false, so NaN falls outside every range.
        let (inside, range) = match rule {
            Rule::Overlap | Rule::Top1 => ((0.0..1.0).contains(&value), "[0, 1)"),
            _ => (value > 0.0 && value <= 1.0, "(0, 1]"),
        };
        if inside { Ok(()) } else { Err(format!("the threshold {value} is outside {range}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_thresholds_get_defaults_and_unknown_ones_are_refused() {
        let read: Thresholds = serde_json::from_str(r#"{"overlap": 0.4}"#).unwrap();
        assert_eq!(read, Thresholds::default().with(Rule::Overlap, 0.4));
        assert!(serde_json::from_str::<Thresholds>(r#"{"overlapp": 0.4}"#).is_err());
    }

    #[test]
    fn ranges() {
        let check = |rule, value| Thresholds::default().with(rule, value).check(rule).is_ok();
        for rule in [Rule::Kl, Rule::KlLast, Rule::Influence90, Rule::Settling] {
            assert!(check(rule, 1.0) && check(rule, 0.01), "{rule}");
            assert!(!check(rule, 0.0) && !check(rule, 1.01) && !check(rule, f64::NAN), "{rule}");
        }
        assert!(check(Rule::Overlap, 0.0) && !check(Rule::Overlap, 1.0) && !check(Rule::Overlap, f64::NAN));
    }
}
