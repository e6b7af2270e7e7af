//! Models with more layers than their source.

use super::gguf::{F16, F32};
use super::part::{Origin, Part, encode};
use super::{ExportError, ExportFormat, Job, SHARD_BYTES, Staged, stage};
use fathom_model::source::{Checkpoint, Form};
use fathom_model::weights::{StoredTensor, Tensor};
use half::f16;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What takes the place of a tensor that is copied from the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Zeros.
    Zeros,
    /// The mean of the tensors of two layers of the source.
    Mean([usize; 2]),
    /// Other numbers, in the order in which the source stores them.
    Numbers(Vec<f32>),
}

/// A layer of the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrownLayer {
    /// The layer of the source whose settings it has, and whose tensors where nothing else is said.
    pub from: usize,
    /// What differs, by the name of the tensor in that layer.
    pub changes: BTreeMap<String, Change>,
}

/// A model to be written with other layers than its source.
#[derive(Clone, Copy)]
pub struct Growth<'a> {
    /// The source.
    pub source: &'a Checkpoint,
    /// The layers of the result, from the first.
    pub layers: &'a [GrownLayer],
    /// The folder to be made; it must not exist, or be empty. A GGUF file is named after it.
    pub out: &'a Path,
    /// The model card, written as README.md.
    pub card: &'a str,
}

impl Growth<'_> {
    /// Writes the model beside its place, in the format of the source; it appears there by [`Staged::publish`].
    ///
    /// Copies keep their bytes. Other numbers are written in the type of the tensor that they replace, in GGUF as F16, or
    /// F32 for vectors and where a number is too large.
    ///
    /// # Errors
    /// When the source cannot be read, a change has no form in the format, the target exists, the disk is full, or
    /// `progress` ends it; and when what was written would not be read as was meant.
    pub fn stage(&self, progress: &dyn Fn(u64, u64) -> ControlFlow<()>) -> Result<Staged, ExportError> {
        let job = Job {
            checkpoint: self.source,
            layers: self.layers.iter().map(|layer| layer.from).collect(),
            replacement: None,
            grown: self.layers,
            out: self.out,
            card: self.card,
        };
        let format = match self.source.form() {
            Form::Folder(_) => ExportFormat::Hf,
            Form::Gguf { .. } => ExportFormat::Gguf,
        };
        job.stage(format, SHARD_BYTES, &stage::create, progress)
    }
}

impl Job<'_> {
    /// What replaces a tensor of the source in a layer of the result.
    pub(super) fn change(&self, layer: Option<usize>, name: &str) -> Option<&Change> {
        self.grown.get(layer?)?.changes.get(name)
    }

    /// The tensor and the same one in another layer.
    fn in_layer(&self, tensor: StoredTensor<'_>, layer: usize) -> Result<Tensor<'_>, ExportError> {
        let prefix = self.checkpoint.layer_prefix();
        let rest = super::config::layer_of(prefix, tensor.name).map_or("", |(_, rest)| rest);
        Ok(self.checkpoint.weights().tensor(&format!("{prefix}{layer}{rest}"), tensor.shape)?)
    }

    fn mean<'a>(
        &'a self,
        tensor: StoredTensor<'_>,
        layers: [usize; 2],
        dtype: Dtype,
    ) -> Result<Part<'a>, ExportError> {
        let elements: usize = tensor.shape.iter().product();
        let [one, other] = layers.map(|layer| self.in_layer(tensor, layer));
        let len = (elements * dtype.bitsize() / 8) as u64;
        Ok(Part { len, from: Origin::Mean(Box::new([one?, other?]), dtype) })
    }
}

/// A changed tensor for a folder.
pub(super) fn as_safetensors<'a>(
    job: &'a Job<'_>,
    change: &'a Change,
    tensor: StoredTensor<'a>,
    dtype: Dtype,
) -> Result<(Dtype, Part<'a>), ExportError> {
    if *change == Change::Zeros {
        return Ok((dtype, Part::zeros(tensor.bytes.len())));
    }
    if dtype == Dtype::F8_E4M3 {
        let what = format!(
            "'{}' is stored in 8-bit floats, which need scales of their own; use the model in bfloat16, or grow it by \
             copies (solar, llama-pro, midas, lidas)",
            tensor.name
        );
        return Err(ExportError::Growth(what));
    }
    let dtype = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
    match change {
        Change::Mean(layers) => Ok((dtype, job.mean(tensor, *layers, dtype)?)),
        Change::Numbers(numbers) => {
            let overflows = dtype == Dtype::F16 && !fits_f16(numbers);
            let dtype = if overflows { Dtype::F32 } else { dtype };
            Ok((dtype, Part::made(encode(numbers, dtype))))
        }
        Change::Zeros => unreachable!("handled above"),
    }
}

/// A changed tensor for a GGUF file.
pub(super) fn as_gguf<'a>(
    job: &'a Job<'_>,
    change: &'a Change,
    tensor: StoredTensor<'a>,
    kind: u32,
) -> Result<(u32, Part<'a>), ExportError> {
    let vector = tensor.shape.len() < 2;
    match change {
        // In every format of blocks a scale of zero makes zeros.
        Change::Zeros => Ok((kind, Part::zeros(tensor.bytes.len()))),
        Change::Numbers(numbers) => Ok(super::gguf::changed(numbers, tensor.shape.len())),
        Change::Mean(layers) => {
            let exact = job.mean(tensor, *layers, Dtype::F32)?;
            let mut fits = !vector;
            if fits {
                exact.read(&mut |bytes| {
                    let numbers = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
                    fits = fits && numbers.into_iter().all(|x| f16::from_f32(x).is_finite());
                    Ok(())
                })?;
            }
            match fits {
                true => Ok((F16, job.mean(tensor, *layers, Dtype::F16)?)),
                false => Ok((F32, exact)),
            }
        }
    }
}

fn fits_f16(numbers: &[f32]) -> bool {
    numbers.iter().all(|x| f16::from_f32(*x).is_finite())
}
