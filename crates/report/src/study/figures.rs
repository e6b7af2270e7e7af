//! The curves of a study as small multiples, a panel for each model and a line for each data set.

use super::page::{StudyModel, StudyPage};
use crate::plots::axis::Axis;
use crate::plots::canvas::{PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::layers::{Series, ValueScale, curves as runs};
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::Panel;
use crate::plots::{Body, Figure, FigureTable};
use crate::text::{line, value};
use fathom_results::{Results, SkipMode, SkipPart};

/// Extracts a curve from results.
type Take = fn(&Results) -> Option<Vec<f64>>;

/// A curve over layers that is shown for every cell.
struct Quantity {
    name: &'static str,
    title: &'static str,
    reading: &'static str,
    scale: ValueScale,
    take: Take,
}

fn quantities() -> [Quantity; 6] {
    [
        Quantity {
            name: "study_contributions_relative_norm",
            title: "How much each layer adds",
            reading: "Norm of what a layer adds relative to the residual stream, mean over tokens (log scale). The x \
                      axis is the share of the layers, so that models of different depth can be compared.",
            scale: ValueScale::log("relative length"),
            take: |results| Some(results.probes.contributions.as_ref()?.relative_norm.layer.mean.clone()),
        },
        Quantity {
            name: "study_contributions_cosine",
            title: "Whether layers strengthen or erase",
            reading: "Cosine between what a layer adds and the residual stream, mean over tokens. Below zero, the \
                      layer erases part of the stream; above zero, it strengthens what is there.",
            scale: ValueScale::linear("cosine"),
            take: |results| Some(results.probes.contributions.as_ref()?.cosine.layer.mean.clone()),
        },
        Quantity {
            name: "study_lens_kl",
            title: "How far an early answer is from the final one",
            reading: "KL(lens || output) before each layer. The earlier a curve falls, the fewer layers the model \
                      needs for its answer.",
            scale: ValueScale::linear("KL (nats)"),
            take: |results| Some(results.probes.lens.as_ref()?.kl_lens_final.clone()),
        },
        Quantity {
            name: "study_lens_overlap",
            title: "When the likeliest tokens appear",
            reading: "Share of the five likeliest tokens that the logit lens and the output have in common.",
            scale: ValueScale::share("overlap"),
            take: |results| Some(results.probes.lens.as_ref()?.overlap.clone()),
        },
        Quantity {
            name: "study_skip_later_layers",
            title: "Skipping a layer: what later layers lose",
            reading: "Largest relative change, at later tokens, of what the later layers add, averaged over those \
                      layers, by skipped layer (log scale).",
            scale: ValueScale::log("change"),
            take: later_layers,
        },
        Quantity {
            name: "study_skip_output",
            title: "Skipping a layer: what the output loses",
            reading: "Largest change of the predicted distribution at later tokens, by skipped layer. 0 is no change; \
                      the square root of 2 is another token with certainty.",
            scale: ValueScale::linear("|p - p'|"),
            take: |results| {
                let effects = results
                    .probes
                    .skip
                    .as_ref()?
                    .get(&SkipMode::far(results.objective.is_some()))?
                    .get(&SkipPart::Layer)?;
                Some(effects.output_effect.as_ref()?.max.clone())
            },
        },
    ]
}

/// The mean effect of each layer on the later ones; NaN for the last layer.
fn later_layers(results: &Results) -> Option<Vec<f64>> {
    let rows = &results
        .probes
        .skip
        .as_ref()?
        .get(&SkipMode::far(results.objective.is_some()))?
        .get(&SkipPart::Layer)?
        .layer_effect
        .max;
    let mean = |(skipped, row): (usize, &Vec<f64>)| {
        let later = row.get(skipped + 1..).unwrap_or_default();
        later.iter().sum::<f64>() / later.len() as f64
    };
    Some(rows.iter().enumerate().map(mean).collect())
}

/// The colour and stroke of the n-th series.
pub(super) fn style(index: usize) -> (Color, Stroke) {
    let color = Color::SERIES[index % Color::SERIES.len()];
    let stroke = if index < Color::SERIES.len() { Stroke::Solid } else { Stroke::Dashed };
    (color, stroke)
}

/// The number of panels side by side, chosen so that the last row is not nearly empty.
fn columns(panels: usize) -> usize {
    match panels {
        0..=4 => panels.max(1),
        5 | 6 | 9 => 3,
        _ => 4,
    }
}

pub(super) fn grid(legend: Vec<LegendEntry>, panels: Vec<Panel>) -> Body {
    let columns = columns(panels.len());
    let width = PAGE * if panels.len() == 1 { 0.6 } else { 1.0 };
    Body::Panels(Grid { legend, columns, panels, height: 140.0, width })
}

pub(super) fn study_figure(
    page: &StudyPage,
    (name, title): (String, String),
    reading: &'static str,
    body: Body,
    numbers: FigureTable,
) -> Figure {
    Figure::new(name, title, reading, page.title.clone(), (body, numbers))
}

/// Every curve that any cell holds.
pub(super) fn curves(page: &StudyPage) -> Vec<Figure> {
    quantities().iter().filter_map(|quantity| curve_figure(page, quantity)).collect()
}

fn curve_figure(page: &StudyPage, quantity: &Quantity) -> Option<Figure> {
    let all: Vec<Vec<Option<Vec<f64>>>> = (0..page.models.len())
        .map(|model| {
            let take = |data| page.results(model, data).and_then(|results| (quantity.take)(results));
            (0..page.data.len()).map(take).collect()
        })
        .collect();
    all.iter().flatten().flatten().next()?;
    let y = quantity.scale.axis(all.iter().flatten().flatten().flatten());
    let used = |data: usize| all.iter().any(|row| row[data].is_some());
    let mut legend = Vec::new();
    for (index, data) in page.data.iter().enumerate().filter(|(index, _)| used(*index)) {
        let (color, stroke) = style(index);
        legend.push(LegendEntry { label: line(&data.name), color, mark: LegendMark::Line(stroke) });
    }
    let panels = page.models.iter().zip(&all).enumerate();
    let panels = panels.map(|(model, (of, rows))| curve_panel(page, quantity, (model, of), rows, &y));
    let mut numbers = FigureTable { index: "cell and layer".to_owned(), ..FigureTable::default() };
    numbers.headings = vec![quantity.scale.label.to_owned()];
    for (model, rows) in page.models.iter().zip(&all) {
        for (data, values) in page.data.iter().zip(rows) {
            for (layer, value) in values.iter().flatten().enumerate() {
                let name = format!("{}, {}, {layer}", line(&model.name), line(&data.name));
                numbers.rows.push((name, vec![*value]));
            }
        }
    }
    let body = grid(legend, panels.collect());
    let names = (quantity.name.to_owned(), quantity.title.to_owned());
    Some(study_figure(page, names, quantity.reading, body, numbers))
}

fn curve_panel(
    page: &StudyPage,
    quantity: &Quantity,
    (model, of): (usize, &StudyModel),
    rows: &[Option<Vec<f64>>],
    y: &Axis,
) -> Panel {
    let layers = (0..page.data.len()).find_map(|data| page.results(model, data)).map(|r| r.model.layers);
    let mut panel = Panel::new(
        line(&of.name),
        Axis { step: Some(0.25), ..Axis::new("share of the layers", 0.0, 1.0) },
        y.clone(),
    );
    let Some(layers) = layers.map(|layers| layers as f64) else {
        panel.empty = "not measured".to_owned();
        return panel;
    };
    let length = rows.iter().flatten().map(Vec::len).max().unwrap_or(0);
    for (data, values) in rows.iter().enumerate() {
        let (color, stroke) = style(data);
        let Some(values) = values else { continue };
        let series = Series { stroke, ..Series::new("", values, color) };
        for mut curve in runs(&series, &quantity.scale) {
            // Values of a layer are drawn at its middle, values before a layer at its start.
            let middle = if values.len() as f64 > layers { 0.0 } else { 0.5 };
            curve.points.iter_mut().for_each(|point| point.0 = (point.0 + middle) / layers);
            panel.curves.push(curve);
        }
    }
    for layer in 0..length {
        let said = |(data, values): (usize, &Option<Vec<f64>>)| {
            Some(format!("\n{}: {}", line(&page.data[data].name), value(*values.as_ref()?.get(layer)?)))
        };
        let text: String = rows.iter().enumerate().filter_map(said).collect();
        let [from, to] = [layer as f64, layer as f64 + 1.0].map(|at| at / layers);
        panel
            .hovers
            .push(([from, to.min(1.0)], format!("{}\nlayer {layer} of {layers}{text}", line(&of.name))));
    }
    panel
}

#[cfg(test)]
mod tests {
    use super::super::StudyData;
    use super::super::tests::example;
    use super::*;

    fn named(page: &StudyPage, name: &str) -> Figure {
        super::super::figures(page).into_iter().find(|figure| figure.name == name).unwrap()
    }

    #[test]
    fn every_quantity_of_the_cells_has_a_figure() {
        let names: Vec<String> = super::super::figures(&example()).into_iter().map(|f| f.name).collect();
        assert_eq!(
            names,
            [
                "study_ratio_by_size",
                "study_ratio_by_difficulty_1",
                "study_contributions_relative_norm",
                "study_contributions_cosine",
                "study_lens_kl",
                "study_lens_overlap",
                "study_skip_later_layers",
                "study_skip_output",
            ]
        );
    }

    #[test]
    fn skipping_is_averaged_over_later_layers_only() {
        let page = example();
        let numbers = named(&page, "study_skip_later_layers").table().clone();
        // The fixture's effect of layer s on layer l is 1.5 / (l - s).
        let rows: Vec<f64> = numbers.rows.iter().take(30).map(|row| row.1[0]).collect();
        assert!((rows[28] - 1.5).abs() < 1e-12 && (rows[27] - 1.125).abs() < 1e-12 && rows[29].is_nan());
    }

    #[test]
    fn many_models_and_sets_and_odd_sizes_can_be_drawn() {
        let mut page = example();
        let (model, data, cell) = (page.models[0].clone(), page.data[0].clone(), page.cells[0].clone());
        for index in 0..12 {
            page.models.push(StudyModel { name: format!("m{index}"), size: Some(1e300), ..model.clone() });
            page.data.push(StudyData { name: format!("d{index}"), ..data.clone() });
            page.cells.push(super::super::StudyCell { model: 3 + index, data: index, ..cell.clone() });
        }
        page.models[0].size = None;
        page.models[1].size = Some(f64::NAN);
        for figure in super::super::figures(&page) {
            figure.svg().unwrap();
            figure.png().unwrap();
        }
    }
}
