//! The weights of a decoder by name, as Hugging Face's checkpoints have them.

use crate::decoder::Decoder;
use anyhow::{Result, anyhow};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

/// All weights of a decoder of `layers` layers; layers that share weights have copies.
///
/// # Errors
/// When they cannot be read from the device.
pub fn weights(decoder: &Decoder, layers: usize) -> Result<Vec<Weight>> {
    named(decoder, layers, Visitor { grads: None, path: Vec::new(), found: Vec::new(), error: None })
}

/// The gradients of all weights, by the names of the weights.
///
/// # Errors
/// When one is missing, or cannot be read from the device.
pub fn gradients(decoder: &Decoder, grads: &mut GradientsParams, layers: usize) -> Result<Vec<Weight>> {
    named(decoder, layers, Visitor { grads: Some(grads), path: Vec::new(), found: Vec::new(), error: None })
}

fn named(decoder: &Decoder, layers: usize, mut visitor: Visitor<'_>) -> Result<Vec<Weight>> {
    decoder.visit(&mut visitor);
    if let Some(error) = visitor.error {
        return Err(anyhow!("cannot read the weights: {error}"));
    }
    let shared = decoder.distinct_layers() < layers;
    let mut all = Vec::new();
    for Weight { name, shape, values } in visitor.found {
        let parts: Vec<&str> = name.split('.').collect();
        match parts[..] {
            ["layers", _, ref rest @ ..] if shared => all.extend((0..layers).map(|i| Weight {
                name: layer_name(&i.to_string(), rest, decoder.has_experts()),
                shape: shape.clone(),
                values: values.clone(),
            })),
            ["layers", i, ref rest @ ..] => {
                let name = layer_name(i, rest, decoder.has_experts());
                all.push(Weight { name, shape, values });
            }
            ["lm_head"] => all.push(Weight { name: "lm_head.weight".to_owned(), shape, values }),
            _ => all.push(Weight { name: format!("model.{name}.weight"), shape, values }),
        }
    }
    Ok(all)
}

/// The name of a weight of a layer: as in Llama, or of experts as in Mixtral.
fn layer_name(layer: &str, parts: &[&str], has_experts: bool) -> String {
    let name = match parts {
        ["router"] => "block_sparse_moe.gate".to_owned(),
        ["mlp", expert, part] if has_experts => {
            let part = match *part {
                "gate_proj" => "w1",
                "down_proj" => "w2",
                _ => "w3",
            };
            format!("block_sparse_moe.experts.{expert}.{part}")
        }
        ["mlp", _, part] => format!("mlp.{part}"),
        [part] if part.len() == "q_proj".len() && part.ends_with("_proj") => format!("self_attn.{part}"),
        _ => parts.join("."),
    };
    format!("model.layers.{layer}.{name}.weight")
}

/// Collects weights, or their gradients.
struct Visitor<'a> {
    grads: Option<&'a mut GradientsParams>,
    path: Vec<String>,
    found: Vec<Weight>,
    error: Option<String>,
}

impl ModuleVisitor for Visitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let tensor = match &mut self.grads {
            None => param.val(),
            Some(grads) => match grads.remove::<D>(param.id) {
                Some(gradient) => gradient,
                None => {
                    self.error = Some(format!("{name} has no gradient"));
                    return;
                }
            },
        };
        let shape = tensor.dims().to_vec();
        match tensor.try_into_vec_as::<f32>() {
            Ok(values) => self.found.push(Weight { name, shape, values }),
            Err(error) => self.error = Some(format!("{name}: {error:?}")),
        }
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
