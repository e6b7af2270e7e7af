//! Reference values of the causal probes: layer skip, residual erasure, integrated
//! gradients.

use super::file::{Effects, Golden};
use super::row::{EXEC, GoldenRow, Limit};
use crate::Result;
use crate::error::invalid;
use crate::measurement::checked_quadrature;
use fathom_model::source::Loaded;
use fathom_model::{Backend, Trace};
use fathom_probes::erasure::{self, MeanResiduals};
use fathom_probes::{GradientOptions, Targets, gradients, skip};
use fathom_results::{GradientSite, PathBaseline, Quadrature, SkipMode, SkipPart};

/// Two thousandths, or two ten-thousandths for effects below a tenth.
const LIMIT: Limit = Limit::Relative { share: 2e-3, floor: 0.1 };

/// Compares every causal probe that the file has.
pub(super) fn compare<B: Backend>(
    golden: &Golden,
    loaded: &Loaded<B>,
    traces: &[Trace<B>],
    tick: &dyn Fn(&str),
) -> Result<Vec<GoldenRow>> {
    let mut rows = Vec::new();
    for (name, mode, want) in [
        ("skip future", SkipMode::Future, &golden.effects),
        ("skip current", SkipMode::Current, &golden.current),
        ("skip local", SkipMode::Local, &golden.local),
    ] {
        if let Some(want) = want {
            tick(name);
            rows.extend(skips(golden, loaded, traces, name, mode, want)?);
        }
    }
    if let Some(pairs) = &golden.erasure {
        tick("erasure");
        let mut means = MeanResiduals::new(&loaded.model);
        let on = loaded.model.backend();
        traces.iter().for_each(|t| means.add(on, t));
        let means = means.means(on);
        for (i, want) in pairs.iter().enumerate() {
            let trace = run_pair(loaded, &want.tokens, want.alen, "erasure", i)?;
            let (got, _) = erasure::measure(&loaded.model, &trace, want.alen, &means, &EXEC);
            rows.push(GoldenRow::compare(
                format!("erasure of pair {i}"),
                &got.concat(),
                &want.map.concat(),
                LIMIT,
            ));
        }
    }
    for (i, want) in golden.ig.iter().flatten().enumerate() {
        tick("gradients");
        let trace = run_pair(loaded, &want.tokens, want.alen, "gradients", i)?;
        let options = GradientOptions {
            sites: vec![GradientSite::Resid],
            baseline: PathBaseline::Sequence,
            quadrature: checked_quadrature(Quadrature::Riemann(want.steps))?,
        };
        let (got, _) = gradients::measure(
            &loaded.model,
            &trace,
            &Targets::answer(&want.tokens, want.alen),
            &options,
            &EXEC,
        );
        let got = got[0].attribution.concat();
        rows.push(GoldenRow::compare(format!("gradients of pair {i}"), &got, &want.map.concat(), LIMIT));
    }
    Ok(rows)
}

/// The clean run of a pair.
fn run_pair<B: Backend>(
    loaded: &Loaded<B>,
    tokens: &[u32],
    answer: usize,
    what: &str,
    i: usize,
) -> Result<Trace<B>> {
    if tokens.is_empty() || answer + 1 > tokens.len() {
        invalid!("pair {i} of {what} has an answer longer than its text");
    }
    Ok(loaded.model.run(&[tokens])?.remove(0))
}

fn skips<B: Backend>(
    golden: &Golden,
    loaded: &Loaded<B>,
    traces: &[Trace<B>],
    name: &str,
    mode: SkipMode,
    want: &Effects,
) -> Result<Vec<GoldenRow>> {
    let depth = loaded.model.config().depth();
    let mut layer = vec![0.0f64; depth * depth];
    let mut out = vec![0.0f64; depth];
    for (i, trace) in traces.iter().enumerate() {
        let positions = golden.positions.as_ref().and_then(|p| p.get(i));
        let Some(positions) = positions else {
            invalid!("the file has skip effects but no positions for prompt {i}");
        };
        let (effects, _) = skip::measure(&loaded.model, trace, mode, SkipPart::Layer, positions, &EXEC);
        let largest = |all: &mut [f64], new: &[f64]| {
            all.iter_mut().zip(new).for_each(|(a, n)| *a = a.max(*n));
        };
        largest(&mut layer, &effects.layer_effect.concat());
        largest(&mut out, &effects.output_effect.unwrap_or_default());
    }
    let mut rows = vec![GoldenRow::compare(format!("{name}, layers"), &layer, &want.layer.concat(), LIMIT)];
    if mode != SkipMode::Local {
        rows.push(GoldenRow::compare(format!("{name}, output"), &out, &want.out, LIMIT));
    }
    Ok(rows)
}
