//! Comparisons of finished runs, from their folders.

use crate::error::invalid;
use crate::folders::{Bootstrap, bootstrap_setters, open};
use crate::observer::uncounted;
use crate::{Observer, Result, threads};
use fathom_analysis::{
    BaselineComparison, Comparison, Pairing, PromptCurves, RunCurves, compare, compare_with_baseline,
};
use fathom_results::{LensInfo, ObjectiveInfo, Results, Rule};
use std::path::{Path, PathBuf};

/// A comparison of finished runs with one of them: depths and curves, with intervals.
///
/// ```no_run
/// use fathom::{RunComparison, Silent};
///
/// let found = RunComparison::of("fathom-out/base/gsm8k", "fathom-out/instruct/gsm8k").run(&Silent)?;
/// println!("{}", found.table());
///
/// let sizes = RunComparison::of("out/0.5b", "out/1.5b").and("out/3b").run_all(&Silent)?;
/// println!("{}", sizes.table());
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RunComparison {
    baseline: PathBuf,
    others: Vec<PathBuf>,
    pairing: Pairing,
    bootstrap: Bootstrap,
    threads: Option<usize>,
}

impl RunComparison {
    /// The comparison of the results folder `b` with `a`, with prompts paired by their texts.
    pub fn of(a: impl Into<PathBuf>, b: impl Into<PathBuf>) -> Self {
        let (baseline, others, bootstrap) = (a.into(), vec![b.into()], Bootstrap::default());
        Self { baseline, others, pairing: Pairing::Paired, bootstrap, threads: None }
    }

    /// A further results folder that is compared with the first.
    #[must_use]
    pub fn and(mut self, other: impl Into<PathBuf>) -> Self {
        self.others.push(other.into());
        self
    }

    /// How prompts are resampled: together, or each run on its own, as for runs on different prompts.
    #[must_use]
    pub fn pairing(mut self, pairing: Pairing) -> Self {
        self.pairing = pairing;
        self
    }

    bootstrap_setters!();

    /// Compares the first two runs. Differences are second less first.
    ///
    /// # Errors
    /// When a folder is not one of a run with prompts, the runs cannot be paired or have no probe in common, or a
    /// threshold is invalid.
    pub fn run(&self, observer: &dyn Observer) -> Result<Comparison> {
        let options = self.bootstrap.options()?;
        threads::run(self.threads, || {
            let (a, b) = (Run::open(&self.baseline)?, Run::open(&self.others[0])?);
            a.refuse_other_lens(&b)?;
            a.warn_of_differences(&b, observer);
            let _working = uncounted(observer, "resampling prompts");
            Ok(compare(a.curves(), b.curves(), self.pairing, &options)?)
        })
    }

    /// Compares every other run with the first. p-values are corrected for the number of runs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_all(&self, observer: &dyn Observer) -> Result<BaselineComparison> {
        let options = self.bootstrap.options()?;
        threads::run(self.threads, || {
            let baseline = Run::open(&self.baseline)?;
            let others = self.others.iter().map(|path| Run::open(path)).collect::<Result<Vec<_>>>()?;
            others.iter().try_for_each(|other| baseline.refuse_other_lens(other))?;
            others.iter().for_each(|other| baseline.warn_of_differences(other, observer));
            let _working = uncounted(observer, "resampling prompts");
            let curves: Vec<RunCurves<'_>> = others.iter().map(Run::curves).collect();
            Ok(compare_with_baseline(baseline.curves(), &curves, self.pairing, &options)?)
        })
    }
}

/// A finished run.
struct Run {
    name: String,
    device: String,
    /// What is predicted, in words.
    objective: String,
    /// The kind of lens, if one was used.
    lens: Option<&'static str>,
    curves: PromptCurves,
}

impl Run {
    fn open(path: &Path) -> Result<Self> {
        let (Results { model, data, lens, probes, objective, .. }, curves) = open(path)?;
        let lens =
            (probes.lens.is_some() || probes.settling.is_some()).then(|| LensInfo::kind(lens.as_ref()));
        let name = format!("{} on {} ({})", model.id, data.id, path.display());
        let objective = predicted(objective.as_ref());
        Ok(Self { name, objective, device: model.device.unwrap_or_else(|| "cpu".to_owned()), lens, curves })
    }

    fn curves(&self) -> RunCurves<'_> {
        RunCurves { name: &self.name, curves: &self.curves }
    }

    fn refuse_other_lens(&self, other: &Self) -> Result<()> {
        match (self.lens, other.lens) {
            (Some(one), Some(two)) if one != two => invalid!(
                "the runs read the stream with different lenses, {one} ({}) and {two} ({}), so their curves say different \
                 things; measure one of them again with the --lens of the other",
                self.name,
                other.name
            ),
            _ => Ok(()),
        }
    }

    fn warn_of_differences(&self, other: &Self, observer: &dyn Observer) {
        if self.objective != other.objective {
            observer.warn(&format!(
                "the runs predict different things, {} ({}) and {} ({}): a difference in depth may be one of the task",
                self.objective, self.name, other.objective, other.name
            ));
        }
        if self.device != other.device {
            observer.warn(&format!(
                "the runs were made on different devices, {} and {}: differences of about 1e-5 of a value and less are rounding",
                self.device, other.device
            ));
        }
    }
}

/// What a run predicts, in words.
pub(crate) fn predicted(objective: Option<&ObjectiveInfo>) -> String {
    objective.map_or_else(|| "the next token".to_owned(), ObjectiveInfo::sentence)
}
