//! Another number format or device against f32 on the processor: how far the same model's curves and depths are
//! apart.

use crate::device::OnDevice;
use crate::error::invalid;
use crate::observer::{Cancellable, counted};
use crate::prompts::warn_of_unread;
use crate::tokenise::{self, PromptTokenizer};
use crate::{Device, Error, ModelSpec, Observer, PromptSpec, Result, Unit, memory};
use fathom_analysis::curves::rows_of;
use fathom_analysis::{BootstrapOptions, Curve, PromptCurves};
use fathom_data::Options;
use fathom_model::source::Loaded;
use fathom_model::{Backend, Dtype};
use fathom_probes::ProbeOptions;
use fathom_results::{Depth, Probe, Sample};
use std::convert::Infallible;

/// How far a rule's depth may move, in layers.
const LAYERS: f64 = 1.0;

/// How far curves and depths move from f32 on the processor to another format or device.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionReport {
    /// Where each curve moves most.
    pub curves: Vec<CurveShift>,
    /// The depth by each rule.
    pub depths: Vec<DepthShift>,
}

/// Where a curve moves most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveShift {
    /// The curve.
    pub curve: Curve,
    /// The layer.
    pub layer: usize,
    /// The value there in f32 on the processor.
    pub exact: f64,
    /// The value there in the other format or on the other device.
    pub rounded: f64,
    /// The difference as a share of the curve's largest absolute value.
    pub share: f64,
}

/// A rule's depth both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthShift {
    /// In f32 on the processor.
    pub exact: Depth,
    /// In the other format or on the other device.
    pub rounded: Depth,
}

impl PrecisionReport {
    /// The largest number of layers by which a depth may move.
    pub const LAYERS: f64 = LAYERS;
}

impl DepthShift {
    /// By how many layers the depth moves; `None` if one of them finds no depth.
    pub fn by(&self) -> Option<f64> {
        Some(self.rounded.value? - self.exact.value?)
    }

    /// Whether the depth moves by no more than [`PrecisionReport::LAYERS`].
    pub fn agrees(&self) -> bool {
        match (self.exact.value, self.rounded.value) {
            (None, None) => true,
            _ => self.by().is_some_and(|by| by.abs() <= LAYERS),
        }
    }
}

pub(super) fn compare(
    model: &ModelSpec,
    data: &str,
    limit: usize,
    observer: &dyn Observer,
) -> Result<PrecisionReport> {
    let reference = ModelSpec { dtype: Dtype::F32, device: Device::Cpu, ..model.clone() };
    let exact = measured(&reference, data, limit, observer)?;
    let rounded = measured(model, data, limit, observer)?;
    // Only the values are compared, so that one resample is more than enough.
    let options = BootstrapOptions { resamples: 1, ..BootstrapOptions::seeded(Options::SEED) };
    let depths = rows_of(&exact, &options).into_iter().zip(rows_of(&rounded, &options));
    Ok(PrecisionReport {
        curves: Curve::ALL.into_iter().filter_map(|curve| shift(curve, &exact, &rounded)).collect(),
        depths: depths.map(|(exact, rounded)| DepthShift { exact, rounded }).collect(),
    })
}

/// The curves of the first prompts.
fn measured(model: &ModelSpec, data: &str, limit: usize, observer: &dyn Observer) -> Result<PromptCurves> {
    model.device.run(observer, Measuring { model, data, limit, observer })
}

/// A measurement of the first prompts.
struct Measuring<'a> {
    model: &'a ModelSpec,
    data: &'a str,
    limit: usize,
    observer: &'a dyn Observer,
}

impl OnDevice for Measuring<'_> {
    type Output = PromptCurves;

    fn run<B: Backend>(self, backend: B) -> Result<PromptCurves> {
        let (_, checkpoint) = self.model.open(self.observer)?;
        let loaded = self.model.load(checkpoint, backend, self.observer)?;
        curves(&loaded, self.data, self.limit, self.observer)
    }
}

fn curves<B: Backend>(
    loaded: &Loaded<B>,
    data: &str,
    limit: usize,
    observer: &dyn Observer,
) -> Result<PromptCurves> {
    let spec = PromptSpec { limit: Some(limit), ..PromptSpec::new(data) };
    let set = spec.load(observer)?;
    warn_of_unread(&set, observer);
    let (config, random) = (loaded.model.config(), spec.rng.seeded(spec.seed));
    if !config.has_head() {
        invalid!(
            "{} has no language-model head, whose predictions are what is compared between number types",
            config.architecture
        );
    }
    let tokenizer = PromptTokenizer::new(&loaded.tokenizer, config, &set.source, random, 0)?;
    let prompts = tokenise::tokenise(&set, tokenizer, observer)?;
    let options = ProbeOptions {
        lens_maps: 0,
        probes: Probe::CLEAN.to_vec(),
        memory: memory::default_for(&loaded.model),
        naive: false,
        longest_text: 0,
        longest_pair: 0,
        skip: Default::default(),
        gradients: Default::default(),
    };
    let _cancellable = Cancellable::begin(observer);
    let measuring =
        counted(observer, loaded.model.dtype().name(), Unit::Items("prompts"), prompts.len() as u64);
    let callbacks = fathom_probes::Observer {
        is_cancelled: &|| observer.is_cancelled(),
        ..fathom_probes::Observer::NONE
    };
    let mut samples: Vec<Sample> = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        measuring.advance(1);
        Ok::<_, Infallible>(())
    };
    fathom_probes::measure(&loaded.model, &prompts, &options, callbacks, &mut keep)?;
    if samples.len() < prompts.len() {
        return Err(Error::Cancelled("interrupted; nothing was compared".to_owned()));
    }
    Ok(PromptCurves::of(&samples, loaded.model.config().depth())?)
}

/// Where a curve moves most; `None` if it was not measured.
fn shift(curve: Curve, exact: &PromptCurves, rounded: &PromptCurves) -> Option<CurveShift> {
    let once = exact.once();
    let (a, b) = (exact.curve(curve, &once)?, rounded.curve(curve, &once)?);
    let largest = a.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let gap = |i: &usize| (a[*i] - b[*i]).abs();
    let layer = (0..a.len()).max_by(|i, j| gap(i).total_cmp(&gap(j)))?;
    let share = gap(&layer) / largest.max(f64::MIN_POSITIVE);
    Some(CurveShift { curve, layer, exact: a[layer], rounded: b[layer], share })
}
