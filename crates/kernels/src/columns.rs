//! The columns of a panel as a tile reads them with AVX-512, step by step: as they lie there, or made of
//! stored weights and written into a panel on the way, for the tiles that follow.
//!
//! Made like this, a panel costs little more than its multiply-adds: conversions and stores hide
//! behind the products of the tile's rows.

use crate::checked_area;
use crate::panel::WIDTH;
use crate::storage::{QuantView, StorageFormat};
use crate::transposed::{BLOCK, HEADER};
use half::f16;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Where the columns of a panel's steps come from, one step after the other.
pub(crate) trait PanelSource {
    /// The 32 words of the next step.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL and FMA, and BF16 for [`Bf16PairPacker`]; and there must
    /// be another step.
    unsafe fn next(&mut self) -> [__m512i; 2];
}

/// A panel that is there.
pub(crate) struct PackedPanel<'a> {
    next: *const __m512i,
    panel: PhantomData<&'a [u32]>,
}

impl<'a> PackedPanel<'a> {
    /// The steps of a panel.
    pub(crate) fn new<E>(panel: &'a [E]) -> Self {
        Self { next: panel.as_ptr().cast(), panel: PhantomData }
    }
}

impl PanelSource for PackedPanel<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: the caller says that there is another step, of two registers.
        unsafe {
            let columns = two(self.next.cast());
            self.next = self.next.add(2);
            columns
        }
    }
}

/// PackBuffer for a panel that is made.
pub(crate) struct PackBuffer<'a> {
    /// As long as the panel, at least.
    pub(crate) words: &'a mut [u32],
    /// Whether other tiles will read the panel. Otherwise all steps are written to the same place,
    /// which costs least.
    pub(crate) reused: bool,
}

/// A panel that is being written.
struct PanelWriter<'a> {
    next: *mut __m512i,
    registers_per_step: usize,
    room: PhantomData<&'a mut [u32]>,
}

impl<'a> PanelWriter<'a> {
    /// # Panics
    /// When there is no room for so many steps.
    fn new(room: PackBuffer<'a>, steps: usize) -> Self {
        assert!(checked_area(steps, WIDTH) <= room.words.len());
        let registers_per_step = if room.reused { 2 } else { 0 };
        Self { next: room.words.as_mut_ptr().cast(), registers_per_step, room: PhantomData }
    }

    /// Writes the next step, and gives it.
    ///
    /// # Safety
    /// As [`PanelSource::next`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write(&mut self, columns: [__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: there is room for another step, as the caller says.
        unsafe {
            _mm512_storeu_si512(self.next, columns[0]);
            _mm512_storeu_si512(self.next.add(1), columns[1]);
            self.next = self.next.add(self.registers_per_step);
        }
        columns
    }
}

/// Weights of which a panel is made, column by column.
pub(crate) trait Decode {
    /// PanelSource that there are.
    fn len(&self) -> usize;

    /// The 32 weights of the next column.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL and FMA, and there must be another column.
    unsafe fn column(&mut self) -> [__m512; 2];
}

/// A panel of floats that is made.
pub(crate) struct F32Packer<'a, F> {
    decoder: F,
    writer: PanelWriter<'a>,
}

impl<'a, F: Decode> F32Packer<'a, F> {
    /// So many steps.
    ///
    /// # Panics
    /// When there are not so many columns, or the room is too short.
    pub(crate) fn new(decoder: F, steps: usize, room: PackBuffer<'a>) -> Self {
        assert!(steps <= decoder.len());
        Self { decoder, writer: PanelWriter::new(room, steps) }
    }
}

impl<F: Decode> PanelSource for F32Packer<'_, F> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is a column.
        unsafe { self.writer.write(self.decoder.column().map(|floats| _mm512_castps_si512(floats))) }
    }
}

/// A panel of pairs of bfloat16 that is made.
pub(crate) struct Bf16PairPacker<'a, F> {
    decoder: F,
    writer: PanelWriter<'a>,
}

impl<'a, F: Decode> Bf16PairPacker<'a, F> {
    /// So many steps.
    ///
    /// # Panics
    /// When there are not so many pairs of columns, or the room is too short.
    pub(crate) fn new(decoder: F, steps: usize, room: PackBuffer<'a>) -> Self {
        assert!(checked_area(steps, 2) <= decoder.len());
        Self { decoder, writer: PanelWriter::new(room, steps) }
    }
}

impl<F: Decode> PanelSource for Bf16PairPacker<'_, F> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is two columns, and both types are 64 bytes for which any bits are a value.
        unsafe {
            let (even, odd) = (self.decoder.column(), self.decoder.column());
            // The instruction puts one column behind the other.
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

/// Decode of which the upper halves are stored.
pub(crate) struct Bf16Decoder<'a>(&'a [u16]);

impl<'a> Bf16Decoder<'a> {
    /// PanelSource of 32 halves.
    pub(crate) fn new(from: &'a [u16]) -> Self {
        Self(from)
    }
}

/// The next column of 16-bit weights, in two halves of a register.
///
/// # Safety
/// The processor must have AVX-512 F and VL, and there must be another column.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn halves<T>(from: &mut &[T]) -> [__m256i; 2] {
    let at = from.as_ptr().cast::<__m256i>();
    // SAFETY: the caller says that there are 32 halves.
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
        // SAFETY: the caller says that there is another column.
        unsafe { halves(&mut self.0).map(widen) }
    }
}

/// 16-bit floats.
pub(crate) struct F16Decoder<'a>(&'a [f16]);

impl<'a> F16Decoder<'a> {
    /// PanelSource of 32 floats.
    pub(crate) fn new(from: &'a [f16]) -> Self {
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
        // SAFETY: the caller says that there is another column.
        unsafe { halves(&mut self.0).map(|half| _mm512_cvtph_ps(half)) }
    }
}

/// Whole numbers in blocks, each behind its scales and offsets.
pub(crate) struct QuantDecoder<'a> {
    scales: *const f32,
    values: *const __m128i,
    /// PanelSource of a block.
    columns: usize,
    /// PanelSource that are left in this block.
    left: usize,
    /// PanelSource that there are in all.
    all: usize,
    from: PhantomData<&'a [u32]>,
}

impl<'a> QuantDecoder<'a> {
    /// The columns of these numbers.
    ///
    /// # Panics
    /// When there are fewer than said.
    pub(crate) fn new(numbers: QuantView<'a>) -> Self {
        let QuantView { from, columns, skip, .. } = numbers;
        let words = StorageFormat::Quantised(columns).words(columns);
        let all = checked_area(numbers.steps, numbers.columns_per_step);
        assert!(skip < columns && all.saturating_add(skip) <= checked_area(from.len() / words, columns));
        let scales: *const f32 = from.as_ptr().cast();
        // A column takes two registers of 16 bytes.
        let values = scales.wrapping_add(2 * WIDTH).cast::<__m128i>().wrapping_add(2 * skip);
        Self { scales, values, columns, left: columns - skip, all, from: PhantomData }
    }
}

impl Decode for QuantDecoder<'_> {
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
        // SAFETY: the caller says that there is another column; its block lies behind two scales and
        // two offsets for each half of the rows.
        unsafe {
            let load = |at: usize| _mm512_loadu_ps(self.scales.add(at));
            let made = [0, 1].map(|half| {
                let values = float(_mm_loadu_si128(self.values.add(half)));
                _mm512_fmadd_ps(values, load(half * 16), load(WIDTH + half * 16))
            });
            self.values = self.values.add(2);
            made
        }
    }
}

/// Rows of weights of 16 bits that were turned over, words of two rows: of [`f16`], or of [`u16`], the
/// upper halves of floats.
pub(crate) struct TransposedPairDecoder<'a, T> {
    words: &'a [u32],
    row: usize,
    weights: PhantomData<T>,
}

impl<'a, T> TransposedPairDecoder<'a, T> {
    /// Bf16PairPacker of rows of 32 words.
    pub(crate) fn new(words: &'a [u32]) -> Self {
        Self { words, row: 0, weights: PhantomData }
    }

    fn rows(&self) -> usize {
        self.words.len() / WIDTH * 2
    }

    /// The words of the next row, and whether it is the second of its pair, in the upper halves.
    ///
    /// # Safety
    /// The processor must have AVX-512, and there must be another row.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn next(&mut self) -> ([__m512i; 2], bool) {
        // SAFETY: the caller says that there is another row.
        let pairs = unsafe { two(self.words.as_ptr().add(self.row / 2 * WIDTH)) };
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
        // SAFETY: the caller says that there is another row.
        let (pairs, is_second) = unsafe { self.next() };
        // Constants lie in the instructions, because registers are full of the sums of the tile.
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
        // SAFETY: the caller says that there is another row.
        let (pairs, is_second) = unsafe { self.next() };
        let lower = if is_second { pairs.map(|pair| _mm512_srli_epi32::<16>(pair)) } else { pairs };
        lower.map(|lower| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lower)))
    }
}

/// Rows of whole numbers that were turned over: words of four rows.
pub(crate) struct TransposedQuantDecoder<'a> {
    words: &'a [u32],
    row: usize,
}

impl<'a> TransposedQuantDecoder<'a> {
    /// Blocks of 32 rows.
    pub(crate) fn new(words: &'a [u32]) -> Self {
        Self { words, row: 0 }
    }
}

impl Decode for TransposedQuantDecoder<'_> {
    fn len(&self) -> usize {
        self.words.len() / BLOCK * WIDTH
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn column(&mut self) -> [__m512; 2] {
        let (block, row) = (self.row / WIDTH * BLOCK, self.row % WIDTH);
        self.row += 1;
        // SAFETY: the caller says that there is another row; a block has scales and offsets of 32 rows
        // for each half of the columns, and the numbers of four rows one behind the other.
        unsafe {
            let block = self.words.as_ptr().add(block);
            let header = |at: usize| _mm512_set1_ps(block.cast::<f32>().add(at * WIDTH + row).read());
            let numbers = two(block.add(HEADER + row / 4 * WIDTH));
            // The byte goes up to where its sign is that of the word, and down again.
            let up = match row % 4 {
                0 => numbers.map(|number| _mm512_slli_epi32::<24>(number)),
                1 => numbers.map(|number| _mm512_slli_epi32::<16>(number)),
                2 => numbers.map(|number| _mm512_slli_epi32::<8>(number)),
                _ => numbers,
            };
            [0, 1].map(|half| {
                let number = _mm512_srai_epi32::<24>(up[half]);
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(number), header(2 * half), header(2 * half + 1))
            })
        }
    }
}

/// Two registers from memory.
///
/// # Safety
/// The processor must have AVX-512, and there must be 32 words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two(from: *const u32) -> [__m512i; 2] {
    // SAFETY: the caller says so.
    unsafe { [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(16).cast())] }
}
