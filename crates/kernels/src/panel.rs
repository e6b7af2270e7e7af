//! Panels, the packed form of a matrix, and the blocking of products over them.
//!
//! A matrix `W [n, k]` is cut into groups of [`WIDTH`] rows. A panel holds one group, one k step
//! after another, padded with zeros. In `f32` a step is one k,
//! `panel[kk * WIDTH + j] = W[group * WIDTH + j][kk]`. In bfloat16 a step is two, so that one
//! instruction multiplies and adds pairs: the element is `panel[(kk / 2 * WIDTH + j) * 2 + kk % 2]`.
//! Either way a step is `WIDTH` words of 32 bits. The steps of a panel are padded to whole blocks, of
//! 1 step in `f32` and of 16 in bfloat16, the depth of an AMX tile.

use crate::element::Element;
use crate::memory::view_mut;
use crate::transpose::transpose;
use crate::{Isa, checked_area};
use std::ops::Range;

/// Columns of the result that one panel yields.
pub(crate) const WIDTH: usize = 32;

/// Whether matrices of this element type are multiplied in AMX tiles.
pub(crate) fn uses_amx<E: Element>(isa: Isa) -> bool {
    isa == Isa::Amx && E::GROUP == 2
}

/// How products are blocked, so that data which is read again is still in cache.
pub(crate) struct Blocking {
    /// Maximum number of steps summed in one chain. Rounding error grows with the length of a chain
    /// of additions, so k is cut into chains whose sums are then added; and the part of a panel that
    /// a chain reads stays in cache while the rows pass.
    pub(crate) chain: usize,
    /// Maximum number of rows of a job: their part of a chain fits into L2 beside panels and results.
    max_group_rows: usize,
    /// Bytes of whole rows that fit into L2 beside panels and results.
    bytes_in_cache: usize,
    /// Whether a tile has registers for the sums of several chains, so that it writes results once.
    keeps_sums: bool,
    /// Maximum number of panels of a job. More would evict the rows from cache and leave threads idle
    /// at the end.
    pub(crate) panels_per_job: usize,
    /// Steps of a transposed panel in the backward pass: a chain of whole groups of rows.
    pub(crate) backward_steps: usize,
    /// Rows that share one transposition of the weights in the backward pass.
    pub(crate) rows_per_backward_job: usize,
    /// Maximum number of steps of a panel decoded from another storage format, so that it stays in L2
    /// beside the rows.
    pub(crate) max_decoded_steps: usize,
}

impl Blocking {
    /// The blocking for an instruction set.
    pub(crate) fn of<E: Element>(isa: Isa) -> Self {
        if uses_amx::<E>(isa) {
            // AMX is fast enough to wait for anything outside L1, so the part of a panel that a chain
            // reads (16 KiB) stays there beside the rows; and rows are worth reading less often.
            return Self {
                chain: 128,
                max_group_rows: 512,
                bytes_in_cache: 160_000,
                keeps_sums: false,
                panels_per_job: 8,
                backward_steps: 160,
                rows_per_backward_job: 512,
                max_decoded_steps: 128,
            };
        }
        Self {
            chain: 320,
            max_group_rows: 256,
            bytes_in_cache: 480_000,
            keeps_sums: isa >= Isa::Avx2,
            panels_per_job: 4,
            backward_steps: 320,
            rows_per_backward_job: 1024,
            max_decoded_steps: 4096,
        }
    }

    /// Whether `rows` whole rows, `stride` elements apart, fit into L2.
    pub(crate) fn fits_in_cache<E: Element>(&self, rows: usize, stride: usize) -> bool {
        rows * stride * size_of::<E>() <= self.bytes_in_cache
    }

    /// Rows that are multiplied together by the panels of a job: as many whole rows as fit into L2 if
    /// that saves writes, unless they are so few that panels would be read too often.
    pub(crate) fn rows_per_group<E: Element>(&self, stride: usize) -> usize {
        const FEWEST: usize = 28;
        match self.bytes_in_cache / (stride * size_of::<E>()) {
            rows if self.keeps_sums && rows >= FEWEST => rows.min(self.max_group_rows),
            _ => self.max_group_rows,
        }
    }

    /// Maximum number of steps of a tile, out of `all`, given whether the job's rows fit into L2.
    pub(crate) fn steps_per_tile(&self, fits: bool, all: usize) -> usize {
        if fits && self.keeps_sums { all } else { self.chain }
    }
}

/// Splits `steps` into chains of nearly equal length `<= longest`. `steps` and `longest` are whole
/// blocks, and so are the chains.
pub(crate) fn chains<E: Element>(steps: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let (blocks, count) = (steps / E::BLOCK, steps.div_ceil(longest));
    (0..count).map(move |i| i * blocks / count * E::BLOCK..(i + 1) * blocks / count * E::BLOCK)
}

/// Steps over `k` elements, in whole blocks.
///
/// # Panics
/// On overflow.
pub(crate) fn k_steps<E: Element>(k: usize) -> usize {
    checked_area(k.div_ceil(E::GROUP * E::BLOCK), E::BLOCK)
}

/// Words of a panel over `k` elements.
///
/// # Panics
/// On overflow.
pub(crate) fn words_per_panel<E: Element>(k: usize) -> usize {
    checked_area(k_steps::<E>(k), WIDTH)
}

/// Packs rows into one panel; `rounded` is a scratch buffer for them as elements.
///
/// # Shapes
/// `rows [count, k]` with `count <= WIDTH`; `panel [words_per_panel]`, zero on entry.
pub(crate) fn pack<E: Element>(rows: &[f32], k: usize, rounded: &mut Vec<u32>, panel: &mut [u32]) {
    let (count, steps) = (rows.len() / k, k_steps::<E>(k));
    rounded.resize(count * steps, 0);
    for (to, from) in rounded.chunks_exact_mut(steps).zip(rows.chunks_exact(k)) {
        let to: &mut [E] = view_mut(to);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = E::from_f32(*from));
    }
    transpose(Isa::get(), rounded, steps, panel, WIDTH, count, steps);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn chains_are_whole_blocks_and_cover_all_steps() {
        for k in [1, 31, 32, 33, 640, 641, 1536, 8960] {
            for longest in [128, 320] {
                let steps = k_steps::<bf16>(k);
                let mut end = 0;
                for chain in chains::<bf16>(steps, longest) {
                    assert_eq!(chain.start, end);
                    assert!((1..=longest).contains(&chain.len()) && chain.len().is_multiple_of(bf16::BLOCK));
                    end = chain.end;
                }
                assert_eq!(end, steps);
            }
        }
    }

    #[test]
    fn backward_panels_are_whole_groups_of_rows() {
        fn check<E: Element>(isa: Isa) {
            assert!((Blocking::of::<E>(isa).backward_steps * E::GROUP).is_multiple_of(WIDTH));
        }
        for isa in [Isa::Portable, Isa::Amx] {
            check::<f32>(isa);
            check::<bf16>(isa);
        }
    }
}
