//! The columns of a panel as a tile reads them with AVX-512, step by step: as they lie there, or made of
//! stored weights and written into a panel on the way, for the tiles that follow.
//!
//! Made like this, a panel costs little more than its multiply-adds: conversions and stores hide
//! behind the products of the tile's rows.

use crate::panel::WIDTH;
use crate::product;
use crate::storage::Numbers;
use half::f16;
use std::arch::x86_64::*;

/// Where the columns of a panel's steps come from, one step after the other.
pub(crate) trait Columns {
    /// The 32 units of the next step.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL, and there must be another step.
    unsafe fn next(&mut self) -> [__m512i; 2];
}

/// A panel that is there.
pub(crate) struct Ready(*const __m512i);

impl Ready {
    /// The steps of a panel.
    pub(crate) fn new<E>(panel: &[E]) -> Self {
        Self(panel.as_ptr().cast())
    }
}

impl Columns for Ready {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: the caller says that there is another step, of two registers.
        unsafe {
            let columns = [_mm512_loadu_si512(self.0), _mm512_loadu_si512(self.0.add(1))];
            self.0 = self.0.add(2);
            columns
        }
    }
}

/// Room for a panel that is made.
pub(crate) struct Room<'a> {
    /// As long as the panel, at least.
    pub(crate) units: &'a mut [u32],
    /// Whether other tiles will read the panel. Otherwise all steps are written to the same place,
    /// which costs least.
    pub(crate) is_read: bool,
}

/// A panel that is being written.
struct Panel {
    next: *mut __m512i,
    registers_a_step: usize,
}

impl Panel {
    /// # Panics
    /// When there is no room for so many steps.
    fn new(room: Room<'_>, steps: usize) -> Self {
        assert!(product(steps, WIDTH) <= room.units.len());
        Self { next: room.units.as_mut_ptr().cast(), registers_a_step: if room.is_read { 2 } else { 0 } }
    }

    /// Writes the next step, and gives it.
    ///
    /// # Safety
    /// As [`Columns::next`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn write(&mut self, columns: [__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: there is room for another step, as the caller says.
        unsafe {
            _mm512_storeu_si512(self.next, columns[0]);
            _mm512_storeu_si512(self.next.add(1), columns[1]);
            self.next = self.next.add(self.registers_a_step);
        }
        columns
    }
}

/// Floats of which the upper halves are stored.
pub(crate) struct Upper {
    from: *const __m256i,
    panel: Panel,
}

impl Upper {
    /// All steps of `from`.
    ///
    /// # Panics
    /// When the room is too short.
    pub(crate) fn new(from: &[u16], room: Room<'_>) -> Self {
        Self { from: from.as_ptr().cast(), panel: Panel::new(room, from.len() / WIDTH) }
    }
}

impl Columns for Upper {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        let widen = |half| _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half));
        // SAFETY: the caller says that there is another step, of two halves of a register.
        unsafe {
            let halves = [_mm256_loadu_si256(self.from), _mm256_loadu_si256(self.from.add(1))];
            self.from = self.from.add(2);
            self.panel.write(halves.map(widen))
        }
    }
}

/// 16-bit floats.
pub(crate) struct Half {
    from: *const __m256i,
    panel: Panel,
}

impl Half {
    /// All steps of `from`.
    ///
    /// # Panics
    /// When the room is too short.
    pub(crate) fn new(from: &[f16], room: Room<'_>) -> Self {
        Self { from: from.as_ptr().cast(), panel: Panel::new(room, from.len() / WIDTH) }
    }
}

impl Columns for Half {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: as in `Upper`.
        unsafe {
            let halves = [_mm256_loadu_si256(self.from), _mm256_loadu_si256(self.from.add(1))];
            self.from = self.from.add(2);
            self.panel.write(halves.map(|half| _mm512_castps_si512(_mm512_cvtph_ps(half))))
        }
    }
}

/// Whole numbers in blocks, each behind its scales and offsets.
struct Blocks {
    scales: *const f32,
    values: *const __m128i,
    /// Columns of a block.
    columns: usize,
    /// Columns that are left in this block.
    left: usize,
}

impl Blocks {
    /// # Panics
    /// When there are fewer numbers than said.
    fn new(numbers: Numbers<'_>) -> Self {
        let Numbers { from, columns, skip, .. } = numbers;
        let units = 2 * WIDTH + columns * WIDTH / size_of::<u32>();
        let wanted = product(numbers.steps, numbers.columns_a_step);
        assert!(skip < columns && wanted.saturating_add(skip) <= product(from.len() / units, columns));
        let scales: *const f32 = from.as_ptr().cast();
        // A column takes two registers of 16 bytes.
        let values = scales.wrapping_add(2 * WIDTH).cast::<__m128i>().wrapping_add(2 * skip);
        Self { scales, values, columns, left: columns - skip }
    }

    /// The weights of the next column.
    ///
    /// # Safety
    /// The processor must have AVX-512 F, and there must be another column.
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

/// Floats of whole numbers in blocks.
pub(crate) struct Scaled {
    blocks: Blocks,
    panel: Panel,
}

impl Scaled {
    /// All steps of these numbers.
    ///
    /// # Panics
    /// When there are fewer numbers than said, or the room is too short.
    pub(crate) fn new(numbers: Numbers<'_>, room: Room<'_>) -> Self {
        assert_eq!(numbers.columns_a_step, 1);
        Self { blocks: Blocks::new(numbers), panel: Panel::new(room, numbers.steps) }
    }
}

impl Columns for Scaled {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is a column.
        unsafe { self.panel.write(self.blocks.column().map(|floats| _mm512_castps_si512(floats))) }
    }
}

/// Pairs of bfloat16 of whole numbers in blocks.
pub(crate) struct Pairs {
    blocks: Blocks,
    panel: Panel,
}

impl Pairs {
    /// All steps of these numbers.
    ///
    /// # Panics
    /// When there are fewer numbers than said, or the room is too short.
    pub(crate) fn new(numbers: Numbers<'_>, room: Room<'_>) -> Self {
        assert_eq!(numbers.columns_a_step, 2);
        Self { blocks: Blocks::new(numbers), panel: Panel::new(room, numbers.steps) }
    }
}

impl Columns for Pairs {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    unsafe fn next(&mut self) -> [__m512i; 2] {
        // SAFETY: a step is two columns, and both types are 64 bytes for which any bits are a value.
        unsafe {
            let (even, odd) = (self.blocks.column(), self.blocks.column());
            // The instruction puts one column behind the other.
            let places = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                3, 18, 2, 17, 1, 16, 0,
            );
            let pairs = [0, 1].map(|half| {
                let rounded = _mm512_cvtne2ps_pbh(odd[half], even[half]);
                _mm512_permutexvar_epi16(places, std::mem::transmute::<__m512bh, __m512i>(rounded))
            });
            self.panel.write(pairs)
        }
    }
}
