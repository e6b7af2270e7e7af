//! Prompt sets, from the Hugging Face hub where needed.

use crate::observer::Downloads;
use crate::{Observer, Result};
use fathom_data::{
    Access, ChoiceSet, DataError, Fetch, Fetched, Options, Prompt, PromptSet, PromptStream, Rng,
};
use fathom_hub::Hub;

/// Which prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptSpec {
    /// The name of a set, with parameters as in `addition:digits=4`, or the path of a .jsonl, .parquet, .txt or .fasta file.
    pub id: String,
    /// Take only the first prompts.
    pub limit: Option<usize>,
    /// The split of a published data set.
    pub split: Option<String>,
    /// Leave out prompts of more tokens, and those beyond the model's context; `None` is what the set says.
    pub max_tokens: Option<usize>,
    /// Seed of generated prompts.
    pub seed: u64,
    /// Random number generator of generated prompts.
    pub rng: Rng,
}

impl PromptSpec {
    /// All prompts of a set, with the default seed.
    pub fn new(id: impl Into<String>) -> Self {
        let Options { limit, seed, rng } = Options::default();
        Self { id: id.into(), limit, split: None, max_tokens: None, seed, rng }
    }

    /// The same options for another set, such as that of the pairs.
    pub(crate) fn of(&self, id: &str, limit: Option<usize>) -> Self {
        Self { id: id.to_owned(), limit, split: None, max_tokens: None, ..self.clone() }
    }

    /// The same options for held-out texts, where there are some.
    pub(crate) fn heldout(&self, id: Option<&String>) -> Option<Self> {
        Some(Self { id: id?.clone(), split: None, ..self.clone() })
    }

    /// Takes only the first `texts` of the set `set`, which is larger than needed, unless there is a limit.
    pub(crate) fn first_of(self, set: &str, texts: usize) -> Self {
        let limit = self.limit.or((self.id == set).then_some(texts));
        Self { limit, ..self }
    }

    fn open(&self, observer: &dyn Observer) -> Result<PromptStream, DataError> {
        let options = Options { limit: self.limit, seed: self.seed, rng: self.rng };
        let hub = FromHub(observer);
        fathom_data::open(&self.id, &options, &Access { split: self.split.as_deref(), hub: Some(&hub) })
    }

    /// Reads the first prompts, up to the limit, whatever their length.
    pub(crate) fn load(&self, observer: &dyn Observer) -> Result<PromptSet, DataError> {
        let mut stream = self.open(observer)?;
        let prompts = stream.read(self.limit)?;
        Ok(stream.set(prompts))
    }

    /// Reads all prompts of which some may be measured: all of the set where long ones may be left out.
    pub(crate) fn load_candidates(&self, observer: &dyn Observer) -> Result<PromptSet, DataError> {
        let mut stream = self.open(observer)?;
        let prompts = match self.max_tokens.or(stream.max_tokens()) {
            Some(_) => stream.read(None)?,
            None => stream.read(self.limit)?,
        };
        Ok(stream.set(prompts))
    }
}

/// Reads a prompt set.
///
/// # Errors
/// When the set is unknown or cannot be read.
pub fn read_prompts(spec: &PromptSpec, observer: &dyn Observer) -> Result<PromptSet> {
    let set = spec.load(observer)?;
    warn_of_unread(&set, observer);
    Ok(set)
}

/// Reads rows of multiple choice: the name of a published set, with parameters as in `arc-easy:split=train`, or the
/// path of a .jsonl or .parquet file; the first `limit` of them.
///
/// # Errors
/// When the set is unknown or cannot be read, or a row has no right choice.
pub fn read_choices(spec: &str, limit: Option<usize>, observer: &dyn Observer) -> Result<ChoiceSet> {
    let hub = FromHub(observer);
    let options = Options { limit, ..Options::default() };
    Ok(fathom_data::load_choices(spec, &options, &Access { split: None, hub: Some(&hub) })?)
}

/// An open prompt set, read as far as is certainly needed.
pub(crate) struct OpenSet {
    /// As many prompts as are measured, unless some of them are too long.
    pub(crate) first: Vec<Prompt>,
    /// Those that follow.
    pub(crate) rest: PromptStream,
    /// Prompts of more tokens are left out.
    pub(crate) max_tokens: Option<usize>,
}

impl OpenSet {
    pub(crate) fn open(spec: &PromptSpec, observer: &dyn Observer) -> Result<Self> {
        let mut rest = spec.open(observer)?;
        let first = rest.read(spec.limit)?;
        let max_tokens = spec.max_tokens.or(rest.max_tokens());
        Ok(Self { first, rest, max_tokens })
    }
}

/// Warns of rows and columns that were not read.
pub(crate) fn warn_of_unread(set: &PromptSet, observer: &dyn Observer) {
    let PromptSet { source, empty, ignored, .. } = set;
    match empty {
        0 => {}
        1 => observer.warn(&format!("1 row of {source} has no text and is skipped")),
        _ => observer.warn(&format!("{empty} rows of {source} have no text and are skipped")),
    }
    if !ignored.is_empty() {
        let columns = ignored.join(", ");
        observer.warn(&format!("columns of {source} are not of a type that is read: {columns}"));
    }
}

struct FromHub<'a>(&'a dyn Observer);

impl Fetch for FromHub<'_> {
    fn dataset(
        &self,
        id: &str,
        revision: Option<&str>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Fetched, Box<dyn std::error::Error + Send + Sync>> {
        let hub = Hub::from_env()?;
        let listing = hub.dataset_files(id, revision)?;
        let downloads = Downloads(self.0);
        let mut files = Vec::new();
        for name in listing.names.iter().filter(|name| wanted(name)) {
            let file = hub.dataset_file(id, Some(&listing.commit), name, &downloads)?;
            files.push((name.clone(), file.path));
        }
        Ok(Fetched { files, commit: listing.commit })
    }
}
