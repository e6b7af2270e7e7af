//! Panels, the packed form of a matrix.
//!
//! A matrix `W [n, k]` is cut into groups of [`WIDTH`] rows; a panel holds one group in steps
//! of k, and padded with zeros. In `f32` a step is one k,
//! `panel[kk * WIDTH + j] = W[group * WIDTH + j][kk]`; in bfloat16 it is two, so that one
//! instruction multiplies and adds up pairs, and `panel[(kk / 2 * WIDTH + j) * 2 + kk % 2]`
//! is that element. Either way a step has `WIDTH` words of 32 bits. Steps come in blocks, of 1 in
//! `f32` and of 16 in bfloat16, which is what an instruction of AMX takes: the last block of a
//! panel is filled up with zeros.

use crate::memory::{Plain, view_mut};
use crate::transpose::transpose;
use crate::{Isa, checked_area};
use half::bf16;
use std::ops::Range;

/// PanelSource of the result that one panel makes.
pub(crate) const WIDTH: usize = 32;

/// How products are cut up, so that what is read again is still in the caches.
pub(crate) struct Blocking {
    /// The most steps that are summed up in one chain. Rounding grows with the length of a chain
    /// of additions, so k is cut into chains, whose sums are added up; and the part of a panel
    /// that a chain reads stays in the caches while rows go by.
    pub(crate) chain: usize,
    /// Rows of a job, at most: their part of a chain fits into the second-level cache beside panels
    /// and results.
    max_group_rows: usize,
    /// Bytes of rows that fit into the second-level cache as a whole beside panels and results.
    bytes_in_cache: usize,
    /// Whether a tile has room for the sums of several chains, so that it writes results once.
    keeps_sums: bool,
    /// Panels of a job, at most: more would crowd the rows out of the cache, and leave threads
    /// without work at the end.
    pub(crate) panels_per_job: usize,
    /// Steps of a panel that is made on the way back: a chain of whole groups of rows.
    pub(crate) backward_steps: usize,
    /// Rows that share one turning over of the weights on the way back.
    pub(crate) rows_per_backward_job: usize,
    /// Steps of a panel made of weights that are stored in another form, at most: it stays in the
    /// second-level cache beside the rows.
    pub(crate) max_decoded_steps: usize,
}

impl Blocking {
    /// The blocking for an instruction set.
    pub(crate) fn of<E: Element>(isa: Isa) -> Self {
        if isa.has_tiles::<E>() {
            // So fast a word waits for all that is not in the first-level cache, where the part of
            // a panel, 16 KiB, is to stay beside rows; and rows are worth reading less often.
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
            keeps_sums: isa >= Isa::Avx512,
            panels_per_job: 4,
            backward_steps: 320,
            rows_per_backward_job: 1024,
            max_decoded_steps: 4096,
        }
    }

    /// Whether so many rows, `stride` elements apart, stay in the second-level cache as a whole.
    pub(crate) fn fit<E: Element>(&self, rows: usize, stride: usize) -> bool {
        rows * stride * size_of::<E>() <= self.bytes_in_cache
    }

    /// Rows that go by together while the panels of a job pass: as many as stay in the cache as a
    /// whole, if that spares writing, unless so few make panels be read too often.
    pub(crate) fn rows_per_group<E: Element>(&self, stride: usize) -> usize {
        const FEWEST: usize = 28;
        match self.bytes_in_cache / (stride * size_of::<E>()) {
            rows if self.keeps_sums && rows >= FEWEST => rows.min(self.max_group_rows),
            _ => self.max_group_rows,
        }
    }

    /// The most steps of a tile of a job whose rows do or do not stay in the cache as a whole.
    pub(crate) fn steps_per_tile(&self, fit: bool, all: usize) -> usize {
        if fit && self.keeps_sums { all } else { self.chain }
    }
}

/// The chains of nearly equal length, none above `longest`, into which so many steps are cut. Steps
/// and `longest` are whole blocks, and so are the chains.
pub(crate) fn chains<E: Element>(steps: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let (blocks, count) = (steps / E::BLOCK, steps.div_ceil(longest));
    (0..count).map(move |i| i * blocks / count * E::BLOCK..(i + 1) * blocks / count * E::BLOCK)
}

/// An element type of panels: `f32` or [`bf16`], for which any bits are a value.
pub(crate) trait Element: Plain + Default + Send + Sync + 'static {
    /// Elements in a step.
    const GROUP: usize;
    /// Steps in a block.
    const BLOCK: usize;
    /// The element as `f32`.
    fn to_f32(self) -> f32;
    /// The nearest element (ties to even).
    fn from_f32(value: f32) -> Self;
    /// The nearest element of each float; `to` may be longer.
    fn round(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const GROUP: usize = 1;
    const BLOCK: usize = 1;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn round(from: &[f32], to: &mut [Self]) {
        to[..from.len()].copy_from_slice(from);
    }
}

impl Element for bf16 {
    const GROUP: usize = 2;
    const BLOCK: usize = 16;
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn round(from: &[f32], to: &mut [Self]) {
        crate::linear::round(from, to);
    }
}

/// The bits of the nearest bfloat16 of a finite float, ties to even.
#[inline(always)]
pub(crate) fn nearest(float: f32) -> u32 {
    let bits = float.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
}

/// Steps that k elements take, in whole blocks.
///
/// # Panics
/// When there cannot be so many.
pub(crate) fn k_steps<E: Element>(k: usize) -> usize {
    checked_area(k.div_ceil(E::GROUP * E::BLOCK), E::BLOCK)
}

/// Words of a panel over k.
///
/// # Panics
/// When there cannot be so many.
pub(crate) fn words_per_panel<E: Element>(k: usize) -> usize {
    checked_area(k_steps::<E>(k), WIDTH)
}

/// Packs rows into one panel, through `rounded`, which holds them as elements.
///
/// # Shapes
/// `rows [count, k]` with `count <= WIDTH`; `panel` as long as [`words_per_panel`] says, and zero.
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
