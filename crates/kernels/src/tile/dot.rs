//! The inner kernel of the backward pass: dot products along the vectors of panels.
//!
//! `dx[r][c] = sum_j dy[r][j] * W[j][c]`: a step of a panel holds column c of 32 rows of W, so a vector of
//! it is multiplied by a vector of dy. Every sum is a vector until its chain ends, where the lanes are
//! added in a fixed order; so weights need no transposition.

use super::call::prefetch_line;
use super::vector::{LANES, Portable, Vector};
use crate::cpu::multiversion;
use crate::element::bf16_value;
use crate::memory::LINE;
use crate::panel::WIDTH;
use crate::storage::{CodeTable, ColumnFormat, StoredColumns};
use crate::{Isa, checked_area};

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 4;

/// Words of a decoded panel.
const PANEL: usize = COLUMNS * WIDTH;

/// One call of the kernel: some rows times some columns of the panels of a chain.
///
/// `dx` is a raw pointer because other threads write between its rows.
#[derive(Clone, Copy)]
pub(crate) struct DotTile<'a> {
    /// Rows as [`pack_rows`] writes them.
    pub(crate) dy: &'a [f32],
    /// Panels of the chain.
    pub(crate) panels: usize,
    pub(crate) rows: usize,
    pub(crate) dx: *mut f32,
    /// Elements from one row of dx to the next.
    pub(crate) dx_stride: usize,
    /// Columns of dx.
    pub(crate) cols: usize,
    /// Whether to add to `dx` instead of overwriting it.
    pub(crate) accumulate: bool,
    /// What to prefetch meanwhile.
    pub(crate) prefetch: PanelPrefetch,
}

/// Memory to prefetch, some cache lines of each panel with every [`COLUMNS`] columns. It need not exist.
#[derive(Clone, Copy)]
pub(crate) struct PanelPrefetch {
    pub(crate) from: *const u8,
    /// Bytes from one panel to the next.
    pub(crate) stride: usize,
    pub(crate) lines: usize,
}

multiversion! {
    /// Packs the rows of a tile over the panels of a chain in the order in which they are read: vector by
    /// vector, those of all rows side by side. They are rounded to bfloat16 if `round`; what is missing of
    /// the last panel is zero.
    ///
    /// # Shapes
    /// `dy` has rows of `len` elements, `stride` elements apart; `to` has as many, of whole panels.
    pub(crate) fn pack_rows(dy: &[f32], stride: usize, len: usize, round: bool, to: &mut [f32]) {
        match round {
            false => interleave(dy, stride, len, to, |x| x),
            true => interleave(dy, stride, len, to, bf16_value),
        }
    }
}

/// [`pack_rows`], given how to convert an element.
#[inline(always)]
fn interleave(dy: &[f32], stride: usize, len: usize, to: &mut [f32], convert: impl Fn(f32) -> f32) {
    let rows = dy.len().div_ceil(stride);
    let (vectors, _) = to.as_chunks_mut::<LANES>();
    for (r, dy) in dy.chunks(stride).enumerate() {
        let (whole, rest) = dy[..len].as_chunks::<LANES>();
        let mut vectors = vectors.iter_mut().skip(r).step_by(rows);
        for (from, to) in whole.iter().zip(&mut vectors) {
            *to = from.map(&convert);
        }
        for (i, to) in vectors.enumerate() {
            *to = [0.0; LANES];
            if i == 0 {
                rest.iter().zip(to).for_each(|(from, to)| *to = convert(*from));
            }
        }
    }
}

/// Rows of a tile: with four columns and a vector of dy each, their sums fill the registers.
pub(crate) fn max_rows(isa: Isa) -> usize {
    if isa == Isa::Portable { 2 } else { 3 }
}

/// Words of the decoded columns of a tile.
pub(crate) fn decoded_words(panels: usize) -> usize {
    checked_area(panels, PANEL)
}

/// A storage format: how to read a vector.
trait Format: Copy {
    /// Weights of lanes `lane..` of column `column < COLUMNS`, where `at` is the panel's first word.
    ///
    /// # Safety
    /// As [`Vector`]; the panel must hold four columns from `at` on.
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V;
}

#[derive(Clone, Copy)]
struct Floats;
#[derive(Clone, Copy)]
struct Pairs;
#[derive(Clone, Copy)]
struct Bf16;
#[derive(Clone, Copy)]
struct F16;
/// Scales, offsets, and values from some byte on; weights are rounded to bfloat16 if `ROUND`.
#[derive(Clone, Copy)]
struct Quantised<const ROUND: bool>(usize);

/// As [`Quantised`], with codes of 4 bits and what they stand for.
#[derive(Clone, Copy)]
struct Coded<'a, const ROUND: bool>(usize, &'a CodeTable);

impl Format for Floats {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe { V::load(at.add(column * WIDTH + lane).cast()) }
    }
}

impl Format for Pairs {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe { V::load_of_pairs(at.add(column / 2 * WIDTH + lane), column % 2 == 1) }
    }
}

impl Format for Bf16 {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe { V::load_bf16(at.cast::<u16>().add(column * WIDTH + lane)) }
    }
}

impl Format for F16 {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe { V::load_f16(at.cast::<half::f16>().add(column * WIDTH + lane)) }
    }
}

impl<const ROUND: bool> Format for Quantised<ROUND> {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe {
            let value = V::load_i8(at.cast::<i8>().add(self.0 + column * WIDTH + lane));
            let header = at.cast::<f32>().add(lane);
            let weight = value.mul_add(V::load(header), V::load(header.add(WIDTH)));
            if ROUND { weight.round_to_bf16() } else { weight }
        }
    }
}

impl<const ROUND: bool> Format for Coded<'_, ROUND> {
    #[inline(always)]
    unsafe fn vector<V: Vector>(self, at: *const u32, column: usize, lane: usize) -> V {
        // SAFETY: the caller's guarantee.
        unsafe {
            let codes = at.cast::<u8>().add(self.0 + column / 2 * WIDTH + lane);
            let header = at.cast::<f32>().add(lane);
            let value = V::load_coded(codes, column % 2 == 1, self.1);
            let weight = value.mul_add(V::load(header), V::load(header.add(WIDTH)));
            if ROUND { weight.round_to_bf16() } else { weight }
        }
    }
}

impl DotTile<'_> {
    /// Multiplies up to [`COLUMNS`] columns of stored weights, and writes them to `to` as floats for
    /// [`Self::run`].
    ///
    /// # Safety
    /// `dx` must be valid for writes and reads of `rows` rows of `cols` elements, `dx_stride` apart, that
    /// no other thread accesses meanwhile.
    ///
    /// # Panics
    /// When the machine lacks the instruction set, there are more columns, or `dy`, `from` or `to` are shorter
    /// than the shape says.
    pub(crate) unsafe fn run_decoding(&self, isa: Isa, from: &StoredColumns<'_>, to: &mut [u32]) {
        self.check(isa);
        from.check(self.panels, COLUMNS);
        assert!(self.cols <= COLUMNS && decoded_words(self.panels) <= to.len());
        let source = Source { first: from.words.as_ptr(), stride: from.stride, format: from.format };
        let to = Some(to.as_mut_ptr().cast());
        // SAFETY: the caller's guarantee, and what was checked.
        unsafe {
            match from.format {
                ColumnFormat::Floats => self.dispatch(isa, source.with(Floats), to),
                ColumnFormat::Pairs => self.dispatch(isa, source.with(Pairs), to),
                ColumnFormat::Bf16 => self.dispatch(isa, source.with(Bf16), to),
                ColumnFormat::F16 => self.dispatch(isa, source.with(F16), to),
                ColumnFormat::Quantised { values, round: false } => {
                    self.dispatch(isa, source.with(Quantised::<false>(values)), to);
                }
                ColumnFormat::Quantised { values, round: true } => {
                    self.dispatch(isa, source.with(Quantised::<true>(values)), to);
                }
                ColumnFormat::Coded { values, round: false, table } => {
                    self.dispatch(isa, source.with(Coded::<false>(values, table)), to);
                }
                ColumnFormat::Coded { values, round: true, table } => {
                    self.dispatch(isa, source.with(Coded::<true>(values, table)), to);
                }
            }
        }
    }

    /// Multiplies decoded weights: for every [`COLUMNS`] columns, those of one panel after another.
    ///
    /// # Safety
    /// As [`Self::run_decoding`].
    ///
    /// # Panics
    /// As [`Self::run_decoding`].
    pub(crate) unsafe fn run(&self, isa: Isa, decoded: &[u32]) {
        self.check(isa);
        let needed = checked_area(decoded_words(self.panels), self.cols.div_ceil(COLUMNS));
        assert!(needed <= decoded.len());
        let from = Source { first: decoded.as_ptr(), stride: PANEL, format: Floats };
        // SAFETY: the caller's guarantee, and what was checked.
        unsafe { self.dispatch(isa, from, None) };
    }

    fn check(&self, isa: Isa) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert!((1..=max_rows(isa)).contains(&self.rows));
        assert!(checked_area(self.rows * WIDTH, self.panels) <= self.dy.len());
    }

    /// Calls the instance of the kernel for the instruction set and the number of rows.
    ///
    /// # Safety
    /// As [`Self::run_decoding`]; source and `to` must hold the columns of all panels.
    #[inline(always)]
    unsafe fn dispatch<F: Format>(&self, isa: Isa, from: Source<F>, to: Option<*mut f32>) {
        // SAFETY: the caller's guarantee.
        unsafe {
            match (isa, self.rows) {
                (Isa::Portable, 1) => multiply::<Portable, F, 1>(self, from, to),
                (Isa::Portable, _) => multiply::<Portable, F, 2>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 1) => avx2::<F, 1>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 2) => avx2::<F, 2>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, _) => avx2::<F, 3>(self, from, to),
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("`check` found the instruction set"),
            }
        }
    }
}

/// The columns of the first panel, and the distance to the next in words.
#[derive(Clone, Copy)]
struct Source<F> {
    first: *const u32,
    stride: usize,
    format: F,
}

impl<F> Source<F> {
    fn with<G>(&self, format: G) -> Source<G> {
        Source { first: self.first, stride: self.stride, format }
    }
}

/// # Safety
/// AVX2, FMA and F16C must be available, and as [`DotTile::dispatch`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<F: Format, const R: usize>(t: &DotTile<'_>, from: Source<F>, to: Option<*mut f32>) {
    // SAFETY: the caller's guarantee.
    unsafe { multiply::<std::arch::x86_64::__m256, F, R>(t, from, to) }
}

/// # Safety
/// As [`Vector`] and [`DotTile::dispatch`]; `R` must be `t.rows`.
#[inline(always)]
unsafe fn multiply<V: Vector, F: Format, const R: usize>(
    t: &DotTile<'_>,
    from: Source<F>,
    to: Option<*mut f32>,
) {
    let mut from = from;
    let mut ahead = t.prefetch.from;
    for column in (0..t.cols).step_by(COLUMNS) {
        // SAFETY: the caller guarantees the instructions, source, target and rows.
        unsafe {
            let sums = match to {
                Some(to) => multiply_panels::<V, F, R, true>(t, from, to, ahead),
                None => multiply_panels::<V, F, R, false>(t, from, std::ptr::null_mut(), ahead),
            };
            // Written out, because the compiler would keep the sums in memory for a loop.
            macro_rules! write_rows {
                ($($r:literal),*) => { $(if $r < R { write_row(t, $r, column, V::sums(sums[$r % R])); })* };
            }
            write_rows!(0, 1, 2);
        }
        from.first = from.first.wrapping_add(t.panels * PANEL);
        ahead = ahead.wrapping_add(t.prefetch.lines * LINE);
    }
}

/// The sums over all panels, for [`COLUMNS`] columns.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_panels<V: Vector, F: Format, const R: usize, const WRITE: bool>(
    t: &DotTile<'_>,
    from: Source<F>,
    mut to: *mut f32,
    mut ahead: *const u8,
) -> [[V; COLUMNS]; R] {
    // SAFETY: the caller guarantees the instructions, source, target and rows. A prefetch is harmless at
    // any address.
    unsafe {
        let mut sums = [[V::zero(); COLUMNS]; R];
        let (mut at, mut dy) = (from.first, t.dy.as_ptr());
        // Unrolled, the compiler would decode a whole panel before it multiplies, and run out of registers.
        let width = if WRITE { std::hint::black_box(WIDTH) } else { WIDTH };
        for _ in 0..t.panels {
            for lane in (0..width).step_by(LANES) {
                let rows: [V; R] = std::array::from_fn(|r| V::load(dy.add(lane * R + r * LANES)));
                for column in 0..COLUMNS {
                    let weights = from.format.vector::<V>(at, column, lane);
                    if WRITE {
                        weights.store(to.add(column * WIDTH + lane));
                    }
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        sums[column] = row.mul_add(weights, sums[column]);
                    }
                }
            }
            for line in 0..t.prefetch.lines {
                prefetch_line(ahead.wrapping_add(line * LINE));
            }
            ahead = ahead.wrapping_add(t.prefetch.stride);
            at = at.wrapping_add(from.stride);
            dy = dy.wrapping_add(R * WIDTH);
            to = to.wrapping_add(PANEL);
        }
        sums
    }
}

/// Writes the sums of row `r`, or adds them, to dx from `column` on.
///
/// # Safety
/// As [`DotTile::run`].
#[inline(always)]
unsafe fn write_row(t: &DotTile<'_>, r: usize, column: usize, sums: [f32; COLUMNS]) {
    let dx = t.dx.wrapping_add(r * t.dx_stride + column);
    let columns = t.cols - column;
    if columns >= COLUMNS {
        let dx = dx.cast::<[f32; COLUMNS]>();
        // SAFETY: the caller guarantees the columns of the row.
        unsafe {
            let before = if t.accumulate { dx.read_unaligned() } else { [0.0; COLUMNS] };
            dx.write_unaligned(std::array::from_fn(|c| before[c] + sums[c]));
        }
        return;
    }
    for (c, sum) in sums.into_iter().enumerate().take(columns) {
        // SAFETY: as above.
        unsafe {
            let dx = dx.add(c);
            *dx = if t.accumulate { *dx + sum } else { sum };
        }
    }
}
