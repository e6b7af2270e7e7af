//! A model's tokens, predictions and curves against reference values.

use super::causal;
use crate::error::invalid;
use crate::observer::counted;
use crate::{Error, ModelSpec, Observer, Result, Unit, tokenise};
use fathom_model::Trace;
use fathom_model::source::Loaded;
use fathom_probes::{ExecOptions, MemoryPlan, contributions, lens, summarise};
use fathom_results::{ProbeResults, Sample};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Reference values of one model on some prompts.
#[derive(Deserialize)]
pub(super) struct Golden {
    prompts: Vec<String>,
    tokens: Option<Vec<Vec<u32>>>,
    logits: Option<Vec<Logits>>,
    contributions: Option<BTreeMap<String, Vec<f64>>>,
    lens: Option<BTreeMap<String, Vec<f64>>>,
    /// The t of the skip probe, by prompt.
    pub(super) positions: Option<Vec<Vec<usize>>>,
    pub(super) effects: Option<causal::Effects>,
    pub(super) current: Option<causal::Effects>,
    pub(super) local: Option<causal::Effects>,
    pub(super) erasure: Option<Vec<causal::Erasure>>,
    pub(super) ig: Option<Vec<causal::Gradients>>,
}

/// What the model predicts on one prompt.
#[derive(Deserialize)]
struct Logits {
    nll: Vec<f64>,
}

/// How a difference is measured, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// None.
    Equal,
    /// An absolute difference.
    Absolute(f64),
    /// Relative to the reference; values below `floor` count as `floor`, so that a
    /// cosine near zero is not held to more digits than the file has.
    Relative {
        /// The relative difference.
        share: f64,
        /// The smallest reference that counts as itself.
        floor: f64,
    },
}

/// A quantity beside its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenRow {
    /// What was compared.
    pub name: String,
    /// The number of values.
    pub values: usize,
    /// The worst difference of any value, as `limit` measures it.
    pub worst: f64,
    /// The index of the worst value.
    pub place: usize,
    /// The largest difference allowed.
    pub limit: Limit,
}

impl GoldenRow {
    pub(super) fn compare(name: impl Into<String>, got: &[f64], want: &[f64], limit: Limit) -> Self {
        let mut row = Self { name: name.into(), values: want.len(), worst: 0.0, place: 0, limit };
        if got.len() != want.len() {
            row.worst = f64::INFINITY;
        }
        for (place, (got, want)) in got.iter().zip(want).enumerate() {
            let gap = (got - want).abs();
            let gap =
                if let Limit::Relative { floor, .. } = limit { gap / want.abs().max(floor) } else { gap };
            // A difference that is no number is the worst there can be.
            let gap = if gap.is_nan() { f64::INFINITY } else { gap };
            if gap > row.worst {
                (row.worst, row.place) = (gap, place);
            }
        }
        row
    }

    /// Whether the worst difference is within the limit.
    pub fn passes(&self) -> bool {
        self.worst
            <= match self.limit {
                Limit::Equal => 0.0,
                Limit::Absolute(x) | Limit::Relative { share: x, .. } => x,
            }
    }
}

/// What curves of the clean run may differ by.
const CURVES: Limit = Limit::Relative { share: 1e-3, floor: 0.01 };

/// Bytes of logits held at once, and rows.
const MEMORY: usize = 64 << 20;
pub(super) const EXEC: ExecOptions<'static> = ExecOptions {
    memory: MemoryPlan { clean: 1, rows: 2048, bytes: MEMORY, saved: MEMORY },
    naive: false,
    on_progress: &|_| (),
};

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
    let (_, checkpoint) = model.open(observer)?;
    let loaded = model.load(checkpoint, observer)?;
    let _comparing = counted(observer, "comparing", Unit::Items("prompts"), golden.prompts.len() as u64);
    let rows = compare(&golden, file, &loaded, observer)?;
    if rows.is_empty() {
        invalid!(
            "{path} holds nothing that can be compared; it needs \"tokens\", \"logits\", \"contributions\" or \"lens\""
        );
    }
    Ok(rows)
}

fn compare(golden: &Golden, path: &Path, loaded: &Loaded, observer: &dyn Observer) -> Result<Vec<GoldenRow>> {
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

fn sample(golden: &Golden, loaded: &Loaded, trace: &Trace) -> Sample {
    let sweep = || lens::curves(&lens::sweep(&loaded.model, trace, &EXEC));
    Sample {
        tokens: trace.tokens.clone(),
        contributions: golden.contributions.is_some().then(|| contributions::measure(trace)),
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
