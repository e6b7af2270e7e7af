//! The model card of an exported model.

use fathom_results::{Candidate, Estimated, PruneMethod, Pruning, TextSet};
use std::fmt::Write;

/// `README.md` in the form of the Hugging Face hub.
pub(super) fn write(results: &Pruning, chosen: &Candidate, command: &[String], layers: usize) -> String {
    let (full, left) = (&results.full, &chosen.measured);
    let ranges: Vec<String> = chosen.removed.iter().map(|[a, b]| format!("{a}..{b}")).collect();
    let kept = layers - chosen.count();
    // Only a model of the hub has an id there.
    let base = match &results.model.revision {
        Some(_) => format!("base_model: {}\n", serde_json::Value::from(results.model.id.as_str())),
        None => String::new(),
    };
    let mut card = format!(
        "---\n{base}tags:\n- pruned\n- fathom\n---\n\n# {} without {} of {layers} layers\n\n\
         Layers {} (half-open ranges, counted from 0) were removed; {kept} of {layers} remain. Nothing was trained by gradient descent.\n",
        one_line(&results.model.id),
        chosen.count(),
        ranges.join(", "),
    );
    if let Some(map) = chosen.replaced {
        let _ = write!(
            card,
            "\nA linear map (ReplaceMe, arXiv 2505.02819) that stands in for the removed block was merged into the down \
             projection of layer {}. The error of what that MLP and the block add together is {:.1} % of its square length (without the map {:.1} %).\n",
            map.layer,
            100.0 * map.error,
            100.0 * map.error_without
        );
    }
    let _ = write!(
        card,
        "\n## What it costs\n\n{}, measured on {} that were not used to choose. Intervals are 95 % bootstrap intervals over texts.\n\n\
         | | whole model | this model |\n|---|---:|---:|\n\
         | loss, nats per token | {} | {} |\n| rise in loss | | {} |\n| perplexity | {:.3} | {:.3} |\n\
         | KL(whole, this), nats per token | | {:.4} |\n| same most likely token | | {:.1} % |\n\
         | parameters | {} | {} |\n| multiply-adds per token | {} | {} |\n",
        how_chosen(chosen.method, &results.calibration),
        one_line(&results.heldout.to_string()),
        shown(&full.nll),
        shown(&left.nll),
        shown(&chosen.nll_increase),
        full.perplexity,
        left.perplexity,
        chosen.kl,
        100.0 * chosen.top1_agreement,
        full.parameters,
        left.parameters,
        full.macs_per_token,
        left.macs_per_token,
    );
    if let (Some(before), Some(after)) = (&full.accuracy, &left.accuracy) {
        let set = results.choices.as_ref().map_or("multiple choice", |c| c.id.as_str());
        let _ = writeln!(
            card,
            "| acc_norm on {} | {} | {} |",
            one_line(set),
            shown(&before.acc_norm),
            shown(&after.acc_norm)
        );
    }
    let command: Vec<String> = command.iter().map(|word| quoted(&one_line(word))).collect();
    let _ = write!(
        card,
        "\n## How it was made\n\nfathom {}, SHA-256 of the texts {} (calibration) and {} (held out):\n\n```\n{}\n```\n",
        env!("CARGO_PKG_VERSION"),
        results.calibration.sha256,
        results.heldout.sha256,
        command.join(" "),
    );
    card
}

/// `Chosen by greedy on prose, 64 texts, 8000 tokens`.
fn how_chosen(method: PruneMethod, calibration: &TextSet) -> String {
    match method {
        PruneMethod::Layers => "Chosen by hand".to_owned(),
        method => format!("Chosen by {} on {}", method.name(), one_line(&calibration.to_string())),
    }
}

fn shown(e: &Estimated) -> String {
    match e.interval {
        Some([low, high]) => format!("{:.4} ({low:.4} to {high:.4})", e.value),
        None => format!("{:.4}", e.value),
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Text from outside, which must not begin lines of its own or end a block of code.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '`', '|'], " ")
}
