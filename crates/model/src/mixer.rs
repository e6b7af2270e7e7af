//! Layers that mix positions otherwise than by attention, or in another way beside it: by a recurrence ([`fathom_kernels::recurrence`]) or a short
//! convolution ([`fathom_kernels::short_convolution`]). Both run on the host whatever the device: the products around them
//! are most of the work.

use crate::forward::{Batch, Buffers, Model};
use fathom_kernels::backend::Backend;
use fathom_kernels::recurrence::{self, Recurrence, RecurrenceWeights};
use fathom_kernels::short_convolution::{self, ShortConvolution, ShortConvolutionWeights};
use std::borrow::Cow;

/// The weights of what takes the place of attention, but for the output projection.
pub(crate) struct MixerWeights<B: Backend> {
    /// `[width, d]`.
    pub(crate) input: B::Linear,
    pub(crate) kind: MixerKind,
    /// Factors on the columns of rows, `[width]`.
    pub(crate) factors: Option<Vec<f32>>,
}

/// A recurrence beside attention.
pub(crate) struct Beside<B: Backend> {
    pub(crate) mixer: MixerWeights<B>,
    /// `[d, values]`.
    pub(crate) out: B::Linear,
}

impl<B: Backend> Beside<B> {
    /// All matrices.
    pub(crate) fn matrices(&self) -> [&B::Linear; 2] {
        [&self.mixer.input, &self.out]
    }
}

pub(crate) enum MixerKind {
    Recurrence(Recurrence, RecurrenceWeights),
    Convolution(ShortConvolution, ShortConvolutionWeights),
}

impl MixerKind {
    /// Width of what mixing positions returns.
    fn mixed_width(&self) -> usize {
        match self {
            Self::Recurrence(of, _) => of.values(),
            Self::Convolution(of, _) => of.channels,
        }
    }
}

impl<B: Backend> MixerWeights<B> {
    /// Rows times the factors; or gradients of those rows.
    fn scaled<'a>(&self, rows: Cow<'a, [f32]>) -> Cow<'a, [f32]> {
        match &self.factors {
            Some(factors) => times(&rows, factors),
            None => rows,
        }
    }

    /// As [`Self::scaled`], for the last columns of rows, which later positions read.
    fn scaled_past<'a>(&self, rows: Cow<'a, [f32]>) -> Cow<'a, [f32]> {
        let (Some(factors), MixerKind::Recurrence(of, _)) = (&self.factors, &self.kind) else { return rows };
        times(&rows, &factors[of.width() - of.cached()..])
    }

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

/// Rows as wide as there are factors, times these.
fn times(rows: &[f32], factors: &[f32]) -> Cow<'static, [f32]> {
    rows.chunks_exact(factors.len()).flat_map(|row| row.iter().zip(factors).map(|(x, f)| x * f)).collect()
}

impl<B: Backend> Model<B> {
    /// Fills `mixed` from the projected rows of a layer. `past` holds the part of earlier positions' that later ones read.
    ///
    /// # Shapes
    /// `rows [rows, input width]`, `past [positions, cached]`, `mixed [rows, mixed width]`.
    pub(crate) fn mix(
        &self,
        of: &MixerWeights<B>,
        batch: &Batch<B>,
        past: Option<&B::Buffer>,
        rows: &B::Buffer,
        mixed: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let past = past.map(|past| of.scaled_past(on.on_host(past))).unwrap_or_default();
        let x = of.scaled(on.on_host(rows));
        let mut y = vec![0.0; batch.rows() * of.kind.mixed_width()];
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
        let (x, d_y) = (of.scaled(on.on_host(rows)), on.on_host(d_mixed));
        match &of.kind {
            MixerKind::Recurrence(of, weights) => {
                recurrence::backward(of, weights, &batch.runs, &x, &d_y, &mut d);
            }
            MixerKind::Convolution(of, weights) => {
                short_convolution::backward(of, weights, &batch.runs, &x, &d_y, &mut d);
            }
        }
        on.upload(&of.scaled(d.into()), d_rows);
    }

    /// The recurrence beside the attention of a layer: adds to `b.attn_out` what it adds to the stream, from the input that
    /// attention reads.
    pub(crate) fn mix_beside(
        &self,
        of: &Beside<B>,
        batch: &Batch<B>,
        past: Option<&B::Buffer>,
        b: &mut Buffers<B>,
    ) {
        let (on, mut added) = (&self.backend, self.backend.empty());
        self.mix(&of.mixer, batch, past, &b.beside, &mut b.mixed);
        on.linear(&of.out, &b.mixed, &mut added); // [rows, d]
        self.scale(self.config.multipliers.recurrence, &mut added);
        on.add_assign(&mut b.attn_out, &added);
    }

    /// Backward of [`Self::mix_beside`]: the gradient of its input from that of what it adds.
    pub(crate) fn mix_beside_backward(
        &self,
        of: &Beside<B>,
        batch: &Batch<B>,
        rows: &B::Buffer,
        d_added: &B::Buffer,
    ) -> B::Buffer {
        let on = &self.backend;
        let (mut d, mut d_mixed, mut d_rows, mut d_in) = (on.empty(), on.empty(), on.empty(), on.empty());
        on.assign(d_added, &mut d);
        self.scale(self.config.multipliers.recurrence, &mut d);
        on.linear_backward(&of.out, &d, &mut d_mixed); // [rows, values]
        self.mix_backward(&of.mixer, batch, rows, &d_mixed, &mut d_rows); // [rows, width]
        on.linear_backward(&of.mixer.input, &d_rows, &mut d_in);
        d_in
    }
}
