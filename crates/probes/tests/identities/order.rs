//! Layers in another order, against forward passes that follow each order from the embedding.

use crate::support::{
    PLENTY, buffers, close, exec, load, mean, on_every_architecture, options, read_tokens, run, text, tokens,
    watch,
};
use fathom_kernels::Buffer;
use fathom_model::{Model, Run, Trace};
use fathom_probes::order::{Intervention, Replacement, interventions};
use fathom_probes::{ExecOptions, MemoryPlan, Probe, Sample, measure, order, summarise};
use fathom_results::Order;

/// The logits of every position, step by step.
fn logits(model: &Model, trace: &Trace, intervention: Option<&Intervention>) -> Vec<Vec<f64>> {
    let (depth, count) = (model.config().depth(), trace.tokens.len());
    let batch = model.batch(vec![Run { rows: 0..count, first: 0, length: count, past: vec![] }]);
    let mut buffers = buffers(model, trace, 0);
    let mut layer = |l: usize, h: &[f32]| -> Vec<f32> {
        let mut out = Buffer::default();
        read_tokens(model, trace, l, &mut buffers);
        model.layer(l, &batch, &h.to_vec().into(), &mut buffers, &mut out);
        out.to_vec()
    };
    let mut h: Vec<f32> = model.embed(&trace.tokens, 0).unwrap();
    let replaced = intervention.map_or(depth..depth, |i| i.replaced.clone());
    for l in 0..replaced.start {
        h = layer(l, &h);
    }
    match intervention.map(|i| &i.by) {
        Some(Replacement::Sequence(layers)) => layers.iter().for_each(|l| h = layer(*l, &h)),
        Some(Replacement::Parallel(layers)) => {
            let all: Vec<Vec<f32>> = layers.clone().map(|l| layer(l, &h)).collect();
            let at = |i: usize| all.iter().map(|out| f64::from(out[i])).sum::<f64>() / all.len() as f64;
            h = (0..h.len()).map(|i| at(i) as f32).collect();
        }
        None => {}
    }
    for l in replaced.end..depth {
        h = layer(l, &h);
    }
    let mut out = Buffer::default();
    model.head(&h.into(), &mut out);
    out.chunks_exact(model.config().vocab).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - top).exp()).sum();
    logits.iter().map(|x| x - top - sum.ln()).collect()
}

fn best(logits: &[f64]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

#[test]
fn every_order_is_that_of_a_forward_pass_in_it() {
    on_every_architecture(|name, model, trace| {
        let got = order::measure(model, trace, &exec(PLENTY));
        let clean = logits(model, trace, None);
        for ((family, effects), all) in got.families().into_iter().zip(interventions(model.config().depth()))
        {
            assert_eq!((effects.kl.len(), effects.nll.len()), (all.len(), all.len()));
            for (i, intervention) in all.iter().enumerate() {
                let at = format!("{name}, {family} {i}");
                let edited = logits(model, trace, Some(intervention));
                let pairs = || clean.iter().zip(&edited);
                let kl = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
                    let (p, q) = (log_softmax(p), log_softmax(q));
                    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
                };
                close(&at, effects.kl[i], mean(pairs().map(kl)), 2e-4, 1e-6);
                let agrees = pairs().map(|(p, q)| f64::from(u8::from(best(p) == best(q))));
                close(&at, effects.top1_agreement[i], mean(agrees), 0.0, 1e-9);
                let loss = |(t, row): (usize, &Vec<f64>)| {
                    Some(-log_softmax(row)[*trace.tokens.get(t + 1)? as usize])
                };
                let losses: Vec<f64> = edited.iter().enumerate().filter_map(loss).collect();
                close(&at, effects.nll[i], mean(losses), 2e-4, 1e-6);
            }
        }
    });
}

#[test]
fn neither_batches_nor_memory_nor_passes_of_their_own_change_a_bit() {
    for name in ["gemma3", "gpt_neox"] {
        let model = load(name);
        let trace = run(&model, &tokens(45, 3));
        let together = order::measure(&model, &trace, &exec(PLENTY));
        for (rows, naive) in [(1, false), (150, false), (1 << 20, true)] {
            let memory = MemoryPlan { clean: 1, rows, bytes: 1, saved: 1 };
            let exec = ExecOptions { naive, ..ExecOptions::planned(memory) };
            assert_eq!(order::measure(&model, &trace, &exec), together, "{name}, {rows} rows, naive {naive}");
        }
    }
}

#[test]
fn samples_are_combined_by_tokens_and_work_is_what_was_planned() {
    let model = load("gemma3");
    let texts = [text("a", tokens(20, 1)), text("b", tokens(7, 2)), text("c", vec![4])];
    let mut samples: Vec<Sample> = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        Ok::<_, std::fmt::Error>(())
    };
    let done = std::cell::Cell::new(0);
    let observer =
        fathom_probes::Observer { on_progress: &|macs| done.set(done.get() + macs), ..watch(&|| false) };
    let costs = measure(&model, &texts, &options(&[Probe::Order]), observer, &mut keep).unwrap();
    let plans = fathom_probes::plan(&model, &texts, &options(&[Probe::Order])).unwrap();
    let work = costs["order"].work;
    assert_eq!(work, plans["order"].work);
    assert_eq!(done.get(), work.macs + costs["forward"].work.macs);
    assert!(work.macs < work.macs_naive);
    let all = summarise(&samples, model.config().depth()).order.unwrap();
    let each: Vec<Order> = samples.iter().map(|s| s.order.clone().unwrap()).collect();
    assert!(each[2].swap.nll.is_empty());
    for ((_, all), i) in all.families().into_iter().zip(0..) {
        let of = |s: usize| each[s].families()[i].1.clone();
        for k in 0..all.kl.len() {
            let want = (20.0 * of(0).kl[k] + 7.0 * of(1).kl[k] + of(2).kl[k]) / 28.0;
            close("kl", all.kl[k], want, 0.0, 1e-12);
            let want = (19.0 * of(0).nll[k] + 6.0 * of(1).nll[k]) / 25.0;
            close("nll", all.nll[k], want, 0.0, 1e-12);
        }
    }
}
