//! Reading the levels of a model, whatever device it runs on; and texts that two models read alike.

use crate::error::invalid;
use crate::prompts::OpenSet;
use crate::texts::{Division, Part, Texts};
use crate::{LayerMap, Observer, Result};
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Loaded};
use fathom_probes::TokenizedPrompt;
use fathom_surgery::maps::{Mapped, rows};

/// A model whose levels can be read.
pub(super) trait Levels {
    /// The rows of every level, without the first token; see [`rows`].
    fn rows(&self, tokens: &[u32], mapped: Mapped) -> Result<Vec<Vec<f32>>>;
    /// Multiply-adds of a text.
    fn macs(&self, tokens: usize) -> u64;
    /// The width of the residual stream.
    fn width(&self) -> usize;
    /// The number of layers.
    fn depth(&self) -> usize;
}

impl<B: Backend> Levels for Loaded<B> {
    fn rows(&self, tokens: &[u32], mapped: Mapped) -> Result<Vec<Vec<f32>>> {
        let traces = self.model.run(&[tokens])?;
        Ok(traces.iter().flat_map(|trace| rows(self.model.backend(), trace, mapped)).collect())
    }

    fn macs(&self, tokens: usize) -> u64 {
        self.model.layers_macs(tokens)
    }

    fn width(&self) -> usize {
        self.model.config().hidden
    }

    fn depth(&self) -> usize {
        self.model.config().depth()
    }
}

/// Maps are fitted to three quarters of the texts.
const TOGETHER: [Part; 2] = [("fitting", ", three quarters", 192), ("held-out", ", the rest", 256)];

const APART: [Part; 1] = [("fitting", "", 256)];

/// Reads the fitting and the held-out texts, and checks that the target reads the same tokens.
pub(super) fn texts<B: Backend>(
    m: &LayerMap,
    data: OpenSet,
    source: &Loaded<B>,
    [source_id, target_id]: [&str; 2],
    target: &Checkpoint,
    observer: &dyn Observer,
) -> Result<[Texts; 2]> {
    let division = Division {
        options: &m.options,
        limit: m.options.data.limit,
        heldout: m.heldout_texts(),
        together: &TOGETHER,
        apart: &APART,
        decides: "maps would be measured on texts that they were fitted to",
    };
    let check = |text: &str, prompt: &TokenizedPrompt| {
        let others = target.tokenizer().encode(text)?;
        let TokenizedPrompt { tokens, id, .. } = prompt;
        if let Some(place) = (0..tokens.len().max(others.len())).find(|i| tokens.get(*i) != others.get(*i)) {
            invalid!(
                "{source_id} and {target_id} have different tokenizers (the tokens of text '{id}' differ from number \
                 {} on: {} and {} tokens), so their levels have no rows in common; give two models of one family",
                place + 1,
                tokens.len(),
                others.len()
            );
        }
        crate::tokenise::check(&others, id, target_id, target.config())
    };
    let mut all = division.read(data, source, &check, observer)?;
    let heldout = all.pop().unwrap_or_default();
    Ok([all.pop().unwrap_or_default(), heldout])
}
