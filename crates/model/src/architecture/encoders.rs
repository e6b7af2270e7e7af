//! Encoders, whose attention sees both sides: ESM-2, BERT (with ProtBERT and AntiBERTy), RoBERTa, DistilBERT, ModernBERT.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::plain::Sizes;
use super::{Description, EncoderLayout, Fields, Layout, TensorRef, llama};
use crate::config::{Config, Encoder, Head, Layer, Positions};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers.
pub(super) const ESM: &str = r#"{
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 1026, "layer_norm_eps": 1e-12, "tie_word_embeddings": true
}"#;
pub(super) const BERT: &str = r#"{
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "pad_token_id": 0, "tie_word_embeddings": true
}"#;
pub(super) const ROBERTA: &str = r#"{
    "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "pad_token_id": 1, "tie_word_embeddings": true
}"#;
pub(super) const DISTILBERT: &str = r#"{
    "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "activation": "gelu",
    "max_position_embeddings": 512, "tie_word_embeddings": true
}"#;
pub(super) const MODERNBERT: &str = r#"{
    "vocab_size": 50368, "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
    "intermediate_size": 1152, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
    "norm_bias": false, "attention_bias": false, "mlp_bias": false, "decoder_bias": true, "classifier_bias": false,
    "classifier_activation": "gelu", "local_attention": 128, "global_attn_every_n_layers": 3,
    "tie_word_embeddings": true
}"#;

/// The fields of a configuration by what they hold, where families name them differently.
struct Named {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    intermediate: &'static str,
}

const USUAL: Named = Named {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    intermediate: "intermediate_size",
};

/// What most encoders share: learned positions, norms with biases behind the additions, a head that is tied.
fn config(f: &Fields<'_>, name: &str, named: &Named, activation: Activation) -> Result<Config> {
    let (hidden, heads) = (f.usize(named.hidden)?, f.usize(named.heads)?);
    if hidden / heads.max(1) * heads != hidden {
        return f.fail(format!("{heads} heads cannot share a stream of width {hidden} evenly"));
    }
    if f.bool_or("is_decoder", false)? {
        return f.fail("'is_decoder' is true, which is not supported for an encoder; choose a masked model");
    }
    let sizes = Sizes {
        hidden,
        heads,
        intermediate: f.usize(named.intermediate)?,
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers: f.plain_layers(named.layers)?,
    };
    Ok(Config {
        norm_eps: 1e-12,
        pre_norm: false,
        activation,
        tied: f.bool_or("tie_word_embeddings", true)?,
        encoder: Some(Encoder { token_types: 0, token_dropout: None, head: Head::None }),
        ..sizes.config(name)
    })
}

/// The names of a layer's tensors.
struct Block<'a> {
    /// Before them, with `{}` for the layer.
    layer: &'a str,
    qkv: &'a [&'a str],
    attn_out: &'a str,
    up: &'a str,
    down: &'a str,
}

impl Block<'_> {
    fn name(&self, name: &str) -> TensorRef {
        TensorRef::new(format!("{}{name}", self.layer)).biased(true)
    }

    /// The layout of the blocks, without their norms and without a head.
    fn layout(&self, embedding: String, encoder: EncoderLayout) -> Layout {
        Layout {
            head: TensorRef::new(embedding.clone()),
            embedding: TensorRef::new(embedding),
            position: None,
            first_position: 0,
            final_norm: None,
            attn_norm: None,
            qkv: self.qkv.iter().map(|name| self.name(name)).collect(),
            qk_norms: None,
            layer_scalar: None,
            token_inputs: None,
            beside: None,
            latent: None,
            mixer: None,
            attn_gate: None,
            attn_out: self.name(self.attn_out),
            post_attn_norm: None,
            mlp_norm: None,
            up: vec![self.name(self.up)],
            down: self.name(self.down),
            experts: None,
            first_attn_norm: 0,
            sinks: None,
            embedding_norm: None,
            normalised_head: false,
            post_mlp_norm: None,
            norm_offset: 0.0,
            encoder: Some(encoder),
        }
    }
}

/// The names of a masked head: the dense matrix, its norm, the unembedding and its bias.
struct HeadNames<'a> {
    dense: &'a str,
    norm: &'a str,
    decoder: &'a str,
    bias: &'a [&'a str],
}

/// Adds the head, if the weights have it. A model without one is measured by what needs no logits.
fn add_head(d: &mut Description, weights: &Weights, names: &HeadNames<'_>, activation: Activation) {
    let Some(bias) = names.bias.iter().find(|bias| weights.has(bias)) else { return };
    if !weights.has(&format!("{}.weight", names.dense)) {
        return;
    }
    if let (Some(encoder), Some(at)) = (&mut d.config.encoder, &mut d.layout.encoder) {
        encoder.head = Head::Dense(activation);
        let dense = TensorRef::new(names.dense).biased(true);
        at.head_dense = Some([dense, TensorRef::new(names.norm).biased(true)]);
        d.layout.head = TensorRef::new(names.decoder).biased_by((*bias).to_owned());
        // Some files store the bias a second time.
        d.read.extend(names.bias.iter().map(|bias| (*bias).to_owned()));
    }
}

/// Marks tensors of heads for other purposes as known: what the model was also trained for does not change its layers.
fn ignore_other_heads(d: &mut Description, weights: &Weights, prefixes: &[String]) {
    let of_head = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    d.read.extend(weights.names().into_iter().filter(of_head).map(str::to_owned));
}

pub(super) fn esm(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut c = config(f, "esm", &USUAL, Activation::GeluErf)?;
    if f.bool_or("is_folding_model", false)? {
        return f.fail(
            "'is_folding_model' is true: the folding module is not supported; choose the language model",
        );
    }
    f.ignore(&["hidden_act", "esmfold_config", "vocab_list", "backend", "mask_token_id", "rope_theta"]);
    c.pre_norm = true;
    c.norm_eps = f.f64_or("layer_norm_eps", 1e-12)? as f32;
    let prefix = llama::prefix(weights, "embeddings.word_embeddings", "esm.");
    let layer = format!("{prefix}encoder.layer.{{}}.");
    let block = Block {
        layer: &layer,
        qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
        attn_out: "attention.output.dense",
        up: "intermediate.dense",
        down: "output.dense",
    };
    let mut at = block.layout(format!("{prefix}embeddings.word_embeddings"), EncoderLayout::default());
    match f.opt_str("position_embedding_type")?.unwrap_or("absolute") {
        "rotary" => c.positions = Positions::Rotary(vec![f.rope(&RopePlace::USUAL, c.head_dim)?]),
        "absolute" => {
            at.position = Some(TensorRef::new(format!("{prefix}embeddings.position_embeddings")));
            learned_after_padding(f, &mut c, &mut at)?;
        }
        other => return f.fail(format!("'position_embedding_type' is '{other}', which is not supported")),
    }
    if let (Some(encoder), true) = (&mut c.encoder, f.bool_or("token_dropout", false)?) {
        let Some(mask) = f.opt_usize("mask_token_id")? else {
            return f.fail("'token_dropout' is set, but 'mask_token_id' is missing");
        };
        encoder.token_dropout = u32::try_from(mask).ok();
    }
    if f.bool_or("emb_layer_norm_before", false)? {
        at.embedding_norm = Some(TensorRef::new(format!("{prefix}embeddings.layer_norm")).biased(true));
    }
    at.attn_norm = Some(block.name("attention.LayerNorm"));
    at.mlp_norm = Some(block.name("LayerNorm"));
    at.final_norm = Some(TensorRef::new(format!("{prefix}encoder.emb_layer_norm_after")).biased(true));
    let mut d = Description::new(c, at);
    let head = HeadNames {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder",
        bias: &["lm_head.bias"],
    };
    add_head(&mut d, weights, &head, Activation::GeluErf);
    let others = ["contact_head.", "pooler.", "embeddings.position_"];
    ignore_other_heads(&mut d, weights, &others.map(|name| format!("{prefix}{name}")));
    Ok(d)
}

/// Learned positions that begin behind the row of the padding token.
fn learned_after_padding(f: &Fields<'_>, c: &mut Config, at: &mut Layout) -> Result<()> {
    at.first_position = f.usize("pad_token_id")?.saturating_add(1);
    let Some(context) = c.context.checked_sub(at.first_position).filter(|context| *context > 0) else {
        return f.fail(format!(
            "'max_position_embeddings' is {}, which leaves no position behind 'pad_token_id'",
            c.context
        ));
    };
    c.context = context;
    Ok(())
}

/// The layers of BERT and RoBERTa.
fn bert_like(f: &Fields<'_>, weights: &Weights, name: &str) -> Result<Description> {
    let mut c = config(f, name, &USUAL, f.activation("hidden_act", "gelu")?)?;
    c.norm_eps = f.f64_or("layer_norm_eps", 1e-12)? as f32;
    match f.opt_str("position_embedding_type")?.unwrap_or("absolute") {
        "absolute" => {}
        other => {
            return f.fail(format!(
                "'position_embedding_type' is '{other}', which is not supported; absolute is"
            ));
        }
    }
    let token_types = f.usize("type_vocab_size")?;
    if let Some(encoder) = &mut c.encoder {
        encoder.token_types = token_types;
    }
    let prefix = llama::prefix(weights, "embeddings.word_embeddings", &format!("{name}."));
    let layer = format!("{prefix}encoder.layer.{{}}.");
    let block = Block {
        layer: &layer,
        qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
        attn_out: "attention.output.dense",
        up: "intermediate.dense",
        down: "output.dense",
    };
    let of = |name: &str| TensorRef::new(format!("{prefix}embeddings.{name}"));
    let encoder = EncoderLayout {
        token_types: (token_types > 0).then(|| of("token_type_embeddings")),
        stream_norms: Some(["attention.output.LayerNorm", "output.LayerNorm"].map(|name| block.name(name))),
        head_dense: None,
    };
    let mut at = block.layout(format!("{prefix}embeddings.word_embeddings"), encoder);
    at.embedding_norm = Some(TensorRef::new(format!("{prefix}embeddings.LayerNorm")).biased(true));
    at.position = Some(of("position_embeddings"));
    let mut d = Description::new(c, at);
    let others = ["pooler.", "embeddings.position_ids"].map(|name| format!("{prefix}{name}"));
    ignore_other_heads(&mut d, weights, &others);
    Ok(d)
}

pub(super) fn bert(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = bert_like(f, weights, "bert")?;
    f.ignore(&["pad_token_id"]);
    let activation = d.config.activation;
    let head = HeadNames {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
    };
    add_head(&mut d, weights, &head, activation);
    ignore_other_heads(
        &mut d,
        weights,
        &["seq_relationship", "species", "chain", "graft"].map(|head| format!("cls.{head}.")),
    );
    Ok(d)
}

pub(super) fn roberta(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = bert_like(f, weights, "roberta")?;
    learned_after_padding(f, &mut d.config, &mut d.layout)?;
    let head = HeadNames {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder",
        bias: &["lm_head.bias", "lm_head.decoder.bias"],
    };
    add_head(&mut d, weights, &head, Activation::GeluErf);
    Ok(d)
}

pub(super) fn distilbert(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let named = Named { hidden: "dim", layers: "n_layers", heads: "n_heads", intermediate: "hidden_dim" };
    let activation = f.activation("activation", "gelu")?;
    let c = config(f, "distilbert", &named, activation)?;
    // The sines are stored like learned positions.
    f.ignore(&["sinusoidal_pos_embds", "pad_token_id", "dropout", "qa_dropout", "seq_classif_dropout"]);
    let prefix = llama::prefix(weights, "embeddings.word_embeddings", "distilbert.");
    let layer = format!("{prefix}transformer.layer.{{}}.");
    let block = Block {
        layer: &layer,
        qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        attn_out: "attention.out_lin",
        up: "ffn.lin1",
        down: "ffn.lin2",
    };
    let encoder = EncoderLayout {
        token_types: None,
        stream_norms: Some(["sa_layer_norm", "output_layer_norm"].map(|name| block.name(name))),
        head_dense: None,
    };
    let mut at = block.layout(format!("{prefix}embeddings.word_embeddings"), encoder);
    at.embedding_norm = Some(TensorRef::new(format!("{prefix}embeddings.LayerNorm")).biased(true));
    at.position = Some(TensorRef::new(format!("{prefix}embeddings.position_embeddings")));
    let mut d = Description::new(c, at);
    let head = HeadNames {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        decoder: "vocab_projector",
        bias: &["vocab_projector.bias"],
    };
    add_head(&mut d, weights, &head, activation);
    Ok(d)
}

/// The rotary embeddings of ModernBERT's layers with full attention, and of the others.
const GLOBAL: RopePlace =
    RopePlace { kind: Some(FULL_ATTENTION), theta: (&["global_rope_theta"], 160_000.0), ..RopePlace::USUAL };
const LOCAL: RopePlace = RopePlace {
    kind: Some("sliding_attention"),
    theta: (&["local_rope_theta"], 10_000.0),
    ..RopePlace::USUAL
};

pub(super) fn modernbert(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut c = config(f, "modernbert", &USUAL, f.activation("hidden_activation", "gelu")?)?;
    c.norm_eps = f.f64_or("norm_eps", 1e-5)? as f32;
    c.pre_norm = true;
    c.gated = true;
    c.positions = Positions::Rotary(vec![f.rope(&GLOBAL, c.head_dim)?, f.rope(&LOCAL, c.head_dim)?]);
    let every = f.usize("global_attn_every_n_layers")?.max(1);
    let types = f.strings("layer_types")?;
    let window = f.usize("local_attention")? / 2 + 1;
    let is_local = |l: usize| match &types {
        Some(types) => types.get(l).is_some_and(|kind| *kind == "sliding_attention"),
        None => !l.is_multiple_of(every),
    };
    if types.as_ref().is_some_and(|types| types.len() != c.depth()) {
        return f.fail(format!("'layer_types' does not name {} layers", c.depth()));
    }
    c.layers = (0..c.depth())
        .map(|l| match is_local(l) {
            true => Layer { window: Some(window), rope: Some(1), ..Layer::default() },
            false => Layer::default(),
        })
        .collect();
    let own = ["classifier_pooling", "classifier_dropout", "deterministic_flash_attn", "sparse_prediction"];
    f.ignore(&own);
    f.ignore(&["sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad", "mlp_dropout"]);
    f.ignore(&["embedding_dropout", "initializer_cutoff_factor", "cls_token_id", "position_embedding_type"]);
    f.ignore(&["layer_norm_eps", "pad_token_id", "vocab_pad"]);
    modernbert_layout(f, weights, c)
}

fn modernbert_layout(f: &Fields<'_>, weights: &Weights, c: Config) -> Result<Description> {
    let norm_bias = f.bool_or("norm_bias", false)?;
    let (attention_bias, mlp_bias) = (f.bool_or("attention_bias", false)?, f.bool_or("mlp_bias", false)?);
    let activation = f.activation("classifier_activation", "gelu")?;
    let (dense_bias, decoder_bias) = (f.bool_or("classifier_bias", false)?, f.bool_or("decoder_bias", true)?);
    let prefix = llama::prefix(weights, "embeddings.tok_embeddings", "model.");
    let layer = format!("{prefix}layers.{{}}.");
    let block =
        Block { layer: &layer, qkv: &["attn.Wqkv"], attn_out: "attn.Wo", up: "mlp.Wi", down: "mlp.Wo" };
    let norm = |name: &str| TensorRef::new(format!("{prefix}{name}")).biased(norm_bias);
    let mut at = block.layout(format!("{prefix}embeddings.tok_embeddings"), EncoderLayout::default());
    at.embedding_norm = Some(norm("embeddings.norm"));
    at.attn_norm = Some(block.name("attn_norm").biased(norm_bias));
    // The embedding is normalised already.
    at.first_attn_norm = 1;
    at.mlp_norm = Some(block.name("mlp_norm").biased(norm_bias));
    at.final_norm = Some(norm("final_norm"));
    at.qkv.iter_mut().chain([&mut at.attn_out]).for_each(|matrix| matrix.bias = attention_bias);
    at.up.iter_mut().chain([&mut at.down]).for_each(|matrix| matrix.bias = mlp_bias);
    let mut d = Description::new(c, at);
    if weights.has("head.dense.weight")
        && (!decoder_bias || weights.has("decoder.bias"))
        && let (Some(encoder), Some(at)) = (&mut d.config.encoder, &mut d.layout.encoder)
    {
        encoder.head = Head::Dense(activation);
        let dense = TensorRef::new("head.dense").biased(dense_bias);
        at.head_dense = Some([dense, TensorRef::new("head.norm").biased(norm_bias)]);
        d.layout.head = match decoder_bias {
            true => TensorRef::new("decoder").biased_by("decoder.bias".to_owned()),
            false => TensorRef::new("decoder"),
        };
    }
    Ok(d)
}
