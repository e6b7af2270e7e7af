//! From arguments to prompt sets, with the Hugging Face hub at hand.

use crate::args::Prompts;
use crate::{output, progress};
use anyhow::Result;
use fathom_data::{Access, DataError, Fetch, Fetched, Options, Prompt, PromptSet, PromptStream};
use fathom_hub::Hub;
use std::error::Error;

/// What `--data` names, read as far as it is needed for certain.
pub(crate) struct Data {
    /// As many prompts as are measured, unless some of them are too long.
    pub(crate) first: Vec<Prompt>,
    /// Those that follow.
    pub(crate) rest: PromptStream,
    /// Prompts of more tokens are left out.
    pub(crate) max_tokens: Option<usize>,
}

impl Data {
    pub(crate) fn open(args: &Prompts) -> Result<Self> {
        let mut rest = open(&args.data, &options(args, args.limit), args.split.as_deref())?;
        let first = rest.read(args.limit)?;
        let max_tokens = args.max_tokens.or(rest.max_tokens());
        Ok(Self { first, rest, max_tokens })
    }
}

/// All prompts that `--data` names, of which those that are too long for a model may be left out.
pub(crate) fn load(args: &Prompts) -> Result<PromptSet> {
    let mut stream = open(&args.data, &options(args, args.limit), args.split.as_deref())?;
    let prompts = match args.max_tokens.or(stream.max_tokens()) {
        Some(_) => stream.read(None)?,
        None => stream.read(args.limit)?,
    };
    Ok(stream.set(prompts))
}

/// The options of generated sets.
pub(crate) fn options(args: &Prompts, limit: Option<usize>) -> Options {
    Options { limit, seed: args.seed, rng: args.rng }
}

/// Opens a set, from the hub if it lies there.
fn open(spec: &str, options: &Options, split: Option<&str>) -> Result<PromptStream, DataError> {
    fathom_data::open(spec, options, &Access { split, hub: Some(&FromHub) })
}

/// Loads a set, from the hub if it lies there.
pub(crate) fn with_hub(spec: &str, options: &Options, split: Option<&str>) -> Result<PromptSet, DataError> {
    let mut stream = open(spec, options, split)?;
    let prompts = stream.read(options.limit)?;
    Ok(stream.set(prompts))
}

/// Says what of a set was not read.
pub(crate) fn note_unread(set: &PromptSet) {
    let PromptSet { source, empty, ignored, .. } = set;
    match empty {
        0 => {}
        1 => output::note(&format!("warning: 1 row of {source} has no text and is skipped")),
        _ => output::note(&format!("warning: {empty} rows of {source} have no text and are skipped")),
    }
    if !ignored.is_empty() {
        let columns = ignored.join(", ");
        output::note(&format!("warning: columns of {source} are not of a type that is read: {columns}"));
    }
}

struct FromHub;

impl Fetch for FromHub {
    fn dataset(
        &self,
        id: &str,
        revision: Option<&str>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Fetched, Box<dyn Error + Send + Sync>> {
        let hub = Hub::from_env()?;
        let listing = hub.dataset_files(id, revision)?;
        let downloads = progress::Downloads::default();
        let mut files = Vec::new();
        for name in listing.names.iter().filter(|name| wanted(name)) {
            let file = hub.dataset_file(id, Some(&listing.commit), name, &downloads)?;
            files.push((name.clone(), file.path));
        }
        Ok(Fetched { files, commit: listing.commit })
    }
}
