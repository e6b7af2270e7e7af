//! A decoder in f64, one row and one number at a time: nothing is shared with the crate but
//! the description of the model and the reader of its tensors.

mod encoders;
mod experts;
mod gemma4;
mod latent;
mod lfm2;
mod mamba;
mod recurrence;

use experts::{FeedForward, Mixture};
use fathom_kernels::elementwise::Activation;
use fathom_model::config::{
    Config, Experts, Head, Heads, Mlp, NormKind, Positions, QkNorm, Rope, RopeScaling,
};
use fathom_model::weights::Weights;
use std::f64::consts::PI;

pub(crate) type Row = Vec<f64>;

/// `y = W x + b`.
struct Linear {
    weight: Vec<Row>,
    bias: Row,
}

impl Linear {
    fn of(&self, x: &[f64]) -> Row {
        self.weight.iter().zip(&self.bias).map(|(w, b)| dot(w, x) + b).collect()
    }

    /// The layer with its outputs multiplied.
    fn times(mut self, factor: f32) -> Self {
        self.weight.iter_mut().flatten().chain(&mut self.bias).for_each(|x| *x *= f64::from(factor));
        self
    }

    /// The layer whose outputs are these outputs of this one.
    fn rows(&self, rows: impl Iterator<Item = usize> + Clone) -> Self {
        Self {
            weight: rows.clone().map(|r| self.weight[r].clone()).collect(),
            bias: rows.map(|r| self.bias[r]).collect(),
        }
    }
}

struct Norm {
    weight: Row,
    bias: Row,
    eps: f64,
}

impl Norm {
    fn of(&self, kind: NormKind, x: &[f64]) -> Row {
        let average = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / self.weight.len() as f64;
        let mean = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => average(&mut x.iter().copied()),
        };
        let variance = average(&mut x.iter().map(|x| (x - mean).powi(2)));
        let scale = 1.0 / (variance + self.eps).sqrt();
        let weights = self.weight.iter().zip(&self.bias);
        x.iter().zip(weights).map(|(x, (w, b))| (x - mean) * scale * w + b).collect()
    }
}

struct Layer {
    attn_norm: Option<Norm>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms on queries and on keys: none, one, or one for each head.
    qk_norms: [Vec<Norm>; 2],
    latent: Option<latent::Projections>,
    recurrence: Option<recurrence::Weights>,
    convolution: Option<lfm2::Convolution>,
    /// A recurrence beside attention, with its output.
    beside: Option<(recurrence::Weights, Linear)>,
    /// The projection whose sigmoid multiplies what attention returns.
    gate: Option<Linear>,
    /// A score for each head that joins the softmax of its rows.
    sinks: Option<Row>,
    attn_out: Linear,
    post_attn_norm: Option<Norm>,
    mlp_norm: Option<Norm>,
    mlp: LayerMlp,
    post_mlp_norm: Option<Norm>,
    /// Norms on the stream after each addition.
    stream_norms: [Option<Norm>; 2],
    /// What adds an embedding of the layer to the stream.
    token_gate: Option<gemma4::TokenGate>,
    /// What the stream before the layer is multiplied by, to be in the scale of the last one.
    scale: f64,
}

enum LayerMlp {
    Dense(FeedForward),
    Experts(Box<Mixture>),
    Both(FeedForward, Box<Mixture>, Box<gemma4::Beside>),
    None,
}

/// A place in a layer where other values may be put.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// The stream that enters the layer.
    Stream,
    /// What attention reads.
    AttnIn,
    /// What attention adds to the stream.
    AttnOut,
    /// What the MLP reads.
    MlpIn,
    /// What the MLP adds to the stream.
    MlpOut,
}

pub(crate) struct Reference {
    config: Config,
    embedding: Linear,
    positions: Option<Linear>,
    /// The row of the first position.
    first_position: usize,
    token_type: Option<Row>,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    /// What the last stream is multiplied by.
    last_scale: f64,
    head_dense: Option<(Linear, Norm)>,
    head: Linear,
    side: gemma4::Side,
}

impl Reference {
    pub(crate) fn new(config: &Config, weights: &Weights) -> Self {
        if config.encoder.is_some() {
            return encoders::read(config, weights);
        }
        let read = Reader { config, weights };
        // Models of several modalities have their text model under a longer name.
        let names = weights.names();
        let text = names.iter().find_map(|name| name.strip_suffix("embed_tokens.weight"));
        let text = text.unwrap_or("model.");
        let backbone =
            names.iter().find_map(|name| name.strip_suffix("embeddings.weight")).unwrap_or_default();
        let head =
            names.iter().find_map(|name| name.strip_suffix(".weight").filter(|n| n.ends_with("lm_head")));
        let (at, [embedding, positions, final_norm, head]) = match config.architecture.as_str() {
            "gpt2" => ("transformer.", ["wte", "wpe", "ln_f", "lm_head"]),
            "gptj" | "codegen" | "progen" => ("transformer.", ["wte", "", "ln_f", "lm_head"]),
            "falcon" => ("transformer.", ["word_embeddings", "", "ln_f", "lm_head"]),
            "bloom" => ("transformer.", ["word_embeddings", "", "ln_f", "lm_head"]),
            "mpt" => ("transformer.", ["wte", "", "norm_f", "lm_head"]),
            "gpt_neox" => ("gpt_neox.", ["embed_in", "", "final_layer_norm", "embed_out"]),
            "opt" => ("model.decoder.", ["embed_tokens", "embed_positions", "final_layer_norm", "lm_head"]),
            "internlm2" => ("model.", ["tok_embeddings", "", "norm", "output"]),
            "phi" => ("model.", ["embed_tokens", "", "final_layernorm", "lm_head"]),
            "mamba2" | "nemotron_h" => (backbone, ["embeddings", "", "norm_f", "lm_head"]),
            "bamba" | "falcon_h1" => ("model.", ["embed_tokens", "", "final_layernorm", "lm_head"]),
            "lfm2" | "lfm2_moe" => ("model.", ["embed_tokens", "", "embedding_norm", "lm_head"]),
            _ => (text, ["embed_tokens", "", "norm", head.unwrap_or_default()]),
        };
        let under = |name: &str| format!("{at}{name}");
        // Llama 3.2 Vision leaves out the layers that attend to images.
        let number = |l: usize| match config.architecture.starts_with("mllama") {
            true => {
                let is_kept = |n: &usize| weights.has(&format!("{at}layers.{n}.self_attn.o_proj.weight"));
                (0..).filter(is_kept).nth(l).unwrap()
            }
            false => l,
        };
        let scales = gemma4::scales(config, weights, at);
        let layers = (0..config.depth()).map(|l| match config.architecture.as_str() {
            "gpt2" => read.gpt2(&format!("{at}h.{l}.")),
            "gptj" => read.gptj(&format!("{at}h.{l}.")),
            "codegen" => read.partitioned(&format!("{at}h.{l}."), 4),
            "progen" => read.partitioned(&format!("{at}h.{l}."), 8),
            "falcon" => read.falcon(&format!("{at}h.{l}.")),
            "gpt_neox" => read.gpt_neox(&format!("{at}layers.{l}.")),
            "bloom" => read.bloom(&format!("{at}h.{l}.")),
            "mpt" => read.mpt(&format!("{at}blocks.{l}.")),
            "opt" => read.opt(&format!("{at}layers.{l}.")),
            "internlm2" => read.internlm2(&format!("{at}layers.{l}.")),
            "lfm2" | "lfm2_moe" => read.lfm2(&format!("{at}layers.{l}."), l),
            "nemotron_h" => read.nemotron_h(&format!("{at}layers.{l}."), l),
            "mamba2" => read.mamba2(&format!("{at}layers.{l}."), l),
            "bamba" | "falcon_h1" => read.among_attention(&format!("{at}layers.{l}."), l),
            _ => Layer { scale: scales[l], ..read.llama(&format!("{at}layers.{}.", number(l)), l) },
        });
        Self {
            config: config.clone(),
            embedding: read.linear(&under(embedding)),
            positions: (!positions.is_empty()).then(|| read.linear(&under(positions))),
            layers: layers.collect(),
            // OPT does not use the first two.
            first_position: if config.architecture == "opt" { 2 } else { 0 },
            token_type: None,
            embedding_norm: (config.architecture == "bloom")
                .then(|| read.norm("transformer.word_embeddings_layernorm")),
            head_dense: None,
            side: gemma4::Side::new(&read, at),
            last_scale: scales[config.depth()],
            final_norm: Some(read.norm(&under(final_norm))),
            head: match config.architecture.as_str() {
                _ if config.tied => read.linear(&under(embedding)),
                // Baichuan 2, the one of both fixtures that does not rotate.
                "baichuan" if matches!(config.positions, Positions::Alibi(_)) => unit_rows(read.linear(head)),
                _ => read.linear(head),
            },
        }
    }

    pub(crate) fn embed(&self, tokens: &[u32]) -> Vec<Row> {
        if self.config.encoder.is_some() {
            return encoders::embed(self, tokens);
        }
        self.side.read(self, tokens);
        let scale = f64::from(self.config.embedding_scale) * self.layers[0].scale;
        let rows = tokens.iter().enumerate().map(|(i, token)| {
            let row: Row = self.embedding.weight[*token as usize].iter().map(|x| x * scale).collect();
            match &self.positions {
                Some(learned) => add(&row, &learned.weight[i + self.first_position]),
                None => self.normed(&self.embedding_norm, &row),
            }
        });
        rows.collect()
    }

    /// Remembers the keys that layers share as those of the clean run, which has just gone through all layers.
    pub(crate) fn keep_keys(&self) {
        self.side.keep();
    }

    /// Begins another run, with the keys of the clean one.
    pub(crate) fn restore_keys(&self) {
        self.side.restore();
    }

    /// The stream that leaves layer `l` when `x` stands at a place in it.
    pub(crate) fn layer(&self, l: usize, h: &[Row], place: Place, x: &[Row]) -> Vec<Row> {
        let given = |at: Place| (place == at).then(|| x.to_vec());
        let h = given(Place::Stream).unwrap_or(h.to_vec());
        let read = given(Place::AttnIn).unwrap_or(h.clone());
        let a = given(Place::AttnOut).unwrap_or_else(|| self.attention(l, &read));
        let [after_attention, after_mlp] = &self.layers[l].stream_norms;
        let sum = |norm: &Option<Norm>, a: &[Row], b: &[Row]| -> Vec<Row> {
            a.iter().zip(b).map(|(a, b)| self.normed(norm, &add(a, b))).collect()
        };
        let mid = sum(after_attention, &h, &a);
        let read = given(Place::MlpIn).unwrap_or(if self.config.parallel { h } else { mid.clone() });
        let m = given(Place::MlpOut)
            .unwrap_or_else(|| read.iter().enumerate().map(|(i, x)| self.mlp_at(l, i, x)).collect());
        sum(after_mlp, &mid, &m)
    }

    /// What the attention of layer `l` adds, and what is beside it.
    pub(crate) fn attention(&self, l: usize, h: &[Row]) -> Vec<Row> {
        let factors = self.config.multipliers;
        let times = |row: &Row, factor: f32| -> Row { row.iter().map(|x| x * f64::from(factor)).collect() };
        let alone = self.attention_alone(l, h);
        let Some((recurrence, out)) = &self.layers[l].beside else { return alone };
        let beside = self.recur(l, recurrence, out, h);
        let rows = alone.iter().zip(&beside);
        rows.map(|(a, b)| add(&times(a, factors.attention), &times(b, factors.recurrence))).collect()
    }

    fn attention_alone(&self, l: usize, h: &[Row]) -> Vec<Row> {
        let (c, layer) = (&self.config, &self.layers[l]);
        if !c.has_mixer(l) {
            return vec![vec![0.0; c.hidden]; h.len()];
        }
        if let Some(recurrence) = &layer.recurrence {
            return self.recur(l, recurrence, &layer.attn_out, h);
        }
        if let Some(convolution) = &layer.convolution {
            return self.convolved(l, convolution, h);
        }
        if let Some(latent) = &layer.latent {
            return self.latent_attention(l, latent, h);
        }
        let rotation = match (&c.positions, c.layers[l].rope) {
            (Positions::Rotary(ropes), Some(rope)) => frequencies(&ropes[rope], h.len()),
            _ => (vec![], 1.0),
        };
        let Heads { kv_heads, head_dim, keys_as_values } = c.heads_of(l);
        let [q_norm, k_norm] = &layer.qk_norms;
        let unit =
            [Norm { weight: vec![1.0; head_dim], bias: vec![0.0; head_dim], eps: f64::from(c.norm_eps) }];
        let v_norm = if c.qk_norm == QkNorm::HeadAndValues { &unit[..] } else { &[] };
        let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
        for (position, h) in h.iter().enumerate() {
            let real: Row = h.iter().map(|x| x / layer.scale).collect();
            let x = self.normed(&layer.attn_norm, &real);
            let turned = |row: &[f64]| -> Row {
                let heads = row.chunks(head_dim);
                heads.flat_map(|head| self.rotated(head, position as f64, &rotation)).collect()
            };
            let heads = |row: Row, norms: &[Norm]| match c.qk_norm {
                QkNorm::HeadRotated => self.heads(head_dim, &turned(&row), norms),
                QkNorm::UnitRotated if c.layers[l].rope.is_some() => {
                    self.heads(head_dim, &turned(&row), &unit)
                }
                _ => self.heads(head_dim, &turned(&self.heads(head_dim, &row, norms).concat()), &[]),
            };
            let grown = c.layers[l].temperature.map_or(1.0, |of| {
                let steps = ((position + 1) as f64 / of.floor as f64).floor();
                1.0 + f64::from(of.scale) * (1.0 + steps).ln()
            });
            let queries: Row = layer.q.of(&x).iter().map(|x| grown * x).collect();
            q.push(heads(queries, q_norm));
            if c.layers[l].keys_of.is_some() {
                continue;
            }
            k.push(heads(layer.k.of(&x), k_norm));
            let values = if keys_as_values { &layer.k } else { &layer.v };
            v.push(self.heads(head_dim, &values.of(&x), v_norm));
        }
        self.side.share(c.layers[l].keys_of, l, &mut k, &mut v);
        let rows = q.iter().enumerate().map(|(i, queries)| {
            let window = c.layers[l].window;
            let first = window.map_or(0, |w| (i + 1).saturating_sub(w));
            let first = first.max(c.layers[l].chunk.map_or(0, |chunk| i - i % chunk));
            let last = match (c.encoder, window) {
                (None, _) => i,
                (Some(_), None) => h.len() - 1,
                (Some(_), Some(w)) => (i + w - 1).min(h.len() - 1),
            };
            let mixed = queries.iter().enumerate().flat_map(|(head, query)| {
                let kv = head / (c.heads / kv_heads);
                let seen = first..=last;
                let score = |j: usize| self.score(query, &k[j][kv]) + self.by_positions(head, i, j);
                // The sink comes last and has no value.
                let sink = layer.sinks.as_ref().map(|sinks| sinks[head]);
                let scores: Row = seen.clone().map(score).chain(sink).collect();
                let weights = softmax(&scores);
                let mut sum = vec![0.0; head_dim];
                for (j, w) in seen.zip(weights) {
                    sum.iter_mut().zip(&v[j][kv]).for_each(|(s, v)| *s += w * v);
                }
                sum
            });
            let mut mixed: Row = mixed.collect();
            if let Some(gate) = &layer.gate {
                let gate = gate.of(&self.normed(&layer.attn_norm, &h[i]));
                mixed.iter_mut().zip(gate).for_each(|(x, z)| *x /= 1.0 + (-z).exp());
            }
            let added = self.added(&layer.post_attn_norm, &layer.attn_out.of(&mixed));
            added.iter().map(|x| x * layer.scale).collect()
        });
        rows.collect()
    }

    /// What is added to the score of a query at position `i` and a key at position `j`.
    fn by_positions(&self, head: usize, i: usize, j: usize) -> f64 {
        let round = |x: f64| f64::from(half::bf16::from_f64(x).to_f32());
        match &self.config.positions {
            Positions::Alibi(of) if of.rounded => {
                f64::from(self.config.attention_scale) * round(f64::from(of.slopes[head]) * round(j as f64))
            }
            Positions::Alibi(of) => f64::from(of.slopes[head]) * (j as f64 - i as f64),
            _ => 0.0,
        }
    }

    /// The heads of one row, normalised where there are norms.
    fn heads(&self, width: usize, row: &[f64], norms: &[Norm]) -> Vec<Row> {
        let kind = self.config.norm;
        match norms {
            [] => row.chunks(width).map(<[f64]>::to_vec).collect(),
            [norm] if self.config.qk_norm == QkNorm::Full => {
                norm.of(kind, row).chunks(width).map(<[f64]>::to_vec).collect()
            }
            norms => row.chunks(width).zip(norms.iter().cycle()).map(|(h, norm)| norm.of(kind, h)).collect(),
        }
    }

    fn score(&self, query: &[f64], key: &[f64]) -> f64 {
        let score = dot(query, key) * f64::from(self.config.attention_scale);
        capped(self.config.attention_softcap, score)
    }

    /// What the MLP of layer `l` adds to one row.
    pub(crate) fn mlp(&self, l: usize, x: &[f64]) -> Row {
        let layer = &self.layers[l];
        let real: Row = x.iter().map(|x| x / layer.scale).collect();
        let x = self.normed(&layer.mlp_norm, &real);
        let kind = self.config.activation;
        let out = match &layer.mlp {
            LayerMlp::Dense(mlp) => mlp.of(kind, &x),
            LayerMlp::Experts(mixture) => mixture.of(kind, &x),
            LayerMlp::Both(dense, mixture, beside) => beside.of(kind, &real, &dense.of(kind, &x), mixture),
            LayerMlp::None => return vec![0.0; x.len()],
        };
        self.added(&layer.post_mlp_norm, &out).iter().map(|x| x * layer.scale).collect()
    }

    /// As [`Self::mlp`] for the row of a position, with what an embedding of the layer adds.
    fn mlp_at(&self, l: usize, position: usize, x: &[f64]) -> Row {
        let out = self.mlp(l, x);
        let Some(gate) = &self.layers[l].token_gate else { return out };
        let scale = self.layers[l].scale;
        let sum: Row = add(x, &out).iter().map(|x| x / scale).collect();
        let part = gate.of(self.config.activation, &sum, &self.side.inputs(l, position));
        add(&out, &part.iter().map(|x| x * scale).collect::<Row>())
    }

    /// The experts that a row takes in layer `l`, with their weights; none if the layer is dense.
    pub(crate) fn route(&self, l: usize, x: &[f64]) -> Vec<(usize, f64)> {
        match &self.layers[l].mlp {
            LayerMlp::Dense(_) | LayerMlp::None => vec![],
            LayerMlp::Experts(mixture) => mixture.route(&self.normed(&self.layers[l].mlp_norm, x)),
            LayerMlp::Both(_, mixture, beside) => {
                let real: Row = x.iter().map(|x| x / self.layers[l].scale).collect();
                mixture.route(&beside.routed(&real))
            }
        }
    }

    /// The probabilities of all tokens after a row of the last stream.
    pub(crate) fn probabilities(&self, h: &[f64]) -> Row {
        let real: Row = h.iter().map(|x| x / self.last_scale).collect();
        let mut normed = self.normed(&self.final_norm, &real);
        if let (Some((dense, norm)), Some(encoder)) = (&self.head_dense, self.config.encoder) {
            let Head::Dense(kind) = encoder.head else { unreachable!("the model has a head") };
            let inner: Row = dense.of(&normed).iter().map(|x| activation(kind, *x)).collect();
            normed = norm.of(self.config.norm, &inner);
        }
        let scale = f64::from(self.config.logit_scale);
        let logits: Row =
            self.head.of(&normed).iter().map(|x| capped(self.config.final_softcap, scale * x)).collect();
        softmax(&logits)
    }

    /// What a sublayer adds, from its output.
    fn added(&self, norm: &Option<Norm>, x: &[f64]) -> Row {
        let factor = f64::from(self.config.residual_scale);
        self.normed(norm, x).iter().map(|x| factor * x).collect()
    }

    /// A head, rotated.
    fn rotated(&self, head: &[f64], position: f64, rotation: &(Row, f64)) -> Row {
        let families = ["cohere", "cohere2", "ernie4_5", "gptj", "codegen", "progen", "llama4_text"];
        let side_by_side = families.contains(&&*self.config.architecture);
        rotate(head, position, rotation, side_by_side)
    }

    fn normed(&self, norm: &Option<Norm>, x: &[f64]) -> Row {
        norm.as_ref().map_or(x.to_vec(), |norm| norm.of(self.config.norm, x))
    }
}

/// The layer with its rows divided by their lengths.
fn unit_rows(mut layer: Linear) -> Linear {
    for row in &mut layer.weight {
        let length = dot(row, row).sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    layer
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[f64], b: &[f64]) -> Row {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn capped(cap: Option<f32>, x: f64) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

fn softmax(x: &[f64]) -> Row {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
    x.iter().map(|x| (x - max).exp() / sum).collect()
}

fn activation(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::ClampedSwiglu => x.min(7.0) / (1.0 + (-1.702 * x.min(7.0)).exp()),
    }
}

/// The error function by the series `2 x e^(-x^2) / sqrt(pi) (1 + 2 x^2 / 3 + (2 x^2)^2 / (3 5) + ...)`,
/// whose terms are all positive.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..150 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 * x * (-x * x).exp() / PI.sqrt() * sum
}

/// Turns pairs of numbers, side by side or half the rotated width apart; the rest stays.
fn rotate(head: &[f64], position: f64, (frequencies, factor): &(Row, f64), side_by_side: bool) -> Row {
    let half = frequencies.len();
    let mut turned = head.to_vec();
    for (i, f) in frequencies.iter().enumerate() {
        let (a, b) = if side_by_side { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let (sin, cos) = (position * f).sin_cos();
        turned[a] = factor * (head[a] * cos - head[b] * sin);
        turned[b] = factor * (head[b] * cos + head[a] * sin);
    }
    turned
}

/// Radians a position for a text of `length`, and the factor on cosines and sines.
fn frequencies(rope: &Rope, length: usize) -> (Row, f64) {
    let dim = rope.dim as f64;
    let plain = (0..rope.dim / 2).map(|i| rope.theta.powf(-2.0 * i as f64 / dim));
    let stretched = |divisors: &[f32]| plain.clone().zip(divisors).map(|(f, d)| f / f64::from(*d)).collect();
    match &rope.scaling {
        RopeScaling::None => (plain.collect(), 1.0),
        RopeScaling::Linear(factor) => (plain.map(|f| f / factor).collect(), 1.0),
        // The first pairs turn as they would in the whole head, the others do not.
        RopeScaling::Proportional { pairs, factor } => {
            let turned = |(i, f): (usize, f64)| if i < *pairs { f / factor } else { 0.0 };
            (plain.enumerate().map(turned).collect(), 1.0)
        }
        RopeScaling::Divisors(divisors) => (stretched(divisors), 1.0),
        RopeScaling::Long { short, long, original, attention_factor } => {
            (stretched(if length > *original { long } else { short }), *attention_factor)
        }
        // The base grows with the text beyond the original context.
        RopeScaling::Dynamic { factor, original } => {
            let stretch = factor * (length as f64).max(*original) / original - (factor - 1.0);
            let theta = rope.theta * stretch.powf(dim / (dim - 2.0));
            ((0..rope.dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim)).collect(), 1.0)
        }
        // Between `low` and `high` turns over the original context the factor fades away.
        RopeScaling::Llama3 { factor, low, high, original } => {
            let kept = |f: f64| ((original * f / (2.0 * PI) - low) / (high - low)).clamp(0.0, 1.0);
            (plain.map(|f| kept(f) * f + (1.0 - kept(f)) * f / factor).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
            // The dimension that makes this many turns over the original context.
            let place = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * rope.theta.ln());
            let round = |x: f64, rounded: f64| if *truncate { rounded } else { x };
            let (from, to) = (place(*beta_fast), place(*beta_slow));
            let from = round(from, from.floor()).max(0.0);
            let to = round(to, to.ceil()).min(dim - 1.0);
            let slow = |i: usize| ((i as f64 - from) / (to - from).max(0.001)).clamp(0.0, 1.0);
            let mix = |(i, f): (usize, f64)| f / factor * slow(i) + f * (1.0 - slow(i));
            (plain.enumerate().map(mix).collect(), *attention_factor)
        }
    }
}

/// Reads the tensors of a checkpoint by the names of each family.
struct Reader<'a> {
    config: &'a Config,
    weights: &'a Weights,
}

impl Reader<'_> {
    /// Llama and what followed it: Mistral, Qwen, Gemma, OLMo 2, Phi-3, and so on.
    fn llama(&self, at: &str, l: usize) -> Layer {
        let c = self.config;
        let has = |name: &&&str| self.weights.has(&format!("{at}{name}.weight"));
        let linear = |name: &str| self.linear(&format!("{at}{name}"));
        let either = |names: &[&str]| linear(names.iter().find(has).expect("a matrix of the layer"));
        let norm = |here: bool, name: &str| here.then(|| self.norm(&format!("{at}{name}")));
        let (q, kv) = (c.q_width(l), c.kv_width(l));
        let recurrence = c.recurrence(l).map(|of| self.recurrence(at, &of));
        let nothing = || Linear { weight: vec![], bias: vec![] };
        let [mut q, k, v] = if c.layers[l].keys_of.is_some() {
            [linear("self_attn.q_proj"), nothing(), nothing()]
        } else if c.latent.is_some() || recurrence.is_some() {
            [(); 3].map(|()| nothing())
        } else if let Some(fused) = ["self_attn.qkv_proj", "self_attn.W_pack"].iter().find(has) {
            let all = linear(fused);
            [0..q, q..q + kv, q + kv..q + 2 * kv].map(|part| all.rows(part))
        } else if c.heads_of(l).keys_as_values {
            ["q", "k", "k"].map(|p| linear(&format!("self_attn.{p}_proj")))
        } else {
            ["q", "k", "v"].map(|p| linear(&format!("self_attn.{p}_proj")))
        };
        // Queries and gates lie together, head by head.
        let gate = (c.attention_gate && recurrence.is_none()).then(|| {
            let of = |second: usize| (0..2 * c.q_width(l)).filter(move |r| r / c.head_dim % 2 == second);
            let gate = q.rows(of(1));
            q = q.rows(of(0));
            gate
        });
        // With norms on both sides of attention the one behind it has the name that
        // the one before the MLP has elsewhere.
        let mlp_norm = match (c.post_norm, c.architecture.as_str()) {
            (true, _) => "pre_feedforward_layernorm",
            (_, "phi" | "cohere" | "cohere2") => "input_layernorm",
            (_, "stablelm") if c.parallel => "input_layernorm",
            _ => "post_attention_layernorm",
        };
        Layer {
            attn_norm: norm(c.pre_norm, "input_layernorm"),
            q,
            k,
            v,
            qk_norms: if recurrence.is_some() {
                [vec![], vec![]]
            } else {
                self.qk_norms(at, c.layers[l].keys_of.is_none())
            },
            latent: c.latent.is_some().then(|| self.latent(at)),
            sinks: (c.architecture == "gpt_oss")
                .then(|| self.matrix(&format!("{at}self_attn.sinks")).concat()),
            attn_out: either(&[
                "self_attn.o_proj",
                "self_attn.dense",
                "linear_attn.out_proj",
                "mamba.out_proj",
            ]),
            recurrence,
            beside: None,
            convolution: None,
            gate,
            post_attn_norm: norm(c.post_norm, "post_attention_layernorm"),
            mlp_norm: norm(c.pre_norm, mlp_norm),
            mlp: match c.layers[l].mlp {
                Mlp::Dense => LayerMlp::Dense(self.dense(at)),
                Mlp::Experts(about) => LayerMlp::Experts(Box::new(self.mixture(at, about))),
                Mlp::DenseAndExperts(about) => {
                    let mixture = Box::new(self.gemma4_mixture(at, about));
                    LayerMlp::Both(self.dense(at), mixture, Box::new(self.beside(at)))
                }
                Mlp::None => LayerMlp::None,
            },
            post_mlp_norm: norm(c.post_norm, "post_feedforward_layernorm"),
            stream_norms: [None, None],
            token_gate: self.token_gate(at),
            scale: 1.0,
        }
    }

    /// The MLP of a layer without experts.
    fn dense(&self, at: &str) -> FeedForward {
        let (c, f) = (self.config, self.config.intermediate);
        let has = |name: &&&str| self.weights.has(&format!("{at}{name}.weight"));
        let linear = |name: &str| self.linear(&format!("{at}{name}"));
        let either = |names: &[&str]| linear(names.iter().find(has).expect("a matrix of the MLP"));
        let fused = ["mlp.gate_up_proj", "shared_mlp.input_linear"];
        let [gate, up] = if fused.iter().any(|name| has(&name)) {
            let all = either(&fused);
            [0..f, f..2 * f].map(|part| Some(all.rows(part)))
        } else {
            let gate = c.gated.then(|| either(&["mlp.gate_proj", "feed_forward.gate_proj"]));
            [gate, Some(either(&["mlp.up_proj", "mlp.c_fc", "mlp.fc1", "feed_forward.up_proj"]))]
        };
        let downs =
            ["mlp.down_proj", "mlp.c_proj", "mlp.fc2", "shared_mlp.output_linear", "feed_forward.down_proj"];
        let down = either(&downs);
        FeedForward { gate, up: up.unwrap(), down }
    }

    fn mixture(&self, at: &str, about: Experts) -> Mixture {
        if self.config.architecture.starts_with("granite") {
            return self.granite_mixture(at, about);
        }
        if self.config.architecture == "gpt_oss" {
            return self.gpt_oss_mixture(at, about);
        }
        if self.config.architecture == "llama4_text" {
            return self.llama4_mixture(at, about);
        }
        let names = match self.config.architecture.as_str() {
            "mixtral" => ["block_sparse_moe", "w1", "w3", "w2"],
            "lfm2_moe" => ["feed_forward", "w1", "w3", "w2"],
            _ => ["mlp", "gate_proj", "up_proj", "down_proj"],
        };
        let [module, gate, up, down] = names;
        let at = format!("{at}{module}.");
        let mlp = |under: &str, [gate, up, down]: [&str; 3]| {
            let [gate, up, down] = [gate, up, down].map(|name| self.linear(&format!("{under}.{name}")));
            FeedForward { gate: Some(gate), up, down }
        };
        let corrections = ["gate.e_score_correction_bias", "expert_bias"].map(|name| format!("{at}{name}"));
        let correction = corrections.into_iter().find(|name| self.weights.has(name));
        let shared = ["shared_expert", "shared_experts"].map(|name| format!("{at}{name}"));
        let shared = shared.into_iter().find(|name| self.weights.has(&format!("{name}.up_proj.weight")));
        let shared_gate = format!("{at}shared_expert_gate");
        Mixture {
            about,
            router: self.linear(&format!("{at}gate")),
            scale: vec![1.0; about.count],
            correction: correction.map_or(vec![0.0; about.count], |name| self.matrix(&name).concat()),
            experts: (0..about.count).map(|e| mlp(&format!("{at}experts.{e}"), [gate, up, down])).collect(),
            shared: shared.map(|name| mlp(&name, ["gate_proj", "up_proj", "down_proj"])),
            shared_gate: self
                .weights
                .has(&format!("{shared_gate}.weight"))
                .then(|| self.linear(&shared_gate)),
        }
    }

    /// gpt-oss keeps the matrices of all experts in one tensor, gate and up in turn, with a column for each output unless
    /// they are 4-bit floats.
    fn gpt_oss_mixture(&self, at: &str, about: Experts) -> Mixture {
        let (d, f) = (self.config.hidden, about.width);
        let experts = |name: &str, outputs: usize, inputs: usize| -> Vec<Linear> {
            let name = format!("{at}mlp.experts.{name}");
            let by_columns = self.weights.names().contains(&name.as_str());
            let (rows, biases) = (self.matrix(&name), self.matrix(&format!("{name}_bias")));
            let of_expert = |(rows, bias): (&[Row], Row)| {
                let column = |o: usize| rows.iter().map(|row| row[o]).collect();
                let weight = if by_columns { (0..outputs).map(column).collect() } else { rows.to_vec() };
                Linear { weight, bias }
            };
            rows.chunks(if by_columns { inputs } else { outputs }).zip(biases).map(of_expert).collect()
        };
        let mlp = |(both, down): (Linear, Linear)| FeedForward {
            gate: Some(both.rows((0..2 * f).step_by(2))),
            up: both.rows((1..2 * f).step_by(2)),
            down,
        };
        Mixture {
            about,
            router: self.linear(&format!("{at}mlp.router")),
            correction: vec![0.0; about.count],
            scale: vec![1.0; about.count],
            experts: experts("gate_up_proj", 2 * f, d)
                .into_iter()
                .zip(experts("down_proj", d, f))
                .map(mlp)
                .collect(),
            shared: None,
            shared_gate: None,
        }
    }

    /// Llama 4 keeps the matrices of all experts in one tensor, gates before what they multiply, with a column for each
    /// output.
    fn llama4_mixture(&self, at: &str, about: Experts) -> Mixture {
        let (d, f) = (self.config.hidden, about.width);
        let experts = |name: &str, inputs: usize| -> Vec<Linear> {
            let rows = self.matrix(&format!("{at}feed_forward.experts.{name}"));
            let of_expert = |rows: &[Row]| {
                let column = |o: usize| rows.iter().map(|row| row[o]).collect();
                let weight: Vec<Row> = (0..rows[0].len()).map(column).collect();
                Linear { bias: vec![0.0; weight.len()], weight }
            };
            rows.chunks(inputs).map(of_expert).collect()
        };
        let mlp = |(both, down): (Linear, Linear)| FeedForward {
            gate: Some(both.rows(0..f)),
            up: both.rows(f..2 * f),
            down,
        };
        let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"]
            .map(|name| self.linear(&format!("{at}feed_forward.shared_expert.{name}")));
        Mixture {
            about,
            router: self.linear(&format!("{at}feed_forward.router")),
            correction: vec![0.0; about.count],
            scale: vec![1.0; about.count],
            experts: experts("gate_up_proj", d).into_iter().zip(experts("down_proj", f)).map(mlp).collect(),
            shared: Some(FeedForward { gate: Some(gate), up, down }),
            shared_gate: None,
        }
    }

    /// Granite keeps the matrices of all experts in one tensor, gate and up together.
    fn granite_mixture(&self, at: &str, about: Experts) -> Mixture {
        let d = self.config.hidden;
        let rows = |name: &str| self.matrix(&format!("{at}{name}.weight"));
        let plain = |weight: &[Row]| Linear { weight: weight.to_vec(), bias: vec![0.0; weight.len()] };
        let split = |up: &[Row], down: &[Row]| {
            let (gate, up) = up.split_at(up.len() / 2);
            FeedForward { gate: Some(plain(gate)), up: plain(up), down: plain(down) }
        };
        let [ups, downs] =
            ["input_linear", "output_linear"].map(|name| rows(&format!("block_sparse_moe.{name}")));
        let experts = ups.chunks(2 * about.width).zip(downs.chunks(d)).map(|(up, down)| split(up, down));
        let shared = || split(&rows("shared_mlp.input_linear"), &rows("shared_mlp.output_linear"));
        Mixture {
            about,
            router: plain(&rows("block_sparse_moe.router.layer")),
            correction: vec![0.0; about.count],
            scale: vec![1.0; about.count],
            experts: experts.collect(),
            shared: (about.shared > 0).then(shared),
            shared_gate: None,
        }
    }

    fn qk_norms(&self, at: &str, own_keys: bool) -> [Vec<Norm>; 2] {
        let c = self.config;
        let [q, k] = match c.architecture.as_str() {
            "hunyuan_v1_dense" => ["query_layernorm", "key_layernorm"],
            "phi" | "stablelm" => ["q_layernorm", "k_layernorm"],
            _ => ["q_norm", "k_norm"],
        };
        [(q, c.heads), (k, c.kv_heads)].map(|(name, heads)| {
            let name = format!("{at}self_attn.{name}");
            match c.qk_norm {
                QkNorm::None | QkNorm::UnitRotated => vec![],
                QkNorm::OwnHead if c.architecture == "stablelm" => {
                    (0..heads).map(|head| self.norm(&format!("{name}.norms.{head}"))).collect()
                }
                QkNorm::OwnHead => {
                    let (bias, eps) = (vec![0.0; c.head_dim], f64::from(c.norm_eps));
                    let rows = self.matrix(&format!("{name}.weight")).into_iter();
                    rows.map(|weight| Norm { weight, bias: bias.clone(), eps }).collect()
                }
                _ if !own_keys && name.ends_with("k_norm") => vec![],
                _ => vec![self.norm(&name)],
            }
        })
    }

    /// GPT-NeoX keeps q, k and v of a head together.
    fn gpt_neox(&self, at: &str) -> Layer {
        let d = self.config.head_dim;
        let all = self.linear(&format!("{at}attention.query_key_value"));
        let third = |part: usize| {
            all.rows(
                (0..self.config.heads).flat_map(move |head| (0..d).map(move |i| (head * 3 + part) * d + i)),
            )
        };
        let names = ["input_layernorm", "attention.dense", "post_attention_layernorm"];
        self.plain(at, names, [third(0), third(1), third(2)], ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"])
    }

    /// BLOOM keeps them as GPT-NeoX does.
    fn bloom(&self, at: &str) -> Layer {
        let qkv = self.grouped(&self.linear(&format!("{at}self_attention.query_key_value")));
        let names = ["input_layernorm", "self_attention.dense", "post_attention_layernorm"];
        self.plain(at, names, qkv, ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"])
    }

    fn mpt(&self, at: &str) -> Layer {
        let d = self.config.hidden;
        let all = self.linear(&format!("{at}attn.Wqkv"));
        let thirds = [0..d, d..2 * d, 2 * d..3 * d].map(|part| all.rows(part));
        self.plain(at, ["norm_1", "attn.out_proj", "norm_2"], thirds, ["ffn.up_proj", "ffn.down_proj"])
    }

    /// InternLM 2 and Falcon keep q, k and v of a key head together.
    fn grouped(&self, all: &Linear) -> [Linear; 3] {
        let (d, keys, queries) =
            (self.config.head_dim, self.config.kv_heads, self.config.heads / self.config.kv_heads);
        [0..queries, queries..queries + 1, queries + 1..queries + 2].map(|part| {
            let rows = (0..keys * (queries + 2) * d).filter(|row| part.contains(&(row / d % (queries + 2))));
            all.rows(rows)
        })
    }

    fn internlm2(&self, at: &str) -> Layer {
        let linear = |name: &str| self.linear(&format!("{at}{name}"));
        let qkv = self.grouped(&linear("attention.wqkv"));
        let names = ["attention_norm", "attention.wo", "ffn_norm"];
        let plain = self.plain(at, names, qkv, ["feed_forward.w3", "feed_forward.w2"]);
        let LayerMlp::Dense(mlp) = plain.mlp else { unreachable!("the family has no experts") };
        let mlp = LayerMlp::Dense(FeedForward { gate: Some(linear("feed_forward.w1")), ..mlp });
        Layer { mlp, ..plain }
    }

    fn falcon(&self, at: &str) -> Layer {
        let qkv = self.grouped(&self.linear(&format!("{at}self_attention.query_key_value")));
        let [norm, mlp_norm] = match self.weights.has(&format!("{at}ln_mlp.weight")) {
            true => ["ln_attn", "ln_mlp"],
            false if !self.config.parallel => ["input_layernorm", "post_attention_layernorm"],
            false => ["input_layernorm", "input_layernorm"],
        };
        let names = [norm, "self_attention.dense", mlp_norm];
        self.plain(at, names, qkv, ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"])
    }

    fn gptj(&self, at: &str) -> Layer {
        let qkv = ["q", "k", "v"].map(|p| self.linear(&format!("{at}attn.{p}_proj")));
        self.plain(at, ["ln_1", "attn.out_proj", "ln_1"], qkv, ["mlp.fc_in", "mlp.fc_out"])
    }

    /// CodeGen and ProGen 2 keep `parts` times the queries, values and keys of some heads.
    fn partitioned(&self, at: &str, parts: usize) -> Layer {
        let all = self.linear(&format!("{at}attn.qkv_proj"));
        let width = self.config.hidden / parts;
        let [q, v, k] = [0, 1, 2]
            .map(|place| all.rows((0..3 * self.config.hidden).filter(|row| row / width % 3 == place)));
        self.plain(at, ["ln_1", "attn.out_proj", "ln_1"], [q, k, v], ["mlp.fc_in", "mlp.fc_out"])
    }

    fn opt(&self, at: &str) -> Layer {
        let qkv = ["q", "k", "v"].map(|p| self.linear(&format!("{at}self_attn.{p}_proj")));
        let names = ["self_attn_layer_norm", "self_attn.out_proj", "final_layer_norm"];
        self.plain(at, names, qkv, ["fc1", "fc2"])
    }

    /// GPT-2 keeps its matrices with a row for each input.
    fn gpt2(&self, at: &str) -> Layer {
        let d = self.config.hidden;
        let all = self.linear(&format!("{at}attn.c_attn"));
        let thirds = [0..d, d..2 * d, 2 * d..3 * d].map(|part| all.rows(part));
        self.plain(at, ["ln_1", "attn.c_proj", "ln_2"], thirds, ["mlp.c_fc", "mlp.c_proj"])
    }

    fn plain(
        &self,
        at: &str,
        [norm, attn_out, mlp_norm]: [&str; 3],
        [q, k, v]: [Linear; 3],
        mlp: [&str; 2],
    ) -> Layer {
        let [up, down] = mlp.map(|name| self.linear(&format!("{at}{name}")));
        let mlp = LayerMlp::Dense(FeedForward { gate: None, up, down });
        Layer { mlp, ..self.mixer_of(at, [norm, attn_out, mlp_norm], [q, k, v]) }
    }

    /// A layer but for its MLP.
    fn mixer_of(&self, at: &str, [norm, attn_out, mlp_norm]: [&str; 3], [q, k, v]: [Linear; 3]) -> Layer {
        Layer {
            attn_norm: Some(self.norm(&format!("{at}{norm}"))),
            q,
            k,
            v,
            qk_norms: [vec![], vec![]],
            latent: None,
            recurrence: None,
            beside: None,
            convolution: None,
            gate: None,
            sinks: None,
            attn_out: self.linear(&format!("{at}{attn_out}")),
            post_attn_norm: None,
            mlp_norm: Some(self.norm(&format!("{at}{mlp_norm}"))),
            mlp: LayerMlp::None,
            post_mlp_norm: None,
            stream_norms: [None, None],
            token_gate: None,
            scale: 1.0,
        }
    }

    fn linear(&self, name: &str) -> Linear {
        let mut weight = self.matrix(&format!("{name}.weight"));
        if self.config.architecture == "gpt2" && name.contains(".h.") {
            weight = (0..weight[0].len()).map(|j| weight.iter().map(|row| row[j]).collect()).collect();
        }
        Linear { bias: self.bias(name, weight.len()), weight }
    }

    fn norm(&self, name: &str) -> Norm {
        // Gemma and Nemotron keep their norms around zero.
        let family = self.config.architecture.as_str();
        let around = ["gemma", "qwen3_next", "qwen3_5"].iter().any(|f| family.starts_with(f));
        let zero = family == "nemotron" || around && !family.starts_with("gemma4");
        let offset = if zero { 1.0 } else { 0.0 };
        let weight: Row =
            self.matrix(&format!("{name}.weight")).concat().iter().map(|w| w + offset).collect();
        Norm { bias: self.bias(name, weight.len()), weight, eps: f64::from(self.config.norm_eps) }
    }

    /// The bias where there is one, or zeros.
    fn bias(&self, name: &str, len: usize) -> Row {
        let name = format!("{name}.bias");
        if self.weights.has(&name) { self.matrix(&name).concat() } else { vec![0.0; len] }
    }

    fn matrix(&self, name: &str) -> Vec<Row> {
        let shape = self.weights.shape(name).unwrap_or_else(|| panic!("there is no {name}"));
        let mut all = vec![0.0; shape.iter().product()];
        let rows = all.len() / shape.last().unwrap();
        self.weights.tensor(name, shape).unwrap().read(0..rows, &mut all).unwrap();
        all.chunks(all.len() / rows).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
    }
}
