//! What Gemma 4 has beyond Gemma 3.

use super::experts::{FeedForward, Mixture};
use super::{Linear, Norm, Reader, Reference, Row, activation, add};
use fathom_kernels::elementwise::Activation;
use fathom_model::config::{Config, Experts, NormKind};
use fathom_model::weights::Weights;
use std::cell::RefCell;
use std::collections::BTreeMap;

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

/// What adds an embedding of the layer to the stream.
pub(super) struct TokenGate {
    gate: Linear,
    out: Linear,
    norm: Norm,
}

impl TokenGate {
    pub(super) fn of(&self, kind: Activation, x: &[f64], inputs: &[f64]) -> Row {
        let gated: Row =
            self.gate.of(x).iter().zip(inputs).map(|(x, input)| activation(kind, *x) * input).collect();
        self.norm.of(NormKind::Rms, &self.out.of(&gated))
    }
}

/// Keys and values by position and head.
type Keys = (Vec<Vec<Row>>, Vec<Vec<Row>>);

/// What layers read beside the stream of the last text that was embedded.
#[derive(Default)]
pub(super) struct Side {
    /// The embeddings of all layers, the projection of the model's, and the norm on it.
    tables: Option<(Vec<Row>, Linear, Norm)>,
    /// By position, those of all layers behind each other.
    inputs: RefCell<Vec<Row>>,
    /// By the layer that has made them last.
    keys: RefCell<BTreeMap<usize, Keys>>,
    /// As the clean run has them.
    clean: RefCell<BTreeMap<usize, Keys>>,
}

impl Side {
    pub(super) fn new(read: &Reader<'_>, at: &str) -> Self {
        let tables = read.config.token_inputs.map(|_| {
            let table = read.matrix(&format!("{at}embed_tokens_per_layer.weight"));
            let projection = read.linear(&format!("{at}per_layer_model_projection"));
            (table, projection, read.norm(&format!("{at}per_layer_projection_norm")))
        });
        Self { tables, ..Self::default() }
    }

    /// Makes the inputs of a text ready: `(norm(P e / sqrt(d)) + sqrt(p) own) / sqrt(2)`.
    pub(super) fn read(&self, reference: &Reference, tokens: &[u32]) {
        let Some((table, projection, norm)) = &self.tables else { return };
        let (d, width) = (reference.config.hidden as f64, norm.weight.len());
        let row = |token: &u32| -> Row {
            let scale = f64::from(reference.config.embedding_scale);
            let embedded: Row =
                reference.embedding.weight[*token as usize].iter().map(|x| x * scale).collect();
            let context: Row = projection.of(&embedded).iter().map(|x| x / d.sqrt()).collect();
            let context = context.chunks(width).flat_map(|part| norm.of(NormKind::Rms, part));
            let own = table[*token as usize].iter().map(|x| x * (width as f64).sqrt());
            context.zip(own).map(|(context, own)| (context + own) / 2f64.sqrt()).collect()
        };
        *self.inputs.borrow_mut() = tokens.iter().map(row).collect();
    }

    /// The inputs of a layer at a position.
    pub(super) fn inputs(&self, l: usize, position: usize) -> Row {
        let width = self.tables.as_ref().map_or(0, |(.., norm)| norm.weight.len());
        self.inputs.borrow()[position][l * width..(l + 1) * width].to_vec()
    }

    /// Keeps the keys and values of layer `l`, or gives it those of the layer that it reads.
    pub(super) fn share(&self, from: Option<usize>, l: usize, k: &mut Vec<Vec<Row>>, v: &mut Vec<Vec<Row>>) {
        match from {
            Some(from) => (*k, *v) = self.keys.borrow()[&from].clone(),
            None => drop(self.keys.borrow_mut().insert(l, (k.clone(), v.clone()))),
        }
    }

    /// Remembers the keys of the clean run, which has just gone through all layers.
    pub(super) fn keep(&self) {
        self.clean.replace(self.keys.borrow().clone());
    }

    /// Begins another run with the keys of the clean one.
    pub(super) fn restore(&self) {
        self.keys.replace(self.clean.borrow().clone());
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
    pub(super) fn token_gate(&self, at: &str) -> Option<TokenGate> {
        self.config.token_inputs.map(|_| TokenGate {
            gate: self.linear(&format!("{at}per_layer_input_gate")),
            out: self.linear(&format!("{at}per_layer_projection")),
            norm: self.norm(&format!("{at}post_per_layer_input_norm")),
        })
    }

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
        let plain = |weight: &[Row]| Linear { weight: weight.to_vec(), bias: vec![0.0; weight.len()] };
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
