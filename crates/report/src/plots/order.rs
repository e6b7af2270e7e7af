//! The figures of the probe order: what the output loses when layers run in another order.

use super::axis::Axis;
use super::canvas::PAGE;
use super::color::Color;
use super::figure::{Body, Figure};
use super::grid::Grid;
use super::layers::{Series, ValueScale, curves, hovers, numbers};
use super::panel::Panel;
use fathom_results::{Order, OrderEffects, Results};

/// A family of interventions: its name, its effects and the place of its first element on the axis.
type Family<'a> = (&'static str, &'a OrderEffects, usize);

/// All figures that there are numbers for.
pub(super) fn figures(results: &Results, order: &Order) -> Vec<Figure> {
    let of_layers = [
        ("left out", &order.skip, 0),
        ("swapped with the next", &order.swap, 0),
        ("three reversed", &order.reverse, 0),
    ];
    let first = order.middle_from.first().copied().unwrap_or(0);
    let of_middles = [
        ("reversed", &order.middle_reverse, first),
        ("its middle layer repeated", &order.middle_repeat, first),
        ("in parallel", &order.middle_parallel, first),
    ];
    let mut all = vec![figure(
        results,
        ("order_layers", "How much the order of layers matters"),
        "A layer left out, a layer swapped with the next one, and three layers in reverse order, each at its first layer, \
         for all tokens. Left: the divergence of the output (log scale); right: the share of tokens whose most likely \
         continuation stays; below: the loss. Where a swap costs less than leaving a layer out, layers do the same kind \
         of work in any order; where it costs as much, each builds on the one before.",
        ("layer", &of_layers),
    )];
    if !order.middle_from.is_empty() {
        all.push(figure(
            results,
            ("order_middle", "How much of the middle is interchangeable"),
            "The middle of the model, from layer n to as many layers before the end, in reverse order, with its middle \
             layer in place of each of its layers, or with all its layers reading the same stream and the mean of what \
             they return. The further left a curve stays low, the more layers are interchangeable.",
            ("first layer of the middle", &of_middles),
        ));
    }
    all
}

fn figure(
    results: &Results,
    (name, title): (&str, &str),
    reading: &'static str,
    (axis, families): (&'static str, &[Family<'_>; 3]),
) -> Figure {
    let colors = [Color::Blue, Color::Orange, Color::Green];
    let placed = |of: fn(&OrderEffects) -> &Vec<f64>| {
        families.map(|(_, effects, first)| [vec![f64::NAN; first], of(effects).clone()].concat())
    };
    let quantities = [
        ("divergence", ValueScale::log("KL (nats per token)"), placed(|e| &e.kl)),
        ("same token", ValueScale::share("share"), placed(|e| &e.top1_agreement)),
        ("loss", ValueScale::linear("loss (nats per token)"), placed(|e| &e.nll)),
    ];
    let width = Grid::inner_width(PAGE, 2);
    let (mut panels, mut table, mut legend) = (Vec::new(), Vec::new(), Vec::new());
    for (title, scale, values) in &quantities {
        if values.iter().flatten().all(|value| value.is_nan()) {
            continue;
        }
        let named = values.iter().zip(families).zip(colors);
        let series: Vec<Series<'_>> =
            named.map(|((values, family), color)| Series::new(family.0, values, color)).collect();
        let longest = values.iter().map(Vec::len).max().unwrap_or(0);
        let x = Axis::whole(axis, 0.0, longest.max(1) as f64, width);
        panels.push(Panel {
            curves: series.iter().flat_map(|series| curves(series, scale)).collect(),
            hovers: hovers(axis, &series),
            ..Panel::new(*title, x, scale.axis(series.iter().flat_map(|series| series.values)))
        });
        legend = series.iter().map(Series::entry).collect();
        table.extend(series.iter().map(|s| (format!("{}: {title}", s.label), s.values.to_vec(), s.color)));
    }
    let table: Vec<Series<'_>> =
        table.iter().map(|(label, values, color)| Series::new(label, values, *color)).collect();
    let numbers = numbers(axis, &table);
    let grid = Grid { legend, columns: 2, panels, height: 160.0, width: PAGE };
    Figure::of_run(results, name, title, reading, (Body::Panels(grid), numbers))
}
