//! Panels, the packed form of a matrix, and the inner kernel that reads them.
//!
//! A matrix `W [n, k]` is cut into groups of [`WIDTH`] rows; a panel holds one
//! group k-major, `panel[kk * WIDTH + j] = W[group * WIDTH + j][kk]`, padded
//! with zeros. The inner kernel multiplies a few rows of `x [m, k]` with one
//! panel and keeps all sums in registers: one fused multiply-add a product, always
//! in the order of k. Rounding grows with the length of a chain of additions, so
//! k is cut into chains of a few hundred products, whose sums are added up.

use crate::{Isa, product};
use half::bf16;
use std::ops::Range;

/// Columns of the result that one panel makes.
pub const WIDTH: usize = 32;

/// The most products that are summed up in one chain.
const CHAIN: usize = 320;

/// The chains of nearly equal length into which `k` products are cut.
fn chains(k: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(CHAIN);
    (0..count).map(move |i| i * k / count..(i + 1) * k / count)
}

/// An element type of panels.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// The element as `f32`.
    fn to_f32(self) -> f32;
    /// The nearest element (ties to even).
    fn from_f32(value: f32) -> Self;
    /// Loads 16 elements, widened.
    ///
    /// # Safety
    /// `at` must be readable for 16 elements and the processor must have AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(at: *const Self) -> std::arch::x86_64::__m512;
    /// Loads 8 elements, widened.
    ///
    /// # Safety
    /// `at` must be readable for 8 elements and the processor must have AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(at: *const Self) -> std::arch::x86_64::__m256;
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(at: *const Self) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(at) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load8(at: *const Self) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller gives 8 readable elements.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(at) }
    }
}

impl Element for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(at: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller gives 16 readable elements of two bytes.
        let raw = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(raw)))
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load8(at: *const Self) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: the caller gives 8 readable elements of two bytes.
        let raw = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
    }
}

/// One call of the inner kernel: `y[r][c] = sum_kk x[r][kk] * panel[kk][c] + bias[c]`
/// for `r < rows`, `c < cols <= WIDTH`, or `y[r][c] +=` that.
///
/// Strides are in elements. `y` is a raw pointer because neighbouring tiles,
/// which other threads fill, lie between its rows.
pub(crate) struct Tile<'a, E> {
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) panel: &'a [E],
    /// Elements from one k to the next inside the panel: `WIDTH` when packed.
    pub(crate) panel_stride: usize,
    pub(crate) k: usize,
    pub(crate) y: *mut f32,
    pub(crate) y_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `cols` values, or nothing.
    pub(crate) bias: Option<&'a [f32]>,
    /// Add to what `y` holds.
    pub(crate) accumulate: bool,
}

/// Rows that the inner kernel takes at once, at most.
pub(crate) fn max_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 14,
        Isa::Avx2 => 6,
        Isa::Portable => 4,
    }
}

/// Cuts `m` rows into tiles of nearly equal height, none above the kernel's
/// limit: 16 rows are two tiles of 8, not 14 and 2.
pub(crate) fn row_tiles(isa: Isa, m: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = m.div_ceil(max_rows(isa)).max(1);
    (0..tiles).map(move |i| (i * m / tiles)..((i + 1) * m / tiles)).filter(|r| !r.is_empty())
}

macro_rules! by_rows {
    ($rows:expr, $call:ident, $tile:expr, [$($n:literal),*]) => {
        match $rows {
            // SAFETY: the caller checked the instruction set and the bounds.
            $($n => unsafe { $call::<E, $n>($tile) },)*
            // No rows: nothing to do.
            _ => {}
        }
    };
}

impl<E: Element> Tile<'_, E> {
    /// Runs the kernel.
    ///
    /// # Safety
    /// `y` must be valid for writes (and reads when accumulating) of `rows` rows of
    /// `cols` elements, `y_stride` apart, that no other thread touches meanwhile;
    /// `isa` must be available.
    ///
    /// # Panics
    /// When `x`, `panel` or `bias` are shorter than the shape says.
    pub(crate) unsafe fn run(&self, isa: Isa) {
        if self.rows == 0 {
            return;
        }
        assert!(self.rows <= max_rows(isa) && self.cols <= WIDTH && self.panel_stride >= WIDTH);
        let holds = |len: usize, rows: usize, stride: usize, width: usize| {
            product(rows - 1, stride).checked_add(width).is_some_and(|needed| needed <= len)
        };
        assert!(holds(self.x.len(), self.rows, self.x_stride, self.k));
        assert!(self.k == 0 || holds(self.panel.len(), self.k, self.panel_stride, WIDTH));
        assert!(self.bias.is_none_or(|b| b.len() == self.cols));
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                by_rows!(self.rows, avx512, self, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => by_rows!(self.rows, avx2, self, [1, 2, 3, 4, 5, 6]),
            _ => by_rows!(self.rows, portable, self, [1, 2, 3, 4]),
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

/// # Safety
/// AVX-512 must be there and the bounds of [`Tile::run`] must hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn avx512<E: Element, const R: usize>(t: &Tile<'_, E>) {
    use std::arch::x86_64::*;
    let mut total = [[_mm512_setzero_ps(); 2]; R];
    let (x, mut panel) = (t.x.as_ptr(), t.panel.as_ptr());
    for chain in chains(t.k) {
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        for kk in chain {
            // SAFETY: `run` checked that the panel holds WIDTH elements at each of k
            // places and that every row of x holds k elements.
            unsafe {
                let b0 = E::load16(panel);
                let b1 = E::load16(panel.add(16));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*x.add(r * t.x_stride + kk));
                    acc[0] = _mm512_fmadd_ps(a, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(a, b1, acc[1]);
                }
                panel = panel.wrapping_add(t.panel_stride);
            }
        }
        for (total, acc) in total.iter_mut().zip(&acc) {
            *total = [_mm512_add_ps(total[0], acc[0]), _mm512_add_ps(total[1], acc[1])];
        }
    }
    for (r, acc) in total.iter().enumerate() {
        if t.cols == WIDTH {
            // SAFETY: a full row of the tile is writable, and readable when accumulating;
            // so is the bias readable.
            unsafe {
                let y = t.y.add(r * t.y_stride);
                let (mut lo, mut hi) = (acc[0], acc[1]);
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
        } else {
            let mut sums = [0.0; WIDTH];
            // SAFETY: `sums` has 32 elements.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
            }
            t.finish(r, &sums);
        }
    }
}

/// # Safety
/// AVX2 and FMA must be there and the bounds of [`Tile::run`] must hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<E: Element, const R: usize>(t: &Tile<'_, E>) {
    use std::arch::x86_64::*;
    let mut rows = [[0.0f32; WIDTH]; R];
    // Six rows of 16 columns fill the 16 registers, so a panel takes two passes.
    for half in [0, 16] {
        let x = t.x.as_ptr();
        let mut panel = t.panel.as_ptr().wrapping_add(half);
        for chain in chains(t.k) {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            for kk in chain {
                // SAFETY: `run` checked the bounds of the panel and of x.
                unsafe {
                    let b0 = E::load8(panel);
                    let b1 = E::load8(panel.add(8));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*x.add(r * t.x_stride + kk));
                        acc[0] = _mm256_fmadd_ps(a, b0, acc[0]);
                        acc[1] = _mm256_fmadd_ps(a, b1, acc[1]);
                    }
                    panel = panel.wrapping_add(t.panel_stride);
                }
            }
            for (row, acc) in rows.iter_mut().zip(&acc) {
                for (place, acc) in [half, half + 8].into_iter().zip(acc) {
                    // SAFETY: a row has 32 elements.
                    unsafe {
                        let total = row.as_mut_ptr().add(place);
                        _mm256_storeu_ps(total, _mm256_add_ps(_mm256_loadu_ps(total), *acc));
                    }
                }
            }
        }
    }
    for (r, row) in rows.iter().enumerate() {
        t.finish(r, row);
    }
}

/// # Safety
/// The bounds of [`Tile::run`] must hold.
unsafe fn portable<E: Element, const R: usize>(t: &Tile<'_, E>) {
    for r in 0..R {
        let mut sums = [0.0; WIDTH];
        let x = &t.x[r * t.x_stride..][..t.k];
        for chain in chains(t.k) {
            let mut acc = [0.0; WIDTH];
            for kk in chain {
                let b = &t.panel[kk * t.panel_stride..][..WIDTH];
                for (sum, b) in acc.iter_mut().zip(b) {
                    *sum += x[kk] * b.to_f32();
                }
            }
            sums.iter_mut().zip(acc).for_each(|(sum, acc)| *sum += acc);
        }
        t.finish(r, &sums);
    }
}

/// Packs rows `first..first + count` of a row-major `[*, k]` block of `f32` into one panel.
///
/// # Shapes
/// `rows [count, k]` with `count <= WIDTH`; `panel [k, WIDTH]`.
pub(crate) fn pack<E: Element>(rows: &[f32], row_stride: usize, count: usize, k: usize, panel: &mut [E]) {
    debug_assert!(count <= WIDTH && panel.len() == k * WIDTH);
    // Blocks of k keep the written lines in the first-level cache.
    const BLOCK: usize = 64;
    for k0 in (0..k).step_by(BLOCK) {
        let k1 = (k0 + BLOCK).min(k);
        for j in 0..count {
            let row = &rows[j * row_stride..][..k];
            for kk in k0..k1 {
                panel[kk * WIDTH + j] = E::from_f32(row[kk]);
            }
        }
    }
    if count < WIDTH {
        for at in panel.chunks_exact_mut(WIDTH) {
            at[count..].fill(E::default());
        }
    }
}
