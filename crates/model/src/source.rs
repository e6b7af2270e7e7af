//! From a model argument to a loaded model. An argument is a path, a short name or a Hugging Face id, in this
//! order.

use crate::architecture::{self, Description, HfConfig, Layout, RowOrder, TensorRef};
use crate::config::Experts;
use crate::convert;
pub use crate::convert::{Converted, HuggingFace};
use crate::error::{Error, Result};
use crate::files::{self, FileKind};
use crate::forward::Model;
use crate::gguf;
use crate::load;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use fathom_hub::{Hub, Progress, built_in};
use fathom_kernels::Dtype;
use fathom_kernels::backend::{Backend, Cpu};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";

/// The short name of the default model.
pub const DEFAULT: &str = "smollm2-135m";

/// A model on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Its id in results: `org/name`, a short name, or the name of the file or folder.
    pub id: String,
    /// The commit of a model from the hub.
    pub revision: Option<String>,
    /// A folder, or a file of weights.
    pub path: PathBuf,
}

/// Finds a model, and downloads it if necessary.
///
/// # Errors
/// When the model does not exist, or the download fails.
pub fn locate(argument: &str, revision: Option<&str>, progress: &dyn Progress) -> Result<Located> {
    let path = Path::new(argument);
    if path.exists() {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let id = stem.map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
        return Ok(Located { id, revision: None, path: path.to_owned() });
    }
    if let Some(model) = built_in::find(argument) {
        let path = model.fetch(&fathom_hub::default_folder()?, progress)?;
        return Ok(Located { id: model.name.to_owned(), revision: None, path });
    }
    check_id(argument)?;
    let hub = Hub::from_env()?;
    // The small files may rule the model out before its weights are fetched.
    let companions =
        hub.companions(argument, revision, progress).map_err(|error| match argument.contains('/') {
            true => Error::Hub(error),
            // An id without a slash may be a mistyped short name.
            false => Error::NotFound(format!("{error}; the short names are {}", short_names())),
        })?;
    refuse_adapter(&companions.folder)?;
    let config = companions.folder.join(CONFIG);
    if config.is_file() {
        HfConfig::read(&config)?;
    }
    let snapshot = hub.model(argument, Some(&companions.commit), progress)?;
    // In a repository of GGUF files only, one of them is the model.
    let gguf = snapshot.weights.iter().find(|w| w.extension().is_some_and(|e| e == "gguf"));
    let path = gguf.cloned().unwrap_or(snapshot.folder);
    Ok(Located { id: argument.to_owned(), revision: Some(snapshot.commit), path })
}

/// Checks, without fetching anything, that an argument is an existing path, a short name, or has the form of a
/// Hugging Face id.
///
/// # Errors
/// When it is none of these.
pub fn check(argument: &str) -> Result<()> {
    if Path::new(argument).exists() || built_in::find(argument).is_some() {
        Ok(())
    } else {
        check_id(argument)
    }
}

/// Checks that an argument has the form of a Hugging Face id.
fn check_id(argument: &str) -> Result<()> {
    let like_path = argument.starts_with(['.', '/', '~'])
        || argument.ends_with(".gguf")
        || argument.ends_with(".safetensors")
        || argument.matches('/').count() > 1;
    if like_path {
        return Err(Error::NotFound(format!("there is no file or folder '{argument}'; check the path")));
    }
    if fathom_hub::check_repo_id(argument).is_err() {
        return Err(Error::NotFound(format!(
            "'{argument}' is not an existing path, not one of the short names ({}) and not a Hugging Face id like 'org/name'",
            short_names()
        )));
    }
    Ok(())
}

/// The short names.
fn short_names() -> String {
    built_in::BUILT_IN.iter().map(|m| m.name).collect::<Vec<_>>().join(", ")
}

/// Refuses the folder of an adapter, which needs its base model.
fn refuse_adapter(folder: &Path) -> Result<()> {
    let path = folder.join("adapter_config.json");
    if !path.is_file() || folder.join(CONFIG).is_file() {
        return Ok(());
    }
    let json = files::json(&path)?;
    let base = json.get("base_model_name_or_path").and_then(|v| v.as_str());
    let base = base.map(|name| format!(" to {name}")).unwrap_or_default();
    Err(Error::config(
        &path,
        format!(
            "it is an adapter{base}, not a model; merge the two (peft's merge_and_unload) and give the merged model"
        ),
    ))
}

/// A model with its tokenizer and files.
pub struct Loaded<B: Backend = Cpu> {
    /// The model.
    pub model: Model<B>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its weights as stored.
    pub weights: Weights,
    /// Its small files, such as config.json, with their SHA-256.
    pub settings: Vec<(PathBuf, String)>,
    /// Warnings about settings and tensors that are not honoured, one sentence each.
    pub warnings: Vec<String>,
    pub(crate) layout: Layout,
}

/// What holds the settings of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A folder with config.json and tokenizer.json.
    Folder(PathBuf),
    /// The metadata of a GGUF file, the first part of a split one.
    Gguf {
        /// The file.
        path: PathBuf,
        /// Its header.
        header: Box<gguf::Header>,
    },
}

/// The names of a projection's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProjection {
    /// The matrix.
    pub weight: String,
    /// The bias, if it has one.
    pub bias: Option<String>,
    /// Whether the matrix is stored `[inputs, outputs]`, as GPT-2's are.
    pub transposed: bool,
}

/// A checkpoint that has been opened but not yet packed.
pub struct Checkpoint {
    form: Form,
    weights: Weights,
    tokenizer: Tokenizer,
    description: Description,
    settings: Vec<(PathBuf, String)>,
}

impl Checkpoint {
    /// Reads the configuration, the tokenizer and the headers of the weights. Formats are detected by the first
    /// bytes of files, whatever their names.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the architecture is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            refuse_adapter(path)?;
            if !path.join(CONFIG).is_file()
                && let Some(gguf) = only_gguf(path)?
            {
                return Self::open(&gguf);
            }
            return Self::in_folder(path, || Weights::open_folder(path));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let named = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
        match files::kind(path)? {
            FileKind::Gguf => Self::gguf(path),
            FileKind::Safetensors => Self::in_folder(folder, || Weights::open_safetensors(path)),
            FileKind::Zip => Self::in_folder(folder, || Weights::open_pickle(path)),
            // A damaged file: the reader explains what is wrong.
            FileKind::Other if named("gguf") => Self::gguf(path),
            FileKind::Other if named("safetensors") => {
                Self::in_folder(folder, || Weights::open_safetensors(path))
            }
            FileKind::Other => Err(Error::file(
                path,
                "it is not a GGUF, safetensors or PyTorch file; give such a file or a folder",
            )),
        }
    }

    fn gguf(path: &Path) -> Result<Self> {
        let (weights, header) = Weights::open_gguf(path)?;
        let mut description = architecture::from_gguf(path, &header, &weights)?;
        description.settle(&weights)?;
        let tokenizer = Tokenizer::from_gguf(path, &header)?;
        let first = weights.paths().first().map_or_else(|| path.to_owned(), |first| (*first).to_owned());
        let form = Form::Gguf { path: first, header: Box::new(header) };
        Ok(Self { form, weights, tokenizer, description, settings: Vec::new() })
    }

    /// A model with its configuration and tokenizer in a folder.
    fn in_folder(folder: &Path, weights: impl FnOnce() -> Result<Weights>) -> Result<Self> {
        let config = folder.join(CONFIG);
        if !config.is_file() {
            return Err(Error::config(folder, "it has no config.json; give the folder of a complete model"));
        }
        let config = HfConfig::read(&config)?;
        let mut weights = weights()?;
        if let Some(block) = config.fp8_block()? {
            weights = weights.with_fp8_block(block);
        }
        let mut description = config.describe(&weights)?;
        description.settle(&weights)?;
        let (json, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let tokenizer = if json.is_file() {
            Tokenizer::from_json_file(&json)?
        } else if vocabulary.is_file() {
            Tokenizer::from_vocab_file(&vocabulary, !description.config.is_causal())?
        } else {
            return Err(Error::tokenizer(
                folder,
                "it holds no tokenizer.json and no vocab.txt; save one with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            ));
        };
        let vocabulary = if json.is_file() { "tokenizer.json" } else { "vocab.txt" };
        let settings = [CONFIG, vocabulary, "tokenizer_config.json"].map(|name| folder.join(name));
        let settings = settings.into_iter().filter(|path| path.is_file());
        let settings =
            settings.map(|path| Ok((path.clone(), files::sha256(&path)?))).collect::<Result<_>>()?;
        Ok(Self { form: Form::Folder(folder.to_owned()), tokenizer, weights, description, settings })
    }

    /// Warnings about settings and tensors that are not honoured, one sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.description.warnings.iter().chain(self.tokenizer.warnings()).map(String::as_str)
    }

    /// Layers plus one: the number of calls of the progress callback of [`Self::load`].
    pub fn steps(&self) -> usize {
        self.description.config.depth() + 1
    }

    /// The description of the model.
    pub fn config(&self) -> &crate::config::Config {
        &self.description.config
    }

    /// Bytes that the weights take in memory at least: as they are stored, but for floats of 32 bits that are rounded
    /// to bfloat16.
    pub fn weight_bytes(&self, dtype: Dtype) -> u64 {
        self.weights.bytes(dtype == Dtype::Bf16)
    }

    /// Bytes that the packed weights take at most, and those of them that are experts which tokens choose from.
    pub fn packed_bytes(&self, dtype: Dtype) -> [u64; 2] {
        let (config, layout) = (&self.description.config, &self.description.layout);
        let experts = (0..config.depth()).filter_map(|l| Some((l, config.layers[l].mlp.experts()?)));
        let names = layout.experts.as_ref();
        let of_layer =
            |(l, of): (usize, Experts)| names.map_or(BTreeSet::new(), |names| names.of_routed(&of, l));
        let routed: BTreeSet<String> = experts.flat_map(of_layer).collect();
        let rounded = dtype == Dtype::Bf16;
        [
            self.weights.packed_bytes(rounded, |_| true),
            self.weights.packed_bytes(rounded, |n| routed.contains(n)),
        ]
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What holds the settings.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The weights as stored.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What the names of a layer's tensors begin with, before the number of the layer: `model.layers.`.
    pub fn layer_prefix(&self) -> &str {
        self.description.layout.layer_prefix()
    }

    /// Why the files of a model with other layers cannot be made of those of this one, if so.
    pub fn fixed_layers(&self) -> Option<&'static str> {
        let layout = &self.description.layout;
        if layout.attn_out.numbers.is_some() {
            return Some("layers that attend to images are left out between those that are measured");
        }
        let by_number = "every layer multiplies the stream by a number, which those after it count on";
        layout.layer_scalar.is_some().then_some(by_number)
    }

    /// The down projection of a layer.
    pub fn down_projection(&self, layer: usize) -> StoredProjection {
        let down = &self.description.layout.down;
        StoredProjection {
            weight: down.weight(layer),
            bias: down.bias.then(|| down.bias(layer)),
            transposed: down.order.is_transposed(),
        }
    }

    /// The names of the tensors of a layer without which it adds nothing to the residual stream, where they are zeros: the
    /// weights and biases of what attention and MLP end with.
    pub fn output_tensors(&self, layer: usize) -> Vec<String> {
        let (config, layout) = (&self.description.config, &self.description.layout);
        let mixer = layout.mixer_of(config, layer);
        let mut refs: Vec<TensorRef> = mixer.iter().map(|names| names.out.clone()).collect();
        refs.extend(config.has_attention(layer).then(|| layout.attn_out.clone()));
        let mlp = config.layers[layer].mlp;
        if let (Some(experts), Some(names)) = (mlp.experts(), &layout.experts) {
            refs.extend((0..experts.count).map(|expert| names.down.of_expert(expert, experts.count)));
            refs.extend(names.shared.as_ref().map(|(_, down)| down.clone()));
        }
        refs.extend(mlp.has_dense().then(|| layout.down.clone()));
        // A norm of zeros is its bias.
        let norms = [&layout.post_attn_norm, &layout.post_mlp_norm].into_iter().flatten();
        let norm_biases = norms.filter(|norm| norm.bias).map(|norm| norm.bias(layer));
        let mut names: Vec<String> = norm_biases.collect();
        for tensor in refs {
            names.push(self.weights.stored_name(tensor.weight(layer)));
            names.extend(tensor.bias.then(|| tensor.bias(layer)));
        }
        names.sort();
        names.dedup();
        names
    }

    /// A tensor of the layers that holds more than one matrix, such as fused queries, keys and values, or one that is
    /// stored transposed; its name in layer 0.
    pub fn fused_matrix(&self) -> Option<String> {
        let (config, layout) = (&self.description.config, &self.description.layout);
        let fused_qkv = layout.latent.is_none() && layout.qkv.len() == 1;
        let fused_up = config.gated && layout.up.len() == 1;
        let fused = [(fused_qkv, layout.qkv.first()), (fused_up, layout.up.first())];
        let mixer = layout.mixer.iter().flat_map(|names| &names.input);
        let mut all =
            layout.qkv.iter().chain(mixer).chain(&layout.up).chain([&layout.attn_out, &layout.down]);
        let fused = fused.into_iter().find_map(|(fused, tensor)| tensor.filter(|_| fused));
        let odd = |t: &&TensorRef| {
            !matches!(
                t.order,
                RowOrder::AsStored | RowOrder::InterleavedHalves | RowOrder::RotatedLast { .. }
            )
        };
        fused.or_else(|| all.find(odd)).map(|tensor| tensor.weight(0))
    }

    /// The model as a Hugging Face folder would hold it, for one read from a GGUF file.
    ///
    /// # Errors
    /// When a setting or a tensor of the file has no place in such a folder; names it.
    pub fn as_hugging_face(&self) -> Result<HuggingFace<'_>> {
        match &self.form {
            Form::Gguf { path, header } => {
                convert::to_hugging_face(path, header, &self.description, &self.weights, &self.tokenizer)
            }
            Form::Folder(folder) => Err(Error::config(folder, "it is a Hugging Face folder already")),
        }
    }

    /// Packs the weights for the CPU; `tick` is the progress callback.
    ///
    /// # Errors
    /// As [`Self::load_on`].
    pub fn load(self, dtype: Dtype, tick: &dyn Fn()) -> Result<Loaded> {
        self.load_on(Cpu, dtype, tick)
    }

    /// Packs the weights for a device; `tick` is the progress callback.
    ///
    /// # Errors
    /// When a tensor is missing, has the wrong shape or holds NaN, or memory is refused.
    pub fn load_on<B: Backend>(self, backend: B, dtype: Dtype, tick: &dyn Fn()) -> Result<Loaded<B>> {
        self.load_within(backend, dtype, None, tick)
    }

    /// As [`Self::load_on`]. With `expert_bytes`, the experts of a mixture stay in the checkpoint and are packed when tokens
    /// take them; at most that many bytes of the most recently used ones are kept. No result depends on it.
    ///
    /// # Errors
    /// As [`Self::load_on`]; what is wrong with an expert is found when it is taken, which panics with
    /// [`DeviceError`](fathom_kernels::backend::DeviceError).
    pub fn load_within<B: Backend>(
        self,
        backend: B,
        dtype: Dtype,
        expert_bytes: Option<u64>,
        tick: &dyn Fn(),
    ) -> Result<Loaded<B>> {
        let expert_bytes = expert_bytes.filter(|_| self.description.config.experts().is_some());
        let packed = load::pack(&backend, &self.description, &self.weights, dtype, expert_bytes, tick)?;
        let warnings = self.warnings().map(str::to_owned).collect();
        let Description { config, layout, .. } = self.description;
        let model = Model { backend, config, packed, dtype };
        let Self { tokenizer, weights, settings, .. } = self;
        Ok(Loaded { model, tokenizer, weights, settings, warnings, layout })
    }
}

/// The GGUF model of a folder, if it holds exactly one; its first part, if it is split.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        // Neither the projector of a multimodal model nor an importance matrix is a model.
        if name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix") {
            found.push(path);
        }
    }
    found.sort();
    match &found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, ..] if crate::weights::gguf_parts(first)?.is_some_and(|parts| parts == found) => {
            Ok(Some(first.clone()))
        }
        _ => Err(Error::config(folder, "it holds several .gguf files; name the one you mean")),
    }
}
