//! Layers that a small network predicts from their neighbours (arXiv 2502.13794).
//!
//! A matrix of all layers, side by side, has one singular value decomposition, `W_i = U S V_i'`. The network learns to give
//! each row of `V_i'` from the same rows of `V_{i-1}'` and `V_{i+1}'`, and then gives those of a layer between two
//! neighbours.

use super::network::{Loss, Network, mean_square};
use super::spectrum::{Gram, Spectrum};
use fathom_results::GrowNetwork;
use nalgebra::DMatrix;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Rows of a batch.
const BATCH: usize = 64;

/// Rows that the network is applied to at once.
const AT_ONCE: usize = 512;

/// Settings of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LesaOptions {
    /// Times that all rows are seen.
    pub epochs: usize,
    /// w: the weight of the norms in the loss.
    pub norm_weight: f64,
    /// The seed of the first weights and of the order of rows.
    pub seed: u64,
}

impl Default for LesaOptions {
    /// Those of the paper.
    fn default() -> Self {
        Self { epochs: 5, norm_weight: 5e-5, seed: 0 }
    }
}

/// A matrix of all layers.
pub(super) struct Stack<'a> {
    /// Its name behind the number of the layer.
    pub(super) name: &'a str,
    /// `[d1, d2]`.
    pub(super) shape: [usize; 2],
    /// Layers, L.
    pub(super) layers: usize,
    /// Reads the matrix of a layer, row-major.
    pub(super) read: &'a dyn Fn(usize) -> Result<Vec<f32>, crate::export::ExportError>,
}

/// Why no matrix was predicted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Read(#[from] crate::export::ExportError),
    #[error("the singular vectors of '{0}' were not found")]
    Spectrum(String),
    #[error("training of the network for '{0}' diverged; give a smaller --norm-weight")]
    Diverged(String),
    #[error("cancelled")]
    Cancelled,
}

/// Multiply-adds of training on a matrix `[d1, d2]` of `layers` layers and of predicting `new` ones, the decomposition not
/// counted.
pub(super) fn macs([d1, d2]: [usize; 2], layers: usize, new: usize, epochs: usize) -> u64 {
    let triples = layers.saturating_sub(2) as u64;
    let one = Network::macs(2 * d2, d2);
    // A step takes a forward pass, and a backward pass for the activations and for the weights.
    d1 as u64 * one * (triples * (3 * epochs as u64 + 1) + new as u64)
}

/// Bytes of predicting a matrix, beside the weights of the model.
pub(super) fn bytes([d1, d2]: [usize; 2], layers: usize) -> u64 {
    4 * (d1 * d2 * layers) as u64 + Spectrum::bytes(d1)
}

impl Stack<'_> {
    /// Predicts the matrix between the layers of each pair, row-major `[d1, d2]`. `progress` receives multiply-adds as they
    /// are done, and says whether to go on.
    pub(super) fn predict(
        &self,
        pairs: &[[usize; 2]],
        options: &LesaOptions,
        progress: &dyn Fn(u64) -> bool,
    ) -> Result<(Vec<Vec<f32>>, GrowNetwork), Failed> {
        let [d1, d2] = self.shape;
        let mut gram = Gram::new(d1);
        for layer in 0..self.layers {
            gram.add(&(self.read)(layer)?, d2);
            progress(0).then_some(()).ok_or(Failed::Cancelled)?;
        }
        let spectrum = gram.decompose().ok_or_else(|| Failed::Spectrum(self.name.to_owned()))?;
        let right = |layer| Ok::<_, Failed>(spectrum.right(&(self.read)(layer)?, d2));
        let right = (0..self.layers).map(right).collect::<Result<Vec<_>, _>>()?;
        let mut training = Training::new(&right, options);
        let mut loss = Vec::new();
        for _ in 0..options.epochs {
            loss.push(training.epoch(progress).ok_or(Failed::Cancelled)?);
        }
        if loss.iter().any(|loss| !loss.is_finite()) {
            return Err(Failed::Diverged(self.name.to_owned()));
        }
        let [mse, mse_copy, mse_mean] = training.errors(progress);
        let mut made = Vec::new();
        for [one, other] in pairs {
            let v = training.between(&right[*one], &right[*other]);
            progress(Network::macs(2 * d2, d2) * d1 as u64).then_some(()).ok_or(Failed::Cancelled)?;
            made.push(spectrum.restore(&v));
        }
        let rows = training.rows.len();
        let about = GrowNetwork {
            matrix: self.name.to_owned(),
            shape: self.shape,
            rank: spectrum.rank(),
            rows,
            loss,
            mse,
            mse_copy,
            mse_mean,
        };
        Ok((made, about))
    }
}

/// The network and what it is trained on.
struct Training<'a> {
    /// For each layer `V_i [d2, r]`.
    right: &'a [DMatrix<f32>],
    network: Network,
    loss: Loss,
    random: ChaCha8Rng,
    /// The layer and the singular value of each row, in the order of training.
    rows: Vec<(u32, u32)>,
}

impl<'a> Training<'a> {
    fn new(right: &'a [DMatrix<f32>], options: &LesaOptions) -> Self {
        let (d2, rank) = right.first().map_or((0, 0), DMatrix::shape);
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let network = Network::new(2 * d2, d2, &mut random);
        let middle = 1..right.len().saturating_sub(1) as u32;
        let rows = middle.flat_map(|layer| (0..rank as u32).map(move |row| (layer, row))).collect();
        Self { right, network, loss: Loss { norm_weight: options.norm_weight }, random, rows }
    }

    fn width(&self) -> usize {
        self.right.first().map_or(0, DMatrix::nrows)
    }

    /// Inputs and targets of some rows, a column each.
    fn batch(&self, rows: &[(u32, u32)]) -> [DMatrix<f32>; 2] {
        let d2 = self.width();
        let mut x = DMatrix::zeros(2 * d2, rows.len());
        let mut target = DMatrix::zeros(d2, rows.len());
        for (i, (layer, row)) in rows.iter().enumerate() {
            let (layer, row) = (*layer as usize, *row as usize);
            x.view_mut((0, i), (d2, 1)).copy_from(&self.right[layer - 1].column(row));
            x.view_mut((d2, i), (d2, 1)).copy_from(&self.right[layer + 1].column(row));
            target.set_column(i, &self.right[layer].column(row));
        }
        [x, target]
    }

    /// Trains on all rows in a new order; the mean loss of the batches, or none when it is to end.
    fn epoch(&mut self, progress: &dyn Fn(u64) -> bool) -> Option<f64> {
        for i in (1..self.rows.len()).rev() {
            // The bias of the remainder is below 2^-32 times the number of rows.
            let j = (self.random.next_u64() % (i as u64 + 1)) as usize;
            self.rows.swap(i, j);
        }
        let rows = std::mem::take(&mut self.rows);
        let macs = 3 * Network::macs(2 * self.width(), self.width());
        let (mut sum, mut batches) = (0.0, 0);
        for part in rows.chunks(BATCH) {
            let [x, target] = self.batch(part);
            sum += self.network.train(&x, &target, self.loss);
            batches += 1;
            if !progress(macs * part.len() as u64) {
                return None;
            }
        }
        self.rows = rows;
        Some(sum / f64::from(batches.max(1)))
    }

    /// The mean squared errors over all rows of the network, of copying the layer before, and of the mean of both
    /// neighbours.
    fn errors(&self, progress: &dyn Fn(u64) -> bool) -> [f64; 3] {
        let d2 = self.width();
        let mut sums = [0.0; 3];
        for part in self.rows.chunks(AT_ONCE) {
            let [x, target] = self.batch(part);
            let (before, behind) = (x.rows(0, d2).into_owned(), x.rows(d2, d2).into_owned());
            let mean = (&before + &behind) * 0.5;
            let all = [self.network.forward(&x), before, mean];
            for (sum, made) in sums.iter_mut().zip(&all) {
                *sum += mean_square(made, &target) * part.len() as f64;
            }
            // The training has ended, so this always finishes.
            progress(Network::macs(2 * d2, d2) * part.len() as u64);
        }
        sums.map(|sum| sum / self.rows.len().max(1) as f64)
    }

    /// `V [d2, r]` of a layer between two.
    fn between(&self, one: &DMatrix<f32>, other: &DMatrix<f32>) -> DMatrix<f32> {
        let (d2, rank) = one.shape();
        let mut v = DMatrix::zeros(d2, rank);
        for first in (0..rank).step_by(AT_ONCE) {
            let count = AT_ONCE.min(rank - first);
            let mut x = DMatrix::zeros(2 * d2, count);
            x.rows_mut(0, d2).copy_from(&one.columns(first, count));
            x.rows_mut(d2, d2).copy_from(&other.columns(first, count));
            v.columns_mut(first, count).copy_from(&self.network.forward(&x));
        }
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::least_squares::tests::numbers;

    /// Matrices whose parts change linearly from layer to layer, and the one halfway between two of them.
    fn planted(d1: usize, d2: usize, layers: usize) -> Vec<Vec<f32>> {
        let (start, slope) = (numbers(d1 * d2, 1), numbers(d1 * d2, 2));
        let at = |i: f32| start.iter().zip(&slope).map(|(a, b)| a + i * 0.25 * b).collect();
        (0..2 * layers - 1).map(|i| at(i as f32 / 2.0)).collect()
    }

    fn predicted(seed: u64) -> (Vec<Vec<f32>>, GrowNetwork, Vec<Vec<f32>>) {
        let (d1, d2, layers) = (48, 24, 16);
        let all = planted(d1, d2, layers);
        let read = |layer: usize| Ok(all[2 * layer].clone());
        let stack = Stack { name: ".w", shape: [d1, d2], layers, read: &read };
        let pairs: Vec<[usize; 2]> = (6..10).map(|i| [i, i + 1]).collect();
        let options = LesaOptions { epochs: 60, seed, ..LesaOptions::default() };
        let (made, about) = stack.predict(&pairs, &options, &|_| true).unwrap();
        let wanted = (6..10).map(|i| all[2 * i + 1].clone()).collect();
        (made, about, wanted)
    }

    fn error(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn planted_layers_are_recovered_better_than_by_copying() {
        let (made, about, wanted) = predicted(1);
        let copies = planted(48, 24, 16);
        for (i, (made, wanted)) in made.iter().zip(&wanted).enumerate() {
            let copied = error(&copies[2 * (6 + i)], wanted);
            assert!(error(made, wanted) < copied, "{i}: {} {copied}", error(made, wanted));
        }
        assert!(about.mse < about.mse_copy, "{about:?}");
        assert!(about.mse_mean < 1e-9, "a mean of neighbours is exact here: {about:?}");
        assert!(about.loss.last() < about.loss.first());
        assert_eq!(about.rows, about.rank * 14);
    }

    #[test]
    fn the_seed_alone_decides() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (one, two) = (predicted(1), pool.install(|| predicted(1)));
        assert_eq!(one, two);
        assert_ne!(one.0, predicted(2).0);
    }

    #[test]
    fn work_is_counted_as_planned() {
        let (d1, d2, layers) = (30, 20, 6);
        let matrices: Vec<Vec<f32>> = (0..layers).map(|i| numbers(d1 * d2, i as u32)).collect();
        let read = |layer: usize| Ok(matrices[layer].clone());
        let stack = Stack { name: ".w", shape: [d1, d2], layers, read: &read };
        let done = std::cell::Cell::new(0);
        let count = |macs| {
            done.set(done.get() + macs);
            true
        };
        let options = LesaOptions { epochs: 2, ..LesaOptions::default() };
        stack.predict(&[[2, 3], [3, 4]], &options, &count).unwrap();
        assert_eq!(done.get(), macs([d1, d2], layers, 2, 2));
        let ended = stack.predict(&[[2, 3]], &options, &|_| false);
        assert!(matches!(ended, Err(Failed::Cancelled)));
    }
}
