//! The names of the depth rules.

use std::fmt;
use std::str::FromStr;

use crate::{Probe, text};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A way to read one effective depth off a model's curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The last layer where the mean cosine of what layers add to the stream with
    /// the stream turns from negative to not negative.
    Cosine,
    /// The first layer whose lens divergence is below a share of the largest.
    Kl,
    /// The first layer from which the lens divergence stays below that share. Like the
    /// others, it is a layer before the last: a curve that is below at the last alone
    /// gives none.
    KlLast,
    /// The first layer whose lens shares enough of its top tokens with the output.
    Overlap,
    /// The first level from which on the likeliest token of the lens is that of the output for more than a given share of
    /// the tokens: the number of layers that have run by then. For masked models, whose vocabularies may be small.
    Top1,
    /// The centre of gravity, over layers, of the effect that skipping a layer has
    /// on the layers after it.
    SkipLayer,
    /// The centre of gravity, over layers, of the effect that skipping a layer has
    /// on the output.
    SkipOutput,
    /// The effective number of layers that carry the effect on the output: the
    /// exponential of the entropy of the effect's distribution over layers.
    InfluenceNumber,
    /// The smallest number of layers that carries a given share, 90 % by
    /// default, of the effect on the output.
    #[serde(rename = "influence_90")]
    Influence90,
    /// The mean, over tokens, of the level at which the lens first comes close to the
    /// output: the number of layers that have run by then.
    Settling,
}

impl Rule {
    /// Every rule, in the order in which results list them.
    pub const ALL: [Rule; 10] = [
        Rule::Cosine,
        Rule::Kl,
        Rule::KlLast,
        Rule::Overlap,
        Rule::Top1,
        Rule::SkipLayer,
        Rule::SkipOutput,
        Rule::InfluenceNumber,
        Rule::Influence90,
        Rule::Settling,
    ];

    /// The rule's name in options, results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Cosine => "cosine",
            Rule::Kl => "kl",
            Rule::KlLast => "kl_last",
            Rule::Overlap => "overlap",
            Rule::Top1 => "top1",
            Rule::SkipLayer => "skip_layer",
            Rule::SkipOutput => "skip_output",
            Rule::InfluenceNumber => "influence_number",
            Rule::Influence90 => "influence_90",
            Rule::Settling => "settling",
        }
    }

    /// What the rule reads, in one line for tables and help texts.
    pub fn about(self) -> &'static str {
        match self {
            Rule::Cosine => {
                "last layer where the mean cosine with the stream turns from negative to positive"
            }
            Rule::Kl => "first layer whose lens KL falls below a share of its maximum",
            Rule::KlLast => "first layer from which the lens KL stays below a share of its maximum",
            Rule::Overlap => "first layer whose lens top-5 overlap with the output exceeds a threshold",
            Rule::Top1 => "first level from which on the lens mostly has the likeliest token of the output",
            Rule::SkipLayer => "mean layer, weighted by the effect of skipping it on later layers",
            Rule::SkipOutput => "mean layer, weighted by the effect of skipping it on the output",
            Rule::InfluenceNumber => "effective number of layers that carry the effect on the output",
            Rule::Influence90 => "smallest number of layers that carries a share of the effect on the output",
            Rule::Settling => {
                "mean number of layers after which a token's lens first comes close to the output"
            }
        }
    }

    /// The paper that states the rule, or that states what the rule is built on.
    pub fn source(self) -> &'static str {
        match self {
            Rule::Cosine | Rule::Kl | Rule::Overlap => "arXiv 2512.14064",
            Rule::KlLast | Rule::Top1 => "after arXiv 2512.14064",
            Rule::SkipLayer | Rule::SkipOutput => "arXiv 2505.13898",
            Rule::InfluenceNumber | Rule::Influence90 => "after arXiv 2505.13898",
            Rule::Settling => "arXiv 2602.13517",
        }
    }

    /// What the rule's value says.
    pub fn kind(self) -> RuleKind {
        match self {
            Rule::Cosine | Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::Top1 | Rule::Settling => {
                RuleKind::UpTo
            }
            Rule::SkipLayer | Rule::SkipOutput => RuleKind::Centre,
            Rule::InfluenceNumber | Rule::Influence90 => RuleKind::Count,
        }
    }

    /// The probe whose curves the rule reads.
    pub fn probe(self) -> Probe {
        match self {
            Rule::Cosine => Probe::Contributions,
            Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::Top1 => Probe::Lens,
            Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => Probe::Skip,
            Rule::Settling => Probe::Settling,
        }
    }

    /// How many layers a value of this rule says are used, 0 to L.
    ///
    /// Rules that give the index of a layer count that layer too, as the papers do.
    /// `settling` and `top1` give a level, which is the number of layers that have run, and the
    /// influence rules give a number of layers: these are used as they are.
    pub fn layers_used(self, value: f64) -> f64 {
        match self {
            Rule::Cosine | Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::SkipLayer | Rule::SkipOutput => {
                value + 1.0
            }
            Rule::Top1 | Rule::InfluenceNumber | Rule::Influence90 | Rule::Settling => value,
        }
    }

    /// Whether the value is a whole number on any prompts. Such a value moves in steps, so what
    /// resamples show of it says nothing about values that none of them has.
    pub fn is_whole(self) -> bool {
        matches!(
            self,
            Rule::Cosine | Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::Top1 | Rule::Influence90
        )
    }

    /// Whether the value is read off the largest effect of any prompt, as the papers do. The
    /// bootstrap of a maximum is not valid, and a maximum grows with the number of prompts: so
    /// intervals and comparisons read the mean effect over prompts instead.
    pub fn reads_largest(self) -> bool {
        matches!(self, Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90)
    }

    /// Whether noise moves the value to one side. The entropy of a noisy effect is smaller than that
    /// of the effect, and resamples are noisier than all prompts.
    pub fn is_biased(self) -> bool {
        self == Rule::InfluenceNumber
    }
}

/// What the value of a rule says. Rules of different kinds measure different things, and are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// The layer up to which the model works.
    UpTo,
    /// The layer around which the effect of skipping is centred.
    Centre,
    /// How many layers carry the effect of skipping, wherever they are.
    Count,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no depth rule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no depth rule {given:?}{}; the rules are {}", did_you_mean(.suggestion), names())]
pub struct UnknownRule {
    /// The name as given, cut to its first characters where it is long.
    pub given: String,
    /// The rule with the most similar name, if one is similar enough.
    pub suggestion: Option<Rule>,
}

fn did_you_mean(suggestion: &Option<Rule>) -> String {
    suggestion.map_or_else(String::new, |rule| format!(" (did you mean {:?}?)", rule.name()))
}

fn names() -> String {
    Rule::ALL.map(Rule::name).join(", ")
}

impl<'de> Deserialize<'de> for Rule {
    /// Reads the exact name of a rule.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let unknown = || de::Error::custom(format!("this version of fathom has no depth rule {name:?}"));
        Self::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(unknown)
    }
}

impl FromStr for Rule {
    type Err = UnknownRule;

    /// Reads a rule's name; case does not matter, and `-` may stand for `_`.
    fn from_str(name: &str) -> Result<Self, UnknownRule> {
        // No name is this long, and a message should not repeat a page of text.
        let given: String = name.trim().chars().take(40).collect();
        let wanted = given.to_lowercase().replace('-', "_");
        if let Some(rule) = Rule::ALL.into_iter().find(|rule| rule.name() == wanted) {
            return Ok(rule);
        }
        let nearest = text::nearest(&wanted, Rule::ALL.map(Rule::name));
        let suggestion = Rule::ALL.into_iter().find(|rule| Some(rule.name()) == nearest);
        Err(UnknownRule { given, suggestion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_in_text_and_in_json() {
        for rule in Rule::ALL {
            assert_eq!(rule.name().parse(), Ok(rule));
            assert_eq!(rule.name().to_uppercase().replace('_', "-").parse(), Ok(rule));
            assert_eq!(serde_json::to_string(&rule).unwrap(), format!("{:?}", rule.name()));
        }
    }

    #[test]
    fn a_near_miss_gets_a_suggestion() {
        let error = "overlp".parse::<Rule>().unwrap_err();
        assert_eq!(error.suggestion, Some(Rule::Overlap));
        assert!(
            error
                .to_string()
                .starts_with("there is no depth rule \"overlp\" (did you mean \"overlap\"?); the")
        );
        assert_eq!("setling".parse::<Rule>().unwrap_err().suggestion, Some(Rule::Settling));
    }

    #[test]
    fn nonsense_gets_the_list_alone() {
        let error = "xyzzy".repeat(1000).parse::<Rule>().unwrap_err();
        assert_eq!(error.suggestion, None);
        let message = error.to_string();
        assert!(message.len() < 200 && message.contains("kl_last"), "{message}");
    }
}
