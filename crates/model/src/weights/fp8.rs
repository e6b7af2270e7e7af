//! 8-bit floats and the scales stored beside them.

use std::ops::Range;

/// Rows and columns that share a scale, unless the configuration says otherwise.
pub(super) const FP8_BLOCK: [usize; 2] = [128, 128];

/// Suffixes that turn the name of a matrix of 8-bit floats into that of its scales, as DeepSeek and
/// compressed-tensors write them. In both, a weight is its 8-bit float times the scale.
pub(super) const SCALE_SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// Scales of the blocks of a matrix.
pub(super) struct Scales {
    pub(super) values: Vec<f32>,
    /// Blocks per row of blocks.
    pub(super) columns: usize,
    /// Rows and columns of a block.
    pub(super) block: [usize; 2],
}

impl Scales {
    /// Multiplies rows of the matrix by their scales.
    pub(super) fn apply(&self, rows: Range<usize>, width: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let scales = &self.values[row / self.block[0] * self.columns..][..self.columns];
            for (out, scale) in out.chunks_mut(self.block[1]).zip(scales) {
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
}

/// The values of 8-bit floats of 4 exponent bits (biased by 7) and 3 fraction bits, without infinities
/// (arXiv 2209.05433).
pub(super) const F8E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        let (exponent, fraction) = ((bits >> 3 & 15) as u32, (bits & 7) as f32);
        // The smallest subnormal is 2^-9; `from_bits` builds the power of two.
        let magnitude = match exponent {
            0 => fraction * f32::from_bits((127 - 9) << 23),
            15 if bits & 7 == 7 => f32::NAN,
            _ => (8.0 + fraction) * f32::from_bits((127 - 10 + exponent) << 23),
        };
        values[bits] = if bits >= 128 { -magnitude } else { magnitude };
        bits += 1;
    }
    values
};
