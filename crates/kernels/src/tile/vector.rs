//! Vectors of floats, as the kernel of the backward pass uses them, for every instruction set.
//!
//! Kernels are generic over [`Vector`] and inlined into functions that enable the instructions.

use crate::cpu::{BUILT_FUSED, mul_add};
use crate::element::bf16_bits;
use crate::storage::CodeTable;
use half::f16;

/// Floats of a vector.
pub(crate) const LANES: usize = 8;

/// Floats that one instruction handles.
///
/// # Safety
/// For all methods, the processor must have the instructions of the type, and pointers must be valid for
/// [`LANES`] elements.
pub(crate) trait Vector: Copy {
    /// All zero.
    unsafe fn zero() -> Self;
    /// Reads floats.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads integers of 8 bits.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Reads codes of 4 bits, the lower halves of bytes or the upper ones, and what they stand for.
    unsafe fn load_coded(from: *const u8, upper: bool, table: &CodeTable) -> Self;
    /// Reads bfloat16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Reads half-precision floats.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// Reads the first or the second of pairs of bfloat16.
    unsafe fn load_of_pairs(from: *const u32, is_second: bool) -> Self;
    /// Writes floats.
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`, rounded once where the instruction set allows.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// Finite floats rounded to bfloat16, ties to even.
    unsafe fn round_to_bf16(self) -> Self;
    /// The sum over the lanes of each of four vectors, in a fixed order.
    unsafe fn sums(of: [Self; 4]) -> [f32; 4];
}

/// Vectors in plain Rust, for the compiler to split into whatever registers there are.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    /// # Safety
    /// `from` must be valid for eight elements.
    #[inline(always)]
    unsafe fn read<T: Copy>(from: *const T, convert: impl Fn(T) -> f32) -> Self {
        // SAFETY: the caller's guarantee.
        Self(std::array::from_fn(|i| convert(unsafe { from.add(i).read() })))
    }
}

impl Vector for Portable {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's guarantee.
        unsafe { Self::read(from, |x| x) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller's guarantee.
        unsafe { Self::read(from, f32::from) }
    }
    #[inline(always)]
    unsafe fn load_coded(from: *const u8, upper: bool, table: &CodeTable) -> Self {
        let shift = if upper { 4 } else { 0 };
        // SAFETY: the caller's guarantee.
        unsafe { Self::read(from, |codes| f32::from(table[usize::from(codes >> shift & 15)])) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: the caller's guarantee.
        unsafe { Self::read(from, |x| f32::from_bits(u32::from(x) << 16)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's guarantee.
        unsafe { Self::read(from, f16::to_f32) }
    }
    #[inline(always)]
    unsafe fn load_of_pairs(from: *const u32, is_second: bool) -> Self {
        let half = |pair: [u16; 2]| f32::from_bits(u32::from(pair[usize::from(is_second)]) << 16);
        // SAFETY: the caller's guarantee; a word is two halves, in memory order.
        unsafe { Self::read(from.cast::<[u16; 2]>(), half) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's guarantee.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| mul_add::<BUILT_FUSED>(self.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        Self(self.0.map(|x| f32::from_bits(bf16_bits(x) << 16)))
    }
    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [f32; 4] {
        let halves = |[a, b, c, d]: [f32; 4]| (a + b) + (c + d);
        of.map(|Self([a, b, c, d, e, f, g, h])| halves([a, b, c, d]) + halves([e, f, g, h]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CodeTable, Vector};
    use half::f16;
    use std::arch::x86_64::*;

    impl Vector for __m256 {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn zero() -> Self {
            _mm256_setzero_ps()
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's guarantee.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load_i8(from: *const i8) -> Self {
            // SAFETY: the caller's guarantee.
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }))
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load_coded(from: *const u8, upper: bool, table: &CodeTable) -> Self {
            // SAFETY: the caller's guarantee; the table has 16 bytes.
            let (codes, table) =
                unsafe { (_mm_loadl_epi64(from.cast()), _mm_loadu_si128(table.as_ptr().cast())) };
            let codes = if upper { _mm_srli_epi16::<4>(codes) } else { codes };
            let values = _mm_shuffle_epi8(table, _mm_and_si128(codes, _mm_set1_epi8(15)));
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values))
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load_bf16(from: *const u16) -> Self {
            // SAFETY: the caller's guarantee.
            let wide = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(from.cast()) });
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: the caller's guarantee.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn load_of_pairs(from: *const u32, is_second: bool) -> Self {
            // SAFETY: the caller's guarantee.
            let pairs = unsafe { _mm256_loadu_si256(from.cast()) };
            _mm256_castsi256_ps(match is_second {
                true => _mm256_blend_epi16::<0xaa>(_mm256_setzero_si256(), pairs),
                false => _mm256_slli_epi32::<16>(pairs),
            })
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's guarantee.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            _mm256_fmadd_ps(self, b, c)
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn round_to_bf16(self) -> Self {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            _mm256_castsi256_ps(_mm256_blend_epi16::<0xaa>(_mm256_setzero_si256(), up))
        }
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
            // SAFETY: both types are four floats.
            unsafe { std::mem::transmute::<__m128, [f32; 4]>(sums) }
        }
    }
}
