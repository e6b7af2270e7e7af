//! The curves and depths of finished runs as one tidy table.

use crate::folders::{self, Bootstrap, bootstrap_setters};
use crate::observer::uncounted;
use crate::{Error, Observer, Result, Study, threads};
use fathom_analysis::{curves::rows_of, points};
use fathom_results::Rule;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The curves and depths of finished runs, one number a row, as plotting libraries want them.
///
/// ```no_run
/// use fathom::{RunTable, Silent};
///
/// let rows = RunTable::of(["fathom-out/base/gsm8k", "fathom-out/instruct/gsm8k"]).run(&Silent)?;
/// println!("{}", fathom::RunRow::csv(&rows)?);
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RunTable {
    folders: Vec<PathBuf>,
    bootstrap: Bootstrap,
    threads: Option<usize>,
}

/// A number with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRow {
    /// The model: its id, or its name in a study.
    pub model: String,
    /// The prompts: their id, or their name in a study.
    pub data: String,
    /// The curve, such as `cosine_layer`; `experts_used`, the number of experts that tokens choose
    /// ([`fathom_results::Experts::used`]); or `depth_` and the name of a rule: the layers that it says are used.
    pub quantity: String,
    /// The layer, from 0; none for a depth.
    pub layer: Option<usize>,
    /// The value; none for a rule without one, not a number for a sublayer that the layer lacks.
    pub value: Option<f64>,
    /// The lower end of its 95 % interval.
    pub lo: Option<f64>,
    /// The upper end.
    pub hi: Option<f64>,
}

impl RunRow {
    /// Rows as CSV with a heading.
    ///
    /// # Errors
    /// None known: it writes to memory.
    pub fn csv(rows: &[Self]) -> Result<String> {
        let fail = |source: std::io::Error| Error::Io { what: "cannot write the table".to_owned(), source };
        // What has no value is empty, as it is `null` in JSON.
        let number = |value: Option<f64>| {
            value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default()
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        let heading = ["model", "data", "quantity", "layer", "value", "lo", "hi"].map(str::to_owned);
        let lines = rows.iter().map(|row| {
            let layer = row.layer.map(|layer| layer.to_string()).unwrap_or_default();
            let [value, lo, hi] = [row.value, row.lo, row.hi].map(number);
            [row.model.clone(), row.data.clone(), row.quantity.clone(), layer, value, lo, hi]
        });
        for line in [heading].into_iter().chain(lines) {
            writer.write_record(line).map_err(|error| fail(std::io::Error::other(error)))?;
        }
        let bytes = writer.into_inner().map_err(|error| fail(std::io::Error::other(error.to_string())))?;
        String::from_utf8(bytes).map_err(|error| fail(std::io::Error::other(error)))
    }
}

impl RunTable {
    /// The table of results folders; a study stands for its finished cells.
    pub fn of(folders: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            folders: folders.into_iter().map(Into::into).collect(),
            bootstrap: Bootstrap::default(),
            threads: None,
        }
    }

    bootstrap_setters!();

    /// Reads the runs and draws the intervals.
    ///
    /// # Errors
    /// When a folder is not one of a run with prompts or of a study, or a threshold is invalid.
    pub fn run(&self, observer: &dyn Observer) -> Result<Vec<RunRow>> {
        threads::run(self.threads, || {
            let mut rows = Vec::new();
            for folder in &self.folders {
                for (names, run) in runs(folder)? {
                    rows.extend(self.of_run(&run, names, observer)?);
                }
            }
            Ok(rows)
        })
    }

    fn of_run(
        &self,
        path: &Path,
        names: Option<[String; 2]>,
        observer: &dyn Observer,
    ) -> Result<Vec<RunRow>> {
        let options = self.bootstrap.options()?;
        let (results, curves) = folders::open(path)?;
        let experts = results.probes.experts.as_ref().map(|experts| (experts.layers.clone(), experts.used()));
        let [model, data] = names.unwrap_or([results.model.id, results.data.id]);
        let row = |quantity: String, layer, value, interval: Option<[f64; 2]>| RunRow {
            model: model.clone(),
            data: data.clone(),
            quantity,
            layer,
            value,
            lo: interval.map(|interval| interval[0]),
            hi: interval.map(|interval| interval[1]),
        };
        let _working = uncounted(observer, "resampling prompts");
        let curves_rows = points(&curves, &options).into_iter().map(|point| {
            row(point.curve.name().to_owned(), Some(point.layer), Some(point.value), point.interval)
        });
        let depths = rows_of(&curves, &options).into_iter().map(|depth| {
            // The interval is that of the rule's value, with which the layers used rise.
            let ends = depth.interval.map(|ends| ends.map(|end| depth.rule.layers_used(end)));
            row(format!("depth_{}", depth.rule.name()), None, depth.layers_used, ends)
        });
        let experts = experts.into_iter().flat_map(|(layers, used)| layers.into_iter().zip(used));
        let experts =
            experts.map(|(layer, used)| row("experts_used".to_owned(), Some(layer), Some(used), None));
        Ok(curves_rows.chain(experts).chain(depths).collect())
    }
}

/// The runs in a folder: itself, or the finished cells of a study with their names in it.
fn runs(folder: &Path) -> Result<Vec<(Option<[String; 2]>, PathBuf)>> {
    if !Study::is_study(folder) {
        return Ok(vec![(None, folder.to_owned())]);
    }
    let study = Study::open(folder)?;
    let description = study.description();
    let cells = description.cells().filter(|cell| study.is_there(*cell));
    let named = |cell: fathom_analysis::study::Cell| {
        let names = [&description.models[cell.model].name, &description.data[cell.data].name];
        (Some(names.map(String::clone)), description.folder(cell))
    };
    Ok(cells.map(named).collect())
}
