//! Files of settings: TOML, with every key that is not understood named at once.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::path::{Component, Path};

/// Reads and checks a file.
///
/// # Errors
/// When it cannot be read, is not TOML or lacks a key, with the line; all keys that are not understood, at once; what
/// `check` refuses.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, check: impl Fn(&T) -> Result<()>) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; give a recipe", path.display()))?;
    let checked = parse(&text).and_then(|settings| check(&settings).map(|()| settings));
    checked.with_context(|| format!("{}", path.display()))
}

/// Reads text.
///
/// # Errors
/// As [`read`], without a check.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut unknown = Vec::new();
    let deserializer = toml::Deserializer::parse(text)?;
    let settings = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))?;
    if !unknown.is_empty() {
        bail!("unknown keys: {}", unknown.join(", "));
    }
    Ok(settings)
}

/// The name of a run, if it can be that of a folder.
///
/// # Errors
/// When it is empty or leads into another folder.
pub fn folder_name(name: &str) -> Result<&str> {
    match Path::new(name).components().collect::<Vec<_>>()[..] {
        [Component::Normal(only)] if only == name && !name.contains(['/', '\\']) => Ok(name),
        _ => bail!("name is {name:?}, which cannot be the name of a folder; change it, or give --out"),
    }
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

#[cfg(test)]
mod tests {
    use super::folder_name;

    #[test]
    fn names_stay_in_the_folder_of_runs() {
        for name in ["tiny", "a.b", "run 1", "größe"] {
            assert_eq!(folder_name(name).unwrap(), name);
        }
        for name in ["", ".", "..", "/tmp/a", "../a", "a/b", "a/", "./a", "a\\b"] {
            let message = folder_name(name).unwrap_err().to_string();
            assert!(message.contains("--out"), "{message}");
        }
    }
}

/// Fails unless `text`, with `from` replaced by `to`, is refused with a message that contains `part`.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_refused<T: DeserializeOwned>(
    check: impl Fn(&T) -> Result<()>,
    text: &str,
    [from, to]: [&str; 2],
    part: &str,
) {
    assert!(text.contains(from), "{from} is not in the recipe");
    let checked = parse::<T>(&text.replace(from, to)).and_then(|settings| check(&settings));
    let message = format!("{:#}", checked.unwrap_err());
    assert!(message.contains(part), "{message}");
}
