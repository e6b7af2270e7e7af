//! Settling layers and the deep-thinking ratio.

use crate::lens::plain_points;
use crate::support::{PLENTY, close, exec, mean, on_every_architecture};
use fathom_probes::{lens, settling};
use fathom_results::SettlingSample;

/// The first layer whose running minimum is at most half a bit; `None` if a divergence is too close to half
/// a bit to decide.
fn settles(jsd: &[f64]) -> Option<usize> {
    let mut running = f64::INFINITY;
    for (l, d) in jsd.iter().enumerate() {
        if (d - 0.5).abs() < 1e-5 {
            return None;
        }
        running = running.min(*d);
        if running <= 0.5 {
            return Some(l);
        }
    }
    panic!("the divergence of the output from itself is {}", jsd.last().unwrap());
}

#[test]
fn tokens_settle_by_the_reference_divergence() {
    on_every_architecture(|name, model, trace| {
        let depth = model.config().depth();
        let sample = settling::measure(&lens::sweep(model, trace, &exec(PLENTY)));
        let jsd = plain_points(model, trace).into_iter().map(|t| {
            let token: Vec<f64> = t.iter().map(|p| p.divergence.jsd_bits).collect();
            settles(&token)
        });
        let want: Vec<Option<usize>> = jsd.collect();
        assert_eq!(sample.layers.len(), trace.tokens.len(), "{name}");
        for (t, (got, want)) in sample.layers.iter().zip(&want).enumerate() {
            assert_eq!(*got, want.unwrap_or(*got), "{name}, token {t}");
        }
        assert!(want.iter().flatten().count() > 40, "{name}: too many tokens near the threshold");

        let s = settling::summarise(&[&sample], depth);
        // ceil(0.85 L) in integers.
        let deep = (85 * depth).div_ceil(100);
        assert_eq!((s.deep_layer, s.threshold_bits), (deep, 0.5), "{name}");
        let late = sample.layers.iter().map(|l| f64::from(u8::from(*l >= deep)));
        close(name, s.deep_thinking_ratio, mean(late), 0.0, 1e-12);
        close(name, s.mean_settle_layer, mean(sample.layers.iter().map(|l| *l as f64)), 0.0, 1e-12);
        for l in 0..=depth {
            let here = sample.layers.iter().filter(|s| **s == l).count() as u64;
            assert_eq!(s.histogram[l], here, "{name}, layer {l}");
        }
    });
}

#[test]
fn half_a_bit_counts_as_settled() {
    let points = |jsd: &[f64]| -> lens::Points {
        let point = |d: &f64| {
            let mut point = lens::Point::default();
            point.divergence.jsd_bits = *d;
            point
        };
        vec![jsd.iter().map(point).collect()]
    };
    assert_eq!(settling::measure(&points(&[0.7, 0.5, 0.9, 0.0])).layers, [1]);
    assert_eq!(settling::measure(&points(&[0.7, 0.5 + 1e-15, 0.9, 0.0])).layers, [3]);
    assert_eq!(settling::measure(&points(&[0.0, 0.9, 0.9, 0.0])).layers, [0]);
}

#[test]
fn the_deep_layer_is_exact_for_every_depth() {
    for depth in 1..=2000usize {
        let s = settling::summarise(&[&SettlingSample { layers: vec![depth] }], depth);
        assert_eq!(s.deep_layer, (85 * depth).div_ceil(100), "{depth} layers");
    }
}
