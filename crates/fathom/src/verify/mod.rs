//! A model's numbers against reference values, and other types and devices against f32 on the processor.

mod causal;
mod file;
mod golden;
mod precision;
mod row;

pub use precision::{CurveShift, DepthShift, PrecisionReport};
pub use row::{GoldenRow, Limit};

use crate::{Device, ModelSpec, Observer, Result, threads};
use fathom_model::Dtype;
use std::path::Path;

/// A check of a model's numbers.
///
/// ```no_run
/// use fathom::{Silent, Verification};
///
/// let rows = Verification::of("gpt2").golden("golden/gpt2.json".as_ref(), &Silent)?;
/// assert!(rows.iter().all(|row| row.passes()));
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    model: ModelSpec,
    threads: Option<usize>,
}

impl Verification {
    /// A check of `model`: a folder, a file, a Hugging Face id or a short name.
    pub fn of(model: impl Into<String>) -> Self {
        Self { model: ModelSpec::new(model), threads: None }
    }

    /// The branch, tag or commit of a model from the hub.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.model.revision = Some(revision.into());
        self
    }

    /// Bytes of a mixture's experts in memory; all of them, or as many as fit, unless set otherwise.
    #[must_use]
    pub fn expert_memory(mut self, bytes: u64) -> Self {
        self.model.expert_memory = Some(bytes);
        self
    }

    /// The type in which weights are multiplied where reference values are compared.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.model.dtype = dtype;
        self
    }

    /// The device that the model runs on; the processor unless set otherwise.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.model.device = device;
        self
    }

    /// The number of threads; all cores unless set otherwise.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Compares tokens, predictions and curves with the reference values in a JSON file.
    ///
    /// # Errors
    /// When the model or the file cannot be read, or the file has nothing to compare. A difference is not an error: see
    /// [`GoldenRow::passes`].
    pub fn golden(&self, file: &Path, observer: &dyn Observer) -> Result<Vec<GoldenRow>> {
        threads::run(self.threads, || golden::compare_file(&self.model, file, observer))
    }

    /// Compares the curves and depths of the first `limit` prompts of `data`, in the type and on the device set, with
    /// those in f32 on the processor.
    ///
    /// # Errors
    /// When model or prompts cannot be read, or the observer cancels.
    pub fn precision(&self, data: &str, limit: usize, observer: &dyn Observer) -> Result<PrecisionReport> {
        threads::run(self.threads, || precision::compare(&self.model, data, limit, observer))
    }
}
