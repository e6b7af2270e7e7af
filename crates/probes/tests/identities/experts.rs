//! Single experts, whose sum is what the mixture adds.

use crate::support::{
    close, folder, load, mean, norm, on_every_architecture, options, product, rows, run, tokens,
};
use crate::support::{text, watch};
use fathom_model::{Buffers, Model, Trace};
use fathom_probes::{Observer, Probe, experts, measure, summarise};
use safetensors::SafeTensors;

/// The weight, zero or not, and the contribution of each expert of layer `l` to each token, `[T][E]` of `[d]`; the shared
/// one is the last.
fn by_token(model: &Model, trace: &Trace, l: usize) -> Vec<Vec<(f64, Vec<f64>)>> {
    let (about, d) = (model.config().experts().unwrap(), trace.hidden);
    let mut input = trace.resid[l].to_vec();
    input.iter_mut().zip(trace.attn_out[l].iter()).for_each(|(h, a)| *h += a);
    let parts = model.expert_parts(l, &input.into(), &mut Buffers::new(model));
    let none = vec![(0.0, vec![0.0; d]); about.count + usize::from(about.shared > 0)];
    let mut all = vec![none; trace.tokens.len()];
    for part in parts {
        for (i, (row, output)) in part.rows.iter().zip(rows(&part.output, d)).enumerate() {
            let weight = part.weights.as_ref().map_or(1.0, |weights| f64::from(weights[i]));
            all[*row as usize][part.expert.unwrap_or(about.count)] = (weight, output);
        }
    }
    all
}

fn layers_with_experts(model: &Model) -> Vec<usize> {
    let layers = model.config().layers.iter().enumerate();
    layers.filter(|(_, layer)| layer.mlp.experts().is_some()).map(|(l, _)| l).collect()
}

#[test]
fn experts_add_up_to_the_mixture_and_are_those_of_the_routes() {
    on_every_architecture(|name, model, trace| {
        for l in layers_with_experts(model) {
            let routes = trace.routes[l].as_ref().unwrap();
            let added = rows(&trace.mlp_out[l], trace.hidden);
            for (t, parts) in by_token(model, trace, l).iter().enumerate() {
                let taken = routes.experts[t * routes.active..][..routes.active].iter();
                let weights = routes.weights[t * routes.active..][..routes.active].iter();
                let count = model.config().experts().unwrap().count;
                let found = parts[..count].iter().enumerate().filter(|(_, part)| part.0 > 0.0);
                let found: Vec<(u32, f32)> = found.map(|(e, part)| (e as u32, part.0 as f32)).collect();
                let wanted: Vec<(u32, f32)> =
                    taken.copied().zip(weights.copied()).filter(|(_, w)| *w > 0.0).collect();
                assert_eq!(found, wanted, "{name}, layer {l}, token {t}");
                if !model.config().post_norm {
                    let factor = f64::from(model.config().residual_scale);
                    let size = norm(&added[t]);
                    for (i, want) in added[t].iter().enumerate() {
                        let sum: f64 = parts.iter().map(|part| part.1[i]).sum();
                        close(name, factor * sum, *want, 0.0, 1e-5 * size);
                    }
                }
            }
        }
    });
}

#[test]
fn experts_agree_with_the_definitions() {
    on_every_architecture(|name, model, trace| {
        let layers = layers_with_experts(model);
        if layers.is_empty() {
            return;
        }
        let got = experts::measure(model, trace);
        let about = model.config().experts().unwrap();
        assert_eq!((&got.layers, got.routed(), got.active), (&layers, about.count, about.active), "{name}");
        assert!(got.left_out.is_empty());
        for (i, &l) in layers.iter().enumerate() {
            let all = by_token(model, trace, l);
            let sums: Vec<Vec<f64>> = all
                .iter()
                .map(|parts| (0..trace.hidden).map(|k| parts.iter().map(|part| part.1[k]).sum()).collect())
                .collect();
            assert_eq!(got.tokens[i][..about.count].iter().sum::<usize>(), about.active * trace.tokens.len());
            close(name, got.share[i].iter().sum(), 1.0, 0.0, 1e-4);
            for e in 0..all[0].len() {
                let at = format!("{name}, layer {l}, expert {e}");
                // By the weight: without a gate an expert may add exactly nothing.
                let taking = || all.iter().zip(&sums).filter(|(parts, _)| parts[e].0 != 0.0);
                assert_eq!(got.tokens[i][e], taking().count(), "{at}");
                let share = all.iter().zip(&sums).map(|(parts, s)| product(&parts[e].1, s) / product(s, s));
                close(&at, got.share[i][e], mean(share), 1e-4, 1e-7);
                if taking().count() == 0 {
                    assert!(got.weight[i][e].is_nan() && got.relative_norm[i][e].is_nan(), "{at}");
                    continue;
                }
                close(&at, got.weight[i][e], mean(taking().map(|(parts, _)| parts[e].0)), 1e-4, 0.0);
                let sizes = taking().map(|(parts, s)| norm(&parts[e].1) / norm(s));
                close(&at, got.relative_norm[i][e], mean(sizes), 1e-4, 0.0);
            }
        }
    });
}

/// The weights of the file, multiplied here.
#[test]
fn an_expert_is_that_of_the_checkpoint() {
    let model = load("mixtral");
    let trace = run(&model, &tokens(12, 4));
    let bytes = std::fs::read(folder("mixtral").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let matrix = |name: &str, width: usize| {
        let data = file.tensor(&format!("model.layers.1.{name}.weight")).unwrap().data();
        let floats: Vec<f32> = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        rows(&floats, width)
    };
    let (d, width) = (16, 24);
    let scale = matrix("post_attention_layernorm", d).concat();
    let parts = by_token(&model, &trace, 1);
    for (t, (h, a)) in rows(&trace.resid[1], d).iter().zip(rows(&trace.attn_out[1], d)).enumerate() {
        let mid: Vec<f64> = h.iter().zip(a).map(|(h, a)| h + a).collect();
        let size = (product(&mid, &mid) / d as f64 + 0.0003).sqrt();
        let input: Vec<f64> = mid.iter().zip(&scale).map(|(x, s)| x / size * s).collect();
        for (e, (weight, output)) in parts[t].iter().enumerate() {
            let of = |name: &str, width| matrix(&format!("block_sparse_moe.experts.{e}.{name}"), width);
            let inner = of("w1", d).into_iter().zip(of("w3", d)).map(|(gate, up)| {
                let gate = product(&gate, &input);
                gate / (1.0 + (-gate).exp()) * product(&up, &input)
            });
            let inner: Vec<f64> = inner.collect();
            for (row, got) in of("w2", width).iter().zip(output) {
                close(&format!("token {t}, expert {e}"), *got, weight * product(row, &inner), 1e-4, 1e-6);
            }
        }
    }
}

#[test]
fn samples_and_results_have_experts_when_asked() {
    let model = load("qwen2_moe");
    let texts = [text("a", tokens(30, 1)), text("b", tokens(7, 2))];
    let mut samples = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        Ok::<_, std::fmt::Error>(())
    };
    let observer: Observer<'_> = watch(&|| false);
    measure(&model, &texts, &options(&[Probe::Experts]), observer, &mut keep).unwrap();
    assert!(samples.iter().all(|s| s.contributions.is_none() && s.has(Probe::Experts)));
    let all = summarise(&samples, model.config().depth()).experts.unwrap();
    assert!(all.shared && all.tokens.iter().all(|row| *row.last().unwrap() == 37));
    for row in &all.share {
        close("shares", row.iter().sum(), 1.0, 0.0, 1e-4);
    }
}
