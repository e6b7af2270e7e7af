//! What is printed while it is measured.

use super::Report;
use super::kernels::Kernel;
use super::model::{OfModel, ProbeSpeed};

/// The machine and its peak.
pub(super) fn head(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "{} ({}), {}, {}, fathom {}, {}\n\
         peak by multiply-adds on registers alone: {:.0} GFLOP/s in f32, {:.0} in bf16\n\
         times: {}\n",
        machine.processor,
        some(machine.cores, "core"),
        some(report.threads, "thread"),
        report.instructions,
        report.fathom,
        report.date,
        report.peak_gflops.f32,
        report.peak_gflops.bf16,
        report.statistic,
    )
}

/// The columns of the kernels.
pub(super) fn kernel_head() -> String {
    format!(
        "\nlinear layers of K inputs and N outputs on M rows, weights from memory\n\
         {:<9} {:<5} {:>8} {:>6} {:>6} {:>4} {:>9} {:>8} {:>8}  layer\n",
        "kernel", "dtype", "B/weight", "K", "N", "M", "GFLOP/s", "of peak", "GB/s"
    )
}

/// A line of a kernel.
pub(super) fn kernel(k: &Kernel) -> String {
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

/// The way through a prompt, and the columns of the probes.
pub(super) fn model_head(m: &OfModel) -> String {
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

/// So many of something.
fn some(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A line of a probe.
pub(super) fn probe(p: &ProbeSpeed) -> String {
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
