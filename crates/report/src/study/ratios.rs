//! The share of the depth in use, against the size of models and the difficulty of data.

use super::figures::{grid, study_figure, style};
use super::page::{StudyData, StudyModel, StudyPage};
use crate::plots::axis::Axis;
use crate::plots::canvas::Stroke;
use crate::plots::color::Color;
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Band, Curve, Dots, Panel};
use crate::plots::{Figure, FigureTable};
use crate::text::{line, number};
use fathom_results::{Depth, Results, Rule};

/// The number of rules and series that are drawn, far more than there are.
const MOST: usize = 24;

/// The share of the layers that a rule says are used, with the ends of its interval; of rules with a mean, that
/// of the mean.
fn share(results: &Results, rule: Rule) -> Option<(f64, Option<[f64; 2]>)> {
    let row: &Depth = results.depth.iter().find(|row| row.rule == rule)?;
    let layers = results.model.layers;
    let share = |number: f64| rule.layers_used(number) / layers as f64;
    let ratio = Some(share(row.shown()?)).filter(|ratio| (0.0..=1.0 + 1e-9).contains(ratio))?;
    let ends = row.interval.map(|[low, high]| [share(low), share(high)]);
    let ends = ends.map(|ends| ends.map(|end| end.clamp(0.0, 1.0)));
    Some((ratio, ends.filter(|ends| ends.iter().all(|end| end.is_finite()))))
}

/// The rules of all cells, in order of first appearance.
fn rules(page: &StudyPage) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for row in page.cells.iter().filter_map(|cell| cell.results.as_ref()).flat_map(|results| &results.depth) {
        if !all.contains(&row.rule) {
            all.push(row.rule);
        }
    }
    all
}

/// A point in a chart of shares.
struct SharePoint {
    x: f64,
    share: f64,
    interval: Option<[f64; 2]>,
    name: String,
}

/// A line through points, with whiskers.
fn add(
    panel: &mut Panel,
    numbers: &mut FigureTable,
    rule: Rule,
    points: &[SharePoint],
    style: (Color, Stroke),
) {
    let (color, stroke) = style;
    let dots = if stroke == Stroke::Solid { Dots::Filled } else { Dots::Hollow };
    let at = points.iter().map(|point| (point.x, point.share)).collect();
    panel.curves.push(Curve { points: at, color, stroke, dots });
    let ends = points.iter().filter_map(|point| Some((point.x, point.interval?)));
    panel.bands.push(Band { points: ends.collect(), color, whiskers: true });
    for point in points {
        let [low, high] = point.interval.unwrap_or([f64::NAN; 2]);
        numbers.rows.push((format!("{}: {}", rule.name(), point.name), vec![point.share, low, high]));
    }
}

fn share_numbers() -> FigureTable {
    FigureTable {
        index: "rule and cell".to_owned(),
        headings: ["share of the layers", "interval from", "to"].map(str::to_owned).to_vec(),
        rows: Vec::new(),
    }
}

/// Adds a hover text for each x: all points there.
fn hovers(panel: &mut Panel, points: Vec<(f64, [f64; 2], String)>) {
    let mut places: Vec<(f64, [f64; 2], String)> = Vec::new();
    for (x, ends, text) in points {
        match places.iter_mut().find(|place| place.0 == x) {
            Some(place) => place.2 += &format!("\n{text}"),
            None => places.push((x, ends, text)),
        }
    }
    panel.hovers.extend(places.into_iter().map(|(_, ends, text)| (ends, text)));
}

fn said(point: &SharePoint) -> String {
    let interval =
        point.interval.map_or(String::new(), |[low, high]| format!(" ({} to {})", number(low), number(high)));
    format!("{}: {}{interval}", point.name, number(point.share))
}

fn share_axis() -> Axis {
    Axis { step: Some(0.25), ..Axis::new("share of the layers", 0.0, 1.0) }
}

/// The size of a model, if an axis can show it.
fn usable(model: &StudyModel) -> Option<f64> {
    model.size.filter(|size| (1e-6..1e6).contains(size))
}

/// The types of training, and the pairs of family and type that a line joins.
struct Groups {
    kinds: Vec<Option<String>>,
    lines: Vec<(Option<String>, Option<String>)>,
    /// The smallest and the largest model.
    sizes: (f64, f64),
}

/// The share of the depth against the size of the models, a panel for each rule and a colour for each data set.
/// Lines join models of one family and type.
pub(super) fn by_size(page: &StudyPage) -> Option<Figure> {
    let sizes: Vec<f64> = page.models.iter().filter_map(usable).collect();
    let low = sizes.iter().copied().reduce(f64::min)?;
    let high = sizes.iter().copied().reduce(f64::max)?;
    let groups = Groups {
        kinds: distinct(page.models.iter().map(|model| model.kind.clone())),
        lines: distinct(page.models.iter().map(|model| (model.family.clone(), model.kind.clone()))),
        sizes: (low, high),
    };
    let mut numbers = share_numbers();
    let panels: Vec<Panel> =
        rules(page).iter().map(|rule| ratio_panel(page, *rule, &groups, &mut numbers)).collect();
    if numbers.rows.is_empty() {
        return None;
    }
    let entry = |(index, data): (usize, &StudyData)| LegendEntry {
        label: line(&data.name),
        color: style(index).0,
        mark: LegendMark::Dot,
    };
    let mut legend: Vec<LegendEntry> = page.data.iter().enumerate().map(entry).collect();
    if let [first, rest @ ..] = &groups.kinds[..]
        && !rest.is_empty()
    {
        let named = |kind: &Option<String>| kind.as_deref().map_or("no type".to_owned(), line);
        let rest = rest.iter().map(named).collect::<Vec<_>>().join(", ");
        legend.push(LegendEntry { label: named(first), color: Color::Soft, mark: LegendMark::Dot });
        legend.push(LegendEntry { label: rest, color: Color::Soft, mark: LegendMark::Ring });
    }
    let names = ("study_ratio_by_size".to_owned(), "Do larger models use more of their depth?".to_owned());
    let reading = "Share of the layers that each rule says are used, against the size of the model (log scale), with 95 % \
                   intervals over prompts; of rules on skipped layers, by the mean effect over prompts. Lines join models of one family and type; a line that rises is a family whose \
                   larger models use more of their depth.";
    Some(study_figure(page, names, reading, grid(legend, panels), numbers))
}

fn ratio_panel(page: &StudyPage, rule: Rule, groups: &Groups, numbers: &mut FigureTable) -> Panel {
    let (low, high) = groups.sizes;
    let x = Axis { log: true, ..Axis::new("billions of parameters", low * 0.7, high * 1.4) };
    let mut panel = Panel::new(rule.name(), x, share_axis());
    let mut spoken = Vec::new();
    // Data sets are drawn slightly apart, so that their whiskers do not hide each other.
    let apart = 1.0 + 0.05 * (high / low).log10().max(0.2);
    let room = (high / low).powf(0.04).max(1.05);
    for (data, of) in page.data.iter().enumerate() {
        let aside = apart.powf(data as f64 - (page.data.len() - 1) as f64 / 2.0);
        for (family, kind) in &groups.lines {
            let inside = |model: &StudyModel| (&model.family, &model.kind) == (family, kind);
            let point = |(index, model): (usize, &StudyModel)| {
                let size = usable(model).filter(|_| inside(model))?;
                let (share, interval) = share(page.results(index, data)?, rule)?;
                let name = format!("{}, {}", line(&model.name), line(&of.name));
                Some((size, SharePoint { x: size * aside, share, interval, name }))
            };
            let mut points: Vec<(f64, SharePoint)> =
                page.models.iter().enumerate().filter_map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            spoken
                .extend(points.iter().map(|(size, point)| (*size, [size / room, size * room], said(point))));
            let points: Vec<SharePoint> = points.into_iter().map(|(_, point)| point).collect();
            let first = groups.kinds.first() == Some(kind);
            let stroke = if first { Stroke::Solid } else { Stroke::Dashed };
            if !points.is_empty() {
                add(&mut panel, numbers, rule, &points, (style(data).0, stroke));
            }
        }
    }
    finished(panel, spoken)
}

/// The panel with its hover texts, and with a remark if it has no curve.
fn finished(mut panel: Panel, spoken: Vec<(f64, [f64; 2], String)>) -> Panel {
    if panel.curves.is_empty() {
        panel.empty = "no depth".to_owned();
    }
    hovers(&mut panel, spoken);
    panel
}

/// The share of the depth against difficulty: a figure for each series of data sets, a panel for each rule, a line
/// for each model.
pub(super) fn by_difficulty(page: &StudyPage) -> Vec<Figure> {
    let graded = page.data.iter().filter(|data| data.difficulty.is_some());
    let all = distinct(graded.map(|data| data.series.clone().unwrap_or_default()));
    let figure = |(index, series): (usize, &String)| difficulty_figure(page, index, series);
    all.iter().take(MOST).enumerate().filter_map(figure).collect()
}

fn difficulty_figure(page: &StudyPage, index: usize, series: &str) -> Option<Figure> {
    let mut graded: Vec<(usize, &str, f64)> = page
        .data
        .iter()
        .enumerate()
        .filter(|(_, data)| data.series.as_deref().unwrap_or_default() == series)
        .filter_map(|(i, data)| data.difficulty.as_ref().map(|(label, order)| (i, label.as_str(), *order)))
        .collect();
    graded.sort_by(|a, b| a.2.total_cmp(&b.2));
    if graded.len() < 2 {
        return None;
    }
    let mut numbers = share_numbers();
    let panels: Vec<Panel> =
        rules(page).iter().map(|rule| difficulty_panel(page, *rule, &graded, &mut numbers)).collect();
    if numbers.rows.is_empty() {
        return None;
    }
    let entry = |(index, model): (usize, &StudyModel)| {
        let (color, stroke) = style(index);
        let mark = if stroke == Stroke::Solid { LegendMark::Dot } else { LegendMark::Ring };
        LegendEntry { label: line(&model.name), color, mark }
    };
    let legend = page.models.iter().enumerate().map(entry).collect();
    let name = match series {
        "" => String::new(),
        series => format!(": {}", line(series)),
    };
    let names = (
        format!("study_ratio_by_difficulty_{}", index + 1),
        format!("Is more of the depth used on harder data{name}?"),
    );
    let reading = "Share of the layers that each rule says are used, from the easiest data of the series to the hardest, \
                   with 95 % intervals over prompts; of rules on skipped layers, by the mean effect over prompts. A line \
                   that rises is a model that uses more of its depth where the \
                   task is harder.";
    Some(study_figure(page, names, reading, grid(legend, panels), numbers))
}

fn difficulty_panel(
    page: &StudyPage,
    rule: Rule,
    graded: &[(usize, &str, f64)],
    numbers: &mut FigureTable,
) -> Panel {
    let x = Axis {
        step: Some(1.0),
        names: graded.iter().map(|(_, label, _)| line(label).chars().take(12).collect()).collect(),
        ..Axis::new("difficulty", -0.4, graded.len() as f64 - 0.6)
    };
    let mut panel = Panel::new(rule.name(), x, share_axis());
    let mut spoken = Vec::new();
    for (model, of) in page.models.iter().enumerate() {
        let aside = (0.04 * (model as f64 - (page.models.len() - 1) as f64 / 2.0)).clamp(-0.3, 0.3);
        let point = |(place, (data, label, _)): (usize, &(usize, &str, f64))| {
            let (share, interval) = share(page.results(model, *data)?, rule)?;
            let name = format!("{}, {}", line(&of.name), line(label));
            Some(SharePoint { x: place as f64 + aside, share, interval, name })
        };
        let points: Vec<SharePoint> = graded.iter().enumerate().filter_map(point).collect();
        let place = |point: &SharePoint| (point.x - aside).round();
        spoken.extend(
            points.iter().map(|point| (place(point), [place(point) - 0.5, place(point) + 0.5], said(point))),
        );
        if !points.is_empty() {
            add(&mut panel, numbers, rule, &points, style(model));
        }
    }
    finished(panel, spoken)
}

/// The distinct values in order of first appearance.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use crate::plots::Figure;
    use crate::study::{StudyPage, figures};

    fn named(page: &StudyPage, name: &str) -> Figure {
        figures(page).into_iter().find(|figure| figure.name == name).unwrap()
    }

    #[test]
    fn shares_are_those_of_the_cells_and_intervals_are_shares_too() {
        let page = example();
        let numbers = named(&page, "study_ratio_by_size").table().clone();
        let (name, values) = &numbers.rows[0];
        assert_eq!((name.as_str(), values[0]), ("kl: small, hard", 19.0 / 30.0));
        // The fixture's interval of kl is 21 to 22.5, in layers counted from 0.
        assert!((values[1] - 22.0 / 30.0).abs() < 1e-12 && (values[2] - 23.5 / 30.0).abs() < 1e-12);
        // From easy to hard, although the study lists them the other way round.
        let numbers = named(&page, "study_ratio_by_difficulty_1").table().clone();
        assert_eq!(numbers.rows[0].0, "kl: small, easy");
        assert_eq!(numbers.rows[1].0, "kl: small, hard");
    }
}
