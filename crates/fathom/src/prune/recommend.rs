//! The recommendation, in a sentence.

use crate::Prune;
use fathom_results::{Candidate, Choice, Estimated, PruneMethod, SkipPart};
use fathom_surgery::Removal;

/// Chooses among the measured candidates.
pub(super) fn recommend(p: &Prune, candidates: &[Candidate], layers: usize) -> Choice {
    let rise = |c: &Candidate| c.nll_increase.value;
    let finite: Vec<usize> = (0..candidates.len()).filter(|i| rise(&candidates[*i]).is_finite()).collect();
    let least = |among: &mut dyn Iterator<Item = usize>| {
        among.min_by(|a, b| rise(&candidates[*a]).total_cmp(&rise(&candidates[*b])))
    };
    let counts = |among: &[usize]| among.iter().map(|i| candidates[*i].count()).max();
    if p.max_loss.is_none() && (p.counts.is_some() || p.methods.is_empty()) {
        let most = counts(&finite);
        let best = least(&mut finite.iter().copied().filter(|i| Some(candidates[*i].count()) == most));
        return match best {
            Some(index) => Choice { index: Some(index), reason: best_of(&candidates[index], layers) },
            None => nothing("the model overflows without any of the layers that were tried"),
        };
    }
    let most = p.max_loss.unwrap_or(Prune::MAX_LOSS);
    if candidates.iter().all(|c| c.nll_increase.interval.is_none()) {
        return nothing("an interval needs at least two held-out texts; give more texts");
    }
    let below = |c: &Candidate| c.nll_increase.interval.is_some_and(|[_, high]| high <= most);
    let allowed: Vec<usize> = finite.into_iter().filter(|i| below(&candidates[*i])).collect();
    let largest = counts(&allowed);
    match least(&mut allowed.iter().copied().filter(|i| Some(candidates[*i].count()) == largest)) {
        Some(index) => Choice { index: Some(index), reason: within(&candidates[index], layers, most) },
        None => nothing(&format!(
            "every candidate may cost more than {most} nats per token on held-out text; allow more with --max-loss, or \
             keep the model whole"
        )),
    }
}

fn nothing(why: &str) -> Choice {
    Choice { index: None, reason: format!("Nothing is recommended: {why}.") }
}

fn within(c: &Candidate, layers: usize, most: f64) -> String {
    format!(
        "Without {} the loss on held-out text rises by {} nats per token, at most {most} with 95 % confidence; no other \
         candidate of this kind removes more.",
        removed(c, layers),
        shown(&c.nll_increase)
    )
}

fn best_of(c: &Candidate, layers: usize) -> String {
    format!(
        "Of the candidates with {} removed, {} costs least: the loss on held-out text rises by {} nats per token.",
        c.count(),
        removed(c, layers),
        shown(&c.nll_increase)
    )
}

/// `layers 9 and 20..22 (3 of 30, greedy)`.
fn removed(c: &Candidate, layers: usize) -> String {
    let removal = Removal::new(c.unit, c.removed.iter().flat_map(|[start, end]| *start..*end));
    let list = removal.map(|r| r.to_string()).unwrap_or_default();
    let unit = match c.unit {
        SkipPart::Layer => "layers",
        SkipPart::Attn => "the attention of layers",
        SkipPart::Mlp => "the MLP of layers",
    };
    let unit = if c.count() == 1 { unit.trim_end_matches('s') } else { unit };
    let how = match c.method {
        PruneMethod::Layers => "as given".to_owned(),
        method => format!("chosen by {}", method.name()),
    };
    let linear = if c.replaced.is_some() { ", replaced by a linear map" } else { "" };
    format!("{unit} {list} ({} of {layers}, {how}{linear})", c.count())
}

fn shown(e: &Estimated) -> String {
    match e.interval {
        Some([low, high]) => format!("{:.3} ({low:.3} to {high:.3})", e.value),
        None => format!("{:.3}", e.value),
    }
}
