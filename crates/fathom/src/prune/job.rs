//! A pruning whose model is loaded and whose texts are tokens.

use super::questions::Questions;
use crate::error::invalid;
use crate::texts::Texts;
use crate::{Error, Observer, Prune, Replace, Result, memory};
use fathom_model::config::Mlp;
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_surgery::Removal;

/// A loaded model, the texts, and what is to be done.
pub(super) struct Job<'a, B: Backend> {
    pub(super) p: &'a Prune,
    pub(super) loaded: &'a Loaded<B>,
    pub(super) calibration: &'a Texts,
    pub(super) heldout: &'a Texts,
    pub(super) questions: Option<&'a Questions>,
    /// Numbers of units to remove, ascending.
    pub(super) counts: Vec<usize>,
    /// The user's own choices.
    pub(super) own: Vec<Removal>,
    /// Bytes of working memory beside the weights.
    pub(super) memory: u64,
    pub(super) observer: &'a dyn Observer,
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
}

impl<'a, B: Backend> Job<'a, B> {
    pub(super) fn new(
        p: &'a Prune,
        loaded: &'a Loaded<B>,
        [calibration, heldout]: [&'a Texts; 2],
        questions: Option<&'a Questions>,
        observer: &'a dyn Observer,
        is_cancelled: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        let depth = loaded.model.config().depth();
        let (counts, own) = (p.counts(depth)?, p.own()?);
        for removal in &own {
            removal.check(depth).map_err(|error| Error::Invalid(error.to_string()))?;
        }
        if counts.is_empty() && own.is_empty() {
            invalid!("the model has {depth} layer, so none can be removed");
        }
        if p.replace == Replace::Linear && loaded.model.config().post_norm {
            invalid!("--replace linear: {}", fathom_surgery::linear::NotReplaceable::PostNorm);
        }
        let config = loaded.model.config();
        if let Some(what) = crate::sublayers::lacking(config, p.unit) {
            invalid!("--unit: {what}");
        }
        let other = config.layers.iter().position(|layer| layer.mlp != Mlp::Dense);
        if let Some(layer) = other.filter(|_| p.replace == Replace::Linear) {
            let why = match config.has_mlp(layer) {
                true => fathom_surgery::linear::NotReplaceable::Experts(layer),
                false => fathom_surgery::linear::NotReplaceable::NoMlp(layer),
            };
            invalid!("--replace linear: {why}");
        }
        let memory = p.options.memory.unwrap_or_else(|| memory::default_for(&loaded.model));
        memory::check_texts(&loaded.model, calibration.prompts.iter().chain(&heldout.prompts), memory)?;
        Ok(Self { p, loaded, calibration, heldout, questions, counts, own, memory, observer, is_cancelled })
    }

    /// Whether the model is a GGUF file, which has no config.json beside it.
    pub(super) fn is_gguf(&self) -> bool {
        self.loaded.settings.is_empty()
    }

    pub(super) fn model(&self) -> &'a Model<B> {
        &self.loaded.model
    }
}
