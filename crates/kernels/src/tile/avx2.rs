//! The inner kernel for AVX2: rows of 16 columns fill the 16 registers, so a panel takes two passes.

use super::avx2_source::{Elements, HalfSteps};
use super::call::Tile;
use super::vector::LANES;
use crate::Isa;
use crate::element::Element;
use crate::memory::LINE;
use crate::panel::{Blocking, WIDTH, chains};
use std::arch::x86_64::*;
use std::ops::Range;

/// Registers of a step of a panel.
const REGISTERS: usize = WIDTH / LANES;

/// The most rows with which a tile decodes while it multiplies. With more, their sums leave too few registers, so it
/// decodes each chain before.
const DECODING_ROWS: usize = 4;

/// Steps between counts, jumps and prefetches. Six rows take 20 instructions that compute and load, and six cycles; many
/// processors start only four to six instructions a cycle.
const BLOCK: usize = 4;

/// Multiplies floats. The steps of `source` are written to `to` if they are decoded, `to_stride` floats
/// apart: 0 if they are not read again, which is cheapest where `to` is not needed on the way.
///
/// # Safety
/// AVX2, FMA and F16C must be available, the bounds of [`Tile::run`] must hold, `source` must have as many
/// steps as the tile, and `to` must be valid for all of them if they are decoded.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<E: Element, S: HalfSteps, const R: usize>(
    t: &Tile<'_, E>,
    mut source: S,
    to: *mut f32,
    to_stride: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); REGISTERS]; R];
    for chain in chains::<E>(t.steps, Blocking::of::<E>(Isa::Avx2).chain) {
        // SAFETY: the caller's guarantee.
        unsafe {
            if S::DECODES && R > DECODING_ROWS {
                let to = to.wrapping_add(chain.start * to_stride);
                source.decode(chain.len(), to);
                let mut decoded = Elements::of_decoded(to);
                add_chain::<E, _, R>(t, chain, &mut decoded, std::ptr::null_mut(), 0, &mut sums);
            } else {
                add_chain::<E, S, R>(t, chain, &mut source, to, to_stride, &mut sums);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the tile has this row, within the bounds of `Tile::run`.
        unsafe { write_row(t, r, sums) };
    }
}

/// Adds the sums of one chain, which are the first if it starts at 0.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_chain<E: Element, S: HalfSteps, const R: usize>(
    t: &Tile<'_, E>,
    chain: Range<usize>,
    source: &mut S,
    to: *mut f32,
    to_stride: usize,
    sums: &mut [[__m256; REGISTERS]; R],
) {
    let mut copy = *source;
    for (half, source) in [&mut copy, source].into_iter().enumerate() {
        // SAFETY: the caller's guarantee.
        let acc = unsafe { multiply_half::<E, S, R>(t, chain.clone(), half, source, to, to_stride) };
        for (sums, acc) in sums.iter_mut().zip(&acc) {
            for (sum, acc) in sums[2 * half..].iter_mut().zip(acc) {
                *sum = if chain.start == 0 { *acc } else { _mm256_add_ps(*acc, *sum) };
            }
        }
    }
}

/// The sums of one chain for the columns of one half of the panel.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_half<E: Element, S: HalfSteps, const R: usize>(
    t: &Tile<'_, E>,
    chain: Range<usize>,
    half: usize,
    source: &mut S,
    to: *mut f32,
    to_stride: usize,
) -> [[__m256; 2]; R] {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    let to = to.wrapping_add(chain.start * to_stride + half * WIDTH / 2);
    let x = t.x.as_ptr().cast::<f32>().wrapping_add(chain.start);
    let mut steps = Steps { x, x_stride: t.x_stride, source: *source, to, to_stride };
    // Decoded steps are not unrolled: there are too few registers.
    let block_len = if S::DECODES { 1 } else { BLOCK };
    // Each half prefetches a half of what the tile is asked to.
    let bytes = t.prefetch.bytes_per_step;
    let mut ahead = t.prefetch.from.wrapping_add((half * t.steps + chain.start) * bytes / 2);
    for block in 0..chain.len() / block_len {
        // Rows of y are far apart, so each is prefetched long before it is written.
        if chain.start == 0 && block < R {
            let row = t.y.wrapping_add(block * t.y_stride + half * WIDTH / 2);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
        }
        // A prefetch is harmless at any address.
        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
        if bytes * block_len / 2 > LINE {
            for step in 1..block_len {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(step * bytes / 2).cast());
            }
        }
        ahead = ahead.wrapping_add(bytes * block_len / 2);
        // SAFETY: the caller checked the bounds of the panel and of x.
        unsafe {
            match S::DECODES {
                true => steps.multiply::<R, 1>(half, &mut acc),
                false => steps.multiply::<R, BLOCK>(half, &mut acc),
            }
        }
    }
    for _ in 0..chain.len() % block_len {
        // SAFETY: as above.
        unsafe { steps.multiply::<R, 1>(half, &mut acc) };
    }
    *source = steps.source;
    acc
}

/// What the next steps read and write.
struct Steps<S> {
    x: *const f32,
    x_stride: usize,
    source: S,
    to: *mut f32,
    to_stride: usize,
}

impl<S: HalfSteps> Steps<S> {
    /// Multiplies `R` rows by the next `COUNT` steps of one half of the panel.
    ///
    /// # Safety
    /// As [`run`], and `COUNT` steps must be left.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply<const R: usize, const COUNT: usize>(
        &mut self,
        half: usize,
        acc: &mut [[__m256; 2]; R],
    ) {
        for step in 0..COUNT {
            // SAFETY: the caller's guarantee.
            unsafe {
                let [b0, b1] = self.source.next(half);
                if S::DECODES {
                    _mm256_storeu_ps(self.to, b0);
                    _mm256_storeu_ps(self.to.add(LANES), b1);
                    self.to = self.to.wrapping_add(self.to_stride);
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(self.x.add(r * self.x_stride + step).read());
                    acc[0] = _mm256_fmadd_ps(a, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(a, b1, acc[1]);
                }
            }
        }
        self.x = self.x.wrapping_add(COUNT);
    }
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
