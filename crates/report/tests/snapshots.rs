//! Snapshots of everything that a reader sees: figures, terminal text and pages. A change of a snapshot is a change of
//! the output: look at it, then accept it with `INSTA_UPDATE=always cargo test --release -p fathom-report`.
//!
//! Pictures, style, script and version are left out, so that only what this crate writes can change a snapshot.

use fathom_report::plots::{self, Figure};
use fathom_report::study::{self, StudyAnswer, StudyCell, StudyData, StudyModel, StudyPage, Table};
use fathom_report::{Style, html, table};
use fathom_results::*;

const LAYERS: usize = 4;

fn mean_median(mean: [f64; LAYERS]) -> MeanMedian {
    MeanMedian { mean: mean.to_vec(), median: mean.map(|value| 0.75 * value).to_vec() }
}

/// A square of effects with a diagonal of zeros and none on earlier layers.
fn effects(scale: f64) -> Vec<Vec<f64>> {
    let cell = |s: usize, l: usize| if l > s { scale / (l - s) as f64 } else { 0.0 };
    (0..LAYERS).map(|s| (0..LAYERS).map(|l| cell(s, l)).collect()).collect()
}

fn depth(rule: Rule, threshold: Option<f64>, value: f64) -> Depth {
    let used = rule.layers_used(value);
    Depth {
        threshold,
        value: Some(value),
        layers_used: Some(used),
        ratio: Some(used / LAYERS as f64),
        interval: Some([value - 1.0, value + 0.5]),
        interval_of: Some(IntervalOf::Value),
        ..Depth::none(rule)
    }
}

/// Results of a model with four layers: every kind of figure, and every kind of row in the depth table.
fn small() -> Results {
    let mut results = fixture::results();
    results.model.layers = LAYERS;
    results.depth = vec![
        depth(Rule::Kl, Some(0.5), 2.0),
        Depth {
            caution: Some("the curve rises after layer 1".into()),
            ..depth(Rule::KlLast, Some(0.5), 1.0)
        },
        Depth { reason: Some("the mean cosine never changes sign".into()), ..Depth::none(Rule::Cosine) },
        Depth {
            mean: Some(1.5),
            interval: Some([1.25, 1.75]),
            interval_of: Some(IntervalOf::Mean),
            ..depth(Rule::SkipOutput, None, 2.0)
        },
        depth(Rule::Influence90, Some(0.9), 3.0),
        depth(Rule::Settling, Some(0.5), 2.8),
    ];
    let parts = |sign: f64, scale: f64| Parts {
        attn: mean_median([0.5, 0.25, 0.125, sign * 0.25].map(|value| scale * value)),
        mlp: mean_median([2.0, 0.5, sign * 0.5, 1.0].map(|value| scale * value)),
        layer: mean_median([2.5, sign * 0.5, 0.5, 1.25].map(|value| scale * value)),
    };
    let probes = &mut results.probes;
    let contributions = probes.contributions.as_mut().unwrap();
    (contributions.relative_norm, contributions.cosine) = (parts(1.0, 1.0), parts(-1.0, 0.25));
    probes.lens = Some(LensCurves {
        kl_lens_final: vec![8.0, 6.0, 3.0, 1.0, 0.0],
        kl_final_lens: vec![20.0, 5.0, 2.0, 0.5, 0.0],
        jsd_bits: vec![0.9, 0.8, 0.5, 0.25, 0.0],
        overlap: vec![0.0, 0.25, 0.5, 0.75, 1.0],
        top1_agreement: vec![0.0, 0.125, 0.25, 0.75, 1.0],
        entropy: vec![8.0, 6.0, 4.0, 3.5, 3.0],
        nll: vec![11.0, 9.0, 6.0, 4.5, 3.25],
        kl_over_ln_vocab: Vec::new(),
    });
    let similarity = probes.similarity.as_mut().unwrap();
    similarity.block_influence = vec![0.5, 0.05, 0.02, 0.2];
    let angular: Vec<Vec<f64>> =
        (1..=LAYERS).map(|n| (0..=LAYERS - n).map(|l| (n + l) as f64 / 16.0).collect()).collect();
    (similarity.angular_last, similarity.angular_mean) = (angular.clone(), angular);
    let angles = probes.angles.as_mut().unwrap();
    (angles.step, angles.to_end) = (vec![1.5, 0.5, 0.25, 0.75], vec![1.5, 1.25, 1.0, 0.75]);
    (angles.updates, angles.last_layer_nll) = (vec![1.25, 1.5, 1.75], vec![10.0, 7.0, 5.0, 3.25]);
    angles.fit = None;
    angles.components.truncate(1);
    angles.components[0].weights = vec![0.5, -0.5, 0.5, 0.5];
    angles.centre_by_position = vec![0.5, 1.5, 1.75];
    let settling = probes.settling.as_mut().unwrap();
    settling.mean_settle_layer = 2.8;
    settling.deep_layer = 4;
    settling.histogram = vec![0, 10, 25, 40, 25];
    let output = OverPrompts { max: vec![1.25, 1.0, 0.5, 0.25], mean: vec![0.5, 0.5, 0.25, 0.125] };
    for (_, of_mode) in probes.skip.iter_mut().flatten() {
        for summary in of_mode.values_mut() {
            summary.layer_effect.max = effects(1.5);
            summary.layer_effect.mean = effects(0.5);
            if let Some(effect) = &mut summary.output_effect {
                *effect = output.clone();
            }
        }
    }
    let of_layers = |count: usize| OrderEffects {
        kl: (1..=count).map(|l| 4.0 / l as f64).collect(),
        top1_agreement: (1..=count).map(|l| l as f64 / 8.0).collect(),
        nll: (1..=count).map(|l| 3.25 + 2.0 / l as f64).collect(),
    };
    probes.order = Some(Order {
        skip: of_layers(LAYERS),
        swap: of_layers(LAYERS - 1),
        reverse: of_layers(LAYERS - 2),
        middle_from: vec![1],
        middle_reverse: of_layers(1),
        middle_repeat: of_layers(1),
        middle_parallel: of_layers(1),
    });
    probes.erasure.truncate(1);
    probes.erasure[0].effect =
        (0..=LAYERS).map(|l| (0..5).map(|t| ((LAYERS - l) * t) as f64 / 16.0).collect()).collect();
    let gradients = &mut probes.gradients[0].gradients;
    gradients.attribution =
        (0..LAYERS).map(|l| (0..5).map(|t| (t as f64 - 2.0) / (l + 1) as f64).collect()).collect();
    gradients.completeness_error.truncate(LAYERS);
    gradients.interval_error.as_mut().unwrap().truncate(LAYERS);
    gradients.nodes.truncate(LAYERS);
    let rules = &mut results.uncertainty.as_mut().unwrap().rules;
    rules.truncate(1);
    rules[0].histogram =
        Some(ResampleHistogram { edges: vec![0.5, 1.5, 2.5, 3.5], counts: vec![100, 1700, 197], none: 3 });
    let point = |threshold: f64, value: f64| SweepPoint {
        threshold,
        value: Some(value),
        ratio: Some((value + 1.0) / LAYERS as f64),
        mean: None,
        interval: Some([value - 1.0, value + 0.5]),
    };
    rules[0].sweep = vec![point(0.25, 3.0), point(0.5, 2.0), point(0.75, 1.0)];
    for (width, low) in rules[0].by_prompts.iter_mut().zip([0.5, 1.0]) {
        (width.interval, width.width) = (Some([low, 2.5]), Some(2.5 - low));
    }
    results.validate().unwrap();
    results
}

fn small_study() -> StudyPage {
    let model = |name: &str, size: f64, kind: &str| StudyModel {
        name: name.to_owned(),
        family: Some("Example".to_owned()),
        size: Some(size),
        kind: Some(kind.to_owned()),
    };
    let data = |name: &str, order: f64| StudyData {
        name: name.to_owned(),
        difficulty: Some((name.to_owned(), order)),
        series: Some("sums".to_owned()),
    };
    let cell = |model: usize, data: usize| {
        let mut results = small();
        results.depth[0] = depth(Rule::Kl, Some(0.5), (1 + data) as f64);
        let report = Some(format!("model-{model}/data-{data}/report.html"));
        StudyCell { model, data, results: Some(results), reason: None, report }
    };
    let missing =
        StudyCell { model: 2, data: 1, results: None, reason: Some("killed".to_owned()), report: None };
    StudyPage {
        title: "Example study".to_owned(),
        models: vec![
            model("small", 0.135, "base"),
            model("large", 1.7, "base"),
            model("chat", 1.7, "instruct"),
        ],
        data: vec![data("hard", 2.0), data("easy", 1.0)],
        cells: vec![cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1), cell(2, 0), missing],
        answers: vec![StudyAnswer {
            question: "Do larger models use more of their depth?".to_owned(),
            summary: "There is no evidence that they do.".to_owned(),
            details: vec!["kl: from small to large".to_owned()],
            others: vec!["overlap: from small to large".to_owned()],
        }],
        tables: vec![Table {
            title: "All cells".to_owned(),
            headings: vec!["model".to_owned(), "kl".to_owned()],
            rows: vec![vec!["small".to_owned(), "2 (0.75)".to_owned()]],
        }],
        settings: vec![("seed".to_owned(), "42".to_owned())],
    }
}

/// The text with what stands between each pair of marks left out.
fn without(text: &str, start: &str, end: &str) -> String {
    let mut parts = text.split(start);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.find(end).map_or("", |at| &part[at..]);
        out.extend([start, "[left out]", rest]);
    }
    out
}

/// An element per line, without the pictures of heat maps.
fn readable(svg: &str) -> String {
    without(svg, "base64,", "\"").replace("><", ">\n<")
}

/// The page without style, script and version, and with the inside of its first figure only.
fn redacted(page: &str) -> String {
    let page = without(page, "<style>", "</style>");
    let page = without(&page, "<script>", "</script>");
    let page = without(&page, "sha256-", "'");
    let page = without(&page, "Written by fathom ", ".</p>");
    let first = page.find("</svg>").unwrap_or(page.len());
    let (head, rest) = page.split_at(first);
    readable(head) + &without(rest, "<svg", "</svg>")
}

fn check_figures(all: &[Figure], names: &[&str]) {
    for name in names {
        let figure = all.iter().find(|figure| figure.name == *name).unwrap();
        insta::assert_snapshot!(*name, readable(&figure.svg().unwrap()));
    }
}

#[test]
fn figures_of_a_run() {
    let results = small();
    let mut all = plots::figures(&results);
    all.extend(plots::depth_gauge(&results));
    let names = [
        "depth_gauge",
        "contributions_relative_norm",
        "contributions_cosine",
        "lens_kl",
        "lens_kl_output",
        "lens_overlap",
        "similarity_angular_last",
        "settling_histogram",
        "angles_step",
        "angles_centre",
        "skip_future_layer",
        "skip_future_layer_output",
        "order_layers",
        "erasure_effect_1",
        "gradients_attribution_1",
        "lens_resamples",
        "lens_thresholds",
        "lens_prompts",
    ];
    check_figures(&all, &names);
}

#[test]
fn figures_of_a_study() {
    let names = ["study_ratio_by_size", "study_ratio_by_difficulty_1", "study_lens_kl"];
    check_figures(&study::figures(&small_study()), &names);
}

#[test]
fn terminal() {
    let results = small();
    let summary = |unicode, width, colour| table::summary(&results, Style { unicode, width, colour });
    insta::assert_snapshot!("summary_unicode_100", summary(true, 100, false));
    insta::assert_snapshot!("summary_ascii_60", summary(false, 60, false));
    insta::assert_snapshot!("summary_colour_80", summary(true, 80, true).replace('\x1b', "ESC"));
    let depths = table::depths(&results, Style { unicode: true, width: 80, colour: false });
    insta::assert_snapshot!("depths", depths);
}

#[test]
fn pages() {
    let page = html::render(&small(), &fixture::run()).unwrap();
    insta::assert_snapshot!("report.html", redacted(&page));
    insta::assert_snapshot!("study.html", redacted(&study::render(&small_study()).unwrap()));
}
