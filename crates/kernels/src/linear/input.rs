//! The layout of inputs: read in place, or copied to rows that do not compete for cache sets.

use crate::checked_area;
use crate::element::Element;
use crate::memory::{LINE, Lines, view, view_mut};
use crate::panel::WIDTH;
use rayon::prelude::*;
use std::cell::Cell;

/// Whether `m` rows of `width` floats can be read in place. Rows a multiple of 4096 bytes apart map to
/// the same set of L1, which has fewer lines than a tile has rows.
pub(super) fn avoids_set_conflicts(m: usize, width: usize) -> bool {
    const PAGE: usize = 4096;
    const FEW: usize = 16;
    m <= FEW || !(width * size_of::<f32>()).is_multiple_of(PAGE)
}

thread_local! {
    /// Copies of inputs, reused between calls.
    static COPIES: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// Calls `then` with a copy of rows of `width` floats, rounded by `round` to elements and padded
/// with zeros to whole panels, and the stride of its rows in elements.
pub(super) fn with_padded_copy<E: Element, T>(
    rows: &[f32],
    width: usize,
    round: impl Fn(&[f32], &mut [E]) + Sync,
    then: impl FnOnce(&[E], usize) -> T,
) -> T {
    // An odd number of cache lines: rows a power of two apart would compete for a few cache sets.
    let line = LINE / size_of::<E>();
    let stride = checked_area(width.next_multiple_of(WIDTH).div_ceil(line) | 1, line);
    // The buffer is taken out of its cell, because the thread may run another call while this one waits
    // for its jobs.
    let mut buffer = COPIES.take();
    buffer.resize(checked_area(rows.len() / width, stride) * size_of::<E>() / size_of::<u32>());
    let elements: &mut [E] = view_mut(&mut buffer);
    let least = 16_384usize.div_ceil(width);
    let pairs = elements.par_chunks_exact_mut(stride).zip(rows.par_chunks_exact(width));
    pairs.with_min_len(least).for_each(|(to, from)| {
        to[width..].fill(E::default());
        round(from, to);
    });
    let result = then(view(&buffer), stride);
    COPIES.set(buffer);
    result
}
