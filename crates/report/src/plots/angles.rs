//! The figures of the probe angles: how far the stream turns, and what the last layer makes of it.

use super::axis::Axis;
use super::canvas::COLUMN;
use super::color::Color;
use super::figure::{Body, Figure};
use super::grid::Grid;
use super::layers::{Series, ValueScale, hovers, lines, numbers};
use super::panel::{Curve, Panel};
use super::table::FigureTable;
use crate::plots::canvas::Stroke;
use crate::plots::panel::Dots;
use crate::text::number;
use fathom_results::{AngleFit, Angles, Results};

/// All figures that there are numbers for.
pub(super) fn figures(results: &Results, angles: &Angles) -> Vec<Figure> {
    let all = [
        step(results, angles),
        last_layer(results, angles),
        components(results, angles),
        centre(results, angles),
    ];
    all.into_iter().flatten().collect()
}

/// A chart over layers.
fn chart(results: &Results, scale: ValueScale, series: &[Series<'_>]) -> (Body, FigureTable) {
    let grid = lines(results.model.layers, &scale, series, Vec::new());
    (Body::Panels(grid), numbers("layer", series))
}

fn step(results: &Results, angles: &Angles) -> Option<Figure> {
    let fitted = angles.fit.map(|fit| line(&fit, results.model.layers)).unwrap_or_default();
    let mut series = vec![
        Series::new("h_l to h_{l+1}", &angles.step, Color::Blue),
        Series::new("D_l to D_{l+1}", &angles.updates, Color::Orange),
        Series::new("h_l to h_L", &angles.to_end, Color::Green),
    ];
    if let Some(fit) = &angles.fit {
        let label = format!("{} + {} / l, R² {}", number(fit.intercept), number(fit.slope), number(fit.r2));
        series.push(Series { stroke: Stroke::Dashed, ..Series::new(label, &fitted, Color::Soft) });
    }
    Some(Figure::of_run(
        results,
        "angles_step",
        "How far each layer turns the stream",
        "Mean angle over tokens, in radians, between the residual stream before and after a layer, between what a layer \
         and the next one add, and between the stream and the output's. A model whose layers share the work of one \
         smooth motion turns by about 1 / l at layer l (dashed: a fit without the first and the last layer); layers that \
         add at right angles to each other average like an ensemble.",
        chart(results, ValueScale::linear("angle (radians)"), &series),
    ))
}

/// The fitted angles of the layers between the first and the last.
fn line(fit: &AngleFit, layers: usize) -> Vec<f64> {
    let at = |l: usize| fit.intercept + fit.slope / (l + 1) as f64;
    (0..layers).map(|l| if l == 0 || l + 1 == layers { f64::NAN } else { at(l) }).collect()
}

fn last_layer(results: &Results, angles: &Angles) -> Option<Figure> {
    if angles.last_layer_nll.is_empty() {
        return None;
    }
    let mut series = vec![Series::new("through the last layer", &angles.last_layer_nll, Color::Blue)];
    if let Some(lens) = results.probes.lens.as_ref().filter(|lens| !lens.nll.is_empty()) {
        series.push(Series::new("logit lens", &lens.nll[..results.model.layers], Color::Orange));
    }
    Some(Figure::of_run(
        results,
        "angles_last_layer",
        "What the last layer makes of each depth",
        "The loss when the stream before layer l goes straight through the last layer, the final norm and the head, as if \
         the layers between were removed. The last value is the model's own loss. Where this lies below the loss of the \
         logit lens, the last layer translates for the head what the stream already knows.",
        chart(results, ValueScale::linear("loss (nats per token)"), &series),
    ))
}

fn components(results: &Results, angles: &Angles) -> Option<Figure> {
    if angles.components.is_empty() {
        return None;
    }
    let colors = [Color::Blue, Color::Orange, Color::Green];
    let of = |(i, c): (usize, &fathom_results::AngleComponent)| {
        (format!("component {}, {} % of the variance", i + 1, number(100.0 * c.share)), c.weights.clone())
    };
    let named: Vec<(String, Vec<f64>)> = angles.components.iter().enumerate().map(of).collect();
    let series = named.iter().zip(colors).map(|((label, weights), color)| Series::new(label, weights, color));
    Some(Figure::of_run(
        results,
        "angles_components",
        "How tokens differ in where they turn",
        "Principal components of the angles of single tokens: the patterns over layers along which tokens differ most. A \
         component that is positive early and negative later separates tokens that turn early, such as those that begin \
         a text, from the others.",
        chart(results, ValueScale::linear("weight"), &series.collect::<Vec<_>>()),
    ))
}

fn centre(results: &Results, angles: &Angles) -> Option<Figure> {
    let known = |values: &[f64]| values.iter().any(|x| x.is_finite());
    let values = Some(&angles.centre_by_position).filter(|values| known(values))?;
    let series = [Series::new("mean layer around which tokens turn", values, Color::Blue)];
    let scale = ValueScale::linear("layer");
    let x = Axis::whole("position in the prompt", 0.0, (values.len() - 1).max(1) as f64, COLUMN);
    let mut panel = Panel::new("", x, scale.axis(values));
    let points = values.iter().enumerate().filter(|(_, y)| y.is_finite()).map(|(x, y)| (x as f64, *y));
    panel.curves.push(Curve {
        points: points.collect(),
        color: Color::Blue,
        stroke: Stroke::Solid,
        dots: Dots::Filled,
    });
    panel.hovers = hovers("position", &series);
    Some(Figure::of_run(
        results,
        "angles_centre",
        "Where tokens turn, by position",
        "The mean layer of a token's turns, each layer weighted by its angle, against the position of the token in its \
         prompt. The first tokens, which have nothing to attend to, usually turn early.",
        (Body::Panels(Grid::one(panel, Vec::new())), numbers("position", &series)),
    ))
}
