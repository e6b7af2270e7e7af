//! The comparison of two runs: depths by every rule, curves layer by layer.
//!
//! On the same prompts, both runs are resampled alike, so what makes a prompt hard for both cancels.
//! Differences are always B - A.

use crate::Error;
use crate::curves::{BootstrapOptions, Curve, PromptCurves};
use fathom_depth::{Correction, Depth, Interval, IntervalOf, Resampling, Rule, p_value, variance};
use serde::Serialize;

/// A finished run to compare.
#[derive(Clone, Copy, Debug)]
pub struct RunCurves<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its curves.
    pub curves: &'a PromptCurves,
}

/// How the prompts of two runs are resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairing {
    /// Both runs have the same prompts and share each resample.
    Paired,
    /// The prompts of each run are resampled independently.
    Unpaired,
}

impl Pairing {
    /// The name in CSV and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::Unpaired => "unpaired",
        }
    }
}

/// Two runs compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first run.
    pub a: Side,
    /// The second run.
    pub b: Side,
    /// How prompts were resampled.
    pub pairing: Pairing,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
    /// Every rule whose probe was run in both.
    pub rules: Vec<RuleDifference>,
    /// Every curve that was measured in both.
    pub curves: Vec<CurveDifference>,
}

/// One of two runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Its name.
    pub name: String,
    /// The number of layers.
    pub layers: usize,
    /// The number of prompts.
    pub prompts: usize,
}

/// B - A, with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The difference on all prompts.
    pub difference: f64,
    /// Its 95 % bootstrap interval; `None` if no resample has a difference.
    pub interval: Option<[f64; 2]>,
    /// Whether the interval excludes 0 and rests on nearly all resamples ([`MOST_NONE`]).
    pub excludes_zero: bool,
    /// The share of resamples without a difference, because the rule has no value in A or B.
    pub none_share: f64,
    /// The two-sided p-value of the null hypothesis "no difference", consistent with the interval.
    pub p_value: Option<f64>,
}

/// One rule in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleDifference {
    /// The rule.
    pub rule: Rule,
    /// Its depth in A, without an interval.
    pub a: Depth,
    /// Its depth in B, without an interval.
    pub b: Depth,
    /// The number of which the differences are taken.
    pub difference_of: IntervalOf,
    /// The difference in layers; `None` if the models differ in depth or one has no value.
    pub value: Option<Difference>,
    /// The difference of the ratios (shares of the layers); `None` if one has no value.
    pub ratio: Option<Difference>,
}

/// A curve of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurveDifference {
    /// The curve.
    pub curve: Curve,
    /// Whether `at` holds relative depths from 0 (first layer) to 1 (last) instead of layers. This is so
    /// if the models differ in depth; curves are then interpolated linearly between layers.
    pub relative: bool,
    /// Layers or relative depths.
    pub at: Vec<f64>,
    /// A's values there.
    pub a: Vec<f64>,
    /// B's values there.
    pub b: Vec<f64>,
    /// The differences there; without intervals for curves of the largest effect of any prompt.
    pub differences: Vec<Difference>,
    /// The index in `at` of the largest difference whose interval excludes 0.
    pub largest: Option<usize>,
    /// The number of intervals that exclude 0.
    pub separate: usize,
}

impl CurveDifference {
    /// How many of the layers or depths that have a value in both runs have an interval that excludes 0, as in "3 of 30";
    /// `None` where no layer has such a value.
    pub(crate) fn separate_of_all(&self) -> Option<String> {
        let all = self.differences.iter().filter(|found| !found.difference.is_nan()).count();
        (all > 0).then(|| format!("{} of {all}", self.separate))
    }
}

impl Comparison {
    /// The difference of the ratios by a rule, where both runs have one.
    pub(crate) fn ratio(&self, rule: Rule) -> Option<&Difference> {
        self.rules.iter().find(|row| row.rule == rule)?.ratio.as_ref()
    }
}

/// Compares two runs.
///
/// # Errors
/// [`Error::DifferentPrompts`] if paired runs do not have the same prompts,
/// [`Error::TooFewPrompts`], [`Error::NothingCommon`], and [`Error::Bootstrap`] for a number of
/// resamples that cannot be drawn.
pub fn compare(
    a: RunCurves<'_>,
    b: RunCurves<'_>,
    pairing: Pairing,
    options: &BootstrapOptions,
) -> Result<Comparison, Error> {
    let runs = PairedRuns::of(a, b, pairing, options)?;
    let rules: Vec<RuleDifference> =
        Rule::ALL.into_iter().filter_map(|rule| runs.rule(rule, options)).collect();
    let curves: Vec<CurveDifference> = Curve::ALL.into_iter().filter_map(|curve| runs.curve(curve)).collect();
    if rules.is_empty() && curves.is_empty() {
        return Err(Error::NothingCommon { a: a.name.to_owned(), b: b.name.to_owned() });
    }
    let side = |run: RunCurves<'_>| Side {
        name: run.name.to_owned(),
        layers: run.curves.layers(),
        prompts: run.curves.prompts(),
    };
    let (resamples, seed) = (options.resamples, options.seed);
    Ok(Comparison { a: side(a), b: side(b), pairing, resamples, seed, rules, curves })
}

/// Two runs and the resamples of their prompts.
pub(crate) struct PairedRuns<'a> {
    a: &'a PromptCurves,
    b: &'a PromptCurves,
    /// For paired runs, the index in B of each prompt of A.
    places: Option<Vec<usize>>,
    resampling: Resampling,
}

impl<'a> PairedRuns<'a> {
    pub(crate) fn of(
        a: RunCurves<'a>,
        b: RunCurves<'a>,
        pairing: Pairing,
        options: &BootstrapOptions,
    ) -> Result<Self, Error> {
        let (a_prompts, b_prompts) = (a.curves.prompts(), b.curves.prompts());
        let few = |run: &RunCurves<'_>| Error::TooFewPrompts {
            run: run.name.to_owned(),
            prompts: run.curves.text_count(),
        };
        if let Some(run) = [a, b].iter().find(|run| run.curves.text_count() < 2) {
            return Err(few(run));
        }
        let (places, sets) = match pairing {
            Pairing::Unpaired => (None, vec![a.curves.texts(), b.curves.texts()]),
            Pairing::Paired => {
                let places = a.curves.places_in(b.curves).map_err(|common| Error::DifferentPrompts {
                    a: a.name.to_owned(),
                    a_prompts,
                    b: b.name.to_owned(),
                    b_prompts,
                    common,
                })?;
                (Some(places), vec![a.curves.texts()])
            }
        };
        let resampling = Resampling::of_texts(&sets, options.resamples, options.seed)?;
        Ok(Self { a: a.curves, b: b.curves, places, resampling })
    }

    /// Calls a function with the weights of A's and of B's prompts in each resample.
    fn each<T: Send>(&self, statistic: impl Fn(&[u32], &[u32]) -> T + Sync) -> Vec<T> {
        self.resampling.each(|weights| match &self.places {
            None => {
                let (a, b) = weights.split_at(self.a.prompts());
                statistic(a, b)
            }
            Some(places) => {
                let mut b = vec![0; weights.len()];
                places.iter().zip(weights).for_each(|(place, weight)| b[*place] = *weight);
                statistic(weights, &b)
            }
        })
    }

    /// One rule in both runs; `None` if its probe was not run in both.
    pub(crate) fn rule(&self, rule: Rule, options: &BootstrapOptions) -> Option<RuleDifference> {
        let thresholds = &options.thresholds;
        let apply = |run: &PromptCurves| run.apply(rule, &run.once(), thresholds);
        let (a, b) = (apply(self.a)?, apply(self.b)?);
        let difference_of = IntervalOf::rule(rule);
        let (Some(of_a), Some(of_b)) = (a.estimate(), b.estimate()) else {
            return Some(RuleDifference { rule, a, b, difference_of, value: None, ratio: None });
        };
        let estimate = |run: &PromptCurves, weights: &[u32]| run.estimate(rule, weights, thresholds);
        let resampled =
            self.each(|a_weights, b_weights| (estimate(self.a, a_weights), estimate(self.b, b_weights)));
        let (mut in_a, mut in_b): (Vec<Option<f64>>, Vec<Option<f64>>) = resampled.into_iter().unzip();
        self.a.correct_bias(rule, thresholds, &mut in_a);
        self.b.correct_bias(rule, thresholds, &mut in_b);
        let difference = |of: &dyn Fn(&PromptCurves, f64) -> f64| {
            let [all_a, all_b] = [(self.a, &in_a), (self.b, &in_b)]
                .map(|(run, all)| all.iter().map(|one| Some(of(run, (*one)?))).collect::<Vec<_>>());
            self.difference(of(self.b, of_b) - of(self.a, of_a), &all_a, &all_b, rule.is_whole())
        };
        let share = |run: &PromptCurves, value: f64| rule.layers_used(value) / run.layers() as f64;
        let same_depth = self.a.layers() == self.b.layers();
        let value = same_depth.then(|| difference(&|_, value| value));
        Some(RuleDifference { rule, a, b, difference_of, value, ratio: Some(difference(&share)) })
    }

    /// A difference and its uncertainty, from the values of A and B on each resample.
    fn difference(&self, found: f64, a: &[Option<f64>], b: &[Option<f64>], lattice: bool) -> Difference {
        let correction = match &self.places {
            Some(_) => Correction::of(self.a.text_count()),
            None => {
                let varies =
                    |all: &[Option<f64>]| variance(&all.iter().flatten().copied().collect::<Vec<_>>());
                Correction::welch(&[(self.a.text_count(), varies(a)), (self.b.text_count(), varies(b))])
            }
        };
        let values: Vec<Option<f64>> = a.iter().zip(b).map(|(a, b)| Some((*b)? - (*a)?)).collect();
        Difference::of(found, &values, correction, lattice)
    }

    /// A curve in both runs; `None` if it was not measured in both.
    fn curve(&self, curve: Curve) -> Option<CurveDifference> {
        let relative = self.a.layers() != self.b.layers();
        let points = self.a.layers().max(self.b.layers());
        let of = |run: &PromptCurves, weights: &[u32]| {
            let curve = run.curve(curve, weights)?;
            Some(if relative { stretched(&curve, points) } else { curve })
        };
        let (a, b) = (of(self.a, &self.a.once())?, of(self.b, &self.b.once())?);
        let resampled = match curve.is_largest() {
            true => Vec::new(),
            false => self.each(|a_weights, b_weights| (of(self.a, a_weights), of(self.b, b_weights))),
        };
        let difference = |i: usize| {
            let at = |found: &Option<Vec<f64>>| found.as_ref()?.get(i).copied();
            let (in_a, in_b): (Vec<_>, Vec<_>) = resampled.iter().map(|(a, b)| (at(a), at(b))).unzip();
            match curve.is_largest() {
                true => Difference::without_interval(b[i] - a[i]),
                false => self.difference(b[i] - a[i], &in_a, &in_b, false),
            }
        };
        let differences: Vec<Difference> = (0..points).map(difference).collect();
        let separate = || (0..points).filter(|i| differences[*i].excludes_zero);
        let size = |i: &usize| differences[*i].difference.abs();
        let largest = separate().max_by(|i, j| size(i).total_cmp(&size(j)));
        let separate = separate().count();
        let at = (0..points).map(|i| if relative { relative_depth(i, points) } else { i as f64 }).collect();
        Some(CurveDifference { curve, relative, at, a, b, differences, largest, separate })
    }
}

impl Difference {
    fn of(difference: f64, resampled: &[Option<f64>], correction: Correction, lattice: bool) -> Self {
        match Interval::of(resampled.iter().copied(), correction) {
            Ok(Interval { lo, hi, none_share, .. }) => {
                let excludes_zero = (lo > 0.0 || hi < 0.0) && none_share <= MOST_NONE;
                let p_value = p_value(resampled.iter().copied(), correction, lattice);
                Self { difference, interval: Some([lo, hi]), excludes_zero, none_share, p_value }
            }
            Err(_) => Self { none_share: 1.0, ..Self::without_interval(difference) },
        }
    }

    /// A difference without uncertainty.
    fn without_interval(difference: f64) -> Self {
        Self { difference, interval: None, excludes_zero: false, none_share: 0.0, p_value: None }
    }
}

/// The largest share of resamples in which a rule may have no value. Above it, the interval of the
/// others cannot contain 95 % of all resamples and says nothing about a difference.
pub const MOST_NONE: f64 = 0.05;

/// The relative depth of point i of n.
fn relative_depth(i: usize, n: usize) -> f64 {
    if n < 2 { 0.0 } else { i as f64 / (n - 1) as f64 }
}

/// Resamples a curve at `points` equally spaced relative depths, linear between its values.
fn stretched(curve: &[f64], points: usize) -> Vec<f64> {
    let Some(last) = curve.len().checked_sub(1) else { return vec![f64::NAN; points] };
    let value = |i: usize| {
        let at = relative_depth(i, points) * last as f64;
        let below = (at.floor() as usize).min(last);
        let above = (below + 1).min(last);
        let weight = at - below as f64;
        // A point that falls on a layer does not read its neighbour, which may be NaN.
        if weight == 0.0 { curve[below] } else { curve[below] * (1.0 - weight) + curve[above] * weight }
    };
    (0..points).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretched_curve_keeps_its_ends_and_its_lines() {
        assert_eq!(stretched(&[0.0, 2.0, 4.0], 5), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(stretched(&[7.0], 3), [7.0; 3]);
        assert_eq!(stretched(&[1.0, 5.0, 2.0], 3), [1.0, 5.0, 2.0]);
        let line: Vec<f64> = (0..7).map(|i| 3.0 - f64::from(i)).collect();
        let wide = stretched(&line, 31);
        for (i, value) in wide.iter().enumerate() {
            assert!((value - (3.0 - 6.0 * i as f64 / 30.0)).abs() < 1e-12);
        }
        assert!(stretched(&[], 2).iter().all(|value| value.is_nan()));
    }
}
