//! Rotary embeddings: their parameters, and the tables of cosines and sines, built in `f32` as in the
//! reference implementations.

use crate::config::Temperature;
use crate::error::{Error, Result};
use fathom_kernels::elementwise::Rotation;
use rayon::prelude::*;
use std::f64::consts::PI;
use std::path::Path;

/// The rotary embedding of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are rotated.
    pub dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling of the frequencies for long texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are scaled for long texts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Unscaled.
    None,
    /// All frequencies divided by one factor.
    Linear(f64),
    /// Llama 3.1: low frequencies divided by the factor, high ones unchanged, a ramp in between.
    Llama3 {
        /// Factor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are scaled in full.
        low: f64,
        /// Wavelengths below `original / high` are unchanged.
        high: f64,
        /// Context length of pre-training.
        original: f64,
    },
    /// Divisors stored in the checkpoint (`rope_freqs.weight` of GGUF files).
    Divisors(Vec<f32>),
    /// Dynamic NTK scaling: the base grows with the length of a text beyond the original context.
    Dynamic {
        /// Factor on the context length.
        factor: f64,
        /// Context length of pre-training.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Factor of the low frequencies.
        factor: f64,
        /// Context length of pre-training.
        original: f64,
        /// Rotations above which frequencies are unchanged.
        beta_fast: f64,
        /// Rotations below which frequencies are scaled in full.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded outwards.
        truncate: bool,
    },
    /// The first of the usual frequencies of a head, divided by a factor; the other numbers are not turned (Gemma 4).
    Proportional {
        /// Pairs of numbers that are turned.
        pairs: usize,
        /// Factor of all frequencies.
        factor: f64,
    },
    /// LongRoPE (arXiv 2402.13753): one set of divisors for texts up to the
    /// original context length, another for longer ones.
    Long {
        /// Divisors for short texts.
        short: Vec<f32>,
        /// Divisors for long texts.
        long: Vec<f32>,
        /// Context length of pre-training.
        original: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

impl Rope {
    /// Checks that all angles of a head of `head_dim` dimensions are finite.
    ///
    /// # Errors
    /// Names the first impossible parameter.
    pub(crate) fn check(&self, path: &Path, head_dim: usize) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        if self.dim == 0 || self.dim > head_dim || !self.dim.is_multiple_of(2) {
            return bad(format!(
                "{} of the {} dimensions of a head cannot be rotated; it must be an even number above 0",
                self.dim, head_dim
            ));
        }
        check_positive(path, "the base of the rotary embedding", self.theta)?;
        for (name, value) in self.scaling.numbers() {
            check_positive(path, &format!("'{name}' of the rotary scaling"), value)?;
        }
        match &self.scaling {
            RopeScaling::Llama3 { low, high, .. } if high <= low => {
                return bad(format!(
                    "'high_freq_factor' is {high}; it must be above 'low_freq_factor', {low}"
                ));
            }
            // Both enter by their logarithm, one of them below a fraction.
            RopeScaling::Yarn { original, .. } if *original <= 1.0 || self.theta <= 1.0 => {
                return bad(format!(
                    "the base of the rotary embedding is {} and the original context {original}; YaRN needs both above 1",
                    self.theta
                ));
            }
            RopeScaling::Dynamic { factor, .. } if *factor < 1.0 || self.dim < 4 => {
                return bad(format!(
                    "'factor' of the dynamic rotary scaling is {factor} for {} dimensions; it needs at least 1 and 4",
                    self.dim
                ));
            }
            _ => {}
        }
        self.check_divisors(path)?;
        self.check_frequencies(path)
    }

    /// Checks the number of stored divisors.
    fn check_divisors(&self, path: &Path) -> Result<()> {
        let sets = match &self.scaling {
            RopeScaling::Divisors(d) => vec![d],
            RopeScaling::Long { short, long, .. } => vec![short, long],
            _ => vec![],
        };
        match sets.iter().find(|set| set.len() != self.dim / 2) {
            None => Ok(()),
            Some(set) => Err(Error::config(
                path,
                format!("the rotary embedding needs {} factors; there are {}", self.dim / 2, set.len()),
            )),
        }
    }

    /// Checks that angles stay finite at any position.
    fn check_frequencies(&self, path: &Path) -> Result<()> {
        // No text is longer than this.
        let far = (1u64 << 40) as f32;
        for length in [1, 1 << 20] {
            let (frequencies, _) = frequencies(self, variant(self, length));
            if let Some(i) = frequencies.iter().position(|f| !(f * far).is_finite()) {
                let what = format!(
                    "frequency {i} of the rotary embedding is {}; its base or its factors are impossible",
                    frequencies[i]
                );
                return Err(Error::config(path, what));
            }
        }
        Ok(())
    }
}

impl RopeScaling {
    /// The parameters that must be positive, with their names.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::None | Self::Divisors(_) => vec![],
            Self::Linear(factor) | Self::Proportional { factor, .. } => vec![("factor", factor)],
            Self::Dynamic { factor, original } => {
                vec![("factor", factor), ("max_position_embeddings", original)]
            }
            Self::Llama3 { factor, low, high, original } => vec![
                ("factor", factor),
                ("low_freq_factor", low),
                ("high_freq_factor", high),
                ("original_max_position_embeddings", original),
            ],
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => vec![
                ("factor", factor),
                ("original_max_position_embeddings", original),
                ("beta_fast", beta_fast),
                ("beta_slow", beta_slow),
                ("attention_factor", attention_factor),
            ],
            Self::Long { attention_factor, .. } => vec![("attention_factor", attention_factor)],
        }
    }
}

/// Checks a factor or divisor of the forward pass: a positive number in `f32`.
///
/// # Errors
/// When it is not.
pub(crate) fn check_positive(path: &Path, name: &str, value: f64) -> Result<()> {
    let narrow = value as f32;
    if narrow.is_finite() && narrow > 0.0 {
        return Ok(());
    }
    Err(Error::config(path, format!("{name} is {value}; it must be a positive number")))
}

/// Entries of a table per job: tens of microseconds.
const ENTRIES_PER_JOB: usize = 2048;

/// Builds the table for rows at `(position, length of their text)`. The length matters to LongRoPE and
/// dynamic scaling.
pub(crate) fn table(rope: &Rope, rows: &[(usize, usize)]) -> Rotation {
    let half = rope.dim / 2;
    let count = rows.iter().map(|r| r.0 + 1).max().unwrap_or(0);
    let mut variants: Vec<usize> = rows.iter().map(|r| variant(rope, r.1)).collect();
    variants.sort_unstable();
    variants.dedup();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for variant in &variants {
        let (frequencies, factor) = frequencies(rope, *variant);
        let entry = |i: usize| {
            // The angle is rounded to f32 as in the reference; cosine and sine are computed in f64.
            let angle = f64::from((i / half) as f32 * frequencies[i % half]);
            (angle.cos() as f32 * factor, angle.sin() as f32 * factor)
        };
        let entries = (0..count * half).into_par_iter().with_min_len(ENTRIES_PER_JOB).map(entry);
        let (some_cos, some_sin): (Vec<f32>, Vec<f32>) = entries.unzip();
        cos.extend(some_cos);
        sin.extend(some_sin);
    }
    let place = |(position, length): &(usize, usize)| {
        let set = variants.partition_point(|v| *v < variant(rope, *length));
        set * count + position
    };
    Rotation { cos, sin, half, places: rows.iter().map(place).collect() }
}

/// The table that multiplies heads of `width` numbers at `(position, length of their text)` by a factor that grows with
/// the position: a rotation by nothing.
pub(crate) fn growth(of: Temperature, width: usize, rows: &[(usize, usize)]) -> Rotation {
    let half = width / 2;
    let step = |position: usize| (position + 1) / of.floor;
    let steps = rows.iter().map(|row| step(row.0) + 1).max().unwrap_or(0);
    let factor = |i: usize| of.factor(i / half);
    Rotation {
        cos: (0..steps * half).map(factor).collect(),
        sin: vec![0.0; steps * half],
        half,
        places: rows.iter().map(|row| step(row.0)).collect(),
    }
}

/// The variant of the frequencies for a text of some length; texts of one variant share them.
pub(crate) fn variant(rope: &Rope, length: usize) -> usize {
    match &rope.scaling {
        RopeScaling::Long { original, .. } => usize::from(length > *original),
        RopeScaling::Dynamic { original, .. } => length.max(*original as usize),
        _ => 0,
    }
}

/// Frequencies (radians per position) and the factor on cosines and sines, for texts of a [`variant`].
pub(crate) fn frequencies(rope: &Rope, variant: usize) -> (Vec<f32>, f32) {
    let half = rope.dim / 2;
    let of = |theta: f32, i: usize| 1.0 / theta.powf((2 * i) as f32 / rope.dim as f32);
    let base = |i: usize| of(rope.theta as f32, i);
    let plain = || (0..half).map(base);
    match &rope.scaling {
        RopeScaling::None => (plain().collect(), 1.0),
        RopeScaling::Linear(factor) => (plain().map(|f| f / *factor as f32).collect(), 1.0),
        RopeScaling::Proportional { pairs, factor } => {
            let turned = |(i, f): (usize, f32)| if i < *pairs { f / *factor as f32 } else { 0.0 };
            (plain().enumerate().map(turned).collect(), 1.0)
        }
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
