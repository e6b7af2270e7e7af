//! Tables, answers and comparisons as Markdown, CSV, LaTeX and JSON.

mod baseline;
mod comparison;
mod csv;
mod latex;
mod markdown;

pub use csv::models_csv;

use crate::curves::BootstrapOptions;
use crate::format;
use crate::tables::{Row, Tables};
use fathom_depth::Depth;

/// The note below the verdicts.
const VERDICTS: &str = "Verdicts are by the primary rule of the question alone, at an error rate of 5 % for all its \
comparisons together (Holm's correction). The other rules describe and are not tested.";

impl Tables {
    /// The column headings: names, layers and prompts, then one column per rule.
    pub fn heading(&self) -> Vec<String> {
        let fixed = ["model", "data", "layers", "prompts"].map(str::to_owned);
        fixed.into_iter().chain(self.rules.iter().map(|rule| rule.name().to_owned())).collect()
    }

    /// A row's cells, one for each heading.
    pub fn line(&self, row: &Row) -> Vec<String> {
        let dash = || "-".to_owned();
        let mut cells = vec![row.model.clone(), row.data.clone()];
        let Some(measured) = &row.measured else {
            cells.extend([dash(), "not measured".to_owned()]);
            cells.extend(self.rules.iter().map(|_| dash()));
            return cells;
        };
        cells.extend([measured.layers.to_string(), measured.prompts.to_string()]);
        cells.extend(self.rules.iter().map(|rule| {
            let found = measured.depth.iter().find(|depth| depth.rule == *rule);
            found.map_or_else(dash, depth_cell)
        }));
        cells
    }

    /// The caption: what the cells show and how certain it is.
    pub fn caption(&self) -> String {
        let BootstrapOptions { resamples, seed, .. } = self.settings;
        let prompts =
            self.rows.iter().filter_map(|row| row.measured.as_ref()).map(|measured| measured.prompts);
        let (few, largest) = (format::caution(prompts), format::largest(self.rules.iter().copied()));
        let cautioned = self.rows.iter().filter_map(|row| row.measured.as_ref());
        let cautioned = cautioned.flat_map(|measured| &measured.depth).any(|depth| depth.caution.is_some());
        let star = match cautioned {
            true => "* The curve turns back later, and the value says little; the CSV says where.",
            false => "",
        };
        format!(
            "Effective depth (share of the layers) with its 95 % bootstrap interval over prompts \
             ({resamples} resamples, seed {seed}). {few} {largest} {star}"
        )
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
    }

    /// All tables and answers as indented JSON.
    ///
    /// # Errors
    /// None known: every part can be serialised.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// Value, ratio and interval: "17 (0.64) [16, 18]" or, for rules on the largest effect, "9.4 (0.35); mean 9.8
/// [9.1, 10.4]". An asterisk marks a caution.
fn depth_cell(depth: &Depth) -> String {
    let (Some(value), Some(ratio)) = (depth.value, depth.ratio) else { return "none".to_owned() };
    let mean = depth.mean.map_or(String::new(), |mean| format!("; mean {}", format::layer(mean)));
    let interval = depth
        .interval
        .map_or(String::new(), |found| format!(" {}", format::interval(Some(found), format::layer)));
    let caution = if depth.caution.is_some() { "*" } else { "" };
    format!("{}{caution} ({}){mean}{interval}", format::layer(value), format::share(ratio))
}
