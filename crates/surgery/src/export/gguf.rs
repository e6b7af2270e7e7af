//! GGUF files: a new header, then the tensors as they are.

use super::part::{Part, PlannedFile, encode};
use super::{ExportError, Job, Plan, config, grown};
use fathom_model::gguf::{Header, Numbers, Value};
use fathom_model::weights::StoredType;
use half::f16;
use safetensors::Dtype;
use std::io::Read;
use std::path::Path;

/// GGUF's number of the type array, of strings and of booleans.
const ARRAY: u32 = 9;
const STRING: u32 = 8;
const BOOL: u32 = 7;

/// ggml's numbers of the two types that changed weights are stored in.
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;

/// Arrays of an architecture with an entry per layer.
const PER_LAYER: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
];

/// Arrays that have as many entries as there are layers by chance alone.
const NOT_PER_LAYER: &[&str] = &["rope.dimension_sections"];

/// Which layers are local, where their number does not tell it.
const PATTERN: &str = "attention.sliding_window_pattern";

/// Every how many layers one has attention, among those with a recurrence.
const INTERVAL: &str = "full_attention_interval";

/// What names of a layer's tensors begin with.
const PREFIX: &str = "blk.";

/// The file of a GGUF source without the removed layers.
pub(super) fn plan<'a>(job: &'a Job<'_>, path: &Path, header: &Header) -> Result<Plan<'a>, ExportError> {
    let writer =
        Writer { job, path, header, arch: header.get("general.architecture").and_then(Value::as_str) };
    writer.check_scale()?;
    writer.check_interval()?;
    let mut warnings = Vec::new();
    let keys = writer.keys(&mut warnings)?;
    let tensors = writer.tensors(&mut warnings)?;
    let stem = job.out.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}.gguf");
    let file = PlannedFile { name: name.clone(), parts: writer.parts(&keys, tensors) };
    let description = job.described(job.checkpoint.config());
    Ok(Plan { files: vec![file], model: Some(name), description, warnings })
}

/// A key with the bytes of its type and value.
struct Key {
    name: String,
    bytes: Vec<u8>,
}

/// A tensor of the result.
struct Planned<'a> {
    name: String,
    shape: &'a [usize],
    kind: u32,
    part: Part<'a>,
}

struct Writer<'a, 'b> {
    job: &'a Job<'a>,
    path: &'b Path,
    header: &'b Header,
    arch: Option<&'b str>,
}

impl<'a> Writer<'a, '_> {
    /// Refuses the models whose number of layers says how attention is scaled.
    fn check_scale(&self) -> Result<(), ExportError> {
        let c = self.job.checkpoint.config();
        let depths = [c.depth(), self.job.layers.len()];
        let widest = match self.arch {
            Some("gemma2") => 46,
            Some("gemma3") => 62,
            _ => return Ok(()),
        };
        let changes = depths[0] != depths[1] && c.hidden / c.heads != c.head_dim;
        match changes && depths.contains(&widest) {
            false => Ok(()),
            true => Err(ExportError::unsupported(
                self.path,
                format!(
                    "in GGUF files a {} of {widest} layers scales attention in another way than all others, and no key says so, so one of {} layers cannot take the place of one of {}; export hf",
                    c.architecture, depths[1], depths[0]
                ),
            )),
        }
    }

    /// Refuses the result where its file could not say which layers have attention, or attention of which kind.
    fn check_interval(&self) -> Result<(), ExportError> {
        let c = self.job.checkpoint.config();
        let same = |(place, layer): (usize, &usize)| c.layers.get(place) == Some(&c.layers[*layer]);
        if c.architecture.starts_with("llama4") && !self.job.layers.iter().enumerate().all(same) {
            return Err(ExportError::unsupported(
                self.path,
                "in GGUF files of Llama 4 the number of a layer says whether it rotates, attends in chunks and has experts, \
                 and that would not hold for the layers of the result; use the model's Hugging Face folder, and export hf"
                    .to_owned(),
            ));
        }
        let Some(interval) = self.header.get(&self.key(INTERVAL)).and_then(Value::as_usize) else {
            return Ok(());
        };
        let regular = |(place, layer): (usize, &usize)| {
            c.has_attention(*layer) == (place + 1).is_multiple_of(interval.max(1))
        };
        match self.job.is_whole() || self.job.layers.iter().enumerate().all(regular) {
            true => Ok(()),
            false => Err(ExportError::unsupported(
                self.path,
                format!(
                    "in GGUF files of {} every layer whose number is a multiple of '{}', which is {interval}, has attention, \
                     and that would not hold for the layers of the result; use the model's Hugging Face folder, and export hf",
                    c.architecture,
                    self.key(INTERVAL)
                ),
            )),
        }
    }

    /// The metadata of the result.
    fn keys(&self, warnings: &mut Vec<String>) -> Result<Vec<Key>, ExportError> {
        let end = self.header.entries.last().map_or(0, |entry| entry.bytes.end);
        let mut raw = Vec::new();
        let file = std::fs::File::open(self.path).map_err(ExportError::write(self.path))?;
        file.take(end as u64).read_to_end(&mut raw).map_err(ExportError::write(self.path))?;
        let mut keys: Vec<Key> = Vec::new();
        if self.header.metadata.len() != self.header.entries.len() {
            let what = "a key of its metadata is there twice; convert the model again";
            return Err(ExportError::unsupported(self.path, what));
        }
        for entry in &self.header.entries {
            // The result is one file.
            if entry.key.starts_with("split.") {
                continue;
            }
            let Some(bytes) = raw.get(entry.bytes.clone()) else {
                return Err(ExportError::unsupported(self.path, "it changed while it was read"));
            };
            keys.push(Key { name: entry.key.clone(), bytes: self.value(&entry.key, bytes, warnings) });
        }
        if let Some(pattern) = self.pattern() {
            let name = self.key(PATTERN);
            keys.retain(|key| key.name != name);
            keys.push(Key { name, bytes: pattern });
            warnings.push(format!(
                "local and global layers no longer alternate regularly, so the metadata '{}' marks each of them; versions of llama.cpp that do not read it for this architecture give layers the wrong window",
                self.key(PATTERN)
            ));
        }
        Ok(keys)
    }

    fn key(&self, own: &str) -> String {
        format!("{}.{own}", self.arch.unwrap_or_default())
    }

    /// The type and value of a key in the result.
    fn value(&self, key: &str, bytes: &[u8], warnings: &mut Vec<String>) -> Vec<u8> {
        let (job, depth) = (self.job, self.job.depth());
        let own = self.arch.and_then(|arch| key.strip_prefix(arch)?.strip_prefix('.'));
        let (Some(own), Some(value)) = (own, self.header.get(key)) else { return bytes.to_vec() };
        if job.is_whole() || NOT_PER_LAYER.contains(&own) {
            return bytes.to_vec();
        }
        let count = match own {
            "block_count" => Some(job.layers.len()),
            "leading_dense_block_count" => Some(job.dense()),
            _ => None,
        };
        if let Some(count) = count {
            // Little-endian, in as many bytes as before.
            let count = (count as u64).to_le_bytes();
            return [&bytes[..4], &count[..bytes.len() - 4]].concat();
        }
        let cut = match value {
            Value::Numbers(numbers) if numbers.len() == depth => self.cut_numbers(numbers, bytes),
            Value::Strings(texts) if texts.len() == depth => {
                let kept: Vec<&String> = job.layers.iter().map(|layer| &texts[*layer]).collect();
                let mut cut = array(STRING, kept.len());
                kept.iter().for_each(|text| put_string(&mut cut, text));
                cut
            }
            _ => return bytes.to_vec(),
        };
        if !PER_LAYER.contains(&own) {
            warnings.push(format!(
                "the metadata '{key}' has an entry for each of the {depth} layers, it seems, and was given one for each layer of the result"
            ));
        }
        cut
    }

    /// An array of numbers: type, type of elements, count, elements.
    fn cut_numbers(&self, numbers: &Numbers, bytes: &[u8]) -> Vec<u8> {
        const START: usize = 16;
        let width = (bytes.len() - START) / numbers.len().max(1);
        let mut cut = bytes[..8].to_vec();
        cut.extend((self.job.layers.len() as u64).to_le_bytes());
        for layer in &self.job.layers {
            cut.extend(&bytes[START + layer * width..][..width]);
        }
        cut
    }

    /// The marks of local layers, where they are needed and not there.
    fn pattern(&self) -> Option<Vec<u8>> {
        let c = self.job.checkpoint.config();
        let stated = self.header.get(&self.key(PATTERN));
        let period = match (self.arch?, stated) {
            (_, Some(Value::Numbers(_))) => return None,
            ("gemma2" | "gemma3" | "olmo2" | "cohere2" | "exaone4" | "gpt-oss", Some(period)) => {
                period.as_usize()?
            }
            ("gemma2" | "gpt-oss", None) => 2,
            ("gemma3", None) => 6,
            ("olmo2" | "cohere2" | "exaone4", None) => 4,
            _ => return None,
        };
        let local: Vec<bool> = self.job.layers.iter().map(|l| c.layers[*l].window.is_some()).collect();
        let of_rule = |layer: usize| period == 0 || !(layer + 1).is_multiple_of(period);
        let regular = local.iter().enumerate().all(|(layer, local)| of_rule(layer) == *local);
        if regular || c.layers.iter().all(|layer| layer.window.is_none()) {
            return None;
        }
        let mut marks = array(BOOL, local.len());
        marks.extend(local.into_iter().map(u8::from));
        Some(marks)
    }

    /// The tensors of the result, in the order of the source.
    fn tensors(&self, warnings: &mut Vec<String>) -> Result<Vec<Planned<'a>>, ExportError> {
        let (mut tensors, mut beyond) = (Vec::new(), 0);
        for tensor in self.job.checkpoint.weights().stored() {
            let StoredType::Ggml(kind) = tensor.kind else { continue };
            if config::layer_of(PREFIX, tensor.name).is_some_and(|(layer, _)| layer >= self.job.depth()) {
                beyond += 1;
                continue;
            }
            for placed in config::placed(self.job, PREFIX, tensor.name) {
                let (kind, part) = match self.job.change(placed.layer, tensor.name) {
                    Some(change) => grown::as_gguf(self.job, change, tensor, kind)?,
                    None => match self.job.replaced(tensor.name) {
                        Some(replaced) => changed(&replaced.stored(), tensor.shape.len()),
                        None => (kind, Part::stored(tensor.bytes)),
                    },
                };
                tensors.push(Planned { name: placed.name, shape: tensor.shape, kind, part });
            }
        }
        if beyond > 0 {
            warnings.push(format!(
                "{beyond} tensors of layers that the metadata does not count were left out of the export"
            ));
        }
        Ok(tensors)
    }

    /// The whole file.
    fn parts(&self, keys: &[Key], tensors: Vec<Planned<'a>>) -> Vec<Part<'a>> {
        let alignment = self.header.get("general.alignment").and_then(Value::as_usize).unwrap_or(32) as u64;
        let mut start = b"GGUF\x03\0\0\0".to_vec();
        start.extend((tensors.len() as u64).to_le_bytes());
        start.extend((keys.len() as u64).to_le_bytes());
        for key in keys {
            put_string(&mut start, &key.name);
            start.extend(&key.bytes);
        }
        let mut offset = 0u64;
        for tensor in &tensors {
            put_string(&mut start, &tensor.name);
            start.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|d| start.extend((*d as u64).to_le_bytes()));
            start.extend(tensor.kind.to_le_bytes());
            start.extend(offset.to_le_bytes());
            offset += tensor.part.len.next_multiple_of(alignment);
        }
        let padding = |len: u64| Part::made(vec![0; (len.next_multiple_of(alignment) - len) as usize]);
        let gap = padding(start.len() as u64);
        let mut parts = vec![Part::made(start), gap];
        for tensor in tensors {
            let gap = padding(tensor.part.len);
            parts.extend([tensor.part, gap]);
        }
        parts
    }
}

/// New numbers as F16 where all of them fit, else as F32, as biases always are.
pub(super) fn changed<'a>(numbers: &[f32], axes: usize) -> (u32, Part<'a>) {
    let fits = axes > 1 && numbers.iter().all(|x| f16::from_f32(*x).is_finite());
    let (kind, dtype) = if fits { (F16, Dtype::F16) } else { (F32, Dtype::F32) };
    (kind, Part::made(encode(numbers, dtype)))
}

/// The start of an array.
fn array(elements: u32, count: usize) -> Vec<u8> {
    let mut bytes = ARRAY.to_le_bytes().to_vec();
    bytes.extend(elements.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
    bytes
}

fn put_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}
