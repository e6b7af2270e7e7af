//! The inner kernel of each instruction set, and its dispatch.

use super::call::Tile;
use super::fma::Multiply;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx2_source, avx512, panel_source};
use crate::element::Element;
use crate::memory::view;
use crate::panel::{Blocking, WIDTH, chains, uses_amx};
use crate::storage::{StoredPanel, TransposedSource};
use crate::{Isa, checked_area};
use std::marker::PhantomData;
use std::ops::Range;

/// The inner kernel of an instruction set, set up for some number of rows.
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
        assert!(
            E::GROUP == 1 || isa.has_bf16(),
            "without its instructions, bfloat16 is multiplied as floats"
        );
        let mut kernel = Self {
            isa,
            rows,
            #[cfg(target_arch = "x86_64")]
            registers: None,
            element: PhantomData,
        };
        #[cfg(target_arch = "x86_64")]
        if uses_amx::<E>(isa) && rows > 0 {
            let height = rows.div_ceil(kernel.row_tiles().len());
            // SAFETY: AMX is available, as asserted.
            kernel.registers = Some(unsafe { amx::Registers::new(height) });
        }
        kernel
    }

    /// Maximum number of rows of a tile.
    fn max_rows(&self) -> usize {
        match self.isa {
            isa if uses_amx::<E>(isa) => 32,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 14,
            Isa::Avx2 => 6,
            Isa::Portable => 4,
        }
    }

    /// Whether the first tile of a panel decodes stored weights while it computes.
    pub(crate) fn decodes_in_tile(&self) -> bool {
        match E::GROUP {
            1 => self.isa >= Isa::Avx2,
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

    /// Cuts the rows into tiles within the kernel's limit. A tile that is one row lower than the highest
    /// is followed by another, so that the highest number of rows is readable everywhere.
    pub(crate) fn row_tiles(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<E> {
        row_tiles(self.rows, self.max_rows())
    }
}

/// Cuts `rows` rows into tiles of nearly equal height, at most `most`: 16 rows are two tiles of 8, not 14
/// and 2.
pub(crate) fn row_tiles(rows: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let tiles = rows.div_ceil(most);
    (0..tiles).map(move |i| (i * rows / tiles)..((i + 1) * rows / tiles))
}

/// Calls the kernel instance for the tile's number of rows.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($module:ident::$call:ident::<$how:ty>, $tile:expr, $arguments:tt, [$($n:literal),*]) => {
        match $tile.rows {
            // SAFETY: the caller checked the instruction set and the bounds.
            $($n => unsafe { $module::$call::<E, $how, $n> $arguments },)*
            // No rows: nothing to do.
            _ => {}
        }
    };
    ($module:ident::$call:ident::<$how:ty>, $tile:expr, $arguments:tt) => {
        by_rows!($module::$call::<$how>, $tile, $arguments, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    };
}

impl<E: Multiply> Tile<'_, E> {
    /// Runs the kernel over all steps, chain by chain.
    ///
    /// # Safety
    /// `y` must be valid for writes and reads of `rows` rows of `cols` elements, `y_stride` apart, that
    /// no other thread accesses meanwhile.
    ///
    /// # Panics
    /// When `x`, `panel` or `bias` are shorter than the shape says.
    pub(crate) unsafe fn run(&self, kernel: &Kernel<E>) {
        if self.rows == 0 {
            return;
        }
        self.check(kernel);
        assert!(checked_area(self.steps * E::GROUP, WIDTH) <= self.panel.len());
        match kernel.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx if kernel.registers.is_none() => {
                let panel = panel_source::PackedPanel::new(self.panel);
                by_rows!(avx512::run_bf16::<E::Avx512>, self, (self, panel))
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let panel = panel_source::PackedPanel::new(self.panel);
                by_rows!(avx512::run::<E::Avx512>, self, (self, panel))
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let steps = avx2_source::Elements::of_panel(self.panel, self.steps);
                // SAFETY: the caller's guarantee; a packed panel is not written.
                unsafe { self.run_avx2(steps, std::ptr::null_mut(), 0) };
            }
            // The others add each chain to y.
            _ => {
                for chain in chains::<E>(self.steps, Blocking::of::<E>(kernel.isa).chain) {
                    // SAFETY: the same rows and columns of y.
                    unsafe { self.chain(chain).run_chain(kernel) };
                }
            }
        }
    }

    /// As [`Self::run`], but decodes the panel from `source` at the same time, into `buffer` if it is
    /// `reused` afterwards.
    ///
    /// # Safety
    /// As [`Self::run`].
    ///
    /// # Panics
    /// When `source` has another number of steps than the tile, the buffer is too short, or as
    /// [`Self::run`].
    pub(crate) unsafe fn run_packing(
        &self,
        kernel: &Kernel<E>,
        source: StoredPanel<'_>,
        buffer: &mut [u32],
        reused: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        if kernel.decodes_in_tile() && self.rows > 0 {
            assert_eq!(source.steps(), self.steps);
            // SAFETY: the caller's guarantee, and the kernel decodes in tiles.
            let is_done = unsafe {
                match kernel.isa {
                    Isa::Avx2 => self.run_packing_avx2(kernel, &source, buffer, reused),
                    _ => self.run_packing_avx512(kernel, &source, buffer, reused),
                }
            };
            if is_done {
                return;
            }
        }
        let _ = reused;
        source.decode(buffer);
        // SAFETY: the caller's guarantee.
        unsafe { Tile { panel: view(buffer), ..*self }.run(kernel) };
    }

    /// [`Self::run_packing`] with AVX-512, or false for weights that are decoded before the tile.
    ///
    /// # Safety
    /// As [`Self::run`], and [`Kernel::decodes_in_tile`] must hold.
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_packing_avx512(
        &self,
        kernel: &Kernel<E>,
        source: &StoredPanel<'_>,
        buffer: &mut [u32],
        reused: bool,
    ) -> bool {
        use panel_source::{Bf16Decoder, F16Decoder, PackBuffer, QuantDecoder};
        let to = PackBuffer { words: buffer, reused };
        // SAFETY: the caller's guarantee.
        unsafe {
            match *source {
                StoredPanel::Bf16(from) if E::GROUP == 1 => {
                    self.run_decoding(kernel, Bf16Decoder::new(from), to);
                }
                StoredPanel::F16(from) if E::GROUP == 1 => {
                    self.run_decoding(kernel, F16Decoder::new(from), to);
                }
                // Pairs are packed by an instruction that rounds.
                StoredPanel::Quantised(from) if E::GROUP == 2 || !from.round => match from.table {
                    None => self.run_decoding(kernel, QuantDecoder::<false>::new(from), to),
                    Some(_) => self.run_decoding(kernel, QuantDecoder::<true>::new(from), to),
                },
                _ => return false,
            }
        }
        true
    }

    /// [`Self::run_packing`] with AVX2, or false for weights that need no decoding.
    ///
    /// # Safety
    /// As [`Self::run`], and AVX2, FMA and F16C must be available.
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_packing_avx2(
        &self,
        kernel: &Kernel<E>,
        source: &StoredPanel<'_>,
        buffer: &mut [u32],
        reused: bool,
    ) -> bool {
        use avx2_source::{Elements, Pairs, Quantised};
        self.check(kernel);
        assert!(checked_area(self.steps, WIDTH) <= buffer.len());
        let (to, stride) = (buffer.as_mut_ptr().cast(), if reused { WIDTH } else { 0 });
        // SAFETY: the caller's guarantee; the buffer was checked.
        unsafe {
            match *source {
                StoredPanel::Packed(_) => return false,
                StoredPanel::Bf16(from) => self.run_avx2(Elements::new(from, self.steps), to, stride),
                StoredPanel::F16(from) => self.run_avx2(Elements::new(from, self.steps), to, stride),
                StoredPanel::Pairs(from) => self.run_avx2(Pairs::new(from), to, stride),
                StoredPanel::Quantised(from) => match (from.round, from.table) {
                    (false, None) => self.run_avx2(Quantised::<false, false>::new(from), to, stride),
                    (false, Some(_)) => self.run_avx2(Quantised::<false, true>::new(from), to, stride),
                    (true, None) => self.run_avx2(Quantised::<true, false>::new(from), to, stride),
                    (true, Some(_)) => self.run_avx2(Quantised::<true, true>::new(from), to, stride),
                },
            }
        }
        true
    }

    /// Runs the AVX2 kernel on panels from any source.
    ///
    /// # Safety
    /// As [`avx2::run`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_avx2<S: avx2_source::HalfSteps>(&self, source: S, to: *mut f32, to_stride: usize) {
        by_rows!(avx2::run::<S>, self, (self, source, to, to_stride), [1, 2, 3, 4, 5, 6]);
    }

    /// As [`Self::run_packing`], from transposed weights.
    ///
    /// # Safety
    /// As [`Self::run`].
    ///
    /// # Panics
    /// When `source` has fewer steps than the tile, the buffer is too short, the kernel does not decode
    /// in tiles, or as [`Self::run`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn run_transposed(
        &self,
        kernel: &Kernel<E>,
        source: TransposedSource<'_>,
        buffer: &mut [u32],
        reused: bool,
    ) {
        use panel_source::{PackBuffer, TransposedPairDecoder, TransposedQuantDecoder};
        assert!(kernel.decodes_in_tile());
        let to = PackBuffer { words: buffer, reused };
        // SAFETY: the caller's guarantee, and the kernel decodes in tiles.
        unsafe {
            match source {
                TransposedSource::Bf16(words) => {
                    self.run_decoding(kernel, TransposedPairDecoder::<u16>::new(words), to)
                }
                TransposedSource::F16(words) => {
                    self.run_decoding(kernel, TransposedPairDecoder::<half::f16>::new(words), to)
                }
                TransposedSource::Quantised(words) => {
                    self.run_decoding(kernel, TransposedQuantDecoder::new(words), to)
                }
            }
        }
    }

    /// As above; no kernel decodes in tiles on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) unsafe fn run_transposed(
        &self,
        _: &Kernel<E>,
        _: TransposedSource<'_>,
        _: &mut [u32],
        _: bool,
    ) {
        unreachable!("no kernel decodes in tiles on this architecture");
    }

    /// Runs on a panel that is decoded on the way.
    ///
    /// # Safety
    /// As [`Self::run`], and [`Kernel::decodes_in_tile`] must hold.
    ///
    /// # Panics
    /// When the decoder has too few columns, or as [`Self::run_packing`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_decoding(
        &self,
        kernel: &Kernel<E>,
        decoder: impl panel_source::Decode,
        buffer: panel_source::PackBuffer<'_>,
    ) {
        use panel_source::{Bf16PairPacker, F32Packer};
        if self.rows == 0 {
            return;
        }
        self.check(kernel);
        if E::GROUP == 1 {
            by_rows!(avx512::run::<E::Avx512>, self, (self, F32Packer::new(decoder, self.steps, buffer)));
        } else {
            let packer = Bf16PairPacker::new(decoder, self.steps, buffer);
            by_rows!(avx512::run_bf16::<E::Avx512>, self, (self, packer));
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

    /// Runs over one chain, for instruction sets whose kernel takes one at a time.
    ///
    /// # Safety
    /// The bounds of [`Self::run`] must hold.
    unsafe fn run_chain(&self, kernel: &Kernel<E>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(registers) = &kernel.registers {
            // SAFETY: `check` found the rows and whole blocks; y is the caller's guarantee.
            return unsafe { registers.multiply(self) };
        }
        // SAFETY: the caller's guarantee.
        unsafe { portable::run(self) }
    }
}
