//! The lens that the residual stream is read with: the logit lens, or maps to the last level before it.

use crate::error::invalid;
use crate::job::{Job, read};
use crate::objective::refuse_masked;
use crate::observer::counted;
use crate::prompts::OpenSet;
use crate::texts::Texts;
use crate::tokenise::PromptTokenizer;
use crate::{Error, Measurement, Observer, PromptSpec, Result, Unit};
use fathom_model::source::Loaded;
use fathom_model::weights::Weights;
use fathom_model::{Backend, Model};
use fathom_probes::{LensMaps, LevelMap, Probe};
use fathom_results::LensInfo;
use fathom_surgery::exit::{HeadFit, pack};
use fathom_surgery::least_squares::Fit;
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How the stream at a level is read by the probes lens and settling.
///
/// Its name is `logit`, `linear`, or the path of a checkpoint of the tuned-lens project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lens {
    /// By the final norm and the unembedding (the logit lens).
    #[default]
    Logit,
    /// After the affine map of least squared error to the last level, fitted to other texts than it reads
    /// (arXiv 2303.09435).
    Linear,
    /// After the maps of a tuned lens (arXiv 2303.08112): a folder with `config.json` and `params.pt`.
    Tuned(PathBuf),
}

impl FromStr for Lens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "logit" => Ok(Self::Logit),
            "linear" => Ok(Self::Linear),
            "" => Err("give logit, linear, or the folder of a tuned lens".to_owned()),
            path => Ok(Self::Tuned(path.into())),
        }
    }
}

impl fmt::Display for Lens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logit => f.write_str("logit"),
            Self::Linear => f.write_str("linear"),
            Self::Tuned(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Texts of the built-in set that a linear lens is fitted to.
const TEXTS: usize = 256;

/// Bytes of a config.json at most.
const CONFIG_BYTES: u64 = 1 << 20;

/// What a tuned lens says of itself, and what it is: the fields of its config.json.
const KNOWN: [&str; 8] = [
    "base_model_name_or_path",
    "base_model_revision",
    "bias",
    "d_model",
    "lens_type",
    "num_hidden_layers",
    "unembed_hash",
    "dropout",
];

/// The kind of lens that is supported.
const LENS_TYPE: &str = "linear_tuned_lens";

/// Weights `[d, d]`, of a linear layer, and bias `[d]` by level.
type Affine = (Vec<f64>, Vec<f64>);

/// A lens whose texts or files have been read.
pub(crate) enum OpenLens {
    Logit,
    Linear(Texts),
    Tuned(LensInfo, Vec<Affine>),
}

impl OpenLens {
    /// Reads what the lens of a measurement is made of.
    pub(crate) fn open<B: Backend>(
        m: &Measurement,
        loaded: &Loaded<B>,
        job: &Job,
        observer: &dyn Observer,
    ) -> Result<Self> {
        if m.lens != Lens::Logit {
            refuse_masked(loaded.model.config(), "a lens with maps")?;
        }
        match &m.lens {
            Lens::Logit => Ok(Self::Logit),
            Lens::Linear => Ok(Self::Linear(fitting_texts(m, loaded, job, observer)?)),
            Lens::Tuned(path) => {
                let (info, maps) = read_tuned(path, &loaded.model, observer)?;
                Ok(Self::Tuned(info, maps))
            }
        }
    }

    /// What results say of it; none of the logit lens.
    pub(crate) fn info(&self) -> Option<LensInfo> {
        match self {
            Self::Logit => None,
            Self::Linear(texts) => Some(LensInfo::Linear { fit: texts.about.clone() }),
            Self::Tuned(info, _) => Some(info.clone()),
        }
    }

    /// The maps on the model's device.
    pub(crate) fn maps<B: Backend>(
        self,
        model: &Model<B>,
        memory: u64,
        observer: &dyn Observer,
    ) -> Result<LensMaps<B>> {
        match self {
            Self::Logit => Ok(LensMaps::none()),
            Self::Linear(texts) => fit(model, &texts, memory, observer),
            Self::Tuned(_, maps) => {
                let pack = |(weights, bias): Affine| Ok(Some(LevelMap::pack(model, &weights, &bias)?));
                Ok(LensMaps::new(maps.into_iter().map(pack).collect::<Result<_>>()?))
            }
        }
    }
}

/// Whether the lens has maps and a probe reads it.
pub(crate) fn check(m: &Measurement) -> Result<()> {
    let read = m.probes.iter().any(|p| matches!(p, Probe::Lens | Probe::Settling));
    if m.lens != Lens::Logit && !read {
        invalid!("--lens {} is for the probes lens and settling; add one of them to --probes", m.lens);
    }
    if m.lens != Lens::Linear && m.lens_data.is_some() {
        invalid!("--lens-data is for --lens linear, which is fitted to it");
    }
    Ok(())
}

/// The texts that a linear lens is fitted to, none of which is measured.
fn fitting_texts<B: Backend>(
    m: &Measurement,
    loaded: &Loaded<B>,
    job: &Job,
    observer: &dyn Observer,
) -> Result<Texts> {
    let id = m.lens_data.as_deref().unwrap_or(Measurement::LENS_DATA);
    let spec: PromptSpec = m.options.data.of(id, None).first_of(Measurement::LENS_DATA, TEXTS);
    let open = OpenSet::open(&spec, observer)?;
    let random = m.options.data.rng.seeded(m.options.data.seed);
    let (config, limit) = (loaded.model.config(), spec.limit);
    let tokenizer = PromptTokenizer::new(&loaded.tokenizer, config, open.rest.source(), random, 0)?
        .leaving_out(Some(open.max_tokens.unwrap_or(config.context)));
    let (set, mut prompts, _) = read(open, tokenizer, limit, observer)?;
    prompts.retain(|p| p.tokens.len() > 1);
    let measured: HashSet<_> = job.prompts.iter().filter_map(|p| p.text_sha256.as_ref()).collect();
    let common =
        |p: &&fathom_probes::TokenizedPrompt| p.text_sha256.as_ref().is_some_and(|t| measured.contains(t));
    if let Some(first) = prompts.iter().find(common) {
        invalid!(
            "'{}' of {id} is measured too, so the linear lens would be fitted to what it reads; give other texts with \
             --lens-data",
            first.id
        );
    }
    let texts = Texts::new(&set, set.id.clone(), prompts);
    let (tokens, width) = (texts.about.tokens, config.hidden as u64);
    if tokens < 2 * width {
        observer.warn(&format!(
            "the linear lens of width {width} is fitted to {tokens} tokens, which is too few; give more texts with \
             --lens-data, so that there are {} or more",
            2 * width
        ));
    }
    if texts.prompts.is_empty() {
        invalid!("{id} has no text that a linear lens could be fitted to; give others with --lens-data");
    }
    Ok(texts)
}

/// Fits the maps of all levels but the last, as many at a time as fit half of the memory.
fn fit<B: Backend>(
    model: &Model<B>,
    texts: &Texts,
    memory: u64,
    observer: &dyn Observer,
) -> Result<LensMaps<B>> {
    let (d, depth) = (model.config().hidden, model.config().depth());
    let at_once = (memory / 2 / Fit::bytes(d, d).max(1)).clamp(1, depth.max(1) as u64) as usize;
    let levels: Vec<usize> = (0..depth).collect();
    let of = |tokens: usize, levels: usize| {
        model.layers_macs(tokens) + HeadFit::macs_per_token(d) * (tokens * levels) as u64
    };
    let groups = || levels.chunks(at_once);
    let total = groups().flat_map(|g| texts.prompts.iter().map(|p| of(p.tokens.len(), g.len()))).sum();
    let running = counted(observer, "fitting the lens", Unit::MultiplyAdds, total);
    let mut maps = Vec::new();
    for group in groups() {
        let mut fit = HeadFit::new(group, d);
        for prompt in &texts.prompts {
            if observer.is_cancelled() {
                return Err(Error::Cancelled(
                    "interrupted while fitting the lens; the same command fits it again".to_owned(),
                ));
            }
            model.run(&[&prompt.tokens])?.iter().for_each(|trace| fit.add(model.backend(), trace));
            running.advance(of(prompt.tokens.len(), group.len()));
        }
        for (level, fitted) in group.iter().zip(fit.solve()) {
            let Some(fitted) = fitted else {
                invalid!(
                    "no linear lens at level {level}: its activations are not finite or vanish; use --lens logit"
                );
            };
            maps.push(Some(pack(model, &fitted)?));
        }
    }
    Ok(LensMaps::new(maps))
}

/// Reads a tuned lens: `h + W h + b` at each level, so the map is I + W.
fn read_tuned<B: Backend>(
    folder: &Path,
    model: &Model<B>,
    observer: &dyn Observer,
) -> Result<(LensInfo, Vec<Affine>)> {
    let (d, depth) = (model.config().hidden, model.config().depth());
    let config = tuned_config(folder)?;
    let at = |what: String| Error::Invalid(format!("{}: {what}", folder.join("config.json").display()));
    for (name, wanted) in [("d_model", d), ("num_hidden_layers", depth)] {
        let found = config.get(name).and_then(Value::as_u64);
        if found != Some(wanted as u64) {
            let found = found.map_or("missing".to_owned(), |found| found.to_string());
            return Err(at(format!(
                "'{name}' is {found}, and the model has {wanted}; give a lens of this model"
            )));
        }
    }
    if let Some(kind) = config.get("lens_type").filter(|kind| *kind != LENS_TYPE) {
        return Err(at(format!("'lens_type' is {kind}; only \"{LENS_TYPE}\" is supported")));
    }
    let unknown = config.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    for name in unknown.filter(|name| !KNOWN.contains(name)) {
        observer
            .warn(&format!("{}: '{name}' is not known and not used", folder.join("config.json").display()));
    }
    let has_bias = config.get("bias").and_then(Value::as_bool).unwrap_or(true);
    let weights = Weights::open_pickle(&folder.join("params.pt"))?;
    let wanted: Vec<String> = (0..depth)
        .flat_map(|l| [Some(format!("{l}.weight")), has_bias.then(|| format!("{l}.bias"))])
        .flatten()
        .collect();
    if let Some(extra) = weights.names().into_iter().find(|name| !wanted.iter().any(|w| w == name)) {
        let file = folder.join("params.pt");
        invalid!("{}: '{extra}' is not a part of a tuned lens of {depth} layers", file.display());
    }
    let level = |l: usize| -> Result<Affine> {
        let mut matrix = vec![0.0; d * d];
        weights.tensor(&format!("{l}.weight"), &[d, d])?.read(0..d, &mut matrix)?;
        let mut matrix: Vec<f64> = matrix.into_iter().map(f64::from).collect();
        (0..d).for_each(|i| matrix[i * d + i] += 1.0);
        let bias = if has_bias { weights.vector(&format!("{l}.bias"), d)? } else { vec![0.0; d] };
        Ok((matrix, bias.into_iter().map(f64::from).collect()))
    };
    let maps = (0..depth).map(level).collect::<Result<_>>()?;
    let base = config.get("base_model_name_or_path").and_then(Value::as_str);
    let info = LensInfo::Tuned {
        path: folder.display().to_string(),
        sha256: weights.sha256().pop().unwrap_or_default(),
        model: base.map(str::to_owned),
    };
    Ok((info, maps))
}

fn tuned_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    let io = |source| Error::Io {
        what: format!(
            "cannot read {} of the tuned lens (--lens takes logit, linear, or a folder with config.json and params.pt)",
            path.display()
        ),
        source,
    };
    let length = std::fs::metadata(&path).map_err(io)?.len();
    if length > CONFIG_BYTES {
        invalid!("{} has {length} bytes, which no configuration of a tuned lens has", path.display());
    }
    let text = std::fs::read(&path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use fathom_model::Dtype;
    use fathom_model::source::Checkpoint;
    use fathom_probes::{ExecOptions, MemoryPlan, lens};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
    }

    fn load(name: &str) -> Model {
        Checkpoint::open(&fixture(name)).unwrap().load(Dtype::F32, &|| ()).unwrap().model
    }

    #[test]
    fn names_of_lenses_are_read_and_written_alike() {
        for name in ["logit", "linear", "some/folder"] {
            assert_eq!(name.parse::<Lens>().unwrap().to_string(), name);
        }
        assert!("".parse::<Lens>().is_err());
    }

    #[test]
    fn a_tuned_lens_reads_what_torch_reads() {
        let model = load("qwen2");
        let (info, maps) = read_tuned(&fixture("lenses/qwen2"), &model, &Silent).unwrap();
        assert!(matches!(&info, LensInfo::Tuned { model: Some(name), .. } if name == "qwen2"), "{info:?}");
        let maps = OpenLens::Tuned(info, maps).maps(&model, 1 << 26, &Silent).unwrap();
        let text = std::fs::read(fixture("lenses/qwen2/reference.json")).unwrap();
        let reference: Value = serde_json::from_slice(&text).unwrap();
        let numbers = |name: &str| -> Vec<f64> {
            reference[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let tokens: Vec<u32> = numbers("tokens").into_iter().map(|token| token as u32).collect();
        let trace = model.run(&[&tokens]).unwrap().remove(0);
        let memory = MemoryPlan { rows: 64, clean: 64, bytes: 1 << 26, saved: 1 << 26 };
        let exec = ExecOptions { memory, naive: false, on_progress: &|_| () };
        let found = lens::curves(&lens::sweep_through(&model, &trace, &maps, &exec)).kl_final_lens;
        let wanted = numbers("kl_final_lens");
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-4 * wanted.max(1.0), "{found} {wanted}");
        }
    }

    #[track_caller]
    fn refused(folder: &Path, model: &Model, words: &str) {
        let message = read_tuned(folder, model, &Silent).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn a_lens_of_another_model_or_kind_is_refused_by_name() {
        refused(&fixture("lenses/qwen2"), &load("llama2"), "give a lens of this model");
        let model = load("qwen2");
        refused(&fixture("nowhere"), &model, "--lens takes logit, linear, or a folder");
        let folder = tempfile::tempdir().unwrap();
        let config = std::fs::read_to_string(fixture("lenses/qwen2/config.json")).unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
        write(&config.replace("linear_tuned_lens", "mlp_lens"));
        refused(folder.path(), &model, "'lens_type' is \"mlp_lens\"");
        write("{");
        refused(folder.path(), &model, "config.json");
        // A bias that the configuration denies.
        write(&config.replace("\"bias\": true", "\"bias\": false"));
        std::fs::copy(fixture("lenses/qwen2/params.pt"), folder.path().join("params.pt")).unwrap();
        refused(folder.path(), &model, "'0.bias' is not a part of a tuned lens");
    }
}
