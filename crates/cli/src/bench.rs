//! `fathom bench`.

use crate::args::{Bench, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{BenchEvent, BenchReport, Error, KernelSpeed, ModelSpec, ModelSpeed, ProbeSpeed};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Where Fathom's own source keeps its history.
const HISTORY: &str = "benches/results";

pub(crate) fn run(args: &Bench, threads: Option<u16>) -> Result<()> {
    let bench = fathom::Bench::new().quick(args.quick).device(args.device);
    let bench = optional(bench, &args.model, |b, id| {
        let (revision, dtype, device) = (args.revision.clone(), args.dtype.into(), args.device);
        b.model(ModelSpec { revision, dtype, device, ..ModelSpec::new(id.as_str()) })
    });
    let bench = optional(bench, &threads, |b, threads| b.threads((*threads).into()));
    // Rough numbers are kept only where that was asked for.
    let own = (!args.quick && Path::new(HISTORY).is_dir()).then(|| PathBuf::from(HISTORY));
    let bench = optional(bench, &args.out.clone().or(own), |b, folder| b.history(folder.as_path()));
    let terminal = Terminal::default();
    let report = bench.run(&terminal, &mut |event| {
        terminal.suspend(|| show(event, args)).map_err(|e| Error::Invalid(format!("{e:#}")))
    })?;
    match args.json {
        true => output::print(&format!("{:#}\n", json!(report))),
        false => Ok(()),
    }
}

/// Prints a part of the benchmark as soon as it is complete.
fn show(event: BenchEvent<'_>, args: &Bench) -> Result<()> {
    let print = |text: &str| if args.json { Ok(()) } else { output::print(text) };
    match event {
        BenchEvent::Machine(report) => {
            if args.model.is_none() {
                output::note(
                    "no model was named, so prefill and probes are left out; `fathom bench MODEL` measures them too",
                );
            }
            print(&head(report))?;
            print(&kernel_head())
        }
        BenchEvent::Kernel(speed) => print(&kernel(speed)),
        BenchEvent::Model(speed) => print(&model_head(speed)),
        BenchEvent::Probe(speed) => print(&probe(speed)),
        BenchEvent::History(file) => {
            output::note(&format!("added a line to {}", file.display()));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The machine and its peak.
fn head(report: &BenchReport) -> String {
    let machine = &report.machine;
    let processor = format!("{} ({})", machine.processor, some(machine.cores, "core"));
    let device = match &report.device[..] {
        "cpu" => format!("{}, {}", some(report.threads, "thread"), report.instructions),
        gpu => gpu.to_owned(),
    };
    format!(
        "{}, {}, fathom {}, {}\n\
         peak by multiply-adds on registers alone: {:.0} GFLOP/s in f32, {:.0} in bf16\n\
         times: {}\n",
        processor,
        device,
        report.fathom,
        report.date,
        report.peak_gflops.f32,
        report.peak_gflops.bf16,
        report.statistic,
    )
}

/// The columns of the kernels.
fn kernel_head() -> String {
    format!(
        "\nlinear layers of K inputs and N outputs on M rows, weights from memory\n\
         {:<9} {:<5} {:>8} {:>6} {:>6} {:>4} {:>9} {:>8} {:>8}  layer\n",
        "kernel", "dtype", "B/weight", "K", "N", "M", "GFLOP/s", "of peak", "GB/s"
    )
}

/// A line of a kernel.
fn kernel(k: &KernelSpeed) -> String {
    format!(
        "{:<9} {:<5} {:>8.2} {:>6} {:>6} {:>4} {:>9.1} {:>7.1}% {:>8.1}  {}\n",
        k.direction.name(),
        k.dtype,
        k.bytes_a_weight,
        k.inputs,
        k.outputs,
        k.rows,
        k.speed.gflops,
        100.0 * k.speed.share_of_peak,
        k.weights_gb_per_second,
        k.layer,
    )
}

/// The prefill, and the columns of the probes.
fn model_head(m: &ModelSpeed) -> String {
    let p = &m.prefill;
    format!(
        "\n{} in {}\nprefill of {} tokens, all layers without the head: {:.0} tokens/s, {:.1} GFLOP/s, {:.1} % of peak\n\
         probes on {}, {} tokens, and {}, gradients by {} steps, without the clean runs\n\
         {:<13} {:>7} {:>9} {:>9} {:>9} {:>8}\n",
        m.id,
        m.dtype,
        p.tokens,
        p.tokens_per_second,
        p.speed.gflops,
        100.0 * p.speed.share_of_peak,
        some(m.prompts, "prompt"),
        m.tokens,
        some(m.pairs, "pair"),
        m.steps,
        "probe",
        "edits",
        "GMAC",
        "seconds",
        "GFLOP/s",
        "of peak",
    )
}

/// A count with its noun.
fn some(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A line of a probe.
fn probe(p: &ProbeSpeed) -> String {
    format!(
        "{:<13} {:>7} {:>9.2} {:>9.3} {:>9.1} {:>7.1}%\n",
        p.probe,
        p.edits,
        p.macs as f64 / 1e9,
        p.speed.seconds,
        p.speed.gflops,
        100.0 * p.speed.share_of_peak,
    )
}
