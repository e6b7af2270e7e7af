//! Files of settings: TOML, with every key that is not understood named at once.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a file.
///
/// # Errors
/// When it cannot be read, is no TOML or lacks a key, with the line; all keys that are not understood, at once.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; give a recipe", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

/// Reads text.
///
/// # Errors
/// As [`read`].
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut unknown = Vec::new();
    let deserializer = toml::Deserializer::parse(text)?;
    let settings = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))?;
    if !unknown.is_empty() {
        bail!("unknown keys: {}", unknown.join(", "));
    }
    Ok(settings)
}

/// Refuses an empty list, and one that has an item twice.
pub(crate) fn check_list<T: PartialEq + std::fmt::Debug>(key: &str, items: &[T]) -> Result<()> {
    if items.is_empty() {
        bail!("{key} is empty; give at least one");
    }
    match items.iter().enumerate().find(|(i, item)| items[..*i].contains(item)) {
        Some((_, twice)) => bail!("{key} has {twice:?} twice"),
        None => Ok(()),
    }
}
