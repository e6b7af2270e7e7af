//! The figures of the probes that change the model's run: skip, erasure and gradients.

use std::borrow::Cow;

use super::heat::{Axis, Heat, Scale};
use super::{BLUE, Chart, Figure, Lines, ORANGE, Series, figure, number, tokens};
use crate::results::{Effects, Erasure, Gradients, OutputEffect, Results, Skip};

/// Pairs that are drawn; the others are listed.
const DRAWN: usize = 4;
/// Rules whose resamples are drawn, far more than there are.
const PANELS: usize = 24;
/// Pairs that are listed.
const LISTED: usize = 100;

pub(super) fn skip_figures<'a>(results: &'a Results, skip: &'a Skip) -> Vec<Figure<'a>> {
    let mut all = Vec::new();
    for (key, effects) in skip.effects() {
        let (mode, part) = key.split_once('.').unwrap_or((&key, "layer"));
        let what = match part {
            "attn" => "a layer's attention",
            "mlp" => "a layer's MLP",
            _ => "a layer",
        };
        all.push(later_layers(results, effects, (mode, part), what));
        if let Some(output) = &effects.output_effect {
            all.push(output_figure(results, output, (mode, part), what));
        }
    }
    all
}

fn later_layers<'a>(
    results: &'a Results,
    effects: &Effects,
    (mode, part): (&str, &str),
    what: &str,
) -> Figure<'a> {
    let (how, reading) = match mode {
        "future" => (
            "what later tokens lose",
            "Each row bypasses one layer for all earlier tokens; the colour is how much what a later layer (column) \
             adds for the later tokens changes, relative to its length. A bright row is a layer that others build on; a \
             dark right half means that late layers need little of what the layers before them computed for other tokens.",
        ),
        "current" => (
            "what the same tokens lose",
            "Each row bypasses one layer at all tokens; the colour is how much what a later layer (column) adds changes, \
             relative to its length. The diagonal is 1, the layer itself. Dark columns on the right are layers \
             that work independently of the others.",
        ),
        _ => (
            "direct dependence",
            "As for later tokens, but each later layer (column) misses only what the bypassed one (row) added, and \
             nothing propagates: the colour is direct use, without the layers in between.",
        ),
    };
    let cells = effects.layer_effect.max.clone();
    let scale = Scale::capped(cells.iter().flatten());
    let heat = Heat { cells, x: Axis::Numbers("later layer", 0), y: Axis::Down("skipped layer", 0), scale };
    let name = format!("skip_{mode}_{part}");
    let beyond = heat.beyond().unwrap_or_default();
    let mut figure = figure(results, name, format!("Skipping {what}: {how}"), reading, Chart::Heat(heat));
    figure.note = format!(
        "Largest effect over prompts and tokens, below the diagonal zero: no layer acts on an earlier one. {beyond}"
    );
    figure
}

fn output_figure<'a>(
    results: &'a Results,
    output: &'a OutputEffect,
    (mode, part): (&str, &str),
    what: &str,
) -> Figure<'a> {
    let tokens = if mode == "future" { "at later tokens" } else { "at the same tokens" };
    let series = |label: &str, values: &'a [f64], colour| Series {
        label: label.to_owned(),
        values,
        colour,
        dashed: false,
    };
    let lines = Lines {
        x_label: "skipped layer",
        y_label: "change of the output, |p - p'|",
        bars: true,
        series: vec![series("largest", &output.max, BLUE), series("mean over prompts", &output.mean, ORANGE)],
        ..Lines::default()
    };
    figure(
        results,
        format!("skip_{mode}_{part}_output"),
        format!("Skipping {what}: the output {tokens}"),
        "How far the predicted distribution moves when the layer is bypassed: 0 is no change, the square root of 2 \
         another token with certainty. Low bars are layers the prediction can do without.",
        Chart::Lines(lines),
    )
}

pub(super) fn erasure_figures<'a>(results: &'a Results, pairs: &'a [Erasure]) -> Vec<Figure<'a>> {
    let draw = |(index, pair): (usize, &'a Erasure)| {
        let heat = Heat {
            cells: pair.effect.clone(),
            x: visible(&pair.tokens),
            y: Axis::Numbers("erased before layer", 0),
            scale: Scale::rising(pair.effect.iter().flatten()),
        };
        let mut figure = figure(
            results,
            format!("erasure_effect_{}", index + 1),
            format!("Until which layer a token matters: pair {}", index + 1),
            "The stream of one token (column) is replaced by an average one before one layer (row, counted upward); the \
             colour is how much the prediction of the answer changes. Where a column turns dark, the model has taken from \
             that token what it needs. The last columns are the answer's own tokens.",
            Chart::Heat(heat),
        );
        figure.note = asked(&pair.question, &pair.answer);
        figure
    };
    let drawn = pairs.iter().enumerate().filter(|(_, pair)| !pair.tokens.is_empty()).take(DRAWN);
    let mut all: Vec<Figure<'a>> = drawn.map(draw).collect();
    list_rest(&mut all, pairs.iter().map(|pair| asked(&pair.question, &pair.answer)).collect());
    all
}

pub(super) fn gradient_figures<'a>(results: &'a Results, pairs: &'a [Gradients]) -> Vec<Figure<'a>> {
    let draw = |(index, pair): (usize, &'a Gradients)| {
        let heat = Heat {
            cells: pair.attribution.clone(),
            x: visible(&pair.tokens),
            y: Axis::Numbers("layer", 0),
            scale: Scale::diverging(pair.attribution.iter().flatten()),
        };
        let beyond = heat.beyond().unwrap_or_default();
        let mut figure = figure(
            results,
            format!("gradients_attribution_{}", index + 1),
            format!("What the answer owes to each token: pair {}", index + 1),
            "Integrated gradients of the answer's probability: red cells raise it, blue ones lower it, and a layer's \
             row adds up to the change against the baseline. Rows where only the last tokens have colour are layers by \
             which the question has been read.",
            Chart::Heat(heat),
        );
        figure.note = format!("{} {beyond}", gradient_note(pair));
        figure
    };
    let drawn = pairs.iter().enumerate().filter(|(_, pair)| !pair.tokens.is_empty()).take(DRAWN);
    let mut all: Vec<Figure<'a>> = drawn.map(draw).collect();
    let listed = |pair: &Gradients| format!("{} At {}.", asked(&pair.question, &pair.answer), pair.site);
    list_rest(&mut all, pairs.iter().map(listed).collect());
    all
}

fn gradient_note(pair: &Gradients) -> String {
    let worst = pair.completeness_error.iter().copied().filter(|e| e.is_finite()).fold(0.0, f64::max);
    let most = pair.nodes.iter().max().copied().unwrap_or(0);
    let plain = |text: &str| tokens::line(text);
    format!(
        "{} At {}, baseline {}, {} quadrature with at most {most} nodes; the largest completeness error of a layer is {} %.",
        asked(&pair.question, &pair.answer),
        plain(&pair.site),
        plain(&pair.baseline),
        plain(&pair.quadrature),
        number(100.0 * worst)
    )
}

fn asked(question: &str, answer: &str) -> String {
    format!(
        "Question: \u{201c}{}\u{201d}, answer: \u{201c}{}\u{201d}.",
        tokens::line(question),
        tokens::line(answer)
    )
}

fn visible(texts: &[String]) -> Axis {
    Axis::Tokens(texts.iter().map(|text| tokens::visible(text)).collect())
}

/// Lists what was not drawn under the last figure.
fn list_rest(figures: &mut [Figure<'_>], all: Vec<String>) {
    let drawn = figures.len();
    let Some(last) = figures.last_mut() else { return };
    last.not_drawn = all.len() - drawn;
    last.listed = all.into_iter().skip(drawn).take(LISTED).collect();
}

/// The probe that a rule reads, or the section of the file for rules unknown here. Figures are named after
/// it, because a later run in the same folder takes away the figures of the probes by name.
fn probe_of(rule: &str) -> &'static str {
    match rule {
        "cosine" => "contributions",
        "kl" | "kl_last" | "overlap" => "lens",
        "settling" => "settling",
        "skip_layer" | "skip_output" | "influence_number" | "influence_90" => "skip",
        _ => "uncertainty",
    }
}

/// The histograms of the depths over resamples: a figure for each probe, a panel for each rule.
pub(super) fn resample_figures(results: &Results) -> Vec<Figure<'_>> {
    let rules = results.uncertainty.iter().flat_map(|uncertainty| &uncertainty.rules);
    let found = rules.filter_map(|rule| Some((Cow::from(rule.rule.as_str()), rule.histogram.as_ref()?)));
    let found: Vec<_> = found.take(PANELS).collect();
    let draw = |probe: &str| {
        let panels: Vec<_> = found.iter().filter(|(rule, _)| probe_of(rule) == probe).cloned().collect();
        (!panels.is_empty()).then(|| {
            figure(
                results,
                format!("{probe}_resamples"),
                format!("How sure each depth is: {probe}"),
                "The effective depth by each rule in resamples of the prompts, drawn with replacement. A narrow peak \
                 would be found again with other prompts of the same kind; with two, the rule wavers.",
                Chart::Panels(panels),
            )
        })
    };
    ["contributions", "lens", "settling", "skip", "uncertainty"].into_iter().filter_map(draw).collect()
}
