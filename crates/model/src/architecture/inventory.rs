//! Missing and unread tensors of a checkpoint.

use super::{
    BesideLayout, Description, ExpertLayout, LatentLayout, Layout, MixerLayout, TensorRef, TokenLayout,
    is_other_modality,
};
use crate::config::{Config, Experts, Mixer, Positions};
use crate::error::Result;
use crate::weights::Weights;
use std::collections::BTreeSet;

/// Maximum number of tensors that a warning names.
const NAMED: usize = 3;

/// Suffixes of buffers that follow from the configuration: masks, frequencies, and scales of activations,
/// which are not quantised here.
const BUFFERS: [&str; 7] = [
    "inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attn.causal_mask",
    ".attention.bias",
    ".attention.masked_bias",
    ".input_scale",
];

impl Description {
    /// Decides from the tensors whether the head is tied to the embedding, checks that no tensor is missing,
    /// and warns about unread ones.
    ///
    /// # Errors
    /// Names the first tensor that is missing.
    pub(crate) fn settle(&mut self, weights: &Weights) -> Result<()> {
        let d = self;
        let (head, embedding) = (d.layout.head.weight(0), d.layout.embedding.weight(0));
        let mut read = d.read.clone();
        if d.config.tied && weights.has(&head) {
            // transformers ties the head only if the file has none.
            d.config.tied = weights.same(&head, &embedding);
            match d.config.tied {
                true => read.push(head),
                false => d.warnings.push(format!(
                    "the configuration ties the head to the embedding, but the weights have a head of their own, '{head}', which is used"
                )),
            }
        }
        let needed = d.layout.names(&d.config);
        needed.iter().try_for_each(|name| weights.require(name))?;
        d.warnings.extend(weights.notes().iter().cloned());
        let is_read = |name: &str| {
            needed.contains(name)
                || read.iter().any(|read| read == name)
                || weights.is_scale(name)
                || (d.config.is_causal() && is_other_modality(name))
                || BUFFERS.iter().any(|end| name.ends_with(end))
        };
        let unread: Vec<&str> = weights.names().into_iter().filter(|name| !is_read(name)).collect();
        if !unread.is_empty() {
            d.warnings.push(sentence(&unread, d));
        }
        Ok(())
    }
}

/// A warning about unread tensors, with the reason if it is obvious.
fn sentence(unread: &[&str], d: &Description) -> String {
    let named: Vec<String> = unread.iter().take(NAMED).map(|name| format!("'{name}'")).collect();
    let more = match unread.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let before = d.layout.layer_prefix();
    let layer = |name: &&str| name.strip_prefix(before)?.split('.').next()?.parse::<usize>().ok();
    let layers = unread.iter().filter_map(layer).max().map_or(0, |last| last + 1);
    let why = if layers > d.config.depth() {
        format!("; the weights have {layers} layers where the configuration says {}", d.config.depth())
    } else {
        String::new()
    };
    let verb = if unread.len() == 1 { "1 tensor is" } else { &format!("{} tensors are", unread.len()) };
    format!("{verb} not read: {}{more}{why}", named.join(", "))
}

impl Layout {
    /// The tensors of what mixes positions in a layer otherwise than by attention, or beside it.
    pub(crate) fn mixer_of(&self, config: &Config, layer: usize) -> Option<&MixerLayout> {
        self.mixer.as_ref().filter(|_| !matches!(config.layers[layer].mixer, Mixer::Attention | Mixer::None))
    }

    /// The names of all tensors that a model of this layout reads.
    fn names(&self, config: &Config) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut add = |tensor_ref: &TensorRef, layer: usize| {
            names.insert(tensor_ref.weight(layer));
            if tensor_ref.bias {
                names.insert(tensor_ref.bias(layer));
            }
        };
        add(&self.embedding, 0);
        self.final_norm.iter().for_each(|tensor_ref| add(tensor_ref, 0));
        if config.has_head() {
            let tied = TensorRef { name: self.embedding.name.clone(), ..self.head.clone() };
            add(if config.tied { &tied } else { &self.head }, 0);
        }
        let of_encoder = self.encoder.clone().unwrap_or_default();
        let once = of_encoder.token_types.into_iter().chain(self.embedding_norm.clone());
        once.chain(of_encoder.head_dense.into_iter().flatten()).for_each(|tensor_ref| add(&tensor_ref, 0));
        if config.positions == Positions::Learned {
            self.position.iter().for_each(|tensor_ref| add(tensor_ref, 0));
        }
        let token_inputs = self.token_inputs.as_ref();
        token_inputs.into_iter().flat_map(TokenLayout::once).for_each(|tensor_ref| add(tensor_ref, 0));
        for layer in 0..config.depth() {
            let has_norm = layer >= self.first_attn_norm && config.has_mixer(layer);
            let attn_norm = self.attn_norm.clone().filter(|_| has_norm);
            let mlp_norm = self.mlp_norm.clone().filter(|_| config.has_mlp(layer));
            let norms = [&attn_norm, &self.post_attn_norm, &mlp_norm, &self.post_mlp_norm];
            let latent = self.latent.iter().flat_map(LatentLayout::all);
            let (mixer, attends) = (self.mixer_of(config, layer), config.has_attention(layer));
            let values_too = !config.heads_of(layer).keys_as_values;
            let own_keys = config.layers[layer].keys_of.is_none();
            let qkv = self.qkv.iter().enumerate();
            let qkv = qkv.filter(|(i, _)| *i == 0 || own_keys && (*i != 2 || values_too)).map(|(_, at)| at);
            let of_attention =
                qkv.chain(latent).chain(&self.attn_gate).chain([&self.attn_out]).chain(&self.sinks);
            let of_attention = of_attention.filter(|_| attends);
            let matrices = of_attention.chain(mixer.iter().flat_map(|of| of.all()));
            let stream_norms = self.encoder.iter().flat_map(|of| of.stream_norms.iter().flatten());
            let beside = self.beside.iter().flat_map(BesideLayout::all);
            let norms =
                norms.into_iter().flatten().chain(stream_norms).chain(&self.layer_scalar).chain(beside);
            let norms = norms.chain(token_inputs.into_iter().flat_map(TokenLayout::of_layer));
            norms.chain(matrices).for_each(|tensor_ref| add(tensor_ref, layer));
            let mlp = config.layers[layer].mlp;
            if mlp.has_dense() {
                self.up.iter().chain([&self.down]).for_each(|tensor_ref| add(tensor_ref, layer));
            }
            if let Some(experts) = mlp.experts() {
                let all = self.experts.iter().flat_map(|names| names.of(&experts));
                all.for_each(|tensor_ref| add(&tensor_ref, layer));
            }
            let heads = [config.heads, config.kv_heads];
            let qk_norms = self.qk_norms.iter().flatten().take(if own_keys { 2 } else { 1 });
            let qk_norms = qk_norms.filter(|_| attends);
            for (norm, heads) in qk_norms.zip(heads) {
                let parts = if norm.has_heads() { heads } else { 1 };
                (0..parts).for_each(|head| add(&norm.of_head(head), layer));
            }
        }
        names
    }
}

impl TokenLayout {
    /// The tensors of all layers together.
    fn once(&self) -> [&TensorRef; 3] {
        [&self.embedding, &self.projection, &self.norm]
    }

    /// Those that every layer has.
    fn of_layer(&self) -> [&TensorRef; 3] {
        [&self.gate, &self.out, &self.gate_norm]
    }
}

impl ExpertLayout {
    /// The names of the matrices of the experts that tokens choose from, in layer `l`.
    pub(crate) fn of_routed(&self, experts: &Experts, l: usize) -> BTreeSet<String> {
        let of = |matrix: &TensorRef| -> Vec<String> {
            (0..experts.count).map(|expert| matrix.of_expert(expert, experts.count).weight(l)).collect()
        };
        self.up.iter().chain([&self.down]).flat_map(of).collect()
    }

    /// The tensors of one layer.
    fn of(&self, experts: &Experts) -> Vec<TensorRef> {
        let mut all = vec![self.router.clone()];
        all.extend(self.correction.clone().filter(|_| experts.routing.correction));
        all.extend(self.shared_gate.clone().filter(|_| experts.shared_gate));
        let shared = self.shared.iter().filter(|_| experts.shared > 0);
        all.extend(shared.flat_map(|(up, down)| up.iter().chain([down]).cloned()));
        for matrix in self.up.iter().chain([&self.down]) {
            let tensors = if matrix.has_experts() { experts.count } else { 1 };
            all.extend((0..tensors).map(|expert| matrix.of_expert(expert, experts.count)));
        }
        all
    }
}
