//! From arguments to prompt sets, with the Hugging Face hub at hand.

use crate::args::Prompts;
use crate::progress;
use anyhow::Result;
use fathom_data::{Access, Fetch, Fetched, Options, PromptSet};
use fathom_hub::Hub;
use std::error::Error;

/// Loads what `--data` names; the limit is left to whoever knows tokens, where the set
/// leaves out long prompts.
pub(crate) fn load(args: &Prompts) -> Result<PromptSet> {
    let mut set = with_hub(&args.data, &options(args, None), args.split.as_deref())?;
    set.max_tokens = args.max_tokens.or(set.max_tokens);
    if set.max_tokens.is_none() && args.limit.is_some() {
        return Ok(with_hub(&args.data, &options(args, args.limit), args.split.as_deref())?);
    }
    Ok(set)
}

/// The options of generated sets.
pub(crate) fn options(args: &Prompts, limit: Option<usize>) -> Options {
    Options { limit, seed: args.seed, rng: args.rng }
}

/// Loads a set, from the hub if it lies there.
pub(crate) fn with_hub(
    spec: &str,
    options: &Options,
    split: Option<&str>,
) -> Result<PromptSet, fathom_data::DataError> {
    fathom_data::load_with(spec, options, &Access { split, hub: Some(&FromHub) })
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
