//! The files of a result, as lists of parts that are streamed.

use super::ExportError;
use fathom_model::source::Converted;
use fathom_model::weights::Tensor;
use half::{bf16, f16};
use safetensors::Dtype;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// Bytes that are written at once.
const AT_ONCE: usize = 4 << 20;

/// A file to be written.
pub(super) struct PlannedFile<'a> {
    /// Its name in the folder.
    pub(super) name: String,
    pub(super) parts: Vec<Part<'a>>,
}

/// Consecutive bytes of a file.
pub(super) struct Part<'a> {
    pub(super) len: u64,
    pub(super) from: Origin<'a>,
}

/// Where bytes come from.
pub(super) enum Origin<'a> {
    /// Made for the result.
    Made(Vec<u8>),
    /// Of the source, as they are.
    Stored(&'a [u8]),
    /// A file of the source.
    File(PathBuf),
    /// Numbers of a GGUF tensor as this type, which holds them exactly.
    Converted(&'a Converted<'a>, Dtype),
    /// The mean of two tensors of the source, rounded to this type.
    Mean(Box<[Tensor<'a>; 2]>, Dtype),
    /// Zeros.
    Zeros,
}

impl<'a> Part<'a> {
    pub(super) fn made(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, from: Origin::Made(bytes) }
    }

    pub(super) fn stored(bytes: &'a [u8]) -> Self {
        Self { len: bytes.len() as u64, from: Origin::Stored(bytes) }
    }

    pub(super) fn zeros(bytes: usize) -> Self {
        Self { len: bytes as u64, from: Origin::Zeros }
    }

    /// Calls `each` with the bytes, piece by piece.
    pub(super) fn read(
        &self,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        match &self.from {
            Origin::Made(bytes) => bytes.chunks(AT_ONCE).try_for_each(each),
            Origin::Stored(bytes) => bytes.chunks(AT_ONCE).try_for_each(each),
            Origin::File(path) => {
                let read = |source| ExportError::Write { path: path.clone(), source };
                let mut file = File::open(path).map_err(read)?;
                let mut buffer = vec![0; AT_ONCE.min(self.len.max(1) as usize)];
                let mut left = self.len;
                while left > 0 {
                    let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    match file.read(&mut buffer[..wanted]).map_err(read)? {
                        0 => return Err(read(io::ErrorKind::UnexpectedEof.into())),
                        got => {
                            each(&buffer[..got])?;
                            left -= got as u64;
                        }
                    }
                }
                Ok(())
            }
            Origin::Converted(tensor, dtype) => tensor.read(|numbers| each(&encode(numbers, *dtype))),
            Origin::Mean(tensors, dtype) => mean(tensors, *dtype, each),
            Origin::Zeros => {
                let zeros = vec![0; AT_ONCE.min(self.len as usize)];
                let mut left = self.len as usize;
                while left > 0 {
                    let now = left.min(AT_ONCE);
                    each(&zeros[..now])?;
                    left -= now;
                }
                Ok(())
            }
        }
    }
}

/// Reads the mean of two tensors, some rows at a time.
fn mean(
    tensors: &[Tensor<'_>; 2],
    dtype: Dtype,
    each: &mut dyn FnMut(&[u8]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let (rows, width) = tensors[0].size();
    let step = (AT_ONCE / 4 / width.max(1)).max(1);
    let mut pair = [Vec::new(), Vec::new()];
    for start in (0..rows).step_by(step) {
        let range = start..rows.min(start + step);
        for (numbers, tensor) in pair.iter_mut().zip(tensors) {
            numbers.resize(range.len() * width, 0.0);
            tensor.read(range.clone(), numbers)?;
        }
        let [one, other] = &mut pair;
        // Halved before they are added, so that nothing overflows.
        one.iter_mut().zip(other.iter()).for_each(|(a, b)| *a = 0.5 * *a + 0.5 * b);
        each(&encode(one, dtype))?;
    }
    Ok(())
}

impl<'a> PlannedFile<'a> {
    pub(super) fn text(name: &str, text: String) -> Self {
        Self { name: name.to_owned(), parts: vec![Part::made(text.into_bytes())] }
    }

    pub(super) fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len).sum()
    }
}

/// Numbers in a type of safetensors: F16, BF16, or else F32.
pub(super) fn encode(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The smallest type that holds all numbers of a tensor exactly.
pub(super) fn smallest_type(tensor: &Converted<'_>) -> Result<Dtype, ExportError> {
    let (mut in_bf16, mut in_f16) = (true, true);
    tensor.read(|numbers| -> Result<(), ExportError> {
        in_bf16 = in_bf16 && numbers.iter().all(|x| bf16::from_f32(*x).to_f32().to_bits() == x.to_bits());
        in_f16 = in_f16 && numbers.iter().all(|x| f16::from_f32(*x).to_f32().to_bits() == x.to_bits());
        Ok(())
    })?;
    Ok(match (in_bf16, in_f16) {
        (true, _) => Dtype::BF16,
        (_, true) => Dtype::F16,
        _ => Dtype::F32,
    })
}
