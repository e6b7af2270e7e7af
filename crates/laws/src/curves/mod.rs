//! Learning curves, and the steps that they take to a threshold.

mod npy;
mod pattern;

use crate::error::{Error, Result, invalid, quoted};
use crate::isotonic::first_reached;
use crate::table::Table;
pub use npy::Array;
pub use pattern::Pattern;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};

/// A learning curve, the mean over seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The path of its file.
    pub path: String,
    /// Environment steps, ascending.
    pub steps: Vec<f64>,
    /// The mean return at each.
    pub returns: Vec<f64>,
}

/// The most bytes of an array in an archive, and the most arrays.
const MOST_BYTES: u64 = 64 << 20;
const MOST_FILES: usize = 100_000;

impl Curve {
    /// The curve of an array `[steps, 1 + seeds]`, the first column being the steps.
    ///
    /// # Errors
    /// [`Error::Table`] if the steps do not ascend or a value is not finite.
    pub fn of(path: &str, array: &Array) -> Result<Self> {
        let fail = |problem: String| Err(Error::Table(format!("{path}: {problem}")));
        let [rows, columns] = array.shape;
        if rows == 0 || columns < 2 {
            return fail(format!(
                "{rows} x {columns} numbers; a curve has a column of steps and one of each seed"
            ));
        }
        if let Some(index) = array.values.iter().position(|value| !value.is_finite()) {
            return fail(format!("row {}: {} is not a finite number", index / columns, array.values[index]));
        }
        let steps: Vec<f64> = (0..rows).map(|row| array.row(row)[0]).collect();
        if let Some(index) = steps.windows(2).position(|pair| pair[0] >= pair[1]) {
            return fail(format!("row {}: the steps in its first column do not ascend", index + 1));
        }
        let seeds = (columns - 1) as f64;
        let mean = |row: usize| array.row(row)[1..].iter().sum::<f64>() / seeds;
        Ok(Self { path: path.to_owned(), steps, returns: (0..rows).map(mean).collect() })
    }
}

/// The members of a zip or npz archive whose path fits the pattern, by path.
///
/// # Errors
/// [`Error::Table`] if it is not such an archive or a member is too large.
pub fn from_zip(bytes: &[u8], pattern: &Pattern) -> Result<Vec<(String, Vec<u8>)>> {
    let table = |problem: String| Error::Table(problem);
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| table(format!("not a zip archive: {e}")))?;
    if archive.len() > MOST_FILES {
        return Err(table(format!("{} files in the archive; the most is {MOST_FILES}", archive.len())));
    }
    let mut found = BTreeMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(|e| table(format!("member {index}: {e}")))?;
        let path = member.name().map_err(|e| table(format!("member {index}: {e}")))?.replace('\\', "/");
        if !member.is_file() || pattern.read(&path).is_none() {
            continue;
        }
        let mut content = Vec::new();
        let mut limited = member.take(MOST_BYTES + 1);
        limited.read_to_end(&mut content).map_err(|e| table(format!("{path}: {e}")))?;
        if content.len() as u64 > MOST_BYTES {
            return Err(table(format!("{path}: more than {} MiB", MOST_BYTES >> 20)));
        }
        found.insert(path, content);
    }
    Ok(found.into_iter().collect())
}

/// The threshold of each environment.
#[derive(Clone, Debug, PartialEq)]
pub enum Thresholds {
    /// One for all.
    All(f64),
    /// By the name of the environment.
    Each(BTreeMap<String, f64>),
}

impl Thresholds {
    /// Reads `700` or `NAME=700,OTHER=800`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str) -> Result<Self> {
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(Error::Invalid(format!("threshold: '{text}' is not a number"))),
        };
        if !text.contains('=') {
            return number(text).map(Self::All);
        }
        let pair = |item: &str| match item.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), number(value)?)),
            None => Err(Error::Invalid(format!("threshold: give ENVIRONMENT=NUMBER, not '{item}'"))),
        };
        text.split(',').map(pair).collect::<Result<_>>().map(Self::Each)
    }
}

/// The environment steps to a threshold, as a table that the law `rl` reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Columns of the pattern, with the best batch size, and `time_to_threshold`.
    pub table: Table,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// The columns whose best value is taken.
const BEST_OF: &str = "batch_size";

/// The steps to the threshold of each setting: of the mean over seeds, made isotonic, the first step at or above it; the
/// least over batch sizes. `sizes` gives the critic's parameters by its width, if the paths do not.
///
/// # Errors
/// [`Error::Table`] if no curve reaches its threshold, [`Error::Invalid`] for an environment without a threshold or a width
/// without parameters.
pub fn times(
    curves: &[Curve],
    pattern: &Pattern,
    thresholds: &Thresholds,
    sizes: &BTreeMap<String, f64>,
) -> Result<Times> {
    let mut best: BTreeMap<Vec<String>, Option<(f64, String)>> = BTreeMap::new();
    for curve in curves {
        let Some(values) = pattern.read(&curve.path) else { continue };
        let of = |name: &str| pattern.names().iter().position(|n| n == name).map(|i| values[i].clone());
        let threshold = match thresholds {
            Thresholds::All(value) => *value,
            Thresholds::Each(each) => {
                let name = of("env_name").unwrap_or_default();
                match each.get(&name) {
                    Some(value) => *value,
                    None => invalid!("{}: there is no threshold for the environment '{name}'", curve.path),
                }
            }
        };
        let batch = of(BEST_OF).unwrap_or_default();
        let names = pattern.names().iter().zip(&values).filter(|(name, _)| *name != BEST_OF);
        let entry = best.entry(names.map(|(_, value)| value.clone()).collect()).or_default();
        let reached = first_reached(&curve.steps, &curve.returns, threshold);
        match (reached, entry.as_ref()) {
            (Some(step), Some((least, _))) if step >= *least => {}
            (Some(step), _) => *entry = Some((step, batch)),
            (None, _) => {}
        }
    }
    tabulate(best, pattern, sizes)
}

fn tabulate(
    best: BTreeMap<Vec<String>, Option<(f64, String)>>,
    pattern: &Pattern,
    sizes: &BTreeMap<String, f64>,
) -> Result<Times> {
    let keys: Vec<&String> = pattern.names().iter().filter(|name| *name != BEST_OF).collect();
    let mut warnings = Vec::new();
    let mut columns: Vec<(String, Vec<String>)> =
        keys.iter().map(|name| ((*name).clone(), Vec::new())).collect();
    let (mut batches, mut steps, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    for (key, found) in best {
        let Some((step, batch)) = found else {
            let setting: Vec<String> = keys.iter().zip(&key).map(|(n, v)| format!("{n} {v}")).collect();
            warnings.push(format!("{} never reaches the threshold and is left out", setting.join(", ")));
            continue;
        };
        if let Some(width) =
            keys.iter().position(|name| *name == "critic_width").filter(|_| !sizes.is_empty())
        {
            match sizes.get(&key[width]) {
                Some(size) => parameters.push(size.to_string()),
                None => invalid!(
                    "there are no parameters for the critic_width {}; the sizes have {}",
                    key[width],
                    quoted(sizes.keys().map(String::as_str))
                ),
            }
        }
        columns.iter_mut().zip(key).for_each(|((_, column), value)| column.push(value));
        steps.push(step.to_string());
        batches.push(batch);
    }
    if steps.is_empty() {
        return Err(Error::Table("no curve reaches its threshold".to_owned()));
    }
    if pattern.names().iter().any(|name| name == BEST_OF) {
        columns.push((BEST_OF.to_owned(), batches));
    }
    if !parameters.is_empty() && !keys.iter().any(|name| *name == "critic_params") {
        columns.push(("critic_params".to_owned(), parameters));
    }
    columns.push(("time_to_threshold".to_owned(), steps));
    Ok(Times { table: Table::of(columns)?, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(path: &str, returns: [f64; 3]) -> Curve {
        Curve { path: path.to_owned(), steps: vec![0.0, 10.0, 20.0], returns: returns.to_vec() }
    }

    #[test]
    fn the_best_batch_size_counts_and_what_never_arrives_is_named() {
        let pattern = Pattern::parse("w{critic_width}/{env_name}/bs_{batch_size}.npy").unwrap();
        let curves = [
            curve("x/w8/run/bs_16.npy", [0.0, 1.0, 9.0]),
            curve("x/w8/run/bs_32.npy", [0.0, 6.0, 5.0]),
            curve("x/w9/run/bs_16.npy", [0.0, 1.0, 2.0]),
            curve("x/w8/jump/bs_16.npy", [7.0, 8.0, 9.0]),
        ];
        let thresholds = Thresholds::parse("run=5, jump=7").unwrap();
        let sizes = BTreeMap::from([("8".to_owned(), 100.0)]);
        let found = times(&curves, &pattern, &thresholds, &sizes).unwrap();
        assert_eq!(found.table.text("env_name").unwrap(), ["jump", "run"]);
        assert_eq!(found.table.numbers("time_to_threshold"), Ok(vec![0.0, 10.0]));
        assert_eq!(found.table.numbers("batch_size"), Ok(vec![16.0, 32.0]));
        assert_eq!(found.table.numbers("critic_params"), Ok(vec![100.0, 100.0]));
        assert_eq!(
            found.warnings,
            ["critic_width 9, env_name run never reaches the threshold and is left out"]
        );
        let without = times(&curves, &pattern, &Thresholds::parse("run=5").unwrap(), &sizes);
        assert!(without.unwrap_err().to_string().contains("no threshold for the environment 'jump'"));
        let none = times(&curves, &pattern, &Thresholds::All(99.0), &sizes);
        assert!(none.unwrap_err().to_string().contains("no curve reaches"));
    }

    #[test]
    fn arrays_in_an_archive_become_curves() {
        use std::io::Write;
        let data: Vec<u8> =
            [0.0_f64, 10.0, 1.0, 5.0, 3.0, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for path in ["a/utd_2/x.npy", "a/notes.txt"] {
            writer.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(&npy::tests::npy("<f8", true, "(2, 3)", &data)).unwrap();
        }
        let bytes = writer.finish().unwrap().into_inner();
        let pattern = Pattern::parse("utd_{utd}/{env_name}.npy").unwrap();
        let members = from_zip(&bytes, &pattern).unwrap();
        assert_eq!(members.len(), 1);
        let array = Array::from_npy(&members[0].1).unwrap();
        let curve = Curve::of(&members[0].0, &array).unwrap();
        assert_eq!((curve.steps, curve.returns), (vec![0.0, 10.0], vec![2.0, 6.0]));
        assert!(from_zip(&bytes[..bytes.len() - 30], &pattern).is_err());
    }

    #[test]
    fn curves_that_are_none_are_refused() {
        let of = |shape, values: &[f64]| Curve::of("f", &Array { shape, values: values.to_vec() });
        assert!(of([2, 1], &[0.0, 1.0]).unwrap_err().to_string().contains("a column of steps"));
        assert!(of([2, 2], &[1.0, 1.0, 1.0, 2.0]).unwrap_err().to_string().contains("do not ascend"));
        assert!(of([1, 2], &[1.0, f64::NAN]).unwrap_err().to_string().contains("not a finite"));
    }
}
