//! Depths of finished runs, from their folders.

use crate::error::invalid;
use crate::measurement::bootstrap_options;
use crate::observer::uncounted;
use crate::{Observer, Result, threads};
use fathom_analysis::curves::rows_of;
use fathom_analysis::{BootstrapOptions, PromptCurves, uncertainty};
use fathom_data::Options;
use fathom_results::{Depth, Folder, Results, Rule, Sample, Uncertainty};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The effective depth of a finished run with other thresholds, resamples or groups of prompts.
///
/// ```no_run
/// use fathom::{DepthAnalysis, Rule, Silent};
///
/// for found in DepthAnalysis::of("fathom-out/gpt2/gsm8k").threshold(Rule::Kl, 0.4).by_group(true).run(&Silent)? {
///     println!("{:?}: {:?}", found.group, found.results.depth);
/// }
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DepthAnalysis {
    folder: PathBuf,
    by_group: bool,
    bootstrap: Bootstrap,
    threads: Option<usize>,
}

/// The depth table of a run, or of one group of its prompts.
#[derive(Clone, Debug)]
pub struct GroupDepth {
    /// The group; `None` for all prompts together, and for prompts without a group.
    pub group: Option<String>,
    /// The run's results, with the depth table and the numbers of prompts and tokens of the group.
    pub results: Results,
    /// How certain the depths are.
    pub uncertainty: Uncertainty,
}

/// The options of a bootstrap, as given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bootstrap {
    pub(crate) thresholds: Vec<(Rule, f64)>,
    pub(crate) resamples: usize,
    pub(crate) seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { thresholds: Vec::new(), resamples: BootstrapOptions::RESAMPLES, seed: Options::SEED }
    }
}

impl Bootstrap {
    pub(crate) fn options(&self) -> Result<BootstrapOptions> {
        bootstrap_options(&self.thresholds, self.resamples, self.seed)
    }
}

/// Setters of the bootstrap's options and of the number of threads.
macro_rules! bootstrap_setters {
    () => {
        /// Another threshold for a depth rule.
        #[must_use]
        pub fn threshold(mut self, rule: Rule, value: f64) -> Self {
            self.bootstrap.thresholds.push((rule, value));
            self
        }

        /// The number of resamples of the bootstrap.
        #[must_use]
        pub fn resamples(mut self, resamples: usize) -> Self {
            self.bootstrap.resamples = resamples;
            self
        }

        /// The seed of the bootstrap.
        #[must_use]
        pub fn seed(mut self, seed: u64) -> Self {
            self.bootstrap.seed = seed;
            self
        }

        /// The number of threads; all cores unless set otherwise. No result depends on it.
        #[must_use]
        pub fn threads(mut self, threads: usize) -> Self {
            self.threads = Some(threads);
            self
        }
    };
}

pub(crate) use bootstrap_setters;

impl DepthAnalysis {
    /// The analysis of the run in a results folder, all prompts together.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), by_group: false, bootstrap: Bootstrap::default(), threads: None }
    }

    /// One table for each group of prompts: difficulty, level, hops, digits.
    #[must_use]
    pub fn by_group(mut self, by_group: bool) -> Self {
        self.by_group = by_group;
        self
    }

    bootstrap_setters!();

    /// Computes the depth tables, groups in the order of their first prompts.
    ///
    /// # Errors
    /// When the folder is not one of a run with prompts, or a threshold is invalid.
    pub fn run(&self, observer: &dyn Observer) -> Result<Vec<GroupDepth>> {
        let options = self.bootstrap.options()?;
        threads::run(self.threads, || {
            let (results, samples) = read(&self.folder)?;
            let of_group = |(group, samples): (Option<String>, Vec<Sample>)| {
                let curves = curves(&self.folder, &results, &samples)?;
                let working = uncounted(observer, "resampling prompts");
                let depth = rows_of(&curves, &options);
                let uncertainty = uncertainty(&curves, &options);
                drop(working);
                let results = of_some(&results, &samples, depth, uncertainty.prompts);
                Ok(GroupDepth { group, results, uncertainty })
            };
            groups(samples, self.by_group).into_iter().map(of_group).collect()
        })
    }
}

/// The results of a run with the depth table of some of its prompts.
fn of_some(results: &Results, samples: &[Sample], depth: Vec<Depth>, prompts: usize) -> Results {
    let mut results = Results { depth, ..results.clone() };
    (results.data.prompts, results.data.pairs) = (prompts, 0);
    // A resumed run has several lines of one prompt.
    let lengths: HashMap<&str, usize> = samples.iter().map(|s| (s.id.as_str(), s.tokens.len())).collect();
    results.data.tokens = lengths.values().sum::<usize>() as u64;
    results
}

/// The prompts of a run together, or group by group in the order of their first prompts.
fn groups(samples: Vec<Sample>, apart: bool) -> Vec<(Option<String>, Vec<Sample>)> {
    let mut groups: Vec<(Option<String>, Vec<Sample>)> = Vec::new();
    for sample in samples.into_iter().filter(|s| s.qa.is_none()) {
        let name = sample.group.clone().filter(|_| apart);
        match groups.iter_mut().find(|g| g.0 == name) {
            Some(group) => group.1.push(sample),
            None => groups.push((name, vec![sample])),
        }
    }
    groups
}

/// A finished run: its results, and the curves of its prompts.
pub(crate) fn open(path: &Path) -> Result<(Results, PromptCurves)> {
    let (results, samples) = read(path)?;
    let curves = curves(path, &results, &samples)?;
    Ok((results, curves))
}

fn read(path: &Path) -> Result<(Results, Vec<Sample>)> {
    let folder = Folder::open(path)?;
    let results = folder.results()?;
    let samples: Vec<Sample> = folder.samples()?;
    if samples.iter().all(|s| s.qa.is_some()) {
        invalid!("{} has no prompts, only question-answer pairs; measure prompts as well", path.display());
    }
    Ok((results, samples))
}

fn curves(path: &Path, results: &Results, samples: &[Sample]) -> Result<PromptCurves> {
    let curves = PromptCurves::of(samples, results.model.layers);
    curves.map_err(|e| crate::Error::from(e).context(format!("{} cannot be used", path.display())))
}
