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
use fathom_probes::{contributions, lens, summarise};
use fathom_results::{ProbeResults, Sample};
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
    rows.extend(causal::compare(golden, loaded, &traces, &|name| observer.detail(name))?);
    Ok(rows)
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
