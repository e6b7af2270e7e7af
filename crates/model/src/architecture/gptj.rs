//! GPT-J: attention and MLP in parallel behind one layer norm, rotated pairs side by side, biases in MLP and head
//! only. CodeGen and ProGen 2 have q, k and v in one matrix, in parts for the processors that they were trained on.

use super::plain::{Names, Sizes};
use super::{Description, Fields, RowOrder, TensorRef, llama};
use crate::config::{Config, Positions, Rope, RopeScaling};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{"n_positions": 2048, "rotary_dim": 64, "layer_norm_epsilon": 1e-5}"#;

/// Defaults of the code that ProGen 2 comes with.
pub(super) const PROGEN: &str = r#"{"rotary_dim": 32, "layer_norm_epsilon": 1e-5}"#;

const NAMES: Names<'_> = Names {
    prefix: "transformer.",
    embedding: "wte",
    final_norm: "ln_f",
    head: "lm_head",
    layer: "h.{}.",
    attn_norm: "ln_1",
    qkv: &["attn.q_proj", "attn.k_proj", "attn.v_proj"],
    attn_out: "attn.out_proj",
    mlp_norm: "ln_1",
    up: &["mlp.fc_in"],
    down: "mlp.fc_out",
};

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
    let hidden = either(f, ["n_embd", "embed_dim"])?;
    let Some(rotated) = f.opt_usize("rotary_dim")? else {
        return f.fail("'rotary_dim' is null, which is not supported; it must be the rotated part of a head");
    };
    let sizes = Sizes {
        hidden,
        heads: f.usize("n_head")?,
        intermediate: f.opt_usize("n_inner")?.unwrap_or(4 * hidden),
        vocab: either(f, ["vocab_size", "vocab_size_emb"])?,
        context: f.usize("n_positions")?,
        layers: f.plain_layers("n_layer")?,
    };
    let config = Config {
        positions: Positions::Rotary(vec![Rope {
            dim: rotated,
            theta: 10_000.0,
            scaling: RopeScaling::None,
        }]),
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        parallel: true,
        activation: f.activation("activation_function", "gelu_new")?,
        tied: f.bool_or("tie_word_embeddings", false)?,
        ..sizes.config(name)
    };
    // The first files say 'rotary' and mean what the family always does.
    f.ignore(&["rotary", "scale_attn_weights"]);
    let mut d = Description::new(config, NAMES.layout(weights, true, false));
    for matrix in &mut d.layout.qkv[..2] {
        matrix.order = RowOrder::InterleavedHalves;
    }
    d.layout.head.bias = true;
    llama::set_mlp_bias(&mut d, true);
    Ok(d)
}
