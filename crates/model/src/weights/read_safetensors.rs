//! The tensors of safetensors files.

use super::builder::{Builder, check_end};
use super::store::{ElementType, File, TensorEntry};
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
        let element = match info.dtype {
            Dtype::F64 => ElementType::F64,
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            Dtype::F8_E4M3 => ElementType::F8E4M3,
            other => {
                let kind = format!("{other:?}");
                builder.insert_unsupported(path, &name, kind, "F64, F32, F16, BF16 and F8_E4M3")?;
                continue;
            }
        };
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        check_end(path, &name, bytes.end, map.len())?;
        builder.insert(path, &name, TensorEntry { file, element, shape: info.shape.clone(), bytes })?;
    }
    builder.files.push(File { path: path.to_owned(), map });
    Ok(())
}
