//! A model of a GGUF file as Hugging Face's libraries store it: names, orders of rows, settings, tokenizer.
//!
//! Both forms are described by a [`Layout`], so a tensor is converted by reading it through one and writing it
//! through the other.

use crate::architecture::{self, Description, HfConfig, Layout, RowOrder, TensorRef};
use crate::config::{Config, Positions, Rope, RopeScaling};
use crate::error::{Error, Result};
use crate::gguf::Header;
use crate::rope;
use crate::tokenizer::Tokenizer;
use crate::weights::{Tensor, Weights};
use serde_json::Value;
use std::path::Path;

/// Numbers that are read at once: 4 MiB.
const AT_ONCE: usize = 1 << 20;

/// What frequencies of a rotation, stored as divisors, may differ by from those of its formula.
pub(crate) const ROPE_TOLERANCE: f32 = 1e-6;

/// A model as a Hugging Face folder would hold it.
pub struct HuggingFace<'a> {
    /// The content of config.json.
    pub config: Value,
    /// The files of the tokenizer: name and content.
    pub files: Vec<(&'static str, String)>,
    /// All tensors.
    pub tensors: Vec<Converted<'a>>,
    /// What the names of a layer's tensors begin with, before the number of the layer.
    pub layer_prefix: String,
    /// The name of each layer's down projection.
    pub down_projections: Vec<String>,
    /// The description that the folder will be read as; it differs from that of the file at most in how a rotation
    /// is written.
    pub description: Config,
    /// Warnings, one sentence each.
    pub warnings: Vec<String>,
}

/// A tensor under its name in a Hugging Face folder, in the order of rows there.
pub struct Converted<'a> {
    /// The name.
    pub name: String,
    /// The shape, slowest axis first.
    pub shape: Vec<usize>,
    tensor: Tensor<'a>,
    /// The row of the file that holds each row, if the orders differ.
    rows: Option<Vec<usize>>,
    /// Whether the matrix is transposed on the way.
    transposed: bool,
    /// What is subtracted from each number: norms that are stored around zero.
    offset: f32,
}

impl Converted<'_> {
    /// Calls `each` with the numbers, dequantised, part by part in the order in which they are stored.
    ///
    /// # Errors
    /// When a number is NaN or infinite, or cannot be stored around zero without a loss; and those of `each`.
    pub fn read<E: From<Error>>(
        &self,
        mut each: impl FnMut(&[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (count, width) = (self.tensor.rows.max(1), self.tensor.width);
        if self.transposed {
            let mut all = vec![0.0; count * width];
            self.tensor.read(0..count, &mut all)?;
            let mut turned = vec![0.0; count];
            for column in 0..width {
                turned.iter_mut().zip(all[column..].iter().step_by(width)).for_each(|(t, x)| *t = *x);
                each(&turned)?;
            }
            return Ok(());
        }
        let step = (AT_ONCE / width.max(1)).max(1);
        let mut part = vec![0.0; step.min(count) * width];
        for start in (0..count).step_by(step) {
            let end = count.min(start + step);
            let part = &mut part[..(end - start) * width];
            match &self.rows {
                None => self.tensor.read(start..end, part)?,
                Some(rows) => {
                    for (row, out) in rows[start..end].iter().zip(part.chunks_exact_mut(width)) {
                        self.tensor.read(*row..*row + 1, out)?;
                    }
                }
            }
            self.centre(part)?;
            each(part)?;
        }
        Ok(())
    }

    /// Other numbers for the tensor, given in the order of the forward pass, in the order in which they are stored.
    /// Only for matrices whose rows keep their order.
    pub fn arranged(&self, numbers: &[f32]) -> Vec<f32> {
        let (true, inputs) = (self.transposed, self.tensor.width) else { return numbers.to_vec() };
        (0..inputs).flat_map(|column| numbers[column..].iter().step_by(inputs).copied()).collect()
    }

    /// Subtracts the offset, so that adding it gives the same number again.
    fn centre(&self, numbers: &mut [f32]) -> Result<()> {
        if self.offset == 0.0 {
            return Ok(());
        }
        for x in numbers {
            let centred = *x - self.offset;
            if centred + self.offset != *x {
                let what =
                    format!("tensor '{}' holds {x}, which cannot be stored around zero exactly", self.name);
                return Err(Error::config(self.tensor.path, what));
            }
            *x = centred;
        }
        Ok(())
    }
}

/// Describes the folder that holds the model of a GGUF file.
pub(crate) fn to_hugging_face<'a>(
    path: &Path,
    header: &Header,
    from: &Description,
    weights: &'a Weights,
    tokenizer: &Tokenizer,
) -> Result<HuggingFace<'a>> {
    let config = architecture::hf_config(path, header, from)?;
    let mut to = HfConfig::made(path, config.clone()).describe(weights)?;
    to.config.tied = from.config.tied;
    let mut warnings = Vec::new();
    let mut wanted = from.config.clone();
    wanted.architecture.clone_from(&to.config.architecture);
    if let Some(positions) = same_rotation(&from.config.positions, &to.config.positions, &mut warnings) {
        wanted.positions = positions;
    }
    if let Some(what) = wanted.difference(&to.config) {
        let what = format!("its settings cannot be written as a config.json without a change: {what}");
        return Err(Error::config(path, what));
    }
    let tensors =
        Converter { path, config: &from.config, from: &from.layout, to: &to.layout, weights }.all()?;
    Ok(HuggingFace {
        config,
        files: tokenizer.hugging_face_files(header)?,
        tensors,
        layer_prefix: to.layout.layer_prefix().to_owned(),
        down_projections: (0..to.config.depth()).map(|layer| to.layout.down.weight(layer)).collect(),
        description: to.config,
        warnings,
    })
}

/// The second of two rotations, if it is the formula that the divisors of the first were computed by.
fn same_rotation(from: &Positions, to: &Positions, warnings: &mut Vec<String>) -> Option<Positions> {
    let (Positions::Rotary(from), Positions::Rotary(ropes)) = (from, to) else { return None };
    let ([from], [formula]) = (&from[..], &ropes[..]) else { return None };
    matches!(from.scaling, RopeScaling::Divisors(_)).then_some(())?;
    let gap = largest_gap(from, formula);
    if gap > ROPE_TOLERANCE {
        return None;
    }
    if gap > 0.0 {
        warnings.push(format!(
            "the rotary scaling is written as Llama 3's formula, whose frequencies differ from the file's by up to {gap:.0e} of their size; logits agree to rounding, not to the bit"
        ));
    }
    Some(to.clone())
}

/// The largest relative difference of the frequencies of two rotations.
pub(crate) fn largest_gap(one: &Rope, other: &Rope) -> f32 {
    let ((one, _), (other, _)) = (rope::frequencies(one, 0), rope::frequencies(other, 0));
    if one.len() != other.len() {
        return f32::INFINITY;
    }
    one.iter().zip(&other).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f32::max)
}

struct Converter<'a, 'b> {
    path: &'b Path,
    config: &'b Config,
    from: &'b Layout,
    to: &'b Layout,
    weights: &'a Weights,
}

impl<'a> Converter<'a, '_> {
    fn all(&self) -> Result<Vec<Converted<'a>>> {
        let (c, from, to) = (self.config, self.from, self.to);
        let mut tensors = Vec::new();
        self.add(&mut tensors, &from.embedding, &to.embedding, 0)?;
        if c.positions == Positions::Learned {
            self.add_optional(&mut tensors, &from.position, &to.position, 0)?;
        }
        if let (Some(from), Some(to)) = (&from.final_norm, &to.final_norm) {
            self.add(&mut tensors, from, to, 0)?;
        }
        if !c.tied {
            self.add(&mut tensors, &from.head, &to.head, 0)?;
        }
        for layer in 0..c.depth() {
            self.add_layer(&mut tensors, layer)?;
        }
        for converted in &mut tensors {
            let norm = converted.shape.len() == 1 && converted.name.ends_with("norm.weight");
            converted.offset = if norm { to.norm_offset } else { 0.0 };
        }
        Ok(tensors)
    }

    fn add_layer(&self, tensors: &mut Vec<Converted<'a>>, layer: usize) -> Result<()> {
        let (from, to) = (self.from, self.to);
        let pairs = [
            (&from.attn_norm, &to.attn_norm),
            (&from.post_attn_norm, &to.post_attn_norm),
            (&from.mlp_norm, &to.mlp_norm),
            (&from.post_mlp_norm, &to.post_mlp_norm),
        ];
        for (from, to) in pairs {
            self.add_optional(tensors, from, to, layer)?;
        }
        let lists = [
            (&from.qkv[..], &to.qkv[..]),
            (&from.up[..], &to.up[..]),
            (from.qk_norms.as_ref().map_or(&[], |n| &n[..]), to.qk_norms.as_ref().map_or(&[], |n| &n[..])),
        ];
        for (from, to) in lists {
            if from.len() != to.len() {
                let names = |refs: &[TensorRef]| {
                    let names: Vec<String> = refs.iter().map(|r| format!("'{}'", r.weight(layer))).collect();
                    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
                };
                return self.fail(format!(
                    "{} would have to become {}, which is not supported",
                    names(from),
                    names(to)
                ));
            }
            for (from, to) in from.iter().zip(to) {
                self.add(tensors, from, to, layer)?;
            }
        }
        self.add(tensors, &from.attn_out, &to.attn_out, layer)?;
        self.add(tensors, &from.down, &to.down, layer)
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::config(self.path, what))
    }

    fn add_optional(
        &self,
        tensors: &mut Vec<Converted<'a>>,
        from: &Option<TensorRef>,
        to: &Option<TensorRef>,
        layer: usize,
    ) -> Result<()> {
        match (from, to) {
            (Some(from), Some(to)) => self.add(tensors, from, to, layer),
            (None, None) => Ok(()),
            (Some(one), None) | (None, Some(one)) => {
                self.fail(format!("'{}' is in one of the two forms only", one.weight(layer)))
            }
        }
    }

    /// The weight of a module, and its bias.
    fn add(
        &self,
        tensors: &mut Vec<Converted<'a>>,
        from: &TensorRef,
        to: &TensorRef,
        layer: usize,
    ) -> Result<()> {
        if from.bias != to.bias {
            let (has, lacks) = if from.bias { ("has", "no") } else { ("lacks", "one") };
            return self.fail(format!(
                "the file {has} the bias '{}', and a config.json would say that there is {lacks}",
                from.bias(layer)
            ));
        }
        tensors.push(self.tensor(from.weight(layer), to.weight(layer), from.order, to.order)?);
        if from.bias {
            // A bias has no columns to be turned into rows.
            let order = |order| if order == RowOrder::Transposed { RowOrder::AsStored } else { order };
            let (from_order, to_order) = (order(from.order), order(to.order));
            tensors.push(self.tensor(from.bias(layer), to.bias(layer), from_order, to_order)?);
        }
        Ok(())
    }

    fn tensor(&self, from: String, name: String, order: RowOrder, wanted: RowOrder) -> Result<Converted<'a>> {
        let Some(shape) = self.weights.shape(&from) else {
            return self.fail(format!("there is no tensor '{from}'"));
        };
        let mut shape = shape.to_vec();
        let reordered = order != wanted && wanted != RowOrder::Transposed;
        let count = shape[0];
        let tensor = match reordered && shape.len() == 1 {
            // A vector is one row; here each element is one.
            true => self.weights.tensor_as_rows(&from)?,
            false => self.weights.tensor(&from, &shape)?,
        };
        let rows = reordered.then(|| {
            let mut rows = vec![0; count];
            for r in 0..count {
                rows[wanted.stored_row(self.config, r)] = order.stored_row(self.config, r);
            }
            rows
        });
        let transposed = wanted == RowOrder::Transposed && order != RowOrder::Transposed;
        if transposed {
            shape.reverse();
        }
        Ok(Converted { name, shape, tensor, rows, transposed, offset: 0.0 })
    }
}
