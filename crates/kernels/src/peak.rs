//! The peak throughput of the processor: multiply-adds on registers alone.
//!
//! Benchmarks compare kernels with this rather than with a data sheet, because clock rates depend on
//! the machine, its load and the instructions.

use crate::{Dtype, Isa};
use std::hint::black_box;
use std::time::Instant;

/// Multiply-adds per second of all threads of the current rayon pool together, with the instructions
/// that `isa` uses for weights of `dtype`: the best of `rounds` rounds of about 10 ms.
///
/// # Panics
/// When the machine lacks the instruction set.
pub fn macs_per_second(isa: Isa, dtype: Dtype, rounds: usize) -> f64 {
    assert!(isa.is_available(), "{} is not available", isa.name());
    const STEPS: usize = 1_000_000;
    let mut best = 0.0f64;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let done: Vec<usize> = rayon::broadcast(|_| run(isa, dtype, STEPS));
        best = best.max(done.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Runs `steps` steps and returns the number of multiply-adds.
fn run(isa: Isa, dtype: Dtype, steps: usize) -> usize {
    match (isa, dtype) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has checked the instruction set.
        (Isa::Amx, Dtype::Bf16) => unsafe { crate::tile::amx_peak(steps / 4) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16, Dtype::Bf16) => unsafe { avx512_bf16(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx, _) => unsafe { avx512(steps) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx2, _) => unsafe { avx2(steps) },
        _ => portable(steps),
    }
}

/// Independent sums: enough to hide the latency of an instruction.
const SUMS: usize = 14;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512_bf16(steps: usize) -> usize {
    use std::arch::x86_64::*;
    let one = black_box(_mm512_set1_ps(1.0 / 64.0));
    let a = _mm512_cvtne2ps_pbh(one, one);
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, a);
        }
    }
    black_box(sums);
    steps * SUMS * 32
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(steps: usize) -> usize {
    use std::arch::x86_64::*;
    let a = black_box(_mm512_set1_ps(1.0 / 64.0));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, a, *sum);
        }
    }
    black_box(sums);
    steps * SUMS * 16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(steps: usize) -> usize {
    use std::arch::x86_64::*;
    let a = black_box(_mm256_set1_ps(1.0 / 64.0));
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, a, *sum);
        }
    }
    black_box(sums);
    steps * SUMS * 8
}

fn portable(steps: usize) -> usize {
    let a = black_box([1.0f32 / 64.0; 8]);
    let mut sums = [[0.0f32; 8]; 8];
    for _ in 0..steps / 4 {
        for sum in &mut sums {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * a);
        }
        // Keeps the compiler from computing the sums before the loop.
        black_box(&mut sums);
    }
    steps / 4 * 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_multiplies() {
        for isa in Isa::available() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                assert!(macs_per_second(isa, dtype, 1) > 1e6, "{isa:?} {dtype:?}");
            }
        }
    }
}
