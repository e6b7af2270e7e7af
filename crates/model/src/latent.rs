//! Latent attention (DeepSeek): keys and values of all heads are projections of one narrow vector per row, and so may
//! queries be. The vector ends with a part of the keys that all heads share and that is rotated.
//!
//! The rest of attention sees queries, keys and values of equal width: heads begin with their rotated part, values end
//! with zeros. Both are a matter of how the matrices are packed.

use crate::config::Latent;
use crate::forward::Model;
use crate::mixer::MixerWeights;
use fathom_kernels::backend::{Backend, Columns, LinearLayer, Norm};

/// The matrices that give queries, keys and values.
pub(crate) enum QkvWeights<B: Backend> {
    /// `[q + 2 kv, d]`: queries, keys, values.
    Plain(B::Linear),
    /// `[q, d]`: queries, beside the keys and values of an earlier layer.
    Queries(B::Linear, usize),
    Latent(Box<LatentWeights<B>>),
    /// What takes the place of attention.
    Mixer(Box<MixerWeights<B>>),
    /// Nothing mixes positions.
    None,
}

/// The matrices of latent attention. H heads of width w, latent vectors of widths `q_rank` and `rank`, r rotated.
pub(crate) struct LatentWeights<B: Backend> {
    pub(crate) about: Latent,
    /// `[q_rank, d]` and the norm behind it; none where queries are a projection of the input.
    pub(crate) q_down: Option<(B::Linear, Norm<B>)>,
    /// `[H w, q_rank]` or `[H w, d]`.
    pub(crate) q: B::Linear,
    /// `[rank + r, d]`.
    pub(crate) kv_down: B::Linear,
    /// On the first `rank` numbers.
    pub(crate) kv_norm: Norm<B>,
    /// `[2 H w, rank + r]`: keys, then values. Copies the shared part of the keys and pads values with zeros.
    pub(crate) kv_up: B::Linear,
}

impl<B: Backend> QkvWeights<B> {
    /// All matrices.
    pub(crate) fn matrices(&self) -> Vec<&B::Linear> {
        match self {
            Self::Plain(matrix) | Self::Queries(matrix, _) => vec![matrix],
            Self::Mixer(of) => vec![&of.input],
            Self::None => vec![],
            Self::Latent(of) => {
                let mut all = vec![&of.q, &of.kv_down, &of.kv_up];
                all.extend(of.q_down.as_ref().map(|(down, _)| down));
                all
            }
        }
    }

    /// The norms on latent vectors.
    pub(crate) fn norms(&self) -> Vec<&Norm<B>> {
        match self {
            Self::Plain(_) | Self::Queries(..) | Self::Mixer(_) | Self::None => vec![],
            Self::Latent(of) => of.q_down.iter().map(|(_, norm)| norm).chain([&of.kv_norm]).collect(),
        }
    }

    /// Parameters that are in no matrix and no norm.
    pub(crate) fn small(&self) -> u64 {
        match self {
            Self::Plain(_) | Self::Queries(..) | Self::Latent(_) | Self::None => 0,
            Self::Mixer(of) => of.small(),
        }
    }

    /// Numbers of the matrices of attention, its output included, that the checkpoint does not have: copies and zeros.
    pub(crate) fn padding(&self, hidden: usize, heads: usize) -> u64 {
        let Self::Latent(of) = self else { return 0 };
        let l = of.about;
        let stored = heads * (l.plain + l.value) * l.rank + hidden * heads * l.value;
        let packed = of.kv_up.inputs() * of.kv_up.outputs() + hidden * heads * l.width();
        (packed - stored) as u64
    }
}

/// Scratch buffers of latent attention.
pub(crate) struct LatentBuffers<B: Backend> {
    q_low: B::Buffer,
    kv_low: B::Buffer,
    q: B::Buffer,
    kv: B::Buffer,
}

impl<B: Backend> LatentBuffers<B> {
    pub(crate) fn new(on: &B) -> Self {
        let empty = || on.empty();
        Self { q_low: empty(), kv_low: empty(), q: empty(), kv: empty() }
    }

    /// The buffers with their widths.
    pub(crate) fn sizes(&mut self, of: &Latent, q_width: usize) -> [(&mut B::Buffer, usize); 4] {
        [
            (&mut self.q_low, of.q_rank.unwrap_or(0)),
            (&mut self.kv_low, of.rank + of.rotated),
            (&mut self.q, q_width),
            (&mut self.kv, 2 * q_width),
        ]
    }
}

/// Latent vectors as their norms read them.
pub(crate) struct SavedLatent<B: Backend> {
    q_low: Option<B::Buffer>,
    kv_low: B::Buffer,
}

/// The places of queries, and of keys and values, among the thirds of rows of queries, keys and values.
fn thirds(rows: usize) -> [Vec<u32>; 2] {
    let all = 0..3 * rows as u32;
    let (q, kv) = all.partition(|third| third % 3 == 0);
    [q, kv]
}

impl<B: Backend> Model<B> {
    /// Fills `qkv` from the normalised input of attention.
    ///
    /// # Shapes
    /// `input [rows, d]`, `qkv [rows, 3 H w]`.
    pub(crate) fn latent_qkv(
        &self,
        w: &LatentWeights<B>,
        input: &B::Buffer,
        s: &mut LatentBuffers<B>,
        qkv: &mut B::Buffer,
        save: bool,
    ) -> Option<SavedLatent<B>> {
        let (on, width) = (&self.backend, w.q.outputs());
        let rows = on.len(input) / self.config.hidden;
        let whole = |x: &B::Buffer| on.copy(x, 0..on.len(x));
        let mut q_low = None;
        match &w.q_down {
            Some((down, norm)) => {
                on.linear(down, input, &mut s.q_low); // [rows, q_rank]
                q_low = save.then(|| whole(&s.q_low));
                on.norm(norm, Columns::whole(down.outputs()), &mut s.q_low);
                on.linear(&w.q, &s.q_low, &mut s.q); // [rows, H w]
            }
            None => on.linear(&w.q, input, &mut s.q),
        }
        on.linear(&w.kv_down, input, &mut s.kv_low); // [rows, rank + r]
        let kv_low = save.then(|| whole(&s.kv_low));
        on.norm(&w.kv_norm, w.about.normalised(), &mut s.kv_low);
        on.linear(&w.kv_up, &s.kv_low, &mut s.kv); // [rows, 2 H w]
        on.resize(qkv, rows * 3 * width);
        let [of_q, of_kv] = thirds(rows);
        on.scatter(width, &s.q, &of_q, qkv);
        on.scatter(width, &s.kv, &of_kv, qkv);
        kv_low.map(|kv_low| SavedLatent { q_low, kv_low })
    }

    /// Backward of [`Self::latent_qkv`]: fills `d` with the gradient of its input.
    ///
    /// # Shapes
    /// `d_qkv [rows, 3 H w]`, `d [rows, d]`.
    pub(crate) fn latent_qkv_backward(
        &self,
        w: &LatentWeights<B>,
        saved: &SavedLatent<B>,
        d_qkv: &B::Buffer,
        d: &mut B::Buffer,
    ) {
        let (on, width) = (&self.backend, w.q.outputs());
        let [of_q, of_kv] = thirds(on.len(d_qkv) / (3 * width));
        let (mut part, mut low, mut more) = (on.empty(), on.empty(), on.empty());
        on.gather(width, d_qkv, &of_q, &mut part);
        match (&w.q_down, &saved.q_low) {
            (Some((down, norm)), Some(q_low)) => {
                on.linear_backward(&w.q, &part, &mut low);
                on.norm_backward(norm, Columns::whole(down.outputs()), q_low, &mut low);
                on.linear_backward(down, &low, d);
            }
            _ => on.linear_backward(&w.q, &part, d),
        }
        on.gather(width, d_qkv, &of_kv, &mut part);
        on.linear_backward(&w.kv_up, &part, &mut low);
        on.norm_backward(&w.kv_norm, w.about.normalised(), &saved.kv_low, &mut low);
        on.linear_backward(&w.kv_down, &low, &mut more);
        on.add_assign(d, &more);
    }
}
