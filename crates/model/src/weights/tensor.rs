//! Reading the rows of a tensor.

use super::fp8::{F8E4M3, Scales};
use super::mxfp4;
use super::store::ElementType;
use crate::error::{Error, Result};
use fathom_kernels::QuantBlocks;
use half::{bf16, f16};
use std::ops::Range;
use std::path::Path;

/// One tensor, as rows.
pub struct Tensor<'a> {
    pub(crate) path: &'a Path,
    pub(super) name: String,
    pub(super) element: ElementType,
    pub(super) bytes: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(super) scales: Option<Scales>,
    /// The exponents of blocks of 4-bit floats.
    pub(super) exponents: &'a [u8],
}

impl Tensor<'_> {
    /// Rows, and the width of one; a vector is one row.
    pub fn size(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// Reads rows as `f32`, dequantised.
    ///
    /// # Shapes
    /// `out [rows, width]`.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    ///
    /// # Panics
    /// When `rows` or the length of `out` do not fit.
    pub fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert!(out.len() == rows.len() * self.width);
        let bytes = self.bytes_of(&rows)?;
        match self.element {
            ElementType::F64 => decode(bytes, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            ElementType::F32 => decode(bytes, out, f32::from_le_bytes),
            ElementType::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            ElementType::Bf16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            ElementType::F8E4M3 => decode(bytes, out, |[b]: [u8; 1]| F8E4M3[usize::from(b)]),
            ElementType::Blocks(_) | ElementType::Mxfp4 => return self.dequantise(rows, out),
        }
        if let Some(scales) = &self.scales {
            scales.apply(rows.clone(), self.width, out);
        }
        self.check(&rows, out)
    }

    /// Columns that share a scale, if the tensor is quantised.
    pub(crate) fn columns_per_scale(&self) -> Option<usize> {
        match self.element {
            ElementType::Blocks(format) => Some(format.numbers_per_scale()),
            ElementType::Mxfp4 => Some(mxfp4::BLOCK),
            _ => None,
        }
    }

    /// Reads rows of a quantised tensor without dequantising.
    ///
    /// # Shapes
    /// `to` holds the rows, with a scale per [`Self::columns_per_scale`] columns or a divisor of that.
    ///
    /// # Errors
    /// When a scale or an offset is NaN or infinite.
    ///
    /// # Panics
    /// When the tensor is not quantised, or the lengths do not fit.
    pub(crate) fn read_blocks(&self, rows: Range<usize>, to: QuantBlocks<'_>) -> Result<()> {
        let columns = self.columns_per_scale().unwrap_or_else(|| panic!("'{}' has no blocks", self.name));
        assert!(to.values.len() == rows.len() * self.width);
        let count = to.values.len() / columns;
        let QuantBlocks { values, scales, offsets } = to;
        let (own_scales, own_offsets) = (&mut scales[..count], &mut offsets[..count]);
        let (bytes, to) =
            (self.bytes_of(&rows)?, QuantBlocks { values, scales: own_scales, offsets: own_offsets });
        match self.element {
            ElementType::Blocks(format) => format.read(bytes, to),
            _ => {
                let of_row = self.width / columns;
                mxfp4::read(bytes, &self.exponents[rows.start * of_row..rows.end * of_row], to);
            }
        }
        self.check(&rows, own_scales)?;
        self.check(&rows, own_offsets)?;
        spread(scales, count);
        spread(offsets, count);
        Ok(())
    }

    fn dequantise(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = self.columns_per_scale().unwrap_or(1);
        let (mut values, count) = (vec![0; out.len()], out.len() / columns);
        let (mut scales, mut offsets) = (vec![0.0; count], vec![0.0; count]);
        let to = QuantBlocks { values: &mut values, scales: &mut scales, offsets: &mut offsets };
        self.read_blocks(rows, to)?;
        let blocks = out.chunks_exact_mut(columns).zip(values.chunks_exact(columns));
        for ((out, values), (scale, offset)) in blocks.zip(scales.iter().zip(&offsets)) {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from(*value) * scale + offset);
        }
        Ok(())
    }

    /// The bytes of some rows.
    fn bytes_of(&self, rows: &Range<usize>) -> Result<&[u8]> {
        assert!(rows.end <= self.rows.max(1));
        let bytes = |rows: usize| self.element.bytes(rows * self.width);
        let (Some(start), Some(len)) = (bytes(rows.start), bytes(rows.len())) else {
            return Err(Error::file(
                self.path,
                format!("rows of tensor '{}' do not fill whole blocks of its format", self.name),
            ));
        };
        Ok(&self.bytes[start..start + len])
    }

    /// Refuses NaN and infinity.
    fn check(&self, rows: &Range<usize>, numbers: &[f32]) -> Result<()> {
        match numbers.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::NotFinite {
                path: self.path.to_owned(),
                name: self.name.clone(),
                row: rows.start + at / (numbers.len() / rows.len().max(1)).max(1),
                value: numbers[at],
            }),
        }
    }
}

/// Repeats each of the first `count` numbers until `numbers` is full.
fn spread(numbers: &mut [f32], count: usize) {
    let times = numbers.len() / count.max(1);
    for i in (0..count).rev() {
        let number = numbers[i];
        numbers[i * times..(i + 1) * times].fill(number);
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], to_f32: impl Fn([u8; N]) -> f32) {
    for (out, raw) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = to_f32(*raw);
    }
}
