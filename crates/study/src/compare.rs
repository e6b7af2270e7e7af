//! Two runs: how their depths differ by every rule, and their curves layer by layer.
//!
//! On the same prompts both runs see the same resamples, so what makes a prompt hard for both
//! cancels. Differences are always "B less A".

use crate::curves::{Curve, PromptCurves, Settings};
use crate::{Error, format};
use fathom_depth::{Depth, Interval, Resampling, Rule};
use serde::Serialize;

/// A finished run that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What to call it.
    pub name: &'a str,
    /// Its curves.
    pub curves: &'a PromptCurves,
}

/// How the prompts of two runs are resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairing {
    /// Both have the same prompts, and each resample is the same of both.
    Paired,
    /// Each on its own.
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
    /// What it is called.
    pub name: String,
    /// The number of layers.
    pub layers: usize,
    /// The number of prompts.
    pub prompts: usize,
}

/// B less A, with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The difference on all prompts.
    pub difference: f64,
    /// Its 95 % bootstrap interval; absent where no resample has one.
    pub interval: Option<[f64; 2]>,
    /// Whether the interval excludes 0 and stands on nearly all resamples ([`MOST_NONE`]).
    pub excludes_zero: bool,
    /// The share of the resamples that have no difference.
    pub none_share: f64,
}

/// What one rule says of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleDifference {
    /// The rule.
    pub rule: Rule,
    /// What it says of A, without an interval.
    pub a: Depth,
    /// What it says of B, without an interval.
    pub b: Depth,
    /// The difference of the values in layers; absent where the models differ in depth, or a value is.
    pub value: Option<Difference>,
    /// The difference of the ratios; absent where a ratio is.
    pub ratio: Option<Difference>,
}

/// A curve of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurveDifference {
    /// The curve.
    pub curve: Curve,
    /// Whether places are relative depths from 0, the first layer, to 1, the last: so it is where the
    /// models differ in depth, and the curves between layers are straight lines.
    pub relative: bool,
    /// Layers or relative depths.
    pub at: Vec<f64>,
    /// A's values there.
    pub a: Vec<f64>,
    /// B's values there.
    pub b: Vec<f64>,
    /// The differences there.
    pub differences: Vec<Difference>,
    /// The index in `at` of the largest difference whose interval excludes 0.
    pub largest: Option<usize>,
    /// How many intervals exclude 0.
    pub separate: usize,
}

/// Compares two runs.
///
/// # Errors
/// [`Error::DifferentPrompts`] where runs to be paired do not have the same prompts,
/// [`Error::TooFewPrompts`], [`Error::NothingCommon`], and [`Error::Bootstrap`] for a number of
/// resamples that cannot be drawn.
pub fn compare(a: Run<'_>, b: Run<'_>, pairing: Pairing, settings: &Settings) -> Result<Comparison, Error> {
    let both = Both::of(a, b, pairing, settings)?;
    let rules: Vec<RuleDifference> =
        Rule::ALL.into_iter().filter_map(|rule| both.rule(rule, settings)).collect();
    let curves: Vec<CurveDifference> = Curve::ALL.into_iter().filter_map(|curve| both.curve(curve)).collect();
    if rules.is_empty() && curves.is_empty() {
        return Err(Error::NothingCommon { a: a.name.to_owned(), b: b.name.to_owned() });
    }
    let side = |run: Run<'_>| Side {
        name: run.name.to_owned(),
        layers: run.curves.layers(),
        prompts: run.curves.prompts(),
    };
    let (resamples, seed) = (settings.resamples, settings.seed);
    Ok(Comparison { a: side(a), b: side(b), pairing, resamples, seed, rules, curves })
}

/// Two runs and how their prompts are drawn.
pub(crate) struct Both<'a> {
    a: &'a PromptCurves,
    b: &'a PromptCurves,
    /// Where A's prompts are in B, for paired runs.
    places: Option<Vec<usize>>,
    resampling: Resampling,
}

impl<'a> Both<'a> {
    pub(crate) fn of(a: Run<'a>, b: Run<'a>, pairing: Pairing, settings: &Settings) -> Result<Self, Error> {
        let (a_prompts, b_prompts) = (a.curves.prompts(), b.curves.prompts());
        let few =
            |run: &Run<'_>| Error::TooFewPrompts { run: run.name.to_owned(), prompts: run.curves.prompts() };
        if let Some(run) = [a, b].iter().find(|run| run.curves.prompts() < 2) {
            return Err(few(run));
        }
        let (places, sets) = match pairing {
            Pairing::Unpaired => (None, vec![a_prompts, b_prompts]),
            Pairing::Paired => {
                let places = a.curves.places_in(b.curves).map_err(|common| Error::DifferentPrompts {
                    a: a.name.to_owned(),
                    a_prompts,
                    b: b.name.to_owned(),
                    b_prompts,
                    common,
                })?;
                (Some(places), vec![a_prompts])
            }
        };
        let resampling = Resampling::independent(&sets, settings.resamples, settings.seed)?;
        Ok(Self { a: a.curves, b: b.curves, places, resampling })
    }

    /// Hands a function the weights of A's and of B's prompts in each resample.
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

    /// What one rule says of both; nothing where its probe was not run in both.
    pub(crate) fn rule(&self, rule: Rule, settings: &Settings) -> Option<RuleDifference> {
        let apply = |run: &PromptCurves, weights: &[u32]| run.apply(rule, weights, &settings.thresholds);
        let (a, b) = (apply(self.a, &self.a.once())?, apply(self.b, &self.b.once())?);
        let (Some(a_ratio), Some(b_ratio)) = (a.ratio, b.ratio) else {
            return Some(RuleDifference { rule, a, b, value: None, ratio: None });
        };
        let resampled = self.each(|a_weights, b_weights| {
            let (a, b) = (apply(self.a, a_weights)?, apply(self.b, b_weights)?);
            Some((b.value? - a.value?, b.ratio? - a.ratio?))
        });
        let ratio = Difference::of(b_ratio - a_ratio, resampled.iter().map(|found| Some(found.as_ref()?.1)));
        let value = a
            .value
            .zip(b.value)
            .filter(|_| self.a.layers() == self.b.layers())
            .map(|(a, b)| Difference::of(b - a, resampled.iter().map(|found| Some(found.as_ref()?.0))));
        Some(RuleDifference { rule, a, b, value, ratio: Some(ratio) })
    }

    /// A curve of both; nothing where it was not measured in both.
    fn curve(&self, curve: Curve) -> Option<CurveDifference> {
        let relative = self.a.layers() != self.b.layers();
        let points = self.a.layers().max(self.b.layers());
        let of = |run: &PromptCurves, weights: &[u32]| {
            let curve = run.curve(curve, weights)?;
            Some(if relative { stretched(&curve, points) } else { curve })
        };
        let (a, b) = (of(self.a, &self.a.once())?, of(self.b, &self.b.once())?);
        let resampled = self.each(|a_weights, b_weights| {
            let (a, b) = (of(self.a, a_weights)?, of(self.b, b_weights)?);
            Some(b.iter().zip(a).map(|(b, a)| b - a).collect::<Vec<f64>>())
        });
        let difference = |i: usize| {
            Difference::of(b[i] - a[i], resampled.iter().map(|found| found.as_ref()?.get(i).copied()))
        };
        let differences: Vec<Difference> = (0..points).map(difference).collect();
        let separate = || (0..points).filter(|i| differences[*i].excludes_zero);
        let size = |i: &usize| differences[*i].difference.abs();
        let largest = separate().max_by(|i, j| size(i).total_cmp(&size(j)));
        let separate = separate().count();
        let at = (0..points).map(|i| if relative { place(i, points) } else { i as f64 }).collect();
        Some(CurveDifference { curve, relative, at, a, b, differences, largest, separate })
    }
}

impl Difference {
    fn of(difference: f64, resampled: impl Iterator<Item = Option<f64>>) -> Self {
        match Interval::of(resampled) {
            Ok(Interval { lo, hi, none_share, .. }) => {
                let excludes_zero = (lo > 0.0 || hi < 0.0) && none_share <= MOST_NONE;
                Self { difference, interval: Some([lo, hi]), excludes_zero, none_share }
            }
            Err(_) => Self { difference, interval: None, excludes_zero: false, none_share: 1.0 },
        }
    }
}

/// Where a rule finds nothing in more of the resamples than this, the interval of the others says
/// nothing about a difference: 95 % of all resamples cannot lie in it.
pub const MOST_NONE: f64 = 0.05;

/// The relative depth of point i of n.
fn place(i: usize, n: usize) -> f64 {
    if n < 2 { 0.0 } else { i as f64 / (n - 1) as f64 }
}

/// A curve at `points` places from its first value to its last, straight lines between its values.
fn stretched(curve: &[f64], points: usize) -> Vec<f64> {
    let Some(last) = curve.len().checked_sub(1) else { return vec![f64::NAN; points] };
    let value = |i: usize| {
        let at = place(i, points) * last as f64;
        let below = (at.floor() as usize).min(last);
        let above = (below + 1).min(last);
        let weight = at - below as f64;
        // A neighbour that is no number does not spoil a point that falls on a layer.
        if weight == 0.0 { curve[below] } else { curve[below] * (1.0 - weight) + curve[above] * weight }
    };
    (0..points).map(value).collect()
}

impl Comparison {
    /// The comparison as Markdown whose tables line up, for a terminal as for a document. An asterisk
    /// stands at intervals that exclude 0.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (letter, side) in [('A', &self.a), ('B', &self.b)] {
            let Side { name, layers, prompts } = side;
            out += &format!("{letter}: {}, {layers} layers, {prompts} prompts  \n", format::clean(name));
        }
        let how = match self.pairing {
            Pairing::Paired => "the same resamples of the same prompts in both",
            Pairing::Unpaired => "the prompts of each resampled on their own",
        };
        let resamples = self.resamples;
        out += &format!(
            "Differences are B - A; 95 % bootstrap intervals, {resamples} resamples, {how}; * excludes 0.\n"
        );
        if !self.rules.is_empty() {
            out += &format!("\n{}", self.rule_table());
        }
        if !self.curves.is_empty() {
            out += &format!("\n{}\n{}", self.curve_table(), LAYER_BY_LAYER);
        }
        let cautions = [
            format::caution([self.a.prompts, self.b.prompts]),
            format::largest(self.rules.iter().map(|row| row.rule)),
        ];
        cautions.iter().filter(|c| !c.is_empty()).for_each(|caution| out += &format!("\n{caution}\n"));
        out
    }

    fn rule_table(&self) -> String {
        let heading = ["rule", "A", "B", "B - A", "interval", "ratio A", "ratio B", "B - A", "interval"];
        let row = |row: &RuleDifference| {
            let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or("none".to_owned(), show);
            let [value, value_interval] = difference_cells(row.value.as_ref(), format::layer);
            let [ratio, ratio_interval] = difference_cells(row.ratio.as_ref(), format::share);
            vec![
                row.rule.name().to_owned(),
                shown(row.a.value, format::layer),
                shown(row.b.value, format::layer),
                value,
                value_interval,
                shown(row.a.ratio, format::share),
                shown(row.b.ratio, format::share),
                ratio,
                ratio_interval,
            ]
        };
        let rows: Vec<Vec<String>> = self.rules.iter().map(row).collect();
        format::markdown(&heading.map(str::to_owned), &rows)
    }

    fn curve_table(&self) -> String {
        let place = if self.a.layers == self.b.layers { "at layer" } else { "at relative depth" };
        let heading = ["curve", "differ", place, "A", "B", "B - A", "interval"];
        let row = |curve: &CurveDifference| {
            let differ = format!("{} of {}", curve.separate, curve.at.len());
            let mut cells = vec![curve.curve.name().to_owned(), differ];
            match curve.largest {
                None => cells.extend(["nowhere", "-", "-", "-", "-"].map(str::to_owned)),
                Some(i) => {
                    let at = curve.at[i];
                    cells.push(if curve.relative { format::share(at) } else { format::layer(at) });
                    cells.extend([format::number(curve.a[i]), format::number(curve.b[i])]);
                    cells.extend(difference_cells(Some(&curve.differences[i]), format::number));
                }
            }
            cells
        };
        let rows: Vec<Vec<String>> = self.curves.iter().map(row).collect();
        format::markdown(&heading.map(str::to_owned), &rows)
    }
}

/// What must be said beside intervals of many layers.
const LAYER_BY_LAYER: &str = "Each curve is shown where it differs most among the layers whose interval excludes 0. \
The intervals hold layer by layer: of layers that do not differ, about one in twenty is still among them.\n";

fn difference_cells(difference: Option<&Difference>, show: fn(f64) -> String) -> [String; 2] {
    let Some(difference) = difference else { return ["-".to_owned(), "-".to_owned()] };
    let star = if difference.excludes_zero { " *" } else { "" };
    let none = format::none(difference.none_share);
    [show(difference.difference), format!("{}{star}{none}", format::interval(difference.interval, show))]
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
