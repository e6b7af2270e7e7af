//! What Gemma 4 has beyond Gemma 3.

use super::experts::{FeedForward, Mixture};
use super::{Norm, Reader, Row, add};
use fathom_kernels::elementwise::Activation;
use fathom_model::config::{Config, Experts, NormKind};
use fathom_model::weights::Weights;

/// The norms of experts beside a dense MLP.
pub(super) struct Beside {
    dense_out: Norm,
    before: Norm,
    behind: Norm,
    router: Norm,
}

impl Beside {
    /// What both return for a row of the stream, from what the dense MLP does.
    pub(super) fn of(&self, kind: Activation, x: &[f64], dense: &[f64], mixture: &Mixture) -> Row {
        let mut of_experts = vec![0.0; x.len()];
        let read = self.before.of(NormKind::Rms, x);
        for (expert, weight) in mixture.route(&self.routed(x)) {
            let out: Row = mixture.experts[expert].of(kind, &read).iter().map(|y| weight * y).collect();
            of_experts = add(&of_experts, &out);
        }
        add(&self.dense_out.of(NormKind::Rms, dense), &self.behind.of(NormKind::Rms, &of_experts))
    }

    /// What the router reads.
    pub(super) fn routed(&self, x: &[f64]) -> Row {
        let root = (x.len() as f64).sqrt();
        self.router.of(NormKind::Rms, x).iter().map(|x| x / root).collect()
    }
}

/// What the stream before each layer and the last one is multiplied by: the numbers of the layers from there on, and a power
/// of two where the first of them would be below 2^-14.
pub(super) fn scales(config: &Config, weights: &Weights, at: &str) -> Vec<f64> {
    let scalar = |l: usize| {
        let name = format!("{at}layers.{l}.layer_scalar");
        if weights.has(&name) { f64::from(weights.vector(&name, 1).unwrap()[0]) } else { 1.0 }
    };
    let from = |l: usize| -> f64 { (l..config.depth()).map(scalar).product() };
    let least = (0..=config.depth()).map(from).fold(1.0, f64::min);
    let lift = (0..64).map(|k| f64::from(2).powi(k)).find(|lift| least * lift >= 2f64.powi(-14)).unwrap();
    (0..=config.depth()).map(|l| from(l) * lift).collect()
}

impl Reader<'_> {
    pub(super) fn beside(&self, at: &str) -> Beside {
        let norm = |name: &str| self.norm(&format!("{at}{name}"));
        let weight = self.matrix(&format!("{at}router.scale")).concat();
        Beside {
            dense_out: norm("post_feedforward_layernorm_1"),
            before: norm("pre_feedforward_layernorm_2"),
            behind: norm("post_feedforward_layernorm_2"),
            router: Norm { bias: vec![0.0; weight.len()], weight, eps: f64::from(self.config.norm_eps) },
        }
    }

    /// The experts, whose matrices lie in two tensors, gates before what they multiply.
    pub(super) fn gemma4_mixture(&self, at: &str, about: Experts) -> Mixture {
        let (d, f) = (self.config.hidden, about.width);
        let rows = |name: &str| self.matrix(&format!("{at}experts.{name}"));
        let (ups, downs) = (rows("gate_up_proj"), rows("down_proj"));
        let plain = |weight: &[Row]| super::Linear { weight: weight.to_vec(), bias: vec![0.0; weight.len()] };
        let mlp = |(up, down): (&[Row], &[Row])| FeedForward {
            gate: Some(plain(&up[..f])),
            up: plain(&up[f..]),
            down: plain(down),
        };
        Mixture {
            about,
            router: self.linear(&format!("{at}router.proj")),
            correction: vec![0.0; about.count],
            scale: self.matrix(&format!("{at}router.per_expert_scale")).concat(),
            experts: ups.chunks(2 * f).zip(downs.chunks(d)).map(mlp).collect(),
            shared: None,
            shared_gate: None,
        }
    }
}
