//! Multiple choice: the log-likelihood of every choice, and the accuracies. One JSON line a row goes to the standard
//! output; `fixtures/check_lm_eval.py` compares them with lm-evaluation-harness.
//!
//!     cargo run --release -p fathom --example choices -- MODEL ROWS [LIMIT]

#![allow(clippy::print_stdout, clippy::print_stderr)]

use fathom::{ChoiceJob, ChoiceText, Silent, read_choices};
use fathom_hub::Quiet;
use fathom_kernels::Buffer;
use fathom_model::source::{self, Checkpoint};
use fathom_model::{Dtype, Model, Trace};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (name, rows) = arguments.next().zip(arguments.next()).ok_or("give a model and a file of rows")?;
    let limit = arguments.next().map(|limit| limit.parse()).transpose()?;
    let located = source::locate(&name, None, &Quiet)?;
    let loaded = Checkpoint::open(&located.path)?.load(Dtype::F32, &|| ())?;
    let set = read_choices(&rows, limit, &Silent)?;
    let job = ChoiceJob::new(&set, &loaded.tokenizer, loaded.model.config(), &Silent)?;
    let (mut acc, mut acc_norm) = (0, 0);
    for row in &job.rows {
        // The last token of a text is predicted and not read.
        let inputs: Vec<&[u32]> = row.choices.iter().map(|c| &c.tokens[..c.tokens.len() - 1]).collect();
        let traces = loaded.model.run(&inputs)?;
        let found: Vec<(f64, bool)> = row
            .choices
            .iter()
            .zip(&traces)
            .map(|(choice, trace)| log_likelihood(&loaded.model, choice, trace))
            .collect();
        let (sums, greedy): (Vec<f64>, Vec<bool>) = found.into_iter().unzip();
        let score = row.score(&sums);
        acc += usize::from(score.acc);
        acc_norm += usize::from(score.acc_norm);
        let line = serde_json::json!({
            "id": row.id, "log_likelihoods": sums, "greedy": greedy, "acc": score.acc, "acc_norm": score.acc_norm
        });
        println!("{line}");
    }
    let share = |right: usize| right as f64 / job.rows.len() as f64;
    eprintln!("{} rows: acc {:.4}, acc_norm {:.4}", job.rows.len(), share(acc), share(acc_norm));
    Ok(())
}

/// The log-likelihood of a choice, in nats, and whether each of its tokens is the most likely one.
fn log_likelihood(model: &Model, choice: &ChoiceText, trace: &Trace) -> (f64, bool) {
    let (d, vocab) = (trace.hidden, model.config().vocab);
    let (from, tokens) = (choice.continuation.start - 1, &choice.tokens[choice.continuation.clone()]);
    let rows =
        Buffer::from(trace.resid[model.config().depth()][from * d..(from + tokens.len()) * d].to_vec());
    let mut logits = Buffer::default();
    let sum = model.answer(&rows, tokens, &mut logits).iter().sum();
    let most_likely = |row: &[f32], token: u32| row.iter().all(|logit| *logit <= row[token as usize]);
    let greedy = logits.chunks_exact(vocab).zip(tokens).all(|(row, token)| most_likely(row, *token));
    (sum, greedy)
}
