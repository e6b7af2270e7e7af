//! Hugging Face folders.

use super::part::{Origin, Part, PlannedFile, encode, smallest_type};
use super::{ExportError, Job, Plan, config, grown};
use fathom_model::source::{Converted, HuggingFace};
use fathom_model::weights::{StoredTensor, StoredType};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

/// Files that are copied: the tokenizer, settings of generation, licences.
const COPIED: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// What the names of further files that are copied begin with.
const COPIED_PREFIXES: [&str; 4] = ["LICENSE", "NOTICE", "USE_POLICY", "chat_template"];

/// Maximum number of tensors that a warning names.
const NAMED: usize = 3;

/// A tensor of the result.
struct Planned<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    part: Part<'a>,
}

/// A folder as it is, without the removed layers.
pub(super) fn from_folder<'a>(job: &'a Job<'_>, source: &Path, shard: u64) -> Result<Plan<'a>, ExportError> {
    let mut warnings = Vec::new();
    let prefix = job.checkpoint.layer_prefix();
    let weights = job.checkpoint.weights();
    left_out(weights.not_located(), "they are of a type that safetensors does not have", &mut warnings);
    let mut beyond = Vec::new();
    let mut tensors = Vec::new();
    for tensor in weights.stored() {
        if config::layer_of(prefix, tensor.name).is_some_and(|(layer, _)| layer >= job.depth()) {
            beyond.push(tensor.name);
        } else {
            for placed in config::placed(job, prefix, tensor.name) {
                tensors.push(copied(job, source, placed, tensor)?);
            }
        }
    }
    left_out(beyond, "the configuration has no such layers", &mut warnings);
    let path = source.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(ExportError::write(&path))?;
    let mut json: Value = serde_json::from_str(&text)
        .map_err(|e| ExportError::unsupported(&path, format!("it is not JSON: {e}")))?;
    config::cut(&mut json, job, prefix, &mut warnings);
    let mut files = vec![PlannedFile::text("config.json", pretty(&json))];
    files.extend(companions(source)?);
    files.extend(shards(tensors, shard));
    let description = job.described(job.checkpoint.config());
    Ok(Plan { files, model: None, description, warnings })
}

/// The folder that a GGUF file becomes, without the removed layers.
pub(super) fn from_gguf<'a>(
    job: &'a Job<'_>,
    model: &'a HuggingFace<'a>,
    shard: u64,
) -> Result<Plan<'a>, ExportError> {
    let prefix = &model.layer_prefix;
    let mut warnings = model.warnings.clone();
    let changed = job.replacement.map(|r| (r, format!("{prefix}{}.", r.layer)));
    let mut tensors = Vec::new();
    for tensor in &model.tensors {
        // Only growth repeats layers, and it does not change the format.
        let Some(config::Placed { name, .. }) = config::placed(job, prefix, &tensor.name).pop() else {
            continue;
        };
        tensors.push(match changed.as_ref().filter(|(_, layer)| tensor.name.starts_with(layer.as_str())) {
            Some((r, _)) if Some(&tensor.name) == model.down_projections.get(r.layer) => {
                made(name, tensor, &r.down)
            }
            Some((r, _)) if r.bias.is_some() && is_bias_of(model, r.layer, &tensor.name) => {
                made(name, tensor, r.bias.as_deref().unwrap_or_default())
            }
            _ => {
                let dtype = smallest_type(tensor)?;
                converted(name, tensor, dtype)
            }
        });
    }
    let mut json = model.config.clone();
    config::cut(&mut json, job, prefix, &mut warnings);
    json["torch_dtype"] = json!(common_type(&tensors));
    let mut files = vec![PlannedFile::text("config.json", pretty(&json))];
    files.extend(model.files.iter().map(|(name, text)| PlannedFile::text(name, text.clone())));
    files.extend(shards(tensors, shard));
    let description = job.described(&model.description);
    Ok(Plan { files, model: None, description, warnings })
}

fn is_bias_of(model: &HuggingFace<'_>, layer: usize, name: &str) -> bool {
    let weight = model.down_projections.get(layer).and_then(|weight| weight.strip_suffix("weight"));
    weight.is_some_and(|module| name.strip_prefix(module) == Some("bias"))
}

/// A tensor of the source, or what replaces it.
fn copied<'a>(
    job: &'a Job<'_>,
    source: &Path,
    placed: config::Placed,
    tensor: StoredTensor<'a>,
) -> Result<Planned<'a>, ExportError> {
    let StoredType::Plain(dtype) = tensor.kind else {
        return Err(ExportError::unsupported(source, format!("'{}' is of a type of GGUF", tensor.name)));
    };
    let (name, shape) = (placed.name, tensor.shape.to_vec());
    if let Some(change) = job.change(placed.layer, tensor.name) {
        let (dtype, part) = grown::as_safetensors(job, change, tensor, dtype)?;
        return Ok(Planned { name, dtype, shape, part });
    }
    let Some(replaced) = job.replaced(tensor.name) else {
        return Ok(Planned { name, dtype, shape, part: Part::stored(tensor.bytes) });
    };
    if dtype == Dtype::F8_E4M3 {
        return Err(ExportError::Replacement(format!(
            "'{}' is stored in 8-bit floats, which need scales of their own; use the model in bfloat16",
            tensor.name
        )));
    }
    let numbers = replaced.stored();
    let overflows = dtype == Dtype::F16 && numbers.iter().any(|x| !half::f16::from_f32(*x).is_finite());
    let dtype = if overflows || dtype == Dtype::F64 { Dtype::F32 } else { dtype };
    Ok(Planned { name, dtype, shape, part: Part::made(encode(&numbers, dtype)) })
}

fn converted<'a>(name: String, tensor: &'a Converted<'a>, dtype: Dtype) -> Planned<'a> {
    let elements: u64 = tensor.shape.iter().map(|d| *d as u64).product();
    let part = Part { len: elements * (dtype.bitsize() / 8) as u64, from: Origin::Converted(tensor, dtype) };
    Planned { name, dtype, shape: tensor.shape.clone(), part }
}

/// New numbers, in the order of the forward pass, in place of a converted tensor.
fn made<'a>(name: String, tensor: &Converted<'_>, numbers: &[f32]) -> Planned<'a> {
    let numbers = tensor.arranged(numbers);
    Planned {
        name,
        dtype: Dtype::F32,
        shape: tensor.shape.clone(),
        part: Part::made(encode(&numbers, Dtype::F32)),
    }
}

/// The type in which transformers should hold all tensors, by its name there.
fn common_type(tensors: &[Planned<'_>]) -> &'static str {
    let all = |dtype| tensors.iter().all(|tensor| tensor.dtype == dtype);
    match (all(Dtype::BF16), all(Dtype::F16)) {
        (true, _) => "bfloat16",
        (_, true) => "float16",
        _ => "float32",
    }
}

fn left_out(names: Vec<&str>, why: &str, warnings: &mut Vec<String>) {
    if names.is_empty() {
        return;
    }
    let named: Vec<String> = names.iter().take(NAMED).map(|name| format!("'{name}'")).collect();
    let more = match names.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    warnings.push(format!("tensors left out of the export: {}{more}; {why}", named.join(", ")));
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

/// The small files that are copied.
fn companions<'a>(source: &Path) -> Result<Vec<PlannedFile<'a>>, ExportError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(source).map_err(ExportError::write(source))? {
        let path = entry.map_err(ExportError::write(source))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let code = path.extension().is_some_and(|e| e == "py");
        let wanted =
            code || COPIED.contains(&name) || COPIED_PREFIXES.iter().any(|start| name.starts_with(start));
        // Follows links, which the hub's cache consists of.
        let metadata = std::fs::metadata(&path).map_err(ExportError::write(&path))?;
        if wanted && metadata.is_file() {
            let name = name.to_owned();
            files.push(PlannedFile {
                name,
                parts: vec![Part { len: metadata.len(), from: Origin::File(path) }],
            });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Divides tensors into files of about `shard` bytes, with an index if there are several.
fn shards(tensors: Vec<Planned<'_>>, shard: u64) -> Vec<PlannedFile<'_>> {
    let sizes: Vec<u64> = tensors.iter().map(|tensor| tensor.part.len).collect();
    let ranges = split(&sizes, shard);
    let total: u64 = sizes.iter().sum();
    let (mut files, mut index) = (Vec::new(), BTreeMap::new());
    let mut tensors = tensors.into_iter();
    for (i, range) in ranges.iter().enumerate() {
        let name = match ranges.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let mut held: Vec<Planned<'_>> = tensors.by_ref().take(range.len()).collect();
        index.extend(held.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        // Wide elements first, so that each tensor is aligned.
        held.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
        files.push(PlannedFile { name, parts: parts(held) });
    }
    if files.len() > 1 {
        let json = json!({ "metadata": { "total_size": total }, "weight_map": index });
        files.push(PlannedFile::text("model.safetensors.index.json", pretty(&json)));
    }
    files
}

/// Consecutive ranges of at most `most` bytes, or of one tensor.
fn split(sizes: &[u64], most: u64) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut sum) = (Vec::new(), 0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && sum + size > most {
            ranges.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += size;
    }
    ranges.push(start..sizes.len());
    ranges
}

/// A safetensors file: its header, then the tensors.
fn parts(tensors: Vec<Planned<'_>>) -> Vec<Part<'_>> {
    let mut end = 0;
    let mut infos = Vec::new();
    for tensor in &tensors {
        let start = end;
        end += tensor.part.len as usize;
        let info =
            TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        infos.push((tensor.name.clone(), info));
    }
    // transformers wants to know the library that the tensors are for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), infos).expect("sizes follow from shapes");
    let mut header = serde_json::to_vec(&metadata).expect("a header is JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header);
    std::iter::once(Part::made(start)).chain(tensors.into_iter().map(|tensor| tensor.part)).collect()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn shards_hold_what_fits_and_never_nothing() {
        let lengths = |sizes: &[u64]| split(sizes, 6).into_iter().map(|held| held.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[3, 3, 3, 9, 1]), [2, 1, 1, 1]);
        assert_eq!(lengths(&[3, 3]), [2]);
        assert_eq!(lengths(&[]), [0]);
    }
}
