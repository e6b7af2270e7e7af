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
    if finite.is_empty() {
        return nothing("the model overflows on the held-out texts; try another dtype");
    }
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
        "Without {} the loss on held-out text {} nats per token. The interval ends at most at {most}, and no other candidate \
         for which it does removes more.",
        removed(c, layers),
        changes(&c.nll_increase)
    )
}

fn best_of(c: &Candidate, layers: usize) -> String {
    format!(
        "Of the candidates with {} removed, the one that costs least is without {}: the loss on held-out text {} nats per \
         token.",
        c.count(),
        removed(c, layers),
        changes(&c.nll_increase)
    )
}

/// `layers 9,20..22 (3 of 30, chosen by greedy)`.
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

/// `rises by 0.021 (95 % interval 0.003 to 0.039)`.
fn changes(e: &Estimated) -> String {
    match (e.value < 0.0, e.interval) {
        (true, Some([low, high])) => {
            format!("falls by {:.3} (95 % interval of the rise {low:.3} to {high:.3})", -e.value)
        }
        (true, None) => format!("falls by {:.3}", -e.value),
        (false, Some([low, high])) => {
            format!("rises by {:.3} (95 % interval {low:.3} to {high:.3})", e.value)
        }
        (false, None) => format!("rises by {:.3}", e.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::Measured;

    fn candidate(method: PruneMethod, layers: std::ops::Range<usize>, value: f64, half: f64) -> Candidate {
        let estimated = |value, interval| Estimated { value, interval };
        Candidate {
            method,
            unit: SkipPart::Layer,
            removed: vec![[layers.start, layers.end]],
            replaced: None,
            measured: Measured {
                nll: estimated(3.0 + value, None),
                perplexity: 1.0,
                accuracy: None,
                parameters: 1,
                bytes: 1,
                macs_per_token: 1,
            },
            nll_increase: estimated(value, Some([value - half, value + half])),
            kl: 0.0,
            top1_agreement: 1.0,
            accuracy_change: None,
        }
    }

    fn all() -> Vec<Candidate> {
        use PruneMethod::{Angular, Greedy, Influence};
        vec![
            candidate(Influence, 3..4, 0.04, 0.01),
            candidate(Greedy, 5..6, 0.03, 0.01),
            candidate(Influence, 3..5, 0.08, 0.03),
            candidate(Greedy, 5..7, 0.09, 0.005),
            candidate(Angular, 5..8, f64::NAN, 0.0),
            candidate(Greedy, 5..8, 0.3, 0.01),
        ]
    }

    #[track_caller]
    fn check(p: &Prune, index: Option<usize>, sentence: &str) {
        let choice = recommend(p, &all(), 9);
        assert_eq!(choice.index, index, "{}", choice.reason);
        assert!(choice.reason.contains(sentence), "{}", choice.reason);
    }

    #[test]
    fn the_largest_removal_whose_interval_fits_is_recommended() {
        let p = Prune::new("m");
        // The interval of the cheaper one of two ends above 0.1.
        check(&p, Some(3), "layers 5..7 (2 of 9, chosen by greedy) the loss on held-out text rises by 0.090");
        check(&p.clone().max_loss(0.06), Some(1), "layer 5 (1 of 9");
        check(&p.clone().max_loss(0.01), None, "more than 0.01 nats");
        // For given numbers the cheapest, whatever it costs; never one without a number.
        check(&p.clone().remove(&[1, 2, 3]), Some(5), "Of the candidates with 3 removed");
        check(&p.remove(&[1, 2, 3]).max_loss(0.06), Some(1), "ends at most at 0.06");
    }

    #[test]
    fn nothing_is_recommended_without_intervals() {
        let mut candidates = all();
        candidates.iter_mut().for_each(|c| c.nll_increase.interval = None);
        let choice = recommend(&Prune::new("m"), &candidates, 9);
        assert!(choice.index.is_none() && choice.reason.contains("two held-out texts"), "{}", choice.reason);
        candidates.iter_mut().for_each(|c| c.nll_increase.value = f64::NAN);
        let choice = recommend(&Prune::new("m").remove(&[1]), &candidates, 9);
        assert!(choice.index.is_none() && choice.reason.contains("overflows"), "{}", choice.reason);
    }
}
