//! What is measured during training, as JSONL.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Steps that are done.
    pub step: usize,
    /// Tokens that were trained on, repeated ones counted again.
    pub tokens: usize,
    /// The epoch of the last step, from 0.
    pub epoch: usize,
    /// The mean loss of the steps since the line before, in nats per token, with dropout and label smoothing.
    pub training_loss: f64,
    /// The loss on held-out texts, in nats per token, without.
    pub validation_loss: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// The norm of the last gradient, before clipping.
    pub gradient_norm: f64,
    /// The time since the run began, or went on.
    pub seconds: f64,
}

/// The file.
#[derive(Debug)]
pub struct MetricsLog(PathBuf);

impl MetricsLog {
    /// Opens the file of a run that goes on after `step` steps, and drops what was measured later.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let log = Self(path.to_owned());
        if path.exists() {
            log.drop_after(step)?;
        }
        Ok(log)
    }

    fn drop_after(&self, step: usize) -> Result<()> {
        let mut kept = String::new();
        for metric in self.read()?.iter().filter(|metric| metric.step <= step) {
            kept += &(serde_json::to_string(metric)? + "\n");
        }
        if fs::read_to_string(&self.0).with_context(|| self.failed("read"))? == kept {
            return Ok(());
        }
        let partial = self.0.with_extension("partial");
        fs::write(&partial, kept)
            .and_then(|()| fs::rename(&partial, &self.0))
            .with_context(|| self.failed("write"))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, metric: Metric) -> Result<()> {
        let line = serde_json::to_string(&metric)? + "\n";
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.0)
            .with_context(|| self.failed("open"))?;
        file.write_all(line.as_bytes()).with_context(|| self.failed("write"))
    }

    /// All lines. An unfinished last one, which a kill may leave, is ignored.
    ///
    /// # Errors
    /// When the file cannot be read, or another line is not a measurement.
    pub fn read(&self) -> Result<Vec<Metric>> {
        let text = fs::read_to_string(&self.0).with_context(|| self.failed("read"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |(i, line): (usize, &str)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", self.0.display(), i + 1))
        };
        whole.lines().enumerate().map(parse).collect()
    }

    fn failed(&self, what: &str) -> String {
        format!("cannot {what} {}", self.0.display())
    }
}
