//! Negative log-likelihoods of the tokens of a prompt.

use crate::lens::logits;
use crate::support::{ARCHITECTURES, Golden, PLENTY, close, load, log_softmax, on_every_architecture, run};
use fathom_probes::lens::negative_log_likelihoods;

#[test]
fn likelihoods_agree_with_the_output() {
    on_every_architecture(|name, model, trace| {
        let got = negative_log_likelihoods(model, trace, PLENTY);
        assert_eq!(got.len(), trace.tokens.len() - 1, "{name}");
        let output = trace.resid.last().unwrap().chunks_exact(trace.hidden);
        for (t, (row, got)) in output.zip(&got).enumerate() {
            let log_p = log_softmax(&logits(model, row));
            let want = -log_p[trace.tokens[t + 1] as usize];
            close(&format!("{name}, token {}", t + 1), *got, want, 1e-6, 1e-6);
        }
        let a_row = 4 * model.config().vocab;
        for memory in [0, 1, a_row, 3 * a_row, 10 * a_row + 1] {
            assert_eq!(negative_log_likelihoods(model, trace, memory), got, "{name}, {memory} bytes");
        }
    });
}

#[test]
fn likelihoods_agree_with_the_reference() {
    for name in ARCHITECTURES {
        let (model, golden) = (load(name), Golden::open(name, "short"));
        let tokens = golden.tokens();
        let got = negative_log_likelihoods(&model, &run(&model, &tokens), PLENTY);
        for (t, row) in golden.rows("logits")[..tokens.len() - 1].iter().enumerate() {
            let want = -log_softmax(row)[tokens[t + 1] as usize];
            close(&format!("{name}, token {}", t + 1), got[t], want, 1e-4, 1e-4);
        }
    }
}

#[test]
fn a_single_token_has_no_likelihood() {
    let model = load("llama2");
    assert!(negative_log_likelihoods(&model, &run(&model, &[3]), PLENTY).is_empty());
}
