//! Collecting the tensors of several files.

use super::fp8::FP8_BLOCK;
use super::store::{File, Store, TensorEntry, UnsupportedPlace, UnsupportedTensor};
use super::{mxfp4, names};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Maximum number of tensors that a note names.
const NAMED: usize = 3;

/// Refuses a tensor that ends beyond the end of its file.
pub(super) fn check_end(path: &Path, name: &str, end: usize, len: usize) -> Result<()> {
    if end <= len {
        return Ok(());
    }
    let what = format!("it is cut off: tensor '{name}' ends at byte {end} of {len}; fetch the file again");
    Err(Error::file(path, what))
}

/// The tensors of the files opened so far.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) files: Vec<File>,
    pub(super) entries: HashMap<String, TensorEntry>,
    unsupported: BTreeMap<String, UnsupportedTensor>,
    /// The shard of each tensor, if there is an index.
    pub(super) index: BTreeMap<String, String>,
    /// Tensors of a shard that the index takes from another one, with their shard.
    passed_over: Vec<(String, String)>,
}

impl Builder {
    /// Whether a tensor was found, readable or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.unsupported.contains_key(name)
    }

    pub(super) fn finish(self) -> Store {
        let notes = self.notes();
        let mxfp4 = mxfp4::find(&self).filter(|(name, _)| !self.has(name)).collect();
        let Self { files, entries, unsupported, .. } = self;
        Store { files, entries, mxfp4, unsupported, notes, fp8_block: FP8_BLOCK }
    }

    /// The names of tensors of types that are not read by themselves.
    pub(super) fn unsupported_names(&self) -> impl Iterator<Item = &str> {
        self.unsupported.keys().map(String::as_str)
    }

    /// Where such a tensor lies, if that is known.
    pub(super) fn place_of_unsupported(&self, name: &str) -> Option<&UnsupportedPlace> {
        self.unsupported.get(name)?.place.as_ref()
    }

    fn notes(&self) -> Vec<String> {
        if self.passed_over.is_empty() {
            return Vec::new();
        }
        let named = self.passed_over.iter().take(NAMED);
        let named: Vec<String> = named.map(|(name, shard)| format!("'{name}' in {shard}")).collect();
        let more = match self.passed_over.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        vec![format!(
            "tensors that the index takes from other shards are not read: {}{more}",
            named.join(", ")
        )]
    }

    /// The canonical name of a tensor; `None` if the index takes it from another shard.
    fn place(&mut self, path: &Path, name: &str) -> Result<Option<String>> {
        let name = names::canonical(name);
        let shard = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if self.index.get(&name).is_some_and(|other| *other != shard) {
            self.passed_over.push((name, shard));
            return Ok(None);
        }
        if self.has(&name) {
            return Err(Error::file(
                path,
                format!("tensor '{name}' is there twice; convert the model again"),
            ));
        }
        Ok(Some(name))
    }

    pub(super) fn insert(&mut self, path: &Path, name: &str, entry: TensorEntry) -> Result<()> {
        if let Some(name) = self.place(path, name)? {
            self.entries.insert(name, entry);
        }
        Ok(())
    }

    /// Records a tensor of an unsupported type. Old checkpoints hold attention masks of such types, so this
    /// is an error only if the model needs the tensor.
    pub(super) fn insert_unsupported(
        &mut self,
        path: &Path,
        name: &str,
        kind: String,
        read: &str,
        place: Option<UnsupportedPlace>,
    ) -> Result<()> {
        if let Some(name) = self.place(path, name)? {
            let why = format!("{kind}, which is not read ({read} are)");
            self.unsupported.insert(name, UnsupportedTensor { why, place });
        }
        Ok(())
    }
}
