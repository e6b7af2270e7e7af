//! The inner kernel for AVX2: rows of 16 columns fill the 16 registers, so a panel takes two passes.

use super::call::Tile;
use super::fma::Avx2Fma;
use crate::Isa;
use crate::element::Element;
use crate::panel::{Blocking, WIDTH, chains};
use std::arch::x86_64::*;
use std::ops::Range;

/// Registers of a step of a panel.
const REGISTERS: usize = 4;

/// Steps between prefetches of rows of y.
const STEPS_PER_ROW: usize = 8;

/// # Safety
/// AVX2 and FMA must be available, and the bounds of [`Tile::run`] must hold.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<E: Element, A: Avx2Fma<E>, const R: usize>(t: &Tile<'_, E>) {
    let mut sums = [[_mm256_setzero_ps(); REGISTERS]; R];
    for chain in chains::<E>(t.steps, Blocking::of::<E>(Isa::Avx2).chain) {
        let first = chain.start == 0;
        for half in [0, 1] {
            // SAFETY: the caller's guarantee.
            let acc = unsafe { multiply_half::<E, A, R>(t, chain.clone(), half) };
            for (sums, acc) in sums.iter_mut().zip(&acc) {
                for (sum, acc) in sums[2 * half..].iter_mut().zip(acc) {
                    *sum = if first { *acc } else { _mm256_add_ps(*acc, *sum) };
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the tile has this row, within the bounds of `Tile::run`.
        unsafe { write_row(t, r, sums) };
    }
}

/// The sums of one chain for the columns of one half of the panel.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_half<E: Element, A: Avx2Fma<E>, const R: usize>(
    t: &Tile<'_, E>,
    chain: Range<usize>,
    half: usize,
) -> [[__m256; 2]; R] {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    let x = t.x.as_ptr();
    let mut panel =
        t.panel.as_ptr().cast::<__m256i>().wrapping_add(chain.start * REGISTERS + half * REGISTERS / 2);
    // Each half prefetches a half of what the tile is asked to.
    let bytes_per_step = t.prefetch.bytes_per_step / 2;
    let mut ahead = t.prefetch.from.wrapping_add((half * t.steps + chain.start) * bytes_per_step);
    for step in chain {
        // Rows of y are far apart, so each is prefetched long before it is written.
        if step < R * STEPS_PER_ROW && step.is_multiple_of(STEPS_PER_ROW) {
            let row = t.y.wrapping_add(step / STEPS_PER_ROW * t.y_stride + half * WIDTH / 2);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
        }
        // SAFETY: the caller checked the bounds of the panel and of x. A prefetch is harmless at any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            let (b0, b1) = (_mm256_loadu_si256(panel), _mm256_loadu_si256(panel.add(1)));
            for (r, acc) in acc.iter_mut().enumerate() {
                let word = x.add(r * t.x_stride + step * E::GROUP).cast::<i32>().read_unaligned();
                let a = _mm256_set1_epi32(word);
                acc[0] = A::add(acc[0], a, b0);
                acc[1] = A::add(acc[1], a, b1);
            }
        }
        panel = panel.wrapping_add(REGISTERS);
        ahead = ahead.wrapping_add(bytes_per_step);
    }
    acc
}

/// Writes the sums of row `r` to y, or adds them to it.
///
/// # Safety
/// AVX2 must be available, and the bounds of [`Tile::run`] must hold with `r < t.rows`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn write_row<E: Element>(t: &Tile<'_, E>, r: usize, sums: &[__m256; REGISTERS]) {
    if t.cols < WIDTH {
        let mut row = [0.0; WIDTH];
        for (i, sum) in sums.iter().enumerate() {
            // SAFETY: a row has four registers.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr().add(8 * i), *sum) };
        }
        // SAFETY: the caller guarantees the row of y.
        return unsafe { t.write_row_scalar(r, &row) };
    }
    let y = t.y.wrapping_add(r * t.y_stride);
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: a full row of the tile is writable, and readable when accumulating; the bias has 32
        // elements.
        unsafe {
            let (y, mut sum) = (y.add(8 * i), *sum);
            if t.accumulate {
                sum = _mm256_add_ps(sum, _mm256_loadu_ps(y));
            }
            if let Some(bias) = t.bias {
                sum = _mm256_add_ps(sum, _mm256_loadu_ps(bias.as_ptr().add(8 * i)));
            }
            _mm256_storeu_ps(y, sum);
        }
    }
}
