//! Table and page of a comparison of mixtures.

use super::{Measured, Mixture, Run, Study};
use crate::statistics::Mean;
use anyhow::Result;
use fathom_report::charts::{self, Chart, Page, Plot, Point, Scale, Series, Table};
use fathom_results::Folder;
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// A mixture: means over seeds on the test set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The mixture.
    pub mixture: String,
    /// The share of right answers.
    pub accuracy: Option<Mean>,
    /// The tokens of a solution.
    pub length: Option<Mean>,
    /// The weight of short solutions at the end.
    pub short: Option<Mean>,
    /// The accuracy less that of fixed mixtures of the same length, seed by seed: on the line between the two whose lengths
    /// enclose it. Of the controlled mixture alone, where its length is within theirs.
    pub above_fixed: Option<Mean>,
}

/// The mixtures, in the order of the runs of a seed.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut names: Vec<String> = Vec::new();
    for name in runs.iter().map(|run| run.mixture.name()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let row = |mixture: String| {
        let of = || runs.iter().filter(|run| run.mixture.name() == mixture);
        let mean = |value: fn(&Run) -> f64| Mean::of(&of().map(value).collect::<Vec<_>>());
        let above: Vec<f64> = of().filter_map(|run| above_fixed(run, runs)).collect();
        Row {
            accuracy: mean(|run| run.test.accuracy),
            length: mean(|run| run.test.length),
            short: mean(|run| run.curve.last().map_or(f64::NAN, |measured| measured.short)),
            above_fixed: Mean::of(&above),
            mixture,
        }
    };
    names.into_iter().map(row).collect()
}

fn above_fixed(run: &Run, runs: &[Run]) -> Option<f64> {
    if matches!(run.mixture, Mixture::Fixed(_)) {
        return None;
    }
    let is_fixed = |other: &&Run| other.seed == run.seed && matches!(other.mixture, Mixture::Fixed(_));
    let mut fixed: Vec<[f64; 2]> =
        runs.iter().filter(is_fixed).map(|other| [other.test.length, other.test.accuracy]).collect();
    fixed.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let at = run.test.length;
    let pair = fixed.windows(2).find(|pair| pair[0][0] <= at && at <= pair[1][0])?;
    let share = if pair[1][0] > pair[0][0] { (at - pair[0][0]) / (pair[1][0] - pair[0][0]) } else { 0.0 };
    Some(run.test.accuracy - (pair[0][1] + share * (pair[1][1] - pair[0][1])))
}

const HEADINGS: [&str; 5] =
    ["mixture", "accuracy", "tokens of a solution", "weight of short ones at the end", "above fixed ones"];

fn cells(study: &Study) -> Vec<Vec<String>> {
    let text = |mean: Option<Mean>, decimals: usize| mean.map_or(String::new(), |mean| mean.text(decimals));
    let row = |row: &Row| {
        vec![
            row.mixture.clone(),
            text(row.accuracy, 3),
            text(row.length, 1),
            text(row.short, 3),
            text(row.above_fixed, 3),
        ]
    };
    study.rows.iter().map(row).collect()
}

/// The table as Markdown.
pub fn markdown(study: &Study) -> String {
    crate::repeat::table(&HEADINGS.map(str::to_owned), &cells(study))
}

/// A line for each measurement on the development set.
pub(super) fn csv(study: &Study) -> String {
    let mut text = "mixture,seed,step,loss,length,accuracy,short\n".to_owned();
    for run in &study.runs {
        for Measured { step, loss, development, short } in &run.curve {
            let (length, accuracy) = (development.length, development.accuracy);
            text +=
                &format!("{},{},{step},{loss},{length},{accuracy},{short}\n", run.mixture.name(), run.seed);
        }
    }
    text
}

pub(super) fn write(study: &Study, out: &Path) -> Result<()> {
    let recipe = &study.recipe;
    let [least, most] = recipe.problems.digits;
    let page = Page {
        title: format!("Short and long solutions: {}", recipe.name),
        about: format!(
            "A decoder of {} layers, width {}, learns sums of {least} to {most} digits in {} steps of {}; {} seeds.",
            recipe.model.layers,
            recipe.model.width,
            recipe.training.steps,
            recipe.training.batch,
            recipe.seeds.len()
        ),
        answer: answer(study),
        notes: vec![
            "The controller measures sampled solutions of a development set, and moves weight to long solutions where answers \
             are wrong and to short ones where solutions are long (arXiv 2506.02678). Its bounds are what training on either \
             alone leads to."
                .to_owned(),
        ],
        charts: vec![
            frontier(study),
            curves(study, "mix_weight", "Weight of short solutions", "weight", |measured| measured.short),
            curves(study, "mix_accuracy", "Accuracy", "share of right answers", |m| m.development.accuracy),
            curves(study, "mix_length", "Length", "tokens of a solution", |m| m.development.length),
        ],
        tables: vec![Table {
            title: "Mixtures".to_owned(),
            reading: READING.to_owned(),
            headings: HEADINGS.map(str::to_owned).to_vec(),
            rows: cells(study),
        }],
        settings: json!({"recipe": recipe}),
    };
    charts::write(&Folder::create(out)?, &page)?;
    Ok(())
}

const READING: &str = "On test problems: means over seeds, with 95 % intervals by Student's distribution. The last column is \
     the accuracy less that of the fixed mixtures at the same length, by a line between the two whose lengths enclose it, seed \
     by seed.";

pub(super) fn answer(study: &Study) -> String {
    let controlled = study.rows.iter().find(|row| row.short.is_some() && row.mixture == "controlled");
    let Some((row, accuracy, length)) = controlled.and_then(|row| Some((row, row.accuracy?, row.length?)))
    else {
        return "The study has no run with the controller.".to_owned();
    };
    let above = match row.above_fixed {
        Some(mean) => format!(" against fixed mixtures of the same length: {}", mean.text(3)),
        None => String::new(),
    };
    format!(
        "The controlled mixture is right in {} with {} tokens;{}.",
        accuracy.text(3),
        length.text(1),
        if above.is_empty() { " its length is not within that of the fixed ones".to_owned() } else { above }
    )
}

/// Accuracy against length on the test set, a dot for each run.
fn frontier(study: &Study) -> Chart {
    let series = |(color, row): (usize, &Row)| Series {
        label: row.mixture.clone(),
        color,
        dots: true,
        points: study
            .runs
            .iter()
            .filter(|run| run.mixture.name() == row.mixture)
            .map(|run| (run.test.length, run.test.accuracy).into())
            .collect(),
        ..Series::default()
    };
    Chart {
        name: "mix_frontier".to_owned(),
        title: "Accuracy and length".to_owned(),
        reading: "Each trained model on test problems. A mixture above the others is right more often at the same length."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "tokens of a solution".to_owned(), log: false },
        y: Scale { label: "share of right answers".to_owned(), log: false },
        panels: vec![Plot {
            title: String::new(),
            series: study.rows.iter().enumerate().map(series).collect(),
        }],
    }
}

fn curves(study: &Study, name: &str, title: &str, label: &str, value: fn(&Measured) -> f64) -> Chart {
    let series = |(color, row): (usize, &Row)| Series {
        label: row.mixture.clone(),
        color,
        line: true,
        points: curve(study, &row.mixture, value),
        ..Series::default()
    };
    Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        reading: "On the development set, mean over seeds; the surface is the controlled mixture's 95 % interval over seeds.".to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "step".to_owned(), log: false },
        y: Scale { label: label.to_owned(), log: false },
        panels: vec![Plot {
            title: String::new(),
            series: study.rows.iter().enumerate().map(series).collect(),
        }],
    }
}

fn curve(study: &Study, mixture: &str, value: fn(&Measured) -> f64) -> Vec<Point> {
    let runs: Vec<&Run> = study.runs.iter().filter(|run| run.mixture.name() == mixture).collect();
    let Some(first) = runs.first() else { return Vec::new() };
    let is_controlled = matches!(first.mixture, Mixture::Controlled { .. });
    let point = |(i, measured): (usize, &Measured)| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.curve.get(i)).map(value).collect();
        let mean = Mean::of(&values)?;
        // The surfaces of all mixtures together would hide the curves.
        let interval = mean.interval.filter(|_| is_controlled);
        Some(Point { x: measured.step as f64, y: mean.value, interval })
    };
    first.curve.iter().enumerate().filter_map(point).collect()
}
