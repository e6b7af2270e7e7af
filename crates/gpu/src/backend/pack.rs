//! Packing of weights: the smallest lossless format, as on the CPU.

use crate::device::{Device, Format, ROW_ALIGNMENT, Weights};
use fathom_kernels::backend::LinearLayer;
use fathom_kernels::{Dtype, OutOfMemory, QuantBlocks};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// A linear layer on a device.
pub struct Linear<M> {
    pub(crate) weights: Weights<M>,
    bytes: usize,
}

impl<M: Send + Sync> LinearLayer for Linear<M> {
    fn outputs(&self) -> usize {
        self.weights.n
    }

    fn inputs(&self) -> usize {
        self.weights.k
    }

    fn parameters(&self) -> usize {
        let bias = if self.weights.bias.is_some() { self.weights.n } else { 0 };
        self.weights.n * self.weights.k + bias
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Rows that are filled at a time by one thread.
const ROWS_PER_FILL: usize = 32;

/// Elements that are uploaded at a time.
const ELEMENTS_PER_UPLOAD: usize = 1 << 22;

/// Why packing ended early.
enum Stop<E> {
    /// The format would lose digits.
    Lossy,
    /// Weights could not be read, or do not fit into memory.
    Failed(E),
}

impl<E: From<OutOfMemory>> From<OutOfMemory> for Stop<E> {
    fn from(error: OutOfMemory) -> Self {
        Self::Failed(error.into())
    }
}

/// The shape of a layer and how it is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) dtype: Dtype,
}

impl Shape {
    fn stride(self) -> usize {
        self.k.next_multiple_of(ROW_ALIGNMENT)
    }

    fn check(self, bias: Option<&[f32]>) {
        assert!(self.n > 0 && self.k > 0, "a linear layer must have inputs and outputs");
        assert!(bias.is_none_or(|b| b.len() == self.n), "the bias must have one element per row");
    }
}

/// Packs floats: for [`Dtype::F32`] in the smallest lossless format, for [`Dtype::Bf16`] rounded.
pub(crate) fn floats<D: Device, E: Send + From<OutOfMemory>>(
    device: &D,
    shape: Shape,
    bias: Option<Vec<f32>>,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Linear<D::Memory>, E> {
    shape.check(bias.as_deref());
    let formats: &[Format] = match shape.dtype {
        Dtype::F32 => &[Format::Bf16, Format::F16, Format::F32],
        Dtype::Bf16 => &[Format::Bf16],
    };
    // A lossy format is mostly detected in the first rows.
    for format in formats {
        let pack = |rows: Range<usize>, to: &mut [u32]| {
            let mut values = vec![0.0; rows.len() * shape.k];
            fill(rows, &mut values).map_err(Stop::Failed)?;
            let stride = shape.stride() / format.per_word();
            let rows = values.chunks_exact(shape.k).zip(to.chunks_exact_mut(stride));
            let lossless = shape.dtype == Dtype::F32;
            rows.map(|(row, to)| pack_floats(*format, lossless, row, to))
                .collect::<Option<()>>()
                .ok_or(Stop::Lossy)
        };
        match upload_rows(device, shape, *format, pack) {
            Ok(words) => return layer(device, shape, *format, words, None, bias),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Lossy) => {}
        }
    }
    unreachable!("32-bit floats hold themselves")
}

/// Packs one row, or `None` when the format would lose digits and must not.
fn pack_floats(format: Format, lossless: bool, row: &[f32], to: &mut [u32]) -> Option<()> {
    let half = |w: &f32| -> Option<u32> {
        let (bits, back) = match format {
            Format::F16 => (f16::from_f32(*w).to_bits(), f16::from_f32(*w).to_f32()),
            _ => (bf16::from_f32(*w).to_bits(), bf16::from_f32(*w).to_f32()),
        };
        (!lossless || back.to_bits() == w.to_bits()).then_some(u32::from(bits))
    };
    if format == Format::F32 {
        to.iter_mut().zip(row).for_each(|(to, w)| *to = w.to_bits());
        return Some(());
    }
    for (to, pair) in to.iter_mut().zip(row.chunks(2)) {
        let high = pair.get(1).map_or(Some(0), half)?;
        *to = half(&pair[0])? | high << 16;
    }
    Some(())
}

/// Packs quantised weights, in four bits where all values fit.
pub(crate) fn quantised<D: Device, E: Send + From<OutOfMemory>>(
    device: &D,
    shape: Shape,
    columns: usize,
    bias: Option<Vec<f32>>,
    fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), E> + Sync,
) -> Result<Linear<D::Memory>, E> {
    shape.check(bias.as_deref());
    assert!(
        columns > 0 && columns.is_multiple_of(4) && shape.k.is_multiple_of(columns),
        "blocks must fill rows"
    );
    let blocks = shape.k / columns;
    let formats =
        [Format::Int4 { columns, bias: 8 }, Format::Int4 { columns, bias: 0 }, Format::Int8 { columns }];
    for format in formats {
        let scales = std::sync::Mutex::new(vec![0u32; shape.n * blocks * 2]);
        let pack = |rows: Range<usize>, to: &mut [u32]| {
            let first = rows.start * blocks * 2;
            let mut block = Blocks::new(rows.len(), shape.k, blocks);
            let Blocks { values, scales: s, offsets } = &mut block;
            fill(rows, QuantBlocks { values, scales: s, offsets }).map_err(Stop::Failed)?;
            let pairs = block.pairs();
            let mut all = scales.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all[first..first + pairs.len()].copy_from_slice(&pairs);
            drop(all);
            let stride = shape.stride() / format.per_word();
            let rows = block.values.chunks_exact(shape.k).zip(to.chunks_exact_mut(stride));
            rows.map(|(row, to)| pack_integers(format, row, to)).collect::<Option<()>>().ok_or(Stop::Lossy)
        };
        match upload_rows(device, shape, format, pack) {
            Ok(words) => {
                let scales = scales.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                let memory = device.allocate(scales.len())?;
                device.write(&memory, 0, &scales);
                return layer(device, shape, format, words, Some((memory, scales.len())), bias);
            }
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Lossy) => {}
        }
    }
    unreachable!("bytes hold themselves")
}

/// Quantised rows on the host.
struct Blocks {
    values: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl Blocks {
    fn new(rows: usize, k: usize, blocks: usize) -> Self {
        Self {
            values: vec![0; rows * k],
            scales: vec![0.0; rows * blocks],
            offsets: vec![0.0; rows * blocks],
        }
    }

    /// Scales and offsets in turn.
    fn pairs(&self) -> Vec<u32> {
        let finite = self.scales.iter().chain(&self.offsets).all(|x| x.is_finite());
        assert!(finite, "scales and offsets must be finite");
        self.scales.iter().zip(&self.offsets).flat_map(|(s, o)| [s.to_bits(), o.to_bits()]).collect()
    }
}

/// Packs one row, or `None` when a value does not fit.
fn pack_integers(format: Format, row: &[i8], to: &mut [u32]) -> Option<()> {
    let per_word = format.per_word();
    for (to, values) in to.iter_mut().zip(row.chunks(per_word)) {
        let mut word = 0;
        for (i, value) in values.iter().enumerate() {
            let bits = match format {
                Format::Int4 { bias, .. } => {
                    u32::try_from(i32::from(*value) + bias).ok().filter(|nibble| *nibble < 16)?
                }
                _ => u32::from(value.cast_unsigned()),
            };
            word |= bits << (i * 32 / per_word);
        }
        *to = word;
    }
    Some(())
}

/// Packs rows on all threads and uploads them. `pack(rows, words)` packs the given rows, at most
/// [`ROWS_PER_FILL`], into zeros.
fn upload_rows<D: Device, E: Send + From<OutOfMemory>>(
    device: &D,
    shape: Shape,
    format: Format,
    pack: impl Fn(Range<usize>, &mut [u32]) -> Result<(), Stop<E>> + Sync,
) -> Result<D::Memory, Stop<E>>
where
    Stop<E>: Send,
{
    let row_words = shape.stride() / format.per_word();
    let band = (ELEMENTS_PER_UPLOAD / shape.stride()).max(1).next_multiple_of(ROWS_PER_FILL);
    let mut memory = None;
    for first in (0..shape.n).step_by(band) {
        let rows = first..(first + band).min(shape.n);
        let mut words = vec![0u32; rows.len() * row_words];
        words.par_chunks_mut(ROWS_PER_FILL * row_words).enumerate().try_for_each(|(i, to)| {
            let start = first + i * ROWS_PER_FILL;
            pack(start..(start + ROWS_PER_FILL).min(shape.n), to)
        })?;
        // A format that does not fit is mostly found before memory is allocated for it.
        let memory = match &memory {
            Some(memory) => memory,
            None => memory.insert(device.allocate(shape.n * row_words)?),
        };
        device.write(memory, first * row_words, &words);
    }
    memory.ok_or(Stop::Lossy)
}

fn layer<D: Device, E: From<OutOfMemory>>(
    device: &D,
    shape: Shape,
    format: Format,
    words: D::Memory,
    scales: Option<(D::Memory, usize)>,
    bias: Option<Vec<f32>>,
) -> Result<Linear<D::Memory>, E> {
    let bias = match bias {
        Some(bias) => {
            let memory = device.allocate(bias.len())?;
            device.write(&memory, 0, bytemuck::cast_slice(&bias));
            Some(memory)
        }
        None => None,
    };
    let Shape { n, k, dtype } = shape;
    let stride = shape.stride();
    let words_count = n * (stride / format.per_word()) + scales.as_ref().map_or(0, |s| s.1);
    let weights = Weights { n, k, stride, format, words, scales: scales.map(|s| s.0), bias, dtype };
    Ok(Linear { weights, bytes: words_count * size_of::<u32>() })
}
