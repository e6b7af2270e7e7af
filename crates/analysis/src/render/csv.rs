//! Study tables as CSV.

use crate::compare::Pairing;
use crate::tables::Tables;
use fathom_depth::{IntervalOf, Rule};
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
