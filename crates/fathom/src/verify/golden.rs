//! A model's tokens, predictions and curves against reference values.

use super::causal;
use super::file::Golden;
use super::row::{EXEC, GoldenRow, Limit, MEMORY};
use crate::device::OnDevice;
use crate::error::invalid;
use crate::observer::counted;
use crate::{Error, ModelSpec, Observer, Result, Unit, tokenise};
use fathom_model::source::Loaded;
use fathom_model::{Backend, Trace};
use fathom_probes::{Masked, Targets, contributions, lens, summarise};
use fathom_results::{MaskedSample, ProbeResults, Sample};
use std::path::Path;

/// What curves of the clean run may differ by.
const CURVES: Limit = Limit::Relative { share: 1e-3, floor: 0.01 };

/// Compares a model with the reference values in a file.
pub(super) fn compare_file(
    model: &ModelSpec,
    file: &Path,
    observer: &dyn Observer,
) -> Result<Vec<GoldenRow>> {
    let path = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::Invalid(format!("cannot read {path}: {e}; give a file of reference values")))?;
    let golden: Golden = serde_json::from_str(&text).map_err(|e| {
        Error::Invalid(format!(
            "{path} does not hold reference values ({e}); it must be a JSON object with \"prompts\""
        ))
    })?;
    let rows = model.device.run(observer, Comparing { golden: &golden, file, model, observer })?;
    if rows.is_empty() {
        invalid!(
            "{path} holds nothing that can be compared; it needs \"tokens\", \"logits\", \"contributions\" or \"lens\""
        );
    }
    Ok(rows)
}

/// A comparison with reference values.
struct Comparing<'a> {
    golden: &'a Golden,
    file: &'a Path,
    model: &'a ModelSpec,
    observer: &'a dyn Observer,
}

impl OnDevice for Comparing<'_> {
    type Output = Vec<GoldenRow>;

    fn run<B: Backend>(self, backend: B) -> Result<Vec<GoldenRow>> {
        let Self { golden, file, model, observer } = self;
        let (_, checkpoint) = model.open(observer)?;
        let loaded = model.load(checkpoint, backend, observer)?;
        let _comparing = counted(observer, "comparing", Unit::Items("prompts"), golden.prompts.len() as u64);
        compare(golden, file, &loaded, observer)
    }
}

fn compare<B: Backend>(
    golden: &Golden,
    path: &Path,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<Vec<GoldenRow>> {
    let mut rows = Vec::new();
    let (mut samples, mut traces) = (Vec::new(), Vec::new());
    for (i, prompt) in golden.prompts.iter().enumerate() {
        let tokens = loaded.tokenizer.encode(prompt)?;
        if let Some(want) = golden.tokens.as_ref().and_then(|t| t.get(i)) {
            let as_numbers = |t: &[u32]| t.iter().map(|t| f64::from(*t)).collect::<Vec<_>>();
            let name = format!("tokens of prompt {i}");
            rows.push(GoldenRow::compare(name, &as_numbers(&tokens), &as_numbers(want), Limit::Equal));
        }
        tokenise::check(&tokens, &i.to_string(), &path.to_string_lossy(), loaded.model.config())?;
        let trace = loaded.model.run(&[&tokens])?.remove(0);
        if let Some(masked) = masked_of(golden, path, i, &tokens, loaded)? {
            let (sample, losses) = masked_sample(golden, loaded, &trace, &masked);
            if let Some(want) = golden.logits.as_ref().and_then(|l| l.get(i)) {
                let name = format!("negative log-likelihoods of prompt {i}");
                rows.push(GoldenRow::compare(name, &losses, &want.nll, Limit::Absolute(1e-3)));
            }
            samples.push(sample);
            observer.advance(1);
            continue;
        }
        if let Some(want) = golden.logits.as_ref().and_then(|l| l.get(i)) {
            let got = lens::negative_log_likelihoods(&loaded.model, &trace, MEMORY);
            let name = format!("negative log-likelihoods of prompt {i}");
            rows.push(GoldenRow::compare(name, &got, &want.nll, Limit::Absolute(1e-3)));
        }
        samples.push(sample(golden, loaded, &trace));
        traces.push(trace);
        observer.advance(1);
    }
    let summary = summarise(&samples, loaded.model.config().depth());
    rows.extend(curves(golden, &summary, loaded.model.config().depth()));
    if !loaded.model.config().is_causal() {
        return Ok(rows);
    }
    rows.extend(causal::compare(golden, loaded, &traces, &|name| observer.detail(name))?);
    Ok(rows)
}

/// What the masks of a prompt hide; `None` for a causal model.
fn masked_of<B: Backend>(
    golden: &Golden,
    path: &Path,
    prompt: usize,
    tokens: &[u32],
    loaded: &Loaded<B>,
) -> Result<Option<Masked>> {
    let (config, path) = (loaded.model.config(), path.display());
    let hidden = golden.masked.as_ref().and_then(|all| all.get(prompt));
    if config.is_causal() {
        match hidden {
            None => return Ok(None),
            Some(_) => {
                invalid!("{path} is about a masked model, and {} is a causal one", config.architecture)
            }
        }
    }
    let Some(hidden) = hidden else {
        invalid!(
            "{path} does not say in \"masked\" what the masks of prompt {prompt} hide, which a masked model needs"
        );
    };
    if golden.effects.is_some() || golden.current.is_some() || golden.local.is_some() {
        invalid!(
            "{path} has effects of skipping, which are compared for causal models alone; leave them out"
        );
    }
    if golden.erasure.is_some() || golden.ig.is_some() {
        invalid!(
            "{path} has erasure or gradients, which are compared for causal models alone; leave them out"
        );
    }
    let mask = loaded.tokenizer.mask();
    let positions: Vec<usize> = (0..tokens.len()).filter(|at| Some(tokens[*at]) == mask).collect();
    if positions.len() != hidden.len() || hidden.iter().any(|token| *token as usize >= config.vocab) {
        invalid!(
            "{path}: prompt {prompt} has {} masks, and \"masked\" names {} tokens of the vocabulary for it",
            positions.len(),
            hidden.len()
        );
    }
    let own = |at: &usize| Some(tokens[*at]) == mask || !loaded.tokenizer.is_special(tokens[*at]);
    let own = (0..tokens.len()).filter(own).collect();
    Ok(Some(Masked { targets: Targets { positions, tokens: hidden.clone() }, own, ..Masked::default() }))
}

/// The sample of a masked prompt, and the losses of what its masks hide.
fn masked_sample<B: Backend>(
    golden: &Golden,
    loaded: &Loaded<B>,
    trace: &Trace<B>,
    masked: &Masked,
) -> (Sample, Vec<f64>) {
    let on = loaded.model.backend();
    let rows = |of: &[usize]| trace.rows(on, &of.iter().map(|at| *at as u32).collect::<Vec<_>>());
    let own = rows(&masked.own);
    let targets = &masked.targets;
    let points = match loaded.model.config().has_head() && !targets.positions.is_empty() {
        true => lens::sweep_targets(&loaded.model, &rows(&targets.positions), &targets.tokens, &EXEC),
        false => Vec::new(),
    };
    let losses = points.iter().filter_map(|levels| levels.last()?.nll).collect();
    let about = MaskedSample {
        positions: targets.positions.clone(),
        hidden: targets.tokens.clone(),
        own: masked.own.len(),
        ..MaskedSample::default()
    };
    let sample = Sample {
        tokens: trace.tokens.clone(),
        masked: Some(about),
        contributions: golden.contributions.is_some().then(|| contributions::measure(on, &own)),
        lens: (golden.lens.is_some() && !points.is_empty()).then(|| lens::curves(&points)),
        ..Sample::default()
    };
    (sample, losses)
}

fn sample<B: Backend>(golden: &Golden, loaded: &Loaded<B>, trace: &Trace<B>) -> Sample {
    let sweep = || lens::curves(&lens::sweep(&loaded.model, trace, &EXEC));
    Sample {
        tokens: trace.tokens.clone(),
        contributions: golden
            .contributions
            .is_some()
            .then(|| contributions::measure(loaded.model.backend(), trace)),
        lens: golden.lens.is_some().then(sweep),
        ..Sample::default()
    }
}

fn curves(golden: &Golden, summary: &ProbeResults, depth: usize) -> Vec<GoldenRow> {
    let mut rows = Vec::new();
    let mut row = |probe: &str, name: &str, got: &[f64], want: Option<&Vec<f64>>| {
        if let Some(want) = want {
            let layers = &got[..got.len().min(depth)];
            rows.push(GoldenRow::compare(format!("{probe} {name}"), layers, want, CURVES));
        }
    };
    if let (Some(want), Some(got)) = (&golden.contributions, &summary.contributions) {
        for (name, got) in [
            ("rc_att", &got.relative_norm.attn.mean),
            ("rc_mlp", &got.relative_norm.mlp.mean),
            ("rc_layer", &got.relative_norm.layer.mean),
            ("cos_att", &got.cosine.attn.mean),
            ("cos_mlp", &got.cosine.mlp.mean),
            ("cos_layer", &got.cosine.layer.mean),
        ] {
            row("contributions", name, got, want.get(name));
        }
    }
    if let (Some(want), Some(got)) = (&golden.lens, &summary.lens) {
        row("lens", "kl", &got.kl_lens_final, want.get("kl"));
        row("lens", "overlap", &got.overlap, want.get("overlap"));
    }
    rows
}
