//! Which instruction set the kernels use on this machine.

use crate::panel::Element;
use std::sync::OnceLock;

/// The instruction sets for which kernels exist, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust that the compiler vectorises for the build's target.
    Portable,
    /// AVX2 with fused multiply-add: 8 floats a register.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): 16 floats a register.
    Avx512,
    /// AVX-512 with BF16: pairs of 16-bit floats are multiplied and added up in one instruction.
    Avx512Bf16,
    /// AMX: whole tiles of 16-bit floats are multiplied in one instruction, which takes denormal
    /// numbers for zero. All else is as with AVX-512.
    Amx,
}

impl Isa {
    /// The best instruction set of this processor. `FATHOM_ISA` set to `portable`, `avx2`,
    /// `avx512` or `avx512_bf16` lowers it, for checking one path against another.
    pub fn get() -> Self {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let best = Self::best();
            match std::env::var("FATHOM_ISA").as_deref() {
                Ok("portable") => Self::Portable,
                Ok("avx2") => best.min(Self::Avx2),
                Ok("avx512") => best.min(Self::Avx512),
                Ok("avx512_bf16") => best.min(Self::Avx512Bf16),
                _ => best,
            }
        })
    }

    /// Every instruction set that this processor can run, for tests and benchmarks.
    pub fn available() -> Vec<Self> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor can run it.
    pub(crate) fn is_available(self) -> bool {
        self <= Self::best()
    }

    /// Whether matrices of this type are multiplied in tile registers.
    pub(crate) fn has_tiles<E: Element>(self) -> bool {
        self == Self::Amx && E::GROUP == 2
    }

    /// The best instruction set that this processor can run.
    fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(Self::detect)
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                return match is_x86_feature_detected!("avx512bf16") {
                    true if crate::amx::is_available() => Self::Amx,
                    true => Self::Avx512Bf16,
                    false => Self::Avx512,
                };
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The name as it stands in results and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::Amx => "amx",
        }
    }
}

/// Defines a function once and compiles it for every instruction set, so that
/// plain loops are vectorised with the widest registers the machine has. The body sees `FUSED`,
/// whether these have fused multiply-adds; see [`mul_add`].
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                match $crate::Isa::get() {
                    $crate::Isa::Avx512 | $crate::Isa::Avx512Bf16 | $crate::Isa::Amx => {
                        // SAFETY: `Isa::get` returns only what the processor was found to have.
                        return unsafe { avx512($($arg),*) };
                    }
                    // SAFETY: as above.
                    $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::Isa::Portable => {}
                }
            }
            body::<{ $crate::cpu::BUILT_FUSED }>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Whether every processor that this build is for has fused multiply-adds.
pub(crate) const BUILT_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// `a * b + c`, rounded once where the processor can: without the instruction that would be
/// a slow function.
#[inline(always)]
pub(crate) fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}
