//! The page of a study of agents.

use super::agent::Point;
use super::overfitting::Errors;
use super::recipe::Grid;
use super::{Run, Study, Time, table};
use crate::statistics::Mean;
use anyhow::Result;
use fathom_report::charts::{self, Chart, Page, Plot, Scale, Series};
use fathom_results::Folder;
use serde_json::json;
use std::path::Path;

pub(super) fn write(study: &Study, out: &Path) -> Result<()> {
    let recipe = &study.recipe;
    let mut charts: Vec<Chart> = grid(study).map(|(name, grid)| learning(study, name, &grid)).collect();
    charts.extend([efficiency(study), overfitting(study)].into_iter().flatten());
    let environments: Vec<&str> = recipe.environment.keys().map(String::as_str).collect();
    let page = Page {
        title: format!("Reinforcement learning: {}", recipe.name),
        about: format!(
            "{} agents in {}, {} for each setting: double deep Q-networks with residual critics and layer norm.",
            study.runs.len(),
            environments.join(" and "),
            match recipe.seeds.len() {
                1 => "one seed".to_owned(),
                count => format!("{count} seeds"),
            }
        ),
        answer: table::answer(study),
        notes: table::notes(study),
        charts,
        tables: table::tables(study),
        settings: json!({"recipe": recipe}),
    };
    charts::write(&Folder::create(out)?, &page)?;
    Ok(())
}

fn grid(study: &Study) -> impl Iterator<Item = (&String, Grid)> {
    study.recipe.environment.iter().map(|(name, task)| (name, study.recipe.grid_of(task)))
}

fn ends(values: &[usize]) -> [usize; 2] {
    [values.first(), values.last()].map(|value| value.copied().unwrap_or_default())
}

/// The two most different settings of an environment, each at its best batch size.
fn learning(study: &Study, name: &str, grid: &Grid) -> Chart {
    let [widths, depths, updates] = [&grid.widths, &grid.depths, &grid.updates].map(|list| ends(list));
    let labels = ["smallest critic, fewest updates", "largest critic, most updates"];
    let series = labels.into_iter().enumerate().map(|(end, label)| Series {
        label: label.to_owned(),
        color: end,
        line: true,
        points: best_curve(study, name, [widths[end], depths[end], updates[end]]),
        ..Series::default()
    });
    Chart {
        name: format!("rl_learning_{name}"),
        title: format!("Learning curves: {name}"),
        reading: "The return of greedy evaluation episodes: mean over seeds, with its 95 % interval by Student's distribution, at the \
                  batch size with the highest mean return over the second half of the run."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "environment steps".to_owned(), log: false },
        y: Scale { label: "return".to_owned(), log: false },
        panels: vec![Plot { title: String::new(), series: series.collect() }],
    }
}

fn best_curve(study: &Study, environment: &str, [width, depth, updates]: [usize; 3]) -> Vec<charts::Point> {
    let of: Vec<&Run> = study
        .runs
        .iter()
        .filter(|run| run.diverged.is_none() && run.setting.environment == environment)
        .filter(|run| [run.setting.width, run.setting.depth, run.setting.updates] == [width, depth, updates])
        .collect();
    let late = |runs: &[&Run]| {
        let halves = runs.iter().flat_map(|run| &run.curve[run.curve.len() / 2..]);
        let scores: Vec<f64> = halves.map(|point| point.score).collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    };
    let batches = of.chunk_by(|a, b| a.setting.batch == b.setting.batch);
    match batches.max_by(|a, b| late(a).total_cmp(&late(b))) {
        Some(runs) => mean_curve(runs, |point| point.score),
        None => Vec::new(),
    }
}

/// All runs have as many points at the same steps.
fn mean_curve(runs: &[&Run], of: impl Fn(&Point) -> f64) -> Vec<charts::Point> {
    let Some(first) = runs.first() else { return Vec::new() };
    let at = |(i, point): (usize, &Point)| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.curve.get(i)).map(&of).collect();
        let mean = Mean::of(&values)?;
        Some(charts::Point { x: point.step as f64, y: mean.value, interval: mean.interval })
    };
    first.curve.iter().enumerate().filter_map(at).collect()
}

/// Steps to the threshold by updates, a colour for each critic, with the law.
fn efficiency(study: &Study) -> Option<Chart> {
    let panel = |(name, grid): (&String, Grid)| {
        let law = study.times.laws.iter().find(|law| law.environment == *name);
        let times = study.times.times.iter().filter(|time| time.environment == *name);
        // A law has a prediction for each of its times, in order.
        let times: Vec<(&Time, Option<f64>)> = times
            .enumerate()
            .map(|(i, time)| (time, law.and_then(|law| law.predicted.get(i).copied())))
            .collect();
        let mut series = Vec::new();
        for (color, [width, depth]) in grid.critics().into_iter().enumerate() {
            let of: Vec<_> = times.iter().filter(|(t, _)| [t.width, t.depth] == [width, depth]).collect();
            let label = format!("width {width}, depth {depth}");
            series.push(Series {
                label: label.clone(),
                color,
                dots: true,
                points: of.iter().map(|(time, _)| (time.updates as f64, time.steps).into()).collect(),
                ..Series::default()
            });
            let law = of.iter().filter_map(|(time, law)| Some((time.updates as f64, (*law)?).into()));
            series.push(Series {
                label: format!("{label}: law"),
                color,
                dashed: true,
                line: true,
                points: law.collect(),
                ..Series::default()
            });
        }
        series.retain(|series| !series.points.is_empty());
        Plot { title: name.clone(), series }
    };
    (!study.times.times.is_empty()).then(|| Chart {
        name: "rl_efficiency".to_owned(),
        title: "Data efficiency".to_owned(),
        reading: "Environment steps until the mean return over seeds is at the threshold, at the best batch size, and the fitted law. \
                  Settings that never reach it are not shown."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "updates per step".to_owned(), log: true },
        y: Scale { label: "environment steps".to_owned(), log: true },
        panels: grid(study).map(panel).collect(),
    })
}

/// TD errors by batch size, of the smallest and the largest critic, with the fewest and the most updates.
fn overfitting(study: &Study) -> Option<Chart> {
    let mut panels = Vec::new();
    for (name, grid) in grid(study).filter(|(_, grid)| grid.batches.len() > 1) {
        let mut updates = ends(&grid.updates).to_vec();
        updates.dedup();
        for updates in updates {
            let [widths, depths] = [&grid.widths, &grid.depths].map(|list| ends(list));
            let mut series = Vec::new();
            for (color, critic) in ["smallest critic", "largest critic"].into_iter().enumerate() {
                let of: Vec<&Errors> = study
                    .errors
                    .iter()
                    .filter(|errors| errors.environment == *name && errors.updates == updates)
                    .filter(|errors| errors.width == widths[color] && errors.depth == depths[color])
                    .collect();
                series.push(curve(format!("{critic}, validation"), color, false, &of, |of| of.validation));
                series.push(curve(format!("{critic}, training"), color, true, &of, |of| of.training));
            }
            let unit = if updates == 1 { "update" } else { "updates" };
            panels.push(Plot { title: format!("{name}, {updates} {unit} per step"), series });
        }
    }
    (!panels.is_empty()).then(|| Chart {
        name: "rl_overfitting".to_owned(),
        title: "TD error and batch size".to_owned(),
        reading: "The mean squared TD error over the second half of a run, rewards being divided by the largest: on transitions of the \
                  replay buffer, and of episodes held out from it. Geometric means over seeds; whiskers: their 95 % intervals."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "batch size".to_owned(), log: true },
        y: Scale { label: "squared TD error".to_owned(), log: true },
        panels,
    })
}

fn curve(
    label: String,
    color: usize,
    dashed: bool,
    of: &[&Errors],
    mean: impl Fn(&Errors) -> Option<Mean>,
) -> Series {
    let point = |errors: &&Errors| {
        let mean = mean(errors)?;
        Some(charts::Point { x: errors.batch as f64, y: mean.value, interval: mean.interval })
    };
    let points = of.iter().filter_map(point).collect();
    Series { label, color, dashed, dots: true, line: true, points }
}
