//! Encoders by the names of their tensors.

use super::experts::FeedForward;
use super::{Layer, LayerMlp, Linear, Norm, Reader, Reference, Row};
use fathom_model::config::Config;
use fathom_model::weights::Weights;

/// The names of an encoder's tensors: of the layers, then of what lies around them.
struct Names {
    layer: &'static str,
    norms: [&'static str; 2],
    qkv: [&'static str; 3],
    others: [&'static str; 3],
    embedding: &'static str,
    positions: Option<(&'static str, usize)>,
    types: Option<&'static str>,
    embedding_norm: Option<&'static str>,
    final_norm: Option<&'static str>,
    /// The dense matrix and its norm, and the bias of the unembedding.
    head: [&'static str; 3],
}

const BERT: Names = Names {
    layer: "bert.encoder.layer.",
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    others: ["attention.output.dense", "intermediate.dense", "output.dense"],
    embedding: "bert.embeddings.word_embeddings",
    positions: Some(("bert.embeddings.position_embeddings", 0)),
    types: Some("bert.embeddings.token_type_embeddings"),
    embedding_norm: Some("bert.embeddings.LayerNorm"),
    final_norm: None,
    head: ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"],
};
const LM_HEAD: [&str; 3] = ["lm_head.dense", "lm_head.layer_norm", "lm_head.bias"];

fn names(config: &Config, weights: &Weights) -> Names {
    match config.architecture.as_str() {
        "bert" => BERT,
        "roberta" => Names {
            layer: "roberta.encoder.layer.",
            embedding: "roberta.embeddings.word_embeddings",
            positions: Some(("roberta.embeddings.position_embeddings", 2)),
            types: Some("roberta.embeddings.token_type_embeddings"),
            embedding_norm: Some("roberta.embeddings.LayerNorm"),
            head: LM_HEAD,
            ..BERT
        },
        "distilbert" => Names {
            layer: "distilbert.transformer.layer.",
            norms: ["sa_layer_norm", "output_layer_norm"],
            qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            others: ["attention.out_lin", "ffn.lin1", "ffn.lin2"],
            embedding: "distilbert.embeddings.word_embeddings",
            positions: Some(("distilbert.embeddings.position_embeddings", 0)),
            types: None,
            embedding_norm: Some("distilbert.embeddings.LayerNorm"),
            head: ["vocab_transform", "vocab_layer_norm", "vocab_projector.bias"],
            ..BERT
        },
        "esm" => {
            let learned = weights.has("esm.embeddings.position_embeddings.weight");
            Names {
                layer: "esm.encoder.layer.",
                norms: ["attention.LayerNorm", "LayerNorm"],
                embedding: "esm.embeddings.word_embeddings",
                positions: learned.then_some(("esm.embeddings.position_embeddings", 2)),
                types: None,
                embedding_norm: learned.then_some("esm.embeddings.layer_norm"),
                final_norm: Some("esm.encoder.emb_layer_norm_after"),
                head: LM_HEAD,
                ..BERT
            }
        }
        _ => Names {
            layer: "model.layers.",
            norms: ["attn_norm", "mlp_norm"],
            embedding: "model.embeddings.tok_embeddings",
            positions: None,
            types: None,
            embedding_norm: Some("model.embeddings.norm"),
            final_norm: Some("model.final_norm"),
            head: ["head.dense", "head.norm", "decoder.bias"],
            ..BERT
        },
    }
}

pub(super) fn read(config: &Config, weights: &Weights) -> Reference {
    let (read, names) = (Reader { config, weights }, names(config, weights));
    let embedding = read.linear(names.embedding);
    let [dense, norm, bias] = names.head;
    let (positions, first_position) = names.positions.unzip();
    Reference {
        config: config.clone(),
        positions: positions.map(|name| read.linear(name)),
        first_position: first_position.unwrap_or(0),
        token_type: names.types.map(|name| read.linear(name).weight.remove(0)),
        embedding_norm: names.embedding_norm.map(|name| read.norm(name)),
        layers: (0..config.depth()).map(|l| layer(&read, &names, l)).collect(),
        final_norm: names.final_norm.map(|name| read.norm(name)),
        side: super::gemma4::Side::default(),
        last_scale: 1.0,
        head_dense: Some((read.linear(dense), read.norm(norm))),
        head: Linear {
            weight: embedding.weight.clone(),
            bias: weights.vector(bias, config.vocab).unwrap().into_iter().map(f64::from).collect(),
        },
        embedding,
    }
}

fn layer(read: &Reader<'_>, names: &Names, l: usize) -> Layer {
    let (c, at) = (read.config, format!("{}{l}.", names.layer));
    let linear = |name: &str| read.linear(&format!("{at}{name}"));
    let norm = |name: &str| {
        let name = format!("{at}{name}");
        read.weights.has(&format!("{name}.weight")).then(|| read.norm(&name))
    };
    let [first, second] = names.norms.map(norm);
    let modern = c.architecture == "modernbert";
    let ([q, k, v], attn_out, mlp) = if modern {
        let (d, f) = (c.hidden, c.intermediate);
        let (all, wide) = (linear("attn.Wqkv"), linear("mlp.Wi"));
        let mlp =
            FeedForward { gate: Some(wide.rows(0..f)), up: wide.rows(f..2 * f), down: linear("mlp.Wo") };
        ([0..d, d..2 * d, 2 * d..3 * d].map(|part| all.rows(part)), linear("attn.Wo"), mlp)
    } else {
        let [attn_out, up, down] = names.others.map(linear);
        (names.qkv.map(linear), attn_out, FeedForward { gate: None, up, down })
    };
    let behind = names.final_norm.is_none();
    let (pre, post): ([Option<Norm>; 2], [Option<Norm>; 2]) =
        if behind { ([None, None], [first, second]) } else { ([first, second], [None, None]) };
    let [attn_norm, mlp_norm] = pre;
    Layer {
        attn_norm,
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
        attn_out,
        post_attn_norm: None,
        mlp_norm,
        mlp: LayerMlp::Dense(mlp),
        post_mlp_norm: None,
        stream_norms: post,
        token_gate: None,
        scale: 1.0,
    }
}

/// The embedding of each token, with the first type and scaled where the model drops masks.
pub(super) fn embed(reference: &Reference, tokens: &[u32]) -> Vec<Row> {
    let mask = reference.config.encoder.and_then(|encoder| encoder.token_dropout);
    let masked = tokens.iter().filter(|token| Some(**token) == mask).count() as f64 / tokens.len() as f64;
    let rows = tokens.iter().enumerate().map(|(i, token)| {
        let mut row = reference.embedding.weight[*token as usize].clone();
        if mask.is_some() {
            let factor = if Some(*token) == mask { 0.0 } else { 0.88 / (1.0 - masked) };
            row.iter_mut().for_each(|x| *x *= factor);
        }
        if let Some(of_type) = &reference.token_type {
            row = super::add(&row, of_type);
        }
        if let Some(learned) = &reference.positions {
            row = super::add(&row, &learned.weight[i + reference.first_position]);
        }
        reference.normed(&reference.embedding_norm, &row)
    });
    rows.collect()
}
