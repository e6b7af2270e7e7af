//! Linear replacement of a block of layers (ReplaceMe, arXiv 2505.02819): the MLP before the block takes over what a
//! linear map of its output can do of the block's work.
//!
//! Block `[a, b)` is removed. Layer a - 1 leaves `h_a = y + m`, m the output of its MLP. The map T with
//! `m T = h_b - y` in least squares over the calibration tokens is merged into the down projection, so the architecture
//! and the number of parameters stay what they are.

use crate::least_squares::{self, Intercept, Map};
use fathom_model::config::Mlp;
use fathom_model::{Backend, DownProjection, Model, Trace};
use rayon::prelude::*;
use std::ops::Range;

/// Why a block cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReplaceable {
    /// The block begins at layer 0.
    #[error("no MLP comes before layer 0 to take over its work; keep layer 0")]
    NoLayerBefore,
    /// The MLP's output is normalised before it is added.
    #[error(
        "this architecture normalises the MLP's output before it is added to the residual stream, so a linear map cannot \
         be merged into the down projection"
    )]
    PostNorm,
    /// The MLP before the block is a mixture of experts.
    #[error(
        "layer {0} is a mixture of experts, and no single down projection could take over the work of a block; leave the \
         replacement out"
    )]
    Experts(usize),
    /// The layer before the block has no MLP.
    #[error(
        "layer {0} has no MLP whose down projection could take over the work of a block; leave the replacement out"
    )]
    NoMlp(usize),
    /// The least-squares problem has no solution.
    #[error("the activations before the block are not finite or vanish, so no linear map can be fitted")]
    Singular,
}

/// Fits a linear replacement of a block over calibration texts.
pub struct Fit {
    block: Range<usize>,
    fit: least_squares::Fit,
}

/// A fitted replacement.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The layer whose down projection changes.
    pub layer: usize,
    /// The map T, `[d, d]`, row-major.
    pub map: Vec<f64>,
    /// The penalty, one of [`PENALTIES`](least_squares::PENALTIES).
    pub penalty: f64,
    /// `|m T - (h_b - y)|^2 / |h_b - y|^2` on the texts that were held out to choose it.
    pub error: f64,
    /// The same without a replacement, T the identity.
    pub error_without: f64,
}

impl Fit {
    /// A fit without texts.
    ///
    /// # Errors
    /// When the model's MLP cannot take over the work of a block.
    pub fn new<B: Backend>(model: &Model<B>, block: Range<usize>) -> Result<Self, NotReplaceable> {
        if block.start == 0 {
            return Err(NotReplaceable::NoLayerBefore);
        }
        if model.config().post_norm {
            return Err(NotReplaceable::PostNorm);
        }
        match model.config().layers[block.start - 1].mlp {
            Mlp::Dense => {}
            Mlp::Experts(_) | Mlp::DenseAndExperts(_) => {
                return Err(NotReplaceable::Experts(block.start - 1));
            }
            Mlp::None => return Err(NotReplaceable::NoMlp(block.start - 1)),
        }
        let d = model.config().hidden;
        Ok(Self { block, fit: least_squares::Fit::new(d, d, Intercept::None) })
    }

    /// Bytes of a fit for a stream of width `d`, and of solving it.
    pub fn bytes(d: usize) -> u64 {
        least_squares::Fit::bytes(d, d)
    }

    /// Adds a clean run.
    pub fn add<B: Backend>(&mut self, on: &B, trace: &Trace<B>) {
        let l = self.block.start - 1;
        let mut y = on.empty();
        on.add(&trace.resid[l], &trace.attn_out[l], &mut y);
        let mut z = on.empty();
        on.subtract(&trace.resid[self.block.end], &y, &mut z);
        let all = |buffer: &B::Buffer| on.download(buffer, 0..on.len(buffer));
        self.fit.add(&all(&trace.mlp_out[l]), &all(&z));
    }

    /// Chooses the penalty by the error on a fifth of the texts, and solves for all of them.
    ///
    /// # Errors
    /// When the least-squares problem cannot be solved.
    pub fn solve(&self) -> Result<Fitted, NotReplaceable> {
        let solved = self.fit.solve().ok_or(NotReplaceable::Singular)?;
        let map = solved.map.weight();
        let without = Map::identity(map.len().isqrt());
        Ok(Fitted {
            layer: self.block.start - 1,
            map,
            penalty: solved.penalty,
            error: solved.error,
            error_without: self.fit.judge().error(&without),
        })
    }
}

impl Fitted {
    /// The down projection with the map merged: `W' = T^T W`, `b' = T^T b`.
    pub fn merged(&self, down: &DownProjection) -> DownProjection {
        let d = self.map.len().isqrt();
        let f = down.weight.len() / d;
        let mut weight = vec![0.0; d * f];
        weight.par_chunks_mut(f).enumerate().for_each(|(j, row)| {
            let mut sums = vec![0.0f64; f];
            for (i, from) in down.weight.chunks_exact(f).enumerate() {
                let t = self.map[i * d + j];
                sums.iter_mut().zip(from).for_each(|(sum, w)| *sum += t * f64::from(*w));
            }
            row.iter_mut().zip(&sums).for_each(|(w, sum)| *w = *sum as f32);
        });
        let bias = down.bias.as_ref().map(|bias| {
            let column =
                |j: usize| bias.iter().enumerate().map(|(i, b)| self.map[i * d + j] * f64::from(*b)).sum();
            (0..d)
                .map(|j| {
                    let sum: f64 = column(j);
                    sum as f32
                })
                .collect()
        });
        DownProjection { weight, bias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::least_squares::tests::{apply as product, numbers};

    #[test]
    fn a_merged_projection_is_the_map_after_it() {
        let (d, f) = (3, 4);
        let map: Vec<f64> = numbers(d * d, 1).into_iter().map(f64::from).collect();
        let down = DownProjection { weight: numbers(d * f, 2), bias: Some(numbers(d, 3)) };
        let fitted = Fitted { layer: 0, map: map.clone(), penalty: 0.0, error: 0.0, error_without: 1.0 };
        let merged = fitted.merged(&down);
        let apply = |p: &DownProjection, g: &[f32]| -> Vec<f32> {
            let row = |j: usize| g.iter().zip(&p.weight[j * f..(j + 1) * f]).map(|(g, w)| g * w).sum::<f32>();
            (0..d).map(|j| row(j) + p.bias.as_ref().unwrap()[j]).collect()
        };
        let g = numbers(f, 4);
        let expected = product(&apply(&down, &g), &map, &[0.0; 3]);
        for (a, b) in apply(&merged, &g).iter().zip(&expected) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
