//! The element types of panels, `f32` and [`bf16`], and rounding between them.

use crate::cpu::multiversion;
use crate::memory::Plain;
use half::bf16;

/// An element type of panels: `f32` or [`bf16`], for which any bits are a value.
pub(crate) trait Element: Plain + Default + Send + Sync + 'static {
    /// Elements per k step: one instruction multiplies and adds this many.
    const GROUP: usize;
    /// Steps per block. Panels are padded to whole blocks.
    const BLOCK: usize;
    /// Widens to `f32`.
    fn to_f32(self) -> f32;
    /// Rounds to the nearest element, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Rounds every float of `from`; `to` may be longer.
    fn round(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const GROUP: usize = 1;
    const BLOCK: usize = 1;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn round(from: &[f32], to: &mut [Self]) {
        to[..from.len()].copy_from_slice(from);
    }
}

impl Element for bf16 {
    const GROUP: usize = 2;
    const BLOCK: usize = 16;
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn round(from: &[f32], to: &mut [Self]) {
        round_to_bf16(from, to);
    }
}

/// The bits of a finite float rounded to bfloat16, ties to even.
#[inline(always)]
pub(crate) fn bf16_bits(float: f32) -> u32 {
    let bits = float.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
}

/// A float rounded to bfloat16, ties to even.
#[inline(always)]
pub(crate) fn bf16_value(float: f32) -> f32 {
    // Rounding the bits of a NaN could turn it into infinity.
    let bits = if float.is_nan() { float.to_bits() >> 16 | 0x40 } else { bf16_bits(float) };
    f32::from_bits(bits << 16)
}

multiversion! {
    /// Rounds to floats that are bfloat16; `to` may be longer.
    pub(crate) fn round_to_bf16_values(from: &[f32], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16_value(*from));
    }
}

multiversion! {
    /// Rounds to bfloat16, ties to even.
    fn round_to_bf16(from: &[f32], to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = bf16::from_bits((bf16_value(*from).to_bits() >> 16) as u16);
        }
    }
}
