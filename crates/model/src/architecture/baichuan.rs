//! Baichuan and Baichuan 2, which come with code of their own: Llama with q, k and v fused. The 7B models rotate, those
//! of 13B have ALiBi instead. Baichuan 2 divides the rows of the head by their lengths.

use super::{Description, Fields, alibi, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of the configuration classes that come with the files.
pub(super) const DEFAULTS: &str = r#"{"rms_norm_eps": 1e-6}"#;

/// Vocabularies of the two generations, whose configurations do not differ otherwise.
const VOCABULARIES: [usize; 2] = [64_000, 125_696];

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    // Configurations of the 13B models have no such field.
    let rotates = f.has("max_position_embeddings");
    let length = f.opt_usize("model_max_length")?;
    if !rotates {
        d.config.positions = alibi::positions(d.config.heads, alibi::USUAL);
        d.config.context = f.usize("model_max_length")?;
    }
    d.config.context = length.unwrap_or(d.config.context).min(d.config.context);
    d.layout.qkv = vec![llama::tensor_ref(&d.layout, "self_attn.W_pack")];
    // Training alone reads its value; only Baichuan 2 has the field.
    let second = f.has("z_loss_weight");
    f.ignore(&["z_loss_weight", "_from_model_config"]);
    d.layout.normalised_head = second || d.config.vocab == VOCABULARIES[1];
    if !second && !VOCABULARIES.contains(&d.config.vocab) {
        d.warnings.push(format!(
            "the vocabulary is neither that of Baichuan ({}) nor that of Baichuan 2 ({}), which divides the rows of the head by their lengths; the head is used as it is stored",
            VOCABULARIES[0], VOCABULARIES[1]
        ));
    }
    Ok(d)
}
