//! Normalisation of rows.

use crate::cpu::multiversion;
use rayon::prelude::*;

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// RMSNorm.
    Rms,
    /// LayerNorm, with a bias.
    Layer,
}

/// Partial sums of a reduction; fixed, so that results do not depend on the register width.
const LANES: usize = 16;

multiversion! {
    /// Mean of squares of a row.
    fn mean_square(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x * x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += x * x;
        }
        lanes.iter().sum::<f32>() / x.len() as f32
    }
}

multiversion! {
    /// Sum of a row.
    fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += x;
        }
        lanes.iter().sum()
    }
}

/// Normalises one row in place by its root mean square: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Shapes
/// `x [d]`, `weight [d]`.
pub fn rms_row(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = 1.0 / (mean_square(x) + eps).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

/// Normalises one row in place to mean zero and variance one, then scales and shifts it.
///
/// # Shapes
/// `x`, `weight`, `bias [d]`.
pub fn layer_row(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let mean = sum(x) / x.len() as f32;
    x.iter_mut().for_each(|x| *x -= mean);
    let scale = 1.0 / (mean_square(x) + eps).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
    if let Some(bias) = bias {
        x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

/// Applies `normalise` to every row of `x [m, d]`, in place.
///
/// # Panics
/// When `d` is 0.
pub fn rows(x: &mut [f32], d: usize, normalise: impl Fn(&mut [f32]) + Send + Sync) {
    assert!(d > 0, "a row must have a width");
    x.par_chunks_mut(d).with_min_len((16_384 / d).max(1)).for_each(normalise);
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn rms_agrees_with_the_definition() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let weight: Vec<f32> = (0..37).map(|i| 1.0 + i as f32 / 50.0).collect();
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 37.0;
        let mut y = x.clone();
        rms_row(&mut y, &weight, 1e-5);
        for ((y, x), w) in y.iter().zip(&x).zip(&weight) {
            assert_relative_eq!(
                f64::from(*y),
                f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w),
                max_relative = 1e-6
            );
        }
    }

    #[test]
    fn layer_norm_agrees_with_the_definition() {
        let x: Vec<f32> = (0..45).map(|i| (i as f32 * 0.3).cos() * 2.0 + 5.0).collect();
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 45.0;
        let var = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 45.0;
        let (weight, bias) = (vec![1.5; 45], vec![0.25; 45]);
        let mut y = x.clone();
        layer_row(&mut y, &weight, Some(&bias), 1e-5);
        for (y, x) in y.iter().zip(&x) {
            assert_relative_eq!(
                f64::from(*y),
                (f64::from(*x) - mean) / (var + 1e-5).sqrt() * 1.5 + 0.25,
                max_relative = 1e-5,
                epsilon = 1e-6
            );
        }
    }
}
