//! How AVX-512 multiplies and adds the elements of one step.

use crate::element::Element;
use half::bf16;

/// The multiply-add of AVX-512 for an element type. The other kernels multiply floats only.
pub(crate) trait Multiply: Element {
    /// With the instructions that the type needs.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Avx512Fma<Self>;
}

/// Multiply-adds of 16 columns in AVX-512 registers.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Avx512Fma<E> {
    /// `sums + x * columns` for one step, where `x` broadcasts the elements of one row.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn add(
        sums: std::arch::x86_64::__m512,
        x: std::arch::x86_64::__m512i,
        columns: std::arch::x86_64::__m512i,
    ) -> std::arch::x86_64::__m512;
}

/// A fused multiply-add of floats.
pub(crate) enum F32Fma {}

/// A dot product of pairs of bfloat16 in one instruction.
pub(crate) enum Bf16Dot {}

impl Multiply for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx512 = F32Fma;
}

impl Multiply for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Bf16Dot;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx512Fma, Bf16Dot, F32Fma};
    use half::bf16;
    use std::arch::x86_64::*;

    impl Avx512Fma<f32> for F32Fma {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(columns), sums)
        }
    }

    impl Avx512Fma<bf16> for Bf16Dot {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bf16")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            // SAFETY: both types are 64 bytes for which any bits are a value.
            let pairs = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
            _mm512_dpbf16_ps(sums, pairs(x), pairs(columns))
        }
    }
}
