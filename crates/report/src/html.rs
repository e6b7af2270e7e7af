//! `report.html`: one file that needs no network and no scripts.
//!
//! Everything that comes from the folder is escaped by the template engine. The only markup passed through
//! is the figures, whose texts the drawing library escapes.

use minijinja::value::Serde;
use minijinja::{Environment, Value as Cell, context};
use serde::Serialize;
use serde_json::Value;

use crate::plots::{self, Figure, Numbers};
use crate::results::{DepthRow, Results};
use crate::{Error, Result, folder};

const TEMPLATE: &str = include_str!("report.html.jinja");

/// Tables of more cells are written as plain text, which browsers show at a fraction of the cost.
const LARGE_TABLE: usize = 2_500;

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// [`Error::Draw`] when the template fails, [`Error::Serialise`] when `run` cannot be printed.
pub fn render(results: &Results, run: &Value) -> Result<String> {
    let fail =
        |error: minijinja::Error| Error::Draw { what: folder::REPORT.to_owned(), reason: error.to_string() };
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let mut environment = Environment::new();
    // The name's ending turns escaping on.
    environment.add_template("report.html", TEMPLATE).map_err(fail)?;
    let template = environment.get_template("report.html").map_err(fail)?;
    let figures = plots::figures(results).iter().map(figure).collect::<Result<Vec<Cell>>>()?;
    let other: Vec<&String> = results.probes.other.keys().collect();
    let page = context! {
        model => Cell::from(Serde(&results.model)),
        data => Cell::from(Serde(&results.data)),
        depth => results.depth.iter().map(depth).collect::<Vec<_>>(),
        cost => results.cost.iter().map(|(probe, cost)| cost_row(probe, cost)).collect::<Vec<_>>(),
        figures => figures,
        other => Cell::from(Serde(other)),
        provenance => provenance,
        version => env!("CARGO_PKG_VERSION"),
    };
    template.render(page).map_err(fail)
}

fn figure(figure: &Figure<'_>) -> Result<Cell> {
    let numbers = figure.numbers();
    let large = numbers.rows.len() * numbers.headings.len() > LARGE_TABLE;
    let (text, rows) =
        if large { (plain_table(&numbers), Vec::new()) } else { (String::new(), cells(&numbers)) };
    Ok(context! {
        name => figure.name.as_str(),
        title => figure.title.as_str(),
        reading => figure.reading,
        note => figure.note.as_str(),
        not_drawn => figure.not_drawn,
        listed => Cell::from(Serde(&figure.listed)),
        svg => Cell::from_safe_string(figure.inline_svg()?),
        index => numbers.index.as_str(),
        headings => Cell::from(Serde(&numbers.headings)),
        rows => Cell::from(Serde(rows)),
        text => text,
    })
}

fn cells(numbers: &Numbers) -> Vec<(&str, Vec<String>)> {
    numbers
        .rows
        .iter()
        .map(|(row, values)| (row.as_str(), values.iter().copied().map(number).collect()))
        .collect()
}

/// A table as lines of numbers with three digits between tabs, for spreadsheets.
fn plain_table(numbers: &Numbers) -> String {
    let head = [&numbers.index].into_iter().chain(&numbers.headings).cloned().collect::<Vec<_>>().join("\t");
    let line = |(row, values): &(String, Vec<f64>)| {
        values.iter().fold(row.clone(), |line, value| line + "\t" + &digits(*value, 2))
    };
    [head].into_iter().chain(numbers.rows.iter().map(line)).collect::<Vec<_>>().join("\n")
}

/// A depth row as the page prints it.
#[derive(Serialize)]
struct Depth<'a> {
    rule: &'a str,
    value: Option<String>,
    ratio: Option<String>,
    interval: Option<String>,
    threshold: Option<String>,
    reason: Option<&'a str>,
}

fn depth(row: &DepthRow) -> Cell {
    Cell::from(Serde(Depth {
        rule: &row.rule,
        value: row.value.map(number),
        ratio: row.ratio.map(|ratio| format!("{ratio:.2}")),
        interval: row.interval.map(|[low, high]| format!("{} to {}", number(low), number(high))),
        threshold: row.threshold.map(number),
        reason: row.reason.as_deref(),
    }))
}

fn cost_row(probe: &str, cost: &crate::results::Cost) -> Cell {
    let saved = cost.madds_naive as f64 / cost.madds.max(1) as f64;
    context! {
        probe => probe,
        gmadds => format!("{:.1}", cost.madds as f64 / 1e9),
        naive => format!("{:.1}", cost.madds_naive as f64 / 1e9),
        saved => format!("{saved:.1}"),
        seconds => format!("{:.1}", cost.seconds),
        peak => format!("{:.0}", cost.peak_bytes as f64 / 1_048_576.0),
    }
}

/// Four significant digits without trailing zeros; nothing for a missing value.
fn number(value: f64) -> String {
    digits(value, 3)
}

/// So many digits after the first, without trailing zeros; nothing for a missing value.
fn digits(value: f64, after: usize) -> String {
    if !value.is_finite() {
        return String::new();
    }
    // Printing in scientific form and reading back rounds to significant digits.
    let rounded: f64 = format!("{value:.after$e}").parse().unwrap_or(value);
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value}")
    } else if rounded.abs() < 1e-4 || rounded.abs() >= 1e15 {
        format!("{rounded:e}")
    } else {
        format!("{rounded}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const ATTACK: &str = "</script><img src=x onerror=alert(1)>\"'&{{ 7 * 6 }}";

    #[test]
    fn hostile_text_is_shown_and_never_markup() {
        let mut results = fixture::results();
        results.model.id = ATTACK.to_owned();
        results.model.revision = Some(ATTACK.to_owned());
        results.data.id = ATTACK.to_owned();
        results.depth[0].rule = ATTACK.to_owned();
        results.depth[1].reason = Some(ATTACK.to_owned());
        results.probes.other.insert(ATTACK.to_owned(), Value::Null);
        let cost = results.cost["lens"].clone();
        results.cost.insert(ATTACK.to_owned(), cost);
        let run = serde_json::json!({ATTACK: ATTACK, "svg": "</pre><svg onload=x>"});
        let page = render(&results, &run).unwrap();
        assert!(!page.contains("<img") && !page.contains("</script") && !page.contains("<svg onload"));
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"));
        assert!(page.contains("{{ 7 * 6 }}") && !page.contains("42 }}"));
    }

    #[test]
    fn the_page_loads_nothing_and_runs_nothing() {
        let mut results = fixture::results();
        results.data.id = "https://example.org/data.jsonl".to_owned();
        let page = render(&results, &fixture::run()).unwrap();
        for part in ["http://", "https://", "<script", "<link", "@import", "url(http", " src=", "<iframe"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn the_page_holds_every_figure_number_and_setting() {
        let page = render(&fixture::results(), &fixture::run()).unwrap();
        assert_eq!(page.matches("<svg").count(), 20);
        // One for each figure, the erasures not drawn, and run.json.
        assert_eq!(page.matches("<details").count(), 22);
        for part in
            ["example", "gsm8k", "22.5", "never changes from negative", "&quot;seed&quot;: 42", "28.4"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn ids_inside_the_figures_do_not_collide() {
        let page = render(&fixture::results(), &fixture::run()).unwrap();
        let mut ids: Vec<&str> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{ids:?}");
    }

    #[test]
    fn tokens_and_questions_are_shown_and_never_markup() {
        let mut results = fixture::results();
        let pair = &mut results.probes.erasure.as_mut().unwrap()[0];
        pair.tokens = vec![
            ATTACK[..20].to_owned(),
            "</svg><img>".to_owned(),
            "<g data-".to_owned(),
            "$x$".to_owned(),
            "\u{202e}".to_owned(),
        ];
        pair.question = ATTACK.to_owned();
        results.probes.erasure.as_mut().unwrap()[5].answer = ATTACK.to_owned();
        results.probes.gradients.as_mut().unwrap()[0].site = ATTACK.to_owned();
        results.uncertainty.as_mut().unwrap().rules[0].rule = ATTACK.to_owned();
        let page = render(&results, &fixture::run()).unwrap();
        assert!(!page.contains("<img") && !page.contains("</script") && !page.contains("<g data-"));
        assert!(page.contains("&lt;/svg&gt;&lt;img") && page.contains("\\u{202e}"));
        assert!(page.matches("onerror=alert(1)&gt;").count() >= 4);
        // The heat maps: two of angles, two of skipped layers, four of erasure, one of gradients.
        assert_eq!(page.matches("<image ").count(), 9);
    }

    #[test]
    fn long_prompts_of_deep_models_keep_the_page_light() {
        let (layers, tokens) = (64, 400);
        let cell = |l: usize, t: usize| ((l * 7919 + t * 104_729) % 10_007) as f64 / 3001.7;
        let map = |rows: usize| (0..rows).map(|l| (0..tokens).map(|t| cell(l, t)).collect()).collect();
        let mut results = fixture::results();
        let erasure = &mut results.probes.erasure.as_mut().unwrap()[0];
        erasure.tokens = vec![" token".to_owned(); tokens];
        erasure.effect = map(layers + 1);
        let pair = erasure.clone();
        results.model.layers = layers;
        results.probes = Default::default();
        results.probes.erasure = Some(vec![pair; 4]);
        results.validate().unwrap();
        let page = render(&results, &fixture::run()).unwrap();
        // Numbers that follow no pattern, so that pictures of real ones are smaller.
        assert!(page.len() < 1_300_000, "{}", page.len());
        assert!(page.matches('<').count() < 3_000, "{}", page.matches('<').count());
        assert!(page.contains("399 ␣token\t"));
    }

    #[test]
    fn results_without_probes_give_a_page() {
        let mut results = fixture::results();
        results.uncertainty = None;
        results.probes = Default::default();
        results.depth.clear();
        results.cost.clear();
        assert!(render(&results, &Value::Null).unwrap().contains("No probe"));
    }

    #[test]
    fn numbers_keep_four_digits() {
        let check = |value, text: &str| assert_eq!(number(value), text);
        check(22.0, "22");
        check(0.123456, "0.1235");
        check(-1234.56, "-1235");
        check(0.0000123456, "1.235e-5");
        check(f64::NAN, "");
        check(123456.0, "123456");
    }
}
