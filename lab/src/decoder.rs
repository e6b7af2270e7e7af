//! A decoder as Llama's: RMSNorm, rotary embeddings, SwiGLU, no biases; or as Mixtral's, with experts.

use crate::random::{normal, stream};
use crate::recipe::Model;
use burn::module::{Module, Param};
use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};

/// The epsilon of RMSNorm.
pub const EPSILON: f64 = 1e-5;
/// The base of the rotary frequencies.
pub const THETA: f64 = 10_000.0;
/// The standard deviation of initial weights.
const SPREAD: f64 = 0.02;

/// The weights, named as in Hugging Face's checkpoints.
#[derive(Module, Debug)]
pub struct Decoder {
    /// `[vocabulary, width]`
    embed_tokens: Param<Tensor<2>>,
    /// One for all layers where they share weights.
    layers: Vec<Layer>,
    /// `[width]`
    norm: Param<Tensor<1>>,
    /// `[vocabulary, width]`; absent if it is that of the embedding.
    lm_head: Option<Param<Tensor<2>>>,
}

/// The weights of a layer; matrices are `[outputs, inputs]`.
#[derive(Module, Debug)]
struct Layer {
    input_layernorm: Param<Tensor<1>>,
    q_proj: Param<Tensor<2>>,
    k_proj: Param<Tensor<2>>,
    v_proj: Param<Tensor<2>>,
    o_proj: Param<Tensor<2>>,
    post_attention_layernorm: Param<Tensor<1>>,
    /// `[experts, width]`; absent from a dense layer.
    router: Option<Param<Tensor<2>>>,
    /// One, or the experts.
    mlp: Vec<Mlp>,
}

/// The weights of an MLP; matrices are `[outputs, inputs]`.
#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Param<Tensor<2>>,
    up_proj: Param<Tensor<2>>,
    down_proj: Param<Tensor<2>>,
}

/// What does not change in training.
#[derive(Debug)]
pub struct Shape {
    layers: usize,
    heads: usize,
    /// Experts that a token takes.
    taken: usize,
    /// `[1, 1, context, size of a head / 2]`
    cosines: Tensor<4>,
    sines: Tensor<4>,
    /// Where attention may not look: `[1, 1, context, context]`.
    ahead: Tensor<4, Bool>,
}

impl Shape {
    /// The tables of a model on a device.
    pub fn of(model: &Model, device: &Device) -> Self {
        let (context, half) = (model.context, model.width / model.heads / 2);
        let angles: Vec<f64> = (0..context)
            .flat_map(|t| (0..half).map(move |i| t as f64 * THETA.powf(-(i as f64) / half as f64)))
            .collect();
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| of(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, context, half]), device)
        };
        let ahead: Vec<bool> = (0..context * context).map(|i| i % context > i / context).collect();
        Self {
            layers: model.layers,
            heads: model.heads,
            taken: model.mixture().map_or(0, |(_, taken)| taken),
            cosines: table(f64::cos),
            sines: table(f64::sin),
            ahead: Tensor::from_data(TensorData::new(ahead, [1, 1, context, context]), device),
        }
    }
}

impl Decoder {
    /// Random weights from a seed, the same on every device: normal with a standard deviation of 0.02, divided by √(2 L) for
    /// what is added to the stream (GPT-2).
    pub fn new(model: &Model, vocabulary: usize, seed: u64, device: &Device) -> Self {
        let (width, inner) = (model.width, model.inner());
        let mut random = stream(seed, 0);
        let added = SPREAD / (2.0 * model.layers as f64).sqrt();
        let mut matrix = |rows: usize, columns: usize, spread: f64| {
            let values: Vec<f32> =
                (0..rows * columns).map(|_| (spread * normal(&mut random)) as f32).collect();
            Param::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let ones = || Param::from_data(TensorData::new(vec![1.0f32; width], [width]), device);
        let embed_tokens = matrix(vocabulary, width, SPREAD);
        let layers = if model.shared_layers { 1 } else { model.layers };
        let layers = (0..layers)
            .map(|_| Layer {
                input_layernorm: ones(),
                q_proj: matrix(width, width, SPREAD),
                k_proj: matrix(width, width, SPREAD),
                v_proj: matrix(width, width, SPREAD),
                o_proj: matrix(width, width, added),
                post_attention_layernorm: ones(),
                router: model.mixture().map(|(experts, _)| matrix(experts, width, SPREAD)),
                mlp: (0..model.mixture().map_or(1, |(experts, _)| experts))
                    .map(|_| Mlp {
                        gate_proj: matrix(inner, width, SPREAD),
                        up_proj: matrix(inner, width, SPREAD),
                        down_proj: matrix(width, inner, added),
                    })
                    .collect(),
            })
            .collect();
        let lm_head = (!model.tied).then(|| matrix(vocabulary, width, SPREAD));
        Self { embed_tokens, layers, norm: ones(), lm_head }
    }

    /// Whether its MLPs are mixtures of experts.
    pub fn has_experts(&self) -> bool {
        self.layers.iter().any(|layer| layer.router.is_some())
    }

    /// How many layers have weights of their own.
    pub fn distinct_layers(&self) -> usize {
        self.layers.len()
    }

    /// Logits `[batch, context, vocabulary]` of tokens `[batch, context]`, with dropout of this share of the activations.
    pub fn forward(&self, shape: &Shape, tokens: Tensor<2, Int>, dropout: f64) -> Tensor<3> {
        self.forward_balanced(shape, tokens, dropout).0
    }

    /// As [`Self::forward`], with how unevenly tokens are spread over experts, where there are some: the mean over layers
    /// of E Σ (share of the tokens' choices) (mean probability), which is 1 where all are equal (Switch, equation 4).
    pub fn forward_balanced(
        &self,
        shape: &Shape,
        tokens: Tensor<2, Int>,
        dropout: f64,
    ) -> (Tensor<3>, Option<Tensor<1>>) {
        let [batch, context] = tokens.dims();
        let embedding = self.embed_tokens.val();
        let [vocabulary, width] = embedding.dims();
        let rows = embedding.clone().select(0, tokens.reshape([batch * context]));
        let mut stream = dropped(rows.reshape([batch, context, width]), dropout);
        let mut uneven: Option<Tensor<1>> = None;
        for i in 0..shape.layers {
            let layer = &self.layers[i.min(self.layers.len() - 1)];
            let attention = layer.attention(shape, normed(stream.clone(), &layer.input_layernorm), dropout);
            stream = stream + dropped(attention, dropout);
            let input = normed(stream.clone(), &layer.post_attention_layernorm);
            let (mlp, of_layer) = layer.mlp(shape, input);
            uneven = of_layer.map(|of_layer| match uneven.take() {
                Some(sum) => sum + of_layer,
                None => of_layer,
            });
            stream = stream + dropped(mlp, dropout);
        }
        let head = self.lm_head.as_ref().map_or(embedding, Param::val);
        let logits = product(normed(stream, &self.norm), head).reshape([batch, context, vocabulary]);
        (logits, uneven.map(|sum| sum.div_scalar(shape.layers as f64)))
    }
}

impl Layer {
    fn attention(&self, shape: &Shape, x: Tensor<3>, dropout: f64) -> Tensor<3> {
        let [batch, context, width] = x.dims();
        let size = width / shape.heads;
        let heads = |weight: &Param<Tensor<2>>| {
            product(x.clone(), weight.val()).reshape([batch, context, shape.heads, size]).swap_dims(1, 2)
        };
        let query = rotated(heads(&self.q_proj), shape);
        let key = rotated(heads(&self.k_proj), shape);
        let scores = query.matmul(key.swap_dims(2, 3)).mul_scalar(1.0 / (size as f64).sqrt());
        let ahead = shape.ahead.clone().slice([0..1, 0..1, 0..context, 0..context]);
        let weights = softmax(
            scores.mask_fill(ahead.expand([batch, shape.heads, context, context]), f32::NEG_INFINITY),
            3,
        );
        let mixed = dropped(weights, dropout).matmul(heads(&self.v_proj));
        product(mixed.swap_dims(1, 2).reshape([batch, context, width]), self.o_proj.val())
    }

    /// What the MLP adds, and how unevenly tokens are spread over experts.
    fn mlp(&self, shape: &Shape, x: Tensor<3>) -> (Tensor<3>, Option<Tensor<1>>) {
        let Some(router) = &self.router else { return (self.mlp[0].forward(x), None) };
        let experts = self.mlp.len();
        let probabilities = softmax(product(x.clone(), router.val()), 2);
        // The least of the chosen; on models this small every expert can see every token.
        let least = probabilities.clone().detach().topk(shape.taken, 2).min_dim(2);
        let chosen = probabilities.clone().detach().greater_equal(least.expand(probabilities.dims())).float();
        let weights = probabilities.clone() * chosen.clone();
        let weights = weights.clone() / weights.sum_dim(2);
        let mean = |x: Tensor<3>| x.mean_dim(0).mean_dim(1).reshape([experts]);
        let uneven = (mean(chosen).div_scalar(shape.taken as f64) * mean(probabilities)).sum();
        let [batch, context, _] = x.dims();
        let mut sum: Option<Tensor<3>> = None;
        for (expert, mlp) in self.mlp.iter().enumerate() {
            let weight = weights.clone().slice([0..batch, 0..context, expert..expert + 1]);
            let out = mlp.forward(x.clone()) * weight;
            sum = Some(match sum.take() {
                Some(sum) => sum + out,
                None => out,
            });
        }
        (sum.expect("a mixture has experts"), Some(uneven.mul_scalar(experts as f64)))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = silu(product(x.clone(), self.gate_proj.val()));
        product(gate * product(x, self.up_proj.val()), self.down_proj.val())
    }
}

/// x Wᵀ over the last dimension.
fn product(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, context, width] = x.dims();
    let [outputs, _] = weight.dims();
    x.reshape([batch * context, width]).matmul(weight.transpose()).reshape([batch, context, outputs])
}

fn normed(x: Tensor<3>, gain: &Param<Tensor<1>>) -> Tensor<3> {
    let rms = x.clone().square().mean_dim(2).add_scalar(EPSILON).sqrt();
    x / rms * gain.val().unsqueeze()
}

/// Rotary embeddings: element i of a head is turned with element i + half.
fn rotated(x: Tensor<4>, shape: &Shape) -> Tensor<4> {
    let [batch, heads, context, size] = x.dims();
    let half = size / 2;
    let part = |from: usize| x.clone().slice([0..batch, 0..heads, 0..context, from..from + half]);
    let (first, second) = (part(0), part(half));
    let table = |table: &Tensor<4>| table.clone().slice([0..1, 0..1, 0..context, 0..half]);
    let (cosines, sines) = (table(&shape.cosines), table(&shape.sines));
    let turned = first.clone() * cosines.clone() - second.clone() * sines.clone();
    Tensor::cat(vec![turned, second * cosines + first * sines], 3)
}

/// Zeroes a share of the elements and scales the others, so that the mean stays.
fn dropped<const D: usize>(x: Tensor<D>, share: f64) -> Tensor<D> {
    if share == 0.0 {
        return x;
    }
    let kept = Tensor::<D>::random(x.dims(), Distribution::Bernoulli(1.0 - share), &x.device());
    x * kept.mul_scalar(1.0 / (1.0 - share))
}

/// The mean negative log-likelihood of targets `[batch * context]` in nats, with label smoothing: that share of the weight is
/// spread over the whole vocabulary.
pub fn loss(logits: Tensor<3>, targets: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let [batch, context, vocabulary] = logits.dims();
    let log_probabilities = log_softmax(logits.reshape([batch * context, vocabulary]), 1);
    let right = log_probabilities.clone().gather(1, targets.reshape([batch * context, 1]));
    let loss = right.mean().neg();
    match smoothing > 0.0 {
        true => loss.mul_scalar(1.0 - smoothing) - log_probabilities.mean().mul_scalar(smoothing),
        false => loss,
    }
}
