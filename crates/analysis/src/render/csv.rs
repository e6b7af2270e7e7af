//! Study tables as CSV, and the table that scaling laws are fitted to.

use crate::compare::Pairing;
use crate::study::{Cell, StudyDescription};
use crate::tables::Tables;
use fathom_depth::{IntervalOf, Rule};
use fathom_results::Results;
use std::collections::BTreeMap;
use std::io;

impl Tables {
    /// The cells as CSV: one line per cell and rule, or one line without a rule for a missing cell.
    ///
    /// # Errors
    /// None known: it writes to memory.
    pub fn csv(&self) -> io::Result<String> {
        let heading = "model model_id family size type data data_id difficulty layers prompts \
                       rule threshold value ratio lo hi reason layers_used mean interval_of caution";
        let mut lines = vec![heading.split_whitespace().map(str::to_owned).collect::<Vec<_>>()];
        for row in &self.rows {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let names = [
                row.model.clone(),
                row.model_id.clone(),
                text(&row.family),
                plain(row.size),
                text(&row.kind),
                row.data.clone(),
                row.data_id.clone(),
                text(&row.difficulty),
            ];
            let Some(measured) = &row.measured else {
                let empty = |fields| std::iter::repeat_n(String::new(), fields);
                let missing = empty(8).chain(["not measured".to_owned()]).chain(empty(4));
                lines.push(names.into_iter().chain(missing).collect());
                continue;
            };
            for depth in &measured.depth {
                let mut line = names.to_vec();
                line.extend([measured.layers.to_string(), measured.prompts.to_string()]);
                line.extend([depth.rule.name().to_owned(), plain(depth.threshold), plain(depth.value)]);
                let [lo, hi] = [0, 1].map(|end| plain(depth.interval.map(|interval| interval[end])));
                line.extend([plain(depth.ratio), lo, hi, text(&depth.reason)]);
                let of = depth.interval_of.map_or("", |of| match of {
                    IntervalOf::Value => "value",
                    IntervalOf::Mean => "mean",
                });
                line.extend([
                    plain(depth.layers_used),
                    plain(depth.mean),
                    of.to_owned(),
                    text(&depth.caution),
                ]);
                lines.push(line);
            }
        }
        csv(&lines)
    }

    /// The comparisons behind the answers as CSV.
    ///
    /// # Errors
    /// As [`Tables::csv`].
    pub fn answers_csv(&self) -> io::Result<String> {
        let heading = [
            "question",
            "a",
            "b",
            "on",
            "rule",
            "pairing",
            "ratio_change",
            "lo",
            "hi",
            "verdict",
            "sentence",
            "primary",
            "p_value",
            "p_holm",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        for answer in &self.answers {
            for one in &answer.comparisons {
                let interval = one.change.and_then(|change| change.interval);
                let [lo, hi] = [0, 1].map(|end| plain(interval.map(|interval| interval[end])));
                lines.push(vec![
                    answer.question.name().to_owned(),
                    one.a.clone(),
                    one.b.clone(),
                    one.on.clone(),
                    one.rule.map_or("", Rule::name).to_owned(),
                    one.pairing.map_or("", Pairing::name).to_owned(),
                    plain(one.change.map(|change| change.difference)),
                    lo,
                    hi,
                    one.verdict.name().to_owned(),
                    one.sentence.clone(),
                    if one.primary { "yes" } else { "no" }.to_owned(),
                    plain(one.change.and_then(|change| change.p_value)),
                    plain(one.p_holm),
                ]);
            }
        }
        csv(&lines)
    }
}

/// The columns of [`models_csv`], with the names by which `fathom fit depth` reads them.
const MODELS: [&str; 13] = [
    "model",
    "data",
    "family",
    "type",
    "d_model",
    "n_layers",
    "params",
    "num_tokens",
    "loss",
    "angle",
    "angle_intercept",
    "angle_slope",
    "angle_r2",
];

/// The measured cells as a table that `fathom fit` reads: one line for each, with width, layers, parameters and training
/// tokens of the model, its loss on the data in nats per token (from the probe `lens` or `angles`), and the angles between
/// layers (arXiv 2602.05970): their mean over all layers but the first and the last, and the line through them in 1 / l.
///
/// # Errors
/// None known: it writes to memory.
pub fn models_csv(study: &StudyDescription, cells: &BTreeMap<Cell, Results>) -> io::Result<String> {
    let mut lines = vec![MODELS.map(str::to_owned).to_vec()];
    for (cell, results) in cells {
        let (model, data) = (&study.models[cell.model], &study.data[cell.data]);
        let (info, probes) = (&results.model, &results.probes);
        let angles = probes.angles.as_ref();
        let lens = probes.lens.as_ref().map(|lens| &lens.nll);
        let losses = lens.filter(|nll| !nll.is_empty()).or(angles.map(|angles| &angles.last_layer_nll));
        let middle = angles.and_then(|angles| angles.step.get(1..angles.step.len().saturating_sub(1)));
        let mean = middle.filter(|m| !m.is_empty()).map(|m| m.iter().sum::<f64>() / m.len() as f64);
        let fit = angles.and_then(|angles| angles.fit);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        lines.push(vec![
            model.name.clone(),
            data.name.clone(),
            text(&model.family),
            text(&model.kind),
            info.hidden.to_string(),
            info.layers.to_string(),
            info.parameters.to_string(),
            plain(model.tokens),
            plain(losses.and_then(|nll| nll.last()).copied()),
            plain(mean),
            plain(fit.map(|fit| fit.intercept)),
            plain(fit.map(|fit| fit.slope)),
            plain(fit.map(|fit| fit.r2)),
        ]);
    }
    csv(&lines)
}

/// A number with all its digits, or an empty field.
fn plain(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn csv(lines: &[Vec<String>]) -> io::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.write_record(line).map_err(io::Error::other)?;
    }
    let bytes = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    String::from_utf8(bytes).map_err(io::Error::other)
}
