//! The types of `grow.json`: a model with more layers, and what that does to its loss and its depth.

use crate::folder::GROW;
use crate::{Depth, Error, Estimated, ModelInfo, Resources, Result, TextSet, Work, null, version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The newest version of `grow.json` that this crate reads and the one it writes.
pub const GROW_SCHEMA_VERSION: u32 = 1;

/// How the layers of a deeper model are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GrowMethod {
    /// Two overlapping copies one behind the other, the first without the last layers and the second without the first
    /// (arXiv 2312.15166).
    Solar,
    /// Copies that add nothing, at even distances (arXiv 2401.02415).
    LlamaPro,
    /// Means of two neighbours.
    Interpolate,
    /// A copy of the middle block (arXiv 2409.19044).
    Midas,
    /// A copy of the layers around the boundary behind the middle block (arXiv 2512.08819).
    Lidas,
    /// Layers that a small network predicts from their neighbours in the common singular vectors of all layers
    /// (arXiv 2502.13794).
    Lesa,
}

impl GrowMethod {
    /// All methods.
    pub const ALL: [Self; 6] =
        [Self::Solar, Self::LlamaPro, Self::Interpolate, Self::Midas, Self::Lidas, Self::Lesa];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Solar => "solar",
            Self::LlamaPro => "llama-pro",
            Self::Interpolate => "interpolate",
            Self::Midas => "midas",
            Self::Lidas => "lidas",
            Self::Lesa => "lesa",
        }
    }

    /// How it makes layers, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Solar => "two overlapping copies of the model, one behind the other",
            Self::LlamaPro => "copies that add nothing, at even distances",
            Self::Interpolate => "means of two neighbours",
            Self::Midas => "a copy of the middle block",
            Self::Lidas => "a copy of the layers around the boundary behind the middle block",
            Self::Lesa => "layers that a small network predicts from their neighbours",
        }
    }
}

/// What a layer of a grown model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LayerOrigin {
    /// A layer of the source as it is.
    Copy {
        /// The layer.
        layer: usize,
    },
    /// A copy that adds nothing to the residual stream.
    Silent {
        /// The layer that is copied.
        layer: usize,
    },
    /// The mean of two layers.
    Mean {
        /// The layers. Settings of a layer are those of the first.
        layers: [usize; 2],
    },
    /// Predicted from two layers.
    Predicted {
        /// The layers. Settings of a layer are those of the first.
        layers: [usize; 2],
    },
}

impl LayerOrigin {
    /// The layer of the source that gives the settings.
    pub fn source(self) -> usize {
        match self {
            Self::Copy { layer } | Self::Silent { layer } => layer,
            Self::Mean { layers } | Self::Predicted { layers } => layers[0],
        }
    }
}

/// `3`, `3 silent`, `mean of 3 and 4`, `predicted from 3 and 4`.
impl fmt::Display for LayerOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { layer } => write!(f, "{layer}"),
            Self::Silent { layer } => write!(f, "{layer} silent"),
            Self::Mean { layers: [a, b] } => write!(f, "mean of {a} and {b}"),
            Self::Predicted { layers: [a, b] } => write!(f, "predicted from {a} and {b}"),
        }
    }
}

/// Everything in `grow.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growing {
    /// The version of the format, [`GROW_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The source.
    pub model: ModelInfo,
    /// How layers are made.
    pub method: GrowMethod,
    /// The layers of the grown model, from the first.
    pub layers: Vec<LayerOrigin>,
    /// The texts that both models are measured on.
    pub heldout: TextSet,
    /// The source on these texts.
    pub before: GrowMeasured,
    /// The grown model, without any training.
    pub after: GrowMeasured,
    /// The rise in loss, in nats per token, text by text.
    pub nll_increase: Estimated,
    /// The largest difference of two logits on the texts that are compared; for llama-pro alone, where it must be zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_logit_difference: Option<f64>,
    /// The small networks of lesa, one for each matrix of a layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<GrowNetwork>,
    /// What opens as the grown model, within the results folder.
    pub path: String,
    /// Its bytes, all files together.
    pub bytes: u64,
    /// SHA-256 of the files of weights.
    pub sha256: Vec<String>,
    /// What was found, in a sentence.
    pub conclusion: String,
    /// Counted work: `train`, `measure`.
    pub cost: BTreeMap<String, Work>,
    /// Time and memory by stage: what differs between two runs of the same job.
    pub resources: BTreeMap<String, Resources>,
}

/// A model on the held-out texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrowMeasured {
    /// Layers.
    pub layers: usize,
    /// Parameters.
    pub parameters: u64,
    /// Negative log-likelihood per token, in nats.
    pub nll: Estimated,
    /// The perplexity of all tokens, `exp` of the loss.
    #[serde(deserialize_with = "null::number")]
    pub perplexity: f64,
    /// The mean over texts of the perplexity of each.
    pub mean_perplexity: Estimated,
    /// The effective depth by each rule; empty if it was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depth: Vec<Depth>,
}

/// A small network of lesa.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrowNetwork {
    /// The matrix, by its name behind the number of the layer.
    pub matrix: String,
    /// Its rows and columns.
    pub shape: [usize; 2],
    /// Singular values that are kept, r.
    pub rank: usize,
    /// Rows that the network is trained on.
    pub rows: usize,
    /// The mean loss of the batches of each epoch.
    #[serde(deserialize_with = "null::numbers")]
    pub loss: Vec<f64>,
    /// The mean squared error of the trained network over the rows that it was trained on.
    #[serde(deserialize_with = "null::number")]
    pub mse: f64,
    /// The same of copying the layer before.
    #[serde(deserialize_with = "null::number")]
    pub mse_copy: f64,
    /// The same of the mean of both neighbours.
    #[serde(deserialize_with = "null::number")]
    pub mse_mean: f64,
}

impl Growing {
    /// Reads `grow.json`.
    ///
    /// # Errors
    /// When the file cannot be read, was written by a later version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let growing: Self = version::read(path, GROW_SCHEMA_VERSION)?;
        growing.check()?;
        Ok(growing)
    }

    fn check(&self) -> Result<()> {
        let wrong = |field: &str, problem: &str| {
            Err(Error::Inconsistent { file: GROW, field: field.to_owned(), problem: problem.to_owned() })
        };
        let depth = self.model.layers;
        if depth.max(self.layers.len()) > crate::prune::LAYERS {
            return wrong("layers", "is more than any model has");
        }
        if self.before.layers != depth || self.after.layers != self.layers.len() {
            return wrong("layers", "is not the number of layers before and after");
        }
        let beyond = |origin: &LayerOrigin| match *origin {
            LayerOrigin::Copy { layer } | LayerOrigin::Silent { layer } => layer >= depth,
            LayerOrigin::Mean { layers } | LayerOrigin::Predicted { layers } => {
                layers.iter().any(|layer| *layer >= depth)
            }
        };
        match self.layers.iter().any(beyond) {
            true => wrong("layers", "names a layer that the source does not have"),
            false => Ok(()),
        }
    }

    /// The layers in a few words: runs of copies as half-open ranges, everything else by itself.
    pub fn layer_list(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut run: Option<[usize; 2]> = None;
        let close = |run: &mut Option<[usize; 2]>, words: &mut Vec<String>| {
            if let Some([start, end]) = run.take() {
                words.push(if end - start == 1 { start.to_string() } else { format!("{start}..{end}") });
            }
        };
        for origin in &self.layers {
            match (*origin, &mut run) {
                (LayerOrigin::Copy { layer }, Some([_, end])) if *end == layer => *end += 1,
                (LayerOrigin::Copy { layer }, _) => {
                    close(&mut run, &mut words);
                    run = Some([layer, layer + 1]);
                }
                (other, _) => {
                    close(&mut run, &mut words);
                    words.push(other.to_string());
                }
            }
        }
        close(&mut run, &mut words);
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use crate::{Growing, LayerOrigin, fixture};

    #[test]
    fn layers_are_listed_as_ranges() {
        let mut growing = fixture::growing();
        growing.layers = vec![
            LayerOrigin::Copy { layer: 0 },
            LayerOrigin::Copy { layer: 1 },
            LayerOrigin::Copy { layer: 2 },
            LayerOrigin::Mean { layers: [2, 3] },
            LayerOrigin::Copy { layer: 1 },
            LayerOrigin::Silent { layer: 1 },
        ];
        assert_eq!(growing.layer_list(), "0..3, mean of 2 and 3, 1, 1 silent");
    }

    #[test]
    fn a_file_is_read_back_and_checked() {
        let (growing, folder) = (fixture::growing(), tempfile::tempdir().unwrap());
        let path = folder.path().join("grow.json");
        std::fs::write(&path, serde_json::to_vec(&growing).unwrap()).unwrap();
        assert_eq!(Growing::read(&path).unwrap(), growing);
        let mut wrong = growing;
        wrong.layers[1] = LayerOrigin::Copy { layer: 6 };
        std::fs::write(&path, serde_json::to_vec(&wrong).unwrap()).unwrap();
        let message = Growing::read(&path).unwrap_err().to_string();
        assert!(message.contains("names a layer that the source does not have"), "{message}");
    }
}
