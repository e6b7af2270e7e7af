//! `fathom verify`: a model's numbers against reference values, and bfloat16 against f32.

mod causal;
mod precision;

use crate::args::{DtypeArg, Verify};
use crate::{measure, output, progress, texts};
use anyhow::{Result, anyhow, bail};
use fathom_model::Trace;
use fathom_model::source::Loaded;
use fathom_probes::{Limits, Sample, Summary, Way, contributions, lens};
use indicatif::ProgressBar;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Reference values of one model on some prompts.
#[derive(Deserialize)]
struct Golden {
    prompts: Vec<String>,
    tokens: Option<Vec<Vec<u32>>>,
    logits: Option<Vec<Logits>>,
    contributions: Option<BTreeMap<String, Vec<f64>>>,
    lens: Option<BTreeMap<String, Vec<f64>>>,
    /// The t of the skip probe, by prompt.
    positions: Option<Vec<Vec<usize>>>,
    effects: Option<causal::Effects>,
    current: Option<causal::Effects>,
    local: Option<causal::Effects>,
    erasure: Option<Vec<causal::Erasure>>,
    ig: Option<Vec<causal::Gradients>>,
}

/// What the model predicts on one prompt.
#[derive(Deserialize)]
struct Logits {
    nll: Vec<f64>,
}

/// How a difference is measured and what it may be.
#[derive(Clone, Copy)]
enum Limit {
    Equal,
    Absolute(f64),
    /// Relative to the reference; values below `floor` count as `floor`, so that a
    /// cosine near zero is not held to more digits than the file has.
    Relative {
        share: f64,
        floor: f64,
    },
}

/// One line of the table.
struct Row {
    name: String,
    values: usize,
    worst: f64,
    place: usize,
    limit: Limit,
}

impl Row {
    fn compare(name: impl Into<String>, got: &[f64], want: &[f64], limit: Limit) -> Self {
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

    fn passes(&self) -> bool {
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
const WAY: Way<'static> = Way {
    limits: Limits { clean: 1, rows: 2048, bytes: MEMORY, saved: MEMORY },
    naive: false,
    done: &|_| (),
};

pub(crate) fn run(args: &Verify) -> Result<()> {
    match &args.golden {
        Some(path) => against(path, args),
        None if args.model.dtype == DtypeArg::F32 => {
            bail!(
                "--dtype f32 leaves nothing to compare; give --dtype bf16, or --golden FILE with reference values"
            )
        }
        None => precision::run(args),
    }
}

fn against(file: &Path, args: &Verify) -> Result<()> {
    let path = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| anyhow!("cannot read {path}: {e}; give a file of reference values"))?;
    let golden: Golden = serde_json::from_str(&text).map_err(|e| {
        anyhow!("{path} holds no reference values ({e}); it must be a JSON object with \"prompts\"")
    })?;
    let (_, checkpoint) = measure::open(&args.model)?;
    let loaded = measure::load(checkpoint, &args.model)?;
    let working = progress::bar("comparing", golden.prompts.len() as u64, "prompts");
    let rows = compare(&golden, file, &loaded, &working);
    working.finish_and_clear();
    let rows = rows?;
    output::print(&table(&rows))?;
    let failed = rows.iter().filter(|r| !r.passes()).count();
    if rows.is_empty() {
        bail!(
            "{path} holds nothing that can be compared; it needs \"tokens\", \"logits\", \"contributions\" or \"lens\""
        );
    }
    if failed > 0 {
        bail!("{failed} of {} quantities differ from {path} by more than they may", rows.len());
    }
    Ok(())
}

fn compare(golden: &Golden, path: &Path, loaded: &Loaded, bar: &ProgressBar) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (mut samples, mut traces) = (Vec::new(), Vec::new());
    for (i, prompt) in golden.prompts.iter().enumerate() {
        let tokens = loaded.tokenizer.encode(prompt)?;
        if let Some(want) = golden.tokens.as_ref().and_then(|t| t.get(i)) {
            let as_numbers = |t: &[u32]| t.iter().map(|t| f64::from(*t)).collect::<Vec<_>>();
            let name = format!("tokens of prompt {i}");
            rows.push(Row::compare(name, &as_numbers(&tokens), &as_numbers(want), Limit::Equal));
        }
        texts::check(&tokens, &i.to_string(), &path.to_string_lossy(), loaded.model.config())?;
        let trace = loaded.model.run(&[&tokens])?.remove(0);
        if let Some(want) = golden.logits.as_ref().and_then(|l| l.get(i)) {
            let got = lens::negative_log_likelihoods(&loaded.model, &trace, MEMORY);
            let name = format!("negative log-likelihoods of prompt {i}");
            rows.push(Row::compare(name, &got, &want.nll, Limit::Absolute(1e-3)));
        }
        samples.push(sample(golden, loaded, &trace));
        traces.push(trace);
        bar.inc(1);
    }
    let summary = Summary::of(&samples, loaded.model.config().depth());
    rows.extend(curves(golden, &summary, loaded.model.config().depth()));
    rows.extend(causal::compare(golden, loaded, &traces, &|name| bar.set_message(name.to_owned()))?);
    Ok(rows)
}

fn sample(golden: &Golden, loaded: &Loaded, trace: &Trace) -> Sample {
    let sweep = || lens::curves(&lens::sweep(&loaded.model, trace, &WAY));
    Sample {
        tokens: trace.tokens.clone(),
        contributions: golden.contributions.is_some().then(|| contributions::measure(trace)),
        lens: golden.lens.is_some().then(sweep),
        ..Sample::default()
    }
}

fn curves(golden: &Golden, summary: &Summary, depth: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |probe: &str, name: &str, got: &[f64], want: Option<&Vec<f64>>| {
        if let Some(want) = want {
            let layers = &got[..got.len().min(depth)];
            rows.push(Row::compare(format!("{probe} {name}"), layers, want, CURVES));
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

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:<width$}  {:>6}  {:>16}  {:>5}  {:>14}\n",
        "quantity", "values", "worst difference", "at", "limit"
    );
    for r in rows {
        let limit = match r.limit {
            Limit::Equal => "equal".to_owned(),
            Limit::Absolute(x) => format!("{x:.0e} absolute"),
            Limit::Relative { share: x, .. } => format!("{x:.0e} relative"),
        };
        let verdict = if r.passes() { "ok" } else { "DIFFERS" };
        let _ = writeln!(
            text,
            "{:<width$}  {:>6}  {:>16.2e}  {:>5}  {:>14}  {verdict}",
            r.name, r.values, r.worst, r.place, limit
        );
    }
    text
}
