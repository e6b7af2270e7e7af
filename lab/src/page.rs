//! The page of a trained decoder.

use crate::metrics::Metric;
use crate::recipe::Recipe;
use anyhow::Result;
use fathom_report::charts::{self, Chart, Page, Plot, Scale, Series};
use fathom_results::Folder;
use serde_json::json;
use std::path::Path;

/// Writes the curves of a run, and `report.html`.
pub(crate) fn write(recipe: &Recipe, metrics: &[Metric], parameters: usize, out: &Path) -> Result<()> {
    let page = Page {
        title: format!("Training of {}", recipe.name),
        about: format!(
            "{} layers, width {}, {parameters} weights; {}.",
            recipe.model.layers, recipe.model.width, recipe.data.texts
        ),
        answer: answer(metrics),
        charts: vec![losses(recipe, metrics), gradients(recipe, metrics)],
        settings: json!({"recipe": recipe}),
        ..Page::default()
    };
    charts::write(&Folder::create(out)?, &page)?;
    Ok(())
}

/// What was found, in words.
pub(crate) fn answer(metrics: &[Metric]) -> String {
    let last = metrics.last();
    let best = metrics.iter().min_by(|a, b| a.validation_loss.total_cmp(&b.validation_loss));
    match (last, best) {
        (Some(last), Some(best)) => format!(
            "After {} tokens the loss on held-out texts is {:.3} nats per token; the least was {:.3} after {}.",
            last.tokens, last.validation_loss, best.validation_loss, best.tokens
        ),
        _ => "Nothing was measured.".to_owned(),
    }
}

fn losses(recipe: &Recipe, metrics: &[Metric]) -> Chart {
    let curve = |label: &str, color, value: fn(&Metric) -> f64| Series {
        label: label.to_owned(),
        color,
        line: true,
        points: metrics.iter().map(|m| (m.tokens as f64, value(m)).into()).collect(),
        ..Series::default()
    };
    Chart {
        name: "lm_loss".to_owned(),
        title: "Loss".to_owned(),
        reading: "Training: the mean of the steps since the point before, with dropout and label smoothing. Held-out: without."
            .to_owned(),
        caption: recipe.name.clone(),
        x: Scale { label: "tokens".to_owned(), log: false },
        y: Scale { label: "nats per token".to_owned(), log: false },
        panels: vec![Plot {
            title: String::new(),
            series: vec![
                curve("held-out", 0, |m| m.validation_loss),
                curve("training", 1, |m| m.training_loss),
            ],
        }],
    }
}

fn gradients(recipe: &Recipe, metrics: &[Metric]) -> Chart {
    Chart {
        name: "lm_gradient".to_owned(),
        title: "Norm of the gradient".to_owned(),
        reading: "Over all weights, before clipping, of the last step before each measurement.".to_owned(),
        caption: recipe.name.clone(),
        x: Scale { label: "tokens".to_owned(), log: false },
        y: Scale { label: "norm".to_owned(), log: true },
        panels: vec![Plot {
            title: String::new(),
            series: vec![Series {
                line: true,
                points: metrics.iter().map(|m| (m.tokens as f64, m.gradient_norm).into()).collect(),
                ..Series::default()
            }],
        }],
    }
}
