//! Tables, curves and options from files and text.

use super::{Curves, Fit, Law};
use crate::error::invalid;
use crate::{Error, Result};
use fathom_laws::curves::{Array, Curve, Pattern, Thresholds, from_zip, times};
use fathom_laws::custom::Description;
use fathom_laws::regress::Formula;
use fathom_laws::{Choice, Table};
use fathom_results::Named;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most bytes of a table, an array or an archive, and of a description.
const MOST: u64 = 512 << 20;
const MOST_DESCRIPTION: u64 = 1 << 20;

/// The most files of a folder of curves, and folders inside each other.
const MOST_FILES: usize = 100_000;
const DEEPEST: usize = 16;

/// A table with where it comes from.
pub(super) struct Source {
    pub(super) table: Table,
    pub(super) sha256: String,
    pub(super) warnings: Vec<String>,
}

/// An error of a file.
pub(super) fn of_file(path: &Path) -> impl Fn(fathom_laws::Error) -> Error {
    move |error| match error {
        fathom_laws::Error::Cancelled => Error::Cancelled(error.to_string()),
        fathom_laws::Error::Invalid(_) => Error::Invalid(error.to_string()),
        _ => Error::Invalid(format!("{}: {error}", path.display())),
    }
}

/// The table of a fit.
pub(super) fn source(fit: &Fit) -> Result<Source> {
    if let Some(curves) = &fit.curves {
        if !matches!(fit.law, Law::Rl(_)) {
            invalid!("learning curves are for the law rl; leave out --curves");
        }
        return of_curves(&fit.file, curves);
    }
    let bytes = bytes(&fit.file, MOST)?;
    let is_json = fit.file.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x93NUMPY") || fit.file.is_dir() {
        invalid!(
            "{} holds arrays and no table; say with --curves PATTERN what their paths mean, and give --threshold",
            fit.file.display()
        );
    }
    let table = if is_json { Table::from_json(&bytes) } else { Table::from_csv(&bytes) };
    let chosen = |table: Table, (column, value): &(String, String)| table.rows_where(column, value);
    let table = table.and_then(|table| fit.filters.iter().try_fold(table, chosen));
    Ok(Source {
        table: table.map_err(of_file(&fit.file))?,
        sha256: hash([bytes.as_slice()]),
        warnings: Vec::new(),
    })
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let fail = |source| Error::Io { what: format!("cannot read {}", path.display()), source };
    if path.is_dir() {
        invalid!(
            "{} is a folder; with --curves PATTERN its arrays are read as learning curves",
            path.display()
        );
    }
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content)).map_err(fail)?;
    if content.len() as u64 > most {
        invalid!("{} has more than {} MiB", path.display(), most >> 20);
    }
    Ok(content)
}

fn of_curves(path: &Path, curves: &Curves) -> Result<Source> {
    let lawful = of_file(path);
    let pattern = Pattern::parse(&curves.pattern).map_err(&lawful)?;
    let thresholds = Thresholds::parse(&curves.threshold).map_err(&lawful)?;
    let sizes: BTreeMap<String, f64> = pairs("sizes", &curves.sizes)?.0.into_iter().collect();
    let members = match path.is_dir() {
        true => from_folder(path, &pattern)?,
        false => {
            let content = bytes(path, MOST)?;
            match content.starts_with(b"PK\x03\x04") {
                true => from_zip(&content, &pattern).map_err(&lawful)?,
                false => vec![(path.to_string_lossy().replace('\\', "/"), content)],
            }
        }
    };
    if members.is_empty() {
        invalid!("{}: no array has a path that ends in '{}'", path.display(), curves.pattern);
    }
    let curve = |(name, content): &(String, Vec<u8>)| {
        let array = Array::from_npy(content).map_err(|error| Error::Invalid(format!("{name}: {error}")))?;
        Curve::of(name, &array).map_err(&lawful)
    };
    let read: Vec<Curve> = members.iter().map(curve).collect::<Result<_>>()?;
    let sha256 = hash(members.iter().flat_map(|(name, content)| [name.as_bytes(), content.as_slice()]));
    let found = times(&read, &pattern, &thresholds, &sizes).map_err(&lawful)?;
    Ok(Source { table: found.table, sha256, warnings: found.warnings })
}

/// The files of a folder whose path fits the pattern, by path.
fn from_folder(root: &Path, pattern: &Pattern) -> Result<Vec<(String, Vec<u8>)>> {
    let fail = |path: &Path, source| Error::Io { what: format!("cannot read {}", path.display()), source };
    let mut folders: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    let mut found = BTreeMap::new();
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| fail(&folder, e))? {
            let entry = entry.map_err(|e| fail(&folder, e))?;
            // Links are not followed, so that a folder cannot lead back to itself.
            let kind = entry.file_type().map_err(|e| fail(&folder, e))?;
            let path = entry.path();
            seen += 1;
            if seen > MOST_FILES || depth > DEEPEST {
                invalid!(
                    "{} has more than {MOST_FILES} files, or more than {DEEPEST} levels",
                    root.display()
                );
            }
            let name = path.to_string_lossy().replace('\\', "/");
            if kind.is_dir() {
                folders.push((path, depth + 1));
            } else if kind.is_file() && pattern.read(&name).is_some() {
                found.insert(name, bytes(&path, MOST)?);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Reads `name=number,..`; the number may be written as 7e9.
pub(super) fn pairs(what: &str, text: &str) -> Result<Named<f64>> {
    let mut all: Vec<(String, f64)> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let parsed = item.split_once('=').and_then(|(name, value)| {
            let value: f64 = value.trim().parse().ok()?;
            value.is_finite().then(|| (name.trim().to_owned(), value))
        });
        match parsed {
            Some((name, _)) if all.iter().any(|(other, _)| *other == name) => {
                invalid!("{what}: '{name}' is given twice")
            }
            Some(pair) => all.push(pair),
            None => invalid!("{what}: give NAME=NUMBER, separated by commas, not '{item}'"),
        }
    }
    Ok(Named(all))
}

/// The law with what only it needs.
pub(super) fn choice(fit: &Fit) -> Result<Choice> {
    let lawful = |error: fathom_laws::Error| Error::Invalid(error.to_string());
    Ok(match &fit.law {
        Law::Depth { less_two } => Choice::Depth { less_two: *less_two },
        Law::Repeat => Choice::Repeat,
        Law::Rl(response) => Choice::Rl(*response),
        Law::Regress(formula) => Choice::Regress(Formula::parse(formula).map_err(lawful)?),
        Law::Custom(path) => {
            let content = bytes(path, MOST_DESCRIPTION)?;
            let text = String::from_utf8(content)
                .map_err(|_| Error::Invalid(format!("{} is not UTF-8", path.display())))?;
            let named = |error| Error::Invalid(format!("{}: {error}", path.display()));
            Choice::Custom(Description::parse(&text).map_err(named)?)
        }
    })
}
