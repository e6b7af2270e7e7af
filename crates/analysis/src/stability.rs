//! How an effective depth varies with the threshold of its rule, with the number of prompts and from
//! resample to resample: `uncertainty` in results.json.

use crate::curves::{BootstrapOptions, Over, PromptCurves};
use fathom_depth::{BootstrapError, Interval, Rule, Thresholds};
use fathom_results::{
    IntervalWidth, OutputLoss, ResampleHistogram, RuleUncertainty, SweepPoint, Uncertainty,
};

/// Number of histogram bins for a rule whose values are not whole numbers.
const BINS: usize = 30;

/// The uncertainty of a run's depth, rule by rule.
pub fn uncertainty(curves: &PromptCurves, options: &BootstrapOptions) -> Uncertainty {
    let rules = Rule::ALL.into_iter().filter(|rule| curves.prompts() > 0 && curves.feeds(*rule));
    Uncertainty {
        prompts: curves.prompts(),
        resamples: options.resamples,
        seed: options.seed,
        rules: rules.map(|rule| of_rule(curves, rule, options)).collect(),
        nll: loss(curves, options),
    }
}

/// The loss of the output with its interval.
fn loss(curves: &PromptCurves, options: &BootstrapOptions) -> Option<OutputLoss> {
    let value = curves.output_loss(&curves.once())?;
    let resampling = curves.resampling(options);
    let interval =
        resampling.and_then(|resampling| resampling.interval(|weights| curves.output_loss(weights)));
    Some(OutputLoss { value, interval: interval.ok().map(|Interval { lo, hi, .. }| [lo, hi]) })
}

fn of_rule(curves: &PromptCurves, rule: Rule, options: &BootstrapOptions) -> RuleUncertainty {
    let sweep = sweep(curves, rule, options);
    // With too few prompts to resample, there is neither a width nor a histogram.
    let Ok(resampling) = curves.resampling(options) else {
        return RuleUncertainty { rule, sweep, by_prompts: Vec::new(), histogram: None };
    };
    let (mut by_prompts, mut histogram) = (Vec::new(), None);
    for prompts in prompt_counts(curves.text_count()) {
        let resampling = resampling.clone().drawing(prompts);
        let values = curves.resampled(rule, &resampling, &options.thresholds);
        by_prompts.push(width(prompts, Interval::of(values.iter().copied(), resampling.correction())));
        if prompts == curves.text_count() {
            histogram = self::histogram(&values);
        }
    }
    RuleUncertainty { rule, sweep, by_prompts, histogram }
}

/// 2, 4, 8 and so on, then all.
fn prompt_counts(all: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(2usize), |n| n.checked_mul(2)).take_while(|n| *n < all);
    powers.chain([all]).collect()
}

fn width(prompts: usize, found: Result<Interval, BootstrapError>) -> IntervalWidth {
    match found {
        Ok(Interval { lo, hi, none_share, .. }) => {
            IntervalWidth { prompts, interval: Some([lo, hi]), width: Some(hi - lo), none_share }
        }
        Err(_) => IntervalWidth { prompts, interval: None, width: None, none_share: 1.0 },
    }
}

/// The thresholds of the sweep of a rule, including the one in use.
fn grid(rule: Rule, thresholds: &Thresholds) -> Vec<f64> {
    let Some(used) = thresholds.of(rule) else { return Vec::new() };
    let steps = |first: u32, last: u32, step: usize| {
        (first..=last).step_by(step).map(|percent| f64::from(percent) / 100.0)
    };
    let mut grid: Vec<f64> = match rule {
        Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::Top1 => steps(5, 95, 5).collect(),
        Rule::Influence90 => steps(50, 95, 5).chain([0.99]).collect(),
        // The probe has already applied the threshold of settling.
        _ => return Vec::new(),
    };
    if !grid.contains(&used) {
        grid.push(used);
        grid.sort_by(f64::total_cmp);
    }
    grid
}

/// The depth at each threshold. The curves of each resample are pooled once for all thresholds.
fn sweep(curves: &PromptCurves, rule: Rule, options: &BootstrapOptions) -> Vec<SweepPoint> {
    let grid = grid(rule, &options.thresholds);
    let at = |weights: &[u32], over: Over| -> Vec<(Option<f64>, Option<f64>)> {
        let Some(pooled) = curves.pooled(rule, weights, over) else { return vec![(None, None); grid.len()] };
        let depths = grid.iter().map(|cut| pooled.depth(rule, &options.thresholds.with(rule, *cut)));
        depths.map(|depth| (depth.value, depth.ratio)).collect()
    };
    if grid.is_empty() {
        return Vec::new();
    }
    let once = curves.once();
    let (values, estimates) = (at(&once, Over::Largest), at(&once, Over::Mean));
    let resampled = curves
        .resampling(options)
        .map(|resampling| (resampling.correction(), resampling.each(|weights| at(weights, Over::Mean))));
    let point = |(i, (value, ratio)): (usize, (Option<f64>, Option<f64>))| {
        let estimate = estimates[i].0;
        let found = resampled.as_ref().ok().and_then(|(correction, resampled)| {
            Interval::of(resampled.iter().map(|values| values[i].0), *correction).ok()
        });
        let interval = estimate.and(found).map(|found| [found.lo, found.hi]);
        let mean = estimate.filter(|_| rule.reads_largest());
        SweepPoint { threshold: grid[i], value, ratio, mean, interval }
    };
    values.into_iter().enumerate().map(point).collect()
}

fn histogram(values: &[Option<f64>]) -> Option<ResampleHistogram> {
    let found: Vec<f64> = values.iter().flatten().copied().filter(|value| value.is_finite()).collect();
    let low = found.iter().copied().min_by(f64::total_cmp)?;
    let high = found.iter().copied().max_by(f64::total_cmp)?;
    let whole = found.iter().all(|value| value.fract() == 0.0);
    // Values are layers or numbers of layers, so there are at most as many bins of width 1 as layers; a
    // wider range can only come from damaged files.
    let (first, step, bins) = match whole && high - low < 10_000.0 {
        true => (low - 0.5, 1.0, (high - low) as usize + 1),
        false if high > low => (low, (high - low) / BINS as f64, BINS),
        false => (low - 0.5, 1.0, 1),
    };
    let mut counts = vec![0; bins];
    for value in &found {
        counts[(((value - first) / step) as usize).min(bins - 1)] += 1;
    }
    let edges = (0..=bins).map(|i| first + step * i as f64).collect();
    Some(ResampleHistogram { edges, counts, none: (values.len() - found.len()) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_counts_double_up_to_all() {
        assert_eq!(prompt_counts(2), [2]);
        assert_eq!(prompt_counts(3), [2, 3]);
        assert_eq!(prompt_counts(8), [2, 4, 8]);
        assert_eq!(prompt_counts(45), [2, 4, 8, 16, 32, 45]);
    }

    #[test]
    fn each_whole_number_has_its_own_bin() {
        let found = histogram(&[Some(3.0), Some(5.0), None, Some(3.0), Some(f64::NAN)]).unwrap();
        assert_eq!(
            found,
            ResampleHistogram { edges: vec![2.5, 3.5, 4.5, 5.5], counts: vec![2, 0, 1], none: 2 }
        );
        assert_eq!(histogram(&[None]), None);
    }

    #[test]
    fn every_value_falls_into_a_bin() {
        let values: Vec<Option<f64>> = (0..=600).map(|i| Some(f64::from(i) / 200.0)).collect();
        let found = histogram(&values).unwrap();
        assert_eq!((found.edges.len(), found.edges[0], found.counts.iter().sum::<u64>()), (31, 0.0, 601));
        assert!((found.edges[30] - 3.0).abs() < 1e-12);
        assert!(found.counts.iter().all(|count| (19..=22).contains(count)), "{:?}", found.counts);
        let constant = histogram(&[Some(1.25); 9]).unwrap();
        assert_eq!((constant.edges, constant.counts), (vec![0.75, 1.75], vec![9]));
    }

    #[test]
    fn the_grid_includes_the_threshold_in_use() {
        let thresholds = Thresholds::default().with(Rule::Overlap, 0.33);
        let grid = grid(Rule::Overlap, &thresholds);
        assert!(grid.contains(&0.33) && grid.is_sorted() && grid.len() == 20);
        assert!(super::grid(Rule::Settling, &thresholds).is_empty());
        assert!(super::grid(Rule::Cosine, &thresholds).is_empty());
    }
}
