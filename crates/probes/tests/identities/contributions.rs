//! Contributions of sublayers, against the hooks of Fathom's run and of transformers.

use crate::support::{
    ARCHITECTURES, Golden, close, cosine, hook, load, mean, norm, on_every_architecture, run, sum,
};
use fathom_model::{Cpu, Trace};
use fathom_probes::contributions;
use fathom_results::{ContributionsSample, PerToken};

/// The residual streams around one layer, `[T][d]` each.
struct Around {
    pre: Vec<Vec<f64>>,
    attn: Vec<Vec<f64>>,
    mlp: Vec<Vec<f64>>,
    post: Vec<Vec<f64>>,
}

impl Around {
    fn new(hook: impl Fn(&str) -> Vec<Vec<f64>>) -> Self {
        Self {
            pre: hook("hook_resid_pre"),
            attn: hook("hook_attn_out"),
            mlp: hook("hook_mlp_out"),
            post: hook("hook_resid_post"),
        }
    }

    /// Relative norms of attention, MLP and layer, then their cosines, at token `t`.
    /// The layer's contribution is the difference of the streams around it.
    fn values(&self, t: usize) -> [f64; 6] {
        let (h, a, m) = (&self.pre[t], &self.attn[t], &self.mlp[t]);
        let mid = sum(h, a);
        let layer: Vec<f64> = self.post[t].iter().zip(h).map(|(after, h)| after - h).collect();
        [
            norm(a) / norm(h),
            norm(m) / norm(&mid),
            norm(&layer) / norm(h),
            cosine(a, h),
            cosine(m, &mid),
            cosine(&layer, h),
        ]
    }
}

const NAMES: [&str; 6] = ["|a|/|h|", "|m|/|h+a|", "|D|/|h|", "cos(a,h)", "cos(m,h+a)", "cos(D,h)"];

fn quantities(sample: &ContributionsSample) -> [&PerToken; 6] {
    let (n, c) = (&sample.relative_norm, &sample.cosine);
    [&n.attn, &n.mlp, &n.layer, &c.attn, &c.mlp, &c.layer]
}

/// Compares the value of every token and the means with those computed from the streams.
#[track_caller]
fn check(name: &str, sample: &ContributionsSample, layers: &[Around], of_tokens: f64, of_means: f64) {
    for (q, (quantity, what)) in quantities(sample).into_iter().zip(NAMES).enumerate() {
        assert_eq!((quantity.mean.len(), quantity.tokens.len()), (layers.len(), layers.len()), "{name}");
        for (l, around) in layers.iter().enumerate() {
            let at = format!("{name}, layer {l}, {what}");
            let want: Vec<f64> = (0..around.pre.len()).map(|t| around.values(t)[q]).collect();
            let none = |part: &[Vec<f64>]| part.iter().flatten().all(|x| *x == 0.0);
            if none(&around.mlp) && matches!(q, 1 | 4) || none(&around.attn) && matches!(q, 0 | 3) {
                assert!(quantity.mean[l].is_nan() && quantity.tokens[l].is_empty(), "{at}");
                continue;
            }
            assert_eq!(quantity.tokens[l].len(), want.len(), "{at}");
            for (t, (got, want)) in quantity.tokens[l].iter().zip(&want).enumerate() {
                close(&format!("{at}, token {t}"), *got, *want, of_tokens, of_tokens);
            }
            close(&format!("{at}, mean"), quantity.mean[l], mean(want), of_means, of_means);
        }
    }
}

#[test]
fn contributions_agree_with_the_hooks() {
    on_every_architecture(|name, model, trace| {
        let layers: Vec<Around> =
            (0..model.config().depth()).map(|l| Around::new(|h| hook(model, trace, l, h))).collect();
        // Values of tokens have five digits; means have all.
        check(name, &contributions::measure(&Cpu, trace), &layers, 5.1e-5, 2e-6);
    });
}

#[test]
fn contributions_agree_with_the_reference() {
    for name in ARCHITECTURES {
        let (model, golden) = (load(name), Golden::open(name, "short"));
        let trace = run(&model, &golden.tokens());
        let c = model.config();
        let absent = |l: usize, h: &str| match h {
            "hook_mlp_out" => !c.has_mlp(l),
            "hook_attn_out" => !c.has_mixer(l),
            _ => false,
        };
        let zeros = || vec![vec![0.0; trace.hidden]; trace.tokens.len()];
        let around = |l| Around::new(|h| if absent(l, h) { zeros() } else { golden.hook(l, h) });
        let layers: Vec<Around> = (0..model.config().depth()).map(around).collect();
        check(name, &contributions::measure(&Cpu, &trace), &layers, 1e-4, 1e-4);
    }
}

#[test]
fn a_layer_adds_the_sum_of_its_sublayers() {
    on_every_architecture(|name, model, trace| {
        for l in 0..model.config().depth() {
            let around = Around::new(|h| hook(model, trace, l, h));
            for t in 0..trace.tokens.len() {
                let ends = sum(&sum(&around.pre[t], &around.attn[t]), &around.mlp[t]);
                let gap: Vec<f64> = ends.iter().zip(&around.post[t]).map(|(a, b)| a - b).collect();
                assert!(norm(&gap) <= 2e-7 * norm(&ends), "{name}, layer {l}, token {t}");
            }
        }
    });
}

/// The law of cosines relates the cosines and norms of the parts:
/// |h + a|^2 = |h|^2 (1 + r^2 + 2 r cos), and likewise for the next sublayer.
#[test]
fn norms_and_cosines_obey_the_law_of_cosines() {
    on_every_architecture(|name, _, trace| {
        let sample = contributions::measure(&Cpu, trace);
        let (n, c) = (&sample.relative_norm, &sample.cosine);
        let grown = |r: f64, cos: f64| 1.0 + r * r + 2.0 * r * cos;
        for l in 0..n.attn.tokens.len() {
            for t in 0..trace.tokens.len() {
                // A layer without the sublayer adds nothing there.
                let at = |p: &PerToken| p.tokens[l].get(t).copied().unwrap_or(0.0);
                let by_parts = grown(at(&n.attn), at(&c.attn)) * grown(at(&n.mlp), at(&c.mlp));
                let at_once = grown(at(&n.layer), at(&c.layer));
                // Values of five digits; the growth is a sum of up to three such terms.
                let size = 1.0 + at(&n.attn).powi(2) * (1.0 + at(&n.mlp).powi(2)) + at(&n.layer).powi(2);
                close(&format!("{name}, layer {l}, token {t}"), by_parts, at_once, 0.0, 1e-3 * size);
            }
        }
    });
}

#[test]
fn denominators_are_at_least_a_millionth_and_not_zero() {
    let trace = Trace {
        tokens: vec![1, 2],
        hidden: 2,
        resid: vec![vec![1e-7, 0.0, 3.0, 4.0].into(), vec![0.0; 4].into()],
        attn_out: vec![vec![3e-6, 4e-6, -3.0, -4.0].into()],
        mlp_out: vec![vec![0.0, 0.0, 0.0, 2e-6].into()],
        kv_cache: vec![],
        token_inputs: vec![],
        post_norm: vec![],
        routes: vec![],
        without: Default::default(),
    };
    let norms = contributions::measure(&Cpu, &trace).relative_norm;
    assert!(norms.mlp.tokens[0][1].is_nan(), "m over a stream that a has cancelled");
    for (what, got, want) in [
        ("a over next to nothing", norms.attn.tokens[0][0], 5.0),
        ("D over next to nothing", norms.layer.tokens[0][0], 5.0),
        ("nothing over a small stream", norms.mlp.tokens[0][0], 0.0),
        ("a over its opposite", norms.attn.tokens[0][1], 1.0),
    ] {
        close(what, got, want, 1e-6, 0.0);
    }
}
