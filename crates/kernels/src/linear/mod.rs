//! Linear layers over weights that are packed once.

mod backward;
mod backward_transposed;
mod forward;
mod input;
#[cfg(test)]
mod tests;

use crate::element::{Element, round_to_bf16_values};
use crate::memory::OutOfMemory;
use crate::panel::{WIDTH, uses_amx};
use crate::storage::{QuantBlocks, Storage};
use crate::{Isa, checked_area};
use half::bf16;
use input::{avoids_set_conflicts, with_padded_copy};
use std::ops::Range;

/// How weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// As 32-bit floats, possibly stored in a smaller lossless format.
    F32,
    /// As bfloat16. Inputs are rounded to bfloat16 too; products are accumulated in `f32`.
    Bf16,
}

impl Dtype {
    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// `y = x W^T + b` with `W [n, k]`.
pub struct Linear {
    n: usize,
    k: usize,
    dtype: Dtype,
    weights: Storage,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs `n` rows of `k` weights. `fill(rows, block)` writes the weights of the given rows, at most
    /// 32, row-major into `block`. It is called from the threads of the current pool, so that reading
    /// and dequantising run in parallel and no second copy of the matrix exists. It may be called again
    /// for the same rows: for [`Dtype::F32`] formats are tried from small to large until one is
    /// lossless.
    ///
    /// # Errors
    /// The first error of `fill`, or [`OutOfMemory`].
    ///
    /// # Panics
    /// When `n` or `k` is 0, the matrix exceeds the address space, or the bias does not have `n`
    /// elements.
    pub fn pack<Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        check_shape(n, k, bias.as_deref());
        let weights = match dtype {
            Dtype::F32 => Storage::floats(n, k, fill)?,
            Dtype::Bf16 => Storage::panels::<bf16, _>(n, k, fill)?,
        };
        Ok(Self { n, k, dtype, weights, bias })
    }

    /// Packs `n` rows of `k` quantised weights in blocks of `columns`. `fill(rows, blocks)` writes the
    /// given rows, as with [`Self::pack`].
    ///
    /// # Errors
    /// The first error of `fill`, or [`OutOfMemory`].
    ///
    /// # Panics
    /// As [`Self::pack`]; when `columns` is not a multiple of 4 that divides `k`; when a scale or an
    /// offset is not finite; and for [`Dtype::Bf16`] when 32 does not divide `k`.
    pub fn pack_quantised<Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        check_shape(n, k, bias.as_deref());
        let weights = match dtype {
            Dtype::F32 => Storage::blocks::<f32, _>(n, k, columns, fill)?,
            Dtype::Bf16 => Storage::blocks::<bf16, _>(n, k, columns, fill)?,
        };
        Ok(Self { n, k, dtype, weights, bias })
    }

    /// Whether this machine multiplies quantised weights of `k` inputs as fast as others, so that
    /// [`Self::pack_quantised`] costs no speed. With AMX, decoding a panel takes longer than
    /// multiplying it.
    pub fn supports_quantised(k: usize, dtype: Dtype) -> bool {
        match dtype {
            Dtype::F32 => true,
            Dtype::Bf16 => k.is_multiple_of(WIDTH) && !uses_amx::<bf16>(Isa::get()),
        }
    }

    /// Outputs per row, `n`.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// Inputs per row, `k`.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.n * self.k + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Multiplies: `y = x W^T + b`.
    ///
    /// # Shapes
    /// `x [m, k]`, `y [m, n]`; `m` is `x.len() / k`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_with(Isa::get(), x, y);
    }

    /// [`Self::forward`] on a given instruction set, for tests and benchmarks.
    ///
    /// # Panics
    /// When the lengths do not fit or the machine lacks the instruction set.
    pub fn forward_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert_eq!(x.len() % self.k, 0, "x must hold whole rows of {}", self.k);
        let m = x.len() / self.k;
        assert_eq!(y.len(), checked_area(m, self.n), "y must be [{m}, {}]", self.n);
        match self.dtype {
            Dtype::F32 if avoids_set_conflicts(m, self.k) => self.multiply(isa, x, self.k, m, y),
            Dtype::F32 => {
                with_padded_copy(x, self.k, <f32 as Element>::round, |x, stride| {
                    self.multiply(isa, x, stride, m, y);
                });
            }
            Dtype::Bf16 if isa.has_bf16() => {
                with_padded_copy(x, self.k, <bf16 as Element>::round, |x, stride| {
                    self.multiply(isa, x, stride, m, y);
                });
            }
            // Without the instructions, floats that are bfloat16 take their place.
            Dtype::Bf16 => {
                with_padded_copy(x, self.k, round_to_bf16_values, |x: &[f32], stride| {
                    self.multiply(isa, x, stride, m, y);
                });
            }
        }
    }

    /// The gradient of the input from that of the output: `dx = dy W`.
    ///
    /// # Shapes
    /// `dy [m, n]`, `dx [m, k]`; `m` is `dy.len() / n`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        self.backward_with(Isa::get(), dy, dx);
    }

    /// [`Self::backward`] on a given instruction set, for tests and benchmarks.
    ///
    /// # Panics
    /// When the lengths do not fit or the machine lacks the instruction set.
    pub fn backward_with(&self, isa: Isa, dy: &[f32], dx: &mut [f32]) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert_eq!(dy.len() % self.n, 0, "dy must hold whole rows of {}", self.n);
        let m = dy.len() / self.n;
        assert_eq!(dx.len(), checked_area(m, self.k), "dx must be [{m}, {}]", self.k);
        // Only with the registers of AVX-512 does transposing pay.
        match self.dtype {
            Dtype::F32 if isa >= Isa::Avx512 && avoids_set_conflicts(m, self.n) => {
                self.multiply_transposed(isa, dy, self.n, m, dx);
            }
            Dtype::F32 if isa >= Isa::Avx512 => {
                with_padded_copy(dy, self.n, <f32 as Element>::round, |dy, stride| {
                    self.multiply_transposed(isa, dy, stride, m, dx);
                });
            }
            Dtype::Bf16 if isa.has_bf16() => {
                with_padded_copy(dy, self.n, <bf16 as Element>::round, |dy, stride| {
                    self.multiply_transposed(isa, dy, stride, m, dx);
                });
            }
            dtype => self.multiply_backward(isa, dy, dtype == Dtype::Bf16, m, dx),
        }
    }

    /// Reads one row of the weights: an embedding look-up when the embedding is tied to the head.
    ///
    /// # Shapes
    /// `out [k]`.
    ///
    /// # Panics
    /// When `row >= n` or `out` does not have `k` elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k);
        match self.dtype {
            Dtype::F32 => self.weights.row::<f32>(row, out),
            Dtype::Bf16 => self.weights.row::<bf16>(row, out),
        }
    }
}

/// # Panics
/// When a layer cannot have this shape.
fn check_shape(n: usize, k: usize, bias: Option<&[f32]>) {
    assert!(n > 0 && k > 0, "a linear layer must have inputs and outputs");
    assert!(bias.is_none_or(|b| b.len() == n), "the bias must have one element per row");
}

/// Some rows times some panels.
struct LinearJob {
    panels: Range<usize>,
    rows: Range<usize>,
}

/// Number of shares into which panels are split among jobs: enough for all threads, but none too small,
/// and none too large for the caches.
fn split_panels(panels: usize, macs_per_column: usize, max_per_job: usize) -> usize {
    // Below a few hundred thousand multiply-adds, scheduling a job costs more than running it.
    let least = 300_000usize.div_ceil((macs_per_column * WIDTH).max(1));
    let most = panels.div_ceil(least);
    panels.div_ceil(max_per_job).next_multiple_of(rayon::current_num_threads()).min(most)
}
