//! Advanced Matrix Extensions: tile registers of 16 rows by 64 bytes, and an instruction that
//! multiplies two of them.
//!
//! Rust has no stable functions for these instructions, so they are written in assembly. A tile of
//! a panel, 16 steps of 16 columns, is what the instruction wants on its right, and 16 rows of
//! 32 bfloat16 what it wants on its left. It treats denormal numbers as zero, and rounds each sum
//! to the nearest; a row of its result depends on that row of the left alone.

use crate::panel::{Element, WIDTH};
use crate::tile::{Tile, write_row};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Rows of a tile register.
const HEIGHT: usize = 16;

/// Bytes of a row of a tile register.
const ROW: usize = 64;

/// Whether the processor, which must have AVX-512, multiplies tiles of bfloat16 and the system lets
/// this process do so.
pub(crate) fn is_available() -> bool {
    // Of leaf 7: bfloat16 in tiles, and tiles.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    // Of the registers that the system saves: configuration and data of tiles.
    const SAVED: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") {
        return false;
    }
    #[allow(unused_unsafe, reason = "some versions of Rust call this instruction safe")]
    // SAFETY: every processor that runs this has the instruction.
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    // SAFETY: with XSAVE in use the register 0 can be read.
    let saved = unsafe { _xgetbv(0) };
    features & FEATURES == FEATURES && saved & SAVED == SAVED && is_permitted()
}

/// Asks Linux for the use of tile data, which it grants to a process, with all its threads.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call reads and writes no memory of the process, and an older system, which
    // does not know it, says so.
    unsafe {
        asm!(
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

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// Registers of so many rows, all as wide as can be; one without rows is not used.
    fn new(heights: [u8; 8]) -> Self {
        let mut new =
            Self { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        for (i, height) in heights.into_iter().enumerate().filter(|(_, height)| *height > 0) {
            new.rows[i] = height;
            new.bytes_per_row[i] = ROW as u16;
        }
        new
    }
}

/// The tile registers of this thread, set up for products of `rows` rows and a panel. 0 to 3 hold
/// sums: 0 and 1 of the upper rows, 2 and 3 of the lower ones if there are any; 4 and 5 hold upper
/// and lower rows of x, 6 and 7 halves of a panel.
pub(crate) struct Registers {
    rows: usize,
    /// They belong to a thread.
    thread: PhantomData<*const ()>,
}

impl Registers {
    /// Sets the registers up, until the value is dropped. A thread has one such value at a time.
    ///
    /// # Safety
    /// [`is_available`] must hold.
    ///
    /// # Panics
    /// When there are no rows, or more than two registers hold.
    pub(crate) unsafe fn new(rows: usize) -> Self {
        assert!((1..=2 * HEIGHT).contains(&rows));
        let (upper, lower) = (rows.min(HEIGHT) as u8, rows.saturating_sub(HEIGHT) as u8);
        let heights = [upper, upper, lower, lower, upper, lower, HEIGHT as u8, HEIGHT as u8];
        // SAFETY: the processor has tiles, and these fit.
        unsafe { configure(&Configuration::new(heights)) };
        Self { rows, thread: PhantomData }
    }

    /// Rows that are read of x with every product.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Multiplies a tile of rows with a panel.
    ///
    /// # Safety
    /// The bounds of [`Tile::run`] must hold, for as many rows of x as these registers take; the
    /// steps must be whole blocks of pairs.
    pub(crate) unsafe fn multiply<E: Element>(&self, t: &Tile<'_, E>) {
        let mut sums = MaybeUninit::<Sums>::uninit();
        // SAFETY: the caller gives rows and panel; the sums have room for two registers' rows.
        unsafe {
            match self.rows > HEIGHT {
                true => four(t, sums.as_mut_ptr().cast()),
                false => two(t, sums.as_mut_ptr().cast()),
            }
        }
        // SAFETY: the rows of the tile, which are not more than those of the registers, have been
        // written, and the caller gives their places in y.
        unsafe { write(t, sums.as_ptr().cast()) };
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the processor has tiles, as was said when this was made. Without this the system
        // would go on saving them.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Sums of a tile on their way to y.
#[repr(C, align(64))]
struct Sums([[f32; WIDTH]; 2 * HEIGHT]);

/// # Safety
/// The processor must have tiles, and take this configuration.
unsafe fn configure(configuration: &Configuration) {
    // SAFETY: as the caller says; nothing else uses the registers.
    unsafe {
        asm!(
            "ldtilecfg [{0}]",
            in(reg) configuration,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly, preserves_flags),
        );
    }
}

/// Lines of memory to be fetched with each block of a tile.
fn lines<E>(t: &Tile<'_, E>) -> usize {
    (t.prefetch.bytes_per_step * HEIGHT).div_ceil(ROW).max(1)
}

/// Sums of up to 32 rows and 32 columns.
///
/// # Safety
/// As [`Registers::multiply`], and `sums` must be writable.
unsafe fn four<E: Element>(t: &Tile<'_, E>, sums: *mut f32) {
    let stride = t.x_stride * size_of::<E>();
    // SAFETY: every block reads 32 columns of 16 steps of the panel, and 64 bytes of each row that
    // the registers are set up for. A fetch does no harm wherever it points.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{panel} + {step}]",
            "tileloadd tmm4, [{upper} + {stride}]",
            "tileloadd tmm7, [{panel} + {step} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{lower} + {stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "mov {i}, {lines}",
            "3:",
            "prefetcht1 [{ahead}]",
            "add {ahead}, 64",
            "dec {i}",
            "jnz 3b",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {panel}, 2048",
            "add {upper}, 64",
            "add {lower}, 64",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{sums} + {step}], tmm0",
            "tilestored [{sums} + {step} + 64], tmm1",
            "tilestored [{sums} + {step} + 2048], tmm2",
            "tilestored [{sums} + {step} + 2112], tmm3",
            panel = inout(reg) t.panel.as_ptr() => _,
            upper = inout(reg) t.x.as_ptr() => _,
            lower = inout(reg) t.x.as_ptr().wrapping_byte_add(HEIGHT * stride) => _,
            ahead = inout(reg) t.prefetch.from => _,
            blocks = inout(reg) t.steps / HEIGHT => _,
            i = out(reg) _,
            lines = in(reg) lines(t),
            step = in(reg) WIDTH * size_of::<u32>(),
            stride = in(reg) stride,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Sums of up to 16 rows and 32 columns.
///
/// # Safety
/// As [`four`].
unsafe fn two<E: Element>(t: &Tile<'_, E>, sums: *mut f32) {
    // SAFETY: as in `four`.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm6, [{panel} + {step}]",
            "tileloadd tmm4, [{upper} + {stride}]",
            "tileloadd tmm7, [{panel} + {step} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "mov {i}, {lines}",
            "3:",
            "prefetcht1 [{ahead}]",
            "add {ahead}, 64",
            "dec {i}",
            "jnz 3b",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {panel}, 2048",
            "add {upper}, 64",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{sums} + {step}], tmm0",
            "tilestored [{sums} + {step} + 64], tmm1",
            panel = inout(reg) t.panel.as_ptr() => _,
            upper = inout(reg) t.x.as_ptr() => _,
            ahead = inout(reg) t.prefetch.from => _,
            blocks = inout(reg) t.steps / HEIGHT => _,
            i = out(reg) _,
            lines = in(reg) lines(t),
            step = in(reg) WIDTH * size_of::<u32>(),
            stride = in(reg) t.x_stride * size_of::<E>(),
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// # Safety
/// The bounds of [`Tile::run`] must hold, and `sums` its rows of [`WIDTH`] floats.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn write<E: Element>(t: &Tile<'_, E>, sums: *const f32) {
    for r in 0..t.rows {
        // SAFETY: there are so many rows of sums, and in y.
        unsafe {
            let sums = sums.add(r * WIDTH);
            write_row(t, r, [_mm512_loadu_ps(sums), _mm512_loadu_ps(sums.add(16))]);
        }
    }
}

/// Multiplies registers, six times a step, and gives the number of multiply-adds.
///
/// # Safety
/// [`is_available`] must hold.
pub(crate) unsafe fn peak(steps: usize) -> usize {
    if steps == 0 {
        return 0;
    }
    // SAFETY: the processor has tiles, all of which are 16 rows of 64 bytes here; setting them up
    // makes them zero. They are released at the end.
    unsafe {
        configure(&Configuration::new([HEIGHT as u8; 8]));
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "tdpbf16ps tmm4, tmm6, tmm7",
            "tdpbf16ps tmm5, tmm6, tmm7",
            "dec {steps}",
            "jnz 2b",
            "tilerelease",
            steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
    steps * 6 * HEIGHT * HEIGHT * (ROW / size_of::<u16>())
}
