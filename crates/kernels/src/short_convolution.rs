//! The gated short convolution of LFM2: layers that mix a few neighbouring positions.
//!
//! A row holds two gates and a value, c, b and x, each as wide as the stream:
//!
//! ```text
//! y[p] = c[p] (bias + sum over taps t of w[t] b[p - t] x[p - t])
//! ```

use crate::backend::{Place, Run};
use crate::checked_area;
use rayon::prelude::*;

/// The shape of a short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConvolution {
    /// Width of each of the three parts of a row, and of the output.
    pub channels: usize,
    /// Positions that a position reads, its own included.
    pub taps: usize,
}

impl ShortConvolution {
    /// Width of a row: c, b, x.
    pub fn width(&self) -> usize {
        3 * self.channels
    }

    /// Width of the part of a row that later rows read: b and x.
    pub fn cached(&self) -> usize {
        2 * self.channels
    }

    /// Multiply-adds of a row.
    pub fn macs(&self) -> u64 {
        (self.channels * self.taps) as u64
    }
}

/// The weights of a short convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConvolutionWeights {
    /// `[channels, taps]`, the last tap on the row itself.
    pub conv: Vec<f32>,
    /// `[channels]`.
    pub bias: Option<Vec<f32>>,
}

/// Fills `y [rows, channels]`.
///
/// # Shapes
/// `past [positions, cached]`, the rows that [`Span::Cache`](crate::backend::Span) refers to, from the first position of
/// the text on; `x [rows, width]`.
///
/// # Panics
/// When the lengths do not fit.
pub fn forward(
    of: &ShortConvolution,
    weights: &ShortConvolutionWeights,
    runs: &[Run],
    past: &[f32],
    x: &[f32],
    y: &mut [f32],
) {
    assert_eq!(x.len() / of.width() * of.channels, y.len(), "the output has another number of rows");
    let rows = runs.iter().flat_map(|run| (run.first..run.first + run.rows.len()).map(move |p| (run, p)));
    let rows: Vec<(&Run, usize)> = rows.collect();
    let each = y.par_chunks_exact_mut(of.channels).zip(x.par_chunks_exact(of.width())).zip(rows);
    each.with_min_len(4).for_each(|((y, row), (run, position))| {
        let read = |place: Place| match place {
            Place::Row(row) => &x[row * of.width() + of.channels..][..of.cached()],
            Place::Cache(position) => &past[position * of.cached()..][..of.cached()],
        };
        let window = (position + 1).saturating_sub(of.taps)..=position;
        let window: Vec<&[f32]> = window.map(|p| read(run.place(p))).collect();
        convolve(of, weights, &window, y);
        y.iter_mut().zip(row).for_each(|(y, gate)| *y *= gate);
    });
}

/// The convolution of the row that is the last of `window`, each b and x.
fn convolve(of: &ShortConvolution, weights: &ShortConvolutionWeights, window: &[&[f32]], out: &mut [f32]) {
    let skipped = of.taps - window.len();
    for (c, out) in out.iter_mut().enumerate() {
        let taps = &weights.conv[c * of.taps + skipped..(c + 1) * of.taps];
        let sum = window.iter().zip(taps).map(|(row, w)| w * (row[c] * row[of.channels + c])).sum::<f32>();
        *out = sum + weights.bias.as_ref().map_or(0.0, |bias| bias[c]);
    }
}

/// Fills `d_x` with the gradient of the rows from that of the outputs, where every run is a whole text.
///
/// # Shapes
/// `x`, `d_x [rows, width]`, `d_y [rows, channels]`.
///
/// # Panics
/// When the lengths do not fit, or a run has a past.
pub fn backward(
    of: &ShortConvolution,
    weights: &ShortConvolutionWeights,
    runs: &[Run],
    x: &[f32],
    d_y: &[f32],
    d_x: &mut [f32],
) {
    assert!(runs.iter().all(|run| run.first == 0 && run.past.is_empty()), "a text is not whole");
    let rows = x.len() / of.width();
    assert!(x.len() == d_x.len() && checked_area(rows, of.channels) == d_y.len(), "lengths differ");
    let row = |row: usize| &x[row * of.width()..(row + 1) * of.width()];
    for run in runs {
        let part = &mut d_x[run.rows.start * of.width()..run.rows.end * of.width()];
        part.par_chunks_exact_mut(of.width()).enumerate().with_min_len(4).for_each(|(i, d)| {
            let at = run.rows.start + i;
            let (d_gate, d) = d.split_at_mut(of.channels);
            let (d_b, d_value) = d.split_at_mut(of.channels);
            let first = (i + 1).saturating_sub(of.taps);
            let window: Vec<&[f32]> = (first..=i).map(|p| &row(run.rows.start + p)[of.channels..]).collect();
            convolve(of, weights, &window, d_gate);
            let d_y = |row: usize| &d_y[row * of.channels..(row + 1) * of.channels];
            d_gate.iter_mut().zip(d_y(at)).for_each(|(out, d)| *out *= d);
            // Later rows read this one through earlier taps.
            for c in 0..of.channels {
                let later = (at..run.rows.end).take(of.taps).enumerate();
                let d_product: f32 = later
                    .map(|(distance, r)| {
                        weights.conv[(c + 1) * of.taps - 1 - distance] * d_y(r)[c] * row(r)[c]
                    })
                    .sum();
                let [b, value] = [1, 2].map(|part| row(at)[part * of.channels + c]);
                d_b[c] = d_product * value;
                d_value[c] = d_product * b;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Span;

    const OF: ShortConvolution = ShortConvolution { channels: 5, taps: 3 };

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 1.7 + seed).sin()).collect()
    }

    fn weights() -> ShortConvolutionWeights {
        ShortConvolutionWeights { conv: numbers(15, 0.3), bias: Some(numbers(5, 0.9)) }
    }

    fn whole(start: usize, length: usize) -> Run {
        Run { rows: start..start + length, first: 0, length, past: vec![] }
    }

    /// The definition for one text.
    fn naive(x: &[f64]) -> Vec<f64> {
        let w = weights();
        let at = |row: usize, part: usize, c: usize| x[row * 15 + part * 5 + c];
        let value = |row: usize, c: usize| {
            let taps = (0..3.min(row + 1)).map(|back| {
                f64::from(w.conv[c * 3 + 2 - back]) * at(row - back, 1, c) * at(row - back, 2, c)
            });
            at(row, 0, c) * (f64::from(w.bias.as_ref().unwrap()[c]) + taps.sum::<f64>())
        };
        (0..x.len() / 15)
            .flat_map(|row| (0..5).map(move |c| (row, c)))
            .map(|(row, c)| value(row, c))
            .collect()
    }

    fn in_f64(x: &[f32]) -> Vec<f64> {
        x.iter().copied().map(f64::from).collect()
    }

    #[test]
    fn forward_and_backward_follow_the_definition() {
        let (x, d_y) = (numbers(7 * 15, 0.1), numbers(7 * 5, 0.7));
        let runs = [whole(0, 4), whole(4, 3)];
        let (mut y, mut d_x) = (vec![0.0; 7 * 5], vec![f32::NAN; 7 * 15]);
        forward(&OF, &weights(), &runs, &[], &x, &mut y);
        backward(&OF, &weights(), &runs, &x, &d_y, &mut d_x);
        for rows in [0..4, 4..7] {
            let text = in_f64(&x[rows.start * 15..rows.end * 15]);
            for (got, want) in y[rows.start * 5..].iter().zip(naive(&text)) {
                assert!((f64::from(*got) - want).abs() < 1e-6, "{got} against {want}");
            }
            let target = |x: &[f64]| -> f64 {
                naive(x).iter().zip(&d_y[rows.start * 5..]).map(|(y, d)| y * f64::from(*d)).sum()
            };
            for (i, got) in d_x[rows.start * 15..rows.end * 15].iter().enumerate() {
                let at = |change: f64| {
                    let mut x = text.clone();
                    x[i] += change;
                    target(&x)
                };
                let want = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!((f64::from(*got) - want).abs() < 1e-5, "{i}: {got} against {want}");
            }
        }
    }

    #[test]
    fn rows_keep_their_bits_wherever_their_past_is() {
        let x = numbers(8 * 15, 0.2);
        let mut all = vec![0.0; 8 * 5];
        forward(&OF, &weights(), &[whole(0, 8)], &[], &x, &mut all);
        let past: Vec<f32> = x.chunks_exact(15).flat_map(|row| row[5..].to_vec()).collect();
        let runs = [
            Run { rows: 0..3, first: 2, length: 8, past: vec![Span::Cache(0..2)] },
            Run { rows: 3..6, first: 5, length: 8, past: vec![Span::Cache(0..2), Span::Rows(0..3)] },
        ];
        let mut y = vec![0.0; 6 * 5];
        forward(&OF, &weights(), &runs, &past, &x[2 * 15..], &mut y);
        assert_eq!(y, all[2 * 5..]);
    }
}
