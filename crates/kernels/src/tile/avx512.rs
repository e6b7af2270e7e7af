//! The inner kernel for AVX-512: up to 14 rows of 32 columns in registers.

use super::call::Tile;
use super::fma::Avx512Fma;
use super::panel_source::PanelSource;
use crate::Isa;
use crate::element::Element;
use crate::panel::{Blocking, WIDTH, chains};
use std::arch::x86_64::*;

/// Steps between prefetches of rows of y.
const STEPS_PER_ROW: usize = 4;

/// Defines the kernel with the CPU features that a multiply-add needs.
macro_rules! avx512_kernel {
    ($name:ident, $features:literal) => {
        /// # Safety
        /// The features must be available, the bounds of [`Tile::run`] must hold, and `columns` must
        /// have as many steps as the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<E: Element, A: Avx512Fma<E>, const R: usize>(
            t: &Tile<'_, E>,
            mut columns: impl PanelSource,
        ) {
            let (x, mut ahead) = (t.x.as_ptr(), t.prefetch.from);
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            for chain in chains::<E>(t.steps, Blocking::of::<E>(Isa::Avx512).chain) {
                let first = chain.start == 0;
                let mut acc = [[_mm512_setzero_ps(); 2]; R];
                for step in chain {
                    // Rows of y are far apart, so each is prefetched long before it is written.
                    if step < R * STEPS_PER_ROW && step % STEPS_PER_ROW == 0 {
                        let row = t.y.wrapping_add(step / STEPS_PER_ROW * t.y_stride);
                        _mm_prefetch::<_MM_HINT_ET0>(row.cast());
                        _mm_prefetch::<_MM_HINT_ET0>(row.wrapping_add(WIDTH / 2).cast());
                    }
                    // SAFETY: the callers checked that there are columns for each step and that every
                    // row of x holds all steps. A prefetch is harmless at any address.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                        let [b0, b1] = columns.next();
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let word = x.add(r * t.x_stride + step * E::GROUP).cast::<i32>().read_unaligned();
                            let a = _mm512_set1_epi32(word);
                            acc[0] = A::add(acc[0], a, b0);
                            acc[1] = A::add(acc[1], a, b1);
                        }
                    }
                    ahead = ahead.wrapping_add(t.prefetch.bytes_per_step);
                }
                // The sums of earlier chains are spilled to the stack meanwhile.
                for (sums, acc) in sums.iter_mut().zip(&acc) {
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        *sum = if first { *acc } else { _mm512_add_ps(*acc, *sum) };
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: the tile has this row, within the bounds of `Tile::run`.
                unsafe { write_row(t, r, *sums) };
            }
        }
    };
}

avx512_kernel!(run, "avx512f,avx512bw,avx512dq,avx512vl,fma");
avx512_kernel!(run_bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma");

/// Writes the sums of row `r` to y, or adds them to it.
///
/// # Safety
/// AVX-512 must be available, and the bounds of [`Tile::run`] must hold with `r < t.rows`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn write_row<E: Element>(t: &Tile<'_, E>, r: usize, sums: [__m512; 2]) {
    let [mut lo, mut hi] = sums;
    if t.cols < WIDTH {
        let mut sums = [0.0; WIDTH];
        // SAFETY: `sums` has 32 elements, and the caller guarantees the row of y.
        return unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), lo);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), hi);
            t.write_row_scalar(r, &sums)
        };
    }
    // SAFETY: a full row of the tile is writable, and readable when accumulating; the bias has 32
    // elements.
    unsafe {
        let y = t.y.add(r * t.y_stride);
        if t.accumulate {
            lo = _mm512_add_ps(lo, _mm512_loadu_ps(y));
            hi = _mm512_add_ps(hi, _mm512_loadu_ps(y.add(16)));
        }
        if let Some(bias) = t.bias {
            lo = _mm512_add_ps(lo, _mm512_loadu_ps(bias.as_ptr()));
            hi = _mm512_add_ps(hi, _mm512_loadu_ps(bias.as_ptr().add(16)));
        }
        _mm512_storeu_ps(y, lo);
        _mm512_storeu_ps(y.add(16), hi);
    }
}
