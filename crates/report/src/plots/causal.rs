//! The figures of the probes that change the model's run: skip, erasure and gradients.

use super::color::Color;
use super::figure::{Body, Figure};
use super::grid::Grid;
use super::heat::{ColorScale, Heat, HeatAxis};
use super::layers::{Series, ValueScale, bar_axis, bars, depth_marks, hovers, numbers};
use super::legend::{LegendEntry, LegendMark};
use super::panel::Panel;
use crate::text::{self, number};
use fathom_results::{
    ErasurePair, GradientsPair, OverPrompts, Results, Rule, SkipAverage, SkipMode, SkipPart, SkipSummary,
};

/// The number of pairs that are drawn; the others are listed.
const DRAWN: usize = 4;
/// The number of pairs that are listed.
const LISTED: usize = 100;

pub(super) fn skip_figures(results: &Results, skip: &SkipSummary) -> Vec<Figure> {
    let mut all = Vec::new();
    let effects = skip.iter().flat_map(|(mode, parts)| parts.iter().map(|(part, e)| ((*mode, *part), e)));
    for ((mode, part), effects) in effects {
        let what = match part {
            SkipPart::Attn => "a layer's attention",
            SkipPart::Mlp => "a layer's MLP",
            SkipPart::Layer => "a layer",
        };
        all.push(later_layers(results, effects, (mode, part), what));
        if let Some(output) = &effects.output_effect {
            all.push(output_figure(results, output, (mode, part), what));
        }
    }
    all
}

fn later_layers(
    results: &Results,
    effects: &SkipAverage,
    (mode, part): (SkipMode, SkipPart),
    what: &str,
) -> Figure {
    let (how, reading) = match mode {
        SkipMode::Future => (
            "what later tokens lose",
            "Each row skips one layer for all earlier tokens. The colour is the relative change of what a later layer \
             (column) adds at the later tokens. A bright row is a layer that others build on; a dark right half means \
             that late layers need little of what earlier layers computed for other tokens.",
        ),
        SkipMode::Current => (
            "what the same tokens lose",
            "Each row skips one layer at all tokens. The colour is the relative change of what a later layer (column) \
             adds. The diagonal is the layer itself and equals 1. Dark columns on the right are layers that work \
             independently of the others.",
        ),
        SkipMode::Others => (
            "what other positions lose",
            "Each row skips one layer at a random half of the positions. The colour is the relative change of what a later \
             layer (column) adds at the other half. A bright row is a layer that others build on; a dark right half means \
             that late layers need little of what earlier layers computed for other positions.",
        ),
        SkipMode::Local => (
            "direct dependence",
            "As for later tokens, but each later layer (column) misses only what the skipped layer (row) added, and \
             nothing propagates. The colour is direct use, without the layers in between.",
        ),
    };
    let cells = effects.layer_effect.max.clone();
    let scale = ColorScale::capped(cells.iter().flatten());
    let heat = Heat {
        cells,
        x: HeatAxis::Numbers("later layer", 0),
        y: HeatAxis::Down("skipped layer", 0),
        scale,
        unit: "change, |D - D'| / |D|",
    };
    let name = format!("skip_{}_{}", mode.name(), part.name());
    let beyond = heat.beyond().unwrap_or_default();
    let mut figure =
        Figure::of_run(results, name, format!("Skipping {what}: {how}"), reading, Body::heat(heat));
    figure.note =
        format!("Largest effect over prompts and tokens; no layer acts on an earlier one. {beyond}");
    figure
}

fn output_figure(
    results: &Results,
    output: &OverPrompts<Vec<f64>>,
    (mode, part): (SkipMode, SkipPart),
    what: &str,
) -> Figure {
    let tokens = match mode {
        SkipMode::Future => "at later tokens",
        SkipMode::Others => "at masks among the other positions",
        SkipMode::Current | SkipMode::Local => "at the same tokens",
    };
    let series = [
        Series::new("largest of any prompt", &output.max, Color::Blue),
        Series::new("mean over prompts", &output.mean, Color::Orange),
    ];
    let scale = ValueScale::linear("change, |p - p'|");
    let y = scale.axis(output.max.iter().chain(&output.mean));
    let means = bars(&output.mean, &scale, Color::Orange, false);
    let largest = bars(&output.max, &scale, Color::Blue, true);
    let panel = Panel {
        bars: means.into_iter().chain(largest).collect(),
        marks: if matches!(mode, SkipMode::Future | SkipMode::Others) && part == SkipPart::Layer {
            depth_marks(results, &[Rule::SkipOutput])
        } else {
            Vec::new()
        },
        hovers: hovers("skipped layer", &series),
        ..Panel::new("", bar_axis("skipped layer", results.model.layers), y)
    };
    let entry = |series: &Series<'_>, mark| LegendEntry { mark, ..series.entry() };
    let legend = vec![entry(&series[1], LegendMark::Square), entry(&series[0], LegendMark::Tick)];
    Figure::of_run(
        results,
        format!("skip_{}_{}_output", mode.name(), part.name()),
        format!("Skipping {what}: the output {tokens}"),
        "How far the predicted distribution moves when the layer is skipped. 0 is no change; the square root of 2 is \
         another token with certainty. The prediction can do without layers with low bars.",
        (Body::Panels(Grid::one(panel, legend)), numbers("skipped layer", &series)),
    )
}

pub(super) fn erasure_figures(results: &Results, pairs: &[ErasurePair]) -> Vec<Figure> {
    let draw = |(index, pair): (usize, &ErasurePair)| {
        let heat = Heat {
            cells: pair.effect.clone(),
            x: visible(&pair.tokens),
            y: HeatAxis::Numbers("erased before layer", 0),
            scale: ColorScale::sequential(pair.effect.iter().flatten()),
            unit: "change of the answer, |p - p'|",
        };
        let mut figure = Figure::of_run(
            results,
            format!("erasure_effect_{}", index + 1),
            format!("Until which layer a token matters: pair {}", index + 1),
            reading(
                index,
                "The residual stream of one token (column) is replaced by an average before one layer (row, counted \
                 upward). The colour is how much the prediction of the answer changes. Where a column turns dark, the \
                 model has taken from that token what it needs. The last columns are the tokens of the answer.",
            ),
            Body::heat(heat),
        );
        figure.note = asked(&pair.question, &pair.answer);
        figure
    };
    let drawn = pairs.iter().enumerate().filter(|(_, pair)| !pair.tokens.is_empty()).take(DRAWN);
    let mut all: Vec<Figure> = drawn.map(draw).collect();
    list_rest(&mut all, pairs.iter().map(|pair| asked(&pair.question, &pair.answer)).collect());
    all
}

pub(super) fn gradient_figures(results: &Results, pairs: &[GradientsPair]) -> Vec<Figure> {
    let draw = |(index, pair): (usize, &GradientsPair)| {
        let heat = Heat {
            cells: pair.gradients.attribution.clone(),
            x: visible(&pair.tokens),
            y: HeatAxis::Numbers("layer", 0),
            scale: ColorScale::diverging(pair.gradients.attribution.iter().flatten()),
            unit: "attribution (probability)",
        };
        let beyond = heat.beyond().unwrap_or_default();
        let mut figure = Figure::of_run(
            results,
            format!("gradients_attribution_{}", index + 1),
            format!("What the answer owes to each token: pair {}", index + 1),
            reading(
                index,
                "Integrated gradients of the answer's probability. Red cells raise it, blue cells lower it, and a row \
                 adds up to the difference from the baseline. In rows where only the last tokens have colour, the \
                 question has already been read.",
            ),
            Body::heat(heat),
        );
        figure.note = format!("{} {beyond}", gradient_note(pair));
        figure
    };
    let drawn = pairs.iter().enumerate().filter(|(_, pair)| !pair.tokens.is_empty()).take(DRAWN);
    let mut all: Vec<Figure> = drawn.map(draw).collect();
    let listed = |pair: &GradientsPair| {
        format!("{} At {}.", asked(&pair.question, &pair.answer), pair.gradients.site.name())
    };
    list_rest(&mut all, pairs.iter().map(listed).collect());
    all
}

/// The reading of a figure; those after the first refer to it.
fn reading(index: usize, first: &'static str) -> &'static str {
    if index == 0 { first } else { "Reads like the first." }
}

fn gradient_note(pair: &GradientsPair) -> String {
    let found = &pair.gradients;
    let worst = |errors: &[f64]| {
        let worst = errors.iter().copied().filter(|e| e.is_finite()).fold(0.0, f64::max);
        number(100.0 * worst)
    };
    let apart = found.interval_error.as_ref().map_or(String::new(), |errors| {
        format!(", and {} % where errors along the path do not cancel", worst(errors))
    });
    let most = found.nodes.iter().max().copied().unwrap_or(0);
    format!(
        "{} At {}, baseline {}, {} quadrature with at most {most} nodes; the largest completeness error of any layer is {} %{apart}.",
        asked(&pair.question, &pair.answer),
        found.site.name(),
        found.baseline.name(),
        found.quadrature,
        worst(&found.completeness_error)
    )
}

fn asked(question: &str, answer: &str) -> String {
    format!(
        "Question: \u{201c}{}\u{201d}, answer: \u{201c}{}\u{201d}.",
        text::line(question),
        text::line(answer)
    )
}

fn visible(texts: &[String]) -> HeatAxis {
    HeatAxis::Tokens(texts.iter().map(|text| text::visible(text)).collect())
}

/// Lists the pairs that were not drawn under the last figure.
fn list_rest(figures: &mut [Figure], all: Vec<String>) {
    let drawn = figures.len();
    let Some(last) = figures.last_mut() else { return };
    last.not_drawn = all.len() - drawn;
    last.listed = all.into_iter().skip(drawn).take(LISTED).collect();
}
