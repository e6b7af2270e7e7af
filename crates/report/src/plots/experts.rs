//! The figures of the probe experts: which experts tokens take, and what each of them adds.

use super::color::Color;
use super::figure::{Body, Figure};
use super::heat::{ColorScale, Heat, HeatAxis};
use super::layers::{Series, ValueScale, lines, numbers};
use crate::plots::canvas::Stroke;
use fathom_results::{Experts, Results};

/// All figures.
pub(super) fn figures(results: &Results, experts: &Experts) -> Vec<Figure> {
    let layers = results.model.layers;
    let map = |rows: &[Vec<f64>], unit| {
        let cells = by_layer(experts, layers, &vec![f64::NAN; rows.first().map_or(0, Vec::len)], rows);
        let scale = match cells.iter().flatten().any(|value| *value < 0.0) {
            true => ColorScale::diverging(cells.iter().flatten()),
            false => ColorScale::capped(cells.iter().flatten()),
        };
        Body::heat(Heat {
            cells,
            x: HeatAxis::Numbers("expert", 0),
            y: HeatAxis::Down("layer", 0),
            scale,
            unit,
        })
    };
    let mut maps = [
        Figure::of_run(
            results,
            "experts_load",
            "Which experts tokens take",
            "The share of the tokens that take an expert, by layer and expert.",
            map(&experts.load(), "share of tokens"),
        ),
        Figure::of_run(
            results,
            "experts_share",
            "What each expert adds",
            "The mean part of the sum of a layer's experts that an expert adds along it; tokens that do not take the expert \
             count as 0, and the experts of a layer add up to 1. Below 0, an expert works against the others.",
            map(&experts.share, "share of the sum"),
        ),
    ];
    if experts.shared {
        let note = "The last column is the expert that every token takes.";
        maps.iter_mut().for_each(|figure| note.clone_into(&mut figure.note));
    }
    [used(results, experts)].into_iter().chain(maps).collect()
}

fn used(results: &Results, experts: &Experts) -> Figure {
    let layers = results.model.layers;
    let used = by_layer(experts, layers, &f64::NAN, &experts.used());
    let flat = |value: usize| vec![value as f64; layers];
    let (all, active) = (flat(experts.routed()), flat(experts.active));
    let series = [
        Series::new("used", &used, Color::Blue),
        Series { stroke: Stroke::Dashed, ..Series::new("all", &all, Color::Soft) },
        Series { stroke: Stroke::Dashed, ..Series::new("of a token", &active, Color::Orange) },
    ];
    Figure::of_run(
        results,
        "experts_used",
        "How many experts a layer uses",
        "The number of experts that would be taken equally often at the entropy of the choices: all of them where the \
         router is balanced, few where most tokens take the same ones.",
        (
            Body::Panels(lines(layers, &ValueScale::linear("experts"), &series, Vec::new())),
            numbers("layer", &series),
        ),
    )
}

/// Values of the layers with experts, spread over all layers.
fn by_layer<T: Clone>(experts: &Experts, layers: usize, none: &T, values: &[T]) -> Vec<T> {
    let mut all = vec![none.clone(); layers];
    for (layer, value) in experts.layers.iter().zip(values) {
        if let Some(place) = all.get_mut(*layer) {
            *place = value.clone();
        }
    }
    all
}
