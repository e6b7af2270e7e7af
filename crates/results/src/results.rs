//! The types of `results.json`, schema version 1, and its reader.
//!
//! Every array is indexed by layer: length L for what a layer does, L + 1 for what can be read before
//! each layer and after the last. A number that could not be measured (NaN or infinite) is written as
//! `null` and read back as NaN, because JSON has no such numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Depth, Error, ObjectiveInfo, ProbeResults, Resources, Result, TextSet, Uncertainty, WorkByProbe, version,
};

/// The newest version of `results.json` this crate reads and the one it writes.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything in `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of the format, [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The model that was measured.
    pub model: ModelInfo,
    /// The prompts it was measured on.
    pub data: DataInfo,
    /// What a masked model was asked to predict; absent where it is the next token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveInfo>,
    /// The lens that the probes lens and settling read the stream with; absent for the logit lens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens: Option<LensInfo>,
    /// The curves, one entry per probe that ran.
    #[serde(default)]
    pub probes: ProbeResults,
    /// The effective depth by every rule whose probe ran.
    #[serde(default)]
    pub depth: Vec<Depth>,
    /// How certain the depths are: other thresholds, fewer prompts, resamples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty: Option<Uncertainty>,
    /// The work of each probe, by the probe's name: a function of the samples.
    #[serde(default)]
    pub cost: WorkByProbe,
    /// Time and memory of each probe, by the probe's name: all that differs between two runs of the same
    /// measurement.
    #[serde(default)]
    pub resources: BTreeMap<String, Resources>,
}

/// A lens other than the logit lens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum LensInfo {
    /// Affine maps of least squared error to the last level.
    Linear {
        /// The texts that they were fitted to.
        fit: TextSet,
    },
    /// The maps of a published tuned lens.
    Tuned {
        /// Its folder.
        path: String,
        /// SHA-256 of its weights.
        sha256: String,
        /// The model that it was trained for, as it says.
        #[serde(default)]
        model: Option<String>,
    },
}

impl LensInfo {
    /// The kind of a lens in a word; no lens is the logit lens.
    pub fn kind(lens: Option<&Self>) -> &'static str {
        match lens {
            None => "logit",
            Some(Self::Linear { .. }) => "linear",
            Some(Self::Tuned { .. }) => "tuned",
        }
    }
}

/// `linear, fitted to prose, 33 texts, 4414 tokens`.
impl fmt::Display for LensInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear { fit } => write!(f, "linear, fitted to {fit}"),
            Self::Tuned { path, .. } => write!(f, "tuned, {path}"),
        }
    }
}

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The Hugging Face id or short name, or the name of the file or folder.
    pub id: String,
    /// The commit of the weights, where known.
    #[serde(default)]
    pub revision: Option<String>,
    /// The architecture's name.
    pub architecture: String,
    /// The number of layers L.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// The number of parameters.
    pub parameters: u64,
    /// The type in which weights are multiplied.
    pub dtype: String,
    /// The device that it ran on, such as `NVIDIA H200 (CUDA)`; `None` for the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// The prompts a model was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataInfo {
    /// The data set's id with its parameters, or the name of the file.
    pub id: String,
    /// The number of prompts.
    pub prompts: usize,
    /// The number of question-answer pairs.
    #[serde(default)]
    pub pairs: usize,
    /// The number of tokens in all prompts.
    pub tokens: u64,
    /// Prompts and pairs that could not be measured, and are in no statistic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedPrompt>,
}

/// A prompt or pair that could not be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedPrompt {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

impl Results {
    /// Reads and checks a `results.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Json`] for broken JSON or a missing field,
    /// [`Error::NoSchema`] and [`Error::NewerSchema`] for files this crate must not interpret, and
    /// [`Error::Inconsistent`] when an array does not fit the number of layers.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the content of a `results.json`; `path` only names it in errors.
    ///
    /// # Errors
    ///
    /// As [`Results::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        version::check(text, path, SCHEMA_VERSION)?;
        let json = |source| Error::Json { path: path.to_owned(), source };
        let mut results: Self = serde_json::from_slice(text).map_err(json)?;
        if results.resources.is_empty() {
            /// Files of earlier versions have times and memory beside the counts.
            #[derive(Deserialize)]
            struct Earlier {
                #[serde(default)]
                cost: BTreeMap<String, Resources>,
            }
            results.resources = serde_json::from_slice::<Earlier>(text).map_err(json)?.cost;
        }
        results.validate()?;
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;
    use std::path::Path;

    #[test]
    fn a_round_trip_through_json_changes_nothing() {
        let mut results = fixture::results();
        results
            .probes
            .other
            .insert("steering".to_owned(), serde_json::json!({"future": {"layer": [1, null]}}));
        results.cost.get_mut("lens").unwrap().macs = u64::MAX;
        let text = serde_json::to_vec_pretty(&results).unwrap();
        assert_eq!(Results::parse(&text, Path::new("results.json")).unwrap(), results);
    }

    #[test]
    fn the_file_has_the_field_names_of_the_format() {
        let value = serde_json::to_value(fixture::results()).unwrap();
        for pointer in [
            "/schema_version",
            "/model/revision",
            "/probes/contributions/relative_norm/attn/mean/0",
            "/probes/contributions/cosine/layer/median/29",
            "/probes/lens/kl_lens_final/30",
            "/probes/similarity/angular_last/29/0",
            "/probes/settling/histogram/30",
            "/probes/skip/future/layer/layer_effect/max/29/29",
            "/probes/skip/future/layer/output_effect/mean/29",
            "/probes/erasure/5/effect/30/4",
            "/probes/gradients/0/attribution/29/4",
            "/probes/gradients/0/completeness_error/29",
            "/uncertainty/rules/0/histogram/edges/3",
            "/depth/0/interval/1",
            "/cost/lens/madds_naive",
        ] {
            assert!(value.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn a_probe_that_did_not_run_is_absent_from_the_file() {
        let mut results = fixture::results();
        results.probes = ProbeResults::default();
        let value = serde_json::to_value(&results).unwrap();
        assert_eq!(value["probes"], serde_json::json!({}));
    }

    /// Results from before the lens had a loss.
    #[test]
    fn results_without_a_loss_are_read() {
        let mut value = serde_json::to_value(fixture::results()).unwrap();
        assert!(value["probes"]["lens"].as_object_mut().unwrap().remove("nll").is_some());
        assert!(value["uncertainty"].as_object_mut().unwrap().remove("nll").is_some());
        let back: Results = serde_json::from_value(value.clone()).unwrap();
        back.validate().unwrap();
        assert!(back.probes.lens.as_ref().unwrap().nll.is_empty());
        assert_eq!(serde_json::to_value(back).unwrap(), value);
        let mut wrong = fixture::results();
        wrong.probes.lens.as_mut().unwrap().nll.pop();
        assert!(wrong.validate().unwrap_err().to_string().contains("probes.lens.nll has 30 values"));
    }

    #[test]
    fn numbers_json_cannot_hold_come_back_as_nan() {
        let mut results = fixture::results();
        results.probes.lens.as_mut().unwrap().entropy[3] = f64::INFINITY;
        results.depth[0].interval = Some([f64::NAN, 2.0]);
        results.probes.erasure[0].effect[1][2] = f64::NAN;
        let text = serde_json::to_vec(&results).unwrap();
        let back = Results::parse(&text, Path::new("x")).unwrap();
        assert!(back.probes.lens.unwrap().entropy[3].is_nan());
        assert!(back.probes.erasure[0].effect[1][2].is_nan());
        assert_eq!((back.depth[0].interval, back.depth[1].interval), (None, Some([22.0, 23.5])));
    }

    #[track_caller]
    fn refuse(text: &str, sentence: &str) {
        let message = Results::parse(text.as_bytes(), Path::new("results.json")).unwrap_err().to_string();
        assert!(message.contains(sentence), "{message}");
    }

    #[test]
    fn files_that_must_not_be_interpreted_are_refused() {
        refuse(r#"{"schema_version": 2, "unheard_of": 1}"#, "schema_version 2");
        refuse(r#"{"schema_version": 99999999999}"#, "use a newer fathom");
        refuse(r#"{"schema_version": "1"}"#, "not a fathom results file");
        refuse(r#"{"name": "left-pad"}"#, "not a fathom results file");
        refuse("{\"schema_version\": 1,\n \"model\": {\"id\": ", "line 2");
        refuse(r#"{"schema_version": 1}"#, "missing field `model`");
        refuse("", "EOF");
    }

    #[test]
    fn a_rule_of_a_newer_version_is_named() {
        let text =
            serde_json::to_string(&fixture::results()).unwrap().replace("\"kl_last\"", "\"kl_median\"");
        refuse(&text, "\"kl_median\"");
    }
}
