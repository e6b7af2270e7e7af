//! The logit lens: definitions, batches and the last level.

use crate::support::{
    PLENTY, close, exec, load, log_softmax, mean, on_every_architecture, part, run, tokens,
};
use fathom_kernels::Buffer;
use fathom_kernels::distribution::{Divergence, Softmax};
use fathom_model::Backend as _;
use fathom_model::{Model, Trace};
use fathom_probes::lens::{self, Point};
use fathom_probes::{ExecOptions, LensMaps, LevelMap};
use fathom_results::LensCurves;

/// The lens of one row of the stream against another, by definition.
pub(crate) struct Plain {
    pub(crate) divergence: Divergence,
    common: usize,
    agrees: bool,
}

/// Token ids by descending logit; among equals the lower id first.
fn ranking(logits: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    order
}

/// Logits of one row of the stream, computed alone.
pub(crate) fn logits(model: &Model, row: &[f32]) -> Vec<f64> {
    let mut logits = Buffer::default();
    model.head(&row.to_vec().into(), &mut logits);
    logits.iter().map(|x| f64::from(*x)).collect()
}

fn plain(lens: &[f64], output: &[f64]) -> Plain {
    let (log_p, log_q) = (log_softmax(lens), log_softmax(output));
    let log_m: Vec<f64> = log_p.iter().zip(&log_q).map(|(p, q)| ((p.exp() + q.exp()) / 2.0).ln()).collect();
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let (mine, best) = (ranking(lens), ranking(output));
    Plain {
        divergence: Divergence {
            kl: kl(&log_p, &log_q),
            kl_reverse: kl(&log_q, &log_p),
            jsd_bits: (kl(&log_p, &log_m) + kl(&log_q, &log_m)) / 2.0 / 2f64.ln(),
            entropy: -log_p.iter().map(|p| p.exp() * p).sum::<f64>(),
        },
        common: mine[..5].iter().filter(|t| best[..5].contains(t)).count(),
        agrees: mine[0] == best[0],
    }
}

/// The whole lens, `[T][L + 1]`.
pub(crate) fn plain_points(model: &Model, trace: &Trace) -> Vec<Vec<Plain>> {
    let at = |level: &[f32], t: usize| logits(model, &level[t * trace.hidden..(t + 1) * trace.hidden]);
    (0..trace.tokens.len())
        .map(|t| {
            let output = at(trace.resid.last().unwrap(), t);
            trace.resid.iter().map(|level| plain(&at(level, t), &output)).collect()
        })
        .collect()
}

/// Terms over the vocabulary are `f32`, which leaves errors of a few millionths if large logits give a small
/// entropy or divergence.
#[track_caller]
fn same(what: &str, got: f64, want: f64) {
    close(what, got, want, 1e-5, 2e-6);
}

#[track_caller]
fn check_point(at: &str, got: &Point, want: &Plain) {
    let (g, w) = (&got.divergence, &want.divergence);
    same(&format!("{at}: KL(p_l || p)"), g.kl, w.kl);
    same(&format!("{at}: KL(p || p_l)"), g.kl_reverse, w.kl_reverse);
    same(&format!("{at}: JSD"), g.jsd_bits, w.jsd_bits);
    same(&format!("{at}: entropy"), g.entropy, w.entropy);
    assert_eq!((got.common, got.agrees), (want.common, want.agrees), "{at}");
}

#[track_caller]
fn check_curves(at: &str, got: &LensCurves, points: &[Vec<Plain>]) {
    let check = |what: &str, got: &[f64], value: &dyn Fn(&Plain) -> f64| {
        assert_eq!(got.len(), points[0].len(), "{at}: {what}");
        for (l, got) in got.iter().enumerate() {
            same(&format!("{at}, level {l}: mean {what}"), *got, mean(points.iter().map(|t| value(&t[l]))));
        }
    };
    check("KL(p_l || p)", &got.kl_lens_final, &|p| p.divergence.kl);
    check("KL(p || p_l)", &got.kl_final_lens, &|p| p.divergence.kl_reverse);
    check("JSD", &got.jsd_bits, &|p| p.divergence.jsd_bits);
    check("overlap", &got.overlap, &|p| p.common as f64 / 5.0);
    check("agreement", &got.top1_agreement, &|p| f64::from(u8::from(p.agrees)));
    check("entropy", &got.entropy, &|p| p.divergence.entropy);
}

#[test]
fn every_point_agrees_with_the_definitions() {
    on_every_architecture(|name, model, trace| {
        let points = lens::sweep(model, trace, &exec(PLENTY));
        let want = plain_points(model, trace);
        assert_eq!(points.len(), want.len(), "{name}");
        for (t, (points, want)) in points.iter().zip(&want).enumerate() {
            assert_eq!(points.len(), want.len(), "{name}");
            for (l, (point, want)) in points.iter().zip(want).enumerate() {
                check_point(&format!("{name}, token {t}, level {l}"), point, want);
            }
        }
        // The two directions must differ, so that swapping them would be noticed.
        let apart = |p: &Plain| (p.divergence.kl - p.divergence.kl_reverse).abs() > 1e-2;
        assert!(want.iter().any(|t| apart(&t[0])), "{name}: the directions of KL are not told apart");
        check_curves(name, &lens::curves(&points), &want);
    });
}

#[test]
fn the_last_level_is_the_output() {
    on_every_architecture(|name, model, trace| {
        let depth = model.config().depth();
        let points = lens::sweep(model, trace, &exec(PLENTY));
        for (t, token) in points.iter().enumerate() {
            let last = &token[depth];
            let d = &last.divergence;
            assert_eq!((d.kl, d.kl_reverse, d.jsd_bits), (0.0, 0.0, 0.0), "{name}, token {t}");
            assert_eq!((last.common, last.agrees), (5, true), "{name}, token {t}");
        }
        let curves = lens::curves(&points);
        let exact = [&curves.kl_lens_final, &curves.kl_final_lens, &curves.jsd_bits];
        assert!(exact.iter().all(|c| c.len() == depth + 1 && c[depth] == 0.0), "{name}");
        close(name, curves.overlap[depth], 1.0, 0.0, 1e-12);
        close(name, curves.top1_agreement[depth], 1.0, 0.0, 1e-12);
        let output = trace.resid[depth].chunks_exact(trace.hidden);
        let entropy = output.map(|row| {
            let log_p = log_softmax(&logits(model, row));
            -log_p.iter().map(|p| p.exp() * p).sum::<f64>()
        });
        same(&format!("{name}: entropy of the output"), curves.entropy[depth], mean(entropy));
    });
}

#[test]
fn losses_are_those_of_the_tokens_that_follow() {
    on_every_architecture(|name, model, trace| {
        let points = lens::sweep(model, trace, &exec(PLENTY));
        let (last, followed) = points.split_last().unwrap();
        assert!(last.iter().all(|point| point.nll.is_none()), "{name}: nothing follows the last token");
        let mut sums = vec![0.0; trace.resid.len()];
        for (t, token) in followed.iter().enumerate() {
            for (l, point) in token.iter().enumerate() {
                let row = &trace.resid[l][t * trace.hidden..(t + 1) * trace.hidden];
                let want = -log_softmax(&logits(model, row))[trace.tokens[t + 1] as usize];
                same(&format!("{name}, token {t}, level {l}: loss"), point.nll.unwrap(), want);
                sums[l] += point.nll.unwrap();
            }
        }
        let curve = lens::curves(&points).nll;
        assert_eq!(curve.len(), sums.len(), "{name}");
        for (l, (mean, sum)) in curve.iter().zip(&sums).enumerate() {
            close(&format!("{name}, level {l}: mean loss"), *mean, sum / followed.len() as f64, 1e-12, 0.0);
        }
        // At the last level they are the model's own, to the bit.
        let own = lens::negative_log_likelihoods(model, trace, PLENTY);
        let output: Vec<f64> = followed.iter().map(|token| token.last().unwrap().nll.unwrap()).collect();
        assert_eq!(output, own, "{name}");
    });
}

#[test]
fn one_token_has_no_loss() {
    let model = load("qwen3");
    let points = lens::sweep(&model, &run(&model, &tokens(1, 4)), &exec(PLENTY));
    let curves = lens::curves(&points);
    assert_eq!((curves.nll.len(), curves.entropy.len()), (0, model.config().depth() + 1));
}

#[test]
fn memory_changes_no_bit() {
    on_every_architecture(|name, model, trace| {
        let whole = lens::sweep(model, trace, &exec(PLENTY));
        let a_token = trace.resid.len() * model.config().vocab * 4;
        for memory in [0, 1, a_token, 7 * a_token] {
            assert_eq!(lens::sweep(model, trace, &exec(memory)), whole, "{name}, {memory} bytes");
        }
    });
}

#[test]
fn points_keep_the_order_of_tokens_and_levels() {
    let model = load("qwen3");
    let trace = run(&model, &tokens(20, 4));
    let whole = lens::sweep(&model, &trace, &exec(PLENTY));
    for t in [0, 7, 19] {
        let alone = &lens::sweep(&model, &part(&trace, t..t + 1), &exec(PLENTY))[0];
        // Alone, no token follows.
        let want: Vec<Point> = whole[t].iter().map(|point| Point { nll: None, ..*point }).collect();
        assert_eq!(*alone, want);
    }
}

/// Softmax is invariant to a constant added to all logits. Logits of real models may be far from zero, by a
/// different constant at every level.
#[test]
fn logits_far_from_zero_lose_little_precision() {
    let row = |step: f32, shift: f32| -> Vec<f32> {
        (0..4000).map(|i| (i as f32 * step).sin() * 4.0 + shift).collect()
    };
    for shift in [0.0, -100.0, 100.0] {
        let (x, y) = (row(1.37, shift / 3.0), row(1.38, shift));
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let [mut p, mut q] = [vec![], vec![]];
        let got = Softmax::new(&x, &mut p).divergence_from(&Softmax::new(&y, &mut q));
        let want = plain(&wide(&x), &wide(&y)).divergence;
        same("KL(p_l || p)", got.kl, want.kl);
        same("KL(p || p_l)", got.kl_reverse, want.kl_reverse);
        same("JSD", got.jsd_bits, want.jsd_bits);
        same("entropy", got.entropy, want.entropy);
    }
}

/// Weights `[d, d]` of a map, transposed.
fn identity(d: usize) -> Vec<f64> {
    (0..d * d).map(|i| f64::from(u8::from(i % (d + 1) == 0))).collect()
}

#[test]
fn maps_that_change_nothing_are_the_logit_lens_and_the_last_level_has_none() {
    on_every_architecture(|name, model, trace| {
        let d = model.config().hidden;
        let whole = lens::sweep(model, trace, &exec(PLENTY));
        // Not a constant, which a norm of layers takes away.
        let bias = |size: f64| (0..d).map(|i| size * (i % 3) as f64).collect::<Vec<f64>>();
        let map = |weights: &[f64], size: f64| Some(LevelMap::pack(model, weights, &bias(size)).unwrap());
        let depth = model.config().depth();
        let same = LensMaps::new((0..depth).map(|_| map(&identity(d), 0.0)).collect());
        assert_eq!(lens::sweep_through(model, trace, &same, &exec(PLENTY)), whole, "{name}");
        // One level, and a map at the last that must not be used.
        let shifted = |level: usize| (level == 1 || level == depth).then(|| map(&identity(d), 0.5)).flatten();
        let shifted = LensMaps::new((0..=depth).map(shifted).collect());
        let found = lens::sweep_through(model, trace, &shifted, &exec(PLENTY));
        for (found, whole) in found.iter().zip(&whole) {
            assert_eq!(found[0], whole[0], "{name}");
            assert_ne!(found[1], whole[1], "{name}");
            assert_eq!(found[2..], whole[2..], "{name}");
        }
    });
}

#[test]
fn a_sweep_through_maps_is_that_of_mapped_streams_and_is_counted() {
    let model = load("qwen2");
    let (d, depth) = (model.config().hidden, model.config().depth());
    let trace = run(&model, &tokens(9, 4));
    let weights: Vec<f64> =
        (0..d * d).map(|i| identity(d)[i] + ((i * 7 % 23) as f64 - 11.0) / 400.0).collect();
    let bias: Vec<f64> = (0..d).map(|i| (i % 5) as f64 / 10.0).collect();
    let maps = LensMaps::new(vec![Some(LevelMap::pack(&model, &weights, &bias).unwrap())]);
    assert_eq!((maps.count(), maps.at(1).is_none()), (1, true));
    let done = std::cell::Cell::new(0);
    let counting = |macs| done.set(done.get() + macs);
    let exec = ExecOptions { on_progress: &counting, ..exec(PLENTY) };
    let found = lens::sweep_through(&model, &trace, &maps, &exec);
    let rows = trace.tokens.len() as u64;
    let head = model.head_macs_per_row() * (depth as u64 + 1);
    assert_eq!(done.get(), rows * (head + (d * d) as u64));
    // The same by hand: the first level mapped, then the logit lens.
    let mut mapped = trace;
    let row = |row: &[f32]| -> Vec<f32> {
        let at = |j: usize| (0..d).map(|k| f64::from(row[k]) * weights[j * d + k]).sum::<f64>() + bias[j];
        (0..d).map(|j| at(j) as f32).collect()
    };
    let rows: Vec<f32> = mapped.resid[0].chunks_exact(d).flat_map(row).collect();
    mapped.resid[0] = model.backend().buffer_of(&rows);
    let wanted = lens::sweep(&model, &mapped, &exec);
    for (found, wanted) in found.iter().zip(&wanted) {
        let (a, b) = (found[0].divergence.kl, wanted[0].divergence.kl);
        assert!((a - b).abs() < 1e-4 * b.max(1.0), "{a} {b}");
        assert_eq!(found[1..], wanted[1..]);
    }
}
