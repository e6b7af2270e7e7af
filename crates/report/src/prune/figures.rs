//! The figures of a pruning.

use super::labels::{Kind, kinds, layers, name_of};
use crate::plots::axis::Axis;
use crate::plots::canvas::{PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Band, Curve, Dots, Mark, Panel};
use crate::plots::{Body, Figure, FigureTable};
use crate::text::number;
use fathom_results::{Candidate, Pruning};

/// The lowest rise that a logarithmic axis shows, in nats.
const LEAST: f64 = 1e-3;

/// All figures, in the order of the page.
pub fn figures(pruning: &Pruning) -> Vec<Figure> {
    [loss(pruning), taken(pruning), scores(pruning)].into_iter().flatten().collect()
}

fn figure(
    pruning: &Pruning,
    (name, title): (&str, &str),
    reading: &'static str,
    body: (Grid, FigureTable),
) -> Figure {
    let caption = format!("{} on {}", pruning.model.id, pruning.heldout.id);
    Figure::new(name, title, reading, caption, (Body::Panels(body.0), body.1))
}

fn style(kind: Kind) -> (Color, Stroke, Dots) {
    let (method, linear) = kind;
    let color = Color::SERIES[method as usize % Color::SERIES.len()];
    if linear { (color, Stroke::Dashed, Dots::Hollow) } else { (color, Stroke::Solid, Dots::Filled) }
}

fn of_kind(pruning: &Pruning, (method, linear): Kind) -> impl Iterator<Item = &Candidate> {
    pruning.candidates.iter().filter(move |c| c.method == method && c.replaced.is_some() == linear)
}

/// The rise in loss against the number of units removed, a curve for each method.
fn loss(pruning: &Pruning) -> Option<Figure> {
    let rise = |c: &Candidate| c.nll_increase.value.max(LEAST);
    let known = || pruning.candidates.iter().filter(|c| c.nll_increase.value.is_finite());
    let most = known().map(Candidate::count).max()? as f64;
    let highest = known().map(rise).fold(LEAST, f64::max);
    let lowest = known().map(rise).fold(highest, f64::min);
    let y = Axis { log: true, ..Axis::new("rise in loss (nats per token)", lowest * 0.7, highest * 1.4) };
    let x = Axis::whole("removed", 0.5, most + 0.5, PAGE * 0.6);
    let mut panel = Panel::new("", x, y);
    let mut numbers = FigureTable {
        index: "method and removed".to_owned(),
        headings: ["rise in loss", "interval from", "to"].map(str::to_owned).to_vec(),
        rows: Vec::new(),
    };
    let kinds = kinds(pruning);
    for (place, kind) in kinds.iter().enumerate() {
        // Slightly apart, so that whiskers do not hide each other.
        let aside = 0.06 * (place as f64 - (kinds.len() - 1) as f64 / 2.0);
        let (color, stroke, dots) = style(*kind);
        let all: Vec<&Candidate> =
            of_kind(pruning, *kind).filter(|c| c.nll_increase.value.is_finite()).collect();
        let at = |c: &Candidate| c.count() as f64 + aside;
        panel.curves.push(Curve {
            points: all.iter().map(|c| (at(c), rise(c))).collect(),
            color,
            stroke,
            dots,
        });
        let ends = all.iter().filter_map(|c| {
            let [low, high] = c.nll_increase.interval?;
            Some((at(c), [low.max(lowest * 0.7), high.max(lowest * 0.7)]))
        });
        panel.bands.push(Band { points: ends.collect(), color, whiskers: true });
        numbers.rows.extend(all.iter().map(|c| {
            let [low, high] = c.nll_increase.interval.unwrap_or([f64::NAN; 2]);
            (format!("{}, {}", name_of(*kind), c.count()), vec![c.nll_increase.value, low, high])
        }));
    }
    for count in 1..=most as usize {
        let said = |c: &Candidate| {
            let kind = name_of((c.method, c.replaced.is_some()));
            format!("{kind}: {} without {}", number(c.nll_increase.value), layers(&c.removed))
        };
        let lines: Vec<String> = known().filter(|c| c.count() == count).map(said).collect();
        if !lines.is_empty() {
            panel.hovers.push(([count as f64 - 0.5, count as f64 + 0.5], lines.join("\n")));
        }
    }
    if let Some(chosen) = pruning.choice.index.map(|i| &pruning.candidates[i]) {
        let label = "recommended".to_owned();
        panel.marks.push(Mark { at: chosen.count() as f64, interval: None, label, color: Color::Text });
    }
    let entry = |kind: &Kind| {
        let (color, stroke, _) = style(*kind);
        LegendEntry { label: name_of(*kind), color, mark: LegendMark::Line(stroke) }
    };
    let legend = kinds.iter().map(entry).collect();
    let grid = Grid { legend, columns: 1, panels: vec![panel], height: 280.0, width: PAGE * 0.75 };
    let reading = "How much the loss on held-out text rises against the number of units removed (log scale; lower values \
                   stand at the lower end), with 95 % intervals over texts. The lower the curve, the better the method \
                   chooses. 0.1 nats are 10.5 % more perplexity.";
    Some(figure(pruning, ("prune_loss", "What removing layers costs"), reading, (grid, numbers)))
}

/// Which layers each method takes.
fn taken(pruning: &Pruning) -> Option<Figure> {
    let most = pruning.candidates.iter().map(Candidate::count).max()?;
    let depth = pruning.model.layers as f64;
    let mut numbers = FigureTable {
        index: "method, removed, layers".to_owned(),
        headings: vec!["rise in loss".to_owned()],
        rows: Vec::new(),
    };
    let kinds: Vec<Kind> = kinds(pruning).into_iter().filter(|kind| !kind.1).collect();
    let columns = kinds.len().clamp(1, 3);
    let width = Grid::inner_width(PAGE, columns);
    let panel = |kind: &Kind| {
        let x = Axis::whole("layer", -0.5, depth - 0.5, width);
        let y = Axis::whole("removed", 0.5, most as f64 + 0.5, 140.0);
        let mut panel = Panel::new(name_of(*kind), x, y);
        for candidate in of_kind(pruning, *kind) {
            let height = candidate.count() as f64;
            for [start, end] in &candidate.removed {
                // Neighbours are joined, so that blocks are seen as blocks.
                let points = (*start..*end).map(|layer| (layer as f64, height)).collect();
                panel.curves.push(Curve {
                    points,
                    color: style(*kind).0,
                    stroke: Stroke::Solid,
                    dots: Dots::Filled,
                });
            }
        }
        panel
    };
    let panels: Vec<Panel> = kinds.iter().map(panel).collect();
    for kind in &kinds {
        numbers.rows.extend(of_kind(pruning, *kind).map(|c| {
            (format!("{}, {}: {}", name_of(*kind), c.count(), layers(&c.removed)), vec![c.nll_increase.value])
        }));
    }
    let grid = Grid { legend: Vec::new(), columns, panels, height: 140.0, width: PAGE };
    let reading = "The layers that each method removes, one row for each number of them. Methods that look at single \
                   layers grow a set; methods that look at blocks may move the block from row to row.";
    Some(figure(pruning, ("prune_layers", "Which layers go"), reading, (grid, numbers)))
}

/// What the methods that do not search see of single units.
fn scores(pruning: &Pruning) -> Option<Figure> {
    let curves = [
        ("block influence", pruning.scores.influence.as_ref()),
        ("angular distance", pruning.scores.angular.first()),
        ("change of the output", pruning.scores.output.as_ref()),
    ];
    let curves: Vec<(&str, &Vec<f64>)> =
        curves.into_iter().filter_map(|(name, c)| Some((name, c?))).collect();
    if curves.is_empty() {
        return None;
    }
    let depth = pruning.model.layers;
    let width = Grid::inner_width(PAGE, curves.len());
    let panel = |(name, values): &(&str, &Vec<f64>)| {
        let x = Axis::whole("layer", -0.5, depth as f64 - 0.5, width);
        let positive = values.iter().copied().filter(|v| *v > 0.0);
        let mut panel = Panel::new(*name, x, Axis::log_around("", positive));
        let points = values.iter().enumerate().filter(|(_, v)| **v > 0.0);
        let points = points.map(|(layer, value)| (layer as f64, *value)).collect();
        panel.curves.push(Curve { points, color: Color::Blue, stroke: Stroke::Solid, dots: Dots::Filled });
        panel
    };
    let panels = curves.iter().map(panel).collect();
    let row = |layer: usize| {
        let value = |(_, values): &(&str, &Vec<f64>)| values.get(layer).copied().unwrap_or(f64::NAN);
        (layer.to_string(), curves.iter().map(value).collect())
    };
    let numbers = FigureTable {
        index: "layer".to_owned(),
        headings: curves.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: (0..depth).map(row).collect(),
    };
    let grid = Grid { legend: Vec::new(), columns: curves.len(), panels, height: 140.0, width: PAGE };
    let reading = "What the methods that do not search read off the calibration texts (log scale). Layers with small \
                   values are removed first.";
    Some(figure(pruning, ("prune_scores", "How little single layers do"), reading, (grid, numbers)))
}
