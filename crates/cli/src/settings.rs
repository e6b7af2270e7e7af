//! From arguments to what is measured, and within what memory.

use crate::args::{BaselineArg, Measure, ModeArg, PartArg, SiteArg};
use anyhow::{Result, anyhow};
use bytesize::ByteSize;
use fathom_model::Model;
use fathom_probes::{Pair, Probe, Settings, Text, gradients, skip};

/// The part of the machine's memory that may be used beside the weights.
const SHARE: u64 = 5;

/// What is measured.
pub(crate) fn settings(args: &Measure) -> Settings {
    let memory = args.memory.map_or_else(default_memory, |m| m.as_u64());
    Settings {
        probes: args.probes.0.clone(),
        memory,
        naive: args.naive,
        longest_text: 0,
        longest_pair: 0,
        skip: skip::Settings {
            modes: each(&args.causal.skip_modes).map(mode).collect(),
            parts: each(&args.causal.skip_parts).map(part).collect(),
        },
        gradients: gradients::Settings {
            sites: each(&args.causal.sites).map(site).collect(),
            baseline: match args.causal.baseline {
                BaselineArg::Sequence => gradients::Baseline::Sequence,
                BaselineArg::Feature => gradients::Baseline::Feature,
            },
            quadrature: args.causal.quadrature,
        },
    }
}

/// The settings for some of the probes.
pub(crate) fn only(settings: &Settings, probes: Vec<Probe>) -> Settings {
    Settings { probes, ..settings.clone() }
}

/// Each value once, in the order of the type.
fn each<T: Copy + Ord>(values: &[T]) -> impl Iterator<Item = T> + use<T> {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    values.into_iter()
}

fn mode(arg: ModeArg) -> skip::Mode {
    match arg {
        ModeArg::Future => skip::Mode::Future,
        ModeArg::Current => skip::Mode::Current,
        ModeArg::Local => skip::Mode::Local,
    }
}

fn part(arg: PartArg) -> skip::Part {
    match arg {
        PartArg::Layer => skip::Part::Layer,
        PartArg::Attn => skip::Part::Attn,
        PartArg::Mlp => skip::Part::Mlp,
    }
}

fn site(arg: SiteArg) -> gradients::Site {
    match arg {
        SiteArg::Resid => gradients::Site::Resid,
        SiteArg::Attn => gradients::Site::Attn,
        SiteArg::Mlp => gradients::Site::Mlp,
    }
}

/// A fifth of the memory of the machine, or of the container in which this runs.
pub(crate) fn default_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let contained = system.cgroup_limits().map(|limits| limits.total_memory);
    contained.unwrap_or(u64::MAX).min(system.total_memory()) / SHARE
}

/// Refuses texts that do not fit into the memory, before anything is measured.
pub(crate) fn check_memory(model: &Model, texts: &[Text], pairs: &[Pair], settings: &Settings) -> Result<()> {
    let fits = fathom_probes::limits(model, texts, pairs, settings);
    fits.map(|_| ()).map_err(|e| {
        anyhow!(
            "the longest text has {} tokens and needs {} of working memory beside the weights, but {} may be used; \
             give --memory {} or shorten the text",
            e.tokens,
            ByteSize(e.needed).display().iec(),
            ByteSize(settings.memory).display().iec(),
            mebibytes(e.needed),
        )
    })
}

/// A size in whole mebibytes, rounded up, as `--memory` reads it.
fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}
