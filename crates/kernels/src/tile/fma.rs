//! How each instruction set multiplies and adds the elements of one step.

use crate::element::Element;
use half::bf16;

/// The multiply-add of each instruction set for an element type.
pub(crate) trait Multiply: Element {
    /// With AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: Avx512Fma<Self>;
    /// With AVX-512.
    #[cfg(target_arch = "x86_64")]
    type Avx512: Avx512Fma<Self>;
    /// With AVX2.
    #[cfg(target_arch = "x86_64")]
    type Avx2: Avx2Fma<Self>;
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

/// Multiply-adds of 8 columns in AVX2 registers.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Avx2Fma<E> {
    /// As [`Avx512Fma::add`].
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn add(
        sums: std::arch::x86_64::__m256,
        x: std::arch::x86_64::__m256i,
        columns: std::arch::x86_64::__m256i,
    ) -> std::arch::x86_64::__m256;
}

/// A fused multiply-add of floats.
pub(crate) enum F32Fma {}

/// A pair of bfloat16 widened to floats, then two fused multiply-adds.
pub(crate) enum Bf16ToF32Fma {}

/// A dot product of pairs of bfloat16 in one instruction.
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
    use super::{Avx2Fma, Avx512Fma, Bf16Dot, Bf16ToF32Fma, F32Fma};
    use half::bf16;
    use std::arch::x86_64::*;

    impl Avx512Fma<f32> for F32Fma {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(columns), sums)
        }
    }

    impl Avx512Fma<bf16> for Bf16ToF32Fma {
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

    impl Avx512Fma<bf16> for Bf16Dot {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bf16")]
        unsafe fn add(sums: __m512, x: __m512i, columns: __m512i) -> __m512 {
            // SAFETY: both types are 64 bytes for which any bits are a value.
            let pairs = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
            _mm512_dpbf16_ps(sums, pairs(x), pairs(columns))
        }
    }

    impl Avx2Fma<f32> for F32Fma {
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn add(sums: __m256, x: __m256i, columns: __m256i) -> __m256 {
            _mm256_fmadd_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(columns), sums)
        }
    }

    impl Avx2Fma<bf16> for Bf16ToF32Fma {
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
