//! The inner kernel: a few rows times one panel, with all sums in registers.
//!
//! Each sum is one chain of multiply-adds in the order of k, the same on every call, so that
//! a row's result does not depend on the rows beside it.

#[cfg(target_arch = "x86_64")]
use crate::amx;
#[cfg(target_arch = "x86_64")]
use crate::columns::{self, PanelSource};
use crate::memory::view;
use crate::panel::{Blocking, Element, WIDTH, chains};
use crate::storage::StoredPanel;
use crate::transposed::TransposedSource;
use crate::{Isa, checked_area};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// One call of the inner kernel: `y[r][c] = sum_kk x[r][kk] * panel[kk][c] + bias[c]`
/// for `r < rows`, `c < cols <= WIDTH`, or `y[r][c] +=` that.
///
/// `y` is a raw pointer because neighbouring tiles, which other threads fill, lie between its
/// rows.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, E> {
    pub(crate) x: &'a [E],
    /// Elements from one row of x to the next.
    pub(crate) x_stride: usize,
    pub(crate) panel: &'a [E],
    /// Steps of the panel, and of each row of x, in whole blocks.
    pub(crate) steps: usize,
    pub(crate) y: *mut f32,
    /// Elements from one row of y to the next.
    pub(crate) y_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `cols` values, or nothing.
    pub(crate) bias: Option<&'a [f32]>,
    /// Add to what `y` holds.
    pub(crate) accumulate: bool,
    /// What will be read later.
    pub(crate) prefetch: Prefetch,
}

/// Memory that is fetched into the second-level cache while a tile computes: so many bytes
/// further on with every step. A fetch cannot fail, so none of it needs to exist.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(crate) from: *const u8,
    pub(crate) bytes_per_step: usize,
}

impl Prefetch {
    /// Fetches nothing that is not there already, such as rows of the tile: looking for
    /// an address that does not exist takes long.
    pub(crate) fn none<T>(there: &[T]) -> Self {
        Self { from: there.as_ptr().cast(), bytes_per_step: 0 }
    }
}

/// Fetches memory into the second-level cache.
pub(crate) fn fetch(words: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    for line in words.chunks(16) {
        // SAFETY: every processor of this kind has the instruction, which reads nothing that a
        // program could notice.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

/// The inner kernel of an instruction set, made ready for so many rows.
pub(crate) struct Kernel<E> {
    isa: Isa,
    rows: usize,
    #[cfg(target_arch = "x86_64")]
    registers: Option<amx::Registers>,
    element: PhantomData<E>,
}

impl<E: Element> Kernel<E> {
    /// # Panics
    /// When the machine lacks the instruction set.
    pub(crate) fn new(isa: Isa, rows: usize) -> Self {
        assert!(isa.is_available(), "{} is not available", isa.name());
        let mut kernel = Self {
            isa,
            rows,
            #[cfg(target_arch = "x86_64")]
            registers: None,
            element: PhantomData,
        };
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles::<E>() && rows > 0 {
            let height = rows.div_ceil(kernel.row_tiles().len());
            // SAFETY: AMX is available, as was asserted.
            kernel.registers = Some(unsafe { amx::Registers::new(height) });
        }
        kernel
    }

    /// Rows that the kernel takes at once, at most.
    fn max_rows(&self) -> usize {
        match self.isa {
            Isa::Amx if self.isa.has_tiles::<E>() => 32,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 14,
            Isa::Avx2 => 6,
            Isa::Portable => 4,
        }
    }

    /// Whether the kernel makes panels of stored weights while its first tile computes.
    pub(crate) fn packs_panels(&self) -> bool {
        match E::GROUP {
            1 => self.isa >= Isa::Avx512,
            _ => self.isa == Isa::Avx512Bf16,
        }
    }

    /// Rows of x that are read even for a tile that has fewer.
    fn rows_read(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(registers) = &self.registers {
            return registers.rows();
        }
        0
    }

    /// Cuts the rows into tiles of nearly equal height, none above the kernel's
    /// limit: 16 rows are two tiles of 8, not 14 and 2. Where a tile is a row lower than
    /// others, another follows, so that rows enough for the highest can be read everywhere.
    pub(crate) fn row_tiles(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<E> {
        let (m, tiles) = (self.rows, self.rows.div_ceil(self.max_rows()));
        (0..tiles).map(move |i| (i * m / tiles)..((i + 1) * m / tiles))
    }
}

macro_rules! by_rows {
    ($call:ident::<$how:ty>, $tile:expr, $arguments:tt, [$($n:literal),*]) => {
        match $tile.rows {
            // SAFETY: the caller checked the instruction set and the bounds.
            $($n => unsafe { $call::<E, $how, $n> $arguments },)*
            // No rows: nothing to do.
            _ => {}
        }
    };
    ($call:ident::<$how:ty>, $tile:expr, $arguments:tt) => {
        by_rows!($call::<$how>, $tile, $arguments, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    };
}

/// How each instruction set multiplies an element type.
pub(crate) trait Multiply: Element {
    /// By AVX-512 with BF16.
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: Avx512<Self>;
    /// By AVX-512.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Avx512<Self>;
    /// By AVX2.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Avx2<Self>;
}

impl<E: Element> Tile<'_, E> {
    /// Runs the kernel over all steps, chain by chain.
    ///
    /// # Safety
    /// `y` must be valid for writes and reads of `rows` rows of `cols` elements, `y_stride`
    /// apart, that no other thread touches meanwhile.
    ///
    /// # Panics
    /// When `x`, `panel` or `bias` are shorter than the shape says.
    pub(crate) unsafe fn run(&self, kernel: &Kernel<E>)
    where
        E: Multiply,
    {
        if self.rows == 0 {
            return;
        }
        self.check(kernel);
        assert!(checked_area(self.steps * E::GROUP, WIDTH) <= self.panel.len());
        match kernel.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx if kernel.registers.is_none() => {
                by_rows!(avx512_bf16::<E::Avx512Bf16>, self, (self, columns::PackedPanel::new(self.panel)))
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => by_rows!(avx512::<E::Avx512>, self, (self, columns::PackedPanel::new(self.panel))),
            // The others have no room for two sets of sums, and add each chain up in y.
            _ => {
                for chain in chains::<E>(self.steps, Blocking::of::<E>(kernel.isa).chain) {
                    // SAFETY: the same rows and columns of y.
                    unsafe { self.chain(chain).run_one(kernel) };
                }
            }
        }
    }

    /// As [`Self::run`], but on the panel that is made of `source` at the same time, in `room` if it
    /// `reused` afterwards.
    ///
    /// # Safety
    /// As [`Self::run`].
    ///
    /// # Panics
    /// When `source` holds other steps than the tile, there is no room for them, or as
    /// [`Self::run`].
    pub(crate) unsafe fn run_packing(
        &self,
        kernel: &Kernel<E>,
        source: StoredPanel<'_>,
        words: &mut [u32],
        reused: bool,
    ) where
        E: Multiply,
    {
        #[cfg(target_arch = "x86_64")]
        if kernel.packs_panels() {
            assert_eq!(source.steps(), self.steps);
            assert!(
                E::GROUP == 1 || matches!(source, StoredPanel::Packed(_) | StoredPanel::Quantised(_)),
                "floats of 16 bits make floats"
            );
            let room = columns::PackBuffer { words, reused };
            // SAFETY: the caller's word, and the kernel has what it takes.
            unsafe {
                match source {
                    StoredPanel::Packed(_) => {}
                    StoredPanel::Bf16(from) => {
                        return self.run_decoding(kernel, columns::Bf16Decoder::new(from), room);
                    }
                    StoredPanel::F16(from) => {
                        return self.run_decoding(kernel, columns::F16Decoder::new(from), room);
                    }
                    StoredPanel::Quantised(from) => {
                        return self.run_decoding(kernel, columns::QuantDecoder::new(from), room);
                    }
                }
            }
        }
        let _ = reused;
        source.write(words);
        // SAFETY: the caller's word.
        unsafe { Tile { panel: view(words), ..*self }.run(kernel) };
    }

    /// As [`Self::run_packing`], of weights that were turned over.
    ///
    /// # Safety
    /// As [`Self::run`].
    ///
    /// # Panics
    /// When `raw` holds fewer steps than the tile, there is no room for them, the kernel does not make
    /// panels, or as [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn run_transposed(
        &self,
        kernel: &Kernel<E>,
        raw: TransposedSource<'_>,
        words: &mut [u32],
        reused: bool,
    ) where
        E: Multiply,
    {
        assert!(kernel.packs_panels());
        let room = columns::PackBuffer { words, reused };
        // SAFETY: the caller's word, and the kernel has what it takes.
        unsafe {
            match raw {
                TransposedSource::Bf16(words) => {
                    self.run_decoding(kernel, columns::TransposedPairDecoder::<u16>::new(words), room)
                }
                TransposedSource::F16(words) => {
                    self.run_decoding(kernel, columns::TransposedPairDecoder::<half::f16>::new(words), room)
                }
                TransposedSource::Quantised(words) => {
                    self.run_decoding(kernel, columns::TransposedQuantDecoder::new(words), room)
                }
            }
        }
    }

    /// As above; no kernel makes panels here.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) unsafe fn run_transposed(
        &self,
        _: &Kernel<E>,
        _: TransposedSource<'_>,
        _: &mut [u32],
        _: bool,
    ) {
        unreachable!("no kernel makes panels here");
    }

    /// Runs on a panel that is made of floats on the way.
    ///
    /// # Safety
    /// As [`Self::run`], and [`Kernel::packs_panels`] must hold.
    ///
    /// # Panics
    /// When there are not so many columns, or as [`Self::run_packing`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_decoding(
        &self,
        kernel: &Kernel<E>,
        floats: impl columns::Decode,
        room: columns::PackBuffer<'_>,
    ) where
        E: Multiply,
    {
        use columns::{Bf16PairPacker, F32Packer};
        if self.rows == 0 {
            return;
        }
        self.check(kernel);
        if E::GROUP == 1 {
            by_rows!(avx512::<E::Avx512>, self, (self, F32Packer::new(floats, self.steps, room)));
        } else {
            by_rows!(
                avx512_bf16::<E::Avx512Bf16>,
                self,
                (self, Bf16PairPacker::new(floats, self.steps, room))
            );
        }
    }

    fn check(&self, kernel: &Kernel<E>) {
        assert!(self.rows <= kernel.max_rows() && self.cols <= WIDTH);
        let width = checked_area(self.steps, E::GROUP);
        let rows = self.rows.max(kernel.rows_read());
        let needed = checked_area(rows - 1, self.x_stride).checked_add(width);
        assert!(needed.is_some_and(|needed| needed <= self.x.len()));
        assert!(self.steps.is_multiple_of(E::BLOCK));
        assert!(self.bias.is_none_or(|b| b.len() == self.cols));
    }

    /// Runs over one chain what has no kernel for several.
    ///
    /// # Safety
    /// The bounds of [`Self::run`] must hold.
    unsafe fn run_one(&self, kernel: &Kernel<E>)
    where
        E: Multiply,
    {
        #[cfg(target_arch = "x86_64")]
        if let Some(registers) = &kernel.registers {
            // SAFETY: so many rows were found to be there, and so were the blocks; y is the
            // caller's word.
            return unsafe { registers.multiply(self) };
        }
        match kernel.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => by_rows!(avx2::<E::Avx2>, self, (self), [1, 2, 3, 4, 5, 6]),
            _ => portable(self),
        }
    }

    /// The part of a tile that is one chain.
    pub(crate) fn chain(&self, chain: Range<usize>) -> Self {
        Self {
            x: &self.x[chain.start * E::GROUP..],
            panel: &self.panel[chain.start * E::GROUP * WIDTH..],
            steps: chain.len(),
            bias: self.bias.filter(|_| chain.end == self.steps),
            accumulate: self.accumulate || chain.start > 0,
            ..*self
        }
    }

    /// Writes the sums of one row one by one; the way out for tiles narrower than a panel.
    fn finish(&self, r: usize, sums: &[f32; WIDTH]) {
        for (c, sum) in sums.iter().enumerate().take(self.cols) {
            // SAFETY: `run`'s contract gives `rows` rows of `cols` writable elements, which
            // are readable when accumulating.
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

/// Steps of 16 columns in AVX-512 registers.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Avx512<E> {
    /// Adds the products of a step of one row, in all places, and of 16 columns.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn add(
        sums: std::arch::x86_64::__m512,
        x: std::arch::x86_64::__m512i,
        columns: std::arch::x86_64::__m512i,
    ) -> std::arch::x86_64::__m512;
}

/// Steps of 8 columns in AVX2 registers.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Avx2<E> {
    /// As [`Avx512::add`], of 8 columns.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn add(
        sums: std::arch::x86_64::__m256,
        x: std::arch::x86_64::__m256i,
        columns: std::arch::x86_64::__m256i,
    ) -> std::arch::x86_64::__m256;
}

/// A fused multiply-add of single floats.
pub(crate) enum F32Fma {}

/// A pair of 16-bit floats widened, and two fused multiply-adds.
pub(crate) enum Bf16ToF32Fma {}

/// A pair of 16-bit floats in one instruction.
pub(crate) enum Bf16Dot {}

impl Multiply for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = F32Fma;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = F32Fma;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = F32Fma;
}

impl Multiply for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = Bf16Dot;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Bf16ToF32Fma;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Bf16ToF32Fma;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Bf16Dot, Bf16ToF32Fma, F32Fma};
    use half::bf16;
    use std::arch::x86_64::*;

    impl Avx512<f32> for F32Fma {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(columns), sums)
        }
    }

    impl Avx512<bf16> for Bf16ToF32Fma {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            let first = |pair| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            let mask = _mm512_set1_epi32(!0xffff);
            let second = |pair| _mm512_castsi512_ps(_mm512_and_si512(pair, mask));
            let sums = _mm512_fmadd_ps(first(x), first(columns), sums);
            _mm512_fmadd_ps(second(x), second(columns), sums)
        }
    }

    impl Avx512<bf16> for Bf16Dot {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bf16")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            // SAFETY: both types are 64 bytes for which any bits are a value.
            let pairs = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
            _mm512_dpbf16_ps(sums, pairs(x), pairs(columns))
        }
    }

    impl Avx2<f32> for F32Fma {
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn add(sums: __m256, x: __m256i, columns: __m256i) -> __m256 {
            _mm256_fmadd_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(columns), sums)
        }
    }

    impl Avx2<bf16> for Bf16ToF32Fma {
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn add(sums: __m256, x: __m256i, columns: __m256i) -> __m256 {
            let first = |pair| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            let mask = _mm256_set1_epi32(!0xffff);
            let second = |pair| _mm256_castsi256_ps(_mm256_and_si256(pair, mask));
            let sums = _mm256_fmadd_ps(first(x), first(columns), sums);
            _mm256_fmadd_ps(second(x), second(columns), sums)
        }
    }
}

/// Defines the kernel for AVX-512 with the features that a way of multiplying needs.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_kernel {
    ($name:ident, $features:literal) => {
        /// # Safety
        /// The features must be there and the bounds of [`Tile::run`] must hold.
        #[target_feature(enable = $features)]
        unsafe fn $name<E: Element, A: Avx512<E>, const R: usize>(
            t: &Tile<'_, E>,
            mut columns: impl PanelSource,
        ) {
            use std::arch::x86_64::*;
            // Steps between fetches of rows of y.
            const STEPS_PER_ROW: usize = 4;
            let (x, mut ahead) = (t.x.as_ptr(), t.prefetch.from);
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            for chain in chains::<E>(t.steps, Blocking::of::<E>(Isa::Avx512).chain) {
                let first = chain.start == 0;
                let mut acc = [[_mm512_setzero_ps(); 2]; R];
                for step in chain {
                    // Rows of y are far apart: each is asked for long before it is written.
                    if step < R * STEPS_PER_ROW && step % STEPS_PER_ROW == 0 {
                        let row = t.y.wrapping_add(step / STEPS_PER_ROW * t.y_stride);
                        _mm_prefetch::<_MM_HINT_ET0>(row.cast());
                        _mm_prefetch::<_MM_HINT_ET0>(row.wrapping_add(WIDTH / 2).cast());
                    }
                    // SAFETY: the callers checked that there are columns for each step and that
                    // every row of x holds all steps. A fetch does no harm wherever it points.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                        let [b0, b1] = columns.next();
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let word = x.add(r * t.x_stride + step * E::GROUP).cast::<i32>().read_unaligned();
                            let a = _mm512_set1_epi32(word);
                            acc[0] = A::add(acc[0], a, b0);
                            acc[1] = A::add(acc[1], a, b1);
                        }
                    }
                    ahead = ahead.wrapping_add(t.prefetch.bytes_per_step);
                }
                // The sums of earlier chains wait on the stack.
                for (sums, acc) in sums.iter_mut().zip(&acc) {
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        *sum = if first { *acc } else { _mm512_add_ps(*acc, *sum) };
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: the tile has this row, within the bounds that `run` demands.
                unsafe { write_row(t, r, *sums) };
            }
        }
    };
}

/// Writes the sums of one row to y, or adds them to it.
///
/// # Safety
/// AVX-512 must be there, and the bounds of [`Tile::run`] must hold with `r < t.rows`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn write_row<E: Element>(t: &Tile<'_, E>, r: usize, sums: [std::arch::x86_64::__m512; 2]) {
    use std::arch::x86_64::*;
    let [mut lo, mut hi] = sums;
    if t.cols < WIDTH {
        let mut sums = [0.0; WIDTH];
        // SAFETY: `sums` has 32 elements.
        unsafe {
            _mm512_storeu_ps(sums.as_mut_ptr(), lo);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), hi);
        }
        return t.finish(r, &sums);
    }
    // SAFETY: a full row of the tile is writable, and readable when accumulating; so is the bias
    // readable.
    unsafe {
        let y = t.y.add(r * t.y_stride);
        if t.accumulate {
            lo = _mm512_add_ps(lo, _mm512_loadu_ps(y));
            hi = _mm512_add_ps(hi, _mm512_loadu_ps(y.add(16)));
        }
        if let Some(bias) = t.bias {
            lo = _mm512_add_ps(lo, _mm512_loadu_ps(bias.as_ptr()));
            hi = _mm512_add_ps(hi, _mm512_loadu_ps(bias.as_ptr().add(16)));
        }
        _mm512_storeu_ps(y, lo);
        _mm512_storeu_ps(y.add(16), hi);
    }
}

#[cfg(target_arch = "x86_64")]
avx512_kernel!(avx512, "avx512f,avx512bw,avx512dq,avx512vl,fma");
#[cfg(target_arch = "x86_64")]
avx512_kernel!(avx512_bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma");

/// # Safety
/// AVX2 and FMA must be there and the bounds of [`Tile::run`] must hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<E: Element, A: Avx2<E>, const R: usize>(t: &Tile<'_, E>) {
    use std::arch::x86_64::*;
    let mut rows = [[0.0f32; WIDTH]; R];
    // Six rows of 16 columns fill the 16 registers, so a panel takes two passes.
    for half in [0, 16] {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let x = t.x.as_ptr();
        let mut panel = t.panel.as_ptr().wrapping_add(half * E::GROUP).cast::<__m256i>();
        for step in 0..t.steps {
            // SAFETY: `run` checked the bounds of the panel and of x.
            unsafe {
                let (b0, b1) = (_mm256_loadu_si256(panel), _mm256_loadu_si256(panel.add(1)));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let word = x.add(r * t.x_stride + step * E::GROUP).cast::<i32>().read_unaligned();
                    let a = _mm256_set1_epi32(word);
                    acc[0] = A::add(acc[0], a, b0);
                    acc[1] = A::add(acc[1], a, b1);
                }
            }
            panel = panel.wrapping_add(4);
        }
        for (row, acc) in rows.iter_mut().zip(&acc) {
            // SAFETY: a row has 32 elements.
            unsafe {
                _mm256_storeu_ps(row.as_mut_ptr().add(half), acc[0]);
                _mm256_storeu_ps(row.as_mut_ptr().add(half + 8), acc[1]);
            }
        }
    }
    for (r, row) in rows.iter().enumerate() {
        t.finish(r, row);
    }
}

fn portable<E: Element>(t: &Tile<'_, E>) {
    for r in 0..t.rows {
        let mut sums = [0.0; WIDTH];
        let x = &t.x[r * t.x_stride..][..t.steps * E::GROUP];
        for (x, step) in x.chunks_exact(E::GROUP).zip(t.panel.chunks_exact(WIDTH * E::GROUP)) {
            for (sum, columns) in sums.iter_mut().zip(step.chunks_exact(E::GROUP)) {
                x.iter().zip(columns).for_each(|(x, w)| *sum += x.to_f32() * w.to_f32());
            }
        }
        t.finish(r, &sums);
    }
}
