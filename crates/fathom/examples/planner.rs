//! The planner alone: what a set of edited runs costs, shared and unshared, before and after it is carried out; and
//! how far the results of both are apart.
//!
//!     cargo run --release -p fathom --example planner -- [MODEL]

#![allow(clippy::print_stdout, clippy::print_stderr)]

use fathom_hub::Quiet;
use fathom_kernels::Buffer;
use fathom_model::Dtype;
use fathom_model::source::{self, Checkpoint};
use fathom_probes::planner::{Action, Edit, EditSink, LogitReading, Places, Request, Site, count, execute};
use fathom_probes::{ExecOptions, MemoryPlan};
use std::error::Error;
use std::ops::Range;

/// Keeps the edited logits of every request.
#[derive(Default)]
struct Logits(Vec<(usize, usize, Vec<f64>)>);

impl EditSink for Logits {
    fn reading(&self) -> LogitReading {
        LogitReading::Rows
    }

    fn added(&mut self, _request: usize, _layer: usize, _positions: Range<usize>, _changes: &[f64]) {}

    fn logits(&mut self, request: usize, position: usize, numbers: &[f64]) {
        let (_clean, edited) = numbers.split_at(numbers.len() / 2);
        self.0.push((request, position, edited.to_vec()));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| source::DEFAULT.to_owned());
    let located = source::locate(&name, None, &Quiet)?;
    let loaded = Checkpoint::open(&located.path)?.load(Dtype::F32, &|| ())?;
    let (model, depth) = (&loaded.model, loaded.model.config().depth());
    let tokens = loaded.tokenizer.encode("One, two, three, four, five, six, seven, eight, nine,")?;
    let trace = model.run(&[&tokens])?.remove(0);
    let last = tokens.len() - 1;

    // Each layer is bypassed from the fourth token on, alone and together with layer 0.
    let skip = |layer| Edit { layer, site: Site::Layer, positions: 4..last + 1, action: Action::Skip };
    let request =
        |edits| Request { edits, added: Places::default(), logits: (last..last + 1).into(), until: depth };
    let alone = (1..depth).map(|layer| request(vec![skip(layer)]));
    let both = (1..depth).map(|layer| request(vec![skip(0), skip(layer)]));
    let requests: Vec<Request<'_, Buffer>> = alone.chain(both).collect();

    let plan = MemoryPlan::fit(model, tokens.len(), 1 << 30)?;
    let counted = count(model, tokens.len(), &requests, plan);
    println!("{} edits on {} tokens of {}", counted.edits, tokens.len(), located.id);
    println!("planned {:>8.2} GMAC in {} runs", counted.macs as f64 / 1e9, counted.runs);
    println!("naive   {:>8.2} GMAC in {} runs", counted.macs_naive as f64 / 1e9, counted.edits);

    let (mut planned, mut naive) = (Logits::default(), Logits::default());
    let exec = ExecOptions::planned(plan);
    let done = execute(model, &trace, &requests, &exec, &mut planned);
    execute(model, &trace, &requests, &ExecOptions { naive: true, ..exec }, &mut naive);
    planned.0.sort_by_key(|(request, ..)| *request);
    naive.0.sort_by_key(|(request, ..)| *request);
    let pairs = planned.0.iter().zip(&naive.0).flat_map(|((.., a), (.., b))| a.iter().zip(b));
    let apart = pairs.fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    println!(
        "done    {:>8.2} GMAC; the logits differ from the naive ones by {apart:.0e} at most",
        done.macs as f64 / 1e9
    );
    Ok(())
}
