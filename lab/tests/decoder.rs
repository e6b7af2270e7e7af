//! The decoder against a plain forward pass in f64, and its gradient against finite differences of that.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fathom_lab::decoder::{Decoder, EPSILON, Shape, THETA, loss};
use fathom_lab::recipe::Model;
use fathom_lab::weights::{Weight, gradients, weights};
use std::collections::BTreeMap;

const VOCABULARY: usize = 19;
const BATCH: usize = 2;

fn model(tied: bool, shared_layers: bool) -> Model {
    let (experts, experts_per_token, balance) = (None, None, None);
    let (width, inner) = (16, Some(24));
    Model {
        width,
        layers: 3,
        heads: 2,
        inner,
        context: 6,
        tied,
        shared_layers,
        experts,
        experts_per_token,
        balance,
    }
}

/// Three experts of width 8, of which a token takes two.
fn mixture() -> Model {
    Model { inner: Some(8), experts: Some(3), experts_per_token: None, ..model(true, false) }
}

fn tokens(salt: usize) -> Vec<usize> {
    (0..BATCH * 6).map(|i| (i * 7 + i * i + salt) % VOCABULARY).collect()
}

/// Weights by name, in f64.
type Named = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

fn named(weights: &[Weight]) -> Named {
    let wide =
        |w: &Weight| (w.name.clone(), (w.shape.clone(), w.values.iter().map(|v| f64::from(*v)).collect()));
    weights.iter().map(wide).collect()
}

/// The forward pass as a textbook has it: `[token][vocabulary]` of one sequence.
struct Reference<'a> {
    model: &'a Model,
    weights: &'a Named,
}

impl Reference<'_> {
    fn values(&self, name: &str) -> &[f64] {
        &self.weights.get(&format!("{name}.weight")).unwrap_or_else(|| panic!("{name}")).1
    }

    /// W x.
    fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
        self.values(name).chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + EPSILON).sqrt();
        x.iter().zip(self.values(name)).map(|(x, gain)| x / rms * gain).collect()
    }

    fn rotate(&self, x: &[f64], position: usize) -> Vec<f64> {
        let (size, half) = (self.model.width / self.model.heads, self.model.width / self.model.heads / 2);
        let mut turned = x.to_vec();
        for head in 0..self.model.heads {
            for i in 0..half {
                let angle = position as f64 / THETA.powf(i as f64 / half as f64);
                let (a, b) = (x[head * size + i], x[head * size + half + i]);
                turned[head * size + i] = a * angle.cos() - b * angle.sin();
                turned[head * size + half + i] = b * angle.cos() + a * angle.sin();
            }
        }
        turned
    }

    fn mlp(&self, [gate, up, down]: [String; 3], x: &[f64]) -> Vec<f64> {
        let (gate, up) = (self.product(&gate, x), self.product(&up, x));
        let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        self.product(&down, &inner)
    }

    /// The probabilities of the experts of a layer, and which a token takes.
    fn route(&self, layer: usize, x: &[f64]) -> (Vec<f64>, Vec<usize>) {
        let scores = self.product(&format!("model.layers.{layer}.block_sparse_moe.gate"), x);
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        let probabilities: Vec<f64> = scores.iter().map(|s| s.exp() / sum).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(2);
        (probabilities, order)
    }

    fn mixture(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let (probabilities, taken) = self.route(layer, x);
        let sum: f64 = taken.iter().map(|expert| probabilities[*expert]).sum();
        let mut out = vec![0.0; x.len()];
        for expert in taken {
            let name = |part: &str| format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}");
            let added = self.mlp(["w1", "w3", "w2"].map(name), x);
            out.iter_mut().zip(added).for_each(|(o, a)| *o += probabilities[expert] / sum * a);
        }
        out
    }

    fn logits(&self, tokens: &[usize]) -> Vec<Vec<f64>> {
        let (width, size) = (self.model.width, self.model.width / self.model.heads);
        let embedding = self.values("model.embed_tokens");
        let mut stream: Vec<Vec<f64>> =
            tokens.iter().map(|t| embedding[t * width..(t + 1) * width].to_vec()).collect();
        for layer in 0..self.model.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let x: Vec<Vec<f64>> = stream.iter().map(|h| self.norm(&name("input_layernorm"), h)).collect();
            let rotated = |part: &str| -> Vec<Vec<f64>> {
                x.iter().enumerate().map(|(t, x)| self.rotate(&self.product(&name(part), x), t)).collect()
            };
            let (queries, keys) = (rotated("self_attn.q_proj"), rotated("self_attn.k_proj"));
            let values: Vec<Vec<f64>> =
                x.iter().map(|x| self.product(&name("self_attn.v_proj"), x)).collect();
            for t in 0..tokens.len() {
                let mut mixed = vec![0.0; width];
                for head in 0..self.model.heads {
                    let part = head * size..(head + 1) * size;
                    let score = |s: usize| -> f64 {
                        let pairs = queries[t][part.clone()].iter().zip(&keys[s][part.clone()]);
                        (pairs.map(|(q, k)| q * k).sum::<f64>() / (size as f64).sqrt()).exp()
                    };
                    let scores: Vec<f64> = (0..=t).map(score).collect();
                    let sum: f64 = scores.iter().sum();
                    for (s, score) in scores.iter().enumerate() {
                        for i in part.clone() {
                            mixed[i] += score / sum * values[s][i];
                        }
                    }
                }
                let added = self.product(&name("self_attn.o_proj"), &mixed);
                stream[t].iter_mut().zip(added).for_each(|(h, a)| *h += a);
            }
            for h in &mut stream {
                let x = self.norm(&name("post_attention_layernorm"), h);
                let added = match self.model.experts {
                    None => self.mlp(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"].map(&name), &x),
                    Some(_) => self.mixture(layer, &x),
                };
                h.iter_mut().zip(added).for_each(|(h, m)| *h += m);
            }
        }
        let head = if self.model.tied { "model.embed_tokens" } else { "lm_head" };
        stream.iter().map(|h| self.product(head, &self.norm("model.norm", h))).collect()
    }

    /// The loss over all sequences, with label smoothing.
    fn loss(&self, inputs: &[usize], targets: &[usize], smoothing: f64) -> f64 {
        let mut sum = 0.0;
        for (inputs, targets) in inputs.chunks(6).zip(targets.chunks(6)) {
            for (logits, target) in self.logits(inputs).iter().zip(targets) {
                let total = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                let mean = logits.iter().map(|l| total - l).sum::<f64>() / logits.len() as f64;
                sum += (1.0 - smoothing) * (total - logits[*target]) + smoothing * mean;
            }
        }
        sum / inputs.len() as f64
    }
}

fn int(tokens: &[usize]) -> TensorData {
    TensorData::new(tokens.iter().map(|t| *t as i32).collect::<Vec<_>>(), [tokens.len()])
}

fn input(tokens: &[usize], device: &Device) -> Tensor<2, Int> {
    Tensor::<1, Int>::from_data(int(tokens), device).reshape([BATCH, 6])
}

#[test]
fn logits_are_those_of_a_plain_forward_pass() {
    let device = Device::default();
    for model in [model(true, false), model(false, false), model(true, true), mixture()] {
        let decoder = Decoder::new(&model, VOCABULARY, 3, &device);
        let weights = named(&weights(&decoder, model.layers).unwrap());
        let shape = Shape::of(&model, &device);
        let logits = decoder.forward(&shape, input(&tokens(0), &device), 0.0);
        let found: Vec<f32> = logits.try_into_vec_as().unwrap();
        let reference = Reference { model: &model, weights: &weights };
        let expected: Vec<f64> = tokens(0).chunks(6).flat_map(|t| reference.logits(t)).flatten().collect();
        let largest = expected.iter().fold(0.0f64, |most, l| most.max(l.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5 * largest, "{found} {expected}");
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let device = Device::default().autodiff();
    for (model, smoothing) in [(model(true, false), 0.0), (model(false, false), 0.1), (mixture(), 0.0)] {
        let decoder = Decoder::new(&model, VOCABULARY, 5, &device);
        let shape = Shape::of(&model, &device);
        let (inputs, targets) = (tokens(0), tokens(4));
        let logits = decoder.forward(&shape, input(&inputs, &device), 0.0);
        let loss = loss(logits, Tensor::from_data(int(&targets), &device), smoothing);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut grads = GradientsParams::from_grads(loss.backward(), &decoder);
        let found = gradients(&decoder, &mut grads, model.layers).unwrap();
        let mut weights = named(&weights(&decoder, model.layers).unwrap());
        let of = |weights: &Named| Reference { model: &model, weights }.loss(&inputs, &targets, smoothing);
        assert!((of(&weights) - value).abs() < 1e-5, "{value}");
        assert_eq!(found.len(), weights.len());
        for gradient in &found {
            let largest = gradient.values.iter().fold(0.0f32, |most, g| most.max(g.abs()));
            assert!(largest > 0.0, "{}", gradient.name);
            // A few elements of each tensor, at odd places.
            for at in (0..gradient.values.len()).step_by(gradient.values.len() / 5 + 1) {
                let mut shifted = |by: f64| {
                    weights.get_mut(&gradient.name).unwrap().1[at] += by;
                    let value = of(&weights);
                    weights.get_mut(&gradient.name).unwrap().1[at] -= by;
                    value
                };
                let step = 1e-5;
                let expected = (shifted(step) - shifted(-step)) / (2.0 * step);
                let error = (f64::from(gradient.values[at]) - expected).abs();
                assert!(
                    error < 1e-4 * f64::from(largest) + 1e-7,
                    "{} {at}: {error:e} of {largest:e}",
                    gradient.name
                );
            }
        }
    }
}

/// Where every expert is as likely as any other, the balance is 1; where tokens crowd, it is more, up to the number of
/// experts over that of those a token takes.
#[test]
fn an_uneven_mixture_is_told() {
    let device = Device::default();
    let model = mixture();
    let decoder = Decoder::new(&model, VOCABULARY, 3, &device);
    let shape = Shape::of(&model, &device);
    let (_, uneven) = decoder.forward_balanced(&shape, input(&tokens(0), &device), 0.0);
    let uneven = uneven.unwrap().into_scalar::<f32>();
    // Initial routers are small: probabilities are nearly equal whatever is chosen.
    assert!((uneven - 1.0).abs() < 0.05, "{uneven}");
    let dense = Decoder::new(&self::model(true, false), VOCABULARY, 3, &device);
    let shape = Shape::of(&self::model(true, false), &device);
    assert!(dense.forward_balanced(&shape, input(&tokens(0), &device), 0.0).1.is_none());
}
