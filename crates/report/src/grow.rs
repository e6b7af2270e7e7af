//! The report of a grown model.

mod figures;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Depth, Estimated, Folder, Growing, Rule, folder};
use serde_json::Value;

/// Writes the output of a growth: `grow.json`, `run.json`, the figures under `plots/` and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, growing: &Growing, run: &Value) -> Result<()> {
    folder.write_json_atomic(folder::GROW, growing)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, growing, run)
}

/// Writes the figures and the page of results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, growing: &Growing, run: &Value) -> Result<()> {
    folder.remove_plots("grow_")?;
    for figure in figures(growing) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(growing, run)?.as_bytes())?;
    Ok(())
}

/// A row of the table of both models: what, before, after.
type Row = [String; 3];

/// Loss, perplexities, size and effective depths, before and after.
fn rows(growing: &Growing) -> Vec<Row> {
    let (before, after) = (&growing.before, &growing.after);
    let number = |x: f64| crate::text::significant(x, 4);
    let mut rows = vec![
        ["layers".to_owned(), before.layers.to_string(), after.layers.to_string()],
        ["parameters, millions".to_owned(), millions(before.parameters), millions(after.parameters)],
        ["loss, nats per token".to_owned(), estimated(&before.nll), estimated(&after.nll)],
        ["perplexity of all tokens".to_owned(), number(before.perplexity), number(after.perplexity)],
        [
            "mean of the texts' perplexities".to_owned(),
            estimated(&before.mean_perplexity),
            estimated(&after.mean_perplexity),
        ],
    ];
    for rule in Rule::ALL {
        let of = |depths: &[Depth]| depths.iter().find(|depth| depth.rule == rule).cloned();
        if let (Some(one), Some(other)) = (of(&before.depth), of(&after.depth)) {
            rows.push([format!("effective depth, {}", rule.name()), depth(&one), depth(&other)]);
        }
    }
    rows
}

fn estimated(e: &Estimated) -> String {
    let number = |x: f64| crate::text::significant(x, 4);
    match e.interval {
        Some([low, high]) => format!("{} ({} to {})", number(e.value), number(low), number(high)),
        None => number(e.value),
    }
}

fn depth(depth: &Depth) -> String {
    let number = |x: f64| crate::text::significant(x, 3);
    match (depth.shown(), depth.interval) {
        (Some(value), Some([low, high])) => {
            format!("{} ({} to {})", number(value), number(low), number(high))
        }
        (Some(value), None) => number(value),
        (None, _) => "none".to_owned(),
    }
}

fn millions(count: u64) -> String {
    crate::text::significant(count as f64 / 1e6, 4)
}
