//! Falcon-H1: in each layer attention and Mamba 2 read the same normalised stream and what both return is added; factors
//! on parts of layers, which are applied where they cost least: those on what queries, keys and values read are factors on
//! scores and on what attention returns.
//!
//! Tensors: those of Llama, `mamba.*`, `pre_ff_layernorm`, `feed_forward.{gate,up,down}_proj`, `final_layernorm`.

use super::{Description, Fields, llama, mamba};
use crate::config::{Mixer, Multipliers, OutputNorm, Recurrence};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const FALCON_H1: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "mamba_d_ssm": 1024,
    "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4,
    "mamba_expand": 2
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    f.ignore(mamba::UNUSED_BESIDE);
    f.ignore(&["mlp_expansion_factor"]);
    if !f.bool_or("mamba_use_mlp", true)? {
        return f.fail(
            "'mamba_use_mlp' is false, which transformers ignores for this family; it is not supported",
        );
    }
    mamba::rename(&mut d);
    llama::attention_bias(f, &mut d)?;
    llama::mlp_bias(f, &mut d)?;
    let recurrence = recurrence(f, d.config.hidden)?;
    d.config.layers.iter_mut().for_each(|layer| layer.mixer = Mixer::Both(recurrence));
    let biases = [f.bool_or("mamba_proj_bias", false)?, f.bool_or("projectors_bias", false)?];
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("mamba.{name}"));
    let names = mamba::names(tensor_ref, biases, recurrence.norm != OutputNorm::None);
    d.layout.mixer = Some(mamba::with_conv_bias(names, f.bool_or("mamba_conv_bias", true)?));
    factors(f, &mut d, biases[0])?;
    Ok(d)
}

fn recurrence(f: &Fields<'_>, hidden: usize) -> Result<Recurrence> {
    let expanded = f.usize("mamba_expand")?.saturating_mul(hidden);
    let inner = match f.opt_usize("mamba_d_ssm")? {
        Some(inner) => (inner, "'mamba_d_ssm'"),
        None => (expanded, "'mamba_expand' times 'hidden_size'"),
    };
    let before = f.bool_or("mamba_norm_before_gate", true)?;
    let norm = match f.bool_or("mamba_rms_norm", false)? {
        false => OutputNorm::None,
        true if before => OutputNorm::BeforeGate,
        true => OutputNorm::BehindGate,
    };
    Ok(Recurrence { norm, ..mamba::sizes(f, mamba::SIZES, inner)? })
}

/// The factors; those on inputs move past the projections, which they can where these have no biases.
fn factors(f: &Fields<'_>, d: &mut Description, input_bias: bool) -> Result<()> {
    let factor = |name: &str| f.f64_or(name, 1.0);
    let (into_attention, key) = (factor("attention_in_multiplier")?, factor("key_multiplier")?);
    let into_mamba = factor("ssm_in_multiplier")?;
    if (into_attention, key) != (1.0, 1.0) && d.layout.attn_out.bias {
        return f.fail(
            "'attention_bias' is true beside 'attention_in_multiplier' and 'key_multiplier', which is not supported",
        );
    }
    if into_mamba != 1.0 && input_bias {
        return f.fail("'mamba_proj_bias' is true beside 'ssm_in_multiplier', which is not supported");
    }
    let of_list = |name: &str, count: usize| -> Result<Vec<f32>> {
        let found = f.opt_floats(name)?.unwrap_or(vec![1.0; count]);
        match found.len() == count {
            true => Ok(found),
            false => f.fail(format!("'{name}' has {} numbers; it must have {count}", found.len())),
        }
    };
    let (mlp, parts) = (of_list("mlp_multipliers", 2)?, of_list("ssm_multipliers", 5)?);
    let c = &mut d.config;
    c.attention_scale = (f64::from(c.attention_scale) * into_attention.powi(2) * key) as f32;
    c.embedding_scale = factor("embedding_multiplier")? as f32;
    c.logit_scale = factor("lm_head_multiplier")? as f32;
    c.multipliers = Multipliers {
        attention: (into_attention * factor("attention_out_multiplier")?) as f32,
        // They are given for gates, values, keys, queries and time steps.
        recurrence_in: [0, 3, 2, 1, 4].map(|i: usize| (f64::from(parts[i]) * into_mamba) as f32),
        recurrence: factor("ssm_out_multiplier")? as f32,
        gate: mlp[0],
        mlp: mlp[1],
    };
    Ok(())
}
