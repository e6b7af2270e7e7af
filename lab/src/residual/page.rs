//! The page of a study of students.

use super::Study;
use super::fit::{Exponent, Floored};
use super::recipe::Kind;
use super::student::Student;
use crate::statistics::Mean;
use anyhow::Result;
use fathom_report::charts::{self, Chart, Page, Plot, Scale, Series, Table};
use fathom_results::Folder;
use serde_json::json;
use std::path::Path;

pub(super) fn write(study: &Study, out: &Path) -> Result<()> {
    let seeds = study.recipe.seeds.len();
    let recipe = &study.recipe;
    let page = Page {
        title: format!("Loss and depth: {}", recipe.name),
        about: format!(
            "Students of {} depths learn teachers of {} layers, width {}, for {} steps of {} inputs; {seeds} {} of each.",
            recipe.students.layers.len(),
            recipe.teacher.layers,
            recipe.size.width,
            recipe.training.steps,
            recipe.training.batch,
            if seeds == 1 { "seed" } else { "seeds" }
        ),
        answer: answer(study),
        notes: vec![
            "Where a teacher's layers are independent, theory and arXiv 2602.05970 expect an exponent of about 1.".to_owned(),
        ],
        charts: vec![losses(study), curves(study)],
        tables: vec![table(study), exponents(study)],
        settings: json!({"recipe": recipe}),
    };
    charts::write(&Folder::create(out)?, &page)?;
    Ok(())
}

/// The exponents in words.
pub fn answer(study: &Study) -> String {
    let sentence = |e: &Exponent| {
        let seeds = match (e.over_seeds, e.seeds.len()) {
            (Some(mean), count) if count > 1 => format!("; {} over {count} seeds", mean.text(2)),
            _ => String::new(),
        };
        let interval = e.interval.map_or(String::new(), |[low, high]| format!(" ({low:.2} to {high:.2})"));
        format!(
            "Under {} teachers the loss falls as 1 / layers^{:.2}{interval}{seeds}{}.",
            e.kind.name(),
            e.value,
            e.floored.map_or(String::new(), |f| format!(
                "; as 1 / layers^{} above a loss of {:.3}",
                floored(&f),
                f.floor
            ))
        )
    };
    match study.exponents.is_empty() {
        true => "An exponent needs students of at least three depths.".to_owned(),
        false => study.exponents.iter().map(sentence).collect::<Vec<_>>().join(" "),
    }
}

/// The exponent above a floor, with its interval.
fn floored(found: &Floored) -> String {
    let interval = found.interval.map_or(String::new(), |[low, high]| format!(" ({low:.2} to {high:.2})"));
    format!("{:.2}{interval}", found.value)
}

fn of(study: &Study, kind: Kind) -> impl Iterator<Item = &Student> + Clone {
    study.students.iter().filter(move |student| student.setting.kind == kind)
}

fn losses(study: &Study) -> Chart {
    let panel = |kind: &Kind| {
        let mut series: Vec<Series> = Vec::new();
        for (color, seed) in study.recipe.seeds.iter().enumerate() {
            let students = of(study, *kind).filter(|student| student.setting.seed == *seed);
            series.push(Series {
                label: format!("seed {seed}"),
                color,
                dots: true,
                points: students.map(|s| (s.setting.layers as f64, s.loss).into()).collect(),
                ..Series::default()
            });
        }
        if let Some(found) = study.exponents.iter().find(|found| found.kind == *kind) {
            let at =
                |layers: &usize| (*layers as f64, found.factor / (*layers as f64).powf(found.value)).into();
            series.push(Series {
                label: "fit of all".to_owned(),
                color: 7,
                dashed: true,
                line: true,
                points: depths(study).iter().map(at).collect(),
                ..Series::default()
            });
        }
        Plot { title: format!("{} teachers", kind.name()), series }
    };
    Chart {
        name: "residual_loss".to_owned(),
        title: "Loss and depth".to_owned(),
        reading: "The divergence of each trained student from its teacher on fresh inputs, over the student's layers. A power \
                  law is a line."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "layers of the student".to_owned(), log: true },
        y: Scale { label: "KL divergence, nats".to_owned(), log: true },
        panels: study.recipe.teacher.kinds.iter().map(panel).collect(),
    }
}

fn curves(study: &Study) -> Chart {
    let panel = |kind: &Kind| {
        let series = depths(study).into_iter().enumerate().map(|(color, layers)| Series {
            label: format!("{layers} layers"),
            color,
            line: true,
            points: mean_curve(of(study, *kind).filter(|student| student.setting.layers == layers)),
            ..Series::default()
        });
        Plot { title: format!("{} teachers", kind.name()), series: series.collect() }
    };
    Chart {
        name: "residual_training".to_owned(),
        title: "Training of the students".to_owned(),
        reading: "The mean training loss since the point before, mean over seeds. Where curves still fall, more steps would \
                  change the exponent."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "step".to_owned(), log: false },
        y: Scale { label: "KL divergence, nats".to_owned(), log: true },
        panels: study.recipe.teacher.kinds.iter().map(panel).collect(),
    }
}

/// All students have as many points at the same steps.
fn mean_curve<'a>(students: impl Iterator<Item = &'a Student> + Clone) -> Vec<charts::Point> {
    let Some(first) = students.clone().next() else { return Vec::new() };
    let mean = |i: usize| {
        let losses: Vec<f64> = students.clone().filter_map(|s| Some(s.curve.get(i)?.1)).collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    first.curve.iter().enumerate().map(|(i, (step, _))| (*step as f64, mean(i)).into()).collect()
}

fn depths(study: &Study) -> Vec<usize> {
    let mut depths = study.recipe.students.layers.clone();
    depths.sort_unstable();
    depths
}

fn table(study: &Study) -> Table {
    let cell = |layers: usize, kind: &Kind| {
        let students = of(study, *kind).filter(|student| student.setting.layers == layers);
        Mean::of(&students.map(|student| student.loss).collect::<Vec<_>>())
            .map_or(String::new(), |mean| mean.text(5))
    };
    let kinds = &study.recipe.teacher.kinds;
    let row = |layers: usize| {
        std::iter::once(layers.to_string()).chain(kinds.iter().map(|kind| cell(layers, kind))).collect()
    };
    Table {
        title: "Losses".to_owned(),
        reading: "Nats, with 95 % intervals over seeds by Student's distribution.".to_owned(),
        headings: ["layers".to_owned()]
            .into_iter()
            .chain(kinds.iter().map(|kind| format!("{} teachers", kind.name())))
            .collect(),
        rows: depths(study).into_iter().map(row).collect(),
    }
}

fn exponents(study: &Study) -> Table {
    let rows = study.exponents.iter().map(|e| {
        let interval = e.interval.map_or(String::new(), |[low, high]| format!("{low:.3} to {high:.3}"));
        let local = e.local.iter().map(|(from, to, a)| format!("{from} to {to}: {a:.2}"));
        vec![
            e.kind.name().to_owned(),
            format!("{:.3}", e.value),
            interval,
            e.over_seeds.map_or(String::new(), |mean| mean.text(3)),
            format!("{:.4}", e.r2),
            e.floored.map_or(String::new(), |found| floored(&found)),
            e.floored.map_or(String::new(), |found| format!("{:.4}", found.floor)),
            local.collect::<Vec<_>>().join(", "),
        ]
    });
    Table {
        title: "Exponents".to_owned(),
        reading: "The law c / layers^a, fitted by least squares of logarithms (`fathom fit custom`). The bootstrap resamples \
                  students; the interval over seeds is that of the exponents of each seed alone, by Student's distribution. The law with a floor is c / layers^a + l0."
            .to_owned(),
        headings: [
            "teachers",
            "exponent",
            "bootstrap",
            "over seeds",
            "R²",
            "exponent above a floor",
            "floor",
            "between depths",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    }
}
