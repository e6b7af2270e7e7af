//! The weights of a folder: one file, or shards with an index.

use super::builder::Builder;
use super::{names, read_pickle, read_safetensors};
use crate::error::{Error, Result};
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Add = fn(&mut Builder, &Path) -> Result<()>;

/// The tensors of a folder; see [`Weights::open_folder`](super::Weights::open_folder).
pub(super) fn open(folder: &Path) -> Result<Builder> {
    for (single, add) in
        [("model.safetensors", read_safetensors::add as Add), ("pytorch_model.bin", read_pickle::add)]
    {
        let mut builder = Builder::default();
        let index = folder.join(format!("{single}.index.json"));
        if folder.join(single).is_file() {
            add(&mut builder, &folder.join(single))?;
        } else if index.is_file() {
            add_shards(&mut builder, &index, folder, add)?;
        } else {
            continue;
        }
        return Ok(builder);
    }
    Err(Error::NotFound(format!(
        "{} holds no model.safetensors, pytorch_model.bin or index of shards; give a folder with weights or a .gguf file",
        folder.display()
    )))
}

fn add_shards(builder: &mut Builder, index: &Path, folder: &Path, add: Add) -> Result<()> {
    builder.index = read_index(index)?;
    let shards: BTreeSet<String> = builder.index.values().cloned().collect();
    for shard in shards {
        let path = folder.join(&shard);
        if !path.is_file() {
            return Err(Error::config(
                index,
                format!("the shard {shard} that it names is missing; fetch it, or the model again"),
            ));
        }
        add(builder, &path)?;
    }
    match builder.index.iter().find(|(name, _)| !builder.has(name)) {
        None => Ok(()),
        Some((name, shard)) => Err(Error::config(
            index,
            format!("it says that '{name}' is in {shard}, which does not hold it; fetch the model again"),
        )),
    }
}

/// Reads an index of shards: the shard of each tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let json = files::json(path)?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()) else {
        return Err(Error::file(path, "it has no 'weight_map'"));
    };
    let mut index = BTreeMap::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            // A shard is in the folder of its index; anything else is an attempt to read elsewhere.
            Some(s) if Path::new(s).file_name() == Some(s.as_ref()) && !s.contains('\\') => {
                index.insert(names::canonical(tensor), s.to_owned());
            }
            _ => {
                return Err(Error::file(
                    path,
                    format!("the shard of '{tensor}' is {shard}, which is not a plain file name"),
                ));
            }
        }
    }
    Ok(index)
}
