//! Summaries of samples: weights, order, and round trips through files.

use crate::support::{PLENTY, close, exec, load, mean, run, samples, texts};
use fathom_kernels::Buffer;
use fathom_model::{Cpu, Trace};
use fathom_probes::{Sample, contributions, lens, settling, similarity, summarise};
use fathom_results::{LensCurves, MeanMedian, PerToken, ProbeResults};
use serde_json::Value;

/// Compares all numbers in two JSON values of the same shape.
#[track_caller]
fn same_tree(at: &str, a: &Value, b: &Value, relative: f64) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| same_tree(&format!("{at}[{i}]"), a, b, relative));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{at}");
            a.iter().for_each(|(key, a)| same_tree(&format!("{at}.{key}"), a, &b[key], relative));
        }
        (Value::Number(a), Value::Number(b)) => {
            close(at, a.as_f64().unwrap(), b.as_f64().unwrap(), relative, relative);
        }
        _ => panic!("{at}: {a} against {b}"),
    }
}

#[test]
fn order_does_not_matter() {
    for name in ["llama2", "gemma3", "gpt_neox"] {
        let model = load(name);
        let depth = model.config().depth();
        let all = samples(&model, &texts(&[3, 80, 17, 1, 44, 29]));
        let tree = |order: &[usize]| {
            let picked: Vec<Sample> = order.iter().map(|i| all[*i].clone()).collect();
            serde_json::to_value(summarise(&picked, depth)).unwrap()
        };
        let first = tree(&[0, 1, 2, 3, 4, 5]);
        for order in [[5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 3, 4]] {
            same_tree(name, &tree(&order), &first, 1e-12);
        }
    }
}

/// Samples written to JSON and read back give the same bits, so that a resumed run gives the results of an
/// uninterrupted one. This needs the feature `float_roundtrip` of `serde_json` wherever samples are read.
#[test]
fn samples_round_trip() {
    for name in ["llama2", "gemma2", "gpt2"] {
        let model = load(name);
        let all = samples(&model, &texts(&[3, 80, 17, 1, 44]));
        let read: Vec<Sample> =
            all.iter().map(|s| serde_json::from_str(&serde_json::to_string(s).unwrap()).unwrap()).collect();
        assert_eq!(read, all, "{name}");
        let depth = model.config().depth();
        let bits = |s: &[Sample]| serde_json::to_string(&summarise(s, depth)).unwrap();
        assert_eq!(summarise(&read, depth), summarise(&all, depth), "{name}");
        assert_eq!(bits(&read), bits(&all), "{name}");
    }
}

/// The streams of several prompts, concatenated as if they were one.
fn concatenated(traces: &[Trace]) -> Trace {
    let join = |of: fn(&Trace) -> &[Buffer]| -> Vec<Buffer> {
        let level = |l: usize| traces.iter().map(|trace| &of(trace)[l][..]).collect::<Vec<_>>().concat();
        (0..of(&traces[0]).len()).map(|l| level(l).into()).collect()
    };
    Trace {
        tokens: traces.iter().flat_map(|trace| trace.tokens.clone()).collect(),
        hidden: traces[0].hidden,
        resid: join(|trace| &trace.resid),
        attn_out: join(|trace| &trace.attn_out),
        mlp_out: join(|trace| &trace.mlp_out),
        kv_cache: vec![],
        token_inputs: vec![],
        post_norm: vec![],
        routes: vec![],
        without: Default::default(),
    }
}

#[track_caller]
fn check_average(what: &str, got: &MeanMedian, tokens: &PerToken) {
    for (l, row) in tokens.tokens.iter().enumerate() {
        close(&format!("{what}, mean at {l}"), got.mean[l], tokens.mean[l], 1e-12, 1e-12);
        let mut sorted = row.clone();
        sorted.sort_by(f64::total_cmp);
        let (half, odd) = (sorted.len() / 2, sorted.len() % 2 == 1);
        let median = if odd { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
        assert_eq!(got.median[l], median, "{what}, median at {l}");
    }
}

/// All tokens have equal weight: two prompts give the summary of one prompt with the tokens of both.
#[test]
fn all_tokens_have_equal_weight() {
    for (name, lengths) in [("llama3", [5, 40]), ("gemma3", [31, 2]), ("gpt2", [1, 26])] {
        let (model, texts) = (load(name), texts(&lengths));
        let depth = model.config().depth();
        let summary = summarise(&samples(&model, &texts), depth);
        let traces: Vec<Trace> = texts.iter().map(|t| run(&model, &t.tokens)).collect();
        let whole = concatenated(&traces);

        let (got, want) = (summary.contributions.unwrap(), contributions::measure(&Cpu, &whole));
        for (what, got, want) in
            [("norm", &got.relative_norm, &want.relative_norm), ("cosine", &got.cosine, &want.cosine)]
        {
            check_average(&format!("{name} attention {what}"), &got.attn, &want.attn);
            check_average(&format!("{name} MLP {what}"), &got.mlp, &want.mlp);
            check_average(&format!("{name} layer {what}"), &got.layer, &want.layer);
        }

        let mut points = lens::sweep(&model, &whole, &exec(PLENTY));
        // Nothing follows the last token of the first text.
        points[lengths[0] - 1].iter_mut().for_each(|point| point.nll = None);
        let tree = |curves: &LensCurves| serde_json::to_value(curves).unwrap();
        same_tree(name, &tree(&summary.lens.unwrap()), &tree(&lens::curves(&points)), 1e-12);

        let settled = settling::summarise(&[&settling::measure(&points)], depth);
        assert_eq!(summary.settling.unwrap(), settled, "{name}");

        let (got, want) = (summary.similarity.unwrap(), similarity::measure(&Cpu, &whole));
        let of_prompts: Vec<_> = traces.iter().map(|trace| similarity::measure(&Cpu, trace)).collect();
        for l in 0..depth {
            close(name, got.block_influence[l], want.block_influence[l], 0.0, 1e-12);
        }
        for n in 0..depth {
            for l in 0..depth - n {
                close(name, got.angular_mean[n][l], want.angular_mean[n][l], 0.0, 1e-12);
                // One last token per prompt, so prompts have equal weight here.
                let last = mean(of_prompts.iter().map(|s| s.angular_last[n][l]));
                close(name, got.angular_last[n][l], last, 0.0, 1e-12);
            }
        }
    }
}

/// Prompts without a probe do not dilute its summary.
#[test]
fn a_probe_is_summarised_over_the_prompts_that_have_it() {
    let model = load("llama2");
    let depth = model.config().depth();
    let all = samples(&model, &texts(&[20, 9]));
    let mut some = all.clone();
    (some[1].lens, some[1].similarity, some[1].contributions, some[1].settling) = (None, None, None, None);
    assert_eq!(summarise(&some, depth), summarise(&all[..1], depth));
    some.remove(0);
    assert_eq!(summarise(&some, depth), ProbeResults::default());
}
