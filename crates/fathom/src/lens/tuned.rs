//! Checkpoints of the tuned-lens project: `config.json` and `params.pt`.

use super::Affine;
use crate::error::invalid;
use crate::{Error, Observer, Result};
use fathom_model::weights::Weights;
use fathom_model::{Backend, Model};
use fathom_results::LensInfo;
use serde_json::Value;
use std::path::Path;

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

/// Reads a tuned lens: `h + W h + b` at each level, so the map is I + W.
pub(super) fn read<B: Backend>(
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
    use crate::lens::OpenLens;
    use fathom_model::Dtype;
    use fathom_model::source::Checkpoint;
    use fathom_probes::{ExecOptions, MemoryPlan, lens};
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
    }

    fn load(name: &str) -> Model {
        Checkpoint::open(&fixture(name)).unwrap().load(Dtype::F32, &|| ()).unwrap().model
    }

    #[test]
    fn a_tuned_lens_reads_what_torch_reads() {
        let model = load("qwen2");
        let (info, maps) = read(&fixture("lenses/qwen2"), &model, &Silent).unwrap();
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
        let message = read(folder, model, &Silent).unwrap_err().to_string();
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
