//! One call of the inner kernel, as data.

use crate::element::Element;
use crate::panel::WIDTH;
use std::ops::Range;

/// One call of the inner kernel: `y[r][c] = sum_kk x[r][kk] * panel[kk][c] + bias[c]`
/// for `r < rows`, `c < cols <= WIDTH`, or `y[r][c] +=` that.
///
/// `y` is a raw pointer because tiles that other threads write lie between its rows.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, E> {
    pub(crate) x: &'a [E],
    /// Elements from one row of x to the next.
    pub(crate) x_stride: usize,
    pub(crate) panel: &'a [E],
    /// Steps of the panel and of each row of x, in whole blocks.
    pub(crate) steps: usize,
    pub(crate) y: *mut f32,
    /// Elements from one row of y to the next.
    pub(crate) y_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `cols` values.
    pub(crate) bias: Option<&'a [f32]>,
    /// Whether to add to `y` instead of overwriting it.
    pub(crate) accumulate: bool,
    /// What to prefetch meanwhile.
    pub(crate) prefetch: Prefetch,
}

/// Memory to prefetch into L2 while a tile computes, some bytes with every step. A prefetch cannot
/// fault, so the memory need not exist.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(crate) from: *const u8,
    pub(crate) bytes_per_step: usize,
}

impl Prefetch {
    /// A no-op prefetch. It points at memory in use, because prefetching an unmapped address is slow.
    pub(crate) fn none<T>(in_use: &[T]) -> Self {
        Self { from: in_use.as_ptr().cast(), bytes_per_step: 0 }
    }
}

/// Prefetches words into L2.
pub(crate) fn prefetch(words: &[u32]) {
    words.chunks(16).for_each(|line| prefetch_line(line.as_ptr().cast()));
}

/// Prefetches a cache line into L2. The address need not exist.
#[inline(always)]
pub(super) fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which has no visible effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl<E: Element> Tile<'_, E> {
    /// The part of the tile over one chain of steps.
    pub(super) fn chain(&self, chain: Range<usize>) -> Self {
        Self {
            x: &self.x[chain.start * E::GROUP..],
            panel: &self.panel[chain.start * E::GROUP * WIDTH..],
            steps: chain.len(),
            bias: self.bias.filter(|_| chain.end == self.steps),
            accumulate: self.accumulate || chain.start > 0,
            ..*self
        }
    }

    /// Writes the sums of row `r` to y one by one, for tiles narrower than a panel.
    ///
    /// # Safety
    /// Row `r` of y must be valid for writes of `cols` elements, and for reads when accumulating.
    pub(super) unsafe fn write_row_scalar(&self, r: usize, sums: &[f32; WIDTH]) {
        for (c, sum) in sums.iter().enumerate().take(self.cols) {
            // SAFETY: the caller guarantees the element.
            unsafe {
                let y = self.y.add(r * self.y_stride + c);
                let mut sum = *sum;
                if self.accumulate {
                    sum += *y;
                }
                *y = sum + self.bias.map_or(0.0, |b| b[c]);
            }
        }
    }
}
