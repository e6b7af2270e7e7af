//! Layers that mix positions by a recurrence ([`fathom_kernels::recurrence`]). It runs on the host whatever the device:
//! the products around it are most of the work.

use crate::forward::{Batch, Model};
use fathom_kernels::backend::Backend;
use fathom_kernels::recurrence::{self, Recurrence, RecurrenceWeights};

/// The weights of a recurrence, but for the output projection.
pub(crate) struct RecurrentWeights<B: Backend> {
    pub(crate) about: Recurrence,
    /// `[width, d]`: gates, queries, keys, values, numbers per head.
    pub(crate) input: B::Linear,
    pub(crate) own: RecurrenceWeights,
}

impl<B: Backend> RecurrentWeights<B> {
    /// Parameters outside the matrices.
    pub(crate) fn small(&self) -> u64 {
        let w = &self.own;
        let all = [&w.conv, &w.rate, &w.time_bias, &w.skip, &w.norm];
        all.into_iter().chain(&w.conv_bias).map(|values| values.len() as u64).sum()
    }
}

impl<B: Backend> Model<B> {
    /// Fills `mixed` from the projected rows. `past` holds those of earlier positions, without gates.
    ///
    /// # Shapes
    /// `rows [rows, width]`, `past [positions, cached]`, `mixed [rows, values]`.
    pub(crate) fn recur(
        &self,
        of: &RecurrentWeights<B>,
        batch: &Batch<B>,
        past: Option<&B::Buffer>,
        rows: &B::Buffer,
        mixed: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let past = past.map(|past| on.on_host(past)).unwrap_or_default();
        let mut y = vec![0.0; batch.rows() * of.about.values()];
        recurrence::forward(&of.about, &of.own, &batch.runs, &past, &on.on_host(rows), &mut y);
        on.upload(&y, mixed);
    }

    /// Backward of [`Self::recur`] over whole texts: fills `d_rows` from the gradient of `mixed`.
    ///
    /// # Shapes
    /// `rows`, `d_rows [rows, width]`, `d_mixed [rows, values]`.
    pub(crate) fn recur_backward(
        &self,
        of: &RecurrentWeights<B>,
        batch: &Batch<B>,
        rows: &B::Buffer,
        d_mixed: &B::Buffer,
        d_rows: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let mut d = vec![0.0; on.len(rows)];
        let (rows, d_mixed) = (on.on_host(rows), on.on_host(d_mixed));
        recurrence::backward(&of.about, &of.own, &batch.runs, &rows, &d_mixed, &mut d);
        on.upload(&d, d_rows);
    }
}
