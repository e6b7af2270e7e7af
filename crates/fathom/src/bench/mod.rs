//! How fast this machine is, and how much of that speed Fathom uses.

mod clock;
mod effort;
mod history;
mod kernels;
mod machine;
mod model;

pub use clock::Speed;
pub use kernels::{Direction, KernelSpeed};
pub use machine::Machine;
pub use model::{ModelSpeed, PrefillSpeed, ProbeSpeed};

use crate::device::OnDevice;
use crate::observer::{counted, uncounted};
use crate::{Device, ModelSpec, Observer, Result, Unit, run, threads};
use effort::Effort;
use fathom_kernels::Isa;
use fathom_model::source::Checkpoint;
use fathom_model::{Backend, Dtype};
use serde::Serialize;
use std::path::PathBuf;

/// Version of the lines of the history.
const SCHEMA_VERSION: u32 = 1;

/// A benchmark of this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bench {
    model: Option<ModelSpec>,
    device: Option<Device>,
    quick: bool,
    history: Option<PathBuf>,
    threads: Option<usize>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The version of this format.
    pub schema_version: u32,
    /// When, in RFC 3339.
    pub date: String,
    /// The version of Fathom.
    pub fathom: &'static str,
    /// The machine.
    pub machine: Machine,
    /// The device that was measured.
    pub device: String,
    /// The instruction set that the kernels use on the processor.
    pub instructions: &'static str,
    /// Threads of the pool.
    pub threads: usize,
    /// Whether the numbers are rough.
    pub quick: bool,
    /// Which of the repeated times counts.
    pub statistic: &'static str,
    /// The machine's peak.
    pub peak_gflops: Peak,
    /// Linear layers.
    pub kernels: Vec<KernelSpeed>,
    /// The model, where one was named.
    pub model: Option<ModelSpeed>,
}

/// The peak of multiply-adds on registers alone, the best of all rounds, in GFLOP/s (two operations each).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// In f32.
    pub f32: f64,
    /// In bf16.
    pub bf16: f64,
}

/// A part of a benchmark that is complete.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BenchEvent<'a> {
    /// The machine and its peak; nothing else yet.
    Machine(&'a BenchReport),
    /// A linear layer.
    Kernel(&'a KernelSpeed),
    /// The model's prefill; probes follow.
    Model(&'a ModelSpeed),
    /// A probe.
    Probe(&'a ProbeSpeed),
    /// The line was added to this file of the history.
    History(&'a std::path::Path),
}

impl Bench {
    /// A benchmark of the kernels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Measures this model too: its prefill and each probe.
    #[must_use]
    pub fn model(mut self, model: ModelSpec) -> Self {
        self.model = Some(model);
        self
    }

    /// The device; that of the model unless set otherwise.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Fewer sizes, prompts and repetitions: rough numbers in a few seconds.
    #[must_use]
    pub fn quick(mut self, quick: bool) -> Self {
        self.quick = quick;
        self
    }

    /// Adds the result as a line of JSON to `FOLDER/MACHINE.jsonl`.
    #[must_use]
    pub fn history(mut self, folder: impl Into<PathBuf>) -> Self {
        self.history = Some(folder.into());
        self
    }

    /// The number of threads; all cores unless set otherwise.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Measures; `each` receives every part as soon as it is complete.
    ///
    /// # Errors
    /// When the model cannot be read or the history cannot be written, or `each` fails.
    pub fn run(
        &self,
        observer: &dyn Observer,
        each: &mut (dyn FnMut(BenchEvent<'_>) -> Result<()> + Send),
    ) -> Result<BenchReport> {
        threads::run(self.threads, || {
            self.chosen_device().run(observer, Benching { bench: self, observer, each })
        })
    }

    /// The device: that of the model, where one is named.
    fn chosen_device(&self) -> Device {
        self.device.or(self.model.as_ref().map(|spec| spec.device)).unwrap_or_default()
    }
}

/// This machine.
pub(crate) fn machine() -> Machine {
    machine::describe()
}

/// A benchmark on its way.
struct Benching<'a, 'b> {
    bench: &'a Bench,
    observer: &'a dyn Observer,
    each: &'a mut (dyn FnMut(BenchEvent<'_>) -> Result<()> + Send + 'b),
}

impl OnDevice for Benching<'_, '_> {
    type Output = BenchReport;

    fn run<B: Backend>(self, backend: B) -> Result<BenchReport> {
        let Self { bench, observer, each } = self;
        let effort = Effort::on(bench.quick, &backend);
        let machine = machine::describe();
        // Fail before measuring if the folder cannot be written.
        let history =
            bench.history.as_ref().map(|folder| history::open(folder, &machine.name)).transpose()?;
        let model = match &bench.model {
            Some(spec) => Some((spec, spec.open(observer)?)),
            None => None,
        };
        let mut report = BenchReport {
            schema_version: SCHEMA_VERSION,
            date: run::now(),
            fathom: env!("CARGO_PKG_VERSION"),
            machine,
            device: backend.name(),
            instructions: Isa::get().name(),
            threads: rayon::current_num_threads(),
            quick: bench.quick,
            statistic: clock::STATISTIC,
            peak_gflops: peak(&backend, &effort, observer),
            kernels: Vec::new(),
            model: None,
        };
        each(BenchEvent::Machine(&report))?;
        report.kernels =
            time_kernels(&backend, &effort, model.as_ref().map(|(_, (_, c))| c), observer, each)?;
        if let Some((spec, (located, checkpoint))) = model {
            let loaded = spec.load_causal(checkpoint, backend, "the benchmark", observer)?;
            let timing = counted(observer, "model", Unit::Items("timings"), model::STEPS as u64);
            let mut speed = model::describe(&located, &loaded, &effort, observer)?;
            timing.advance(1);
            each(BenchEvent::Model(&speed))?;
            model::measure_probes(&loaded, &effort, &mut speed, observer, &mut |probe| {
                timing.advance(1);
                each(BenchEvent::Probe(probe))
            })?;
            report.model = Some(speed);
        }
        if let Some(mut history) = history {
            history.append(&report)?;
            each(BenchEvent::History(history.path()))?;
        }
        Ok(report)
    }
}

fn peak<B: Backend>(on: &B, effort: &Effort, observer: &dyn Observer) -> Peak {
    let _working = uncounted(observer, "measuring the peak of this machine");
    let of = |dtype| clock::gflops(on.peak(dtype, effort.peak_rounds));
    Peak { f32: of(Dtype::F32), bf16: of(Dtype::Bf16) }
}

fn time_kernels<B: Backend>(
    on: &B,
    effort: &Effort,
    checkpoint: Option<&Checkpoint>,
    observer: &dyn Observer,
    each: &mut dyn FnMut(BenchEvent<'_>) -> Result<()>,
) -> Result<Vec<KernelSpeed>> {
    let shapes = kernels::shapes(checkpoint.map(Checkpoint::config));
    let timing = counted(observer, "kernels", Unit::Items("timings"), kernels::count(&shapes, effort) as u64);
    kernels::measure(on, &shapes, effort, &mut |kernel| {
        timing.advance(1);
        each(BenchEvent::Kernel(kernel))
    })
}
