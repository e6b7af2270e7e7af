//! Leaving a model early: calibrated thresholds, what they save, and the first layers as a draft of the whole.
//!
//! The rule is chosen on the fitting texts, its threshold is calibrated on the calibration texts, and everything that is
//! reported is measured on the held-out texts. So the guarantee covers the chosen rule.

mod conclude;
pub mod risk;
mod rules;
mod speculation;

use crate::error::Error;
use fathom_depth::bootstrap;
use fathom_results::{
    Confidence, EpsilonRule, Estimated, ExitChoice, ExitCosts, ExitExample, ExitHead, ExitLevel, ExitMap,
    ExitRule, ExitSample, Speculation,
};
use rules::Candidates;
pub use rules::{Exits, Rule};

/// Values of epsilon for which a rule is chosen, beside the user's own.
pub const EPSILONS: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5];

/// What a rule must keep, and how intervals are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExitOptions {
    /// The mean share of tokens of a text whose prediction may change.
    pub epsilon: f64,
    /// The probability of failing to keep that.
    pub delta: f64,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Its seed.
    pub seed: u64,
}

/// Samples by what they are for, and the costs of the model.
#[derive(Clone, Debug)]
pub struct ExitTexts<'a> {
    /// The texts that maps were fitted to.
    pub fit: Vec<&'a ExitSample>,
    /// The texts that thresholds are calibrated on.
    pub calibration: Vec<&'a ExitSample>,
    /// The texts that everything is measured on.
    pub heldout: Vec<&'a ExitSample>,
    /// The costs.
    pub costs: &'a ExitCosts,
}

/// Everything in `exit.json` that follows from the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitAnalysis {
    /// The loss of the whole model on the held-out texts.
    pub full_nll: Estimated,
    /// Every head at every level.
    pub levels: Vec<ExitLevel>,
    /// Every rule.
    pub rules: Vec<ExitRule>,
    /// The chosen rule for each epsilon.
    pub by_epsilon: Vec<EpsilonRule>,
    /// The drafts.
    pub speculation: Vec<Speculation>,
    /// The recommendation.
    pub choice: ExitChoice,
}

impl ExitTexts<'_> {
    /// The number of layers.
    pub fn depth(&self) -> usize {
        self.costs.layers.len()
    }

    /// Heads that every text has.
    fn heads(&self) -> Vec<ExitHead> {
        let all = || self.fit.iter().chain(&self.calibration).chain(&self.heldout);
        ExitHead::ALL.into_iter().filter(|head| all().all(|s| s.heads.contains_key(head))).collect()
    }

    /// Analyses the samples.
    ///
    /// # Errors
    /// [`Error::Exit`] when a sample lacks a level or a token.
    pub fn analyse(&self, maps: &[Option<ExitMap>], options: &ExitOptions) -> Result<ExitAnalysis, Error> {
        let all = self.fit.iter().chain(&self.calibration).chain(&self.heldout);
        if let Some(bad) = all.into_iter().find(|s| !s.fits(self.depth(), s.nll.len())) {
            return Err(Error::Exit { id: bad.id.clone() });
        }
        let candidates = Candidates::new(self, &self.heads());
        let rules: Vec<ExitRule> = candidates.at(self, options.epsilon, options);
        let by_epsilon = self.by_epsilon(&candidates, options);
        let chosen = candidates.best(self, options.epsilon, options.delta);
        let speculation = speculation::drafts(self, &self.heads(), options);
        let best_draft = speculation::best(self, &speculation);
        let choice = conclude::choice(self, options, (&rules, chosen), (&speculation, best_draft));
        let full_nll = self.estimate(options, |s| (s.nll.iter().sum(), s.nll.len() as f64));
        Ok(ExitAnalysis { full_nll, levels: self.levels(maps), rules, by_epsilon, speculation, choice })
    }

    fn by_epsilon(&self, candidates: &Candidates, options: &ExitOptions) -> Vec<EpsilonRule> {
        let mut all = EPSILONS.to_vec();
        all.push(options.epsilon);
        all.sort_by(f64::total_cmp);
        all.dedup();
        let at = |epsilon: f64| EpsilonRule { epsilon, rule: candidates.best_rule(self, epsilon, options) };
        all.into_iter().map(at).collect()
    }

    /// A ratio of sums over held-out texts, with its interval.
    fn estimate(&self, options: &ExitOptions, of: impl Fn(&ExitSample) -> (f64, f64)) -> Estimated {
        let parts: Vec<(f64, f64)> = self.heldout.iter().map(|s| of(s)).collect();
        estimate(&parts, options)
    }

    /// Every head at every level, on the held-out texts.
    fn levels(&self, maps: &[Option<ExitMap>]) -> Vec<ExitLevel> {
        let tokens: f64 = self.heldout.iter().map(|s| s.nll.len() as f64).sum();
        let mut all = Vec::new();
        for head in self.heads() {
            for level in 0..self.depth() {
                let values = || self.heldout.iter().map(|s| &s.heads[&head]);
                let agreeing = |row: &String| row.bytes().filter(|b| *b == b'1').count() as f64;
                let map = maps.get(level).copied().flatten().filter(|_| head == ExitHead::Linear);
                all.push(ExitLevel {
                    level,
                    head,
                    agreement: values().map(|v| agreeing(&v.agrees[level])).sum::<f64>() / tokens,
                    nll: values().flat_map(|v| &v.nll[level]).sum::<f64>() / tokens,
                    acceptance: values().flat_map(|v| &v.acceptance[level]).sum::<f64>() / tokens,
                    penalty: map.map(|m| m.penalty),
                    map_error: map.map(|m| m.error),
                });
            }
        }
        all
    }

    /// Where the tokens of a held-out text leave by a rule.
    pub fn example(&self, rule: &ExitRule, id: &str, pieces: &[String]) -> Option<ExitExample> {
        let sample = self.heldout.iter().find(|s| s.id == id)?;
        let own = Rule { head: rule.head, confidence: rule.confidence, levels: rule.levels.clone() };
        let (threshold, depth) = (rule.threshold?, self.depth());
        let values = sample.heads.get(&rule.head)?;
        let tokens = 0..sample.nll.len();
        let level = |t: usize| own.exit(values, t, threshold).unwrap_or(depth);
        let levels: Vec<usize> = tokens.clone().map(level).collect();
        let agrees = |t: usize| levels[t] == depth || values.agrees[levels[t]].as_bytes()[t] == b'1';
        Some(ExitExample {
            id: id.to_owned(),
            pieces: pieces.iter().take(sample.nll.len()).cloned().collect(),
            agrees: tokens.map(agrees).collect(),
            levels,
            confidence: (0..depth).map(|l| rules::row(values, rule.confidence, l)).collect(),
        })
    }
}

/// A ratio of sums over texts, with its bootstrap interval.
fn estimate(parts: &[(f64, f64)], options: &ExitOptions) -> Estimated {
    let ratio = |weights: &[u32]| {
        let (mut a, mut b) = (0.0, 0.0);
        for ((x, y), w) in parts.iter().zip(weights).filter(|(_, w)| **w > 0) {
            a += f64::from(*w) * x;
            b += f64::from(*w) * y;
        }
        (b > 0.0).then(|| a / b)
    };
    let value = ratio(&vec![1; parts.len()]).unwrap_or(f64::NAN);
    let interval = bootstrap(parts.len(), options.resamples, options.seed, ratio);
    Estimated { value, interval: interval.ok().filter(|_| value.is_finite()).map(|i| [i.lo, i.hi]) }
}

/// All kinds of confidence, for rules.
const CONFIDENCES: [Confidence; 3] = Confidence::ALL;

#[cfg(test)]
mod tests;
