//! Rotary tables, always built in `f32` as the reference implementations do.

use crate::config::{Rope, RopeScaling};
use fathom_kernels::elementwise::Rotation;
use std::f64::consts::PI;

/// Builds the table for rows at `(position, length of the text it belongs to)`.
/// The length matters where frequencies depend on it: to LongRoPE and dynamic scaling.
pub(crate) fn table(rope: &Rope, rows: &[(usize, usize)]) -> Rotation {
    let half = rope.dim / 2;
    let count = rows.iter().map(|r| r.0 + 1).max().unwrap_or(0);
    let mut variants: Vec<usize> = rows.iter().map(|r| variant(rope, r.1)).collect();
    variants.sort_unstable();
    variants.dedup();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for variant in &variants {
        let (frequencies, factor) = frequencies(rope, *variant);
        for position in 0..count {
            for f in &frequencies {
                // The angle is rounded to f32 as in the reference; its cosine is then exact.
                let angle = f64::from(position as f32 * f);
                cos.push(angle.cos() as f32 * factor);
                sin.push(angle.sin() as f32 * factor);
            }
        }
    }
    let place = |(position, length): &(usize, usize)| {
        let set = variants.partition_point(|v| *v < variant(rope, *length));
        set * count + position
    };
    Rotation { cos, sin, half, places: rows.iter().map(place).collect() }
}

/// Which frequencies a text of some length has: texts of the same variant share them.
pub(crate) fn variant(rope: &Rope, length: usize) -> usize {
    match &rope.scaling {
        RopeScaling::Long { original, .. } => usize::from(length > *original),
        RopeScaling::Dynamic { original, .. } => length.max(*original as usize),
        _ => 0,
    }
}

/// Inverse wavelengths (radians a position) and the factor on cosines and sines, for texts of a
/// [`variant`].
pub(crate) fn frequencies(rope: &Rope, variant: usize) -> (Vec<f32>, f32) {
    let half = rope.dim / 2;
    let of = |theta: f32, i: usize| 1.0 / theta.powf((2 * i) as f32 / rope.dim as f32);
    let base = |i: usize| of(rope.theta as f32, i);
    let plain = || (0..half).map(base);
    match &rope.scaling {
        RopeScaling::None => (plain().collect(), 1.0),
        RopeScaling::Linear(factor) => (plain().map(|f| f / *factor as f32).collect(), 1.0),
        RopeScaling::Divisors(divisors) => (plain().zip(divisors).map(|(f, d)| f / d).collect(), 1.0),
        RopeScaling::Dynamic { factor, original } => {
            let stretch = factor * variant as f64 / original - (factor - 1.0);
            let theta = rope.theta * stretch.powf(rope.dim as f64 / (rope.dim as f64 - 2.0));
            ((0..half).map(|i| of(theta as f32, i)).collect(), 1.0)
        }
        RopeScaling::Llama3 { factor, low, high, original } => {
            let stretch = |f: f32| {
                let wavelength = 2.0 * PI / f64::from(f);
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    (f64::from(f) / factor) as f32
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    ((1.0 - smooth) * f64::from(f) / factor + smooth * f64::from(f)) as f32
                }
            };
            (plain().map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
            let dim = rope.dim as f64;
            let turns = |n: f64| dim * (original / (n * 2.0 * PI)).ln() / (2.0 * rope.theta.ln());
            let (mut low, mut high) = (turns(*beta_fast), turns(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim - 1.0));
            if low == high {
                high += 0.001;
            }
            let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let mix = |i: usize| {
                let f = f64::from(base(i));
                (f / factor * ramp(i) + f * (1.0 - ramp(i))) as f32
            };
            ((0..half).map(mix).collect(), *attention_factor as f32)
        }
        RopeScaling::Long { short, long: factors, attention_factor, .. } => {
            let divisors = if variant > 0 { factors } else { short };
            (plain().zip(divisors).map(|(f, d)| f / d).collect(), *attention_factor as f32)
        }
    }
}
