//! The inner kernel for AMX (Advanced Matrix Extensions): tile registers of 16 rows by 64 bytes, and an
//! instruction that multiplies two of them.
//!
//! Rust has no stable intrinsics for AMX, so the kernel is inline assembly. The left operand is 16 rows
//! of 32 bfloat16, the right operand a tile of a panel, 16 steps of 16 columns. The instruction flushes
//! denormal inputs to zero and rounds each sum to nearest; a row of the result depends on the same row
//! of the left operand only.

use super::avx512::write_row;
use super::call::Tile;
use crate::element::Element;
use crate::panel::WIDTH;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Rows of a tile register.
const HEIGHT: usize = 16;

/// Bytes of a row of a tile register.
const ROW: usize = 64;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// Registers of the given heights, at full width. A height of 0 leaves the register unused.
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

/// The tile registers of this thread, configured for products of `rows` rows and a panel. Registers 0
/// and 1 hold the sums of the upper 16 rows, 2 and 3 those of the lower ones if there are any; 4 and 5
/// the upper and lower rows of x; 6 and 7 the halves of a panel.
pub(super) struct Registers {
    rows: usize,
    /// Registers belong to one thread.
    thread: PhantomData<*const ()>,
}

impl Registers {
    /// Configures the registers until the value is dropped. A thread holds one such value at a time.
    ///
    /// # Safety
    /// [`Isa::Amx`](crate::Isa::Amx) must be available.
    ///
    /// # Panics
    /// When `rows` is 0 or exceeds two registers.
    pub(super) unsafe fn new(rows: usize) -> Self {
        assert!((1..=2 * HEIGHT).contains(&rows));
        let (upper, lower) = (rows.min(HEIGHT) as u8, rows.saturating_sub(HEIGHT) as u8);
        let heights = [upper, upper, lower, lower, upper, lower, HEIGHT as u8, HEIGHT as u8];
        // SAFETY: the processor has AMX, and the configuration fits.
        unsafe { configure(&Configuration::new(heights)) };
        Self { rows, thread: PhantomData }
    }

    /// Rows of x that every product reads.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Multiplies the rows of a tile by its panel.
    ///
    /// # Safety
    /// The bounds of [`Tile::run`] must hold for [`Self::rows`] rows of x, and the steps must be whole
    /// blocks of pairs.
    pub(super) unsafe fn multiply<E: Element>(&self, t: &Tile<'_, E>) {
        let mut sums = MaybeUninit::<Sums>::uninit();
        // SAFETY: the caller guarantees rows and panel; the sums hold the rows of two registers.
        unsafe {
            match self.rows > HEIGHT {
                true => run_two_heights(t, sums.as_mut_ptr().cast()),
                false => run_one_height(t, sums.as_mut_ptr().cast()),
            }
        }
        // SAFETY: the sums of the tile's rows, at most as many as the registers have, are written, and
        // the caller guarantees the rows of y.
        unsafe { write(t, sums.as_ptr().cast()) };
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the processor has AMX, as `new` required. Without the release, every context switch
        // would save the tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// The sums of a tile before they are written to y.
#[repr(C, align(64))]
struct Sums([[f32; WIDTH]; 2 * HEIGHT]);

/// # Safety
/// The processor must have AMX and accept the configuration.
unsafe fn configure(configuration: &Configuration) {
    // SAFETY: the caller's guarantee; nothing else uses the registers.
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

/// Cache lines to prefetch with each block of a tile.
fn lines<E>(t: &Tile<'_, E>) -> usize {
    (t.prefetch.bytes_per_step * HEIGHT).div_ceil(ROW).max(1)
}

/// Sums of up to 32 rows and 32 columns.
///
/// # Safety
/// As [`Registers::multiply`], and `sums` must be writable.
unsafe fn run_two_heights<E: Element>(t: &Tile<'_, E>, sums: *mut f32) {
    let stride = t.x_stride * size_of::<E>();
    // SAFETY: every block reads 32 columns of 16 steps of the panel, and 64 bytes of each row the
    // registers are configured for. A prefetch is harmless at any address.
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
/// As [`run_two_heights`].
unsafe fn run_one_height<E: Element>(t: &Tile<'_, E>, sums: *mut f32) {
    // SAFETY: as in `run_two_heights`.
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
        // SAFETY: both the sums and y have this row.
        unsafe {
            let sums = sums.add(r * WIDTH);
            write_row(t, r, [_mm512_loadu_ps(sums), _mm512_loadu_ps(sums.add(16))]);
        }
    }
}

/// Multiplies registers six times per step and returns the number of multiply-adds.
///
/// # Safety
/// [`Isa::Amx`](crate::Isa::Amx) must be available.
pub(crate) unsafe fn peak(steps: usize) -> usize {
    if steps == 0 {
        return 0;
    }
    // SAFETY: the processor has AMX; all registers are 16 rows of 64 bytes here, zeroed by the
    // configuration and released at the end.
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
