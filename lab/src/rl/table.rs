//! The tables of a study of agents, and what it says in words.

use super::overfitting::{Slope, sentence};
use super::times::Best;
use super::{Efficiency, Study};
use crate::repeat;
use crate::statistics::Mean;
use fathom_report::charts::Table;
use fathom_results::Parameter;

/// A line for each run.
pub(super) fn runs(study: &Study) -> String {
    let mut text = "env_name,width,depth,critic_params,utd,batch_size,seed,return,best_return,training_error,validation_error,\
                    mean_value,diverged_at\n"
        .to_owned();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for run in &study.runs {
        let setting = &run.setting;
        text += &format!("{},{},{}", setting.environment, setting.width, setting.depth);
        text += &format!(",{},{}", run.critic_parameters, setting.updates);
        text += &format!(",{},{}", setting.batch, setting.seed);
        let last = run.curve.last();
        let best = run.curve.iter().map(|point| point.score).reduce(f64::max);
        for value in [
            last.map(|point| point.score),
            best,
            last.map(|point| point.training_error),
            last.and_then(|point| point.validation_error),
            last.map(|point| point.mean_value),
            run.diverged.map(|step| step as f64),
        ] {
            text += &format!(",{}", number(value));
        }
        text.push('\n');
    }
    text
}

/// All tables, with what was found in front and what should be known after it.
pub fn markdown(study: &Study) -> String {
    let mut text = format!("{}\n", answer(study));
    for table in tables(study) {
        text += &format!("\n**{}.** {}\n\n", table.title, table.reading);
        text += &repeat::table(&table.headings, &table.rows);
    }
    let notes = notes(study);
    if !notes.is_empty() {
        text += "\nNotes:\n\n";
        notes.iter().for_each(|note| text += &format!("- {note}\n"));
    }
    text
}

/// What was found, in words.
pub fn answer(study: &Study) -> String {
    let mut sentences = Vec::new();
    for environment in study.recipe.environment.keys() {
        let law = study.times.laws.iter().find(|law| law.environment == *environment);
        sentences.push(match law {
            Some(law) => law_in_words(law),
            None => {
                format!("In {environment} too few settings reach the return for a law of data efficiency.")
            }
        });
        let of: Vec<&Slope> = study.slopes.iter().filter(|slope| slope.environment == *environment).collect();
        sentences.extend(sentence(&of));
    }
    sentences.join(" ")
}

fn law_in_words(law: &Efficiency) -> String {
    let value = |name: &str| law.parameters.get(name).map_or(String::new(), with_interval);
    let held_out = law.held_out.map_or(String::new(), |error| {
        format!(
            ", and misses settings that it was not fitted to by a factor of {:.2} ({:.2} on those that it was)",
            error.rms.exp(),
            error.rms_fitted.exp()
        )
    });
    let undetermined = match law.is_determined() {
        true => "",
        false => " These settings do not determine the law: other values fit as well.",
    };
    format!(
        "In {} the law of data efficiency over {} settings has alpha {} for updates per step and beta {} for weights{held_out}.{undetermined}",
        law.environment,
        law.settings,
        value("alpha"),
        value("beta")
    )
}

/// What was left out, and what should be known of the fits.
pub(super) fn notes(study: &Study) -> Vec<String> {
    let mut notes = study.times.warnings.clone();
    if study.recipe.seeds.len() == 1 {
        notes.push("One seed has no intervals over seeds.".to_owned());
    }
    notes
}

/// The tables, in order.
pub(super) fn tables(study: &Study) -> Vec<Table> {
    vec![times(study), laws(study), allocations(study), slopes(study)]
        .into_iter()
        .filter(|table| !table.rows.is_empty())
        .collect()
}

fn table(title: &str, reading: &str, headings: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table {
        title: title.to_owned(),
        reading: reading.to_owned(),
        headings: headings.iter().map(|heading| (*heading).to_owned()).collect(),
        rows,
    }
}

fn times(study: &Study) -> Table {
    let rows = study.times.times.iter().map(|time| {
        let reached = time.of_seeds.iter().flatten().count();
        let over_seeds = match time.over_seeds {
            Some(mean) => mean.text(0),
            None => format!("{reached} of {} seeds reach it", time.of_seeds.len()),
        };
        vec![
            time.environment.clone(),
            time.width.to_string(),
            time.depth.to_string(),
            time.critic_parameters.to_string(),
            time.updates.to_string(),
            time.batch.to_string(),
            time.steps.to_string(),
            over_seeds,
        ]
    });
    table(
        "Steps to the threshold",
        "Environment steps until the mean return over seeds, made non-decreasing, is at the threshold; the batch size that gets there \
         first. Of single seeds: the mean of their own steps, with its 95 % interval by Student's distribution.",
        &[
            "environment",
            "width",
            "depth",
            "weights",
            "updates per step",
            "batch",
            "steps",
            "of single seeds",
        ],
        rows.collect(),
    )
}

fn laws(study: &Study) -> Table {
    let row = |law: &Efficiency| {
        let mut cells = vec![law.environment.clone(), law.settings.to_string()];
        for name in ["a", "alpha", "b", "beta", "d_min"] {
            cells.push(law.parameters.get(name).map_or(String::new(), with_interval));
        }
        cells.push(format!("{:.3}", law.r2));
        let errors = law.held_out.map(|error| [error.rms_fitted, error.rms]);
        cells.extend(errors.map_or([String::new(), String::new()], |of| of.map(|rms| format!("{rms:.3}"))));
        cells
    };
    table(
        "Data efficiency",
        "D = d_min (1 + (a / σ)^alpha + (b / N)^beta), σ updates per step, N weights of the critic, with 95 % bootstrap intervals over \
         settings (`fathom fit rl`). Errors are root mean squares of differences of natural logarithms: of settings that were \
         fitted, and of a fifth that was held out, 100 times.",
        &["environment", "settings", "a", "alpha", "b", "beta", "d_min", "R²", "error", "held-out error"],
        study.times.laws.iter().map(row).collect(),
    )
}

fn allocations(study: &Study) -> Table {
    let row = |law: &Efficiency, best: &Best| {
        let mut cells = vec![law.environment.clone(), format!("{:.1e}", best.budget)];
        for name in ["utd", "critic_params", "steps"] {
            cells.push(best.values.get(name).map_or(String::new(), with_interval));
        }
        let remarks = [(best.outside, "beyond the grid"), (!law.is_determined(), "law not determined")];
        let remarks: Vec<&str> = remarks.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect();
        cells.push(remarks.join("; "));
        cells
    };
    let all = study.times.laws.iter().flat_map(|law| law.best.iter().map(|best| row(law, best)));
    table(
        "Best use of compute",
        "What the law calls best: the setting of fewest environment steps for an amount of compute, which is 10 x 256 FLOP for each \
         update and weight, with 95 % bootstrap intervals over settings. Critics have 1,000 weights or more. Beyond the grid, it is an extrapolation.",
        &["environment", "compute, FLOP", "updates per step", "weights", "steps", ""],
        all.collect(),
    )
}

fn slopes(study: &Study) -> Table {
    let text = |mean: Option<Mean>| mean.map_or(String::new(), |mean| mean.text(2));
    let row = |slope: &Slope| {
        vec![
            slope.environment.clone(),
            slope.width.to_string(),
            slope.depth.to_string(),
            slope.critic_parameters.to_string(),
            text(slope.validation),
            text(slope.training),
        ]
    };
    table(
        "TD error and batch size",
        "The exponent of the TD error against the batch size, over all batch sizes, the mean over updates per step: above 0, larger \
         batches raise the error. Means over seeds with 95 % intervals by Student's distribution; errors are those of the \
         second half of a run.",
        &["environment", "width", "depth", "weights", "validation", "training"],
        study.slopes.iter().map(row).collect(),
    )
}

/// A fitted number with its interval, in three digits.
fn with_interval(found: &Parameter) -> String {
    let value = digits(found.value);
    match found.interval {
        Some([low, high]) => format!("{value} ({} to {})", digits(low), digits(high)),
        None => value,
    }
}

/// Three digits, in scientific notation where there would be many more.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-2..10.0).contains(&size) => format!("{value:.2}"),
        size if (10.0..100.0).contains(&size) => format!("{value:.1}"),
        size if (100.0..1e5).contains(&size) => format!("{value:.0}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, text) in [
            (0.0, "0.00"),
            (0.123, "0.12"),
            (9.87, "9.87"),
            (-45.67, "-45.7"),
            (12345.6, "12346"),
            (1.5e6, "1.5e6"),
            (2e-9, "2.0e-9"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(digits(value), text);
        }
    }
}
