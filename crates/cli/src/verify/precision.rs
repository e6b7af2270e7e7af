//! bfloat16 against f32: how far the same model's curves and depths are apart.

use crate::args::{DtypeArg, ModelArgs, Verify};
use crate::texts::{self, Tokeniser};
use crate::{interrupt, measure, output, progress, prompts, settings};
use anyhow::{Result, bail};
use fathom_data::Options;
use fathom_depth::Depth;
use fathom_probes::{Probe, Sample, Settings, Watch};
use fathom_study::curves::{Curve, rows_of};
use fathom_study::{PromptCurves, Settings as Uncertainty};
use std::convert::Infallible;
use std::fmt::Write;

/// How far a rule's depth may move, in layers.
const LAYERS: f64 = 1.0;

/// Probes that need no run but the clean one.
const PROBES: [Probe; 4] = [Probe::Contributions, Probe::Lens, Probe::Similarity, Probe::Settling];

pub(super) fn run(args: &Verify) -> Result<()> {
    let exact = measured(args, DtypeArg::F32)?;
    let rounded = measured(args, DtypeArg::Bf16)?;
    output::print(&curves(&exact, &rounded))?;
    let depths = depths(&exact, &rounded);
    output::print(&table(&depths))?;
    match depths.iter().filter(|row| !row.agrees()).count() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} rules move by more than {LAYERS} layer in bf16; measure this model in f32",
            depths.len()
        ),
    }
}

/// The curves of the first prompts with the weights kept in one type.
fn measured(args: &Verify, dtype: DtypeArg) -> Result<PromptCurves> {
    let model = ModelArgs { dtype, ..args.model.clone() };
    let (_, checkpoint) = measure::open(&model)?;
    let loaded = measure::load(checkpoint, &model)?;
    let options = Options { limit: Some(args.limit), ..Options::default() };
    let set = prompts::with_hub(&args.data, &options, None)?;
    prompts::note_unread(&set);
    let (config, random) = (loaded.model.config(), options.rng.seeded(options.seed));
    let texts = texts::tokenise(&set, Tokeniser::new(&loaded.tokenizer, config, &set.source, random, 0)?)?;
    let settings = Settings {
        probes: PROBES.to_vec(),
        memory: settings::default_memory(),
        naive: false,
        longest_text: 0,
        longest_pair: 0,
        skip: Default::default(),
        gradients: Default::default(),
    };
    let bar = progress::bar(loaded.model.dtype().name(), texts.len() as u64, "prompts");
    let watch = Watch { stop: &interrupt::stopped, ..Watch::NOBODY };
    let mut samples: Vec<Sample> = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        bar.inc(1);
        Ok::<_, Infallible>(())
    };
    let done = fathom_probes::measure(&loaded.model, &texts, &settings, watch, &mut keep);
    bar.finish_and_clear();
    done?;
    if samples.len() < texts.len() {
        bail!("interrupted; nothing was compared");
    }
    Ok(PromptCurves::of(&samples, loaded.model.config().depth())?)
}

/// How far each curve moves, in shares of its largest value.
fn curves(exact: &PromptCurves, rounded: &PromptCurves) -> String {
    let mut text =
        format!("{:<16}  {:>12}  {:>12}  {:>5}  {:>16}\n", "curve", "f32", "bf16", "layer", "of its largest");
    for curve in Curve::ALL {
        let once = exact.once();
        let (Some(a), Some(b)) = (exact.curve(curve, &once), rounded.curve(curve, &once)) else { continue };
        let largest = a.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let gap = |i: &usize| (a[*i] - b[*i]).abs();
        let Some(worst) = (0..a.len()).max_by(|i, j| gap(i).total_cmp(&gap(j))) else { continue };
        let share = gap(&worst) / largest.max(f64::MIN_POSITIVE);
        let (name, a, b) = (curve.name(), a[worst], b[worst]);
        let _ = writeln!(text, "{name:<16}  {a:>12.5}  {b:>12.5}  {worst:>5}  {share:>16.1e}");
    }
    text
}

/// A rule's depth in both types.
struct Moved {
    exact: Depth,
    rounded: Depth,
}

impl Moved {
    /// By how many layers; nothing where one of them finds no depth.
    fn by(&self) -> Option<f64> {
        Some(self.rounded.value? - self.exact.value?)
    }

    fn agrees(&self) -> bool {
        match (self.exact.value, self.rounded.value) {
            (None, None) => true,
            _ => self.by().is_some_and(|by| by.abs() <= LAYERS),
        }
    }
}

fn depths(exact: &PromptCurves, rounded: &PromptCurves) -> Vec<Moved> {
    // Only the values are compared, so that one resample is more than enough.
    let settings = Uncertainty { resamples: 1, ..Uncertainty::seeded(Options::SEED) };
    let pairs = rows_of(exact, &settings).into_iter().zip(rows_of(rounded, &settings));
    pairs.map(|(exact, rounded)| Moved { exact, rounded }).collect()
}

fn table(depths: &[Moved]) -> String {
    let mut text = format!("\n{:<16}  {:>8}  {:>8}  {:>8}\n", "rule", "f32", "bf16", "moved by");
    let shown = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.2}"));
    for row in depths {
        let verdict = if row.agrees() { "ok" } else { "DIFFERS" };
        let (exact, rounded) = (shown(row.exact.value), shown(row.rounded.value));
        let by = shown(row.by());
        let name = row.exact.rule.name();
        let _ = writeln!(text, "{name:<16}  {exact:>8}  {rounded:>8}  {by:>8}  {verdict}");
    }
    text
}
