//! Local mode: each later layer alone, on the clean stream minus the skipped contribution.

use crate::support::{PLENTY, buffers, clean_added, close, everywhere, gap, has_part, norm};
use fathom_kernels::Buffer;
use fathom_model::{Model, Run, Trace};
use fathom_probes::ExecOptions;
use fathom_probes::skip::measure;
use fathom_results::{SkipMode, SkipPart};

/// The contribution of the part of layer `s`, `[T, d]`.
fn part_of(trace: &Trace, s: usize, part: SkipPart) -> Vec<f32> {
    match part {
        SkipPart::Layer => (0..trace.tokens.len()).flat_map(|p| clean_added(trace, s, p)).collect(),
        SkipPart::Attn => trace.attn_out[s].to_vec(),
        SkipPart::Mlp => trace.mlp_out[s].to_vec(),
    }
}

/// D of layer `l` alone on a stream, `[T, d]`.
fn alone(model: &Model, trace: &Trace, l: usize, h: &Buffer) -> Vec<f32> {
    let tokens = trace.tokens.len();
    let batch = model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }]);
    let (mut b, mut out) = (buffers(model, trace, l), Buffer::default());
    model.layer(l, &batch, h, &mut b, &mut out);
    b.attn_out.iter().zip(b.mlp_out.iter()).map(|(a, m)| a + m).collect()
}

/// The effect by its definition.
fn defined(model: &Model, trace: &Trace, part: SkipPart, positions: &[usize]) -> Vec<Vec<f64>> {
    let (depth, d, tokens) = (model.config().depth(), trace.hidden, trace.tokens.len());
    let mut effect = vec![vec![0.0f64; depth]; depth];
    for (s, effect) in effect.iter_mut().enumerate() {
        let lost = part_of(trace, s, part);
        for (l, worst) in effect.iter_mut().enumerate().skip(s + 1) {
            for &t in positions {
                let mut h = Buffer::from(trace.resid[l].to_vec());
                h[d..t * d].iter_mut().zip(&lost[d..]).for_each(|(h, lost)| *h -= lost);
                let edited = alone(model, trace, l, &h);
                for j in t..tokens {
                    let clean = clean_added(trace, l, j);
                    *worst = worst.max(gap(&clean, &edited[j * d..(j + 1) * d]) / norm(&clean).max(1e-6));
                }
            }
        }
    }
    effect
}

#[test]
fn each_layer_runs_on_the_stream_without_the_part() {
    everywhere(37, |name, model, trace| {
        for part in [SkipPart::Layer, SkipPart::Attn, SkipPart::Mlp] {
            let positions = [24, 8, 16, 2, 36];
            let (got, _) =
                measure(model, trace, SkipMode::Local, part, &positions, &ExecOptions::planned(PLENTY));
            assert_eq!(got.output_effect, None, "{name}");
            let want = defined(model, trace, part, &positions);
            for (s, (got, want)) in got.layer_effect.iter().zip(&want).enumerate() {
                assert!(got[..=s].iter().all(|e| *e == 0.0), "{name}: layer {s} acts on {got:?}");
                for (l, effect) in got.iter().enumerate().skip(s + 1) {
                    // Only what mixes positions carries a change to later ones, and keys of other layers are clean.
                    let mixes = model.config().has_mixer(l) && model.config().keys_of(l) == l;
                    let acts = has_part(model, s, part) && mixes;
                    assert_eq!(*effect > 0.0, acts, "{name}: {part:?} of layer {s} acts on {got:?}");
                }
                let pairs = got.iter().zip(want);
                pairs.for_each(|(got, want)| close(&format!("{name}, {part:?}, layer {s}"), *got, *want));
            }
        }
    });
}
