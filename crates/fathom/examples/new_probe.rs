//! A new probe as a list of edits: what does the next token lose when one layer's attention is cut off from one
//! position on? `attention_knockout` below is a whole probe. The planner shares what the edited runs have in common.
//!
//!     cargo run --release -p fathom --example new_probe -- [MODEL]

#![allow(clippy::print_stdout, clippy::print_stderr)]

use fathom_hub::Quiet;
use fathom_kernels::Buffer;
use fathom_model::source::{self, Checkpoint};
use fathom_model::{Dtype, Model, Trace};
use fathom_probes::planner::{Action, Edit, EditSink, LogitReading, Places, Request, Site, execute};
use fathom_probes::{ExecOptions, MemoryPlan};
use std::error::Error;
use std::ops::Range;

/// For each layer the total variation between the next-token distributions with and without the layer's attention at
/// positions from `from` on, read at the last position.
fn attention_knockout(model: &Model, trace: &Trace, from: usize, exec: &ExecOptions<'_>) -> Vec<f64> {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    // One request an edited run: what is changed, and what is read of the effect.
    let request = |layer| Request {
        edits: vec![Edit { layer, site: Site::Attn, positions: from..tokens, action: Action::Zero }],
        added: Places::default(),
        logits: (tokens - 1..tokens).into(),
        until: depth,
    };
    let requests: Vec<Request<'_, Buffer>> = (0..depth).map(request).collect();
    let mut sink = TotalVariation { by_layer: vec![0.0; depth] };
    execute(model, trace, &requests, exec, &mut sink);
    sink.by_layer
}

/// Receives the logits of the edited runs beside those of the clean one.
struct TotalVariation {
    by_layer: Vec<f64>,
}

impl EditSink for TotalVariation {
    // The default is the Euclidean distance of the distributions, which is computed where the model runs.
    fn reading(&self) -> LogitReading {
        LogitReading::Rows
    }

    fn added(&mut self, _request: usize, _layer: usize, _positions: Range<usize>, _changes: &[f64]) {}

    fn logits(&mut self, request: usize, _position: usize, numbers: &[f64]) {
        let (clean, edited) = numbers.split_at(numbers.len() / 2);
        let gaps = softmax(edited).iter().zip(softmax(clean)).map(|(p, q)| (p - q).abs()).sum::<f64>();
        self.by_layer[request] = gaps / 2.0;
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|x| x / sum).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| source::DEFAULT.to_owned());
    let located = source::locate(&name, None, &Quiet)?;
    let loaded = Checkpoint::open(&located.path)?.load(Dtype::F32, &|| ())?;
    let tokens = loaded.tokenizer.encode("The capital of France is Paris, and the capital of Italy is")?;

    // The clean run: every layer's input and what its attention and MLP add.
    let trace = loaded.model.run(&[&tokens])?.remove(0);
    let exec = ExecOptions::planned(MemoryPlan::fit(&loaded.model, tokens.len(), 1 << 30)?);
    for (layer, moved) in attention_knockout(&loaded.model, &trace, 1, &exec).iter().enumerate() {
        println!("layer {layer:>2}  {moved:.3}  {}", "#".repeat((moved * 40.0).round() as usize));
    }
    Ok(())
}
