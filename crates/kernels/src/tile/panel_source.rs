//! The steps of a panel as the AVX-512 kernel reads them: packed already, or decoded from stored
//! weights and written to a buffer on the way, for the tiles that follow.
//!
//! Packing inside the kernel costs little more than the multiply-adds: conversions and stores hide
//! behind the products of the tile's rows.

use crate::checked_area;
use crate::panel::WIDTH;
use crate::storage::{CodeTable, GROUP_WORDS, HEADER_WORDS, QuantView};
use half::f16;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// A source of the steps of a panel, in order.
pub(super) trait PanelSource {
    /// The 32 words of the next step.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL, FMA, and BF16 for [`Bf16PairPacker`]. There
    /// must be another step.
    unsafe fn next(&mut self) -> [__m512i; 2];
}

/// A packed panel.
pub(super) struct PackedPanel<'a> {
    next: *const __m512i,
    panel: PhantomData<&'a [u32]>,
}

impl<'a> PackedPanel<'a> {
    /// Reads the steps of `panel`.
    pub(super) fn new<E>(panel: &'a [E]) -> Self {
        Self { next: panel.as_ptr().cast(), panel: PhantomData }
    }
}

impl PanelSource for PackedPanel<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: the caller guarantees another step, of two registers.
        unsafe {
            let columns = load_two(self.next.cast());
            self.next = self.next.add(2);
            columns
        }
    }
}

/// A buffer to pack a panel into.
pub(super) struct PackBuffer<'a> {
    /// At least as long as the panel.
    pub(super) words: &'a mut [u32],
    /// Whether other tiles will read the panel. If not, every step overwrites the first, which is
    /// cheapest.
    pub(super) reused: bool,
}

/// A panel being written.
struct PanelWriter<'a> {
    next: *mut __m512i,
    registers_per_step: usize,
    buffer: PhantomData<&'a mut [u32]>,
}

impl<'a> PanelWriter<'a> {
    /// # Panics
    /// When the buffer is shorter than `steps` steps.
    fn new(buffer: PackBuffer<'a>, steps: usize) -> Self {
        assert!(checked_area(steps, WIDTH) <= buffer.words.len());
        let registers_per_step = if buffer.reused { 2 } else { 0 };
        Self { next: buffer.words.as_mut_ptr().cast(), registers_per_step, buffer: PhantomData }
    }

    /// Writes the next step and returns it.
    ///
    /// # Safety
    /// As [`PanelSource::next`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write(&mut self, columns: [__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: the caller guarantees another step, for which `new` checked the buffer.
        unsafe {
            _mm512_storeu_si512(self.next, columns[0]);
            _mm512_storeu_si512(self.next.add(1), columns[1]);
            self.next = self.next.add(self.registers_per_step);
        }
        columns
    }
}

/// Decodes stored weights column by column.
pub(super) trait Decode {
    /// Number of columns.
    fn len(&self) -> usize;

    /// The 32 weights of the next column.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL, and FMA. There must be another column.
    unsafe fn column(&mut self) -> [__m512; 2];
}

/// Packs decoded weights into a panel of floats.
pub(super) struct F32Packer<'a, D> {
    decoder: D,
    writer: PanelWriter<'a>,
}

impl<'a, D: Decode> F32Packer<'a, D> {
    /// Packs `steps` steps.
    ///
    /// # Panics
    /// When the decoder has fewer columns, or the buffer is too short.
    pub(super) fn new(decoder: D, steps: usize, buffer: PackBuffer<'a>) -> Self {
        assert!(steps <= decoder.len());
        Self { decoder, writer: PanelWriter::new(buffer, steps) }
    }
}

impl<D: Decode> PanelSource for F32Packer<'_, D> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is one column.
        unsafe { self.writer.write(self.decoder.column().map(|floats| _mm512_castps_si512(floats))) }
    }
}

/// Packs decoded weights into a panel of bfloat16 pairs.
pub(super) struct Bf16PairPacker<'a, D> {
    decoder: D,
    writer: PanelWriter<'a>,
}

impl<'a, D: Decode> Bf16PairPacker<'a, D> {
    /// Packs `steps` steps.
    ///
    /// # Panics
    /// When the decoder has fewer pairs of columns, or the buffer is too short.
    pub(super) fn new(decoder: D, steps: usize, buffer: PackBuffer<'a>) -> Self {
        assert!(checked_area(steps, 2) <= decoder.len());
        Self { decoder, writer: PanelWriter::new(buffer, steps) }
    }
}

impl<D: Decode> PanelSource for Bf16PairPacker<'_, D> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is two columns, and both types are 64 bytes for which any bits are a value.
        unsafe {
            let (even, odd) = (self.decoder.column(), self.decoder.column());
            // The conversion concatenates two columns; the permutation interleaves them.
            let places = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                3, 18, 2, 17, 1, 16, 0,
            );
            let pairs = [0, 1].map(|half| {
                let rounded = _mm512_cvtne2ps_pbh(odd[half], even[half]);
                _mm512_permutexvar_epi16(places, std::mem::transmute::<__m512bh, __m512i>(rounded))
            });
            self.writer.write(pairs)
        }
    }
}

/// Decodes bfloat16.
pub(super) struct Bf16Decoder<'a>(&'a [u16]);

impl<'a> Bf16Decoder<'a> {
    /// Reads columns of 32 weights.
    pub(super) fn new(from: &'a [u16]) -> Self {
        Self(from)
    }
}

/// The next column of 16-bit weights, in two halves.
///
/// # Safety
/// The processor must have AVX-512 F and VL. There must be another column.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn next_halves<T>(from: &mut &[T]) -> [__m256i; 2] {
    let at = from.as_ptr().cast::<__m256i>();
    // SAFETY: the caller guarantees 32 weights.
    unsafe {
        let halves = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
        *from = from.get_unchecked(WIDTH..);
        halves
    }
}

impl Decode for Bf16Decoder<'_> {
    fn len(&self) -> usize {
        self.0.len() / WIDTH
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        let widen = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
        // SAFETY: the caller guarantees another column.
        unsafe { next_halves(&mut self.0).map(widen) }
    }
}

/// Decodes half-precision floats.
pub(super) struct F16Decoder<'a>(&'a [f16]);

impl<'a> F16Decoder<'a> {
    /// Reads columns of 32 weights.
    pub(super) fn new(from: &'a [f16]) -> Self {
        Self(from)
    }
}

impl Decode for F16Decoder<'_> {
    fn len(&self) -> usize {
        self.0.len() / WIDTH
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        // SAFETY: the caller guarantees another column.
        unsafe { next_halves(&mut self.0).map(|half| _mm512_cvtph_ps(half)) }
    }
}

/// Decodes quantised blocks, whose integers are stored as codes of 4 bits if `CODED`.
pub(super) struct QuantDecoder<'a, const CODED: bool> {
    scales: *const f32,
    values: *const u8,
    /// What codes stand for.
    table: CodeTable,
    /// Whether the next column is the second of its pair.
    is_second: bool,
    /// Columns per block.
    columns: usize,
    /// Columns left in this block.
    left: usize,
    /// Columns in total.
    all: usize,
    from: PhantomData<&'a [u32]>,
}

impl<'a, const CODED: bool> QuantDecoder<'a, CODED> {
    /// Reads the columns of `view`.
    ///
    /// # Panics
    /// When there are fewer than `view` says, or they are stored otherwise.
    pub(super) fn new(view: QuantView<'a>) -> Self {
        let QuantView { from, columns, skip, table, .. } = view;
        assert_eq!(table.is_some(), CODED);
        let words = view.block_words();
        let all = checked_area(view.steps, view.columns_per_step);
        assert!(skip < columns && all.saturating_add(skip) <= checked_area(from.len() / words, columns));
        let scales: *const f32 = from.as_ptr().cast();
        let skipped = if CODED { skip / 2 } else { skip } * WIDTH;
        let values = scales.wrapping_add(2 * WIDTH).cast::<u8>().wrapping_add(skipped);
        Self {
            scales,
            values,
            table: table.copied().unwrap_or_default(),
            is_second: skip % 2 == 1,
            columns,
            left: columns - skip,
            all,
            from: PhantomData,
        }
    }
}

impl<const CODED: bool> Decode for QuantDecoder<'_, CODED> {
    fn len(&self) -> usize {
        self.all
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        if self.left == 0 {
            self.scales = self.values.cast();
            self.values = self.scales.wrapping_add(2 * WIDTH).cast();
            self.left = self.columns;
        }
        self.left -= 1;
        let float = |values| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values));
        // SAFETY: the caller guarantees another column; its block has two registers of scales and two
        // of offsets in front of the values.
        unsafe {
            let load = |at: usize| _mm512_loadu_ps(self.scales.add(at));
            let table = _mm_loadu_si128(self.table.as_ptr().cast());
            let weights = [0, 1].map(|half| {
                let mut values = _mm_loadu_si128(self.values.add(half * 16).cast());
                if CODED {
                    let codes = if self.is_second { _mm_srli_epi16::<4>(values) } else { values };
                    values = _mm_shuffle_epi8(table, _mm_and_si128(codes, _mm_set1_epi8(15)));
                }
                _mm512_fmadd_ps(float(values), load(half * 16), load(WIDTH + half * 16))
            });
            if !CODED || self.is_second {
                self.values = self.values.add(WIDTH);
            }
            self.is_second = !self.is_second;
            weights
        }
    }
}

/// Decodes transposed 16-bit weights, two rows of the matrix per word: half precision ([`f16`]) or
/// bfloat16 ([`u16`]).
pub(super) struct TransposedPairDecoder<'a, T> {
    words: &'a [u32],
    row: usize,
    weights: PhantomData<T>,
}

impl<'a, T> TransposedPairDecoder<'a, T> {
    /// Reads pairs of rows of 32 words.
    pub(super) fn new(words: &'a [u32]) -> Self {
        Self { words, row: 0, weights: PhantomData }
    }

    fn rows(&self) -> usize {
        self.words.len() / WIDTH * 2
    }

    /// The words of the next row, and whether it is the second of its pair, in the upper halves.
    ///
    /// # Safety
    /// The processor must have AVX-512. There must be another row.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn next(&mut self) -> ([__m512i; 2], bool) {
        // SAFETY: the caller guarantees another row.
        let pairs = unsafe { load_two(self.words.as_ptr().add(self.row / 2 * WIDTH)) };
        self.row += 1;
        (pairs, self.row.is_multiple_of(2))
    }
}

impl Decode for TransposedPairDecoder<'_, u16> {
    fn len(&self) -> usize {
        self.rows()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        // SAFETY: the caller guarantees another row.
        let (pairs, is_second) = unsafe { self.next() };
        // Immediate operands only: the sums of the tile occupy the registers.
        let upper = match is_second {
            true => pairs.map(|pair| _mm512_maskz_mov_epi16(0xaaaa_aaaa, pair)),
            false => pairs.map(|pair| _mm512_slli_epi32::<16>(pair)),
        };
        upper.map(|upper| _mm512_castsi512_ps(upper))
    }
}

impl Decode for TransposedPairDecoder<'_, f16> {
    fn len(&self) -> usize {
        self.rows()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        // SAFETY: the caller guarantees another row.
        let (pairs, is_second) = unsafe { self.next() };
        let lower = if is_second { pairs.map(|pair| _mm512_srli_epi32::<16>(pair)) } else { pairs };
        lower.map(|lower| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lower)))
    }
}

/// Decodes transposed quantised weights, four rows of the matrix per word.
pub(super) struct TransposedQuantDecoder<'a> {
    words: &'a [u32],
    row: usize,
}

impl<'a> TransposedQuantDecoder<'a> {
    /// Reads groups of 32 rows.
    pub(super) fn new(words: &'a [u32]) -> Self {
        Self { words, row: 0 }
    }
}

impl Decode for TransposedQuantDecoder<'_> {
    fn len(&self) -> usize {
        self.words.len() / GROUP_WORDS * WIDTH
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        let (group, row) = (self.row / WIDTH * GROUP_WORDS, self.row % WIDTH);
        self.row += 1;
        // SAFETY: the caller guarantees another row; a group has scales and offsets of 32 rows for each
        // half of the columns, then the values of four rows per word.
        unsafe {
            let group = self.words.as_ptr().add(group);
            let header = |at: usize| _mm512_set1_ps(group.cast::<f32>().add(at * WIDTH + row).read());
            let quads = load_two(group.add(HEADER_WORDS + row / 4 * WIDTH));
            // Shift the byte to the top of its word, then down again with its sign.
            let shifted = match row % 4 {
                0 => quads.map(|quad| _mm512_slli_epi32::<24>(quad)),
                1 => quads.map(|quad| _mm512_slli_epi32::<16>(quad)),
                2 => quads.map(|quad| _mm512_slli_epi32::<8>(quad)),
                _ => quads,
            };
            [0, 1].map(|half| {
                let value = _mm512_srai_epi32::<24>(shifted[half]);
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(value), header(2 * half), header(2 * half + 1))
            })
        }
    }
}

/// Loads two registers.
///
/// # Safety
/// The processor must have AVX-512, and `from` must be readable for 32 words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_two(from: *const u32) -> [__m512i; 2] {
    // SAFETY: the caller guarantees 32 words.
    unsafe { [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(16).cast())] }
}
