//! Erasure of tokens: properties, and its definition on full passes.

use crate::support::{
    Action, PLENTY, baseline, close, edit, everywhere, full, output_gap, planned, request, run,
};
use fathom_model::{Cpu, Trace};
use fathom_probes::erasure::{MeanResiduals, measure};
use fathom_probes::planner::{Rows, Site};
use fathom_probes::{ExecOptions, MemoryPlan, predicting};

fn row(trace: &Trace, level: usize, position: usize) -> &[f32] {
    &trace.resid[level][position * trace.hidden..(position + 1) * trace.hidden]
}

#[test]
fn the_effects_equal_those_of_full_passes() {
    everywhere(17, |name, model, trace| {
        let baseline = baseline(model);
        let (got, _) = measure(model, trace, 4, &baseline, &ExecOptions::planned(PLENTY));
        assert_eq!(got.len(), model.config().depth() + 1);
        for (level, got) in got.iter().enumerate() {
            assert_eq!(got.len(), 17);
            for (t, got) in got.iter().enumerate() {
                let action = Action::Replace(Rows::one(&baseline, level));
                let one = request(model, vec![edit(Site::Resid, level, t..t + 1, action)], 12..16);
                let seen = full(model, trace, &[one]);
                let want = seen.logits.values().map(|[clean, edited]| output_gap(clean, edited));
                let what = format!("{name}, level {level}, token {t}");
                close(&what, *got, want.fold(0.0, f64::max));
            }
        }
    });
}

#[test]
fn replacing_a_token_by_itself_has_no_effect() {
    everywhere(20, |name, model, trace| {
        let depth = model.config().depth();
        for t in [0, 1, 7, 15, 18] {
            let own: Vec<&[f32]> = (0..=depth).map(|level| row(trace, level, t)).collect();
            let own = own.concat().into();
            let (effect, _) = measure(model, trace, 5, &own, &ExecOptions::planned(PLENTY));
            for (level, effect) in effect.iter().enumerate() {
                assert_eq!(effect[t], 0.0, "{name}, level {level}, token {t}");
            }
            assert!(effect.iter().flatten().any(|e| *e > 0.0), "{name}");
        }
    });
}

/// At the last level a token only affects its own prediction, and only the head runs.
#[test]
fn the_last_level_only_runs_the_head() {
    everywhere(20, |name, model, trace| {
        let depth = model.config().depth();
        let (effect, _) = measure(model, trace, 5, &baseline(model), &ExecOptions::planned(PLENTY));
        for (t, effect) in effect[depth].iter().enumerate() {
            assert_eq!(*effect > 0.0, (14..19).contains(&t), "{name}, token {t}: {effect}");
        }
        let last = edit(Site::Resid, depth, 3..9, Action::Zero);
        let (seen, macs) = planned(model, trace, &[request(model, vec![last], 3..9)], PLENTY);
        assert!(seen.added.is_empty(), "{name}");
        assert_eq!(macs, 2 * 6 * model.head_macs_per_row(), "{name}");
        let skip = edit(Site::Layer, depth - 1, 3..9, Action::Skip);
        let (seen, macs) = planned(model, trace, &[request(model, vec![skip], 3..9)], PLENTY);
        assert!(seen.added.keys().all(|(_, l, _)| *l == depth - 1), "{name}");
        assert_eq!(macs, 2 * 6 * model.head_macs_per_row(), "{name}");
    });
}

#[test]
fn batch_size_changes_no_bit() {
    everywhere(20, |name, model, trace| {
        let of = |rows, bytes| {
            measure(
                model,
                trace,
                5,
                &baseline(model),
                &ExecOptions::planned(MemoryPlan { rows, bytes, ..PLENTY }),
            )
            .0
        };
        for (rows, logits) in [(1, 1), (33, 5000), (100, 1 << 28)] {
            assert_eq!(of(rows, logits), of(1 << 20, 1 << 28), "{name}, {rows} rows");
        }
    });
}

#[test]
fn predictions_are_one_position_before_the_answer() {
    assert_eq!(predicting(26, 6), 19..25);
    assert_eq!(predicting(2, 1), 0..1);
    assert!(predicting(26, 0).is_empty());
}

#[test]
fn means_are_over_all_tokens_of_all_prompts() {
    everywhere(12, |name, model, trace| {
        let other = run(model, 30);
        let mut means = MeanResiduals::new(model);
        means.add(&Cpu, trace);
        means.add(&Cpu, &other);
        let means = means.means(&Cpu);
        assert_eq!(means.len(), trace.resid.len() * trace.hidden);
        for (level, mean) in means.chunks_exact(trace.hidden).enumerate() {
            for (i, mean) in mean.iter().enumerate() {
                let both = trace.resid[level].iter().chain(other.resid[level].iter());
                let want = both.skip(i).step_by(trace.hidden).map(|x| f64::from(*x)).sum::<f64>() / 42.0;
                assert!((f64::from(*mean) - want).abs() <= 1e-6 * want.abs().max(1e-3), "{name}, {level}");
            }
        }
    });
}
