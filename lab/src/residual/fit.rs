//! The exponent of loss against depth.

use super::recipe::Kind;
use super::student::Student;
use crate::statistics::Mean;
use anyhow::{Context, Result};
use fathom_laws::custom::Description;
use fathom_laws::{Choice, Effort, Options, Table, fit};
use serde::Serialize;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// How the loss falls with depth under teachers of a kind: loss = c / layers^a.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exponent {
    /// The teachers.
    pub kind: Kind,
    /// The exponent a of all students together.
    pub value: f64,
    /// Its 95 % bootstrap interval over students.
    pub interval: Option<[f64; 2]>,
    /// The factor c of all students together.
    pub factor: f64,
    /// The exponent of each seed alone.
    pub seeds: Vec<(u64, f64)>,
    /// The mean of those, with its 95 % interval by Student's distribution.
    pub over_seeds: Option<Mean>,
    /// The share of the variance of the losses that the law explains.
    pub r2: f64,
    /// The fit of loss = c / layers^a + l0 to students of four depths or more, where l0 is a loss that depth does not
    /// remove, such as what training left.
    pub floored: Option<Floored>,
    /// Exponents between one depth and the next, from the mean logarithms over seeds: `(from, to, exponent)`.
    pub local: Vec<(usize, usize, f64)>,
}

/// A power law that ends at a loss above 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floored {
    /// The exponent a.
    pub value: f64,
    /// Its 95 % bootstrap interval over students.
    pub interval: Option<[f64; 2]>,
    /// The loss l0.
    pub floor: f64,
}

/// One for each kind of teacher that has students of at least three depths.
///
/// # Errors
/// When a fit fails.
pub fn exponents(students: &[Student]) -> Result<Vec<Exponent>> {
    let mut all = Vec::new();
    for kind in [Kind::Independent, Kind::Tied] {
        let of: Vec<&Student> = students.iter().filter(|student| student.setting.kind == kind).collect();
        if depths(&of).len() >= 3 {
            all.push(exponent(kind, &of).with_context(|| format!("the fit of {} teachers", kind.name()))?);
        }
    }
    Ok(all)
}

fn exponent(kind: Kind, students: &[&Student]) -> Result<Exponent> {
    let together = power_law(students, RESAMPLES, false)?;
    let floored = if depths(students).len() < 4 {
        None
    } else {
        let law = power_law(students, RESAMPLES, true)?;
        Some(Floored { value: law.exponent, interval: law.interval, floor: law.floor })
    };
    let mut seeds: Vec<(u64, f64)> = Vec::new();
    for seed in students.iter().map(|student| student.setting.seed) {
        if seeds.iter().all(|(other, _)| *other != seed) {
            let of: Vec<&Student> = students.iter().copied().filter(|s| s.setting.seed == seed).collect();
            seeds.push((seed, power_law(&of, 0, false)?.exponent));
        }
    }
    let values: Vec<f64> = seeds.iter().map(|(_, value)| *value).collect();
    Ok(Exponent {
        kind,
        value: together.exponent,
        interval: together.interval,
        factor: together.factor,
        over_seeds: Mean::of(&values),
        seeds,
        r2: together.r2,
        floored,
        local: local(students),
    })
}

struct PowerLaw {
    exponent: f64,
    interval: Option<[f64; 2]>,
    factor: f64,
    floor: f64,
    r2: f64,
}

/// Fits loss = c / layers^a, or that with a floor, by least squares of logarithms.
fn power_law(students: &[&Student], resamples: usize, floored: bool) -> Result<PowerLaw> {
    let layers: Vec<f64> = students.iter().map(|student| student.setting.layers as f64).collect();
    let losses: Vec<f64> = students.iter().map(|student| student.loss).collect();
    let table = Table::from_numbers(&[("layers", &layers), ("loss", &losses)])?;
    let start = losses[0] * layers[0];
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let (floor, parameter) = match floored {
        true => (" + l0", format!("l0 = {{ start = {:e}, log = true }}\n", least / 2.0)),
        false => ("", String::new()),
    };
    let description = Description::parse(&format!(
        "response = 'loss'\nexpression = 'c / layers^a{floor}'\n[parameters]\nc = {{ start = {start:e}, log = true }}\n\
         a = {{ start = 1.0 }}\n{parameter}"
    ))?;
    let effort = Effort { resamples, heldout: 0, profile: 0, ..Effort::default() };
    let outcome = fit(&Choice::Custom(description), &table, &Options { effort, ..Options::default() })?;
    let (_, fitted) = outcome.fits.first().context("a fit has a result")?;
    let parameter = |name: &str| fitted.parameters.get(name).context("a fit has its parameters");
    let exponent = parameter("a")?;
    Ok(PowerLaw {
        exponent: exponent.value,
        interval: exponent.interval,
        factor: parameter("c")?.value,
        floor: if floored { parameter("l0")?.value } else { 0.0 },
        r2: fitted.r2,
    })
}

/// The depths that occur, ascending.
fn depths(students: &[&Student]) -> Vec<usize> {
    let mut depths: Vec<usize> = students.iter().map(|student| student.setting.layers).collect();
    depths.sort_unstable();
    depths.dedup();
    depths
}

fn local(students: &[&Student]) -> Vec<(usize, usize, f64)> {
    let depths = depths(students);
    let level = |layers: usize| {
        let of = students.iter().filter(|student| student.setting.layers == layers);
        let logarithms: Vec<f64> = of.map(|student| student.loss.ln()).collect();
        logarithms.iter().sum::<f64>() / logarithms.len() as f64
    };
    let slope = |pair: &[usize]| {
        let run = (pair[1] as f64 / pair[0] as f64).ln();
        (pair[0], pair[1], (level(pair[0]) - level(pair[1])) / run)
    };
    depths.windows(2).map(slope).collect()
}

#[cfg(test)]
mod tests {
    use super::super::recipe::{Size, Training};
    use super::super::student::Setting;
    use super::*;

    fn student(kind: Kind, seed: u64, layers: usize, loss: f64) -> Student {
        let training = Training { steps: 1, batch: 1, learning_rate: 1.0, last_rate: 1.0, evaluation: 1 };
        let setting = Setting { kind, seed, layers, teacher_layers: 9, size: Size::default(), training };
        Student { setting, loss, first_loss: 1.0, curve: Vec::new(), parameters: 1, seconds: 0.0 }
    }

    #[test]
    fn a_power_law_gives_its_exponent() {
        let mut students = Vec::new();
        for (seed, exponent) in [(1, 1.1), (2, 1.2), (3, 1.3)] {
            let loss = |layers: usize| 0.7 / (layers as f64).powf(exponent);
            students.extend([2, 4, 8].map(|layers| student(Kind::Independent, seed, layers, loss(layers))));
        }
        students.extend([2, 4].map(|layers| student(Kind::Tied, 1, layers, 0.5)));
        let found = exponents(&students).unwrap();
        // Two depths say nothing of a law of two parameters.
        assert_eq!(found.len(), 1);
        let found = &found[0];
        assert!((found.value - 1.2).abs() < 1e-6 && (found.factor - 0.7).abs() < 0.03, "{found:?}");
        let [low, high] = found.interval.unwrap();
        assert!(low < 1.2 && 1.2 < high && high - low < 0.4);
        assert!(found.seeds.iter().zip([1.1, 1.2, 1.3]).all(|((_, a), b)| (a - b).abs() < 1e-6));
        assert!((found.over_seeds.unwrap().value - 1.2).abs() < 1e-6);
        assert_eq!(found.floored, None);
        assert!(found.local.len() == 2 && found.local.iter().all(|(_, _, a)| (a - 1.2).abs() < 1e-9));
    }

    #[test]
    fn a_floor_is_told_from_a_small_exponent() {
        let loss = |layers: usize| 0.7 / layers as f64 + 0.1;
        let students: Vec<Student> = [2, 3, 4, 8, 16]
            .into_iter()
            .map(|layers| student(Kind::Independent, 1, layers, loss(layers)))
            .collect();
        let found = &exponents(&students).unwrap()[0];
        let floored = found.floored.unwrap();
        assert!((floored.value - 1.0).abs() < 1e-3 && (floored.floor - 0.1).abs() < 1e-3, "{floored:?}");
        assert!(found.value < 0.8, "{}", found.value);
    }
}
