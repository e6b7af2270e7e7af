//! Rules of leaving, their thresholds and what they save.

use super::{CONFIDENCES, ExitOptions, ExitTexts, estimate, risk};
use fathom_results::{Confidence, ExitCosts, ExitHead, ExitMeasured, ExitRule, ExitSample, HeadValues};
use rayon::prelude::*;

/// Thresholds that are tried: quantiles of the confidence on the fitting texts.
const THRESHOLDS: usize = 200;

/// Strides of the sets of several levels.
const STRIDES: [usize; 3] = [1, 2, 4];

/// Leaving at the first of some levels whose confidence reaches a threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// How levels predict.
    pub head: ExitHead,
    /// What is compared with the threshold.
    pub confidence: Confidence,
    /// The levels, ascending.
    pub levels: Vec<usize>,
}

/// What a rule does to a text, sums over its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exits {
    /// Tokens.
    pub tokens: f64,
    /// Tokens whose prediction changes.
    pub changed: f64,
    /// Negative log-likelihood.
    pub nll: f64,
    /// Multiply-adds.
    pub cost: f64,
    /// Tokens that leave at each level, `[L + 1]`.
    pub levels: Vec<f64>,
}

impl Exits {
    /// The share of changed tokens.
    pub fn risk(&self) -> f64 {
        self.changed / self.tokens
    }
}

/// The confidence of a level at a token. What is not a number is never sure.
fn value(values: &HeadValues, confidence: Confidence, level: usize, token: usize) -> f64 {
    let value = match confidence {
        Confidence::Prob => values.prob[level][token],
        Confidence::Margin => values.margin[level][token],
        Confidence::Entropy => -values.entropy[level][token],
    };
    if value.is_nan() { f64::NEG_INFINITY } else { value }
}

/// The confidence of a level at all tokens.
pub(super) fn row(values: &HeadValues, confidence: Confidence, level: usize) -> Vec<f64> {
    (0..values.prob[level].len()).map(|token| value(values, confidence, level, token)).collect()
}

impl Rule {
    /// The level at which a token leaves; none if it runs through all layers.
    pub fn exit(&self, values: &HeadValues, token: usize, threshold: f64) -> Option<usize> {
        self.levels.iter().copied().find(|l| value(values, self.confidence, *l, token) >= threshold)
    }

    /// What the rule does to a text.
    pub fn apply(&self, sample: &ExitSample, costs: &ExitCosts, threshold: f64) -> Exits {
        let (values, depth) = (&sample.heads[&self.head], costs.layers.len());
        let paths = Paths::new(self, costs);
        let mut all = Exits { levels: vec![0.0; depth + 1], ..Exits::default() };
        for token in 0..sample.nll.len() {
            let level = self.exit(values, token, threshold);
            all.tokens += 1.0;
            all.levels[level.unwrap_or(depth)] += 1.0;
            all.cost += paths.cost(level);
            match level {
                Some(level) => {
                    all.changed += f64::from(u8::from(values.agrees[level].as_bytes()[token] != b'1'));
                    all.nll += values.nll[level][token];
                }
                None => all.nll += sample.nll[token],
            }
        }
        all
    }

    /// The thresholds to try, from the top down: they do not depend on calibration texts.
    fn thresholds(&self, fit: &[&ExitSample]) -> Vec<f64> {
        let mut all: Vec<f64> = Vec::new();
        for sample in fit {
            let values = &sample.heads[&self.head];
            self.levels.iter().for_each(|level| all.extend(row(values, self.confidence, *level)));
        }
        all.sort_by(|a, b| b.total_cmp(a));
        all.retain(|value| value.is_finite());
        let at = |i: usize| all[i * (all.len() - 1) / (THRESHOLDS - 1)];
        let mut thresholds: Vec<f64> =
            if all.is_empty() { Vec::new() } else { (0..THRESHOLDS).map(at).collect() };
        thresholds.dedup();
        thresholds
    }
}

/// The multiply-adds of a token by the level at which it leaves.
struct Paths {
    by_level: Vec<f64>,
    whole: f64,
}

impl Paths {
    fn new(rule: &Rule, costs: &ExitCosts) -> Self {
        let look = costs.look(rule.head);
        let cost = |level: usize| {
            let looks = rule.levels.iter().filter(|l| **l <= level).count() as f64;
            let layers: f64 = costs.layers[..level].iter().sum();
            layers + looks * look + costs.key_values[level..].iter().sum::<f64>()
        };
        let by_level = (0..costs.layers.len()).map(cost).collect();
        Self { by_level, whole: costs.full() + rule.levels.len() as f64 * look }
    }

    fn cost(&self, level: Option<usize>) -> f64 {
        level.map_or(self.whole, |level| self.by_level[level])
    }
}

/// A rule with its thresholds, what they do to the fitting texts, and the risk of each calibration text.
struct Candidate {
    rule: Rule,
    thresholds: Vec<f64>,
    /// The mean risk and the share of multiply-adds saved on the fitting texts, by threshold.
    fit: Vec<[f64; 2]>,
    /// The mean risk of the calibration texts, by threshold.
    calibration: Vec<f64>,
}

/// All rules.
pub(super) struct Candidates {
    all: Vec<Candidate>,
}

/// Every single level, then sets with a stride.
fn level_sets(depth: usize) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = (1..depth).map(|level| vec![level]).collect();
    for stride in STRIDES {
        let set: Vec<usize> = (stride..depth).step_by(stride).collect();
        if set.len() > 1 {
            sets.push(set);
        }
    }
    sets
}

impl Candidates {
    pub(super) fn new(texts: &ExitTexts<'_>, heads: &[ExitHead]) -> Self {
        let mut rules = Vec::new();
        for head in heads {
            for confidence in CONFIDENCES {
                let rule = |levels| Rule { head: *head, confidence, levels };
                rules.extend(level_sets(texts.depth()).into_iter().map(rule));
            }
        }
        Self { all: rules.into_par_iter().map(|rule| Candidate::new(rule, texts)).collect() }
    }

    /// The rules, calibrated and measured.
    pub(super) fn at(&self, texts: &ExitTexts<'_>, epsilon: f64, options: &ExitOptions) -> Vec<ExitRule> {
        self.all.par_iter().map(|candidate| candidate.at(texts, epsilon, options)).collect()
    }

    /// The certified rule that saves most on the fitting texts, where its risk there keeps epsilon more likely than not.
    pub(super) fn best(&self, texts: &ExitTexts<'_>, epsilon: f64, delta: f64) -> Option<usize> {
        let saving = |candidate: &Candidate| {
            candidate.certified(texts.calibration.len(), epsilon, delta)?;
            let keeps = |risk: f64| risk::p_value(risk, texts.fit.len(), epsilon) < 0.5;
            candidate.fit.iter().take_while(|[risk, _]| keeps(*risk)).last().map(|[_, saving]| *saving)
        };
        let found = self.all.iter().enumerate().filter_map(|(i, candidate)| Some((i, saving(candidate)?)));
        found.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// The same, calibrated and measured.
    pub(super) fn best_rule(
        &self,
        texts: &ExitTexts<'_>,
        epsilon: f64,
        options: &ExitOptions,
    ) -> Option<ExitRule> {
        let best = self.best(texts, epsilon, options.delta)?;
        Some(self.all[best].at(texts, epsilon, options))
    }
}

impl Candidate {
    fn new(rule: Rule, texts: &ExitTexts<'_>) -> Self {
        let thresholds = rule.thresholds(&texts.fit);
        let full = texts.costs.full();
        let of = |samples: &[&ExitSample], threshold: f64| -> Vec<Exits> {
            samples.iter().map(|sample| rule.apply(sample, texts.costs, threshold)).collect()
        };
        let risk = |all: &[Exits]| all.iter().map(Exits::risk).sum::<f64>() / all.len() as f64;
        let on_fit = |threshold: &f64| {
            let all = of(&texts.fit, *threshold);
            let (cost, tokens) = all.iter().fold((0.0, 0.0), |(c, t), e| (c + e.cost, t + e.tokens));
            [risk(&all), 1.0 - cost / (tokens * full)]
        };
        let fit = thresholds.iter().map(on_fit).collect();
        let calibration = thresholds.iter().map(|t| risk(&of(&texts.calibration, *t))).collect();
        Self { rule, thresholds, fit, calibration }
    }

    /// The lowest threshold down to which every one is certified: fixed-sequence testing.
    fn certified(&self, n: usize, epsilon: f64, delta: f64) -> Option<usize> {
        let passes = |risk: &&f64| risk::p_value(**risk, n, epsilon) <= delta;
        self.calibration.iter().take_while(passes).count().checked_sub(1)
    }

    fn at(&self, texts: &ExitTexts<'_>, epsilon: f64, options: &ExitOptions) -> ExitRule {
        let (n, delta) = (texts.calibration.len(), options.delta);
        let certified = self.certified(n, epsilon, delta);
        let Rule { head, confidence, levels } = self.rule.clone();
        let measured = certified.map(|i| {
            let risk = self.calibration[i];
            self.measure(texts, self.thresholds[i], [risk, risk::p_value(risk, n, epsilon)], options)
        });
        let threshold = certified.map(|i| self.thresholds[i]);
        ExitRule { head, confidence, levels, epsilon, delta, threshold, measured }
    }

    fn measure(
        &self,
        texts: &ExitTexts<'_>,
        threshold: f64,
        [risk_calibration, p_value]: [f64; 2],
        options: &ExitOptions,
    ) -> ExitMeasured {
        let exits = texts.heldout.iter().map(|sample| self.rule.apply(sample, texts.costs, threshold));
        let exits: Vec<Exits> = exits.collect();
        let tokens: f64 = exits.iter().map(|e| e.tokens).sum();
        let levels = texts.depth() + 1;
        let share = |level: usize| exits.iter().map(|e| e.levels[level]).sum::<f64>() / tokens;
        let shares: Vec<f64> = (0..levels).map(share).collect();
        let full = texts.costs.full();
        let parts = |of: &dyn Fn(&Exits) -> (f64, f64)| exits.iter().map(of).collect::<Vec<_>>();
        ExitMeasured {
            p_value,
            risk_calibration,
            risk_heldout: estimate(&parts(&|e| (e.risk(), 1.0)), options),
            mean_level: shares.iter().enumerate().map(|(level, share)| level as f64 * share).sum(),
            shares,
            nll: exits.iter().map(|e| e.nll).sum::<f64>() / tokens,
            net_saving: estimate(&parts(&|e| (full * e.tokens - e.cost, full * e.tokens)), options),
        }
    }
}
