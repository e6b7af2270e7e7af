//! Similarity of residual streams at different depths.

use crate::support::{close, cosine, load, mean, on_every_architecture, part, rows, run, tokens};
use fathom_model::Cpu;
use fathom_probes::similarity;
use std::f64::consts::PI;

#[test]
fn every_pair_of_depths_agrees_with_the_definitions() {
    on_every_architecture(|name, model, trace| {
        let depth = model.config().depth();
        let s = similarity::measure(&Cpu, trace);
        let levels: Vec<_> = trace.resid.iter().map(|x| rows(x, trace.hidden)).collect();
        assert_eq!(
            (s.block_influence.len(), s.angular_last.len(), s.angular_mean.len()),
            (depth, depth, depth)
        );
        for n in 1..=depth {
            let lengths = (s.angular_last[n - 1].len(), s.angular_mean[n - 1].len());
            assert_eq!(lengths, (depth + 1 - n, depth + 1 - n), "{name}");
            for l in 0..=depth - n {
                let at = format!("{name}, layer {l}, {n} further");
                let cosines: Vec<f64> =
                    levels[l].iter().zip(&levels[l + n]).map(|(a, b)| cosine(a, b)).collect();
                let angles: Vec<f64> = cosines.iter().map(|c| c.clamp(-1.0, 1.0).acos() / PI).collect();
                close(&at, s.angular_last[n - 1][l], *angles.last().unwrap(), 0.0, 1e-9);
                close(&at, s.angular_mean[n - 1][l], mean(angles), 0.0, 1e-9);
                if n == 1 {
                    close(&at, s.block_influence[l], 1.0 - mean(cosines), 0.0, 1e-12);
                }
            }
        }
    });
}

#[test]
fn distances_are_a_metric() {
    on_every_architecture(|name, _, trace| {
        let s = similarity::measure(&Cpu, trace);
        let rows = || s.angular_last.iter().chain(&s.angular_mean);
        assert!(rows().flatten().all(|d| (0.0..=1.0).contains(d)), "{name}");
        assert!(s.block_influence.iter().all(|b| (0.0..=2.0).contains(b)), "{name}");
        // The triangle inequality.
        for distances in [&s.angular_last, &s.angular_mean] {
            for (n, row) in distances.iter().enumerate() {
                for (l, far) in row.iter().enumerate() {
                    let exec: f64 = distances[0][l..=l + n].iter().sum();
                    assert!(*far <= exec + 1e-9, "{name}, from {l} to {}", l + n + 1);
                }
            }
        }
    });
}

#[test]
fn with_one_token_distance_and_influence_are_equivalent() {
    on_every_architecture(|name, model, _| {
        let s = similarity::measure(&Cpu, &run(model, &[5]));
        assert_eq!(s.angular_last, s.angular_mean, "{name}");
        for (distance, influence) in s.angular_last[0].iter().zip(&s.block_influence) {
            close(name, 1.0 - (PI * distance).cos(), *influence, 0.0, 1e-12);
        }
    });
}

#[test]
fn only_the_last_token_counts_for_angular_last() {
    let model = load("gemma3");
    let whole = run(&model, &tokens(30, 2));
    let last = similarity::measure(&Cpu, &part(&whole, 29..30));
    assert_eq!(similarity::measure(&Cpu, &whole).angular_last, last.angular_mean);
}
