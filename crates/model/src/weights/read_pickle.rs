//! The tensors of PyTorch files: zip archives of one pickle and one uncompressed entry per storage, so
//! that tensors can be memory-mapped.

use super::builder::Builder;
use super::store::{ElementType, File, StoredType, TensorEntry, UnsupportedPlace};
use crate::error::{Error, Result};
use crate::{files, pickle};
use safetensors::Dtype;
use std::ops::Range;
use std::path::Path;

/// Adds the tensors of a file written by `torch.save`.
///
/// # Errors
/// When the file is damaged, or not in PyTorch's zip format.
pub(super) fn add(builder: &mut Builder, path: &Path) -> Result<()> {
    let bad = |what: String| Error::file(path, what);
    let map = files::map(path)?;
    if !map.starts_with(b"PK") {
        return Err(bad(
            "it is not in PyTorch's zip format (1.6 and later); save it again or convert it to safetensors"
                .into(),
        ));
    }
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&map[..]))
        .map_err(|e| bad(format!("its zip directory cannot be read ({e}); fetch the file again")))?;
    let names = zip.file_names().flatten();
    let pickle = names.map(|name| name.into_owned()).find(|name| name.ends_with("/data.pkl"));
    let Some(pickle) = pickle else {
        return Err(bad("it holds no data.pkl; convert it to safetensors".into()));
    };
    let folder = pickle.trim_end_matches(".pkl");
    let mut stored = |name: &str| {
        let entry = zip.by_name(name).map_err(|e| bad(format!("its entry '{name}' ({e})")))?;
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
        let bytes = start.and_then(|start| Some(start..start.checked_add(size)?));
        let stored = entry.compression() == zip::CompressionMethod::Stored;
        bytes
            .filter(|b| stored && b.end <= map.len())
            .ok_or_else(|| bad(format!("its entry '{name}' is compressed or cut off; fetch the file again")))
    };
    let tensors = pickle::read(&map[stored(&pickle)?])
        .map_err(|e| bad(format!("{e}; fetch the file again or convert it to safetensors")))?;
    let file = builder.files.len();
    for tensor in tensors {
        let Some((element, dtype)) = element_of(tensor.class) else {
            let supported = "DoubleStorage, FloatStorage, HalfStorage and BFloat16Storage";
            let place = unsupported_place(&tensor, file, &mut stored, folder);
            builder.insert_unsupported(path, tensor.name, tensor.class.to_owned(), supported, place)?;
            continue;
        };
        if !tensor.is_contiguous() {
            return Err(bad(format!(
                "tensor '{}' is not contiguous; save it with .contiguous()",
                tensor.name
            )));
        }
        let data = stored(&format!("{folder}/{}", tensor.storage))?;
        let bytes = bytes_of(&tensor, element, &data)
            .map_err(|what| bad(format!("tensor '{}' {what}", tensor.name)))?;
        builder.insert(
            path,
            tensor.name,
            TensorEntry { file, element, stored: StoredType::Plain(dtype), shape: tensor.shape, bytes },
        )?;
    }
    builder.files.push(File { path: path.to_owned(), map });
    Ok(())
}

/// The element type of a PyTorch storage class, if it is supported.
fn element_of(class: &str) -> Option<(ElementType, Dtype)> {
    Some(match class {
        "DoubleStorage" => (ElementType::F64, Dtype::F64),
        "FloatStorage" => (ElementType::F32, Dtype::F32),
        "HalfStorage" => (ElementType::F16, Dtype::F16),
        "BFloat16Storage" => (ElementType::Bf16, Dtype::BF16),
        _ => return None,
    })
}

/// Where a tensor of another storage class lies, if safetensors knows the type and it is contiguous.
fn unsupported_place(
    tensor: &pickle::Stored<'_>,
    file: usize,
    stored: &mut impl FnMut(&str) -> Result<Range<usize>>,
    folder: &str,
) -> Option<UnsupportedPlace> {
    let dtype = match tensor.class {
        "BoolStorage" => Dtype::BOOL,
        "ByteStorage" => Dtype::U8,
        "CharStorage" => Dtype::I8,
        "ShortStorage" => Dtype::I16,
        "IntStorage" => Dtype::I32,
        "LongStorage" => Dtype::I64,
        _ => return None,
    };
    let data = stored(&format!("{folder}/{}", tensor.storage)).ok()?;
    let elements = tensor.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    let size = dtype.bitsize() / 8;
    let start = data.start.checked_add(tensor.offset.checked_mul(size)?)?;
    let bytes = start..start.checked_add(elements.checked_mul(size)?)?;
    let inside = tensor.is_contiguous() && bytes.end <= data.end;
    let stored = StoredType::Plain(dtype);
    inside.then(|| UnsupportedPlace { file, stored, shape: tensor.shape.clone(), bytes })
}

/// The bytes of a tensor in the file, given those of its storage.
fn bytes_of(
    tensor: &pickle::Stored<'_>,
    element: ElementType,
    data: &Range<usize>,
) -> std::result::Result<Range<usize>, &'static str> {
    let elements = tensor.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let (Some(len), Some(skip)) = (elements.and_then(|n| element.bytes(n)), element.bytes(tensor.offset))
    else {
        return Err("has an impossible shape");
    };
    if skip.checked_add(len).is_none_or(|end| end > data.len()) {
        return Err("is larger than its data; fetch the file again");
    }
    Ok(data.start + skip..data.start + skip + len)
}
