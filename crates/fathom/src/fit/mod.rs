//! Laws of depth, data and compute, fitted to a table.

mod execute;
mod read;

use crate::{Observer, Result, threads};
pub use fathom_laws::Response as RlResponse;
pub use fathom_laws::Schedule as FitSchedule;
use fathom_results::{Fitting, LawName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A fit of a law to a table.
///
/// ```no_run
/// use fathom::{Fit, Silent};
///
/// let fit = Fit::depth("runs.csv").drop_highest(40).at("params=7e9,tokens=2e12,layers=32");
/// let done = fit.run(&Silent)?;
/// for (_, fitted) in done.results.fits() {
///     for (name, parameter) in fitted.parameters.iter() {
///         println!("{name} {} {:?}", parameter.value, parameter.interval);
///     }
/// }
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    law: Law,
    file: PathBuf,
    columns: BTreeMap<String, String>,
    filters: Vec<(String, String)>,
    groups: Option<String>,
    names: Option<String>,
    drop_highest: Option<usize>,
    objective: Option<String>,
    schedule: FitSchedule,
    at: Vec<String>,
    optimal: Option<String>,
    curves: Option<Curves>,
    starts: usize,
    resamples: usize,
    heldout: usize,
    profile: usize,
    seed: u64,
    out: Option<PathBuf>,
    overwrite: bool,
    threads: Option<usize>,
    command: Vec<String>,
}

/// What is fitted.
#[derive(Clone, Debug, PartialEq)]
enum Law {
    Depth { less_two: bool },
    Repeat,
    Rl(RlResponse),
    Regress(String),
    Custom(PathBuf),
}

/// How learning curves become a table.
#[derive(Clone, Debug, PartialEq)]
struct Curves {
    pattern: String,
    threshold: String,
    sizes: String,
}

/// A finished fit.
#[derive(Clone, Debug)]
pub struct FitOutcome {
    /// The results folder.
    pub folder: PathBuf,
    /// What is in `fit.json`.
    pub results: Fitting,
    /// Wall-clock time.
    pub elapsed: Duration,
}

impl FitOutcome {
    /// The fits that did not converge, by environment or by the name of the law.
    pub fn unconverged(&self) -> Vec<&str> {
        let law = self.results.law.name();
        let is_not =
            |fit: &fathom_results::Fitted| fit.objective.schedule == "converged" && !fit.objective.converged;
        self.results.fits().filter(|(_, fit)| is_not(fit)).map(|(name, _)| name.unwrap_or(law)).collect()
    }
}

impl Fit {
    /// Starts, unless set otherwise.
    pub const STARTS: usize = 16;

    /// Resamples of the bootstrap, unless set otherwise.
    pub const RESAMPLES: usize = 1000;

    /// Repetitions of the held-out error, unless set otherwise.
    pub const HELDOUT: usize = 20;

    /// Values of each profile, unless set otherwise.
    pub const PROFILE: usize = 41;

    fn new(law: Law, file: impl Into<PathBuf>) -> Self {
        Self {
            law,
            file: file.into(),
            columns: BTreeMap::new(),
            filters: Vec::new(),
            groups: None,
            names: None,
            drop_highest: None,
            objective: None,
            schedule: FitSchedule::Converged,
            at: Vec::new(),
            optimal: None,
            curves: None,
            starts: Self::STARTS,
            resamples: Self::RESAMPLES,
            heldout: Self::HELDOUT,
            profile: Self::PROFILE,
            seed: 0,
            out: None,
            overwrite: false,
            threads: None,
            command: Vec::new(),
        }
    }

    /// Loss by width, layers and data (arXiv 2602.05970), from columns `d_model`, `n_layers`, `num_tokens`, `loss`.
    pub fn depth(file: impl Into<PathBuf>) -> Self {
        Self::new(Law::Depth { less_two: false }, file)
    }

    /// Loss with repeated data (arXiv 2305.16264), from columns `N`, `T`, `U`, `L`.
    pub fn repeat(file: impl Into<PathBuf>) -> Self {
        Self::new(Law::Repeat, file)
    }

    /// Data efficiency of value-based reinforcement learning (arXiv 2508.14881), from columns `utd`, `critic_params`, `time` or
    /// `time_to_threshold`, and `env_name` if there are several environments.
    pub fn rl(file: impl Into<PathBuf>) -> Self {
        Self::new(Law::Rl(RlResponse::Steps), file)
    }

    /// A linear regression such as `score ~ layers + ln(params)`.
    pub fn regress(file: impl Into<PathBuf>, formula: impl Into<String>) -> Self {
        Self::new(Law::Regress(formula.into()), file)
    }

    /// The law that a TOML file describes.
    pub fn custom(file: impl Into<PathBuf>, description: impl Into<PathBuf>) -> Self {
        Self::new(Law::Custom(description.into()), file)
    }

    /// Takes layers less two, for the depth law; other laws ignore it.
    #[must_use]
    pub fn less_two(mut self, less: bool) -> Self {
        if let Law::Depth { less_two } = &mut self.law {
            *less_two = less;
        }
        self
    }

    /// What reinforcement learning is to explain; other laws ignore it.
    #[must_use]
    pub fn response(mut self, response: RlResponse) -> Self {
        if let Law::Rl(own) = &mut self.law {
            *own = response;
        }
        self
    }

    /// Reads learning curves instead of a table: NumPy arrays, in a folder, a zip or npz archive, or one file. Their paths
    /// end as `pattern` says, such as `w{critic_width}/utd_{utd}/{env_name}/bs_{batch_size}.npy`; the steps to `threshold`
    /// (a number, or `ENVIRONMENT=NUMBER,..`) make the table. `sizes` gives the parameters of each width where paths do not
    /// have them: `128=604362,..`, or nothing.
    #[must_use]
    pub fn curves(
        mut self,
        pattern: impl Into<String>,
        threshold: impl Into<String>,
        sizes: impl Into<String>,
    ) -> Self {
        self.curves =
            Some(Curves { pattern: pattern.into(), threshold: threshold.into(), sizes: sizes.into() });
        self
    }

    /// Reads a quantity from a column of another name.
    #[must_use]
    pub fn column(mut self, quantity: impl Into<String>, column: impl Into<String>) -> Self {
        self.columns.insert(quantity.into(), column.into());
        self
    }

    /// Fits only the rows with this value in this column; may be called more than once.
    #[must_use]
    pub fn rows_where(mut self, column: impl Into<String>, value: impl Into<String>) -> Self {
        self.filters.push((column.into(), value.into()));
        self
    }

    /// Resamples and holds out rows with the same value in this column together.
    #[must_use]
    pub fn groups(mut self, column: impl Into<String>) -> Self {
        self.groups = Some(column.into());
        self
    }

    /// The column with the names of rows, for figures.
    #[must_use]
    pub fn names(mut self, column: impl Into<String>) -> Self {
        self.names = Some(column.into());
        self
    }

    /// Leaves out the rows with the `count` highest observed values, and those equal to the last of them.
    #[must_use]
    pub fn drop_highest(mut self, count: usize) -> Self {
        self.drop_highest = Some(count);
        self
    }

    /// Another objective: `squared-log`, `huber-log`, `huber-log:DELTA` or `squared`.
    #[must_use]
    pub fn objective(mut self, objective: impl Into<String>) -> Self {
        self.objective = Some(objective.into());
        self
    }

    /// How the fit is minimised; to the optimum unless set otherwise.
    #[must_use]
    pub fn schedule(mut self, schedule: FitSchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Predicts at these inputs, such as `params=7e9,tokens=2e12,layers=32`; may be called more than once.
    #[must_use]
    pub fn at(mut self, inputs: impl Into<String>) -> Self {
        self.at.push(inputs.into());
        self
    }

    /// Finds the best allocation: `params=7e9,tokens=2e12` for depth, `params=2.8e9,unique=5e10` for repeated data,
    /// `budget=1e16` or `delta=1e10` for reinforcement learning.
    #[must_use]
    pub fn optimal(mut self, inputs: impl Into<String>) -> Self {
        self.optimal = Some(inputs.into());
        self
    }

    /// The number of starts.
    #[must_use]
    pub fn starts(mut self, starts: usize) -> Self {
        self.starts = starts;
        self
    }

    /// The number of resamples of the bootstrap; 0 for no intervals.
    #[must_use]
    pub fn resamples(mut self, resamples: usize) -> Self {
        self.resamples = resamples;
        self
    }

    /// Repetitions of the error on a fifth of the rows that is not fitted; 0 for none.
    #[must_use]
    pub fn heldout(mut self, repeats: usize) -> Self {
        self.heldout = repeats;
        self
    }

    /// Values of each profile; 0 for none.
    #[must_use]
    pub fn profile(mut self, values: usize) -> Self {
        self.profile = values;
        self
    }

    /// The seed of starts, resamples and splits.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The results folder; `fathom-out/fit-LAW-FILE` unless set otherwise.
    #[must_use]
    pub fn out(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out = Some(folder.into());
        self
    }

    /// Replaces the results of another fit in the folder. Those of the same fit are always replaced.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// The number of threads; all cores unless set otherwise. No result depends on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The command line to record in `run.json`.
    #[must_use]
    pub fn command(mut self, command: Vec<String>) -> Self {
        self.command = command;
        self
    }

    /// Fits the law and writes the results folder.
    ///
    /// A fit that did not converge is written too: see [`FitOutcome::unconverged`].
    ///
    /// # Errors
    /// When the table cannot be read or does not determine the law, options do not fit to it, the folder holds other results
    /// or cannot be written, or the observer cancels.
    pub fn run(&self, observer: &dyn Observer) -> Result<FitOutcome> {
        threads::run(self.threads, || execute::fit(self, observer))
    }

    fn law(&self) -> LawName {
        match self.law {
            Law::Depth { .. } => LawName::Depth,
            Law::Repeat => LawName::Repeat,
            Law::Rl(_) => LawName::Rl,
            Law::Regress(_) => LawName::Regress,
            Law::Custom(_) => LawName::Custom,
        }
    }

    /// The results folder.
    fn folder(&self) -> PathBuf {
        let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let default = || Path::new("fathom-out").join(format!("fit-{}-{stem}", self.law().name()));
        self.out.clone().unwrap_or_else(default)
    }
}
