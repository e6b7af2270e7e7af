//! Means over seeds, and the tables of a study of repeated data.

use super::{Recipe, Run, Study};
use crate::statistics::Mean;
use serde::Serialize;

/// The runs of a size, a regulariser and a number of epochs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Group {
    /// The size.
    pub size: String,
    /// The regulariser.
    pub regulariser: String,
    /// The epochs.
    pub epochs: usize,
    /// The training loss.
    pub training_loss: Option<Mean>,
    /// The loss on held-out texts.
    pub validation_loss: Option<Mean>,
    /// The held-out loss less that of the run with the fewest epochs, seed by seed; none for that run itself.
    pub gap: Option<Mean>,
    /// By how much the gap of the size before is smaller, seed by seed; none for the smallest.
    pub gap_beyond_smaller: Option<Mean>,
    /// The held-out loss less that of the first regulariser, seed by seed; none for that itself.
    pub change: Option<Mean>,
    /// The share of the layers that each rule counts as used.
    pub depth: Vec<(String, Mean)>,
}

/// The groups, by size, regulariser and epochs.
pub fn groups(recipe: &Recipe, runs: &[Run]) -> Vec<Group> {
    let grid = Grid { recipe, runs };
    let mut all = Vec::new();
    for (i, size) in recipe.sizes().into_iter().enumerate() {
        for (j, regulariser) in recipe.regularisers().into_iter().enumerate() {
            for epochs in sorted(&recipe.epochs) {
                let smaller = i.checked_sub(1).map(|i| recipe.sizes()[i]);
                let first = (j > 0).then(|| recipe.regularisers()[0]);
                all.push(grid.group([size, regulariser], epochs, smaller, first));
            }
        }
    }
    all
}

struct Grid<'a> {
    recipe: &'a Recipe,
    runs: &'a [Run],
}

impl Grid<'_> {
    fn group(&self, at: [&str; 2], epochs: usize, smaller: Option<&str>, first: Option<&str>) -> Group {
        let [size, regulariser] = at;
        let losses = |loss: fn(&Run) -> f64| {
            let of = self.recipe.seeds.iter().filter_map(|seed| self.run(at, epochs, *seed).map(loss));
            Mean::of(&of.collect::<Vec<_>>())
        };
        let beyond = smaller.map(|smaller| {
            self.over_seeds(|seed| {
                Some(self.gap(at, epochs, seed)? - self.gap([smaller, regulariser], epochs, seed)?)
            })
        });
        let change = first.map(|first| {
            self.over_seeds(|seed| {
                Some(self.held_out(at, epochs, seed)? - self.held_out([size, first], epochs, seed)?)
            })
        });
        Group {
            size: size.to_owned(),
            regulariser: regulariser.to_owned(),
            epochs,
            training_loss: losses(|run| run.training_loss),
            validation_loss: losses(|run| run.validation_loss),
            gap: self.over_seeds(|seed| self.gap(at, epochs, seed)),
            gap_beyond_smaller: beyond.flatten(),
            change: change.flatten(),
            depth: self.depths(at, epochs),
        }
    }

    fn run(&self, [size, regulariser]: [&str; 2], epochs: usize, seed: u64) -> Option<&Run> {
        let is_it = |run: &&Run| {
            run.size == size && run.regulariser == regulariser && run.epochs == epochs && run.seed == seed
        };
        self.runs.iter().find(is_it)
    }

    fn over_seeds(&self, value: impl Fn(u64) -> Option<f64>) -> Option<Mean> {
        Mean::of(&self.recipe.seeds.iter().filter_map(|seed| value(*seed)).collect::<Vec<_>>())
    }

    fn held_out(&self, at: [&str; 2], epochs: usize, seed: u64) -> Option<f64> {
        self.run(at, epochs, seed).map(|run| run.validation_loss)
    }

    /// The held-out loss less that with the fewest epochs.
    fn gap(&self, at: [&str; 2], epochs: usize, seed: u64) -> Option<f64> {
        let fewest = *self.recipe.epochs.iter().min()?;
        let gap = || Some(self.held_out(at, epochs, seed)? - self.held_out(at, fewest, seed)?);
        if epochs == fewest { None } else { gap() }
    }

    fn depths(&self, at: [&str; 2], epochs: usize) -> Vec<(String, Mean)> {
        let runs: Vec<&Run> =
            self.recipe.seeds.iter().filter_map(|seed| self.run(at, epochs, *seed)).collect();
        let Some(first) = runs.first() else { return Vec::new() };
        let mean = |rule: &str| {
            let of = runs.iter().filter_map(|run| run.depth.iter().find(|depth| depth.rule == rule)?.ratio);
            Mean::of(&of.collect::<Vec<_>>())
        };
        let rules = first.depth.iter().map(|depth| depth.rule.clone());
        rules.filter_map(|rule| mean(&rule).map(|mean| (rule, mean))).collect()
    }
}

pub(super) fn sorted(epochs: &[usize]) -> Vec<usize> {
    let mut epochs = epochs.to_vec();
    epochs.sort_unstable();
    epochs
}

/// A line for each run.
pub(super) fn csv(study: &Study) -> String {
    let rules: Vec<&str> = study
        .runs
        .iter()
        .find(|run| !run.depth.is_empty())
        .map_or(Vec::new(), |run| run.depth.iter().map(|depth| depth.rule.as_str()).collect());
    let mut text =
        "size,regulariser,epochs,seed,unique_tokens,parameters,training_loss,validation_loss,best_validation_loss".to_owned();
    rules.iter().for_each(|rule| text += &format!(",depth_{rule},ratio_{rule}"));
    text.push('\n');
    for run in &study.runs {
        text += &format!("{},{},{},{}", run.size, run.regulariser, run.epochs, run.seed);
        text += &format!(",{},{}", run.unique, run.parameters);
        text += &format!(",{},{},{}", run.training_loss, run.validation_loss, run.best_validation_loss);
        for rule in &rules {
            let found = run.depth.iter().find(|depth| depth.rule == *rule);
            let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
            text += &format!(",{}", number(found.and_then(|depth| depth.value)));
            text += &format!(",{}", number(found.and_then(|depth| depth.ratio)));
        }
        text.push('\n');
    }
    text
}

/// The headings of the table of losses.
pub(super) const LOSSES: [&str; 8] = [
    "size",
    "regulariser",
    "epochs",
    "training loss",
    "held-out loss",
    "gap to the fewest epochs",
    "gap beyond the smaller size",
    "change by the regulariser",
];

pub(super) fn losses(study: &Study) -> Vec<Vec<String>> {
    let text = |mean: Option<Mean>| mean.map_or(String::new(), |mean| mean.text(3));
    let row = |group: &Group| {
        let mut cells = vec![group.size.clone(), group.regulariser.clone(), group.epochs.to_string()];
        cells.extend(
            [group.training_loss, group.validation_loss, group.gap, group.gap_beyond_smaller, group.change]
                .map(text),
        );
        cells
    };
    study.groups.iter().map(row).collect()
}

/// The rules that say something of at least one group.
pub(super) fn rules(study: &Study) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    for (rule, _) in study.groups.iter().flat_map(|group| &group.depth) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

pub(super) fn depths(study: &Study) -> (Vec<String>, Vec<Vec<String>>) {
    let rules = rules(study);
    let row = |group: &Group| {
        let cell = |rule: &String| {
            let found = group.depth.iter().find(|(name, _)| name == rule);
            found.map_or(String::new(), |(_, mean)| mean.text(2))
        };
        let at = [group.size.clone(), group.regulariser.clone(), group.epochs.to_string()];
        at.into_iter().chain(rules.iter().map(cell)).collect()
    };
    let headings = ["size", "regulariser", "epochs"].map(str::to_owned).into_iter().chain(rules.clone());
    (headings.collect(), study.groups.iter().map(row).collect())
}

/// Both tables as Markdown.
pub fn markdown(study: &Study) -> String {
    let mut text = table(&LOSSES.map(str::to_owned), &losses(study));
    let (headings, rows) = depths(study);
    if headings.len() > 3 {
        text += "\nShare of the layers that each rule counts as used:\n\n";
        text += &table(&headings, &rows);
    }
    text
}

/// A table as Markdown.
pub(crate) fn table(headings: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(headings) + &line(&vec!["---".to_owned(); headings.len()]);
    rows.iter().for_each(|row| text += &line(row));
    text
}
