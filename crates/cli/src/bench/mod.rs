//! `fathom bench`: how fast this machine is, and how much of that speed is used.

mod clock;
mod history;
mod kernels;
mod machine;
mod model;
mod table;

use crate::args::{Bench, Device, ModelArgs};
use crate::{measure, output, progress, run_file};
use anyhow::Result;
use clock::Effort;
use fathom_kernels::{Dtype, Isa, peak};
use fathom_model::source::{Checkpoint, Located};
use serde::Serialize;
use serde_json::json;

/// Version of the lines of the history.
const SCHEMA_VERSION: u32 = 1;

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    date: String,
    fathom: &'static str,
    machine: machine::Machine,
    /// The instruction set that the kernels use.
    instructions: &'static str,
    threads: usize,
    quick: bool,
    /// Which of the repeated times counts.
    statistic: &'static str,
    peak_gflops: Peak,
    kernels: Vec<kernels::Kernel>,
    /// What a model gave, where one was named.
    model: Option<model::OfModel>,
}

/// What the registers alone can do, the best of all rounds.
#[derive(Clone, Copy, Serialize)]
struct Peak {
    f32: f64,
    bf16: f64,
}

pub(crate) fn run(args: &Bench) -> Result<()> {
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let machine = machine::describe();
    // A folder that cannot be written is better known of before anything is measured.
    let history = history::open(args, &machine.name)?;
    let model = args.model.as_ref().map(|name| open(args, name)).transpose()?;
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        date: run_file::now(),
        fathom: env!("CARGO_PKG_VERSION"),
        machine,
        instructions: Isa::get().name(),
        threads: rayon::current_num_threads(),
        quick: args.quick,
        statistic: clock::STATISTIC,
        peak_gflops: peak(&effort),
        kernels: Vec::new(),
        model: None,
    };
    let print = |text: &str| if args.json { Ok(()) } else { output::print(text) };
    print(&table::head(&report))?;
    report.kernels = time_kernels(&effort, model.as_ref().map(|(_, _, c)| c), &print)?;
    match model {
        Some((model_args, located, checkpoint)) => {
            report.model = Some(time_model(&effort, &model_args, &located, checkpoint, &print)?);
        }
        None => output::note(
            "no model was named, so prefill and probes are left out; `fathom bench MODEL` measures them too",
        ),
    }
    if args.json {
        output::print(&format!("{:#}\n", json!(report)))?;
    }
    history.map_or(Ok(()), |mut history| history.append(&report))
}

/// Finds the model and reads its description; weights come later.
fn open(args: &Bench, name: &str) -> Result<(ModelArgs, Located, Checkpoint)> {
    let args = ModelArgs {
        model: name.to_owned(),
        revision: args.revision.clone(),
        dtype: args.dtype,
        device: Device::Cpu,
    };
    let (located, checkpoint) = measure::open(&args)?;
    Ok((args, located, checkpoint))
}

fn peak(effort: &Effort) -> Peak {
    let working = progress::spinner("measuring the peak of this machine");
    let of = |dtype| clock::gflops(peak::macs_per_second(Isa::get(), dtype, effort.peak_rounds));
    let peak = Peak { f32: of(Dtype::F32), bf16: of(Dtype::Bf16) };
    working.finish_and_clear();
    peak
}

fn time_kernels(
    effort: &Effort,
    checkpoint: Option<&Checkpoint>,
    print: &dyn Fn(&str) -> Result<()>,
) -> Result<Vec<kernels::Kernel>> {
    let shapes = kernels::shapes(checkpoint.map(Checkpoint::config));
    print(&table::kernel_head())?;
    let bar = progress::bar("kernels", kernels::count(&shapes, effort) as u64, "timings");
    let done = kernels::measure(&shapes, effort, &mut |kernel| {
        bar.inc(1);
        bar.suspend(|| print(&table::kernel(kernel)))
    });
    bar.finish_and_clear();
    done
}

fn time_model(
    effort: &Effort,
    args: &ModelArgs,
    located: &Located,
    checkpoint: Checkpoint,
    print: &dyn Fn(&str) -> Result<()>,
) -> Result<model::OfModel> {
    let loaded = measure::load(checkpoint, args)?;
    let bar = progress::bar("model", model::STEPS as u64, "timings");
    let mut of_model = model::describe(located, &loaded, effort)?;
    bar.inc(1);
    let printed = bar.suspend(|| print(&table::model_head(&of_model)));
    let done = printed.and_then(|()| {
        model::measure_probes(&loaded, effort, &mut of_model, &mut |probe| {
            bar.inc(1);
            bar.suspend(|| print(&table::probe(probe)))
        })
    });
    bar.finish_and_clear();
    done.map(|()| of_model)
}
