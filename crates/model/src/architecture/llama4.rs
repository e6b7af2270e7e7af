//! Llama 4: rotated numbers side by side; in most layers attention within chunks, its queries and keys divided by their
//! length behind the rotation; in every fourth layer neither rotation nor chunks, and queries that grow with the position.
//! Experts and dense layers in turn; the weight of an expert multiplies what it reads.
//!
//! Tensors: `feed_forward.{router, experts.gate_up_proj, experts.down_proj, shared_expert}`, or
//! `feed_forward.{gate,up,down}_proj` in dense layers.

use super::fields::RopePlace;
use super::llama::{self, Base};
use super::{Description, ExpertLayout, Fields, RowOrder, experts};
use crate::config::{Experts, Layer, QkNorm, Routing, Score, Temperature};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "model_type": "llama4_text", "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192,
    "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "num_experts_per_tok": 1,
    "num_local_experts": 16, "interleave_moe_layer_step": 1, "use_qk_norm": true, "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192, "attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let rope = RopePlace { theta: (&["rope_theta"], 500_000.0), ..RopePlace::USUAL };
    let mut d = llama::base_with(f, weights, &Base { rope, ..Base::USUAL })?;
    llama::attention_bias(f, &mut d)?;
    llama::interleave(&mut d);
    // A setting of a tool that quantises.
    f.ignore(&["for_llm_compressor"]);
    d.config.intermediate = f.usize("intermediate_size_mlp")?;
    d.config.layers = layers(f, d.config.depth())?;
    if f.bool_or("use_qk_norm", true)? {
        d.config.qk_norm = QkNorm::UnitRotated;
    }
    give_experts(f, &mut d)?;
    Ok(d)
}

/// Which layers rotate, and which have chunks.
fn layers(f: &Fields<'_>, depth: usize) -> Result<Vec<Layer>> {
    let interval = f.usize("no_rope_layer_interval")?;
    let rotated: Vec<bool> = match f.counts("no_rope_layers")?.filter(|marks| !marks.is_empty()) {
        Some(marks) if marks.len() < depth => {
            return f.fail(format!("'no_rope_layers' does not mark {depth} layers"));
        }
        Some(marks) => marks.iter().map(|mark| *mark != 0).collect(),
        None => (1..=depth).map(|l| !l.is_multiple_of(interval)).collect(),
    };
    let types = f.strings("layer_types")?;
    if types.as_ref().is_some_and(|types| types.len() != depth) {
        return f.fail(format!("'layer_types' does not name {depth} layers"));
    }
    let chunk = f.opt_usize("attention_chunk_size")?;
    let grows = f.truth("attn_temperature_tuning")?.unwrap_or(true);
    let temperature =
        Temperature { floor: f.usize("floor_scale")?, scale: f.f64_or("attn_scale", 0.1)? as f32 };
    let layer = |l: usize| {
        let chunk = match types.as_ref().map(|types| types[l]) {
            None => chunk.filter(|_| rotated[l]),
            Some("full_attention") => None,
            Some("chunked_attention") if chunk.is_some() => chunk,
            Some("chunked_attention") => {
                return f
                    .fail("'layer_types' names layers with chunks, but there is no 'attention_chunk_size'");
            }
            Some(other) => return f.fail(format!("the layer type '{other}' is not supported")),
        };
        Ok(Layer {
            chunk,
            rope: rotated[l].then_some(0),
            temperature: Some(temperature).filter(|_| grows && !rotated[l]),
            ..Layer::default()
        })
    };
    (0..depth).map(layer).collect()
}

/// Which layers have experts, and the names of their tensors.
fn give_experts(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let routing = Routing { score: Score::Sigmoid, on_input: true, ..experts::softmax(false) };
    let of = experts::experts(f, "intermediate_size", routing)?;
    let step = f.usize("interleave_moe_layer_step")?;
    let listed = f.counts("moe_layers")?;
    if listed.is_none() && step == 0 {
        return f.fail("'interleave_moe_layer_step' is 0; it must be at least 1");
    }
    let has_experts = |l: usize| match &listed {
        Some(listed) => listed.contains(&l),
        None => (l + 1).is_multiple_of(step),
    };
    experts::give(d, Experts { shared: of.width, ..of }, has_experts);
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("feed_forward.{name}"));
    let names = |module: &str| {
        let tensor_ref = |name: &str| tensor_ref(&format!("{module}{name}"));
        (["gate_proj", "up_proj"].map(tensor_ref).to_vec(), tensor_ref("down_proj"))
    };
    let stacked = |name: &str| tensor_ref(&format!("experts.{name}")).bare().ordered(RowOrder::Transposed);
    let experts = ExpertLayout {
        router: tensor_ref("router"),
        correction: None,
        up: vec![stacked("gate_up_proj")],
        down: stacked("down_proj"),
        shared: Some(names("shared_expert.")),
        shared_gate: None,
    };
    (d.layout.up, d.layout.down) = names("");
    d.layout.experts = Some(experts);
    Ok(())
}
