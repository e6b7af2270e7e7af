//! Packing attention and MLPs of all kinds.

use super::{DenseAndExperts, Loader, MlpWeights};
use crate::architecture::{ExpertLayout, KvUpLayout, LatentLayout, MixerLayout, RecurrenceLayout, TensorRef};
use crate::config::{Experts, Latent, Mixer, Mlp, Positions, Recurrence, Update};
use crate::error::Result;
use crate::experts::{ExpertMlps, ExpertSize, ExpertWeights, FeedForward};
use crate::latent::{LatentWeights, QkvWeights};
use crate::mixer::{Beside, MixerKind, MixerWeights};
use crate::side_inputs::{TokenGate, TokenInputs};
use crate::weights::Tensor;
use fathom_kernels::Dtype;
use fathom_kernels::attention::HeadBias;
use fathom_kernels::backend::{Backend, Norm};
use fathom_kernels::recurrence::RecurrenceWeights;
use fathom_kernels::short_convolution::ShortConvolutionWeights;
use std::ops::Range;

/// What transformers adds to the mean square of latent vectors, whatever the configuration says of other norms.
const LATENT_EPS: f32 = 1e-6;

impl<B: Backend> Loader<'_, B> {
    pub(super) fn qkv(&self, layer: usize) -> Result<QkvWeights<B>> {
        let (c, at) = (self.config, self.layout);
        if !c.has_mixer(layer) {
            return Ok(QkvWeights::None);
        }
        if let (Some(latent), Some(names)) = (c.latent, &at.latent) {
            return self.latent(latent, names, layer);
        }
        if !c.has_attention(layer)
            && let Some(names) = &at.mixer
            && let Some(mixer) = self.mixer(c.layers[layer].mixer, names, layer)?
        {
            return Ok(QkvWeights::Mixer(Box::new(mixer)));
        }
        let (q, kv) = (c.q_width(layer), c.kv_width(layer));
        if let Some(from) = c.layers[layer].keys_of {
            return Ok(QkvWeights::Queries(self.linear(&at.qkv[..1], &[q], c.hidden, layer)?, from));
        }
        let rows = if at.qkv.len() == 1 { vec![q + 2 * kv] } else { vec![q, kv, kv] };
        let mut names = at.qkv.clone();
        if let (true, [_, keys, values]) = (c.heads_of(layer).keys_as_values, &mut names[..]) {
            values.clone_from(keys);
        }
        Ok(QkvWeights::Plain(self.linear(&names, &rows, c.hidden, layer)?))
    }

    /// The recurrence beside the attention of a layer.
    pub(super) fn beside(&self, layer: usize) -> Result<Option<Beside<B>>> {
        let (c, Some(names)) = (self.config, &self.layout.mixer) else { return Ok(None) };
        let Mixer::Both(of) = c.layers[layer].mixer else { return Ok(None) };
        let Some(mixer) = self.mixer(Mixer::Both(of), names, layer)? else { return Ok(None) };
        let out = self.linear(std::slice::from_ref(&names.out), &[c.hidden], of.values(), layer)?;
        Ok(Some(Beside { mixer, out }))
    }

    /// The weights of what takes the place of attention or is beside it, but for the output projection.
    fn mixer(&self, mixer: Mixer, at: &MixerLayout, layer: usize) -> Result<Option<MixerWeights<B>>> {
        let kind = match (mixer, &at.recurrence) {
            (Mixer::Recurrence(about) | Mixer::Both(about), Some(names)) => {
                MixerKind::Recurrence(about, self.recurrence(about, at, names, layer)?)
            }
            (Mixer::Convolution(about), _) => {
                let (conv, bias) = self.convolution(&at.conv, about.channels, about.taps, layer)?;
                MixerKind::Convolution(about, ShortConvolutionWeights { conv, bias })
            }
            _ => return Ok(None),
        };
        let rows = match (mixer, at.input.len()) {
            (Mixer::Recurrence(of), 3) => vec![of.values(), of.channels(), of.numbers() * of.heads],
            (Mixer::Recurrence(of), 2) => vec![of.values() + of.channels(), of.numbers() * of.heads],
            (Mixer::Recurrence(of), 4) => vec![of.values(), of.channels(), of.heads, of.heads],
            (Mixer::Recurrence(of) | Mixer::Both(of), _) => vec![of.width()],
            _ => vec![self.config.input_width(layer)],
        };
        let factors = match mixer {
            Mixer::Both(of) => self.column_factors(&of),
            _ => None,
        };
        let input = self.linear(&at.input, &rows, self.config.hidden, layer)?;
        Ok(Some(MixerWeights { input, kind, factors }))
    }

    /// The factors on the columns of the rows that a recurrence beside attention reads.
    fn column_factors(&self, of: &Recurrence) -> Option<Vec<f32>> {
        let factors = self.config.multipliers.recurrence_in;
        let widths = [of.values(), of.keys(), of.keys(), of.values(), of.numbers() * of.heads];
        let columns = factors.iter().zip(widths).flat_map(|(factor, width)| vec![*factor; width]);
        factors.iter().any(|factor| *factor != 1.0).then(|| columns.collect())
    }

    fn recurrence(
        &self,
        about: Recurrence,
        at: &MixerLayout,
        names: &RecurrenceLayout,
        layer: usize,
    ) -> Result<RecurrenceWeights> {
        let norm = match about.update {
            Update::Delta => about.value_width,
            Update::StateSpace => about.values(),
        };
        let vector = |at: &TensorRef, len: usize| self.flat(&at.weight(layer), len);
        let (conv, conv_bias) = self.convolution(&at.conv, about.channels(), about.taps, layer)?;
        let rate = |x: f32| if names.negative_rate { -x } else { x.exp() };
        Ok(RecurrenceWeights {
            conv,
            conv_bias,
            rate: vector(&names.rate, about.heads)?.into_iter().map(rate).collect(),
            time_bias: vector(&names.time_bias, about.heads)?,
            skip: names.skip.as_ref().map_or(Ok(Vec::new()), |skip| vector(skip, about.heads))?,
            norm: names.norm.as_ref().map_or(Ok(Vec::new()), |at| vector(at, norm))?,
            eps: self.config.norm_eps,
        })
    }

    /// The numbers of a tensor whose axes of length 1 do not matter, nor how the others divide it.
    fn flat(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let shape = self.weights.shape(name).filter(|shape| shape.iter().product::<usize>() == len);
        let tensor = self.weights.tensor(name, shape.unwrap_or(&[len]))?;
        let mut all = vec![0.0; len];
        tensor.read(0..tensor.size().0.max(1), &mut all)?;
        Ok(all)
    }

    /// A convolution of channels by themselves, `[channels, taps]`, and its bias.
    fn convolution(
        &self,
        at: &TensorRef,
        channels: usize,
        taps: usize,
        layer: usize,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let order = |stored: &[f32], width: usize| -> Vec<f32> {
            let row = |r: usize| &stored[at.order.stored_row(self.config, r) * width..][..width];
            (0..channels).flat_map(|r| row(r).iter().copied()).collect()
        };
        let name = at.weight(layer);
        let squeezed = self.weights.shape(&name) == Some(&[channels, taps]);
        let shape = if squeezed { vec![channels, taps] } else { vec![channels, 1, taps] };
        let mut conv = vec![0.0; channels * taps];
        self.weights.tensor(&name, &shape)?.read(0..channels, &mut conv)?;
        let bias = at.bias.then(|| self.weights.vector(&at.bias(layer), channels)).transpose()?;
        Ok((order(&conv, taps), bias.map(|bias| order(&bias, 1))))
    }

    /// The projection whose sigmoid multiplies what attention returns.
    pub(super) fn attn_gate(&self, layer: usize) -> Result<Option<B::Linear>> {
        let c = self.config;
        let at = self.layout.attn_gate.as_ref().filter(|_| c.has_attention(layer));
        at.map(|at| self.linear(std::slice::from_ref(at), &[c.q_width(layer)], c.hidden, layer)).transpose()
    }

    fn latent(&self, about: Latent, at: &LatentLayout, layer: usize) -> Result<QkvWeights<B>> {
        let (c, d) = (self.config, self.config.hidden);
        let one =
            |tensor_ref: &TensorRef, n, k| self.linear(std::slice::from_ref(tensor_ref), &[n], k, layer);
        let norm = |tensor_ref: &TensorRef, width| -> Result<Norm<B>> {
            Ok(Norm { eps: LATENT_EPS, ..self.norm(tensor_ref, layer, width)? })
        };
        let q_down = match (&at.q_down, about.q_rank) {
            (Some([down, of_norm]), Some(rank)) => Some((one(down, rank, d)?, norm(of_norm, rank)?)),
            _ => None,
        };
        Ok(QkvWeights::Latent(Box::new(LatentWeights {
            about,
            q_down,
            q: one(&at.q, c.q_width(layer), about.q_rank.unwrap_or(d))?,
            kv_down: one(&at.kv_down, about.rank + about.rotated, d)?,
            kv_norm: norm(&at.kv_norm, about.rank)?,
            kv_up: self.kv_up(about, at, layer)?,
        })))
    }

    /// Keys and values of all heads from a latent vector: stored rows, copies of the rotated part, and zeros.
    fn kv_up(&self, l: Latent, at: &LatentLayout, layer: usize) -> Result<B::Linear> {
        let (c, k) = (self.config, l.rank + l.rotated);
        let stored = self.stored_kv_up(l, &at.kv_up, layer)?;
        let fill = |wanted: Range<usize>, block: &mut [f32]| -> Result<()> {
            for (row, out) in wanted.zip(block.chunks_exact_mut(k)) {
                out.fill(0.0);
                let (head, i) = (row / l.width() % c.heads, row % l.width());
                match row < c.heads * l.width() {
                    // As queries are ordered, whose rotated part is stored behind the other numbers.
                    true if i < l.rotated => out[l.rank + at.order.stored_row(c, i) - l.plain] = 1.0,
                    true => stored.key(head, i - l.rotated, &mut out[..l.rank])?,
                    false if i < l.value => stored.value(head, i, &mut out[..l.rank])?,
                    false => {}
                }
            }
            Ok(())
        };
        let packed = self.on.pack(2 * c.heads * l.width(), k, self.dtype, None, fill)?;
        self.weights.release();
        Ok(packed)
    }

    fn stored_kv_up(&self, about: Latent, at: &KvUpLayout, layer: usize) -> Result<StoredKvUp<'_>> {
        let (heads, Latent { rank, plain, value, .. }) = (self.config.heads, about);
        Ok(match at {
            KvUpLayout::Whole(all) => {
                let shape = [heads * (plain + value), rank];
                StoredKvUp::Whole { about, rows: self.weights.tensor(&all.weight(layer), &shape)? }
            }
            KvUpLayout::Split { keys, values } => {
                let tensor = self.weights.tensor(&keys.weight(layer), &[heads, rank, plain])?;
                let mut columns = vec![0.0; heads * rank * plain];
                tensor.read(0..heads * rank, &mut columns)?;
                let values = self.weights.tensor(&values.weight(layer), &[heads, value, rank])?;
                StoredKvUp::Split { about, columns, values }
            }
        })
    }

    /// What is added to the scores of heads.
    pub(super) fn head_bias(&self, layer: usize) -> Result<HeadBias<B::Buffer>> {
        let (c, at) = (self.config, self.layout);
        let sinks = at.sinks.as_ref().map(|sinks| self.weights.vector(&sinks.weight(layer), c.heads));
        let slopes = match &c.positions {
            Positions::Alibi(alibi) => Some(alibi),
            _ => None,
        };
        Ok(HeadBias {
            sinks: sinks.transpose()?.map(|sinks| self.on.buffer_of(&sinks)),
            slopes: slopes.map(|alibi| self.on.buffer_of(&alibi.slopes)),
            rounded: slopes.is_some_and(|alibi| alibi.rounded),
        })
    }

    /// The output of attention. Values of latent attention are padded, and so are its columns.
    pub(super) fn attn_out(&self, layer: usize) -> Result<B::Linear> {
        let (c, at) = (self.config, &self.layout.attn_out);
        if let Some(names) = self.layout.mixer.as_ref().filter(|_| !c.has_attention(layer)) {
            let width = c.mixed_width(layer);
            return self.linear(std::slice::from_ref(&names.out), &[c.hidden], width, layer);
        }
        let Some(l) = c.latent else {
            return self.linear(std::slice::from_ref(at), &[c.hidden], c.q_width(layer), layer);
        };
        let tensor = self.weights.tensor(&at.weight(layer), &[c.hidden, c.heads * l.value])?;
        let bias = at.bias.then(|| self.weights.vector(&at.bias(layer), c.hidden)).transpose()?;
        let fill = |wanted: Range<usize>, block: &mut [f32]| -> Result<()> {
            let mut stored = vec![0.0; c.heads * l.value];
            for (row, out) in wanted.zip(block.chunks_exact_mut(c.q_width(layer))) {
                tensor.read(row..row + 1, &mut stored)?;
                out.fill(0.0);
                for (head, values) in out.chunks_exact_mut(l.width()).zip(stored.chunks_exact(l.value)) {
                    head[..l.value].copy_from_slice(values);
                }
            }
            Ok(())
        };
        let packed = self.on.pack(c.hidden, c.q_width(layer), self.dtype, bias, fill)?;
        self.weights.release();
        Ok(packed)
    }

    pub(super) fn mlp(&self, layer: usize) -> Result<MlpWeights<B>> {
        let (c, at) = (self.config, self.layout);
        let dense = || self.feed_forward(&at.up, &at.down, c.mlp_width(layer), layer);
        Ok(match (c.layers[layer].mlp, &at.beside) {
            (Mlp::Dense, _) => MlpWeights::Dense(dense()?),
            (Mlp::Experts(about), _) => MlpWeights::Experts(Box::new(self.mixture(about, layer)?)),
            (Mlp::DenseAndExperts(about), Some(names)) => {
                let [before, behind] = &names.experts;
                let scale = self.weights.vector(&names.expert_scale.weight(layer), about.count)?;
                let experts = ExpertWeights { scale: Some(scale), ..self.mixture(about, layer)? };
                MlpWeights::DenseAndExperts(Box::new(DenseAndExperts {
                    dense: dense()?,
                    dense_norm: self.norm(&names.dense_out, layer, c.hidden)?,
                    experts,
                    expert_norms: [self.norm_of_stream(before, layer)?, self.norm(behind, layer, c.hidden)?],
                    router_norm: self.router_norm(&names.router, layer)?,
                }))
            }
            (Mlp::None, _) => MlpWeights::None,
            (Mlp::DenseAndExperts(_), None) => unreachable!("a family with both names their tensors"),
        })
    }

    /// What adds token inputs to the stream of a layer.
    pub(super) fn token_gate(&self, layer: usize) -> Result<Option<TokenGate<B>>> {
        let (c, Some(at)) = (self.config, &self.layout.token_inputs) else { return Ok(None) };
        let Some(p) = c.token_inputs else { return Ok(None) };
        Ok(Some(TokenGate {
            gate: self.linear(std::slice::from_ref(&at.gate), &[p], c.hidden, layer)?,
            scale: (1.0 / self.scales[layer]) as f32,
            out: self.linear(std::slice::from_ref(&at.out), &[c.hidden], p, layer)?,
            norm: self.norm_to_stream(&at.gate_norm, layer)?,
        }))
    }

    /// What gives the token inputs of all layers.
    pub(super) fn token_inputs(&self) -> Result<Option<TokenInputs<B>>> {
        let (c, Some(at)) = (self.config, &self.layout.token_inputs) else { return Ok(None) };
        let Some(p) = c.token_inputs else { return Ok(None) };
        let (name, width) = (at.embedding.weight(0), p * c.depth());
        let rows = c.vocab + at.embedding.more_rows;
        self.weights.tensor(&name, &[rows, width])?;
        Ok(Some(TokenInputs {
            stored: (self.weights.clone(), name, rows),
            projection: self.linear(std::slice::from_ref(&at.projection), &[width], c.hidden, 0)?,
            norm: self.norm(&at.norm, 0, p)?,
        }))
    }

    /// The norm before the router of experts beside a dense MLP. Its weights are divided by the root of the width.
    fn router_norm(&self, at: &TensorRef, layer: usize) -> Result<Norm<B>> {
        let norm = self.norm_of_stream(at, layer)?;
        let (mut weight, _) = self.norm_values(at, layer, self.config.hidden)?;
        let root = (self.config.hidden as f32).sqrt();
        weight.iter_mut().for_each(|w| *w /= root);
        Ok(Norm { weight: self.on.buffer_of(&weight), ..norm })
    }

    fn mixture(&self, about: Experts, layer: usize) -> Result<ExpertWeights<B>> {
        let (c, at) = (self.config, self.layout);
        let Some(names) = &at.experts else { unreachable!("a family with experts names their tensors") };
        let in_f32 = Self { dtype: Dtype::F32, scales: Vec::new(), ..*self };
        let one = |tensor_ref: &TensorRef, n| {
            in_f32.linear(std::slice::from_ref(tensor_ref), &[n], c.hidden, layer)
        };
        let shared = names.shared.as_ref().filter(|_| about.shared > 0);
        Ok(ExpertWeights {
            about,
            scale: None,
            router: one(&names.router, about.count)?,
            correction: match &names.correction {
                Some(name) if about.routing.correction => {
                    Some(self.weights.vector(&name.weight(layer), about.count)?)
                }
                _ => None,
            },
            experts: match self.map_experts {
                true => ExpertMlps::Mapped(self.expert_size(&about, names)),
                false => {
                    let each = (0..about.count).map(|expert| self.expert(&about, names, expert, layer));
                    ExpertMlps::Packed(each.collect::<Result<_>>()?)
                }
            },
            shared: shared.map(|(up, down)| self.feed_forward(up, down, about.shared, layer)).transpose()?,
            shared_gate: match &names.shared_gate {
                Some(gate) if about.shared_gate => Some(one(gate, 1)?),
                _ => None,
            },
        })
    }

    /// One of the experts that rows choose from.
    pub(super) fn expert(
        &self,
        about: &Experts,
        names: &ExpertLayout,
        expert: usize,
        layer: usize,
    ) -> Result<FeedForward<B>> {
        let up: Vec<TensorRef> = names.up.iter().map(|up| up.of_expert(expert, about.count)).collect();
        let down = names.down.of_expert(expert, about.count);
        let mlp = self.feed_forward(&up, &down, about.width, layer)?;
        let down_bias = down.bias.then(|| self.bias(&down, self.config.hidden, layer)).transpose()?;
        Ok(FeedForward { down_bias: down_bias.map(|bias| self.on.buffer_of(&bias)), ..mlp })
    }

    /// The size of such an expert.
    fn expert_size(&self, about: &Experts, names: &ExpertLayout) -> ExpertSize {
        let (d, up) = (self.config.hidden, if self.config.gated { 2 } else { 1 } * about.width);
        let up_bias = if names.up.iter().any(|up| up.bias) { up } else { 0 };
        let down_bias = if names.down.bias { d } else { 0 };
        let macs = (d * up + d * about.width) as u64;
        ExpertSize { parameters: macs + (up_bias + down_bias) as u64, macs }
    }

    /// An MLP of width `f`.
    fn feed_forward(
        &self,
        up: &[TensorRef],
        down: &TensorRef,
        f: usize,
        layer: usize,
    ) -> Result<FeedForward<B>> {
        let (c, d) = (self.config, self.config.hidden);
        let rows = match (c.gated, up.len()) {
            (true, 1) => vec![2 * f],
            (true, _) => vec![f, f],
            (false, _) => vec![f],
        };
        Ok(FeedForward {
            up: self.linear(up, &rows, d, layer)?,
            down: self.linear(std::slice::from_ref(down), &[d], f, layer)?,
            down_bias: None,
        })
    }
}

/// The stored numbers behind [`LatentWeights::kv_up`].
enum StoredKvUp<'a> {
    Whole {
        about: Latent,
        rows: Tensor<'a>,
    },
    /// Keys are stored with a column for each of their numbers.
    Split {
        about: Latent,
        columns: Vec<f32>,
        values: Tensor<'a>,
    },
}

impl StoredKvUp<'_> {
    /// The row of number `i` of a head's keys behind their rotated part.
    fn key(&self, head: usize, i: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Whole { about, rows } => {
                let row = head * (about.plain + about.value) + i;
                rows.read(row..row + 1, out)
            }
            Self::Split { about, columns, .. } => {
                let numbers = columns[head * about.rank * about.plain + i..].iter().step_by(about.plain);
                out.iter_mut().zip(numbers).for_each(|(out, x)| *out = *x);
                Ok(())
            }
        }
    }

    /// The row of number `i` of a head's values.
    fn value(&self, head: usize, i: usize, out: &mut [f32]) -> Result<()> {
        let (rows, row) = match self {
            Self::Whole { about, rows } => (rows, head * (about.plain + about.value) + about.plain + i),
            Self::Split { about, values, .. } => (values, head * about.value + i),
        };
        rows.read(row..row + 1, out)
    }
}
