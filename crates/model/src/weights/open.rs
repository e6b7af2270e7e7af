//! Opening files of weights: which there are, and where in them each tensor lies.

use super::{ElementType, FP8_BLOCK, File, Inner, TensorEntry, Weights, names};
use crate::blocks::{GGML_TYPES, ggml_name};
use crate::error::{Error, Result};
use crate::{files, gguf, pickle};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most parts of a split file.
const MOST_PARTS: usize = 10_000;

/// Tensors that a note names, at most.
const NAMED: usize = 3;

/// Where an index says that tensors lie: tensor to shard.
type Index = BTreeMap<String, String>;

/// Reads an index of shards.
fn read_index(path: &Path) -> Result<Index> {
    let json = files::json(path)?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()) else {
        return Err(Error::file(path, "it has no 'weight_map'"));
    };
    let mut index = Index::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            // A shard lies beside its index; anything else is an attempt to read elsewhere.
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

/// The parts of a split GGUF file, in order, where the name of this one says that it is a part.
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
    if !(1..=count).contains(&part) || count > MOST_PARTS {
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

/// Refuses a tensor that ends behind the end of its file.
fn check_end(path: &Path, name: &str, end: usize, len: usize) -> Result<()> {
    if end <= len {
        return Ok(());
    }
    let what = format!("it is cut off: tensor '{name}' ends at byte {end} of {len}; fetch the file again");
    Err(Error::file(path, what))
}

/// Weights in the making.
#[derive(Default)]
pub(super) struct Builder {
    files: Vec<File>,
    entries: HashMap<String, TensorEntry>,
    unsupported: BTreeMap<String, String>,
    /// Where tensors are to be taken from, if an index says so.
    index: Index,
    /// Tensors of a shard that the index takes from another one.
    passed_over: Vec<(String, String)>,
}

impl Builder {
    /// The weights of a folder; see [`Weights::open_folder`].
    pub(super) fn folder(folder: &Path) -> Result<Self> {
        for (single, open) in [
            ("model.safetensors", Self::add_safetensors as fn(&mut Self, &Path) -> Result<()>),
            ("pytorch_model.bin", Self::add_pickle),
        ] {
            let mut builder = Self::default();
            let index = folder.join(format!("{single}.index.json"));
            if folder.join(single).is_file() {
                open(&mut builder, &folder.join(single))?;
            } else if index.is_file() {
                builder.add_shards(&index, folder, open)?;
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

    fn add_shards(
        &mut self,
        index: &Path,
        folder: &Path,
        open: fn(&mut Self, &Path) -> Result<()>,
    ) -> Result<()> {
        self.index = read_index(index)?;
        let shards: std::collections::BTreeSet<String> = self.index.values().cloned().collect();
        for shard in shards {
            let path = folder.join(&shard);
            if !path.is_file() {
                return Err(Error::config(
                    index,
                    format!("the shard {shard} that it names is missing; fetch it, or the model again"),
                ));
            }
            open(self, &path)?;
        }
        let there = |name: &String| self.entries.contains_key(name) || self.unsupported.contains_key(name);
        match self.index.iter().find(|(name, _)| !there(name)) {
            None => Ok(()),
            Some((name, shard)) => Err(Error::config(
                index,
                format!("it says that '{name}' is in {shard}, which does not hold it; fetch the model again"),
            )),
        }
    }

    /// The tensors of a GGUF file and its parts, and the header of the first.
    pub(super) fn gguf(path: &Path) -> Result<(Self, gguf::Header)> {
        let mut builder = Self::default();
        let Some(parts) = parts(path)? else {
            let header = builder.add_gguf(path)?;
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
            let header = builder.add_gguf(part)?;
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

    pub(super) fn finish(self) -> Weights {
        let notes = self.notes();
        let Self { files, entries, unsupported, .. } = self;
        Weights(Arc::new(Inner { files, entries, unsupported, notes, fp8_block: FP8_BLOCK }))
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

    /// Where the tensor of this name goes: nowhere, if the index takes it from another shard.
    fn place(&mut self, path: &Path, name: &str) -> Result<Option<String>> {
        let name = names::canonical(name);
        let shard = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if self.index.get(&name).is_some_and(|other| *other != shard) {
            self.passed_over.push((name, shard));
            return Ok(None);
        }
        match self.entries.contains_key(&name) || self.unsupported.contains_key(&name) {
            false => Ok(Some(name)),
            true => {
                Err(Error::file(path, format!("tensor '{name}' is there twice; convert the model again")))
            }
        }
    }

    fn insert(&mut self, path: &Path, name: &str, entry: TensorEntry) -> Result<()> {
        if let Some(name) = self.place(path, name)? {
            self.entries.insert(name, entry);
        }
        Ok(())
    }

    /// Keeps in mind what cannot be read. Old checkpoints hold attention masks of such types, so that
    /// is an error only where the model needs the tensor.
    fn insert_unsupported(&mut self, path: &Path, name: &str, kind: String, read: &str) -> Result<()> {
        if let Some(name) = self.place(path, name)? {
            self.unsupported.insert(name, format!("{kind}, which is not read ({read} are)"));
        }
        Ok(())
    }

    pub(super) fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        use safetensors::Dtype;
        let map = files::map(path)?;
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&map).map_err(|e| {
            Error::file(path, format!("its safetensors header cannot be read ({e}); fetch the file again"))
        })?;
        let data = 8 + header;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let element = match info.dtype {
                Dtype::F64 => ElementType::F64,
                Dtype::F32 => ElementType::F32,
                Dtype::F16 => ElementType::F16,
                Dtype::BF16 => ElementType::Bf16,
                Dtype::F8_E4M3 => ElementType::F8E4M3,
                other => {
                    let kind = format!("{other:?}");
                    self.insert_unsupported(path, &name, kind, "F64, F32, F16, BF16 and F8_E4M3")?;
                    continue;
                }
            };
            let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
            check_end(path, &name, bytes.end, map.len())?;
            self.insert(path, &name, TensorEntry { file, element, shape: info.shape.clone(), bytes })?;
        }
        self.files.push(File { path: path.to_owned(), map });
        Ok(())
    }

    fn add_gguf(&mut self, path: &Path) -> Result<gguf::Header> {
        let map = files::map(path)?;
        let header = gguf::Header::parse(path, &map)?;
        let file = self.files.len();
        for info in &header.tensors {
            let name = &info.name;
            let Some(element) = ElementType::from_ggml(info.kind) else {
                self.insert_unsupported(path, name, ggml_name(info.kind), GGML_TYPES)?;
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
            self.insert(path, name, TensorEntry { file, element, shape: info.shape.clone(), bytes })?;
        }
        self.check_overlaps(path, file)?;
        self.files.push(File { path: path.to_owned(), map });
        Ok(header)
    }

    /// Refuses tensors that share bytes: a small file whose thousands of tensors are all
    /// the same one would become a large model.
    fn check_overlaps(&self, path: &Path, file: usize) -> Result<()> {
        let of_file = self.entries.iter().filter(|(_, entry)| entry.file == file);
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

    /// PyTorch's format is a zip of one pickle and a stored entry a storage, so
    /// the tensors can be mapped like any other.
    pub(super) fn add_pickle(&mut self, path: &Path) -> Result<()> {
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
            bytes.filter(|b| stored && b.end <= map.len()).ok_or_else(|| {
                bad(format!("its entry '{name}' is compressed or cut off; fetch the file again"))
            })
        };
        let tensors = pickle::read(&map[stored(&pickle)?])
            .map_err(|e| bad(format!("{e}; fetch the file again or convert it to safetensors")))?;
        let file = self.files.len();
        for tensor in tensors {
            let name = tensor.name;
            let element = match tensor.class {
                "DoubleStorage" => ElementType::F64,
                "FloatStorage" => ElementType::F32,
                "HalfStorage" => ElementType::F16,
                "BFloat16Storage" => ElementType::Bf16,
                other => {
                    let supported = "DoubleStorage, FloatStorage, HalfStorage and BFloat16Storage";
                    self.insert_unsupported(path, tensor.name, other.to_owned(), supported)?;
                    continue;
                }
            };
            if !tensor.is_contiguous() {
                return Err(bad(format!("tensor '{name}' is not contiguous; save it with .contiguous()")));
            }
            let data = stored(&format!("{folder}/{}", tensor.storage))?;
            let shape = tensor.shape;
            let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let (Some(len), Some(skip)) =
                (elements.and_then(|n| element.bytes(n)), element.bytes(tensor.offset))
            else {
                return Err(bad(format!("tensor '{name}' has an impossible shape")));
            };
            if skip.checked_add(len).is_none_or(|end| end > data.len()) {
                return Err(bad(format!("tensor '{name}' is larger than its data; fetch the file again")));
            }
            let bytes = data.start + skip..data.start + skip + len;
            self.insert(path, name, TensorEntry { file, element, shape, bytes })?;
        }
        self.files.push(File { path: path.to_owned(), map });
        Ok(())
    }
}
