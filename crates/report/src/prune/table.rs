//! What a pruning prints on a terminal.

use super::labels::{Kind, kinds, layers, name_of};
use crate::table::Style;
use crate::table::lines::{Emphasis, Lines};
use crate::text::column;
use fathom_results::text::amount;
use fathom_results::{Candidate, Pruning};

/// The least width of a column of numbers.
const COLUMN: usize = 9;

/// The rise in loss by method and number of units removed, the recommendation, and what it saves.
pub fn summary(pruning: &Pruning, style: Style) -> String {
    let mut lines = Lines::new(style);
    let model = &pruning.model;
    lines.line(Emphasis::Bold, &model.id);
    let parameters = amount(model.parameters);
    lines.line(
        Emphasis::Plain,
        &format!("{}, {} layers, {parameters} parameters, {}", model.architecture, model.layers, model.dtype),
    );
    for (what, set) in [("calibration", &pruning.calibration), ("held out", &pruning.heldout)] {
        lines.line(Emphasis::Plain, &format!("{what}: {set}"));
    }
    let full = &pruning.full;
    lines.line(
        Emphasis::Plain,
        &format!("whole model: {:.4} nats per token, perplexity {:.3}", full.nll.value, full.perplexity),
    );
    lines.line(Emphasis::Plain, "");
    rises(pruning, &mut lines);
    lines.line(Emphasis::Plain, "");
    lines.paragraph(Emphasis::Accent, 0, &pruning.choice.reason);
    if let Some(chosen) = pruning.choice.index.map(|i| &pruning.candidates[i]) {
        lines.paragraph(Emphasis::Plain, 0, &savings(pruning, chosen));
    }
    lines.text
}

/// A row for each number of units removed, a column for each method; the least of a row stands out.
fn rises(pruning: &Pruning, lines: &mut Lines) {
    let kinds = kinds(pruning);
    let mut counts: Vec<usize> = pruning.candidates.iter().map(Candidate::count).collect();
    counts.sort_unstable();
    counts.dedup();
    lines.line(Emphasis::Bold, "rise in loss on held-out text, nats per token");
    let width = |kind: Kind| COLUMN.max(name_of(kind).len() + 2);
    let heads: String = kinds.iter().map(|kind| format!("{:>1$}", name_of(*kind), width(*kind))).collect();
    lines.line(Emphasis::Faint, &format!("{:>7}{heads}   layers of the best", "removed"));
    for count in counts {
        let of_count = || pruning.candidates.iter().filter(|c| c.count() == count);
        let best = of_count()
            .filter(|c| c.nll_increase.value.is_finite())
            .min_by(|a, b| a.nll_increase.value.total_cmp(&b.nll_increase.value));
        let mut pieces = vec![(Emphasis::Plain, format!("{count:>7}"))];
        for kind in &kinds {
            let mut own = of_count().filter(|c| (c.method, c.replaced.is_some()) == *kind);
            let text = own.next().map_or(String::new(), |c| column(c.nll_increase.value));
            let is_best = best.is_some_and(|best| (best.method, best.replaced.is_some()) == *kind);
            let emphasis = if is_best { Emphasis::Accent } else { Emphasis::Plain };
            pieces.push((emphasis, format!("{text:>0$}", width(*kind))));
        }
        let best = best.map_or(String::new(), |best| format!("   {}", layers(&best.removed)));
        pieces.push((Emphasis::Faint, best));
        let pieces: Vec<(Emphasis, &str)> = pieces.iter().map(|(e, text)| (*e, text.as_str())).collect();
        lines.pieces(&pieces);
    }
}

/// What is saved, in a sentence.
fn savings(pruning: &Pruning, chosen: &Candidate) -> String {
    let share = |now: u64, before: u64| 100.0 * (1.0 - now as f64 / before.max(1) as f64);
    let (full, left) = (&pruning.full, &chosen.measured);
    let seconds = &pruning.resources.prefill_seconds;
    let time = match (seconds.get(&0), seconds.get(&chosen.count())) {
        (Some(before), Some(now)) if *before > 0.0 => {
            format!(", and {:.0} % of the time of a prefill without the head", 100.0 * (1.0 - now / before))
        }
        _ => String::new(),
    };
    format!(
        "It saves {:.1} % of the parameters, {:.1} % of the multiply-adds of a token{time}; the perplexity becomes {:.2} \
         times as large, and {:.1} % of the tokens keep their prediction.",
        share(left.parameters, full.parameters),
        share(left.macs_per_token, full.macs_per_token),
        left.perplexity / full.perplexity,
        100.0 * chosen.top1_agreement,
    )
}
