//! Instruction sets: detection, selection and compilation for several of them.

use std::sync::OnceLock;

/// The instruction sets with kernels of their own, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, vectorised by the compiler for the build target.
    Portable,
    /// AVX2 with FMA: 8 floats per register.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): 16 floats per register.
    Avx512,
    /// AVX-512 with BF16: one instruction multiplies and adds pairs of bfloat16.
    Avx512Bf16,
    /// AMX: one instruction multiplies whole tiles of bfloat16, flushing denormal inputs to zero.
    /// Everything else uses AVX-512.
    Amx,
}

impl Isa {
    /// The best instruction set of this processor. Setting `FATHOM_ISA` to `portable`, `avx2`,
    /// `avx512` or `avx512_bf16` selects a lower one, to check one code path against another.
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

    /// Every instruction set this processor can run, for tests and benchmarks.
    pub fn available() -> Vec<Self> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor can run it.
    pub(crate) fn is_available(self) -> bool {
        self <= Self::best()
    }

    /// Whether there are instructions for dot products of pairs of bfloat16.
    pub(crate) fn has_bf16(self) -> bool {
        self >= Self::Avx512Bf16
    }

    fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(Self::detect)
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                return match is_x86_feature_detected!("avx512bf16") {
                    true if amx::is_available() => Self::Amx,
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

    /// The name used in results and logs.
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

/// Detection of AMX, for which Rust has no stable macro, and the permission that Linux requires.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};

    /// Whether the processor, which must have AVX-512, multiplies tiles of bfloat16 and the system
    /// lets this process use them.
    pub(super) fn is_available() -> bool {
        // CPUID leaf 7, EDX: AMX-BF16 and AMX-TILE.
        const FEATURES: u32 = 1 << 22 | 1 << 24;
        // XCR0: tile configuration and tile data are saved on a context switch.
        const SAVED: u64 = 1 << 17 | 1 << 18;
        if !is_x86_feature_detected!("xsave") {
            return false;
        }
        #[allow(unused_unsafe, reason = "some versions of Rust call this instruction safe")]
        // SAFETY: every processor that has AVX-512 has CPUID leaf 7.
        let features = unsafe { __cpuid_count(7, 0) }.edx;
        // SAFETY: XSAVE is in use, so XCR0 can be read.
        let saved = unsafe { _xgetbv(0) };
        features & FEATURES == FEATURES && saved & SAVED == SAVED && is_permitted()
    }

    /// Asks Linux for permission to use tile data, granted to the whole process.
    #[cfg(target_os = "linux")]
    fn is_permitted() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        let result: isize;
        // SAFETY: the call touches no memory of the process; a kernel that does not know it returns
        // an error.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn is_permitted() -> bool {
        false
    }
}

/// Compiles one function body for every instruction set, so that plain loops are vectorised for the
/// widest registers of the machine. The body sees the constant `FUSED`: whether the instruction set
/// has fused multiply-adds; see [`mul_add`].
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
                        // SAFETY: `Isa::get` returns only what was detected.
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

/// Whether every processor this build targets has fused multiply-adds.
pub(crate) const BUILT_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// `a * b + c`, rounded once if `FUSED`. Without hardware FMA, `f32::mul_add` would be a slow libm
/// call, so the product is rounded first.
#[inline(always)]
pub(crate) fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}
