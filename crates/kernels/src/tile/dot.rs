//! The inner kernel of the backward pass: dot products along the vectors of panels.
//!
//! `dx[r][c] = sum_j dy[r][j] * W[j][c]`: a step of a panel holds column c of 32 rows of W, so a vector of
//! it is multiplied by a vector of dy. Every sum is a vector until its chain ends, where the lanes are
//! added in a fixed order; so weights need no transposition.

use super::call::prefetch_line;
use super::vector::{Portable, Vector};
use crate::panel::WIDTH;
use crate::storage::{ColumnFormat, StoredColumns};
use crate::{Isa, checked_area};

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 4;

/// Words of a decoded panel.
const PANEL: usize = COLUMNS * WIDTH;

/// One call of the kernel: some rows times [`COLUMNS`] columns of the panels of a chain.
///
/// `dx` is a raw pointer because other threads write between its rows.
#[derive(Clone, Copy)]
pub(crate) struct DotTile<'a> {
    /// Rows, from the first output of the chain on.
    pub(crate) dy: &'a [f32],
    /// Elements from one row of dy to the next.
    pub(crate) dy_stride: usize,
    /// Outputs of the chain: the rows of W in its panels.
    pub(crate) outputs: usize,
    pub(crate) rows: usize,
    pub(crate) dx: *mut f32,
    /// Elements from one row of dx to the next.
    pub(crate) dx_stride: usize,
    /// Columns to write, at most [`COLUMNS`].
    pub(crate) cols: usize,
    /// Whether to add to `dx` instead of overwriting it.
    pub(crate) accumulate: bool,
    /// What to prefetch meanwhile.
    pub(crate) prefetch: PanelPrefetch,
}

/// Memory to prefetch, some cache lines with every panel. It need not exist.
#[derive(Clone, Copy)]
pub(crate) struct PanelPrefetch {
    pub(crate) from: *const u8,
    /// Bytes from one panel to the next.
    pub(crate) stride: usize,
    pub(crate) lines: usize,
}

/// Rows of a tile: with four columns and a vector of dy each, their sums fill the registers.
pub(crate) fn max_rows(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 2,
        Isa::Avx2 => 3,
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 6,
    }
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

impl DotTile<'_> {
    /// Multiplies stored weights, and writes them to `to` as floats for [`Self::run`].
    ///
    /// # Safety
    /// `dx` must be valid for writes and reads of `rows` rows of `cols` elements, `dx_stride` apart, that
    /// no other thread accesses meanwhile.
    ///
    /// # Panics
    /// When the machine lacks the instruction set, or `dy`, `from` or `to` are shorter than the shape says.
    pub(crate) unsafe fn run_decoding(&self, isa: Isa, from: &StoredColumns<'_>, to: &mut [u32]) {
        self.check(isa);
        let panels = self.outputs.div_ceil(WIDTH);
        from.check(panels, COLUMNS);
        assert!(decoded_words(panels) <= to.len());
        let from = Source { first: from.words.as_ptr(), stride: from.stride, format: from.format };
        let to = Some(to.as_mut_ptr().cast());
        // SAFETY: the caller's guarantee, and what was checked.
        unsafe {
            match from.format {
                ColumnFormat::Floats => self.dispatch(isa, from.with(Floats), to),
                ColumnFormat::Pairs => self.dispatch(isa, from.with(Pairs), to),
                ColumnFormat::Bf16 => self.dispatch(isa, from.with(Bf16), to),
                ColumnFormat::F16 => self.dispatch(isa, from.with(F16), to),
                ColumnFormat::Quantised { values, round: false } => {
                    self.dispatch(isa, from.with(Quantised::<false>(values)), to);
                }
                ColumnFormat::Quantised { values, round: true } => {
                    self.dispatch(isa, from.with(Quantised::<true>(values)), to);
                }
            }
        }
    }

    /// Multiplies decoded weights: [`COLUMNS`] columns of 32 floats for each panel.
    ///
    /// # Safety
    /// As [`Self::run_decoding`].
    ///
    /// # Panics
    /// As [`Self::run_decoding`].
    pub(crate) unsafe fn run(&self, isa: Isa, decoded: &[u32]) {
        self.check(isa);
        assert!(decoded_words(self.outputs.div_ceil(WIDTH)) <= decoded.len());
        let from = Source { first: decoded.as_ptr(), stride: PANEL, format: Floats };
        // SAFETY: the caller's guarantee, and what was checked.
        unsafe { self.dispatch(isa, from, None) };
    }

    fn check(&self, isa: Isa) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert!((1..=max_rows(isa)).contains(&self.rows) && self.cols <= COLUMNS);
        let needed = checked_area(self.rows - 1, self.dy_stride).checked_add(self.outputs);
        assert!(needed.is_some_and(|needed| needed <= self.dy.len()));
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
                (Isa::Avx2, 1) => avx2::<F, 1>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 2) => avx2::<F, 2>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => avx2::<F, 3>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 1) => avx512::<F, 1>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 2) => avx512::<F, 2>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 3) => avx512::<F, 3>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 4) => avx512::<F, 4>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, 5) => avx512::<F, 5>(self, from, to),
                #[cfg(target_arch = "x86_64")]
                (_, _) => avx512::<F, 6>(self, from, to),
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
/// AVX-512 F, BW, DQ and VL must be available, and as [`DotTile::dispatch`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<F: Format, const R: usize>(t: &DotTile<'_>, from: Source<F>, to: Option<*mut f32>) {
    // SAFETY: the caller's guarantee.
    unsafe { multiply::<std::arch::x86_64::__m512, F, R>(t, from, to) }
}

/// # Safety
/// As [`Vector`] and [`DotTile::dispatch`]; `R` must be `t.rows`.
#[inline(always)]
unsafe fn multiply<V: Vector, F: Format, const R: usize>(
    t: &DotTile<'_>,
    from: Source<F>,
    to: Option<*mut f32>,
) {
    // SAFETY: the caller guarantees the instructions, source, target and rows.
    unsafe {
        match to {
            Some(to) => multiply_panels::<V, F, R, true>(t, from, to),
            None => multiply_panels::<V, F, R, false>(t, from, std::ptr::null_mut()),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_panels<V: Vector, F: Format, const R: usize, const WRITE: bool>(
    t: &DotTile<'_>,
    from: Source<F>,
    to: *mut f32,
) {
    // SAFETY: the caller's guarantee. A prefetch is harmless at any address.
    unsafe {
        let mut sums = [[V::zero(); COLUMNS]; R];
        let (mut at, mut to, mut ahead) = (from.first, to, t.prefetch.from);
        let whole = t.outputs / WIDTH;
        for panel in 0..whole {
            let dy = t.dy.as_ptr().add(panel * WIDTH);
            multiply_panel::<V, F, R, WRITE>(&mut sums, dy, t.dy_stride, from.format, at, to);
            for line in 0..t.prefetch.lines {
                prefetch_line(ahead.wrapping_add(line * 64));
            }
            ahead = ahead.wrapping_add(t.prefetch.stride);
            at = at.wrapping_add(from.stride);
            to = to.wrapping_add(PANEL);
        }
        let rest = t.outputs % WIDTH;
        if rest > 0 {
            // What follows these outputs in a row of dy may be infinite.
            let mut dy = [[0.0f32; WIDTH]; R];
            for (r, dy) in dy.iter_mut().enumerate() {
                dy[..rest].copy_from_slice(&t.dy[r * t.dy_stride + whole * WIDTH..][..rest]);
            }
            multiply_panel::<V, F, R, WRITE>(&mut sums, dy.as_ptr().cast(), WIDTH, from.format, at, to);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            write_row(t, r, V::sums(sums));
        }
    }
}

/// Adds the products of one panel to the sums.
///
/// # Safety
/// As [`multiply`]; `dy` must hold 32 elements of each row.
#[inline(always)]
unsafe fn multiply_panel<V: Vector, F: Format, const R: usize, const WRITE: bool>(
    sums: &mut [[V; COLUMNS]; R],
    dy: *const f32,
    dy_stride: usize,
    format: F,
    at: *const u32,
    to: *mut f32,
) {
    for lane in (0..WIDTH).step_by(V::LANES) {
        // SAFETY: the caller guarantees rows, panel and target.
        unsafe {
            let dy: [V; R] = std::array::from_fn(|r| V::load(dy.add(r * dy_stride + lane)));
            for column in 0..COLUMNS {
                let weights = format.vector::<V>(at, column, lane);
                if WRITE {
                    weights.store(to.add(column * WIDTH + lane));
                }
                for (sums, dy) in sums.iter_mut().zip(dy) {
                    sums[column] = dy.mul_add(weights, sums[column]);
                }
            }
        }
    }
}

/// Writes the sums of row `r` to dx, or adds them to it.
///
/// # Safety
/// As [`DotTile::run`].
#[inline(always)]
unsafe fn write_row(t: &DotTile<'_>, r: usize, sums: [f32; COLUMNS]) {
    let dx = t.dx.wrapping_add(r * t.dx_stride);
    let write = |columns: usize| {
        for (c, sum) in sums.into_iter().enumerate().take(columns) {
            // SAFETY: the caller guarantees the columns of the row.
            unsafe {
                let dx = dx.add(c);
                *dx = if t.accumulate { *dx + sum } else { sum };
            }
        }
    };
    // A constant number of columns becomes one vector.
    if t.cols == COLUMNS { write(COLUMNS) } else { write(t.cols) }
}
