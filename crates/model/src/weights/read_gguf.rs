//! The tensors of GGUF files, split or not.

use super::builder::{Builder, check_end};
use super::store::{ElementType, File, StoredType, TensorEntry, UnsupportedPlace};
use crate::blocks::{GGML_TYPES, ggml_name};
use crate::error::{Error, Result};
use crate::{files, gguf};
use std::path::{Path, PathBuf};

/// Maximum number of parts of a split file.
const MAX_PARTS: usize = 10_000;

/// The tensors of a GGUF file and its parts, and the header of the first; see
/// [`Weights::open_gguf`](super::Weights::open_gguf).
pub(super) fn open(path: &Path) -> Result<(Builder, gguf::Header)> {
    let mut builder = Builder::default();
    let Some(parts) = parts(path)? else {
        let header = add(&mut builder, path)?;
        return match header.count("split.count") {
            Some(count) if count > 1 => Err(Error::config(
                path,
                format!(
                    "it is one of {count} parts, and its name does not say where the others are; name them as llama.cpp does, NAME-00001-of-{count:05}.gguf, or join them with 'llama-gguf-split --merge'"
                ),
            )),
            _ => Ok((builder, header)),
        };
    };
    let mut first = None;
    for (i, part) in parts.iter().enumerate() {
        let header = add(&mut builder, part)?;
        let says = (header.count("split.no").unwrap_or(i), header.count("split.count"));
        if says != (i, Some(parts.len())) && parts.len() > 1 {
            return Err(Error::config(
                part,
                format!(
                    "its metadata does not say that it is part {} of {}; fetch the parts again",
                    i + 1,
                    parts.len()
                ),
            ));
        }
        first.get_or_insert(header);
    }
    let header = first.unwrap_or_default();
    match header.count("split.tensors.count") {
        Some(count) if count != builder.entries.len() => Err(Error::config(
            path,
            format!(
                "its parts hold {} tensors where the first says {count}; fetch them again",
                builder.entries.len()
            ),
        )),
        _ => Ok((builder, header)),
    }
}

/// Adds the tensors of one file and returns its header.
fn add(builder: &mut Builder, path: &Path) -> Result<gguf::Header> {
    let map = files::map(path)?;
    let header = gguf::Header::parse(path, &map)?;
    let file = builder.files.len();
    let mut starts: Vec<usize> = header.tensors.iter().map(|info| info.offset).collect();
    starts.sort_unstable();
    for info in &header.tensors {
        let name = &info.name;
        let Some(element) = ElementType::from_ggml(info.kind) else {
            let place = UnsupportedPlace {
                file,
                stored: StoredType::Ggml(info.kind),
                shape: info.shape.clone(),
                bytes: info.offset..next(&starts, info.offset, map.len()),
            };
            let place = (place.bytes.start <= place.bytes.end).then_some(place);
            builder.insert_unsupported(path, name, ggml_name(info.kind), GGML_TYPES, place)?;
            continue;
        };
        let whole_rows = element.bytes(*info.shape.last().unwrap_or(&1)).is_some();
        let Some(len) = element.bytes(info.shape.iter().product()).filter(|_| whole_rows) else {
            return Err(Error::file(
                path,
                format!("the rows of tensor '{name}' {:?} do not fill whole blocks", info.shape),
            ));
        };
        let bytes = info.offset..info.offset.saturating_add(len);
        check_end(path, name, bytes.end, map.len())?;
        let stored = StoredType::Ggml(info.kind);
        builder.insert(
            path,
            name,
            TensorEntry { file, element, stored, shape: info.shape.clone(), bytes },
        )?;
    }
    check_overlaps(builder, path, file)?;
    builder.files.push(File { path: path.to_owned(), map });
    Ok(header)
}

/// Where the tensor after the one at `offset` begins, or the file ends: an upper bound of the end of a tensor of
/// unknown size.
fn next(starts: &[usize], offset: usize, end: usize) -> usize {
    starts.get(starts.partition_point(|start| *start <= offset)).map_or(end, |start| end.min(*start))
}

/// Refuses tensors that share bytes: otherwise a small file with thousands of overlapping
/// tensors would become a large model.
fn check_overlaps(builder: &Builder, path: &Path, file: usize) -> Result<()> {
    let of_file = builder.entries.iter().filter(|(_, entry)| entry.file == file);
    let mut spans: Vec<_> = of_file.map(|(name, e)| (e.bytes.start, e.bytes.end, name)).collect();
    spans.sort_unstable();
    match spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let (one, other) = (pair[0].2, pair[1].2);
            Err(Error::file(
                path,
                format!("the tensors '{one}' and '{other}' overlap; convert the model again"),
            ))
        }
    }
}

/// The parts of a split GGUF file, in order, if the name of this one is that of a part.
///
/// # Errors
/// When a part is missing.
pub(crate) fn parts(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let number = |digits: &str| digits.parse::<usize>().ok().filter(|_| digits.len() == 5);
    let split = name.strip_suffix(".gguf").and_then(|stem| {
        let (before, count) = stem.rsplit_once("-of-")?;
        let (before, part) = before.rsplit_once('-')?;
        Some((before, number(part)?, number(count)?))
    });
    let Some((before, part, count)) = split else { return Ok(None) };
    if !(1..=count).contains(&part) || count > MAX_PARTS {
        return Err(Error::file(path, format!("its name says that it is part {part} of {count}")));
    }
    let all: Vec<PathBuf> =
        (1..=count).map(|i| path.with_file_name(format!("{before}-{i:05}-of-{count:05}.gguf"))).collect();
    match all.iter().position(|p| !p.is_file()) {
        None => Ok(Some(all)),
        Some(i) => {
            let missing = all[i].file_name().unwrap_or_default().to_string_lossy().into_owned();
            let what =
                format!("part {} of {count}, {missing}, is missing; fetch it into the same folder", i + 1);
            Err(Error::config(path, what))
        }
    }
}
