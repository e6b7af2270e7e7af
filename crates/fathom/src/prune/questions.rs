//! Multiple-choice questions as tokens.

use crate::choices::{ChoiceJob, ChoiceTokens};
use crate::{Observer, Prune, Result, read_choices};
use fathom_model::Backend;
use fathom_model::source::Loaded;
use fathom_results::TextSet;

/// Questions as tokens.
pub(super) struct Questions {
    pub(super) about: TextSet,
    pub(super) rows: Vec<ChoiceTokens>,
}

impl Questions {
    /// The questions that were asked for.
    pub(super) fn read<B: Backend>(
        p: &Prune,
        loaded: &Loaded<B>,
        observer: &dyn Observer,
    ) -> Result<Option<Self>> {
        let Some(id) = &p.choices else { return Ok(None) };
        let set = read_choices(id, p.options.data.limit, observer)?;
        p.options.sequences.remark_on_questions("the questions of --choices", observer);
        let job = ChoiceJob::new(&set, &loaded.tokenizer, loaded.model.config(), observer)?;
        let tokens = job.rows.iter().flat_map(|row| &row.choices).map(|c| c.continuation.len() as u64).sum();
        let about = TextSet { id: set.id, texts: job.rows.len(), tokens, sha256: set.sha256 };
        Ok(Some(Self { about, rows: job.rows }))
    }
}
