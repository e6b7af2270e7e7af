//! The figures of a results folder, as SVG and PNG.
//!
//! A figure is first described as data (series, marks, a grid) and then drawn by one function per kind of
//! chart, so that the page can show the same numbers as a table. Colours are those of Okabe and Ito and
//! viridis, which stay apart for colour-blind readers; text in PNG uses the font inside the drawing
//! library, because servers often have none.

mod causal;
mod heat;
mod tokens;

use std::borrow::Cow;
use std::sync::Arc;

use kuva::RasterBackend;
use kuva::backend::svg::SvgBackend;
use kuva::plot::annotations::ReferenceLine;
use kuva::plot::{Histogram, LegendEntry, LegendPosition, LegendShape, LinePlot};
use kuva::render::figure::Figure as Grid;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Scene, render_multiple};
use kuva::render::theme::Theme;

use self::heat::{Axis, Heat, Scale};
use crate::results::{Contributions, Lens, Parts, Resamples, Results, Settling, Similarity, Summary};
use crate::{Error, Result};

const BLUE: &str = "#0072b2";
const ORANGE: &str = "#e69f00";
const GREEN: &str = "#009e73";
const VERMILION: &str = "#d55e00";
const PURPLE: &str = "#cc79a7";
const GREY: &str = "#888888";

/// The width of every figure.
const WIDTH: f64 = 860.0;

/// Two pixels per unit, so that a figure is sharp on a slide.
const PNG_SCALE: f32 = 2.0;

/// Curves outside of these are damage, not measurements; drawing them takes axes of hundreds of decades.
const LARGEST: f64 = 1e9;
/// The smallest value on a log axis.
const SMALLEST: f64 = 1e-9;

/// One figure: what it shows, how to read it, and how to draw it.
#[derive(Debug, Clone)]
pub struct Figure<'a> {
    /// The file name without its extension: the probe and the quantity.
    pub name: String,
    /// The title.
    pub title: String,
    /// How to read it, in about two lines.
    pub reading: &'static str,
    /// What this figure alone needs said, such as its question and answer; often empty. Text from outside,
    /// not escaped.
    pub note: String,
    /// What was measured as well but is not drawn, as far as it is listed.
    pub(crate) listed: Vec<String>,
    /// How much is not drawn.
    pub(crate) not_drawn: usize,
    caption: String,
    layers: usize,
    chart: Chart<'a>,
}

/// The numbers behind a figure: one column per heading, mostly rows by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// What the row index is, such as `layer`.
    pub index: String,
    /// The headings of the columns after the index.
    pub headings: Vec<String>,
    /// The index and the values of each row; a missing value is NaN.
    pub rows: Vec<(String, Vec<f64>)>,
}

#[derive(Debug, Clone)]
enum Chart<'a> {
    Lines(Lines<'a>),
    Heat(Heat),
    Bars { counts: &'a [u64], marks: Vec<Mark> },
    Panels(Vec<(Cow<'a, str>, &'a Resamples)>),
}

#[derive(Debug, Clone)]
struct Lines<'a> {
    x_label: &'static str,
    y_label: &'static str,
    log: bool,
    /// Bars around the layers for the first series, for values with nothing between layers.
    bars: bool,
    range: Option<(f64, f64)>,
    series: Vec<Series<'a>>,
    marks: Vec<Mark>,
}

impl Default for Lines<'_> {
    fn default() -> Self {
        Self {
            x_label: "layer",
            y_label: "",
            log: false,
            bars: false,
            range: None,
            series: Vec::new(),
            marks: Vec::new(),
        }
    }
}

#[derive(Debug, Clone)]
struct Series<'a> {
    label: String,
    values: &'a [f64],
    colour: &'static str,
    dashed: bool,
}

/// A straight line through the whole figure: a threshold or an effective depth.
#[derive(Debug, Clone)]
struct Mark {
    at: f64,
    vertical: bool,
    label: String,
    colour: &'static str,
}

/// Every figure for which the results hold numbers, in the order of the report.
pub fn figures(results: &Results) -> Vec<Figure<'_>> {
    let mut all = Vec::new();
    let probes = &results.probes;
    if let Some(contributions) = &probes.contributions {
        all.extend(contribution_figures(results, contributions));
    }
    if let Some(lens) = &probes.lens {
        all.extend(lens_figures(results, lens));
    }
    if let Some(similarity) = &probes.similarity {
        all.extend(similarity_figures(results, similarity));
    }
    if let Some(settling) = &probes.settling {
        all.push(settling_figure(results, settling));
    }
    if let Some(skip) = &probes.skip {
        all.extend(causal::skip_figures(results, skip));
    }
    if let Some(pairs) = &probes.erasure {
        all.extend(causal::erasure_figures(results, pairs));
    }
    if let Some(pairs) = &probes.gradients {
        all.extend(causal::gradient_figures(results, pairs));
    }
    all.extend(causal::resample_figures(results));
    all
}

fn figure<'a>(
    results: &Results,
    name: impl Into<String>,
    title: impl Into<String>,
    reading: &'static str,
    chart: Chart<'a>,
) -> Figure<'a> {
    Figure {
        name: name.into(),
        title: title.into(),
        reading,
        note: String::new(),
        listed: Vec::new(),
        not_drawn: 0,
        caption: label_text(&format!("{} on {}", results.model.id, results.data.id)),
        layers: results.model.layers,
        chart,
    }
}

fn contribution_figures<'a>(results: &'a Results, contributions: &'a Contributions) -> [Figure<'a>; 2] {
    let norms = Lines {
        y_label: "length added / length of the stream",
        log: true,
        series: part_series(&contributions.relative_norm),
        ..Lines::default()
    };
    let mut marks = vec![horizontal(0.0, "no change along the stream".to_owned())];
    marks.extend(depth_marks(results, &["cosine"]));
    let cosines = Lines {
        y_label: "cosine with the stream",
        series: part_series(&contributions.cosine),
        marks,
        ..Lines::default()
    };
    [
        figure(
            results,
            "contributions_relative_norm",
            "How much each layer adds",
            "Length of what attention, MLP and the whole layer add, relative to the residual stream they add to \
             (log scale). Solid is the mean over tokens, dashed the median: where they part, a few tokens with huge \
             norms, mostly the first, carry the mean.",
            Chart::Lines(norms),
        ),
        figure(
            results,
            "contributions_cosine",
            "Whether layers strengthen or erase",
            "Cosine between what is added and the stream it is added to. Below zero a layer takes away from what is \
             there, near zero it writes something new, above zero it strengthens what the stream already holds.",
            Chart::Lines(cosines),
        ),
    ]
}

fn part_series(parts: &Parts<Summary>) -> Vec<Series<'_>> {
    let named =
        [("attention", BLUE, &parts.attn), ("MLP", ORANGE, &parts.mlp), ("layer", GREEN, &parts.layer)];
    let mean = named.map(|(name, colour, summary)| Series {
        label: format!("{name}, mean"),
        values: &summary.mean,
        colour,
        dashed: false,
    });
    let median = named.map(|(name, colour, summary)| Series {
        label: format!("{name}, median"),
        values: &summary.median,
        colour,
        dashed: true,
    });
    mean.into_iter().chain(median).collect()
}

fn lens_figures<'a>(results: &'a Results, lens: &'a Lens) -> [Figure<'a>; 4] {
    let line = |label: &str, values: &'a [f64], colour| Series {
        label: label.to_owned(),
        values,
        colour,
        dashed: false,
    };
    let top = lens.kl_lens_final.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let mut kl_marks = Vec::new();
    if let Some(threshold) = threshold(results, "kl") {
        kl_marks.push(horizontal(threshold * top, format!("{} of the maximum", number(threshold))));
    }
    kl_marks.extend(depth_marks(results, &["kl", "kl_last"]));
    let mut overlap_marks = Vec::new();
    if let Some(threshold) = threshold(results, "overlap") {
        overlap_marks.push(horizontal(threshold, format!("threshold {}", number(threshold))));
    }
    overlap_marks.extend(depth_marks(results, &["overlap"]));
    let kl = Lines {
        y_label: "KL divergence (nats)",
        series: vec![line("KL(lens || output)", &lens.kl_lens_final, BLUE)],
        marks: kl_marks,
        ..Lines::default()
    };
    let reverse = Lines {
        y_label: "KL divergence (nats)",
        log: true,
        series: vec![line("KL(output || lens)", &lens.kl_final_lens, ORANGE)],
        ..Lines::default()
    };
    let overlap = Lines {
        y_label: "share",
        range: Some((0.0, 1.0)),
        series: vec![
            line("top-5 overlap", &lens.overlap, BLUE),
            line("same top-1", &lens.top1_agreement, ORANGE),
        ],
        marks: overlap_marks,
        ..Lines::default()
    };
    let spread = Lines {
        y_label: "nats (entropy), bits (JSD)",
        series: vec![line("entropy", &lens.entropy, BLUE), line("JSD to the output", &lens.jsd_bits, ORANGE)],
        ..Lines::default()
    };
    [
        figure(
            results,
            "lens_kl",
            "How far an early answer is from the final one",
            "The stream before each layer is read as if it were the last: the curve is the distance of that \
             prediction from the model's output. Where it falls below the dashed line, the answer is largely decided.",
            Chart::Lines(kl),
        ),
        figure(
            results,
            "lens_kl_output",
            "What an early answer would miss",
            "The same distance the other way round, on a log scale: it is large where an early reading gives next to no \
             probability to a token that the output does. The last value, 0, has no place on the scale.",
            Chart::Lines(reverse),
        ),
        figure(
            results,
            "lens_overlap",
            "When the likeliest tokens appear",
            "Share of the five likeliest tokens that an early reading has in common with the output, and how often \
             its first choice is the output's. Layers right of the mark refine a choice that is already visible.",
            Chart::Lines(overlap),
        ),
        figure(
            results,
            "lens_entropy",
            "How sure an early answer is",
            "Entropy of the early prediction, high where it is spread over many tokens, and its Jensen-Shannon \
             divergence from the output, which is 0 for the same prediction and 1 bit for one without anything in common.",
            Chart::Lines(spread),
        ),
    ]
}

fn similarity_figures<'a>(results: &'a Results, similarity: &'a Similarity) -> Vec<Figure<'a>> {
    let influence = Lines {
        y_label: "1 - cosine(in, out)",
        log: true,
        series: vec![Series {
            label: "block influence".to_owned(),
            values: &similarity.block_influence,
            colour: BLUE,
            dashed: false,
        }],
        ..Lines::default()
    };
    let mut all = vec![figure(
        results,
        "similarity_block_influence",
        "How much each layer turns the stream",
        "One minus the cosine between the stream entering and leaving a layer (log scale). The lowest layers change \
         the direction least and are the first candidates for pruning.",
        Chart::Lines(influence),
    )];
    if !similarity.angular_last.is_empty() {
        all.push(figure(
            results,
            "similarity_angular_last",
            "Which blocks could go: last token",
            "Colour is the angle (1 = opposite) between the stream before layer l and n layers later, at the last \
             token. For a wanted block size n, the darkest cell of its row is the block that changes the least.",
            Chart::Heat(angular(&similarity.angular_last, results.model.layers)),
        ));
    }
    if !similarity.angular_mean.is_empty() {
        all.push(figure(
            results,
            "similarity_angular_mean",
            "Which blocks could go: all tokens",
            "As above, averaged over all tokens instead of the last. Where the two maps differ, the last token, \
             which has to predict the continuation, needs other layers than the text before it.",
            Chart::Heat(angular(&similarity.angular_mean, results.model.layers)),
        ));
    }
    all
}

fn settling_figure<'a>(results: &'a Results, settling: &'a Settling) -> Figure<'a> {
    let mark = |at, label: &str, colour| Mark {
        at,
        vertical: true,
        label: format!("{label} {}", number(at)),
        colour,
    };
    let marks = vec![
        mark(settling.mean_settle_layer, "mean layer", VERMILION),
        mark(settling.deep_layer as f64, "deep from layer", PURPLE),
    ];
    figure(
        results,
        "settling_histogram",
        "Where tokens settle",
        "Number of tokens whose early prediction first comes close to the output at each layer. Bars right of the \
         deep mark are tokens for which the model uses nearly all of its depth.",
        Chart::Bars { counts: &settling.histogram, marks },
    )
}

fn horizontal(at: f64, label: String) -> Mark {
    Mark { at, vertical: false, label, colour: GREY }
}

fn threshold(results: &Results, rule: &str) -> Option<f64> {
    results.depth.iter().find(|row| row.rule == rule)?.threshold
}

fn depth_marks(results: &Results, rules: &[&str]) -> Vec<Mark> {
    let rows = results.depth.iter().filter(|row| rules.contains(&row.rule.as_str()));
    rows.zip([VERMILION, PURPLE].into_iter().cycle())
        .filter_map(|(row, colour)| {
            let at = row.value.filter(|value| value.is_finite())?;
            let label = label_text(&format!("depth by {}: {}", row.rule, number(at)));
            Some(Mark { at, vertical: true, label, colour })
        })
        .collect()
}

/// At most two decimals, none for a whole number: enough for a label.
fn number(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    format!("{rounded}")
}

/// Makes text from outside safe as a label: short, on one line, and without the dollar signs that the drawing
/// library would read as mathematics.
fn label_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect::<String>().replace('$', "\\$")
}

/// For which background a figure is drawn.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// A file of its own: white, with title.
    File,
    /// Inside the page: no background, text in the page's colour, the title left to the page.
    Page,
}

impl Figure<'_> {
    /// The figure as an SVG file on white.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the picture of a heat map cannot be made.
    pub fn svg(&self) -> Result<String> {
        self.drawn(self.scene(Place::File))
    }

    /// The figure as an element for the page: transparent, in the text colour around it, and without the
    /// namespace that only files need.
    pub(crate) fn inline_svg(&self) -> Result<String> {
        let scene = self.scene(Place::Page);
        let open = format!(r#"<svg role="img" viewBox="0 0 {} {}""#, scene.width, scene.height);
        Ok(self.drawn(scene)?.replacen(r#"<svg xmlns="http://www.w3.org/2000/svg""#, &open, 1))
    }

    fn drawn(&self, mut scene: Scene) -> Result<String> {
        let render = |scene: &Scene| SvgBackend::new().render_scene(scene);
        match &self.chart {
            Chart::Heat(heat) => heat.fill_with_picture(&mut scene, render),
            _ => Ok(render(&scene)),
        }
    }

    /// The figure as a PNG file on white.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the drawing library fails.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut scene = self.scene(Place::File);
        if let Chart::Heat(heat) = &self.chart {
            heat.fill_with_rectangles(&mut scene);
        }
        let backend = RasterBackend::new().with_scale(PNG_SCALE);
        backend
            .render_scene(&scene)
            .map_err(|reason| Error::Draw { what: format!("{}.png", self.name), reason })
    }

    /// The numbers that the figure shows.
    pub fn numbers(&self) -> Numbers {
        match &self.chart {
            Chart::Lines(lines) => lines.numbers(),
            Chart::Heat(heat) => heat.numbers(),
            Chart::Bars { counts, .. } => Numbers {
                index: "layer".to_owned(),
                headings: vec!["tokens".to_owned()],
                rows: counts.iter().enumerate().map(|(l, &n)| (l.to_string(), vec![n as f64])).collect(),
            },
            Chart::Panels(panels) => Numbers {
                index: "rule and depth".to_owned(),
                headings: vec!["resamples".to_owned()],
                rows: panels.iter().flat_map(|(rule, found)| resample_rows(rule, found)).collect(),
            },
        }
    }

    fn scene(&self, place: Place) -> Scene {
        let (plots, layout) = match &self.chart {
            Chart::Lines(lines) => lines.draw(self.layers),
            Chart::Heat(heat) => heat.draw(),
            Chart::Bars { counts, marks } => draw_bars(counts, marks),
            Chart::Panels(panels) => return self.draw_panels(panels, place),
        };
        let height = if matches!(self.chart, Chart::Heat(_)) { 520.0 } else { 400.0 };
        let mut layout = layout.with_width(WIDTH).with_height(height).with_theme(place.theme());
        if place == Place::File {
            layout = layout.with_title(self.title.as_str()).with_subtitle(self.caption.as_str());
        }
        render_multiple(plots, layout)
    }

    /// Small histograms, at most three in a row.
    fn draw_panels(&self, panels: &[(Cow<'_, str>, &Resamples)], place: Place) -> Scene {
        let (mut plots, mut layouts) = (Vec::new(), Vec::new());
        for (rule, found) in panels {
            let (edges, heights) = bins(found);
            let bars = Histogram::from_bins(edges.clone(), heights).with_color(BLUE);
            let panel = vec![Plot::Histogram(bars)];
            let layout = resample_axes(Layout::auto_from_plots(&panel), &edges)
                .with_title(label_text(rule))
                .with_title_size(14)
                .with_y_label("resamples")
                .with_theme(place.theme());
            plots.push(panel);
            layouts.push(layout);
        }
        let columns = match panels.len() {
            1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let rows = panels.len().div_ceil(columns);
        let mut grid = Grid::new(rows, columns)
            .with_structure((0..panels.len()).map(|panel| vec![panel]).collect())
            .with_plots(plots)
            .with_layouts(layouts)
            .with_figure_size(WIDTH, 40.0 + 200.0 * rows as f64);
        if place == Place::File {
            grid = grid.with_title(format!("{}, {}", self.title, self.caption));
        }
        let mut scene = grid.render();
        let theme = place.theme();
        scene.background_color = Some(theme.background);
        scene.text_color = Some(theme.text_color);
        scene.font_family = theme.font_family;
        scene
    }
}

/// The bins as they are drawn: one where the values differ by rounding errors only, which no axis shows.
fn bins(found: &Resamples) -> (Vec<f64>, Vec<f64>) {
    let heights = found.counts.iter().map(|&count| count as f64);
    let (first, last) = (found.edges[0], found.edges[found.edges.len() - 1]);
    if last - first > 1e-9 * first.abs().max(last.abs()).max(1.0) {
        return (found.edges.clone(), heights.collect());
    }
    (vec![first - 0.5, first + 0.5], vec![heights.sum()])
}

/// The x axis of a histogram of depths: around bins of whole numbers with room at the sides, so that one
/// value alone is a bar and not a wall.
fn resample_axes(layout: Layout, edges: &[f64]) -> Layout {
    let layout = layout.with_x_label("depth");
    let (first, last) = (edges[0], edges[edges.len() - 1]);
    if edges[1] - first != 1.0 || last - first > 1e4 {
        return layout.with_x_tick_format(TickFormat::Custom(Arc::new(decimal)));
    }
    layout
        .with_x_axis_min((first - 2.0).max(first.min(-0.5)))
        .with_x_axis_max(last + 2.0)
        .with_x_tick_step(tick_step(2 * (last - first) as usize + 8))
        .with_x_tick_format(TickFormat::Integer)
}

/// The bins of a rule as rows of a table; a bin of width 1 around a whole number is that number.
fn resample_rows(rule: &str, found: &Resamples) -> Vec<(String, Vec<f64>)> {
    let name = |ends: &[f64]| match (ends[0] + ends[1]) / 2.0 {
        middle if ends[1] - ends[0] == 1.0 && middle.fract() == 0.0 => format!("{rule}: {middle}"),
        _ => format!("{rule}: {} to {}", number(ends[0]), number(ends[1])),
    };
    let bins = found.edges.windows(2).zip(&found.counts);
    let none = (found.none > 0).then(|| (format!("{rule}: none"), vec![found.none as f64]));
    bins.map(|(ends, &count)| (name(ends), vec![count as f64])).chain(none).collect()
}

impl Place {
    fn theme(self) -> Theme {
        let light =
            Theme { grid_color: "#dddddd".to_owned(), legend_border: "none".to_owned(), ..Theme::light() };
        match self {
            Self::File => Theme { font_family: Some("DejaVu Sans, Arial, sans-serif".to_owned()), ..light },
            Self::Page => {
                let ink = || "currentColor".to_owned();
                Theme {
                    background: "none".to_owned(),
                    axis_color: ink(),
                    grid_color: "#80808040".to_owned(),
                    tick_color: ink(),
                    text_color: ink(),
                    legend_bg: "none".to_owned(),
                    colorbar_border: ink(),
                    font_family: Some("system-ui, sans-serif".to_owned()),
                    ..light
                }
            }
        }
    }
}

impl Lines<'_> {
    fn numbers(&self) -> Numbers {
        let length = self.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
        let at =
            |l: usize| self.series.iter().map(|s| s.values.get(l).copied().unwrap_or(f64::NAN)).collect();
        Numbers {
            index: self.x_label.to_owned(),
            headings: self.series.iter().map(|series| series.label.clone()).collect(),
            rows: (0..length).map(|l| (l.to_string(), at(l))).collect(),
        }
    }

    fn draw(&self, layers: usize) -> (Vec<Plot>, Layout) {
        let log =
            self.log && self.series.iter().flat_map(|series| series.values).any(|&value| value >= SMALLEST);
        let (low, high) = self.range.unwrap_or((-LARGEST, LARGEST));
        // Means of shares miss 1 by a rounding error.
        let drawable =
            |value: f64| (low - 1e-9..=high + 1e-9).contains(&value) && (!log || value >= SMALLEST);
        let bars = self.series.iter().take(usize::from(self.bars)).map(|series| series.bars(drawable));
        let lines = self.series.iter().skip(usize::from(self.bars)).flat_map(|series| series.draw(drawable));
        let plots: Vec<Plot> = bars.chain(lines).collect();
        let mut layout = layer_axis(Layout::auto_from_plots(&plots), layers)
            .with_x_label(self.x_label)
            .with_y_label(self.y_label);
        if self.bars {
            layout = layout.with_x_axis_min(-0.5).with_x_axis_max(layers as f64 - 0.5);
        }
        if log {
            layout = layout.with_log_y().with_y_tick_format(TickFormat::Custom(Arc::new(decimal)));
        }
        if let Some((low, high)) = self.range {
            layout = layout.with_y_axis_min(low).with_y_axis_max(high);
        }
        let mut entries: Vec<LegendEntry> = self.series.iter().map(Series::entry).collect();
        let values = self.series.iter().flat_map(|series| series.values).copied().filter(|&v| drawable(v));
        let (low, high) =
            self.range.unwrap_or_else(|| values.fold((0.0, 0.0), |(a, b), v| (v.min(a), v.max(b))));
        for mark in self.marks.iter().filter(|mark| mark.fits(layers, (low, high))) {
            entries.push(mark.entry());
            layout = layout.with_reference_line(mark.line());
        }
        (plots, legend(layout, entries))
    }
}

impl Series<'_> {
    /// A bar around each layer; what cannot be drawn has none.
    fn bars(&self, drawable: impl Fn(f64) -> bool) -> Plot {
        let edges = (0..=self.values.len()).map(|edge| edge as f64 - 0.5).collect();
        let heights = self.values.iter().map(|&value| if drawable(value) { value } else { 0.0 }).collect();
        Plot::Histogram(Histogram::from_bins(edges, heights).with_color(self.colour))
    }

    /// One line per unbroken run of values that can be drawn, so that a gap stays visible.
    fn draw(&self, drawable: impl Fn(f64) -> bool) -> Vec<Plot> {
        let points: Vec<(f64, f64)> = self.values.iter().enumerate().map(|(l, &v)| (l as f64, v)).collect();
        points
            .split(|point| !drawable(point.1))
            .filter(|run| !run.is_empty())
            .map(|run| {
                let line =
                    LinePlot::new().with_data(run.to_vec()).with_color(self.colour).with_stroke_width(2.0);
                Plot::Line(if self.dashed { line.with_dashed().with_stroke_width(1.3) } else { line })
            })
            .collect()
    }

    fn entry(&self) -> LegendEntry {
        LegendEntry {
            label: self.label.clone(),
            color: self.colour.to_owned(),
            shape: LegendShape::Line,
            dasharray: self.dashed.then(|| "8 4".to_owned()),
        }
    }
}

impl Mark {
    /// Whether the line lies within the axes; the drawing library would go on far outside of them.
    fn fits(&self, layers: usize, y: (f64, f64)) -> bool {
        let (low, high) = if self.vertical { (0.0, layers as f64) } else { y };
        (low..=high).contains(&self.at)
    }

    fn line(&self) -> ReferenceLine {
        let line =
            if self.vertical { ReferenceLine::vertical(self.at) } else { ReferenceLine::horizontal(self.at) };
        line.with_color(self.colour).with_stroke_width(1.5).with_dasharray("6 4")
    }

    fn entry(&self) -> LegendEntry {
        LegendEntry {
            label: self.label.clone(),
            color: self.colour.to_owned(),
            shape: LegendShape::Line,
            dasharray: Some("6 4".to_owned()),
        }
    }
}

/// A tick as a plain decimal while that is short.
fn decimal(value: f64) -> String {
    // Printing in scientific form and reading back drops the noise of a power of ten.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    if rounded == 0.0 || (1e-4..1e5).contains(&rounded.abs()) {
        format!("{rounded}")
    } else {
        format!("{rounded:e}")
    }
}

/// The distance of ticks that gives at most 16 of them.
fn tick_step(layers: usize) -> f64 {
    [1, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().find(|step| layers / step <= 15).unwrap_or(1000) as f64
}

/// The x axis of every figure over layers: whole numbers, not too many of them.
fn layer_axis(layout: Layout, layers: usize) -> Layout {
    layout
        .with_x_label("layer")
        .with_x_axis_min(0.0)
        .with_x_axis_max(layers as f64)
        .with_x_tick_step(tick_step(layers))
        .with_x_tick_format(TickFormat::Integer)
}

fn legend(layout: Layout, entries: Vec<LegendEntry>) -> Layout {
    layout
        .with_legend_entries(entries)
        .with_legend_position(LegendPosition::OutsideRightTop)
        .with_legend_box(false)
}

/// The angle of the block of `index + 1` layers from layer `l`, or NaN where such a block
/// would leave the model or the value is no share of a half turn.
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
    let scale = Scale::rising(cells.iter().flatten());
    Heat { cells, x: Axis::Numbers("first layer l", 0), y: Axis::Numbers("block size n", 1), scale }
}

fn draw_bars(counts: &[u64], marks: &[Mark]) -> (Vec<Plot>, Layout) {
    // A bar is centred on its layer.
    let edges = (0..=counts.len()).map(|edge| edge as f64 - 0.5).collect();
    let heights = counts.iter().map(|&count| count as f64).collect();
    let plots = vec![Plot::Histogram(Histogram::from_bins(edges, heights).with_color(BLUE))];
    let mut layout = layer_axis(Layout::auto_from_plots(&plots), counts.len().saturating_sub(1))
        .with_x_axis_min(-0.5)
        .with_x_axis_max(counts.len() as f64 - 0.5)
        .with_y_label("tokens");
    let mut entries = Vec::new();
    for mark in marks.iter().filter(|mark| mark.fits(counts.len(), (0.0, 0.0))) {
        layout = layout.with_reference_line(mark.line());
        entries.push(mark.entry());
    }
    (plots, legend(layout, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::results::Probes;

    #[test]
    fn every_measured_probe_gives_figures_and_others_give_none() {
        let mut results = fixture::results();
        let names: Vec<_> = figures(&results).into_iter().map(|figure| figure.name).collect();
        assert_eq!(
            names,
            [
                "contributions_relative_norm",
                "contributions_cosine",
                "lens_kl",
                "lens_kl_output",
                "lens_overlap",
                "lens_entropy",
                "similarity_block_influence",
                "similarity_angular_last",
                "similarity_angular_mean",
                "settling_histogram",
                "skip_future_layer",
                "skip_future_layer_output",
                "skip_local_attn",
                "erasure_effect_1",
                "erasure_effect_2",
                "erasure_effect_3",
                "erasure_effect_4",
                "gradients_attribution_1",
                "lens_resamples",
                "settling_resamples",
            ]
        );
        results.probes = Probes::default();
        results.uncertainty = None;
        assert!(figures(&results).is_empty());
    }

    #[test]
    fn png_files_have_the_size_of_the_figure_and_more_than_a_background() {
        let results = fixture::results();
        for figure in figures(&results) {
            let png = figure.png().unwrap();
            assert_eq!(&png[1..4], b"PNG", "{}", figure.name);
            assert_eq!(u32::from_be_bytes(png[16..20].try_into().unwrap()), 1720);
            assert!(png.len() > 8_000, "{}: {}", figure.name, png.len());
        }
    }

    #[test]
    fn labels_from_outside_cannot_break_out_of_the_svg() {
        let mut results = fixture::results();
        results.model.id = "</text><script>x</script>\u{1b}[31m$\\frac{1}{2}$\"&".to_owned();
        for figure in figures(&results) {
            let svg = figure.svg().unwrap();
            assert!(!svg.contains("<script") && !svg.contains('\u{1b}'), "{}", figure.name);
            assert!(svg.contains("$"), "{}", figure.name);
        }
    }

    #[test]
    fn curves_without_a_drawable_value_do_not_panic() {
        let mut results = fixture::results();
        let lens = results.probes.lens.as_mut().unwrap();
        lens.kl_lens_final.fill(f64::NAN);
        lens.overlap.fill(f64::INFINITY);
        let similarity = results.probes.similarity.as_mut().unwrap();
        similarity.block_influence.fill(0.0);
        similarity.angular_last.iter_mut().for_each(|row| row.fill(f64::NAN));
        results.probes.contributions.as_mut().unwrap().relative_norm.attn.mean[3] = -1.0;
        results.probes.settling.as_mut().unwrap().histogram.fill(0);
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().starts_with("<svg"));
            figure.png().unwrap();
        }
    }

    #[test]
    fn depths_and_thresholds_are_marked() {
        let results = fixture::results();
        let svg =
            |name| figures(&results).into_iter().find(|figure| figure.name == name).unwrap().svg().unwrap();
        for label in ["depth by kl: 22", "depth by kl_last: 23", "0.5 of the maximum"] {
            assert!(svg("lens_kl").contains(label), "{label}");
        }
        assert!(svg("lens_overlap").contains("threshold 0.3"));
        assert!(svg("settling_histogram").contains("mean layer 23.4"));
    }

    #[test]
    fn absurd_numbers_are_drawn_in_bounded_time() {
        let mut results = fixture::results();
        results.depth[0].value = Some(1e300);
        results.depth[1].value = Some(-1e15);
        results.depth[0].threshold = Some(1e300);
        results.depth[2].threshold = Some(-1e12);
        results.probes.lens.as_mut().unwrap().kl_lens_final[3] = 1e300;
        results.probes.lens.as_mut().unwrap().overlap[3] = -1e200;
        let norm = &mut results.probes.contributions.as_mut().unwrap().relative_norm;
        norm.attn.mean[0] = f64::MAX;
        norm.attn.mean[1] = f64::MIN_POSITIVE;
        let settling = results.probes.settling.as_mut().unwrap();
        settling.mean_settle_layer = 1e18;
        settling.deep_layer = usize::MAX;
        settling.histogram[2] = u64::MAX;
        results.probes.similarity.as_mut().unwrap().angular_last[2][2] = 1e300;
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().len() < 200_000, "{}", figure.name);
            figure.png().unwrap();
        }
    }

    #[test]
    fn a_model_of_one_layer_can_be_drawn() {
        let mut results = fixture::results();
        results.model.layers = 1;
        let contributions = results.probes.contributions.as_mut().unwrap();
        for parts in [&mut contributions.relative_norm, &mut contributions.cosine] {
            for summary in [&mut parts.attn, &mut parts.mlp, &mut parts.layer] {
                summary.mean.truncate(1);
                summary.median.truncate(1);
            }
        }
        results.probes.lens = None;
        results.probes.skip = None;
        results.probes.erasure = None;
        results.probes.gradients = None;
        let similarity = results.probes.similarity.as_mut().unwrap();
        similarity.block_influence.truncate(1);
        similarity.angular_last = vec![vec![0.25]];
        similarity.angular_mean = vec![vec![0.25]];
        results.probes.settling.as_mut().unwrap().histogram = vec![3, 4];
        results.validate().unwrap();
        for figure in figures(&results) {
            figure.png().unwrap();
        }
    }

    #[test]
    fn the_heat_map_table_is_a_triangle() {
        let results = fixture::results();
        let figure =
            figures(&results).into_iter().find(|figure| figure.name == "similarity_angular_last").unwrap();
        let numbers = figure.numbers();
        assert_eq!((numbers.rows.len(), numbers.rows[0].0.as_str(), numbers.headings.len()), (30, "1", 30));
        for (n, values) in &numbers.rows {
            let n: usize = n.parse().unwrap();
            assert_eq!(values.iter().filter(|value| value.is_finite()).count(), 31 - n);
        }
    }

    fn named(results: &Results, name: &str) -> Numbers {
        figures(results).into_iter().find(|figure| figure.name == name).unwrap().numbers()
    }

    #[test]
    fn the_figures_of_pairs_show_the_numbers_of_the_file() {
        let results = fixture::results();
        let numbers = named(&results, "erasure_effect_3");
        assert_eq!(numbers.index, "token, by erased before layer");
        assert_eq!((numbers.headings.len(), numbers.headings[30].as_str()), (31, "30"));
        let names: Vec<&str> = numbers.rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(names, ["0 2", "1 ␣+", "2 ␣", "3 \\n", "4 </script><im…"]);
        // The fixture's effect of token t before layer l is (30 - l) / (30 + t).
        assert_eq!((numbers.rows[2].1[14], numbers.rows[0].1[30]), (0.5, 0.0));
        let numbers = named(&results, "gradients_attribution_1");
        assert_eq!((numbers.rows.len(), numbers.headings.len()), (5, 30));
        assert_eq!((numbers.rows[0].1[0], numbers.rows[4].1[3]), (-2.0, 0.5));
    }

    #[test]
    fn the_figures_of_skipping_show_the_numbers_of_the_file() {
        let results = fixture::results();
        let numbers = named(&results, "skip_future_layer");
        assert_eq!(numbers.index, "skipped layer, by later layer");
        assert_eq!((numbers.rows[4].0.as_str(), numbers.headings[6].as_str()), ("4", "6"));
        // The fixture's effect of layer s on layer l is 1.5 / (l - s), and nothing on earlier ones.
        assert_eq!((numbers.rows[4].1[6], numbers.rows[6].1[4]), (0.75, 0.0));
        let numbers = named(&results, "skip_future_layer_output");
        assert_eq!(numbers.headings, ["largest", "mean over prompts"]);
        assert_eq!((numbers.index.as_str(), &numbers.rows[0].1), ("skipped layer", &vec![1.3, 0.6]));
    }

    #[test]
    fn resamples_are_counted_by_depth() {
        let results = fixture::results();
        let rows = |name| named(&results, name).rows;
        let row = |name: &str, count: f64| (name.to_owned(), vec![count]);
        let expected =
            [row("kl: 21", 100.0), row("kl: 22", 1700.0), row("kl: 23", 197.0), row("kl: none", 3.0)];
        assert_eq!(rows("lens_resamples"), expected);
        assert_eq!(rows("settling_resamples")[0], row("settling: 23.25 to 23.5", 1200.0));
    }

    #[test]
    fn pairs_that_are_not_drawn_are_listed() {
        let results = fixture::results();
        let all = figures(&results);
        let last = all.iter().find(|figure| figure.name == "erasure_effect_4").unwrap();
        assert_eq!((last.not_drawn, last.listed.len()), (2, 2));
        assert_eq!(last.listed[1], "Question: “5 + 2 = ”, answer: “7”.");
        assert_eq!(all.iter().map(|figure| figure.not_drawn).sum::<usize>(), 2);
    }

    #[test]
    fn causal_figures_without_a_drawable_value_do_not_panic() {
        let mut results = fixture::results();
        let skip = results.probes.skip.as_mut().unwrap().future.as_mut().unwrap().layer.as_mut().unwrap();
        skip.layer_effect.max.iter_mut().for_each(|row| row.fill(f64::NAN));
        skip.output_effect.as_mut().unwrap().max.fill(f64::NAN);
        skip.output_effect.as_mut().unwrap().mean.fill(f64::NEG_INFINITY);
        let erasure = results.probes.erasure.as_mut().unwrap();
        erasure[0].effect.iter_mut().for_each(|row| row.fill(0.0));
        erasure[1].effect[3][2] = 1e300;
        erasure[2].tokens.clear();
        erasure[2].effect.iter_mut().for_each(Vec::clear);
        results.probes.gradients.as_mut().unwrap()[0].attribution[0].fill(f64::NEG_INFINITY);
        let rules = &mut results.uncertainty.as_mut().unwrap().rules;
        rules[0].histogram =
            Some(Resamples { edges: vec![-1e300, 0.0, 1e300], counts: vec![0, u64::MAX], none: 0 });
        let mut close = rules[1].clone();
        close.histogram = Some(Resamples { edges: vec![2.0; 31], counts: vec![7; 30], none: 0 });
        rules.push(close);
        let rules = &mut results.uncertainty.as_mut().unwrap().rules;
        rules[1].histogram = Some(Resamples { edges: vec![1.0, 1.0 + 1e-15], counts: vec![0], none: 0 });
        results.validate().unwrap();
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().len() < 200_000, "{}", figure.name);
            figure.png().unwrap();
        }
    }
}
