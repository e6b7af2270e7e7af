//! Integrated gradients: completeness, agreement of the quadrature rules, and a path evaluated only by forward
//! passes, on the fixture of every architecture.

#[path = "../common/mod.rs"]
mod common;

use common::ARCHITECTURES;
use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Dtype, Model, Run, Trace};
use fathom_probes::GradientOptions;
use fathom_probes::Targets;
use fathom_probes::gradients::{measure, plan};
use fathom_probes::{ExecOptions, MemoryPlan, Work};
use fathom_results::{GradientSite, Gradients, PAPER_STEPS, PathBaseline, Quadrature};
use std::path::Path;

const SITES: [GradientSite; 3] = [GradientSite::Resid, GradientSite::Attn, GradientSite::Mlp];
const BASELINES: [PathBaseline; 2] = [PathBaseline::Sequence, PathBaseline::Feature];
const ANSWER: usize = 3;
/// Few rows per batch, so that nodes are split over several batches.
const LIMITS: MemoryPlan = MemoryPlan { clean: 1, rows: 150, bytes: 1 << 24, saved: 1 << 24 };

fn load(path: &Path) -> Model {
    Checkpoint::open(path).unwrap().load(Dtype::F32, &|| ()).unwrap().model
}

fn fixture(name: &str) -> Model {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name))
}

fn trace(model: &Model, tokens: u32) -> Trace {
    let text: Vec<u32> = (0..tokens).map(|i| (i * i * 5 + i * 41 + 3) % 300).collect();
    model.run(&[&text]).unwrap().remove(0)
}

fn gradients(
    model: &Model,
    trace: &Trace,
    site: GradientSite,
    baseline: PathBaseline,
    by: Quadrature,
) -> Gradients {
    let options = GradientOptions { sites: vec![site], baseline, quadrature: by };
    measure(model, trace, &Targets::answer(&trace.tokens, ANSWER), &options, &ExecOptions::planned(LIMITS))
        .0
        .remove(0)
}

/// F with values `base + r (values - base)` at a site, by forward passes.
fn target(
    model: &Model,
    trace: &Trace,
    site: GradientSite,
    layer: usize,
    baseline: PathBaseline,
    r: f64,
) -> f64 {
    let (d, tokens) = (trace.hidden, trace.tokens.len());
    let values = match site {
        GradientSite::Resid => &trace.resid[layer + 1],
        GradientSite::Attn => &trace.attn_out[layer],
        GradientSite::Mlp => &trace.mlp_out[layer],
    };
    let mean = |i: usize| -> f64 {
        match baseline {
            PathBaseline::Sequence => {
                values.iter().skip(i % d).step_by(d).map(|x| f64::from(*x)).sum::<f64>() / tokens as f64
            }
            PathBaseline::Feature => {
                values[i / d * d..][..d].iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64
            }
        }
    };
    let moved: Vec<f32> =
        values.iter().enumerate().map(|(i, x)| (mean(i) + r * (f64::from(*x) - mean(i))) as f32).collect();
    let moved = Buffer::from(moved);
    let sum = |a: &[f32], b: &[f32]| Buffer::from(a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>());
    let mut b = common::buffers(model, trace, layer);
    let mut h = match site {
        GradientSite::Resid => moved,
        GradientSite::Mlp => sum(&trace.resid[layer], &sum(&trace.attn_out[layer], &moved)),
        GradientSite::Attn => {
            let mid = sum(&trace.resid[layer], &moved);
            model.mlp(layer, if model.config().parallel { &trace.resid[layer] } else { &mid }, &mut b);
            sum(&mid, &b.mlp_out)
        }
    };
    let batch = model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }]);
    let mut out = Buffer::default();
    for l in layer + 1..model.config().depth() {
        common::read_tokens(model, trace, l, &mut b);
        model.layer(l, &batch, &h, &mut b, &mut out);
        std::mem::swap(&mut h, &mut out);
    }
    let vocab = model.config().vocab;
    let mut logits = Buffer::default();
    model.head(&h, &mut logits);
    (tokens - ANSWER..tokens)
        .map(|t| {
            let row = &logits[(t - 1) * vocab..t * vocab];
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            f64::from(row[trace.tokens[t] as usize]).exp() / sum
        })
        .sum()
}

fn every(check: impl Fn(&str, &Model, &Trace, GradientSite, PathBaseline)) {
    for name in ARCHITECTURES {
        let model = fixture(name);
        let trace = trace(&model, 31);
        for site in SITES {
            for baseline in BASELINES {
                check(&format!("{name} {site:?} {baseline:?}"), &model, &trace, site, baseline);
            }
        }
    }
}

#[test]
fn attributions_sum_to_the_change_of_the_target() {
    every(|what, model, trace, site, baseline| {
        let found = gradients(model, trace, site, baseline, Quadrature::ADAPTIVE);
        for (l, map) in found.attribution.iter().enumerate() {
            assert_eq!(map.len(), trace.tokens.len());
            assert_eq!(map.last(), Some(&0.0), "{what}: the last token predicts nothing");
            let change =
                target(model, trace, site, l, baseline, 1.0) - target(model, trace, site, l, baseline, 0.0);
            let sum: f64 = map.iter().sum();
            let error = (sum - change).abs() / change.abs().max(1e-6);
            // Where the choice of experts changes, the target jumps, and no gradient sees it.
            assert!(error < 0.015 || jumps(model), "{what}, layer {l}: {sum} against {change}");
            assert!((error - found.completeness_error[l]).abs() < 5e-3, "{what}, layer {l}");
        }
    });
}

/// Whether the target is not continuous: rows take some of the experts.
fn jumps(model: &Model) -> bool {
    model.config().experts().is_some_and(|experts| experts.active < experts.count)
}

#[test]
fn attributions_are_complete_where_every_expert_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mixtral = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/mixtral");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(mixtral.join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(mixtral.join("config.json")).unwrap();
    let all = config.replace(r#""num_experts_per_tok": 2"#, r#""num_experts_per_tok": 4"#);
    std::fs::write(folder.path().join("config.json"), all).unwrap();
    let model = Checkpoint::open(folder.path()).unwrap().load(Dtype::F32, &|| ()).unwrap().model;
    assert!(!jumps(&model) && model.config().experts().unwrap().active == 4);
    check_share("all experts", &model, &trace(&model, 26), ANSWER, 0.08);
}

#[test]
fn the_quadratures_agree() {
    for name in ["llama2", "gemma2", "gpt_neox", "olmo2"] {
        let model = fixture(name);
        let trace = trace(&model, 20);
        for site in SITES {
            let by = |q| gradients(&model, &trace, site, PathBaseline::Sequence, q);
            let fine = by(Quadrature::GaussLegendre(32));
            let adaptive = by(Quadrature::ADAPTIVE);
            // The error of a left sum falls with 1 / steps, so two of them are extrapolated.
            let (few, many) = (by(Quadrature::Riemann(128)), by(Quadrature::Riemann(256)));
            assert_eq!(many.nodes, vec![256; model.config().depth()]);
            for l in 0..model.config().depth() {
                let size = fine.attribution[l].iter().map(|a| a * a).sum::<f64>().sqrt();
                for t in 0..trace.tokens.len() {
                    let want = 2.0 * many.attribution[l][t] - few.attribution[l][t];
                    let gap = (fine.attribution[l][t] - want).abs() / size;
                    assert!(gap < 0.01, "{name} {site:?} layer {l} token {t}: {gap:.1e}");
                    let gap = (adaptive.attribution[l][t] - want).abs() / size;
                    assert!(gap < 0.03, "{name} {site:?} layer {l} token {t}, adaptive: {gap:.1e}");
                }
            }
        }
    }
}

#[test]
fn batch_size_changes_no_bit() {
    let model = fixture("gemma3");
    let trace = trace(&model, 31);
    for quadrature in [Quadrature::Riemann(9), Quadrature::ADAPTIVE] {
        let options = GradientOptions { sites: SITES.to_vec(), baseline: PathBaseline::Sequence, quadrature };
        let with = |exec: ExecOptions<'_>| {
            measure(&model, &trace, &Targets::answer(&trace.tokens, ANSWER), &options, &exec)
        };
        let whole = with(ExecOptions::planned(MemoryPlan {
            clean: 1,
            rows: 1 << 20,
            bytes: 1 << 30,
            saved: 1 << 30,
        }));
        assert_eq!(whole, with(ExecOptions::planned(MemoryPlan { clean: 1, rows: 1, bytes: 1, saved: 1 })));
        assert_eq!(whole, with(ExecOptions { naive: true, ..ExecOptions::planned(LIMITS) }));
    }
}

/// The count of a fixed rule from the rows that run: forward and backward above the cut for each node, and
/// forward once for the baseline.
#[test]
fn the_count_is_that_of_the_rows_that_run() {
    for name in ARCHITECTURES {
        let model = fixture(name);
        let trace = trace(&model, 26);
        let (depth, rows) = (model.config().depth(), 25);
        let head = model.head_macs_per_row() * ANSWER as u64;
        let (steps, parallel) = (7, model.config().parallel);
        let mut want = Work::default();
        for site in SITES {
            for layer in 0..depth {
                let mlp = if site == GradientSite::Attn && !parallel {
                    model.mlp_macs_per_row(layer) * rows
                } else {
                    0
                };
                let layers = |attention: fn(&Model, usize, usize, usize) -> u64| {
                    (layer + 1..depth)
                        .map(|l| {
                            let mixing: u64 =
                                (0..rows as usize).map(|p| attention(&model, l, p, rows as usize)).sum();
                            model.layer_macs_per_row(l) * rows + mixing
                        })
                        .sum::<u64>()
                };
                let (forward, back) = (
                    layers(Model::attention_macs) + mlp + head,
                    layers(Model::attention_backward_macs) + mlp + head,
                );
                want.macs += forward + steps * (forward + back);
                want.runs += steps + 1;
                want.edits += u64::from(PAPER_STEPS);
            }
        }
        let options = GradientOptions {
            sites: SITES.to_vec(),
            baseline: PathBaseline::Sequence,
            quadrature: Quadrature::Riemann(steps as u32),
        };
        let (_, done) = measure(
            &model,
            &trace,
            &Targets::answer(&trace.tokens, ANSWER),
            &options,
            &ExecOptions::planned(LIMITS),
        );
        assert_eq!((done.macs, done.runs, done.edits), (want.macs, want.runs, want.edits), "{name}");
        assert_eq!(
            done,
            plan(&model, trace.tokens.len(), &Targets::answer(&trace.tokens, ANSWER), &options),
            "{name}"
        );
    }
}

/// The completeness error that the adaptive rule must reach.
const COMPLETE: f64 = 0.01;

/// Checks that the adaptive rule takes at most the share `at_most` of the papers' work.
#[track_caller]
fn check_share(what: &str, model: &Model, trace: &Trace, answer: usize, at_most: f64) {
    let (found, work) = measure(
        model,
        trace,
        &Targets::answer(&trace.tokens, answer),
        &GradientOptions::default(),
        &ExecOptions::planned(LIMITS),
    );
    let share = work.macs as f64 / work.macs_naive as f64;
    let worst = found[0].completeness_error.iter().copied().fold(0.0, f64::max);
    assert!(
        share <= at_most && worst <= COMPLETE,
        "{what}: {share:.3} of the work, completeness {worst:.1e}"
    );
}

#[test]
fn a_twelfth_of_the_work_is_enough() {
    for name in ARCHITECTURES {
        let model = fixture(name);
        if !jumps(&model) {
            check_share(name, &model, &trace(&model, 26), ANSWER, 0.08);
        }
    }
}

/// On a real model, whose paths are far rougher than those of a fixture: the target jumps up and down at several
/// points, and every jump is resolved. `FATHOM_TEST_MODEL` names the file of a model such as SmolLM2-135M.
#[test]
fn a_fifth_of_the_work_is_enough_on_a_real_model() {
    let Some(path) = std::env::var_os("FATHOM_TEST_MODEL") else {
        let why = "skipped a_fifth_of_the_work_is_enough_on_a_real_model: FATHOM_TEST_MODEL is not set\n";
        std::io::Write::write_all(&mut std::io::stderr(), why.as_bytes()).unwrap();
        return;
    };
    let loaded = Checkpoint::open(Path::new(&path)).unwrap().load(Dtype::F32, &|| ()).unwrap();
    let encode = |text| loaded.tokenizer.encode(text).unwrap();
    let answer = loaded.tokenizer.encode_bare("138530").unwrap().len();
    let tokens = encode("Give the answer directly: 48213 + 90317 = 138530");
    let trace = loaded.model.run(&[&tokens]).unwrap().remove(0);
    check_share("the real model", &loaded.model, &trace, answer, 0.2);
}

#[test]
fn progress_adds_up_to_the_work() {
    let model = fixture("qwen3");
    let trace = trace(&model, 12);
    let told = std::cell::Cell::new(0);
    let done = |macs| told.set(told.get() + macs);
    let exec = ExecOptions { on_progress: &done, ..ExecOptions::planned(LIMITS) };
    let (_, work) =
        measure(&model, &trace, &Targets::answer(&trace.tokens, ANSWER), &GradientOptions::default(), &exec);
    assert_eq!(told.get(), work.macs);
}

#[test]
fn a_pair_without_an_answer_has_no_attributions() {
    let model = fixture("llama2");
    for (tokens, answer) in [(1, 1), (5, 0)] {
        let trace = trace(&model, tokens);
        let options = GradientOptions { sites: vec![GradientSite::Attn], ..GradientOptions::default() };
        let (found, _) = measure(
            &model,
            &trace,
            &Targets::answer(&trace.tokens, answer),
            &options,
            &ExecOptions::planned(LIMITS),
        );
        assert_eq!(found[0].attribution, vec![vec![0.0; tokens as usize]; model.config().depth()]);
    }
}

#[test]
fn results_round_trip() {
    let model = fixture("llama2");
    let found = gradients(
        &model,
        &trace(&model, 9),
        GradientSite::Mlp,
        PathBaseline::Feature,
        Quadrature::Riemann(8),
    );
    let text = serde_json::to_string(&found).unwrap();
    assert!(text.contains(r#""site":"mlp","baseline":"feature","quadrature":"riemann:8""#), "{text}");
    assert_eq!(serde_json::from_str::<Gradients>(&text).unwrap(), found);
}
