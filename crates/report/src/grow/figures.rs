//! The figures of a growth.

use crate::plots::axis::Axis;
use crate::plots::canvas::Stroke;
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Curve, Dots, Panel};
use crate::plots::{Body, Figure, FigureTable};
use fathom_results::Growing;

/// All figures: the training of lesa's networks, where there are any.
pub fn figures(growing: &Growing) -> Vec<Figure> {
    let epochs = growing.networks.iter().map(|n| n.loss.len()).max().unwrap_or(0);
    if epochs == 0 {
        return Vec::new();
    }
    vec![training(growing, epochs)]
}

/// The loss of each network over the epochs, in shares of that of copying the layer before.
fn training(growing: &Growing, epochs: usize) -> Figure {
    let shares = |n: &fathom_results::GrowNetwork| -> Vec<f64> {
        n.loss.iter().map(|loss| loss / n.mse_copy).collect()
    };
    let all: Vec<Vec<f64>> = growing.networks.iter().map(shares).collect();
    let x = Axis::new("epoch", 0.5, epochs as f64 + 0.5).every((epochs as f64 / 10.0).ceil());
    let y = Axis::around("loss / squared error of copying", all.iter().flatten().copied().chain([0.0]));
    let mut panel = Panel::new("", x, y);
    let mut legend = Vec::new();
    for (i, (network, shares)) in growing.networks.iter().zip(&all).enumerate() {
        let color = Color::SERIES[i % Color::SERIES.len()];
        let points = shares.iter().enumerate().map(|(epoch, share)| (epoch as f64 + 1.0, *share)).collect();
        panel.curves.push(Curve { points, color, stroke: Stroke::Solid, dots: Dots::Filled });
        let label = network.matrix.trim_matches('.').to_owned();
        legend.push(LegendEntry { label, color, mark: LegendMark::Line(Stroke::Solid) });
    }
    let row = |epoch: usize| {
        let of = |shares: &Vec<f64>| shares.get(epoch).copied().unwrap_or(f64::NAN);
        ((epoch + 1).to_string(), all.iter().map(of).collect())
    };
    let numbers = FigureTable {
        index: "epoch".to_owned(),
        headings: growing.networks.iter().map(|n| n.matrix.trim_matches('.').to_owned()).collect(),
        rows: (0..epochs).map(row).collect(),
    };
    let caption = format!("{} to {} layers", growing.model.id, growing.layers.len());
    let reading = "The mean loss of the batches of each epoch of the networks that predict a layer from its neighbours, one \
                   for each matrix, in shares of the mean squared error of copying the layer before. At 1 a network is no \
                   better than a copy.";
    Figure::new(
        "grow_training",
        "Training of the networks",
        reading,
        caption,
        (Body::Panels(Grid::one(panel, legend)), numbers),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grow::render;
    use fathom_results::fixture;
    use serde_json::json;

    #[test]
    fn the_page_has_the_table_and_the_training() {
        let mut growing = fixture::growing();
        growing.networks[0].matrix = ".<b>.weight".to_owned();
        let all = figures(&growing);
        assert_eq!(all.len(), 1);
        assert!(all[0].svg().unwrap().contains("to 8 layers") && !all[0].png().unwrap().is_empty());
        let page = render(&growing, &json!({"grow": {"method": "lesa"}})).unwrap();
        assert!(page.contains(&growing.conclusion) && page.contains("predicted from 3 and 4"));
        assert!(page.contains("Training of the networks") && !page.contains("<b>.weight"));
        growing.networks.clear();
        assert!(figures(&growing).is_empty());
        assert!(!render(&growing, &json!({})).unwrap().contains("Training of the networks"));
    }
}
