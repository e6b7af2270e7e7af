//! The rules against the published table of arXiv 2512.14064, from its published curves.

use fathom_depth::{Curves, Rule, Thresholds, depth};
use serde_json::Value;

fn curve(model: &Value, name: &str) -> Vec<f64> {
    serde_json::from_value(model[name].clone()).expect("a curve is a list of numbers")
}

fn models() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("paper.json")).expect("paper.json is JSON");
    file["models"].as_array().expect("models is a list").clone()
}

#[test]
fn the_printed_table_is_reproduced() {
    let mut matches = 0;
    for model in models() {
        let layers = model["layers"].as_u64().unwrap() as usize;
        let (kl, overlap) = (curve(&model, "kl"), curve(&model, "overlap"));
        let curves =
            Curves { layers, kl_lens_final: Some(&kl), overlap: Some(&overlap), ..Curves::default() };
        for rule in [Rule::Kl, Rule::Overlap] {
            let found = depth(rule, &curves, &Thresholds::default());
            assert_eq!(found.value, model[format!("depth_{rule}")].as_f64(), "{} {rule}", model["model"]);
            let printed = model[format!("ratio_{rule}")].as_f64().unwrap();
            let ratio = found.ratio.unwrap();
            assert!(
                (ratio - printed).abs() < 0.0051,
                "{} {rule}: {ratio}, printed {printed}",
                model["model"]
            );
            matches += 1;
        }
    }
    assert_eq!(matches, 24);
}

#[test]
fn the_last_value_of_a_lens_curve_is_ignored() {
    for model in models() {
        let layers = model["layers"].as_u64().unwrap() as usize;
        let (mut kl, mut overlap) = (curve(&model, "kl"), curve(&model, "overlap"));
        let values = |kl: &[f64], overlap: &[f64]| {
            let curves =
                Curves { layers, kl_lens_final: Some(kl), overlap: Some(overlap), ..Curves::default() };
            fathom_depth::all(&curves, &Thresholds::default())
        };
        let without = values(&kl, &overlap);
        assert_eq!(without.len(), 3);
        kl.push(0.0);
        overlap.push(1.0);
        assert_eq!(values(&kl, &overlap), without);
    }
}
