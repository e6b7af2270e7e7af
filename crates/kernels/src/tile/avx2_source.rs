//! The steps of a panel as the AVX2 kernel reads them, half a step at a time: packed already, or decoded
//! from stored weights on the way. As with AVX-512, conversions hide behind the products of the rows.

use super::vector::{LANES, Vector};
use crate::checked_area;
use crate::element::Element;
use crate::panel::WIDTH;
use crate::storage::{CodeTable, PairView, QuantView};
use half::f16;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// A source of one half of the steps of a panel, in order. A copy reads the other half.
pub(super) trait HalfSteps: Copy {
    /// Whether steps are decoded, and worth writing for the tiles that follow.
    const DECODES: bool;

    /// The 16 weights of the next step in half `half`.
    ///
    /// # Safety
    /// The processor must have AVX2, FMA and F16C. There must be another step.
    unsafe fn next(&mut self, half: usize) -> [__m256; 2];
}

/// The elements of consecutive steps.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a, T> {
    next: *const T,
    from: PhantomData<&'a [T]>,
}

impl<'a, T> Elements<'a, T> {
    /// Reads `steps` steps.
    ///
    /// # Panics
    /// When `from` is shorter.
    pub(super) fn new(from: &'a [T], steps: usize) -> Self {
        assert!(checked_area(steps, WIDTH) <= from.len());
        Self { next: from.as_ptr(), from: PhantomData }
    }

    /// The first elements of both vectors of the next step.
    fn step(&mut self, half: usize) -> [*const T; 2] {
        let at = self.next.wrapping_add(2 * LANES * half);
        self.next = self.next.wrapping_add(WIDTH);
        [at, at.wrapping_add(LANES)]
    }
}

impl<'a> Elements<'a, f32> {
    /// Reads the steps of a panel of floats.
    ///
    /// # Panics
    /// When `E` is another type, or the panel is shorter.
    pub(super) fn of_panel<E: Element>(panel: &'a [E], steps: usize) -> Self {
        assert!(E::GROUP == 1 && checked_area(steps, WIDTH) <= panel.len());
        Self { next: panel.as_ptr().cast(), from: PhantomData }
    }
}

impl HalfSteps for Elements<'_, f32> {
    const DECODES: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        // SAFETY: the caller guarantees another step.
        self.step(half).map(|at| unsafe { Vector::load(at) })
    }
}

impl HalfSteps for Elements<'_, u16> {
    const DECODES: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        // SAFETY: the caller guarantees another step.
        self.step(half).map(|at| unsafe { Vector::load_bf16(at) })
    }
}

impl HalfSteps for Elements<'_, f16> {
    const DECODES: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        // SAFETY: the caller guarantees another step.
        self.step(half).map(|at| unsafe { Vector::load_f16(at) })
    }
}

/// Pairs of bfloat16, of which each step is one.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    next: *const u32,
    is_second: bool,
    from: PhantomData<&'a [u32]>,
}

impl<'a> Pairs<'a> {
    /// Reads the steps of `view`.
    ///
    /// # Panics
    /// When there are fewer than `view` says.
    pub(super) fn new(PairView { from, skip, steps }: PairView<'a>) -> Self {
        assert!(skip < 2 && checked_area((skip + steps).div_ceil(2), WIDTH) <= from.len());
        Self { next: from.as_ptr(), is_second: skip == 1, from: PhantomData }
    }
}

impl HalfSteps for Pairs<'_> {
    const DECODES: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        let at = self.next.wrapping_add(2 * LANES * half);
        // SAFETY: the caller guarantees another step.
        let read = |at| unsafe { <__m256 as Vector>::load_of_pairs(at, self.is_second) };
        let weights = [read(at), read(at.wrapping_add(LANES))];
        self.next = self.next.wrapping_add(if self.is_second { WIDTH } else { 0 });
        self.is_second = !self.is_second;
        weights
    }
}

/// Quantised blocks, whose weights are rounded to bfloat16 if `ROUND`, and whose integers are stored as codes of 4 bits if
/// `CODED`.
#[derive(Clone, Copy)]
pub(super) struct Quantised<'a, const ROUND: bool, const CODED: bool> {
    scales: *const f32,
    values: *const i8,
    /// What codes stand for.
    table: CodeTable,
    /// Whether the next column is the second of its pair.
    is_second: bool,
    /// Columns per block.
    columns: usize,
    /// Columns left in this block.
    left: usize,
    from: PhantomData<&'a [u32]>,
}

impl<'a, const ROUND: bool, const CODED: bool> Quantised<'a, ROUND, CODED> {
    /// Reads the columns of `view`.
    ///
    /// # Panics
    /// When there are fewer than `view` says, or they are stored otherwise.
    pub(super) fn new(view: QuantView<'a>) -> Self {
        let QuantView { from, columns, skip, steps, table, .. } = view;
        assert_eq!(table.is_some(), CODED);
        let words = view.block_words();
        assert!(skip < columns && steps.saturating_add(skip) <= checked_area(from.len() / words, columns));
        let scales: *const f32 = from.as_ptr().cast();
        let skipped = if CODED { skip / 2 } else { skip } * WIDTH;
        let values = scales.wrapping_add(2 * WIDTH).cast::<i8>().wrapping_add(skipped);
        let (table, is_second) = (table.copied().unwrap_or_default(), skip % 2 == 1);
        Self { scales, values, table, is_second, columns, left: columns - skip, from: PhantomData }
    }
}

impl<const ROUND: bool, const CODED: bool> HalfSteps for Quantised<'_, ROUND, CODED> {
    const DECODES: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        if self.left == 0 {
            self.scales = self.values.cast();
            self.values = self.scales.wrapping_add(2 * WIDTH).cast();
            self.left = self.columns;
        }
        self.left -= 1;
        let first = 2 * LANES * half;
        let weights = [first, first + LANES].map(|lane| {
            // SAFETY: the caller guarantees another column; its block has 32 scales and 32 offsets in
            // front of the values.
            unsafe {
                let [scale, offset] = [0, WIDTH].map(|at| Vector::load(self.scales.add(at + lane)));
                let value: __m256 = match CODED {
                    true => Vector::load_coded(self.values.add(lane).cast(), self.is_second, &self.table),
                    false => Vector::load_i8(self.values.add(lane)),
                };
                let weight = value.mul_add(scale, offset);
                if ROUND { weight.round_to_bf16() } else { weight }
            }
        });
        if !CODED || self.is_second {
            self.values = self.values.wrapping_add(WIDTH);
        }
        self.is_second = !self.is_second;
        weights
    }
}
