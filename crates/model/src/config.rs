//! The description of a decoder: everything in which the supported
//! architectures differ, as data.

use crate::error::{Error, Result};
use crate::rope;
use fathom_kernels::elementwise::Activation;
use std::path::Path;

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// By the root mean square.
    Rms,
    /// To mean zero and variance one, with a bias.
    Layer,
}

/// Norms on queries and keys before the rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head by itself (Qwen3, Gemma 3).
    Head,
    /// All heads together (OLMo 2).
    Full,
}

/// Rotary embedding of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are rotated.
    pub dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for long texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear(f64),
    /// Llama 3.1: low frequencies by the factor, high ones not, a ramp between.
    Llama3 {
        /// Factor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are stretched in full.
        low: f64,
        /// Wavelengths below `original / high` are not stretched.
        high: f64,
        /// Context of pre-training.
        original: f64,
    },
    /// Divisors that the checkpoint gives (`rope_freqs.weight` of GGUF files).
    Divisors(Vec<f32>),
    /// A base that grows with the length of a text beyond the original context (dynamic NTK scaling).
    Dynamic {
        /// Factor of the context.
        factor: f64,
        /// Context of pre-training.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Factor of the low frequencies.
        factor: f64,
        /// Context of pre-training.
        original: f64,
        /// Rotations above which nothing changes.
        beta_fast: f64,
        /// Rotations below which all is stretched.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the bounds of the ramp are rounded outwards.
        truncate: bool,
    },
    /// LongRoPE (arXiv 2402.13753): one set of divisors for texts up to the
    /// original context, another for longer ones.
    Long {
        /// Divisors for short texts.
        short: Vec<f32>,
        /// Divisors for long texts.
        long: Vec<f32>,
        /// Context of pre-training.
        original: usize,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector a position, added to the embedding (GPT-2).
    Learned,
    /// Rotation of queries and keys; [`Layer::rope`] indexes the list.
    Rotary(Vec<Rope>),
}

/// What one layer has of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Positions that a position sees, itself included; `None` is all before it.
    pub window: Option<usize>,
    /// Index into [`Positions::Rotary`].
    pub rope: usize,
}

/// The description of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the architecture, as Hugging Face's `model_type`.
    pub architecture: String,
    /// Width of the residual stream, d.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Rows of the embedding, V.
    pub vocab: usize,
    /// Longest text the model was made for.
    pub context: usize,
    /// What each layer has of its own; as many as there are layers, L.
    pub layers: Vec<Layer>,
    /// How positions enter.
    pub positions: Positions,
    /// Kind of norm.
    pub norm: NormKind,
    /// Added to the variance in norms.
    pub norm_eps: f32,
    /// Norms before the sublayers.
    pub pre_norm: bool,
    /// Norms on what the sublayers return, before it is added to the stream.
    pub post_norm: bool,
    /// Attention and MLP both read the stream as it enters the layer.
    pub parallel: bool,
    /// Norms on queries and keys.
    pub qk_norm: QkNorm,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Whether the MLP multiplies the activation with a second projection.
    pub gated: bool,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Soft-capping of attention scores.
    pub attention_softcap: Option<f32>,
    /// Soft-capping of the logits.
    pub final_softcap: Option<f32>,
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// The head uses the embedding's matrix.
    pub tied: bool,
}

impl Config {
    /// Number of layers, L.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Checks what the forward pass relies on, so that a wrong configuration
    /// ends in a sentence instead of an overflow or a panic.
    ///
    /// # Errors
    /// Names the first field that cannot be.
    pub fn check(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        for (name, value, most) in [
            ("the width of the stream", self.hidden, 1 << 20),
            ("the number of heads", self.heads, 1 << 16),
            ("the number of key heads", self.kv_heads, 1 << 16),
            ("the width of a head", self.head_dim, 1 << 16),
            ("the width of the MLP", self.intermediate, 1 << 22),
            ("the vocabulary", self.vocab, 1 << 26),
            ("the context", self.context, 1 << 40),
            ("the number of layers", self.layers.len(), 1 << 14),
        ] {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}; it must lie between 1 and {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(format!("{} heads cannot share {} key heads evenly", self.heads, self.kv_heads));
        }
        for (name, value) in [
            ("the epsilon of the norms", Some(self.norm_eps)),
            ("the scale of attention", Some(self.attention_scale)),
            ("the soft-capping of attention", self.attention_softcap),
            ("the soft-capping of the logits", self.final_softcap),
        ] {
            value.map_or(Ok(()), |value| positive(path, name, value.into()))?;
        }
        if let Positions::Rotary(ropes) = &self.positions {
            for rope in ropes {
                self.check_rope(path, rope)?;
            }
            if self.layers.iter().any(|l| l.rope >= ropes.len()) {
                return bad("a layer names rotary frequencies that do not exist".into());
            }
        }
        if self.layers.iter().any(|l| l.window == Some(0)) {
            return bad("a sliding window of 0 sees nothing".into());
        }
        Ok(())
    }

    /// Checks that all angles will be finite.
    fn check_rope(&self, path: &Path, rope: &Rope) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        if rope.dim == 0 || rope.dim > self.head_dim || !rope.dim.is_multiple_of(2) {
            return bad(format!(
                "{} of the {} dimensions of a head cannot be rotated; it must be an even number above 0",
                rope.dim, self.head_dim
            ));
        }
        positive(path, "the base of the rotary embedding", rope.theta)?;
        for (name, value) in rope.scaling.numbers() {
            positive(path, &format!("'{name}' of the rotary scaling"), value)?;
        }
        match &rope.scaling {
            RopeScaling::Llama3 { low, high, .. } if high <= low => {
                return bad(format!(
                    "'high_freq_factor' is {high}; it must be above 'low_freq_factor', {low}"
                ));
            }
            // Both enter by their logarithm, one of them below a fraction.
            RopeScaling::Yarn { original, .. } if *original <= 1.0 || rope.theta <= 1.0 => {
                return bad(format!(
                    "the base of the rotary embedding is {} and the original context {original}; YaRN needs both above 1",
                    rope.theta
                ));
            }
            RopeScaling::Dynamic { factor, .. } if *factor < 1.0 || rope.dim < 4 => {
                return bad(format!(
                    "'factor' of the dynamic rotary scaling is {factor} for {} dimensions; it needs at least 1 and 4",
                    rope.dim
                ));
            }
            _ => {}
        }
        let sets = match &rope.scaling {
            RopeScaling::Divisors(d) => vec![d],
            RopeScaling::Long { short, long, .. } => vec![short, long],
            _ => vec![],
        };
        for set in sets {
            if set.len() != rope.dim / 2 {
                return bad(format!(
                    "the rotary embedding needs {} factors; there are {}",
                    rope.dim / 2,
                    set.len()
                ));
            }
        }
        // No text is longer than this.
        let far = (1u64 << 40) as f32;
        for length in [1, 1 << 20] {
            let (frequencies, _) = rope::frequencies(rope, rope::variant(rope, length));
            if let Some(i) = frequencies.iter().position(|f| !(f * far).is_finite()) {
                return bad(format!(
                    "frequency {i} of the rotary embedding is {}; its base or its factors are impossible",
                    frequencies[i]
                ));
            }
        }
        Ok(())
    }
}

impl RopeScaling {
    /// The parameters that must be positive numbers.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::None | Self::Divisors(_) => vec![],
            Self::Linear(factor) => vec![("factor", factor)],
            Self::Dynamic { factor, original } => {
                vec![("factor", factor), ("max_position_embeddings", original)]
            }
            Self::Llama3 { factor, low, high, original } => vec![
                ("factor", factor),
                ("low_freq_factor", low),
                ("high_freq_factor", high),
                ("original_max_position_embeddings", original),
            ],
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => vec![
                ("factor", factor),
                ("original_max_position_embeddings", original),
                ("beta_fast", beta_fast),
                ("beta_slow", beta_slow),
                ("attention_factor", attention_factor),
            ],
            Self::Long { attention_factor, .. } => vec![("attention_factor", attention_factor)],
        }
    }
}

/// Checks a number that the forward pass multiplies with or divides by, as `f32`.
fn positive(path: &Path, name: &str, value: f64) -> Result<()> {
    let narrow = value as f32;
    if narrow.is_finite() && narrow > 0.0 {
        return Ok(());
    }
    Err(Error::config(path, format!("{name} is {value}; it must be a positive number")))
}
