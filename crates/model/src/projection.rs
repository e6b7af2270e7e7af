//! Down projections outside the forward pass: read as they are stored, and packed anew.

use crate::error::Result;
use crate::forward::Model;
use crate::source::Loaded;
use fathom_kernels::backend::Backend;

/// The matrix and bias by which an MLP returns to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct DownProjection {
    /// `[d, f]`, row-major: the MLP's output is `g W^T + b`.
    pub weight: Vec<f32>,
    /// `[d]`.
    pub bias: Option<Vec<f32>>,
}

impl<B: Backend> Loaded<B> {
    /// Reads the down projection of layer `l` from the checkpoint.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn down_projection(&self, l: usize) -> Result<DownProjection> {
        let (tensor_ref, config) = (&self.layout.down, self.model.config());
        let (d, f) = (config.hidden, config.mlp_width(l));
        let transposed = tensor_ref.order.is_transposed();
        let shape = if transposed { [f, d] } else { [d, f] };
        let mut weight = vec![0.0; d * f];
        self.weights.tensor(&tensor_ref.weight(l), &shape)?.read(0..shape[0], &mut weight)?;
        if transposed {
            let stored = weight.clone();
            for (row, to) in weight.chunks_exact_mut(f).enumerate() {
                to.iter_mut().enumerate().for_each(|(column, to)| *to = stored[column * d + row]);
            }
        }
        let bias = tensor_ref.bias.then(|| self.weights.vector(&tensor_ref.bias(l), d)).transpose()?;
        Ok(DownProjection { weight, bias })
    }
}

impl<B: Backend> Model<B> {
    /// Packs a down projection for [`Self::mlp_through`].
    ///
    /// # Errors
    /// When the device refuses the memory.
    ///
    /// # Panics
    /// When the weight is not `[d, f]`.
    pub fn pack_down(&self, projection: &DownProjection) -> Result<B::Linear> {
        let d = self.config.hidden;
        let f = projection.weight.len() / d;
        assert_eq!(projection.weight.len(), d * f, "a down projection is [d, f]");
        self.backend.pack(d, f, self.dtype, projection.bias.clone(), |rows, to| {
            to.copy_from_slice(&projection.weight[rows.start * f..rows.end * f]);
            Ok(())
        })
    }
}
