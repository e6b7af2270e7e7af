//! `report.html`: the results of one run as one file that needs no network and can be read without scripts.

use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde::Serialize;
use serde_json::Value;

use crate::page;
use crate::plots::{self, Figure};
use crate::text::digits;
use crate::{Result, answer};
use fathom_results::folder;
use fathom_results::{Depth, Results, Rule};

const TEMPLATE: &str = include_str!("page/report.html.jinja");
/// The number of settings that are listed; there are about fifty, and `run.json` below the list has all of them.
const SETTINGS: usize = 300;

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// [`crate::Error::Draw`] when a figure or the template fails, [`fathom_results::Error::Serialise`] when `run` cannot be
/// printed.
pub fn render(results: &Results, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let settings = settings(run);
    let gauge = plots::depth_gauge(results).as_ref().map(page::figure).transpose()?;
    let other: Vec<&String> = results.probes.other.keys().collect();
    let page = context! {
        title => format!("{} on {}: effective depth", results.model.id, results.data.id),
        model => Cell::from(Serde(&results.model)),
        data => Cell::from(Serde(&results.data)),
        parameters => parameters(results.model.parameters),
        answer => answer::headline(results),
        details => answer::details(results),
        warnings => warnings(results, run),
        lens => results.lens.as_ref().map(ToString::to_string),
        gauge => gauge,
        objective => results.objective.as_ref().map(|objective| objective.sentence()),
        depth => results.depth.iter().map(|row| depth(row, results.model.layers)).collect::<Vec<_>>(),
        cost => results.cost.keys().map(|probe| cost_row(results, probe)).collect::<Vec<_>>(),
        sections => sections(&plots::figures(results))?,
        other => Cell::from(Serde(other)),
        settings => Cell::from(Serde(settings)),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}

/// One sentence for each prompt or token that was left out and for each warning about the model.
fn warnings(results: &Results, run: &Value) -> Vec<String> {
    let failed = results.data.failed.iter().map(|f| format!("'{}' is left out: {}.", f.id, f.reason));
    let tokens = results.probes.contributions.as_ref().and_then(|c| c.left_out.as_ref());
    let model = run.pointer("/model/warnings").and_then(Value::as_array).into_iter().flatten();
    let model = model.filter_map(Value::as_str).map(|what| format!("Model: {what}."));
    failed.chain(tokens.map(|left_out| format!("{}.", left_out.sentence()))).chain(model).collect()
}

/// The figures by probe, and those of the uncertainty at the end.
fn sections(figures: &[Figure]) -> Result<Vec<Cell>> {
    let titles = [
        ("contributions", "What layers add"),
        ("lens", "Early answers"),
        ("similarity", "Which layers resemble each other"),
        ("settling", "Settling"),
        ("angles", "Turns of the stream"),
        ("experts", "Experts"),
        ("skip", "Skipping layers"),
        ("order", "Layers in another order"),
        ("erasure", "Erasing tokens"),
        ("gradients", "Integrated gradients"),
        ("", "Uncertainty of the depths"),
    ];
    let section = |figure: &Figure| {
        let (probe, kind) = figure.name.split_once('_').unwrap_or((&figure.name, ""));
        if matches!(kind, "resamples" | "thresholds" | "prompts") { String::new() } else { probe.to_owned() }
    };
    let mut all = Vec::new();
    for (probe, title) in titles {
        let figures = figures.iter().filter(|figure| section(figure) == probe);
        let figures = figures.map(page::figure).collect::<Result<Vec<Cell>>>()?;
        if !figures.is_empty() {
            let anchor = if probe.is_empty() { "certainty" } else { probe };
            all.push(context! { anchor => anchor, title => title, figures => figures });
        }
    }
    Ok(all)
}

/// A number of parameters, such as "135 million".
fn parameters(count: u64) -> String {
    let count = count as f64;
    match count {
        _ if count >= 1e9 => format!("{:.2} billion", count / 1e9),
        _ if count >= 1e6 => format!("{:.0} million", count / 1e6),
        _ => format!("{count}"),
    }
}

/// Every value of `run.json` with its path.
pub(crate) fn settings(run: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    flatten(run, String::new(), &mut all);
    all
}

/// Collects every value of `run.json` with its path. A list of plain values, such as the command, is one value.
fn flatten(value: &Value, path: String, all: &mut Vec<(String, String)>) {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Object(_) | Value::Array(_) => None,
        other => Some(other.to_string()),
    };
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        _ if all.len() >= SETTINGS => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(value, join(key), all)),
        Value::Array(items) => match items.iter().map(plain).collect::<Option<Vec<_>>>() {
            Some(items) => all.push((path, items.join(" "))),
            None => items.iter().enumerate().for_each(|(i, item)| flatten(item, join(&i.to_string()), all)),
        },
        Value::Null => {}
        other => all.push((path, plain(other).unwrap_or_default())),
    }
}

/// A depth row as the page prints it.
#[derive(Serialize)]
struct DepthRow<'a> {
    rule: &'a str,
    about: &'static str,
    value: Option<String>,
    ratio: Option<String>,
    interval: Option<String>,
    threshold: Option<String>,
    reason: Option<&'a str>,
    caution: Option<&'a str>,
    /// The value of the rule on the mean effect, and the share of the layers that it counts as used.
    mean: Option<[String; 2]>,
}

fn depth(row: &Depth, layers: usize) -> Cell {
    let mean = row.mean.map(|mean| {
        let share = row.rule.layers_used(mean) / layers as f64;
        [digits(mean), format!("{share:.2}")]
    });
    Cell::from(Serde(DepthRow {
        rule: row.rule.name(),
        about: about(row.rule),
        value: row.value.map(digits),
        ratio: row.ratio.map(|ratio| format!("{ratio:.2}")),
        interval: row.interval.map(|[low, high]| format!("{} to {}", digits(low), digits(high))),
        threshold: row.threshold.map(digits),
        reason: row.reason.as_deref(),
        caution: row.caution.as_deref(),
        mean,
    }))
}

/// What a rule looks at, for the depth table.
fn about(rule: Rule) -> &'static str {
    match rule {
        Rule::Cosine => "last layer where the mean cosine with the stream turns from negative to positive",
        Rule::Kl => {
            "first layer where the early prediction is nearer to the output than a share of the largest distance"
        }
        Rule::KlLast => "first layer from which it stays nearer",
        Rule::Overlap => "first layer whose five likeliest tokens share enough with the output's",
        Rule::Top1 => "first level from which on the early prediction mostly is the output's",
        Rule::SkipLayer => "mean layer, weighted by what later layers lose without it",
        Rule::SkipOutput => "mean layer, weighted by what the output loses without it",
        Rule::InfluenceNumber => "effective number of layers that carry the effect on the output",
        Rule::Influence90 => "smallest number of layers that carry a share of the effect on the output",
        Rule::Settling => {
            "mean over tokens of the number of layers after which the early prediction first comes close to the output; \
             a later rise does not count"
        }
    }
}

fn cost_row(results: &Results, probe: &str) -> Cell {
    let cost = results.cost.get(probe).copied().unwrap_or_default();
    let taken = results.resources.get(probe).copied().unwrap_or_default();
    let saved = cost.macs_naive as f64 / cost.macs.max(1) as f64;
    context! {
        probe => probe,
        gmadds => format!("{:.1}", cost.macs as f64 / 1e9),
        naive => format!("{:.1}", cost.macs_naive as f64 / 1e9),
        saved => format!("{saved:.1}"),
        seconds => format!("{:.1}", taken.seconds),
        peak => format!("{:.0}", taken.peak_bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    #[test]
    fn what_is_left_out_is_reported() {
        let mut results = fixture::results();
        let run = serde_json::json!({"model": {"warnings": ["'x' is not known"]}});
        assert_eq!(warnings(&results, &serde_json::json!({})), [""; 0]);
        results
            .data
            .failed
            .push(fathom_results::FailedPrompt { id: "p7".into(), reason: "it overflows".into() });
        let page = render(&results, &run).unwrap();
        assert!(page.contains("it overflows.") && page.contains("is not known."), "{page}");
    }

    const ATTACK: &str = "</script><img src=x onerror=alert(1)>\"'&{{ 7 * 6 }}";

    #[test]
    fn hostile_text_is_shown_and_never_markup() {
        let mut results = fixture::results();
        results.model.id = ATTACK.to_owned();
        results.model.revision = Some(ATTACK.to_owned());
        results.data.id = ATTACK.to_owned();
        results.depth[1].reason = Some(ATTACK.to_owned());
        results.probes.other.insert(ATTACK.to_owned(), Value::Null);
        let cost = results.cost["lens"];
        results.cost.insert(ATTACK.to_owned(), cost);
        results.data.failed.push(fathom_results::FailedPrompt { id: ATTACK.into(), reason: ATTACK.into() });
        let run = serde_json::json!({
            ATTACK: ATTACK, "svg": "</pre><svg onload=x>", "model": {"warnings": [ATTACK]},
        });
        let page = render(&results, &run).unwrap();
        assert!(!page.contains("<img") && !page.contains("<svg onload"));
        assert_eq!(page.matches("</script").count(), 1);
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"));
        assert!(page.contains("{{ 7 * 6 }}") && !page.contains("42 }}"));
    }

    #[test]
    fn the_page_loads_nothing_and_runs_one_script() {
        let mut results = fixture::results();
        results.data.id = "https://example.org/data.jsonl".to_owned();
        let page = render(&results, &fixture::run()).unwrap();
        for part in ["http://", "https://", "<script ", "<link", "@import", "url(http", " src=", "<iframe"] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn the_page_holds_every_figure_and_its_numbers() {
        let page = render(&fixture::results(), &fixture::run()).unwrap();
        // The gauge and 31 figures.
        assert_eq!(page.matches("<svg").count(), 32);
        // One for each, the erasures not drawn, and run.json.
        assert_eq!(page.matches("<details").count(), 34);
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
        let pair = &mut results.probes.erasure[0];
        pair.tokens = vec![
            ATTACK[..20].to_owned(),
            "</svg><img>".to_owned(),
            "<g data-".to_owned(),
            "$x$".to_owned(),
            "\u{202e}".to_owned(),
        ];
        pair.question = ATTACK.to_owned();
        results.probes.erasure[5].answer = ATTACK.to_owned();
        let pair = &mut results.probes.gradients[0];
        (pair.question, pair.answer) = (ATTACK.to_owned(), ATTACK.to_owned());
        let page = render(&results, &fixture::run()).unwrap();
        assert!(!page.contains("<img") && !page.contains("<g data-"));
        assert_eq!(page.matches("</script").count(), 1);
        assert!(page.contains("&lt;/svg&gt;&lt;img") && page.contains("\\u{202e}"));
        assert_eq!(page.matches("onerror=alert(1)&gt;").count(), 4);
        // The heat maps: two of angles, two of skipped layers, four of erasure, one of gradients.
        assert_eq!(page.matches("<image class=\"cells\"").count(), 9);
    }

    #[test]
    fn long_prompts_of_deep_models_keep_the_page_light() {
        let (layers, tokens) = (64, 400);
        let cell = |l: usize, t: usize| ((l * 7919 + t * 104_729) % 10_007) as f64 / 3001.7;
        let map = |rows: usize| (0..rows).map(|l| (0..tokens).map(|t| cell(l, t)).collect()).collect();
        let mut results = fixture::results();
        let erasure = &mut results.probes.erasure[0];
        erasure.tokens = vec![" token".to_owned(); tokens];
        erasure.effect = map(layers + 1);
        let pair = erasure.clone();
        results.model.layers = layers;
        results.probes = Default::default();
        results.probes.erasure = vec![pair; 4];
        results.validate().unwrap();
        let page = render(&results, &fixture::run()).unwrap();
        // Values without a pattern: pictures of real ones are smaller.
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
}
