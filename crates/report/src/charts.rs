//! Pages of curves and tables of any experiment: charts as data in, figures and one page out.
//!
//! For programs whose results are not one of the files that Fathom itself writes. The page is made as all others are: one
//! file that needs no network, with the numbers of every chart in a table.

use crate::html::settings;
use crate::plots::axis::Axis;
use crate::plots::canvas::{COLUMN, PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Band, Curve, Dots, Panel};
use crate::plots::{Body, Figure, FigureTable};
use crate::{Result, page};
use fathom_results::{Folder, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("page/charts.html.jinja");

/// A page. All text is text from outside: it is escaped.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The title.
    pub title: String,
    /// What was done, in a line.
    pub about: String,
    /// What was found, in a sentence or two.
    pub answer: String,
    /// What should be known before the numbers are used.
    pub notes: Vec<String>,
    /// The charts, in order.
    pub charts: Vec<Chart>,
    /// The tables below them.
    pub tables: Vec<Table>,
    /// Settings and provenance: listed, and shown as JSON.
    pub settings: Value,
}

/// A table of text.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The heading above it.
    pub title: String,
    /// How to read it.
    pub reading: String,
    /// The headings of the columns.
    pub headings: Vec<String>,
    /// The cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// Panels with the same axes, and a legend above them.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// The name of its files under `plots/`.
    pub name: String,
    /// The title.
    pub title: String,
    /// How to read it, in about two lines.
    pub reading: String,
    /// What was measured, beneath the title of the files.
    pub caption: String,
    /// The horizontal axis.
    pub x: Scale,
    /// The vertical axis.
    pub y: Scale,
    /// The panels, from left to right.
    pub panels: Vec<Plot>,
}

/// An axis, around all values of its chart.
#[derive(Clone, Debug, Default)]
pub struct Scale {
    /// What it shows, with the unit.
    pub label: String,
    /// Whether it is logarithmic; values that are not positive are left out then.
    pub log: bool,
}

/// A panel.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// The title above it; may be empty.
    pub title: String,
    /// Its curves.
    pub series: Vec<Series>,
}

/// A curve.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The name in the legend; equal names have one entry.
    pub label: String,
    /// The place in the palette, which has eight colours.
    pub color: usize,
    /// Whether the line is dashed.
    pub dashed: bool,
    /// Whether points have dots.
    pub dots: bool,
    /// Whether there is a line between the points.
    pub line: bool,
    /// The points, from left to right.
    pub points: Vec<Point>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// The place.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Its interval, drawn as a whisker where points have dots, otherwise as a surface.
    pub interval: Option<[f64; 2]>,
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, interval: None }
    }
}

/// Writes the figures under `plots/`, and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, page: &Page) -> Result<()> {
    for figure in page.charts.iter().map(figure) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(page)?.as_bytes())?;
    Ok(())
}

/// The page as HTML.
///
/// # Errors
///
/// [`crate::Error::Draw`] when a figure or the template fails.
pub fn render(shown: &Page) -> Result<String> {
    let provenance = serde_json::to_string_pretty(&shown.settings)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures =
        shown.charts.iter().map(|chart| page::figure(&figure(chart))).collect::<Result<Vec<Cell>>>()?;
    let table = |table: &Table| {
        context! {
            title => table.title.as_str(),
            reading => table.reading.as_str(),
            headings => Cell::from(Serde(&table.headings)),
            rows => Cell::from(Serde(&table.rows)),
        }
    };
    let content = context! {
        title => shown.title.as_str(),
        about => shown.about.as_str(),
        answer => shown.answer.as_str(),
        notes => Cell::from(Serde(&shown.notes)),
        figures => figures,
        tables => shown.tables.iter().map(table).collect::<Vec<Cell>>(),
        settings => Cell::from(Serde(settings(&shown.settings))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, content)
}

/// A chart as a figure.
pub fn figure(chart: &Chart) -> Figure {
    let columns = chart.panels.len().clamp(1, 3);
    let width = if columns == 1 { COLUMN } else { PAGE };
    let series = || chart.panels.iter().flat_map(|panel| &panel.series);
    let points = || series().flat_map(|series| &series.points).filter(|point| chart.shows(point));
    let x = axis(&chart.x, points().map(|point| point.x));
    let y = axis(&chart.y, points().flat_map(|point| point.interval.into_iter().flatten().chain([point.y])));
    let panel = |plot: &Plot| {
        let mut panel = Panel::new(plot.title.as_str(), x.clone(), y.clone());
        plot.series.iter().for_each(|series| series.draw(chart, &mut panel));
        if plot.series.iter().all(|series| !series.points.iter().any(|point| chart.shows(point))) {
            panel.empty = "no values".to_owned();
        }
        panel
    };
    let mut legend: Vec<LegendEntry> = Vec::new();
    for series in series().filter(|series| !series.label.is_empty()) {
        if legend.iter().all(|entry| entry.label != series.label) {
            legend.push(series.entry());
        }
    }
    let grid =
        Grid { legend, columns, panels: chart.panels.iter().map(panel).collect(), height: 210.0, width };
    Figure::new(
        chart.name.as_str(),
        chart.title.as_str(),
        chart.reading.clone(),
        chart.caption.clone(),
        (Body::Panels(grid), numbers(chart)),
    )
}

fn axis(scale: &Scale, values: impl IntoIterator<Item = f64>) -> Axis {
    match scale.log {
        true => Axis::log_around(scale.label.as_str(), values),
        false => Axis::around(scale.label.as_str(), values),
    }
}

impl Chart {
    /// Whether a point has a place on both axes.
    fn shows(&self, point: &Point) -> bool {
        let has_place = |scale: &Scale, value: f64| value.is_finite() && !(scale.log && value <= 0.0);
        has_place(&self.x, point.x) && has_place(&self.y, point.y)
    }
}

impl Series {
    fn color(&self) -> Color {
        Color::SERIES[self.color % Color::SERIES.len()]
    }

    fn stroke(&self) -> Stroke {
        if self.dashed { Stroke::Dashed } else { Stroke::Solid }
    }

    fn entry(&self) -> LegendEntry {
        let mark = match (self.line, self.dashed) {
            (true, _) => LegendMark::Line(self.stroke()),
            (false, false) => LegendMark::Dot,
            (false, true) => LegendMark::Ring,
        };
        LegendEntry { label: self.label.clone(), color: self.color(), mark }
    }

    fn draw(&self, chart: &Chart, panel: &mut Panel) {
        let shown: Vec<&Point> = self.points.iter().filter(|point| chart.shows(point)).collect();
        let intervals: Vec<_> = shown.iter().filter_map(|p| Some((p.x, p.interval?))).collect();
        if !intervals.is_empty() {
            panel.bands.push(Band { points: intervals, color: self.color(), whiskers: self.dots });
        }
        let dots = match (self.dots, self.dashed) {
            (false, _) => Dots::None,
            (true, false) => Dots::Filled,
            (true, true) => Dots::Hollow,
        };
        let places: Vec<_> = shown.iter().map(|point| (point.x, point.y)).collect();
        let curve = |points: Vec<_>| Curve { points, color: self.color(), stroke: self.stroke(), dots };
        match self.line {
            true => panel.curves.push(curve(places)),
            false => panel.curves.extend(places.into_iter().map(|place| curve(vec![place]))),
        }
    }
}

/// Every point with its panel, curve and interval.
fn numbers(chart: &Chart) -> FigureTable {
    let mut rows = Vec::new();
    for panel in &chart.panels {
        for series in &panel.series {
            let name = [panel.title.as_str(), series.label.as_str()];
            let name = name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            let [low, high] =
                [0, 1].map(|end| move |p: &Point| p.interval.map_or(f64::NAN, |ends| ends[end]));
            rows.extend(series.points.iter().map(|p| (name.clone(), vec![p.x, p.y, low(p), high(p)])));
        }
    }
    let of = |scale: &Scale| scale.label.clone();
    let headings = vec![of(&chart.x), of(&chart.y), "low".to_owned(), "high".to_owned()];
    FigureTable { index: "curve".to_owned(), headings, rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chart() -> Chart {
        let point = |x: f64, y: f64| Point { x, y, interval: Some([y / 2.0, y * 2.0]) };
        let series = |label: &str, color, points: Vec<Point>| Series {
            label: label.to_owned(),
            color,
            dots: true,
            line: color == 0,
            points,
            ..Series::default()
        };
        let plot = |title: &str, points: Vec<Point>| Plot {
            title: title.to_owned(),
            series: vec![series("<b>one</b>", 0, points.clone()), series("two", 1, points)],
        };
        Chart {
            name: "lab_loss".to_owned(),
            title: "Loss & depth".to_owned(),
            reading: "Lower is better.".to_owned(),
            caption: "three seeds".to_owned(),
            x: Scale { label: "layers".to_owned(), log: true },
            y: Scale { label: "loss".to_owned(), log: true },
            panels: vec![
                plot("a", vec![point(1.0, 8.0), point(4.0, 2.0)]),
                plot("b", vec![point(2.0, f64::NAN), point(0.0, 1.0)]),
            ],
        }
    }

    #[test]
    fn every_number_is_in_the_table_and_what_has_no_place_is_not_drawn() {
        let figure = figure(&chart());
        let table = figure.table();
        assert_eq!(table.headings, ["layers", "loss", "low", "high"]);
        assert_eq!(table.rows[1], ("a, <b>one</b>".to_owned(), vec![4.0, 2.0, 1.0, 4.0]));
        assert_eq!(table.rows.len(), 8);
        let svg = figure.svg().unwrap();
        assert!(svg.contains("no values") && !svg.contains("NaN") && !svg.contains("<b>one"));
        // One entry for each name, though two panels have both.
        assert_eq!(svg.matches(">two<").count(), 1);
        assert!(figure.png().unwrap().len() > 5_000);
    }

    #[test]
    fn the_page_escapes_what_it_is_given() {
        let shown = Page {
            title: "<script>x".to_owned(),
            answer: "It falls as 1 / l.".to_owned(),
            notes: vec!["Only one seed.".to_owned()],
            charts: vec![chart()],
            tables: vec![Table {
                title: "Losses".to_owned(),
                headings: vec!["layers".to_owned(), "loss".to_owned()],
                rows: vec![vec!["4".to_owned(), "<img>".to_owned()]],
                ..Table::default()
            }],
            settings: json!({"recipe": {"seed": 3}}),
            ..Page::default()
        };
        let page = render(&shown).unwrap();
        assert!(!page.contains("<script>x") && !page.contains("<img>"));
        for part in ["It falls as 1", "Only one seed.", "Loss &amp; depth", "recipe.seed", "&lt;img&gt;"] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn a_chart_without_points_is_drawn() {
        let empty = Chart { panels: vec![Plot::default()], ..chart() };
        assert!(figure(&empty).svg().unwrap().contains("no values"));
        assert!(figure(&Chart::default()).svg().is_ok());
    }
}
