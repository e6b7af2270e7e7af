//! The figures of early exits.

use crate::plots::axis::Axis;
use crate::plots::canvas::{PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::heat::{ColorScale, Heat, HeatAxis};
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Band, Bar, Curve, Dots, Mark, Panel};
use crate::plots::{Body, Figure, FigureTable};
use crate::text::visible;
use fathom_results::{
    Confidence, EpsilonRule, Estimated, ExitExample, ExitHead, ExitLevel, ExitMeasured, ExitRule, Exiting,
    Speculation,
};

/// All figures that there are numbers for, in the order of the page.
pub fn figures(exiting: &Exiting) -> Vec<Figure> {
    let chosen = exiting.chosen();
    let exits = chosen.and_then(|rule| rule.measured.as_ref()).map(|m| exits(exiting, m));
    let example = chosen.zip(exiting.example.as_ref()).map(|(rule, example)| text(exiting, rule, example));
    [Some(levels(exiting)), saving(exiting), exits, example, drafts(exiting)].into_iter().flatten().collect()
}

fn figure(
    exiting: &Exiting,
    (name, title): (&str, &str),
    reading: &'static str,
    body: (Body, FigureTable),
) -> Figure {
    Figure::new(name, title, reading, format!("{} on {}", exiting.model.id, exiting.heldout.id), body)
}

fn color(head: ExitHead) -> Color {
    match head {
        ExitHead::Lens => Color::Blue,
        ExitHead::Linear => Color::Orange,
    }
}

/// The heads that were measured.
fn heads(exiting: &Exiting) -> Vec<ExitHead> {
    let is_there = |head: &ExitHead| exiting.levels.iter().any(|l| l.head == *head);
    ExitHead::ALL.into_iter().filter(is_there).collect()
}

fn legend(exiting: &Exiting) -> Vec<LegendEntry> {
    let entry = |head: ExitHead| LegendEntry {
        label: format!("{} head", head.name()),
        color: color(head),
        mark: LegendMark::Line(Stroke::Solid),
    };
    heads(exiting).into_iter().map(entry).collect()
}

fn solid(points: Vec<(f64, f64)>, color: Color) -> Curve {
    Curve { points, color, stroke: Stroke::Solid, dots: Dots::Filled }
}

/// Agreement, acceptance and loss against the level.
fn levels(exiting: &Exiting) -> Figure {
    let depth = exiting.model.layers as f64;
    let width = Grid::inner_width(PAGE, 3);
    type Quantity = (&'static str, fn(&ExitLevel) -> f64, f64);
    let quantities: [Quantity; 3] = [
        ("same token", |l| l.agreement, 1.0),
        ("acceptance", |l| l.acceptance, 1.0),
        ("loss (nats per token)", |l| l.nll, exiting.full_nll.value),
    ];
    let panel = |(title, of, whole): &Quantity| {
        let points = |head: ExitHead| -> Vec<(f64, f64)> {
            let own = exiting.levels.iter().filter(|l| l.head == head).map(|l| (l.level as f64, of(l)));
            own.chain([(depth, *whole)]).filter(|(_, y)| y.is_finite()).collect()
        };
        let all: Vec<f64> = heads(exiting).into_iter().flat_map(points).map(|p| p.1).collect();
        let y = match title.starts_with("loss") {
            true => Axis::around("", all),
            false => Axis::new("", 0.0, 1.0).every(0.25),
        };
        let curves = heads(exiting).into_iter().map(|head| solid(points(head), color(head))).collect();
        Panel { curves, ..Panel::new(*title, Axis::whole("level", -0.5, depth + 0.5, width), y) }
    };
    let heading = |head: &ExitHead| quantities.map(|(title, ..)| format!("{}: {title}", head.name()));
    let row = |level: usize| {
        let of_head = |head: &ExitHead| {
            let found = exiting.levels.iter().find(|l| l.head == *head && l.level == level);
            quantities.map(|(_, of, whole)| match found {
                Some(found) => of(found),
                None if level == exiting.model.layers => whole,
                None => f64::NAN,
            })
        };
        (level.to_string(), heads(exiting).iter().flat_map(of_head).collect())
    };
    let numbers = FigureTable {
        index: "level".to_owned(),
        headings: heads(exiting).iter().flat_map(heading).collect(),
        rows: (0..=exiting.model.layers).map(row).collect(),
    };
    let panels = quantities.iter().map(panel).collect();
    let grid = Grid { legend: legend(exiting), columns: 3, panels, height: 180.0, width: PAGE };
    let reading = "What each level predicts beside what the whole model predicts: the share of tokens with the same most \
                   likely continuation, the share of sampled tokens that speculative decoding accepts, and the loss. The \
                   linear head maps the level to the last one first. The last level is the model itself.";
    figure(exiting, ("exit_levels", "What levels predict"), reading, (Body::Panels(grid), numbers))
}

/// A curve with whiskers.
fn interval_curve(panel: &mut Panel, points: &[(f64, Estimated)], color: Color) {
    panel.curves.push(solid(points.iter().map(|(x, e)| (*x, e.value)).collect(), color));
    let ends = points.iter().filter_map(|(x, e)| Some((*x, e.interval?))).collect();
    panel.bands.push(Band { points: ends, color, whiskers: true });
}

/// The net saving, and the risk, against epsilon.
fn saving(exiting: &Exiting) -> Option<Figure> {
    let measured = |e: &EpsilonRule| Some((e.epsilon, e.rule.as_ref()?.measured.clone()?));
    let known: Vec<(f64, ExitMeasured)> = exiting.by_epsilon.iter().filter_map(measured).collect();
    let most = known.last()?.0;
    let x = || {
        Axis::new("epsilon: tokens that may change", 0.0, most * 1.05).every(if most > 0.25 {
            0.1
        } else {
            0.05
        })
    };
    let values = |of: fn(&ExitMeasured) -> &Estimated| -> Vec<(f64, Estimated)> {
        known.iter().map(|(epsilon, m)| (*epsilon, *of(m))).collect()
    };
    let ends = |points: &[(f64, Estimated)]| -> Vec<f64> {
        let interval = |e: &Estimated| e.interval.unwrap_or([e.value; 2]);
        points.iter().flat_map(|(_, e)| interval(e)).chain([0.0]).collect()
    };
    let savings = values(|m| &m.net_saving);
    let mut saved = Panel::new("multiply-adds saved", x(), Axis::around("share", ends(&savings)));
    interval_curve(&mut saved, &savings, Color::Blue);
    let nothing = Mark { at: 0.0, interval: None, label: String::new(), color: Color::Soft };
    saved.levels.push(nothing);
    let risks = values(|m| &m.risk_heldout);
    let mut risk =
        Panel::new("tokens that change", x(), Axis::around("share", [ends(&risks), vec![most]].concat()));
    interval_curve(&mut risk, &risks, Color::Blue);
    let dashed = Curve {
        points: vec![(0.0, 0.0), (most, most)],
        color: Color::Soft,
        stroke: Stroke::Dashed,
        dots: Dots::None,
    };
    risk.curves.push(dashed);
    let row = |(epsilon, m): &(f64, ExitMeasured)| {
        let of = |e: &Estimated| {
            [e.value, e.interval.map_or(f64::NAN, |i| i[0]), e.interval.map_or(f64::NAN, |i| i[1])]
        };
        (format!("{epsilon}"), [of(&m.net_saving), of(&m.risk_heldout)].concat())
    };
    let numbers = FigureTable {
        index: "epsilon".to_owned(),
        headings: ["saved", "from", "to", "changed", "from", "to"].map(str::to_owned).to_vec(),
        rows: known.iter().map(row).collect(),
    };
    let grid = Grid { legend: Vec::new(), columns: 2, panels: vec![saved, risk], height: 180.0, width: PAGE };
    let reading = "For each epsilon the rule that was chosen on the fitting texts, at its calibrated threshold, on held-out \
                   texts with 95 % intervals. Left: the share of multiply-adds saved, heads, maps and state copying counted; \
                   below zero, leaving early costs more than it saves. Right: the share of changed tokens, which should \
                   stay below the dashed line.";
    Some(figure(exiting, ("exit_saving", "What leaving early saves"), reading, (Body::Panels(grid), numbers)))
}

/// How many tokens leave at each level.
fn exits(exiting: &Exiting, measured: &ExitMeasured) -> Figure {
    let depth = exiting.model.layers;
    let highest = measured.shares.iter().copied().fold(0.0, f64::max);
    let x = Axis::whole("level", -0.7, depth as f64 + 0.7, PAGE * 0.5);
    let mut panel = Panel::new("", x, Axis::around("share of tokens", [0.0, highest]));
    for (level, share) in measured.shares.iter().enumerate() {
        let (middle, color) = (level as f64, if level == depth { Color::Soft } else { Color::Blue });
        panel.bars.push(Bar { from: middle - 0.4, to: middle + 0.4, value: *share, color, stroke: false });
    }
    let label = "mean".to_owned();
    panel.marks.push(Mark { at: measured.mean_level, interval: None, label, color: Color::Text });
    let numbers = FigureTable {
        index: "level".to_owned(),
        headings: vec!["share of tokens".to_owned()],
        rows: measured.shares.iter().enumerate().map(|(l, share)| (l.to_string(), vec![*share])).collect(),
    };
    let grid =
        Grid { legend: Vec::new(), columns: 1, panels: vec![panel], height: 180.0, width: PAGE * 0.66 };
    let reading = "The level at which tokens of held-out texts leave by the chosen rule; grey: those that run through the \
                   whole model.";
    figure(exiting, ("exit_histogram", "Where tokens leave"), reading, (Body::Panels(grid), numbers))
}

/// The levels that each token of a text runs through.
fn text(exiting: &Exiting, rule: &ExitRule, example: &ExitExample) -> Figure {
    let cell = |level: usize, token: usize| {
        let is_run =
            level < example.levels[token] || rule.levels.contains(&level) && level == example.levels[token];
        let value = example.confidence[level][token];
        let shown = if rule.confidence == Confidence::Entropy { -value } else { value };
        if is_run { shown } else { f64::NAN }
    };
    let tokens = example.pieces.len();
    let cells: Vec<Vec<f64>> =
        (0..example.confidence.len()).map(|level| (0..tokens).map(|t| cell(level, t)).collect()).collect();
    let unit = match rule.confidence {
        Confidence::Prob => "largest probability",
        Confidence::Margin => "margin",
        Confidence::Entropy => "entropy (nats)",
    };
    let scale = match rule.confidence {
        Confidence::Entropy => ColorScale::sequential(cells.iter().flatten()),
        _ => ColorScale::Sequential(1.0),
    };
    let pieces = example.pieces.iter().zip(&example.agrees).map(|(piece, agrees)| {
        let mark = if *agrees { "" } else { " ≠" };
        format!("{}{mark}", visible(piece))
    });
    let (x, y) = (HeatAxis::Tokens(pieces.collect()), HeatAxis::Numbers("level", 0));
    let body = Body::heat(Heat { cells, x, y, scale, unit });
    let reading = "The levels that each token of a held-out text runs through before it leaves by the chosen rule, in the \
                   colour of the confidence there; above are layers that it skips. ≠ marks tokens whose prediction changes.";
    figure(exiting, ("exit_text", "A text leaving the model"), reading, body)
}

/// The speed-up of self-speculation against the layers of the draft.
fn drafts(exiting: &Exiting) -> Option<Figure> {
    let depth = exiting.model.layers as f64;
    type Quantity = (&'static str, fn(&Speculation) -> &Estimated);
    let quantities: [Quantity; 2] =
        [("sampling", |s| &s.speedup), ("greedy decoding", |s| &s.greedy_speedup)];
    let highest = exiting.speculation.iter().flat_map(|s| [s.speedup.value, s.greedy_speedup.value]);
    let highest = highest.filter(|v| v.is_finite()).reduce(f64::max)?;
    let width = Grid::inner_width(PAGE, 2);
    let panel = |(title, of): &Quantity| {
        let x = Axis::whole("layers of the draft", 0.0, depth, width);
        let mut panel = Panel::new(*title, x, Axis::around("times as fast", [0.0, highest.max(1.0)]));
        for head in heads(exiting) {
            let own = exiting.speculation.iter().filter(|s| s.head == head && of(s).value.is_finite());
            let points: Vec<(f64, Estimated)> = own.map(|s| (s.level as f64, *of(s))).collect();
            interval_curve(&mut panel, &points, color(head));
        }
        let whole = Mark { at: 1.0, interval: None, label: "whole model".to_owned(), color: Color::Soft };
        panel.levels.push(whole);
        panel
    };
    let row = |s: &Speculation| {
        let values =
            [s.alpha, s.draft as f64, s.speedup.value, s.greedy_draft as f64, s.greedy_speedup.value];
        (format!("{} {}", s.head.name(), s.level), values.to_vec())
    };
    let headings = ["acceptance", "tokens", "speed-up of sampling", "tokens", "speed-up of greedy decoding"];
    let numbers = FigureTable {
        index: "head and layers".to_owned(),
        headings: headings.map(str::to_owned).to_vec(),
        rows: exiting.speculation.iter().map(row).collect(),
    };
    let panels = quantities.iter().map(panel).collect();
    let grid = Grid { legend: legend(exiting), columns: 2, panels, height: 180.0, width: PAGE };
    let reading = "The expected speed-up if the first layers and a head draft tokens that the whole model checks, with the \
                   best number of tokens at a time, in multiply-adds, with 95 % intervals over held-out texts. Below 1 it \
                   is slower than the whole model alone.";
    Some(figure(
        exiting,
        ("exit_speculation", "The first layers as a draft"),
        reading,
        (Body::Panels(grid), numbers),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::render;
    use fathom_results::fixture;
    use serde_json::json;

    #[test]
    fn every_figure_is_drawn_and_the_page_says_what_was_found() {
        let exiting = fixture::exiting();
        let all = figures(&exiting);
        assert_eq!(all.len(), 5);
        for figure in all {
            assert!(figure.svg().unwrap().contains(&exiting.model.id), "{}", figure.name);
            assert!(!figure.png().unwrap().is_empty());
        }
        let page = render(&exiting, &json!({"exit": {"epsilon": 0.1}})).unwrap();
        assert!(page.contains(&exiting.choice.reason) && page.contains("The first layers as a draft"));
    }

    #[test]
    fn without_a_certified_rule_there_are_the_levels_and_drafts() {
        let mut exiting = fixture::exiting();
        exiting.choice.rule = None;
        exiting.by_epsilon.iter_mut().for_each(|e| e.rule = None);
        exiting.example = None;
        let names: Vec<String> = figures(&exiting).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["exit_levels", "exit_speculation"]);
        assert!(render(&exiting, &json!({})).unwrap().contains("exit"));
    }
}
