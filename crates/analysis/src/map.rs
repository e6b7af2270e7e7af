//! Maps between the levels of two models: the best target of each source level and the best source of each target level,
//! and the slopes of relative depths.

use fathom_depth::bootstrap;
use fathom_results::Estimated;

/// Relative errors on held-out texts.
pub struct RelativeErrors<'a> {
    /// `[source levels][target levels][texts]`, sums over tokens; no rows where no map could be fitted.
    pub sums: &'a [Vec<Vec<f64>>],
    /// Tokens of each text.
    pub tokens: &'a [f64],
}

/// Where source levels map to.
#[derive(Clone, Debug, PartialEq)]
pub struct BestTargets {
    /// The mean relative errors, `[source levels][target levels]`.
    pub relative: Vec<Vec<f64>>,
    /// For each source level the target level of least error.
    pub best: Vec<Option<usize>>,
    /// Its 95 % bootstrap interval over texts.
    pub intervals: Vec<Option<[f64; 2]>>,
    /// The slope of relative target depth on relative source depth.
    pub slope: Estimated,
}

impl RelativeErrors<'_> {
    /// The mean over the tokens of weighted texts.
    fn mean(&self, sums: &[f64], weights: &[u32]) -> f64 {
        let weighted = |values: &[f64]| -> f64 {
            values.iter().zip(weights).filter(|(_, w)| **w > 0).map(|(v, w)| f64::from(*w) * v).sum()
        };
        weighted(sums) / weighted(self.tokens)
    }

    /// The target level of least error of a source level.
    fn best(&self, source: usize, weights: &[u32]) -> Option<usize> {
        let errors = self.sums[source].iter().map(|sums| self.mean(sums, weights)).enumerate();
        errors.filter(|(_, e)| e.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(level, _)| level)
    }

    /// The slope of the least-squares line through the best targets, in relative depths.
    fn slope(&self, targets: usize, weights: &[u32]) -> Option<f64> {
        let relative = |level: usize, levels: usize| level as f64 / (levels - 1).max(1) as f64;
        let sources = self.sums.len();
        let point = |m: usize| Some((relative(m, sources), relative(self.best(m, weights)?, targets)));
        let points: Vec<(f64, f64)> = (0..sources).filter_map(point).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let square: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        let product: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        (square > 0.0).then(|| product / square)
    }

    /// The same with targets in the place of sources, to find best sources. Sources without maps have errors that are not
    /// numbers.
    pub fn transposed(&self, targets: usize) -> Vec<Vec<Vec<f64>>> {
        let missing = vec![f64::NAN; self.tokens.len()];
        let of = |rows: &Vec<Vec<f64>>, l: usize| rows.get(l).unwrap_or(&missing).clone();
        (0..targets).map(|l| self.sums.iter().map(|rows| of(rows, l)).collect()).collect()
    }

    /// The best targets with intervals.
    pub fn best_targets(&self, targets: usize, resamples: usize, seed: u64) -> BestTargets {
        let (texts, once) = (self.tokens.len(), vec![1; self.tokens.len()]);
        let row = |rows: &Vec<Vec<f64>>| match rows.is_empty() {
            true => vec![f64::NAN; targets],
            false => rows.iter().map(|sums| self.mean(sums, &once)).collect(),
        };
        let interval = |statistic: &(dyn Fn(&[u32]) -> Option<f64> + Sync)| {
            bootstrap(texts, resamples, seed, statistic).ok().map(|i| [i.lo, i.hi])
        };
        let sources = 0..self.sums.len();
        let slope = self.slope(targets, &once);
        BestTargets {
            relative: self.sums.iter().map(row).collect(),
            best: sources.clone().map(|m| self.best(m, &once)).collect(),
            intervals: sources.map(|m| interval(&|weights| Some(self.best(m, weights)? as f64))).collect(),
            slope: Estimated {
                value: slope.unwrap_or(f64::NAN),
                interval: slope.and_then(|_| interval(&|weights| self.slope(targets, weights))),
            },
        }
    }
}

/// Which way a slope reads the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The best target of each source.
    Targets,
    /// The best source of each target.
    Sources,
}

/// What the slope says of the depth of two models, in a sentence. `of` has the levels that are placed `among` the other's.
pub fn conclusion(reading: Reading, of: &str, among: &str, slope: &Estimated) -> String {
    let Estimated { value, interval } = slope;
    if !value.is_finite() {
        return format!("The levels of {of} cannot be placed among those of {among}.");
    }
    let best = match reading {
        Reading::Targets => "targets",
        Reading::Sources => "sources",
    };
    let slope = format!("The best {best} of {of} in {among} have a slope of {value:.2} in relative depth");
    let Some([low, high]) = interval else {
        return format!("{slope}; with fewer than two held-out texts it has no interval.");
    };
    let found = format!("{slope} (95 % interval {low:.2} to {high:.2})");
    match (low, high) {
        (low, high) if *low <= 1.0 && *high >= 1.0 => {
            format!(
                "{found}: levels correspond at the same relative depth; where one model is deeper, it stretches the same work."
            )
        }
        (_, high) if *high < 1.0 && *high > 0.0 => format!(
            "{found}: less than 1, so the levels of {of} reach over a smaller share of the depth of {among} than of their own."
        ),
        (_, high) if *high <= 0.0 => format!("{found}: depth in one does not go with depth in the other."),
        _ => format!(
            "{found}: more than 1, so the levels of {of} reach over a larger share of the depth of {among} than of their own."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors that are least at the given targets, on two texts.
    fn errors(best: &[[usize; 2]], targets: usize) -> Vec<Vec<Vec<f64>>> {
        let at = |best: &[usize; 2], l: usize| best.map(|b| 1.0 + l.abs_diff(b) as f64).to_vec();
        best.iter().map(|best| (0..targets).map(|l| at(best, l)).collect()).collect()
    }

    #[test]
    fn a_model_on_itself_has_slope_one_and_a_plateau_has_less() {
        let tokens = [10.0, 10.0];
        let of = |best: &[[usize; 2]], targets| {
            let sums = errors(best, targets);
            RelativeErrors { sums: &sums, tokens: &tokens }.best_targets(targets, 200, 1)
        };
        let same = of(&[[0, 0], [1, 1], [2, 2], [3, 3]], 4);
        assert_eq!(same.best, [0, 1, 2, 3].map(Some));
        assert_eq!((same.slope.value, same.slope.interval), (1.0, Some([1.0, 1.0])));
        assert!(conclusion(Reading::Targets, "a", "b", &same.slope).contains("same relative depth"));
        // All within the lower half of a model of twice the depth.
        let half = of(&[[0, 0], [1, 1], [2, 2], [3, 3]], 7);
        assert_eq!(half.slope.value, 0.5);
        assert!(conclusion(Reading::Targets, "a", "b", &half.slope).contains("smaller share"));
        // Texts that disagree give an interval.
        let between = of(&[[0, 0], [1, 3], [6, 2], [6, 4]], 7);
        let [low, high] = between.slope.interval.unwrap();
        assert!(low < between.slope.value && between.slope.value < high, "{between:?}");
    }

    #[test]
    fn levels_without_maps_are_left_out() {
        let mut sums = errors(&[[0, 0], [1, 1], [2, 2]], 3);
        sums[1].clear();
        let best = RelativeErrors { sums: &sums, tokens: &[1.0, 1.0] }.best_targets(3, 200, 1);
        assert_eq!(best.best, [Some(0), None, Some(2)]);
        assert_eq!(best.slope.value, 1.0);
        assert!(best.relative[1].iter().all(|e| e.is_nan()));
    }

    /// A target that everything predicts best, as the embedding of the token is, hides where the others come from.
    #[test]
    fn best_sources_do_not_depend_on_how_hard_targets_are() {
        let mut sums = errors(&[[0, 0], [1, 1], [2, 2], [3, 3]], 4);
        for rows in &mut sums {
            rows[0].iter_mut().for_each(|sum| *sum *= 0.01);
        }
        let (tokens, texts) = ([10.0, 10.0], 200);
        let errors = RelativeErrors { sums: &sums, tokens: &tokens };
        let targets = errors.best_targets(4, texts, 1);
        assert_eq!((targets.best, targets.slope.value), (vec![Some(0); 4], 0.0));
        let turned = errors.transposed(4);
        let sources = RelativeErrors { sums: &turned, tokens: &tokens }.best_targets(4, texts, 1);
        assert_eq!(sources.best, [0, 1, 2, 3].map(Some));
        assert_eq!((sources.slope.value, sources.slope.interval), (1.0, Some([1.0, 1.0])));
        let said = conclusion(Reading::Sources, "b", "a", &sources.slope);
        assert!(said.starts_with("The best sources of b in a have a slope of 1.00"), "{said}");
        // A source without maps is nobody's.
        sums[1].clear();
        let turned = RelativeErrors { sums: &sums, tokens: &tokens }.transposed(4);
        let sources = RelativeErrors { sums: &turned, tokens: &tokens }.best_targets(4, texts, 1);
        assert_eq!(sources.best, [0, 0, 2, 3].map(Some));
    }
}
