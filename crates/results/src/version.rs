//! The version of a file's format, which is checked before anything else of it is interpreted.

use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// Refuses text whose `schema_version` is missing or above `newest`; `path` only names it in errors. A newer file may lack
/// fields that this version requires, so the version is read on its own first.
pub(crate) fn check(text: &[u8], path: &Path, newest: u32) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(default)]
        schema_version: Value,
    }
    let version: Version =
        serde_json::from_slice(text).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    match version.schema_version.as_u64() {
        None | Some(0) => Err(Error::NoSchema { path: path.to_owned() }),
        Some(found) if found > newest.into() => {
            Err(Error::NewerSchema { path: path.to_owned(), found, supported: newest })
        }
        Some(_) => Ok(()),
    }
}

/// Reads a file whose version is at most `newest`. What is in it is not checked against itself.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<T> {
    let fail = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(fail)?;
    check(&text, path, newest)?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}
