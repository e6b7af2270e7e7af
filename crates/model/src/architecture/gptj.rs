//! GPT-J: attention and MLP in parallel behind one layer norm, rotated pairs side by side, biases in MLP and head
//! only. CodeGen and ProGen 2 have q, k and v in one matrix, in parts for the processors that they were trained on.

use super::{Description, Fields, Layout, RowOrder, TensorRef, llama};
use crate::config::{Config, Multipliers, NormKind, Positions, QkNorm, Rope, RopeScaling};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{"n_positions": 2048, "rotary_dim": 64, "layer_norm_epsilon": 1e-5}"#;

/// Defaults of the code that ProGen 2 comes with.
pub(super) const PROGEN: &str = r#"{"rotary_dim": 32, "layer_norm_epsilon": 1e-5}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    base(f, weights, "gptj")
}

pub(super) fn describe_codegen(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = base(f, weights, "codegen")?;
    partition(f, &mut d, weights, 4)?;
    Ok(d)
}

pub(super) fn describe_progen(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = base(f, weights, "progen")?;
    partition(f, &mut d, weights, 8)?;
    if let Some(head) = f.opt_usize("vocab_size_lm_head")?
        && head != d.config.vocab
    {
        return f.fail(format!(
            "'vocab_size_lm_head' is {head} and 'vocab_size_emb' {}; they must be equal",
            d.config.vocab
        ));
    }
    Ok(d)
}

/// Puts q, k and v into the matrix that holds them in `parts` parts.
fn partition(f: &Fields<'_>, d: &mut Description, weights: &Weights, parts: usize) -> Result<()> {
    if !d.config.heads.is_multiple_of(parts) {
        return f.fail(format!(
            "'n_head' is {}, but q, k and v are stored in {parts} parts of equally many heads",
            d.config.heads
        ));
    }
    let prefix = llama::prefix(weights, "wte", "transformer.");
    let fused = TensorRef::new(format!("{prefix}h.{{}}.attn.qkv_proj"));
    d.layout.qkv = vec![fused.ordered(RowOrder::PartitionedQvk { parts })];
    Ok(())
}

/// The first of some fields that is there, for a family whose files name it differently.
fn either(f: &Fields<'_>, names: [&str; 2]) -> Result<usize> {
    match f.opt_usize(names[1])? {
        Some(value) => Ok(value),
        None => f.usize(names[0]),
    }
}

fn base(f: &Fields<'_>, weights: &Weights, name: &str) -> Result<Description> {
    let (hidden, heads) = (either(f, ["n_embd", "embed_dim"])?, f.usize("n_head")?);
    let head_dim = hidden / heads.max(1);
    let Some(rotated) = f.opt_usize("rotary_dim")? else {
        return f.fail("'rotary_dim' is null, which is not supported; it must be the rotated part of a head");
    };
    let config = Config {
        architecture: name.to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: f.opt_usize("n_inner")?.unwrap_or(4 * hidden),
        vocab: either(f, ["vocab_size", "vocab_size_emb"])?,
        context: f.usize("n_positions")?,
        layers: f.plain_layers("n_layer")?,
        positions: Positions::Rotary(vec![Rope {
            dim: rotated,
            theta: 10_000.0,
            scaling: RopeScaling::None,
        }]),
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: true,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: f.activation("activation_function", "gelu_new")?,
        gated: false,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        multipliers: Multipliers::NONE,
        logit_scale: 1.0,
        encoder: None,
        tied: f.bool_or("tie_word_embeddings", false)?,
    };
    // The first files say 'rotary' and mean what the family always does.
    f.ignore(&["rotary", "scale_attn_weights"]);
    let prefix = llama::prefix(weights, "wte", "transformer.");
    let tensor_ref = |name: &str| TensorRef::new(format!("{prefix}h.{{}}.{name}"));
    let norm = tensor_ref("ln_1").biased(true);
    let turned = |name: &str| tensor_ref(name).ordered(RowOrder::InterleavedHalves);
    let layout = Layout {
        embedding: TensorRef::new(format!("{prefix}wte")),
        position: None,
        first_position: 0,
        final_norm: Some(TensorRef::new(format!("{prefix}ln_f")).biased(true)),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))).biased(true),
        attn_norm: Some(norm.clone()),
        qkv: vec![turned("attn.q_proj"), turned("attn.k_proj"), tensor_ref("attn.v_proj")],
        qk_norms: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("attn.out_proj"),
        post_attn_norm: None,
        mlp_norm: Some(norm),
        up: vec![tensor_ref("mlp.fc_in").biased(true)],
        down: tensor_ref("mlp.fc_out").biased(true),
        experts: None,
        first_attn_norm: 0,
        sinks: None,
        embedding_norm: None,
        normalised_head: false,
        post_mlp_norm: None,
        norm_offset: 0.0,
        encoder: None,
    };
    Ok(Description::new(config, layout))
}
