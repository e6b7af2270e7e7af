//! The uncertainty of the depths: resamples, other thresholds, fewer prompts. One figure per probe, one panel per
//! rule.

use super::axis::Axis;
use super::canvas::{COLUMN, PAGE, Stroke};
use super::color::Color;
use super::figure::{Body, Figure};
use super::grid::Grid;
use super::panel::{Band, Bar, Curve, Dots, Mark, Panel};
use super::table::FigureTable;
use crate::text::{number, value};
use fathom_results::{Depth, IntervalWidth, Probe, ResampleHistogram, Results, RuleUncertainty, SweepPoint};

/// The number of rules that are drawn, far more than there are.
const PANELS: usize = 24;

pub(super) fn certainty_figures(results: &Results) -> Vec<Figure> {
    let Some(uncertainty) = &results.uncertainty else { return Vec::new() };
    let rules: Vec<&RuleUncertainty> = uncertainty.rules.iter().take(PANELS).collect();
    let mut all = Vec::new();
    for probe in [Probe::Contributions, Probe::Lens, Probe::Settling, Probe::Skip] {
        let of_probe = || rules.iter().copied().filter(|rule| rule.rule.probe() == probe);
        // A later run in the same folder removes the figures of its probes by name.
        let probe = probe.name();
        all.extend(resamples(results, probe, of_probe()));
        all.extend(thresholds(results, probe, of_probe().filter(|rule| !rule.sweep.is_empty())));
        all.extend(prompts(results, probe, of_probe().filter(|rule| rule.by_prompts.len() > 1)));
    }
    all
}

/// A figure of these panels, or `None` without panels.
fn of_panels(
    results: &Results,
    (probe, kind): (&str, &str),
    (title, reading): (&str, &'static str),
    panels: Vec<Panel>,
    numbers: FigureTable,
) -> Option<Figure> {
    if panels.is_empty() {
        return None;
    }
    let columns = columns(panels.len());
    let width = if columns > 2 { PAGE } else { COLUMN };
    let grid = Grid { legend: Vec::new(), columns, panels, height: 130.0, width };
    let body = (Body::Panels(grid), numbers);
    Some(Figure::of_run(results, format!("{probe}_{kind}"), format!("{title}: {probe}"), reading, body))
}

/// The number of small multiples side by side.
fn columns(panels: usize) -> usize {
    match panels {
        1 => 1,
        2 => 2,
        3 => 3,
        _ => 4,
    }
}

/// The width between the axes of one of `panels` panels.
fn inner_width(panels: usize) -> f64 {
    let columns = columns(panels);
    Grid::inner_width(if columns > 2 { PAGE } else { COLUMN }, columns)
}

/// The histograms of the depths over resamples.
fn resamples<'a>(
    results: &Results,
    probe: &str,
    rules: impl Iterator<Item = &'a RuleUncertainty>,
) -> Option<Figure> {
    let found: Vec<(&str, &ResampleHistogram)> =
        rules.filter_map(|rule| Some((rule.rule.name(), rule.histogram.as_ref()?))).collect();
    let width = inner_width(found.len());
    let panels = found.iter().map(|(rule, found)| resample_panel(results, rule, found, width)).collect();
    let numbers = FigureTable {
        index: "rule and depth".to_owned(),
        headings: vec!["resamples".to_owned()],
        rows: found.iter().flat_map(|(rule, found)| resample_rows(rule, found)).collect(),
    };
    of_panels(
        results,
        (probe, "resamples"),
        (
            "How sure each depth is",
            "Effective depth by each rule in resamples of the prompts, drawn with replacement. The dashed line is the \
             depth on all prompts. Rules on skipped layers use the mean effect over prompts. A narrow peak means that \
             other prompts of the same kind would give the same depth; with two peaks, the rule is undecided.",
        ),
        panels,
        numbers,
    )
}

fn resample_panel(results: &Results, rule: &str, found: &ResampleHistogram, width: f64) -> Panel {
    let (edges, heights) = bins(found);
    let (first, last) = (edges[0], edges[edges.len() - 1]);
    let wholes = is_whole(&edges);
    let x = if wholes {
        let (low, high) = ((first - 2.0).max(first.min(-0.5)), last + 2.0);
        Axis::whole("depth", low, high, width)
    } else {
        let room = 0.02 * (last - first);
        Axis::around("depth", [first - room, last + room])
    };
    let x = if x.low.abs().max(x.high.abs()) > 1e9 { Axis::new("depth", -1e9, 1e9) } else { x };
    let gap = if wholes { 0.1 } else { 0.0 };
    let bars = edges.windows(2).zip(&heights).filter(|(ends, _)| x.low <= ends[0] && ends[1] <= x.high);
    let bars = bars.map(|(ends, height)| Bar {
        from: ends[0] + gap,
        to: ends[1] - gap,
        value: height.min(1e9),
        color: Color::Blue,
        stroke: false,
    });
    let hover = |(ends, height): (&[f64], &f64)| {
        ([ends[0], ends[1]], format!("depth {}\n{height} resamples", bin_name(ends)))
    };
    let value = results.depth.iter().find(|row| row.rule.name() == rule).and_then(Depth::shown);
    let mark = |at: f64| Mark {
        at,
        interval: None,
        label: format!("all prompts: {}", number(at)),
        color: Color::Vermilion,
    };
    Panel {
        bars: bars.collect(),
        marks: value.filter(|at| (x.low..=x.high).contains(at)).map(mark).into_iter().collect(),
        hovers: edges.windows(2).zip(&heights).map(hover).collect(),
        ..Panel::new(rule, x, Axis::around("resamples", heights.iter().map(|h| h.min(1e9)).chain([0.0])))
    }
}

/// The bins as they are drawn: a single one if the values differ by rounding errors only, which no axis resolves.
fn bins(found: &ResampleHistogram) -> (Vec<f64>, Vec<f64>) {
    let heights = found.counts.iter().map(|&count| count as f64);
    let (first, last) = (found.edges[0], found.edges[found.edges.len() - 1]);
    if last - first > 1e-9 * first.abs().max(last.abs()).max(1.0) {
        return (found.edges.clone(), heights.collect());
    }
    (vec![first - 0.5, first + 0.5], vec![heights.sum()])
}

/// Whether the bins are centred at whole numbers.
fn is_whole(edges: &[f64]) -> bool {
    edges[1] - edges[0] == 1.0 && (edges[0] + 0.5).fract() == 0.0 && edges[edges.len() - 1] - edges[0] < 1e4
}

/// The name of a bin: a whole number if the bin is centred at one and has width 1.
fn bin_name(ends: &[f64]) -> String {
    match (ends[0] + ends[1]) / 2.0 {
        middle if ends[1] - ends[0] == 1.0 && middle.fract() == 0.0 => format!("{middle}"),
        _ => format!("{} to {}", number(ends[0]), number(ends[1])),
    }
}

/// The bins of a rule as rows of a table.
fn resample_rows(rule: &str, found: &ResampleHistogram) -> Vec<(String, Vec<f64>)> {
    let bins = found.edges.windows(2).zip(&found.counts);
    let none = (found.none > 0).then(|| (format!("{rule}: none"), vec![found.none as f64]));
    bins.map(|(ends, &count)| (format!("{rule}: {}", bin_name(ends)), vec![count as f64]))
        .chain(none)
        .collect()
}

/// The interval if it lies within a model of `layers` layers.
fn drawable(ends: Option<[f64; 2]>, layers: f64) -> Option<[f64; 2]> {
    ends.filter(|ends| ends.iter().all(|end| (0.0..=layers).contains(end)))
}

/// The depth at other thresholds.
fn thresholds<'a>(
    results: &Results,
    probe: &str,
    rules: impl Iterator<Item = &'a RuleUncertainty>,
) -> Option<Figure> {
    let rules: Vec<_> = rules.collect();
    let width = inner_width(rules.len());
    let panels = rules.iter().map(|rule| threshold_panel(results, rule, width)).collect();
    let row = |rule: &str, point: &SweepPoint| {
        let [low, high] = point.interval.unwrap_or([f64::NAN; 2]);
        let [value, mean, share] =
            [point.value, point.mean, point.ratio].map(|number| number.unwrap_or(f64::NAN));
        let values = vec![value, share, mean, low, high];
        (format!("{rule} at {}", number(point.threshold)), values)
    };
    let rows = rules.iter().flat_map(|rule| rule.sweep.iter().map(|point| row(rule.rule.name(), point)));
    let headings = ["depth", "share of layers", "mean", "interval from", "to"].map(str::to_owned).to_vec();
    let numbers = FigureTable { index: "rule and threshold".to_owned(), headings, rows: rows.collect() };
    of_panels(
        results,
        (probe, "thresholds"),
        (
            "What other thresholds would give",
            "Depth by each rule as a function of its threshold, with the 95 % interval (for influence_90, both use \
             the mean effect over prompts). The dashed line is the threshold in use. Where the curve is steep, the \
             depth depends as much on the threshold as on the model; where it ends, the rule finds no depth.",
        ),
        panels,
        numbers,
    )
}

/// The number that the interval of a point belongs to.
fn estimate(point: &SweepPoint) -> Option<f64> {
    point.mean.or(point.value)
}

fn threshold_panel(results: &Results, rule: &RuleUncertainty, width: f64) -> Panel {
    let layers = results.model.layers as f64;
    let points: Vec<(f64, Option<f64>)> = rule
        .sweep
        .iter()
        .filter(|point| (0.0..=1e6).contains(&point.threshold))
        .map(|point| (point.threshold, estimate(point).filter(|value| (0.0..=layers).contains(value))))
        .collect();
    let runs = points.split(|point| point.1.is_none()).filter(|run| !run.is_empty());
    let curve = |run: &[(f64, Option<f64>)]| Curve {
        points: run.iter().filter_map(|(x, y)| Some((*x, (*y)?))).collect(),
        color: Color::Blue,
        stroke: Stroke::Solid,
        dots: Dots::Filled,
    };
    let ends = rule.sweep.iter().map(|point| Some((point.threshold, drawable(point.interval, layers)?)));
    let bands: Vec<Vec<_>> = ends
        .collect::<Vec<_>>()
        .split(Option::is_none)
        .filter(|run| !run.is_empty())
        .map(|run| run.iter().flatten().copied().collect())
        .collect();
    let highest = points.iter().map(|point| point.0).fold(0.0, f64::max);
    let x = if highest <= 1.0 {
        Axis { step: Some(if width > 250.0 { 0.2 } else { 0.25 }), ..Axis::new("threshold", 0.0, 1.0) }
    } else {
        Axis::around("threshold", [0.0, highest])
    };
    let used = results.depth.iter().find(|row| row.rule == rule.rule).and_then(|row| row.threshold);
    let mark =
        |at: f64| Mark { at, interval: None, label: format!("used: {}", number(at)), color: Color::Soft };
    let half = points.windows(2).map(|two| (two[1].0 - two[0].0) / 2.0).fold(0.5, f64::min);
    let hover = |point: &SweepPoint| {
        let depth = estimate(point).map_or("none".to_owned(), value);
        let interval = point.interval.map_or(String::new(), |[low, high]| {
            format!("\n95 % interval {} to {}", number(low), number(high))
        });
        let text = format!("{} at {}\ndepth {depth}{interval}", rule.rule.name(), number(point.threshold));
        ([point.threshold - half, point.threshold + half], text)
    };
    Panel {
        curves: runs.map(curve).collect(),
        bands: bands.into_iter().map(|points| Band { points, color: Color::Blue, whiskers: false }).collect(),
        marks: used.filter(|at| (x.low..=x.high).contains(at)).map(mark).into_iter().collect(),
        hovers: rule.sweep.iter().map(hover).collect(),
        ..Panel::new(rule.rule.name(), x, Axis::around("depth", [0.0, layers]))
    }
}

/// The interval that fewer prompts would give.
fn prompts<'a>(
    results: &Results,
    probe: &str,
    rules: impl Iterator<Item = &'a RuleUncertainty>,
) -> Option<Figure> {
    let rules: Vec<_> = rules.collect();
    let panels = rules.iter().map(|rule| prompt_panel(results, rule)).collect();
    let row = |rule: &str, width: &IntervalWidth| {
        let [low, high] = width.interval.unwrap_or([f64::NAN; 2]);
        let values = vec![low, high, width.width.unwrap_or(f64::NAN), width.none_share];
        (format!("{rule}, {} prompts", width.prompts), values)
    };
    let rows = rules.iter().flat_map(|rule| rule.by_prompts.iter().map(|width| row(rule.rule.name(), width)));
    let headings = ["interval from", "to", "width", "share without a depth"].map(str::to_owned).to_vec();
    let numbers = FigureTable { index: "rule and prompts".to_owned(), headings, rows: rows.collect() };
    of_panels(
        results,
        (probe, "prompts"),
        (
            "Whether more prompts would help",
            "95 % interval of the depth for smaller numbers of prompts, drawn from the measured ones. The dashed line \
             is the depth on all prompts. Where the bars stop getting shorter, more prompts of the same kind would \
             change little.",
        ),
        panels,
        numbers,
    )
}

fn prompt_panel(results: &Results, rule: &RuleUncertainty) -> Panel {
    let layers = results.model.layers as f64;
    let found: Vec<(f64, [f64; 2])> = rule
        .by_prompts
        .iter()
        .enumerate()
        .filter_map(|(index, width)| Some((index as f64, drawable(width.interval, layers)?)))
        .collect();
    let hover = |(index, width): (usize, &IntervalWidth)| {
        let interval = width.interval.map_or("no interval".to_owned(), |[low, high]| {
            format!("95 % interval {} to {}", number(low), number(high))
        });
        let none = match width.none_share {
            share if share > 0.0 => format!("\nno depth in {} % of the resamples", number(100.0 * share)),
            _ => String::new(),
        };
        let at = index as f64;
        ([at - 0.5, at + 0.5], format!("{} prompts\n{interval}{none}", width.prompts))
    };
    let names = rule.by_prompts.iter().map(|width| width.prompts.to_string()).collect();
    let x = Axis { step: Some(1.0), names, ..Axis::new("prompts", -0.6, rule.by_prompts.len() as f64 - 0.4) };
    let value = results.depth.iter().find(|row| row.rule == rule.rule).and_then(Depth::shown);
    let value = value.filter(|value| (0.0..=layers).contains(value));
    let level = |at| Mark { at, interval: None, label: String::new(), color: Color::Vermilion };
    // Leaves room around a depth that never changes.
    let room = value.into_iter().flat_map(|value| [(value - 1.0).max(0.0), value + 1.0]);
    let ends = found.iter().flat_map(|(_, ends)| ends).copied().chain(room);
    Panel {
        bands: vec![Band { points: found.clone(), color: Color::Blue, whiskers: true }],
        levels: value.map(level).into_iter().collect(),
        hovers: rule.by_prompts.iter().enumerate().map(hover).collect(),
        y: Axis::around("depth", ends),
        ..Panel::new(rule.rule.name(), x, Axis::new("depth", 0.0, 1.0))
    }
}
