//! The page of a study of repeated data.

use super::table::{LOSSES, depths, losses, rules};
use super::{Group, Study};
use crate::statistics::Mean;
use anyhow::Result;
use fathom_report::charts::{self, Chart, Page, Plot, Point, Scale, Series, Table};
use fathom_results::Folder;
use serde_json::json;
use std::path::Path;

pub(super) fn write(study: &Study, out: &Path) -> Result<()> {
    let recipe = &study.recipe;
    let mut charts = vec![loss_chart(study), gap_chart(study)];
    charts.extend(depth_chart(study));
    let mut tables = vec![Table {
        title: "Losses".to_owned(),
        reading: READING.to_owned(),
        headings: LOSSES.map(str::to_owned).to_vec(),
        rows: losses(study),
    }];
    let (headings, rows) = depths(study);
    if headings.len() > 3 {
        tables.push(Table {
            title: "Effective depths".to_owned(),
            reading: "The share of the layers that each rule counts as used, on held-out texts: mean over seeds, with its 95 % \
                      interval by Student's distribution. Seeds for which a rule finds no depth are left out of its mean."
                .to_owned(),
            headings,
            rows,
        });
    }
    let page = Page {
        title: format!("Repeated data: {}", recipe.name),
        about: format!(
            "{} runs of {} tokens each, {} seeds; texts: {}.",
            study.runs.len(),
            recipe.training.tokens,
            recipe.seeds.len(),
            recipe.data.texts
        ),
        answer: answer(study),
        notes: study.notes.clone(),
        charts,
        tables,
        settings: json!({"recipe": recipe}),
    };
    charts::write(&Folder::create(out)?, &page)?;
    Ok(())
}

const READING: &str = "Nats per token: means over seeds, with 95 % intervals by Student's distribution. Gaps and changes are \
     differences of held-out losses, seed by seed: to the run with the fewest epochs, beyond the same gap of the next smaller \
     size, and to the first regulariser. Training losses are with dropout.";

/// What repeating most often costs, in words.
pub(super) fn answer(study: &Study) -> String {
    let most = study.recipe.epochs.iter().max().copied().unwrap_or_default();
    let sentence = |group: &Group| {
        let gap = group.gap?;
        let sign = if gap.value < 0.0 { "less" } else { "more" };
        let size = Mean { value: gap.value.abs(), interval: None };
        let interval = gap.interval.map_or(String::new(), |[low, high]| format!(" ({low:.3} to {high:.3})"));
        Some(format!("{}, {}: {} nats {sign}{interval}", group.size, group.regulariser, size.text(3)))
    };
    let parts: Vec<String> = study.groups.iter().filter(|g| g.epochs == most).filter_map(sentence).collect();
    match parts.is_empty() {
        true => "There is one number of epochs, so nothing is compared.".to_owned(),
        false => format!(
            "Held-out loss with {most} epochs against the fewest, at the same budget: {}.",
            parts.join("; ")
        ),
    }
}

fn point(epochs: usize, mean: Option<Mean>) -> Option<Point> {
    mean.map(|mean| Point { x: epochs as f64, y: mean.value, interval: mean.interval })
}

/// A panel for each size; a curve for each regulariser.
fn panels(study: &Study, series: impl Fn(&str, &str, usize) -> Vec<Series>) -> Vec<Plot> {
    let panel = |size: &str| {
        let regularisers = study.recipe.regularisers();
        let all = regularisers.iter().enumerate().flat_map(|(color, name)| series(size, name, color));
        Plot { title: size.to_owned(), series: all.collect() }
    };
    study.recipe.sizes().into_iter().map(panel).collect()
}

fn of<'a>(study: &'a Study, size: &'a str, regulariser: &'a str) -> impl Iterator<Item = &'a Group> {
    study.groups.iter().filter(move |group| group.size == size && group.regulariser == regulariser)
}

fn loss_chart(study: &Study) -> Chart {
    let series = |size: &str, regulariser: &str, color: usize| {
        let curve = |label: String, dashed: bool, mean: fn(&Group) -> Option<Mean>| Series {
            label,
            color,
            dashed,
            dots: true,
            line: true,
            points: of(study, size, regulariser).filter_map(|g| point(g.epochs, mean(g))).collect(),
        };
        vec![
            curve(format!("{regulariser}, held-out"), false, |group| group.validation_loss),
            curve(format!("{regulariser}, training"), true, |group| group.training_loss),
        ]
    };
    Chart {
        name: "repeat_loss".to_owned(),
        title: "Loss against epochs".to_owned(),
        reading: "Every run sees as many tokens; with more epochs, fewer of them are unique. Whiskers: 95 % intervals over seeds."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "epochs".to_owned(), log: true },
        y: Scale { label: "nats per token".to_owned(), log: false },
        panels: panels(study, series),
    }
}

fn gap_chart(study: &Study) -> Chart {
    let series = |size: &str, regulariser: &str, color: usize| {
        vec![Series {
            label: regulariser.to_owned(),
            color,
            dots: true,
            line: true,
            points: of(study, size, regulariser).filter_map(|g| point(g.epochs, g.gap)).collect(),
            ..Series::default()
        }]
    };
    Chart {
        name: "repeat_gap".to_owned(),
        title: "What repeating costs".to_owned(),
        reading: "Held-out loss less that of the run with the fewest epochs, seed by seed. Whiskers: 95 % intervals over seeds."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "epochs".to_owned(), log: true },
        y: Scale { label: "nats per token".to_owned(), log: false },
        panels: panels(study, series),
    }
}

/// A panel for each rule; a curve for each size and regulariser.
fn depth_chart(study: &Study) -> Option<Chart> {
    let panel = |rule: &String| {
        let mut series = Vec::new();
        for (i, size) in study.recipe.sizes().into_iter().enumerate() {
            for (color, regulariser) in study.recipe.regularisers().into_iter().enumerate() {
                let depth = |group: &Group| {
                    let (_, mean) = group.depth.iter().find(|(name, _)| name == rule)?;
                    point(group.epochs, Some(*mean))
                };
                series.push(Series {
                    label: format!("{size}, {regulariser}"),
                    color: i * study.recipe.regulariser.len() + color,
                    dots: true,
                    line: true,
                    points: of(study, size, regulariser).filter_map(depth).collect(),
                    ..Series::default()
                });
            }
        }
        Plot { title: rule.clone(), series }
    };
    let panels: Vec<Plot> = rules(study).iter().map(panel).collect();
    (!panels.is_empty()).then(|| Chart {
        name: "repeat_depth".to_owned(),
        title: "Effective depth against epochs".to_owned(),
        reading: "The share of the layers that each rule counts as used, on held-out texts. Whiskers: 95 % intervals over seeds."
            .to_owned(),
        caption: study.recipe.name.clone(),
        x: Scale { label: "epochs".to_owned(), log: true },
        y: Scale { label: "share of the layers".to_owned(), log: false },
        panels,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Recipe, Run, groups, markdown};
    use super::*;
    use crate::repeat::Depth;
    use crate::settings;

    #[test]
    fn gaps_are_compared_seed_by_seed() {
        let recipe: Recipe = settings::parse(
            "name = 'a'\nseeds = [1, 2]\nepochs = [4, 1]\n[size.l]\nwidth = 32\nlayers = 2\nheads = 2\ncontext = 16\n[size.s]\nwidth = 16\nlayers = 2\nheads = 2\ncontext = 16\n[regulariser.none]\n[regulariser.drop]\ndropout = 0.1\n[training]\ntokens = 640\nbatch = 4\n",
        )
        .unwrap();
        let mut runs = Vec::new();
        for cell in recipe.cells() {
            let seed = cell.recipe.seed as f64;
            // The seed moves all losses, so paired differences have no spread.
            let repeated = f64::from(u8::from(cell.epochs == 4));
            let loss =
                seed + repeated * if cell.size == "l" { 0.5 } else { 0.2 } - cell.recipe.training.dropout;
            runs.push(Run {
                size: cell.size,
                regulariser: cell.regulariser,
                epochs: cell.epochs,
                seed: cell.recipe.seed,
                unique: 1,
                parameters: 1,
                training_loss: 1.0,
                validation_loss: loss,
                best_validation_loss: loss,
                depth: vec![Depth { rule: "kl".to_owned(), value: Some(1.0), ratio: Some(0.5 * seed) }],
            });
        }
        let groups = groups(&recipe, &runs);
        assert_eq!(groups.len(), 8);
        let found = |size: &str, regulariser: &str, epochs: usize| {
            groups
                .iter()
                .find(|g| g.size == size && g.regulariser == regulariser && g.epochs == epochs)
                .unwrap()
        };
        let close = |mean: Option<Mean>, value: f64| {
            let mean = mean.unwrap();
            let [low, high] = mean.interval.unwrap();
            assert!((mean.value - value).abs() < 1e-12 && high - low < 1e-9, "{mean:?}");
        };
        close(found("l", "none", 4).gap, 0.5);
        close(found("l", "none", 4).gap_beyond_smaller, 0.3);
        close(found("l", "drop", 4).change, -0.1);
        assert_eq!((found("s", "none", 4).gap_beyond_smaller, found("s", "none", 1).gap), (None, None));
        assert_eq!(found("s", "none", 4).depth[0].1.value, 0.75);
        let study = Study { recipe, groups, runs, notes: vec!["<note>".to_owned()] };
        let text = markdown(&study);
        assert!(
            text.contains("| l | none | 4 | 1.000 (1.000 to 1.000) |") && text.contains("| kl |"),
            "{text}"
        );
        let out = tempfile::tempdir().unwrap();
        write(&study, out.path()).unwrap();
        let page = std::fs::read_to_string(out.path().join("report.html")).unwrap();
        assert!(page.contains("&lt;note&gt;") && page.contains("l, none: 0.500 nats more"), "{page}");
        assert!(out.path().join("plots/repeat_depth.svg").is_file());
    }
}
