//! The tensors of safetensors files.

use super::builder::{Builder, check_end};
use super::store::{ElementType, File, StoredType, TensorEntry, UnsupportedPlace};
use crate::error::{Error, Result};
use crate::files;
use std::path::Path;

/// Adds the tensors of a safetensors file.
///
/// # Errors
/// When its header is damaged or a tensor lies outside the file.
pub(super) fn add(builder: &mut Builder, path: &Path) -> Result<()> {
    use safetensors::Dtype;
    let map = files::map(path)?;
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&map).map_err(|e| {
        Error::file(path, format!("its safetensors header cannot be read ({e}); fetch the file again"))
    })?;
    let data = 8 + header;
    let file = builder.files.len();
    for (name, info) in metadata.tensors() {
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        check_end(path, &name, bytes.end, map.len())?;
        let stored = StoredType::Plain(info.dtype);
        let element = match info.dtype {
            Dtype::F64 => ElementType::F64,
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            Dtype::F8_E4M3 => ElementType::F8E4M3,
            other => {
                let kind = format!("{other:?}");
                let place = UnsupportedPlace { file, stored, shape: info.shape.clone(), bytes };
                let read = "F64, F32, F16, BF16 and F8_E4M3";
                builder.insert_unsupported(path, &name, kind, read, Some(place))?;
                continue;
            }
        };
        builder.insert(
            path,
            &name,
            TensorEntry { file, element, stored, shape: info.shape.clone(), bytes },
        )?;
    }
    builder.files.push(File { path: path.to_owned(), map });
    Ok(())
}
