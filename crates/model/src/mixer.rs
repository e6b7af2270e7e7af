//! Layers that mix positions otherwise than by attention: by a recurrence ([`fathom_kernels::recurrence`]) or a short
//! convolution ([`fathom_kernels::short_convolution`]). Both run on the host whatever the device: the products around them
//! are most of the work.

use crate::forward::{Batch, Model};
use fathom_kernels::backend::Backend;
use fathom_kernels::recurrence::{self, Recurrence, RecurrenceWeights};
use fathom_kernels::short_convolution::{self, ShortConvolution, ShortConvolutionWeights};

/// The weights of what takes the place of attention, but for the output projection.
pub(crate) struct MixerWeights<B: Backend> {
    /// `[width, d]`.
    pub(crate) input: B::Linear,
    pub(crate) kind: MixerKind,
}

pub(crate) enum MixerKind {
    Recurrence(Recurrence, RecurrenceWeights),
    Convolution(ShortConvolution, ShortConvolutionWeights),
}

impl<B: Backend> MixerWeights<B> {
    /// Parameters outside the matrices.
    pub(crate) fn small(&self) -> u64 {
        let all: Vec<&Vec<f32>> = match &self.kind {
            MixerKind::Recurrence(_, w) => {
                let all = [&w.conv, &w.rate, &w.time_bias, &w.skip, &w.norm];
                all.into_iter().chain(&w.conv_bias).collect()
            }
            MixerKind::Convolution(_, w) => [&w.conv].into_iter().chain(&w.bias).collect(),
        };
        all.iter().map(|values| values.len() as u64).sum()
    }
}

impl<B: Backend> Model<B> {
    /// Fills `mixed` from the projected rows of layer `l`. `past` holds the part of earlier positions' that later ones read.
    ///
    /// # Shapes
    /// `rows [rows, input width]`, `past [positions, cached]`, `mixed [rows, mixed width]`.
    pub(crate) fn mix(
        &self,
        l: usize,
        of: &MixerWeights<B>,
        batch: &Batch<B>,
        past: Option<&B::Buffer>,
        rows: &B::Buffer,
        mixed: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let past = past.map(|past| on.on_host(past)).unwrap_or_default();
        let (x, mut y) = (on.on_host(rows), vec![0.0; batch.rows() * self.config.mixed_width(l)]);
        match &of.kind {
            MixerKind::Recurrence(of, weights) => {
                recurrence::forward(of, weights, &batch.runs, &past, &x, &mut y);
            }
            MixerKind::Convolution(of, weights) => {
                short_convolution::forward(of, weights, &batch.runs, &past, &x, &mut y);
            }
        }
        on.upload(&y, mixed);
    }

    /// Backward of [`Self::mix`] over whole texts: fills `d_rows` from the gradient of `mixed`.
    ///
    /// # Shapes
    /// `rows`, `d_rows [rows, input width]`, `d_mixed [rows, mixed width]`.
    pub(crate) fn mix_backward(
        &self,
        of: &MixerWeights<B>,
        batch: &Batch<B>,
        rows: &B::Buffer,
        d_mixed: &B::Buffer,
        d_rows: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let mut d = vec![0.0; on.len(rows)];
        let (x, d_y) = (on.on_host(rows), on.on_host(d_mixed));
        match &of.kind {
            MixerKind::Recurrence(of, weights) => {
                recurrence::backward(of, weights, &batch.runs, &x, &d_y, &mut d);
            }
            MixerKind::Convolution(of, weights) => {
                short_convolution::backward(of, weights, &batch.runs, &x, &d_y, &mut d);
            }
        }
        on.upload(&d, d_rows);
    }
}
