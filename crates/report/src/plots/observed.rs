//! The figures of the probes that only observe the model: contributions, lens, similarity, settling.

use super::axis::Axis;
use super::canvas::COLUMN;
use super::color::Color;
use super::figure::{Body, Figure};
use super::grid::Grid;
use super::heat::{ColorScale, Heat, HeatAxis};
use super::layers::{Series, ValueScale, bar_axis, bars, depth_marks, hovers, lines, numbers};
use super::legend::{LegendEntry, LegendMark};
use super::panel::{Mark, Panel};
use super::table::FigureTable;
use crate::text::number;
use fathom_results::{
    Contributions, Depth, LensCurves, MeanMedian, OutputLoss, Parts, Results, Rule, Settling, Similarity,
};

pub(super) fn contribution_figures(results: &Results, contributions: &Contributions) -> [Figure; 2] {
    let norms = part_panels(results, &contributions.relative_norm, &ValueScale::log("relative length"), None);
    let mean = mean_of_parts(&contributions.cosine);
    let cosines = part_panels(results, &contributions.cosine, &ValueScale::linear("cosine"), Some(&mean));
    [
        Figure::of_run(
            results,
            "contributions_relative_norm",
            "How much each layer adds",
            "Norm of what the attention, the MLP and the whole layer add, relative to the norm of the residual stream \
             that they add to (log scale). Bars are means over tokens, strokes are medians. Where they differ, the \
             mean is carried by a few tokens with huge norms, mostly the first.",
            norms,
        ),
        Figure::of_run(
            results,
            "contributions_cosine",
            "Whether layers strengthen or erase",
            "Cosine between what is added and the residual stream that it is added to. Below zero, a layer erases \
             part of the stream; near zero, it writes something new; above zero, it strengthens what is there. The \
             rule cosine reads the last panel: the last change from negative to positive.",
            cosines,
        ),
    ]
}

fn mean_of_parts(parts: &Parts<MeanMedian>) -> Vec<f64> {
    let (attn, mlp, layer) = (&parts.attn.mean, &parts.mlp.mean, &parts.layer.mean);
    let mean = |((a, m), l): ((&f64, &f64), &f64)| {
        // A layer may lack one of the two.
        let parts = [*a, *m, *l].into_iter().filter(|part| !part.is_nan());
        parts.clone().sum::<f64>() / parts.count() as f64
    };
    attn.iter().zip(mlp).zip(layer).map(mean).collect()
}

/// A panel of bars for each part of a layer, and one for the mean of the three if a rule reads it.
fn part_panels(
    results: &Results,
    parts: &Parts<MeanMedian>,
    scale: &ValueScale,
    mean: Option<&Vec<f64>>,
) -> (Body, FigureTable) {
    let named = [
        ("attention", Color::Blue, &parts.attn),
        ("MLP", Color::Orange, &parts.mlp),
        ("layer", Color::Green, &parts.layer),
    ];
    let all = named.iter().flat_map(|(_, _, summary)| summary.mean.iter().chain(&summary.median));
    let y = scale.axis(all);
    let layers = results.model.layers;
    let panel = |title: &str, last: bool| {
        let x = bar_axis(if last { "layer" } else { "" }, layers);
        Panel::new(title, x, Axis { label: scale.label.to_owned(), ..y.clone() })
    };
    let mut panels = Vec::new();
    let mut columns = Vec::new();
    // A model may have no MLP at all.
    let measured = named.into_iter().filter(|(_, _, of)| of.mean.iter().any(|value| !value.is_nan()));
    for (index, (name, color, summary)) in measured.enumerate() {
        let series = [
            Series::new(format!("{name}, mean"), &summary.mean, color),
            Series::new(format!("{name}, median"), &summary.median, color),
        ];
        let means = bars(&summary.mean, scale, color, false);
        let medians = bars(&summary.median, scale, Color::Text, true);
        panels.push(Panel {
            bars: means.into_iter().chain(medians).collect(),
            hovers: hovers("layer", &series),
            ..panel(name, mean.is_none() && index == 2)
        });
        columns.extend(series);
    }
    if let Some(mean) = mean {
        let series = Series::new("mean of the three", mean, Color::Sky);
        panels.push(Panel {
            bars: bars(mean, scale, Color::Sky, false),
            marks: depth_marks(results, &[Rule::Cosine]),
            hovers: hovers("layer", std::slice::from_ref(&series)),
            ..panel("mean of the three", true)
        });
        columns.push(series);
    }
    let entry = |label: &str, mark| LegendEntry { label: label.to_owned(), color: Color::Text, mark };
    let legend =
        vec![entry("bar: mean over tokens", LegendMark::Square), entry("stroke: median", LegendMark::Tick)];
    // Three panels together are as high as four.
    let height = if panels.len() == 3 { 122.0 } else { 80.0 };
    let grid = Grid { legend, columns: 1, panels, height, width: COLUMN };
    (Body::Panels(grid), numbers("layer", &columns))
}

pub(super) fn lens_figures(results: &Results, lens: &LensCurves) -> Vec<Figure> {
    let mut figures = vec![
        kl_figure(results, lens),
        kl_output_figure(results, lens),
        overlap_figure(results, lens),
        entropy_figure(results, lens),
    ];
    // Older results have none.
    figures.extend((!lens.nll.is_empty()).then(|| loss_figure(results, lens)));
    figures
}

/// Lines with the depths by `rules` and horizontal lines.
fn chart(
    results: &Results,
    scale: ValueScale,
    series: Vec<Series<'_>>,
    rules: &[Rule],
    levels: Vec<Mark>,
) -> (Body, FigureTable) {
    let mut grid = lines(results.model.layers, &scale, &series, depth_marks(results, rules));
    grid.panels[0].levels = levels;
    (Body::Panels(grid), numbers("layer", &series))
}

fn kl_figure(results: &Results, lens: &LensCurves) -> Figure {
    // Vocabularies of masked models differ by orders of magnitude.
    let (values, unit) = match lens.kl_over_ln_vocab.is_empty() {
        true => (&lens.kl_lens_final, "KL divergence (nats)"),
        false => (&lens.kl_over_ln_vocab, "KL divergence / ln V"),
    };
    let top = values.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let rules = [Rule::Kl, Rule::KlLast];
    let kl_levels =
        thresholds(results, &rules, |share| (share * top, format!("{} of the maximum", number(share))));
    Figure::of_run(
        results,
        "lens_kl",
        "How far an early answer is from the final one",
        "The logit lens reads the residual stream before each layer as if it were the last one. The curve is the \
         divergence of that prediction from the model's output. Where it falls below the dashed line, the rules \
         kl (first time) and kl_last (for good) consider the answer decided; their 95 % intervals are shaded.",
        chart(
            results,
            ValueScale::linear(unit),
            vec![Series::new("KL(lens || output)", values, Color::Blue)],
            &rules,
            kl_levels,
        ),
    )
}

fn kl_output_figure(results: &Results, lens: &LensCurves) -> Figure {
    Figure::of_run(
        results,
        "lens_kl_output",
        "What an early answer would miss",
        "The divergence in the other direction, on a log scale. It is large where the logit lens gives almost no \
         probability to a token that the output predicts. The last value is 0 and has no place on a log scale.",
        chart(
            results,
            ValueScale::log("KL divergence (nats)"),
            vec![Series::new("KL(output || lens)", &lens.kl_final_lens, Color::Orange)],
            &[],
            Vec::new(),
        ),
    )
}

fn overlap_figure(results: &Results, lens: &LensCurves) -> Figure {
    let overlap_levels =
        thresholds(results, &[Rule::Overlap], |share| (share, format!("threshold {}", number(share))));
    Figure::of_run(
        results,
        "lens_overlap",
        "When the likeliest tokens appear",
        "Share of the five likeliest tokens that the logit lens and the output have in common, and how often both \
         agree on the likeliest. The rule overlap marks the first layer above the dashed line; later layers \
         refine a choice that is already visible.",
        chart(
            results,
            ValueScale::share("share"),
            vec![
                Series::new("top-5 overlap", &lens.overlap, Color::Blue),
                Series::new("same top-1", &lens.top1_agreement, Color::Orange),
            ],
            &[Rule::Overlap],
            overlap_levels,
        ),
    )
}

fn entropy_figure(results: &Results, lens: &LensCurves) -> Figure {
    Figure::of_run(
        results,
        "lens_entropy",
        "How sure an early answer is",
        "Entropy of the logit lens prediction, which is high where it is spread over many tokens, and its \
         Jensen-Shannon divergence from the output: 0 for equal predictions, 1 bit for predictions that share no \
         token.",
        chart(
            results,
            ValueScale::linear("nats (entropy), bits (JSD)"),
            vec![
                Series::new("entropy (nats)", &lens.entropy, Color::Blue),
                Series::new("JSD to the output (bits)", &lens.jsd_bits, Color::Orange),
            ],
            &[],
            Vec::new(),
        ),
    )
}

fn loss_figure(results: &Results, lens: &LensCurves) -> Figure {
    let output = results.uncertainty.as_ref().and_then(|u| u.nll);
    let mark = |loss: OutputLoss| Mark {
        at: loss.value,
        interval: loss.interval,
        label: format!("output {}", number(loss.value)),
        color: Color::Soft,
    };
    Figure::of_run(
        results,
        "lens_nll",
        "How much each depth has learned to predict",
        "The loss that a model of that many layers would have with the same head: the cross-entropy of the token that \
         really follows, by the prediction of the logit lens. The dashed line is the loss of the output, with its 95 % \
         interval over prompts. A curve that is flat before it falls marks layers that prepare what later ones say.",
        chart(
            results,
            ValueScale::linear("loss (nats per token)"),
            vec![Series::new("loss of the logit lens", &lens.nll, Color::Blue)],
            &[],
            output.map(mark).into_iter().collect(),
        ),
    )
}

/// The thresholds that these rules used, each once.
fn thresholds(results: &Results, rules: &[Rule], level: impl Fn(f64) -> (f64, String)) -> Vec<Mark> {
    let used = |row: &&Depth| rules.contains(&row.rule);
    let mut found: Vec<f64> = results.depth.iter().filter(used).filter_map(|row| row.threshold).collect();
    found.dedup();
    let mark = |threshold| {
        let (at, label) = level(threshold);
        Mark { at, interval: None, label, color: Color::Soft }
    };
    found.into_iter().map(mark).collect()
}

pub(super) fn similarity_figures(results: &Results, similarity: &Similarity) -> Vec<Figure> {
    let series = [Series::new("block influence", &similarity.block_influence, Color::Blue)];
    let scale = ValueScale::log("1 - cosine(in, out)");
    let panel = Panel {
        bars: bars(series[0].values, &scale, Color::Blue, false),
        hovers: hovers("layer", &series),
        ..Panel::new("", bar_axis("layer", results.model.layers), scale.axis(series[0].values))
    };
    let mut all = Vec::new();
    if !similarity.angular_last.is_empty() {
        all.push(Figure::of_run(
            results,
            "similarity_angular_last",
            "Which blocks could go: last token",
            "Angle between the residual stream before layer l and the stream n layers later, at the last token (1 \
             means opposite). For a block of n layers, the darkest cell of row n is the block that changes the stream \
             least.",
            Body::heat(angular(&similarity.angular_last, results.model.layers)),
        ));
    }
    if !similarity.angular_mean.is_empty() {
        all.push(Figure::of_run(
            results,
            "similarity_angular_mean",
            "Which blocks could go: all tokens",
            "The same angle, averaged over all tokens. Where the two maps differ, the last token, which has to \
             predict the continuation, needs other layers than the text before it.",
            Body::heat(angular(&similarity.angular_mean, results.model.layers)),
        ));
    }
    all.push(Figure::of_run(
        results,
        "similarity_block_influence",
        "How much each layer turns the stream",
        "One minus the cosine between the residual stream entering a layer and the stream leaving it (log scale). The \
         layers with the lowest bars change its direction least and are the first candidates for pruning.",
        (Body::Panels(Grid::one(panel, Vec::new())), numbers("layer", &series)),
    ));
    all
}

/// The angle of the block of `index + 1` layers from layer `l`, or NaN where such a block
/// would exceed the model or the value is not a share of a half turn.
fn angle(rows: &[Vec<f64>], layers: usize, index: usize, l: usize) -> f64 {
    let inside = l + index < layers;
    rows.get(index)
        .and_then(|row| row.get(l))
        .copied()
        .filter(|value| inside && (0.0..=1.0).contains(value))
        .unwrap_or(f64::NAN)
}

/// The map of angles over block sizes and first layers.
fn angular(rows: &[Vec<f64>], layers: usize) -> Heat {
    let cells: Vec<Vec<f64>> =
        (0..rows.len()).map(|index| (0..layers).map(|l| angle(rows, layers, index, l)).collect()).collect();
    Heat {
        scale: ColorScale::sequential(cells.iter().flatten()),
        cells,
        x: HeatAxis::Numbers("first layer l", 0),
        y: HeatAxis::Numbers("block size n", 1),
        unit: "angle / π",
    }
}

pub(super) fn settling_figure(results: &Results, settling: &Settling) -> Figure {
    let counts: Vec<f64> = settling.histogram.iter().map(|&count| count as f64).collect();
    let series = [Series::new("tokens", &counts, Color::Blue)];
    let scale = ValueScale::linear("tokens");
    let mark = |at: f64, label: &str, color| Mark {
        at,
        interval: None,
        label: format!("{label} {}", number(at)),
        color,
    };
    let mut marks = depth_marks(results, &[Rule::Settling]);
    for mark in &mut marks {
        mark.label = mark.label.replacen("settling: ", "mean ", 1);
    }
    if marks.is_empty() {
        marks.push(mark(settling.mean_settle_layer, "mean", Color::Vermilion));
    }
    marks.push(mark(settling.deep_layer as f64, "deep from", Color::Purple));
    marks.retain(|mark| (-0.5..counts.len() as f64 - 0.5).contains(&mark.at));
    let panel = Panel {
        bars: bars(&counts, &scale, Color::Blue, false),
        marks,
        hovers: hovers("after layers", &series),
        ..Panel::new("", bar_axis("layers that have run", counts.len()), scale.axis(&counts))
    };
    let mut figure = Figure::of_run(
        results,
        "settling_histogram",
        "Where tokens settle",
        "Number of tokens whose logit lens prediction first comes close to the output after that many layers; later \
         rises do not count. The rule settling is the mean. Bars from the deep mark on are tokens for which the model \
         uses nearly all of its depth.",
        (Body::Panels(Grid::one(panel, Vec::new())), numbers("layers", &series)),
    );
    figure.note = format!(
        "Settled means a Jensen-Shannon divergence of at most {} bits; {} % of the tokens are deep.",
        number(settling.threshold_bits),
        number(100.0 * settling.deep_thinking_ratio)
    );
    figure
}
