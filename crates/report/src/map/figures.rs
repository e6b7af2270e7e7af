//! The figures of maps between models.

use super::unit;
use crate::plots::axis::Axis;
use crate::plots::canvas::{PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::heat::{ColorScale, Heat, HeatAxis};
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Band, Curve, Dots, Panel};
use crate::plots::{Body, Figure, FigureTable};
use fathom_results::Mapping;

/// All figures, in the order of the page.
pub fn figures(mapping: &Mapping) -> Vec<Figure> {
    let best = [Some(targets(mapping)), sources(mapping)];
    best.into_iter().flatten().chain([relative(mapping), explained(mapping)]).collect()
}

fn figure(
    mapping: &Mapping,
    (name, title): (&str, &str),
    reading: &'static str,
    body: (Body, FigureTable),
) -> Figure {
    let caption = format!("{} to {} on {}", mapping.source.id, mapping.target.id, mapping.heldout.id);
    Figure::new(name, title, reading, caption, body)
}

/// Levels of one model, each with the best level of the other.
struct Best<'a> {
    name: &'static str,
    title: &'static str,
    reading: &'static str,
    /// Whose levels they are, and among whose the best is.
    models: [&'static str; 2],
    best: &'a [Option<usize>],
    intervals: &'a [Option<[f64; 2]>],
}

/// The best target of each source.
fn targets(mapping: &Mapping) -> Figure {
    let best = Best {
        name: "map_best",
        title: "Where levels map to",
        reading: "For every source the target that an affine map of it predicts with the least relative error, with 95 % \
                  intervals over held-out texts. On the dashed line are targets at the same relative depth. A plateau \
                  below it means that the upper part of the target has nothing in common with the source, or that one \
                  target is easy to predict from everywhere, as the embedding of the token is.",
        models: ["source", "target"],
        best: &mapping.best,
        intervals: &mapping.best_interval,
    };
    best.figure(mapping, &|m, l| [mapping.relative[m][l], mapping.r2[m][l]])
}

/// The best source of each target.
fn sources(mapping: &Mapping) -> Option<Figure> {
    let sources = mapping.sources.as_ref()?;
    let best = Best {
        name: "map_best_source",
        title: "Where levels are read from",
        reading: "For every target the source whose map predicts it with the least relative error, with 95 % intervals over \
                  held-out texts. How hard a target is to predict does not matter here, because errors of one target are \
                  compared. On the dashed line are sources at the same relative depth.",
        models: ["target", "source"],
        best: &sources.best,
        intervals: &sources.best_interval,
    };
    Some(best.figure(mapping, &|l, m| [mapping.relative[m][l], mapping.r2[m][l]]))
}

impl Best<'_> {
    /// The figure, with the line of equal relative depth. `at` gives the relative error and R² of a pair.
    fn figure(&self, mapping: &Mapping, at: &dyn Fn(usize, usize) -> [f64; 2]) -> Figure {
        let [of, among] = self.models;
        let unit = unit(mapping);
        let ends = mapping.levels().map(|levels| (levels - 1).max(1) as f64);
        let [x_end, y_end] = if of == "source" { ends } else { [ends[1], ends[0]] };
        let x_label = format!("{unit} of the {of}");
        let x = Axis::whole(&x_label, -0.5, x_end + 0.5, PAGE * 0.6);
        let y = Axis::whole(format!("best {unit} of the {among}"), -0.5, y_end + 0.5, 280.0);
        let mut panel = Panel::new("", x, y);
        let line = |points: Vec<(f64, f64)>, color, stroke, dots| Curve { points, color, stroke, dots };
        panel.curves.push(line(vec![(0.0, 0.0), (x_end, y_end)], Color::Soft, Stroke::Dashed, Dots::None));
        let places = self.best.iter().enumerate();
        let points = places.filter_map(|(m, best)| Some((m as f64, (*best)? as f64))).collect();
        panel.curves.push(line(points, Color::Blue, Stroke::Solid, Dots::Filled));
        let intervals = self.intervals.iter().enumerate();
        let points = intervals.filter_map(|(m, interval)| Some((m as f64, (*interval)?))).collect();
        panel.bands.push(Band { points, color: Color::Blue, whiskers: true });
        let entry =
            |label: String, color, stroke| LegendEntry { label, color, mark: LegendMark::Line(stroke) };
        let legend = vec![
            entry(format!("best {among}"), Color::Blue, Stroke::Solid),
            entry("the same relative depth".to_owned(), Color::Soft, Stroke::Dashed),
        ];
        let grid = Grid { legend, columns: 1, panels: vec![panel], height: 280.0, width: PAGE * 0.75 };
        let body = (Body::Panels(grid), self.numbers(x_label, at));
        figure(mapping, (self.name, self.title), self.reading, body)
    }

    fn numbers(&self, index: String, at: &dyn Fn(usize, usize) -> [f64; 2]) -> FigureTable {
        let row = |(level, best): (usize, &Option<usize>)| {
            let [low, high] = self.intervals[level].unwrap_or([f64::NAN; 2]);
            let [relative, r2] = best.map_or([f64::NAN; 2], |best| at(level, best));
            let best = best.map_or(f64::NAN, |best| best as f64);
            (level.to_string(), vec![best, low, high, relative, r2])
        };
        let best = format!("best {}", self.models[1]);
        let others = ["interval from", "to", "relative error", "R²"].map(str::to_owned);
        FigureTable {
            index,
            headings: [best].into_iter().chain(others).collect(),
            rows: self.best.iter().enumerate().map(row).collect(),
        }
    }
}

fn heat(
    mapping: &Mapping,
    cells: Vec<Vec<f64>>,
    scale: ColorScale,
    unit: &'static str,
) -> (Body, FigureTable) {
    let [x, y] = match mapping.differences {
        true => ["layer of the target", "layer of the source"],
        false => ["level of the target", "level of the source"],
    };
    let (x, y) = (HeatAxis::Numbers(x, 0), HeatAxis::Numbers(y, 0));
    Body::heat(Heat { cells, x, y, scale, unit })
}

fn relative(mapping: &Mapping) -> Figure {
    let scale = ColorScale::capped(mapping.relative.iter().flatten());
    let body = heat(mapping, mapping.relative.clone(), scale, "error / target");
    let reading = "The mean size of the error of an element in shares of the mean size of the target, on held-out tokens, \
                   for every pair. Dark cells are pairs of which one can be read off the other.";
    figure(mapping, ("map_relative", "Relative error of the maps"), reading, body)
}

fn explained(mapping: &Mapping) -> Figure {
    // Worse than the mean is as bad as the mean.
    let cells = mapping.r2.iter().map(|row| row.iter().map(|r2| r2.max(0.0)).collect()).collect();
    let body = heat(mapping, cells, ColorScale::Sequential(1.0), "R²");
    let reading = "The share of the target's variance that the map explains on held-out tokens; below zero is drawn as \
                   zero. A few columns of large variance can dominate it, which the relative error avoids.";
    figure(mapping, ("map_r2", "Variance that the maps explain"), reading, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::render;
    use fathom_results::fixture;
    use serde_json::json;

    #[test]
    fn every_figure_is_drawn_and_the_page_says_what_was_found() {
        let mapping = fixture::mapping();
        for figure in figures(&mapping) {
            assert!(figure.svg().unwrap().contains("a/small to b/large"), "{}", figure.name);
            assert!(!figure.png().unwrap().is_empty());
        }
        let page = render(&mapping, &json!({"map": {"differences": false}})).unwrap();
        assert!(page.contains(&mapping.conclusion) && page.contains("Relative error of the maps"));
    }

    #[test]
    fn levels_without_maps_leave_gaps() {
        let mut mapping = fixture::mapping();
        mapping.best[1] = None;
        mapping.best_interval[1] = None;
        mapping.relative[1].fill(f64::NAN);
        mapping.r2[1].fill(f64::NAN);
        assert_eq!(figures(&mapping).iter().filter(|f| f.svg().is_ok()).count(), 4);
        // Results of earlier versions.
        mapping.sources = None;
        assert!(figures(&mapping).iter().all(|f| f.name != "map_best_source"));
        let table = figures(&mapping)[0].table().rows[1].1.clone();
        assert!(table.iter().all(|number| number.is_nan()));
    }
}
