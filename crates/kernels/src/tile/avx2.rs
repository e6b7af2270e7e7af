//! The inner kernel for AVX2: six rows of 16 columns fill the 16 registers, so a panel takes two
//! passes.

use super::call::Tile;
use super::fma::Avx2Fma;
use crate::element::Element;
use crate::panel::WIDTH;
use std::arch::x86_64::*;

/// # Safety
/// AVX2 and FMA must be available, and the bounds of [`Tile::run`] must hold.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<E: Element, A: Avx2Fma<E>, const R: usize>(t: &Tile<'_, E>) {
    let mut rows = [[0.0f32; WIDTH]; R];
    for half in [0, 16] {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let x = t.x.as_ptr();
        let mut panel = t.panel.as_ptr().wrapping_add(half * E::GROUP).cast::<__m256i>();
        for step in 0..t.steps {
            // SAFETY: the caller checked the bounds of the panel and of x.
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
        // SAFETY: the caller guarantees the row of y.
        unsafe { t.write_row_scalar(r, row) };
    }
}
