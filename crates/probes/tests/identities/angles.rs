//! Angles of the residual stream, and the loss of each level after the last layer.

use crate::support::{
    PLENTY, buffers, close, cosine, exec, load, mean, on_every_architecture, options, part, rows, run, text,
    tokens, watch,
};
use fathom_model::{Model, Trace};
use fathom_probes::{ExecOptions, MemoryPlan, Probe, Sample, angles, lens, measure, summarise};
use fathom_results::AnglesSample;

/// `levels[l][t]` as f64.
fn levels(trace: &Trace) -> Vec<Vec<Vec<f64>>> {
    trace.resid.iter().map(|x| rows(x, trace.hidden)).collect()
}

fn angle(a: &[f64], b: &[f64]) -> f64 {
    cosine(a, b).clamp(-1.0, 1.0).acos()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn measured(model: &Model, trace: &Trace) -> AnglesSample {
    angles::measure(model, trace, &exec(PLENTY))
}

#[test]
fn angles_agree_with_the_definitions() {
    on_every_architecture(|name, model, trace| {
        let (got, h) = (measured(model, trace), levels(trace));
        let (depth, count) = (model.config().depth(), trace.tokens.len());
        let theta = |l: usize, t: usize| angle(&h[l][t], &h[l + 1][t]);
        let over_tokens = |of: &dyn Fn(usize) -> f64| mean((0..count).map(of));
        assert_eq!((got.step.len(), got.to_end.len(), got.updates.len()), (depth, depth, depth - 1));
        assert_eq!((got.left_out, got.updates_left_out), (0, 0));
        for l in 0..depth {
            let at = format!("{name}, layer {l}");
            close(&at, got.step[l], over_tokens(&|t| theta(l, t)), 0.0, 1e-9);
            close(&at, got.to_end[l], over_tokens(&|t| angle(&h[l][t], &h[depth][t])), 0.0, 1e-9);
            for j in l..depth {
                close(&at, got.products[l][j - l], over_tokens(&|t| theta(l, t) * theta(j, t)), 0.0, 1e-9);
            }
            if l + 1 < depth {
                let added = |l: usize, t: usize| difference(&h[l + 1][t], &h[l][t]);
                let want = over_tokens(&|t| angle(&added(l, t), &added(l + 1, t)));
                // Differences of streams are rounded to f32.
                close(&at, got.updates[l], want, 0.0, 1e-5);
            }
        }
        for (t, centre) in got.centre.iter().enumerate() {
            let (sum, weighted) = (0..depth)
                .map(|l| (theta(l, t), l as f64 * theta(l, t)))
                .fold((0.0, 0.0), |s, x| (s.0 + x.0, s.1 + x.1));
            close(name, *centre, weighted / sum, 0.0, 1e-9);
        }
    });
}

/// The last layer is applied level by level here, and to all levels in one batch there.
#[test]
fn every_level_goes_through_the_last_layer() {
    on_every_architecture(|name, model, trace| {
        let (got, depth) = (measured(model, trace), model.config().depth());
        assert_eq!(got.last_layer_nll.len(), depth);
        for (l, loss) in got.last_layer_nll.iter().enumerate() {
            let one = model.run(&[&trace.tokens]).unwrap().remove(0);
            let run = fathom_kernels::backend::Run {
                rows: 0..trace.tokens.len(),
                first: 0,
                length: trace.tokens.len(),
                past: vec![],
            };
            let mut out = fathom_kernels::Buffer::default();
            let batch = model.batch(vec![run]);
            let mut b = buffers(model, &one, depth - 1);
            model.layer(depth - 1, &batch, &one.resid[l], &mut b, &mut out);
            let mut edited = one;
            *edited.resid.last_mut().unwrap() = out;
            let want = mean(lens::negative_log_likelihoods(model, &edited, PLENTY));
            assert_eq!(loss.to_bits(), want.to_bits(), "{name}, level {l}: {loss} {want}");
        }
        let own = mean(lens::negative_log_likelihoods(model, trace, PLENTY));
        close(name, got.last_layer_nll[depth - 1], own, 0.0, 1e-12);
    });
}

#[test]
fn neither_batches_nor_memory_change_a_bit() {
    let model = load("gemma3");
    let trace = run(&model, &tokens(45, 3));
    let small = MemoryPlan { clean: 1, rows: 1, bytes: 1, saved: 1 };
    assert_eq!(angles::measure(&model, &trace, &ExecOptions::planned(small)), measured(&model, &trace));
}

#[test]
fn a_text_of_one_token_has_no_loss_and_its_angles() {
    let model = load("llama2");
    let trace = run(&model, &[5]);
    let got = measured(&model, &trace);
    assert!(got.last_layer_nll.is_empty() && got.step.iter().all(|x| x.is_finite()));
    let whole = run(&model, &tokens(9, 1));
    let first = measured(&model, &part(&whole, 0..1));
    assert_eq!(first.centre.len(), 1);
}

#[test]
fn zero_streams_and_updates_are_left_out() {
    let model = load("llama3");
    let mut trace = run(&model, &tokens(12, 2));
    let (d, depth) = (trace.hidden, model.config().depth());
    // Token 3 has no stream at level 1; to token 5 layer 0 adds nothing.
    let mut level = trace.resid[1].to_vec();
    level[3 * d..4 * d].fill(0.0);
    level[5 * d..6 * d].copy_from_slice(&trace.resid[0][5 * d..6 * d]);
    trace.resid[1] = level.into();
    let got = measured(&model, &trace);
    assert_eq!((got.left_out, got.updates_left_out), (1, 2));
    assert!(got.centre[3].is_nan() && got.centre[5].is_finite());
    let h = levels(&trace);
    let others = (0..12).filter(|t| *t != 3);
    close("llama3", got.step[0], mean(others.map(|t| angle(&h[0][t], &h[1][t]))), 0.0, 1e-9);
    assert!(got.step.iter().chain(&got.updates).all(|x| x.is_finite()));
    assert_eq!(got.updates.len(), depth - 1);
}

#[test]
fn all_tokens_have_equal_weight_in_the_summary() {
    let model = load("qwen3");
    let texts = [text("a", tokens(20, 1)), text("b", tokens(7, 2)), text("c", vec![4])];
    let mut samples: Vec<Sample> = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        Ok::<_, std::fmt::Error>(())
    };
    let costs = measure(&model, &texts, &options(&[Probe::Angles]), watch(&|| false), &mut keep).unwrap();
    let plans = fathom_probes::plan(&model, &texts, &options(&[Probe::Angles])).unwrap();
    assert_eq!(costs["angles"].work, plans["angles"].work);
    let all = summarise(&samples, model.config().depth()).angles.unwrap();
    let each: Vec<AnglesSample> = samples.iter().map(|s| s.angles.clone().unwrap()).collect();
    for l in 0..model.config().depth() {
        let want = (20.0 * each[0].step[l] + 7.0 * each[1].step[l] + each[2].step[l]) / 28.0;
        close("step", all.step[l], want, 0.0, 1e-12);
        let want = (19.0 * each[0].last_layer_nll[l] + 6.0 * each[1].last_layer_nll[l]) / 25.0;
        close("loss", all.last_layer_nll[l], want, 0.0, 1e-12);
    }
    assert_eq!(all.centre_by_position.len(), 20);
    close("centre", all.centre_by_position[0], mean(each.iter().map(|s| s.centre[0])), 0.0, 1e-12);
    close("centre", all.centre_by_position[9], each[0].centre[9], 0.0, 1e-12);
    let shares: f64 = all.components.iter().map(|c| c.share).sum();
    assert!(shares > 0.0 && shares < 1.0 + 1e-9 && all.components.is_sorted_by(|a, b| a.share >= b.share));
    // Written and read, samples are the same.
    for sample in &each {
        let text = serde_json::to_string(sample).unwrap();
        assert_eq!(&serde_json::from_str::<AnglesSample>(&text).unwrap(), sample);
    }
}
