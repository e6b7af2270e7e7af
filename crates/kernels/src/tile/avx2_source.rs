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

    /// Writes the next `steps` steps, both halves of them.
    ///
    /// # Safety
    /// As [`Self::next`], and `to` must be valid for writes of that many steps of floats.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(&mut self, steps: usize, to: *mut f32) {
        for step in 0..steps {
            let mut copy = *self;
            // SAFETY: the caller's guarantee.
            unsafe {
                let [lower, upper] = [copy.next(0), self.next(1)];
                for (i, weights) in lower.into_iter().chain(upper).enumerate() {
                    weights.store(to.add(step * WIDTH + i * LANES));
                }
            }
        }
    }
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

    /// Reads steps that lie at `at`, as many as there are.
    pub(super) fn of_decoded(at: *const f32) -> Self {
        Self { next: at, from: PhantomData }
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

impl<const ROUND: bool, const CODED: bool> Quantised<'_, ROUND, CODED> {
    /// Goes on to the next block where this one has ended.
    #[inline(always)]
    fn enter_block(&mut self) {
        if self.left == 0 {
            self.scales = self.values.cast();
            self.values = self.scales.wrapping_add(2 * WIDTH).cast();
            self.left = self.columns;
        }
    }

    /// Goes on to the next column, of which there must be one in this block.
    #[inline(always)]
    fn pass_column(&mut self) {
        self.left -= 1;
        if !CODED || self.is_second {
            self.values = self.values.wrapping_add(WIDTH);
        }
        self.is_second = !self.is_second;
    }

    /// The scales or, from lane [`WIDTH`] on, the offsets of eight lanes.
    ///
    /// # Safety
    /// The processor must have AVX2, and the block the lanes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn header(&self, lane: usize) -> __m256 {
        // SAFETY: a block has 32 scales and 32 offsets in front of the values.
        unsafe { Vector::load(self.scales.add(lane)) }
    }

    /// Eight weights of the next column.
    ///
    /// # Safety
    /// The processor must have AVX2, FMA and F16C, and the block another column.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn weights(&self, lane: usize, [scale, offset]: [__m256; 2]) -> __m256 {
        // SAFETY: the caller's guarantee.
        unsafe {
            let value: __m256 = match CODED {
                true => Vector::load_coded(self.values.add(lane).cast(), self.is_second, &self.table),
                false => Vector::load_i8(self.values.add(lane)),
            };
            let weight = value.mul_add(scale, offset);
            if ROUND { weight.round_to_bf16() } else { weight }
        }
    }
}

impl<const ROUND: bool, const CODED: bool> Quantised<'_, ROUND, CODED> {
    /// Writes the next two columns, which share their bytes.
    ///
    /// # Safety
    /// The processor must have AVX2, FMA and F16C, the block two columns, the first of them the first of a pair, and `to`
    /// must be valid for writes of two steps.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode_pair(&mut self, headers: &[[__m256; 2]; WIDTH / LANES], to: *mut f32) {
        let low = _mm_set1_epi8(15);
        // SAFETY: the table has 16 bytes; the caller guarantees the columns and the target.
        unsafe {
            let table = _mm_loadu_si128(self.table.as_ptr().cast());
            for (i, headers) in headers.as_chunks::<2>().0.iter().enumerate() {
                let codes = _mm_loadu_si128(self.values.add(2 * LANES * i).cast());
                let columns = [codes, _mm_srli_epi16::<4>(codes)];
                for (column, codes) in columns.into_iter().enumerate() {
                    let values = _mm_shuffle_epi8(table, _mm_and_si128(codes, low));
                    let to = to.add(column * WIDTH + 2 * LANES * i);
                    for (half, values) in [values, _mm_srli_si128::<8>(values)].into_iter().enumerate() {
                        let [scale, offset] = headers[half];
                        let values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values));
                        let weight = values.mul_add(scale, offset);
                        let weight = if ROUND { weight.round_to_bf16() } else { weight };
                        weight.store(to.add(half * LANES));
                    }
                }
            }
        }
        self.pass_column();
        self.pass_column();
    }
}

impl<const ROUND: bool, const CODED: bool> HalfSteps for Quantised<'_, ROUND, CODED> {
    const DECODES: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn next(&mut self, half: usize) -> [__m256; 2] {
        self.enter_block();
        let first = 2 * LANES * half;
        let weights = [first, first + LANES].map(|lane| {
            // SAFETY: the caller guarantees another column.
            unsafe { self.weights(lane, [self.header(lane), self.header(WIDTH + lane)]) }
        });
        self.pass_column();
        weights
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(&mut self, steps: usize, to: *mut f32) {
        let mut done = 0;
        while done < steps {
            self.enter_block();
            let columns = self.left.min(steps - done);
            // SAFETY: the caller guarantees the columns and the target.
            unsafe {
                let headers: [[__m256; 2]; WIDTH / LANES] =
                    std::array::from_fn(|i| [self.header(i * LANES), self.header(WIDTH + i * LANES)]);
                let mut to = to.add(done * WIDTH);
                let end = to.wrapping_add(columns * WIDTH);
                while to < end {
                    if CODED && !self.is_second && to.wrapping_add(WIDTH) < end {
                        self.decode_pair(&headers, to);
                        to = to.wrapping_add(2 * WIDTH);
                        continue;
                    }
                    for (i, header) in headers.into_iter().enumerate() {
                        self.weights(i * LANES, header).store(to.add(i * LANES));
                    }
                    self.pass_column();
                    to = to.wrapping_add(WIDTH);
                }
            }
            done += columns;
        }
    }
}
