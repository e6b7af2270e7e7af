//! `run.json`: what was run and how, enough to do it again.

use crate::error::invalid;
use crate::job::Job;
use crate::sequences::Sequences;
use crate::{Measurement, Result};
use fathom_analysis::BootstrapOptions;
use fathom_kernels::Isa;
use fathom_model::Backend;
use fathom_model::source::{Loaded, Located};
use fathom_results::LensInfo;
use serde_json::{Value, json};
use std::path::Path;
use std::time::SystemTime;

/// A file that the model was made of.
fn file(path: &Path, sha256: &str) -> Value {
    json!({"name": path.file_name().map(|n| n.to_string_lossy().into_owned()), "sha256": sha256})
}

/// The program, the model and the machine of a run.
pub(crate) fn provenance<B: Backend>(
    command: &[String],
    located: &Located,
    loaded: &Loaded<B>,
    hashes: &[String],
) -> Value {
    let files: Vec<Value> = loaded
        .weights
        .paths()
        .iter()
        .zip(hashes)
        .map(|(path, sha256)| file(path, sha256))
        .chain(loaded.settings.iter().map(|(path, sha256)| file(path, sha256)))
        .collect();
    let (config, device) = (loaded.model.config(), loaded.model.backend().name());
    // On another device, the processor's instructions compute no result.
    let instructions = (device == "cpu").then(|| Isa::get().name());
    json!({
        "fathom": env!("CARGO_PKG_VERSION"),
        "samples_version": fathom_results::SAMPLES_VERSION,
        "status": "running",
        "command": command,
        "started": now(),
        "model": {
            "id": located.id,
            "revision": located.revision,
            "files": files,
            "architecture": config.architecture,
            "context": config.context,
            "warnings": loaded.warnings,
        },
        "tokenizer": loaded.tokenizer.describe(),
        "dtype": loaded.model.dtype().name(),
        "device": device,
        "instructions": instructions,
        "threads": rayon::current_num_threads(),
    })
}

/// Everything known before the first prompt is measured.
pub(crate) fn describe<B: Backend>(
    m: &Measurement,
    bootstrap: &BootstrapOptions,
    job: &Job,
    located: &Located,
    loaded: &Loaded<B>,
    hashes: &[String],
) -> Value {
    let mut run = provenance(&m.options.command, located, loaded, hashes);
    let own = json!({
        "data": {
            "id": job.set.id,
            "source": job.set.source,
            "sha256": job.set.sha256,
            "prompts": job.set.prompts.len(),
            "tokens": job.tokens(),
            "empty": job.set.empty,
            "too_long": job.remarks.too_long,
            "double_bos": job.remarks.double_bos,
        },
        "memory_bytes": job.options.memory,
        "naive": job.options.naive,
        "request": m.request(),
        "seed": m.options.data.seed,
        "rng": m.options.data.rng.to_string(),
        "probes": {
            "measured": m.probes,
            "skip": {
                "modes": job.options.skip.modes,
                "parts": job.options.skip.parts,
                "positions": format!("range(8, T - 4, 8), shuffled, the first {}", m.positions),
            },
            "erasure": {
                "qa": {"id": m.qa, "sha256": job.qa_sha256},
                "baseline": {"id": job.baseline_set.as_ref().map_or(&job.set.id, |b| &b.id), "sha256": job.baseline_set.as_ref().map_or(&job.set.sha256, |b| &b.sha256)},
            },
            "gradients": {"qa": {"id": m.qa, "sha256": job.qa_sha256}, "settings": job.options.gradients},
            "lens": {"top": fathom_probes::lens::TOP},
            "settling": {
                "threshold_bits": fathom_results::SETTLING_THRESHOLD_BITS,
                "deep_share": fathom_probes::settling::DEEP_SHARE,
            },
        },
        "depth": {
            "thresholds": bootstrap.thresholds,
            "resamples": bootstrap.resamples,
        },
    });
    if let (Some(run), Value::Object(own)) = (run.as_object_mut(), own) {
        run.extend(own);
    }
    if m.options.sequences != Sequences::default() {
        run["sequences"] = json!(m.options.sequences);
    }
    if let Some(masking) = &job.masking {
        run["objective"] = masking.record();
        run["data"]["unknown"] = job.remarks.unknown.into();
    }
    if let Some(shard) = m.shard {
        let prompts: Vec<&String> = job.prompts.iter().map(|t| &t.id).collect();
        let pairs: Vec<&String> = job.pairs.iter().map(|p| &p.id).collect();
        run["shard"] =
            json!({"index": shard.index(), "of": shard.count(), "prompts": prompts, "pairs": pairs});
    }
    run
}

/// Notes the lens among the options of the probes that read it, if it is not the logit lens.
pub(crate) fn describe_lens(run: &mut Value, lens: Option<&LensInfo>) {
    if let Some(lens) = lens {
        for probe in ["lens", "settling"] {
            run["probes"][probe]["lens"] = json!(lens);
        }
    }
}

/// This process, as the message of another one names it.
pub(crate) fn process() -> String {
    let host = sysinfo::System::host_name().unwrap_or_else(|| "an unnamed host".into());
    let job = std::env::var("SLURM_JOB_ID").map(|id| format!(", job {id}")).unwrap_or_default();
    format!("process {} on {host}{job}", std::process::id())
}

/// The time, as RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Refuses to go on with a folder whose samples another program, model, set of prompts or number
/// format has made: they must not be mixed.
pub(crate) fn check_same(earlier: &Value, now: &Value, folder: &Path) -> Result<()> {
    refuse_other_kind(earlier, None, folder)?;
    let compared = [
        ("other prompts", "/data/sha256"),
        ("another way to run edits (--naive)", "/naive"),
        ("another shard", "/shard"),
        ("other masks", "/objective"),
    ];
    let differs = |probe: &String| earlier["probes"].get(probe) != now["probes"].get(probe);
    let asked = measured(now);
    let probes = measured(earlier).into_iter().filter(|p| asked.contains(p) && differs(p));
    let probes = probes.map(|probe| format!("other options of {probe}")).collect();
    refuse_differences(earlier, now, &compared, probes, folder)
}

/// Kinds of runs other than a measurement: the key of `run.json` that only they have, and what they are called.
const KINDS: [(&str, &str); 4] = [
    ("prune", "a pruning"),
    ("exit", "early exits"),
    ("map", "maps between models"),
    ("grow", "a grown model"),
];

/// Refuses to go on with a folder of another kind of run than that of this key, or than a measurement.
pub(crate) fn refuse_other_kind(earlier: &Value, expected: Option<&str>, folder: &Path) -> Result<()> {
    let name = |key: Option<&str>| {
        KINDS.iter().find(|(known, _)| Some(*known) == key).map_or("a measurement", |(_, name)| *name)
    };
    let found = KINDS.iter().map(|kind| kind.0).find(|key| earlier.get(key).is_some());
    if found != expected {
        invalid!(
            "{} holds {}, not {}; choose another folder with -o",
            folder.display(),
            name(found),
            name(expected)
        );
    }
    Ok(())
}

/// Refuses to go on with a folder that was written with other settings: those of every kind of run, those in
/// `compared`, a description and a JSON pointer each, and those in `others`, descriptions.
pub(crate) fn refuse_differences(
    earlier: &Value,
    now: &Value,
    compared: &[(&str, &str)],
    others: Vec<String>,
    folder: &Path,
) -> Result<()> {
    let mut what = differences(earlier, now, compared);
    what.extend(others);
    if what.is_empty() {
        return Ok(());
    }
    invalid!(
        "{} was written with {}; nothing was changed: use the same settings, another folder with -o, or --overwrite to measure anew",
        folder.display(),
        what.join(" and ")
    )
}

/// How two runs differ: in the settings of every kind of run, and in those of `compared`, a description and a JSON pointer
/// each.
pub(crate) fn differences(earlier: &Value, now: &Value, compared: &[(&str, &str)]) -> Vec<String> {
    const EVERYWHERE: [(&str, &str); 10] = [
        ("another version of fathom", "/fathom"),
        ("another format of samples", "/samples_version"),
        ("another device", "/device"),
        ("other instructions of the processor", "/instructions"),
        ("other model files", "/model/files"),
        ("another tokenizer", "/tokenizer"),
        ("another dtype", "/dtype"),
        ("another seed", "/seed"),
        ("another kind of random numbers", "/rng"),
        ("another part of sequences, or other marks around them", "/sequences"),
    ];
    let differs = |place: &str| earlier.pointer(place) != now.pointer(place);
    let value = |run: &Value, place: &str| match run.pointer(place) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let mut what: Vec<String> = Vec::new();
    // Another device has other instructions anyway.
    let counts = |place: &str| differs(place) && !(place == "/instructions" && differs("/device"));
    for (name, place) in compared.iter().chain(&EVERYWHERE).filter(|(_, place)| counts(place)) {
        what.push(match (value(earlier, place), value(now, place)) {
            (Some(before), Some(after)) if before.len().max(after.len()) < 60 => {
                format!("{name} ({before}, now {after})")
            }
            _ => (*name).to_owned(),
        });
    }
    what
}

/// The probes that an earlier run measured or began to measure.
fn measured(run: &Value) -> Vec<String> {
    let names = run.pointer("/probes/measured").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
}

/// Keeps in mind what earlier runs into the folder measured, and with which options.
pub(crate) fn keep_measured(earlier: &Value, now: &mut Value) {
    let mut names = measured(now);
    for probe in measured(earlier).iter().filter(|probe| !names.contains(probe)) {
        if let Some(options) = earlier.pointer(&format!("/probes/{probe}")) {
            now["probes"][probe] = options.clone();
        }
    }
    names.extend(measured(earlier).into_iter().filter(|n| !names.contains(n)).collect::<Vec<_>>());
    now["probes"]["measured"] = names.into();
}
