//! The common parts of the reports of runs and studies: style, script, content security policy, and a figure with its
//! numbers.
//!
//! The template engine escapes everything that comes from a folder. Only the figures, whose texts `plots::svg` escapes,
//! and the style and script of this crate are passed through as markup. The policy of the page forbids everything else:
//! it loads nothing and runs only the script whose hash it names.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, Value as Cell, context};
use sha2::{Digest, Sha256};

use crate::plots::{Figure, FigureTable};
use crate::text::{digits, significant};
use crate::{Error, Result};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/hover.js");
const FRAME: &str = include_str!("page/frame.html.jinja");
const FIGURE: &str = include_str!("page/figure.html.jinja");

/// Tables with more cells are written as plain text, which costs browsers a fraction of the time.
const LARGE_TABLE: usize = 2_500;

/// Renders a template that extends `frame.html`, with the style, script and version of every page.
///
/// # Errors
///
/// [`Error::Draw`] when the template fails.
pub(crate) fn render(name: &str, template: &str, page: Cell) -> Result<String> {
    let fail = |error: minijinja::Error| Error::Draw { what: name.to_owned(), reason: error.to_string() };
    let mut environment = Environment::new();
    // Keeps numbers and percent signs on one line.
    environment.add_filter("percent", |text: String| text.replace(" %", "\u{a0}%"));
    // The extension of the names turns escaping on.
    environment.add_template("frame.html", FRAME).map_err(fail)?;
    environment.add_template("figure.html", FIGURE).map_err(fail)?;
    environment.add_template("page.html", template).map_err(fail)?;
    let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let shared = context! {
        style => Cell::from_safe_string(STYLE.to_owned()),
        script => Cell::from_safe_string(SCRIPT.to_owned()),
        script_hash => Cell::from_safe_string(hash),
        version => env!("CARGO_PKG_VERSION"),
    };
    let template = environment.get_template("page.html").map_err(fail)?;
    template.render(context! { ..page, ..shared }).map_err(fail)
}

/// A figure with its numbers, as the templates expect it.
pub(crate) fn figure(figure: &Figure) -> Result<Cell> {
    let numbers = figure.table();
    let large = numbers.rows.len() * numbers.headings.len() > LARGE_TABLE;
    let (text, rows) =
        if large { (plain_table(numbers), Vec::new()) } else { (String::new(), cells(numbers)) };
    Ok(context! {
        name => figure.name.as_str(),
        title => figure.title.as_str(),
        reading => &figure.reading,
        note => figure.note.as_str(),
        wide => figure.is_wide(),
        not_drawn => figure.not_drawn,
        listed => Cell::from(Serde(&figure.listed)),
        svg => Cell::from_safe_string(figure.inline_svg()?),
        index => numbers.index.as_str(),
        headings => Cell::from(Serde(&numbers.headings)),
        rows => Cell::from(Serde(rows)),
        text => text,
    })
}

fn cells(numbers: &FigureTable) -> Vec<(&str, Vec<String>)> {
    numbers
        .rows
        .iter()
        .map(|(row, values)| (row.as_str(), values.iter().copied().map(digits).collect()))
        .collect()
}

/// A table as lines of numbers with three digits between tabs, for spreadsheets.
fn plain_table(numbers: &FigureTable) -> String {
    let head = [&numbers.index].into_iter().chain(&numbers.headings).cloned().collect::<Vec<_>>().join("\t");
    let line = |(row, values): &(String, Vec<f64>)| {
        values.iter().fold(row.clone(), |line, value| line + "\t" + &significant(*value, 3))
    };
    [head].into_iter().chain(numbers.rows.iter().map(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permission_is_for_the_script_as_it_stands_in_the_page() {
        let page = render("page", "{% extends 'frame.html' %}", context! { title => "t" }).unwrap();
        let script = page.split("<script>").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        let hash = BASE64_STANDARD.encode(Sha256::digest(script.as_bytes()));
        assert!(script.contains("pointermove") && page.contains(&format!("script-src 'sha256-{hash}'")));
        // Browsers normalise these characters before hashing, and nothing in the script may end its element.
        assert!(!script.contains(['\r', '\0']) && !script.contains("<!--") && !STYLE.contains("</"));
    }
}
