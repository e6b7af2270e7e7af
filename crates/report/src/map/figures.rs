//! The figures of maps between models.

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
    vec![best(mapping), relative(mapping), explained(mapping)]
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

/// The best target of each source, with the line of equal relative depth.
fn best(mapping: &Mapping) -> Figure {
    let [sources, targets] = mapping.levels();
    let (x_end, y_end) = ((sources - 1).max(1) as f64, (targets - 1).max(1) as f64);
    let [x_label, y_label] = match mapping.differences {
        true => ["layer of the source", "best layer of the target"],
        false => ["level of the source", "best level of the target"],
    };
    let width = PAGE * 0.6;
    let x = Axis::whole(x_label, -0.5, x_end + 0.5, width);
    let y = Axis::whole(y_label, -0.5, y_end + 0.5, 280.0);
    let mut panel = Panel::new("", x, y);
    let line = |points: Vec<(f64, f64)>, color, stroke, dots| Curve { points, color, stroke, dots };
    panel.curves.push(line(vec![(0.0, 0.0), (x_end, y_end)], Color::Soft, Stroke::Dashed, Dots::None));
    let places = mapping.best.iter().enumerate();
    let points = places.filter_map(|(m, best)| Some((m as f64, (*best)? as f64))).collect();
    panel.curves.push(line(points, Color::Blue, Stroke::Solid, Dots::Filled));
    let intervals = mapping.best_interval.iter().enumerate();
    let points = intervals.filter_map(|(m, interval)| Some((m as f64, (*interval)?))).collect();
    panel.bands.push(Band { points, color: Color::Blue, whiskers: true });
    let entry = |label: &str, color, stroke| LegendEntry {
        label: label.to_owned(),
        color,
        mark: LegendMark::Line(stroke),
    };
    let legend = vec![
        entry("best target", Color::Blue, Stroke::Solid),
        entry("the same relative depth", Color::Soft, Stroke::Dashed),
    ];
    let row = |(m, best): (usize, &Option<usize>)| {
        let [low, high] = mapping.best_interval[m].unwrap_or([f64::NAN; 2]);
        let at = |matrix: &[Vec<f64>]| best.map_or(f64::NAN, |best| matrix[m][best]);
        let level = best.map_or(f64::NAN, |best| best as f64);
        (m.to_string(), vec![level, low, high, at(&mapping.relative), at(&mapping.r2)])
    };
    let numbers = FigureTable {
        index: x_label.to_owned(),
        headings: ["best target", "interval from", "to", "relative error", "R²"].map(str::to_owned).to_vec(),
        rows: mapping.best.iter().enumerate().map(row).collect(),
    };
    let grid = Grid { legend, columns: 1, panels: vec![panel], height: 280.0, width: PAGE * 0.75 };
    let reading = "For every source the target that an affine map of it predicts with the least relative error, with 95 % \
                   intervals over held-out texts. On the dashed line are targets at the same relative depth. A plateau \
                   below it means that the upper part of the target has nothing in common with the source.";
    figure(mapping, ("map_best", "Where levels map to"), reading, (Body::Panels(grid), numbers))
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
        assert_eq!(figures(&mapping).iter().filter(|f| f.svg().is_ok()).count(), 3);
        let table = figures(&mapping)[0].table().rows[1].1.clone();
        assert!(table.iter().all(|number| number.is_nan()));
    }
}
