//! Layer skip: properties, and its definition on full forward passes.

use crate::support::{
    PLENTY, clean_added, clean_logits, close, everywhere, gap, logits, norm, output_gap, skipping,
};
use fathom_model::{Model, Trace};
use fathom_probes::planner::Site;
use fathom_probes::skip::measure;
use fathom_probes::{ExecOptions, MemoryPlan};
use fathom_results::{SkipEffects, SkipMode, SkipPart};
use std::ops::Range;

const PARTS: [(SkipPart, Site); 3] =
    [(SkipPart::Layer, Site::Layer), (SkipPart::Attn, Site::Attn), (SkipPart::Mlp, Site::Mlp)];

/// The effects by their definition, from full passes that skip a part of each layer at positions from 1
/// to each of the ends.
fn defined(model: &Model, trace: &Trace, site: Site, spans: &[(Range<usize>, Range<usize>)]) -> SkipEffects {
    let depth = model.config().depth();
    let mut layer_effect = vec![vec![0.0f64; depth]; depth];
    let mut output_effect = vec![0.0f64; depth];
    for (skipped, worst) in layer_effect.iter_mut().enumerate() {
        for (edited, read) in spans {
            let (added, last) = skipping(model, trace, (site, skipped), edited.clone());
            for position in read.clone() {
                for layer in skipped..depth {
                    let clean = clean_added(trace, layer, position);
                    let row = &added[layer][position * trace.hidden..(position + 1) * trace.hidden];
                    worst[layer] = worst[layer].max(gap(&clean, row) / norm(&clean).max(1e-6));
                }
                let clean = clean_logits(model, trace, position);
                let moved = output_gap(&clean, &logits(model, &last, position));
                output_effect[skipped] = output_effect[skipped].max(moved);
            }
        }
    }
    SkipEffects { layer_effect, output_effect: Some(output_effect) }
}

#[track_caller]
fn agree(what: &str, got: &SkipEffects, want: &SkipEffects) {
    let pairs = got.layer_effect.iter().flatten().zip(want.layer_effect.iter().flatten());
    pairs.for_each(|(got, want)| close(what, *got, *want));
    let (got, want) = (got.output_effect.as_ref().unwrap(), want.output_effect.as_ref().unwrap());
    got.iter().zip(want).for_each(|(got, want)| close(what, *got, *want));
}

#[test]
fn future_equals_full_passes() {
    everywhere(41, |name, model, trace| {
        for (part, site) in PARTS {
            let positions = [16, 8, 32, 2, 40];
            let (got, _) =
                measure(model, trace, SkipMode::Future, part, &positions, &ExecOptions::planned(PLENTY));
            let spans = positions.map(|t| (1..t, t..41));
            agree(&format!("{name}, {part:?}"), &got, &defined(model, trace, site, &spans));
        }
    });
}

#[test]
fn current_equals_full_passes() {
    everywhere(41, |name, model, trace| {
        for (part, site) in PARTS {
            let (got, _) = measure(model, trace, SkipMode::Current, part, &[], &ExecOptions::planned(PLENTY));
            agree(&format!("{name}, {part:?}"), &got, &defined(model, trace, site, &[(1..41, 1..41)]));
        }
    });
}

#[test]
fn future_only_affects_later_layers() {
    everywhere(41, |name, model, trace| {
        let (got, _) =
            measure(model, trace, SkipMode::Future, SkipPart::Layer, &[8, 24], &ExecOptions::planned(PLENTY));
        let last = model.config().depth() - 1;
        // Through keys and values that are made after layer `s`.
        let c = model.config();
        let carries = |s: usize, last: usize| (s + 1..=last).any(|l| c.has_mixer(l) && c.keys_of(l) > s);
        for (s, effect) in got.layer_effect.iter().enumerate() {
            assert!(effect[..=s].iter().all(|e| *e == 0.0), "{name}: layer {s} acts on {effect:?}");
            for (l, effect) in effect.iter().enumerate().skip(s + 1) {
                assert_eq!(*effect > 0.0, carries(s, l), "{name}: layer {s} acts on {l} by {effect}");
            }
        }
        // No later layer can carry the change of the last one to later positions.
        let output = got.output_effect.unwrap();
        assert_eq!(output[last], 0.0, "{name}");
        for (s, effect) in output.iter().enumerate() {
            assert_eq!(*effect > 0.0, carries(s, last), "{name}: {output:?}");
        }
    });
}

#[test]
fn a_skipped_layer_loses_its_whole_contribution() {
    everywhere(41, |name, model, trace| {
        let (got, _) =
            measure(model, trace, SkipMode::Current, SkipPart::Layer, &[], &ExecOptions::planned(PLENTY));
        for (s, effect) in got.layer_effect.iter().enumerate() {
            assert!((effect[s] - 1.0).abs() < 1e-6, "{name}: layer {s} acts on itself by {}", effect[s]);
            assert!(effect[..s].iter().all(|e| *e == 0.0), "{name}: layer {s} acts on {effect:?}");
        }
        assert!(got.output_effect.unwrap().iter().all(|e| *e > 0.0), "{name}");
    });
}

#[test]
fn batch_size_changes_no_bit() {
    everywhere(41, |name, model, trace| {
        for mode in [SkipMode::Future, SkipMode::Current, SkipMode::Local] {
            let of = |rows, bytes| {
                measure(
                    model,
                    trace,
                    mode,
                    SkipPart::Attn,
                    &[8, 16, 24],
                    &ExecOptions::planned(MemoryPlan { rows, bytes, ..PLENTY }),
                )
                .0
            };
            let want = of(1 << 20, 1 << 28);
            for (rows, logits) in [(1, 1), (60, 5000), (200, 1 << 28)] {
                assert_eq!(of(rows, logits), want, "{name}, {mode:?}, {rows} rows");
            }
        }
    });
}
