//! The recommendation in words.

use super::{ExitOptions, ExitTexts, risk};
use fathom_results::text::counted;
use fathom_results::{Estimated, ExitChoice, ExitMeasured, ExitRule, Speculation};

fn percent(share: f64) -> String {
    // Without a sign on a rounded zero.
    let rounded = (share * 1000.0).round() / 10.0;
    format!("{:.1} %", if rounded == 0.0 { 0.0 } else { rounded })
}

fn interval(of: &Estimated, print: impl Fn(f64) -> String) -> String {
    of.interval
        .map_or(String::new(), |[low, high]| format!(" (95 % interval {} to {})", print(low), print(high)))
}

/// `level 7` or `levels 2, 4 to 28`.
fn levels(levels: &[usize]) -> String {
    match levels {
        [one] => format!("level {one}"),
        [first, _, .., last] if last - first == levels.len() - 1 => {
            format!("any level from {first} to {last}")
        }
        [first, second, .., last] => format!("levels {first}, {second} and so on to {last}"),
        _ => {
            let all: Vec<String> = levels.iter().map(usize::to_string).collect();
            format!("levels {}", all.join(" and "))
        }
    }
}

/// Recommends, or says why nothing pays.
pub(super) fn choice(
    texts: &ExitTexts<'_>,
    options: &ExitOptions,
    (rules, chosen): (&[ExitRule], Option<usize>),
    (drafts, best_draft): (&[Speculation], Option<usize>),
) -> ExitChoice {
    let found = chosen.and_then(|i| Some((&rules[i], rules[i].measured.as_ref()?)));
    let pays = found.is_some_and(|(_, m)| m.net_saving.interval.is_some_and(|[low, _]| low > 0.0));
    let exit = match found {
        Some((rule, measured)) => of_rule(rule, measured, pays, texts.depth()),
        None => nothing(texts, options),
    };
    let draft = best_draft.map_or(String::new(), |i| of_draft(&drafts[i]));
    ExitChoice { rule: chosen, speculation: best_draft, pays, reason: format!("{exit}{draft}") }
}

fn nothing(texts: &ExitTexts<'_>, options: &ExitOptions) -> String {
    let (texts, fewest) = (texts.calibration.len(), risk::fewest(options.epsilon, options.delta));
    let why = if texts < fewest {
        format!(
            "{} certify nothing at epsilon {} and delta {}, which takes {fewest} or more",
            counted(texts as u64, "calibration text"),
            options.epsilon,
            options.delta
        )
    } else {
        format!("no threshold keeps the changed tokens of a text below {}", percent(options.epsilon))
    };
    format!("Leaving early does not pay: {why}.")
}

fn of_rule(rule: &ExitRule, m: &ExitMeasured, pays: bool, depth: usize) -> String {
    let left = 1.0 - m.shares.last().copied().unwrap_or(1.0);
    let saving = percent(m.net_saving.value.abs());
    let verb = if m.net_saving.value >= 0.0 { "saves" } else { "costs" };
    let more = if m.net_saving.value >= 0.0 { "" } else { " more" };
    let threshold = rule.threshold.unwrap_or(f64::NAN);
    let what = format!(
        "at {} of {depth} by the {} head where its {} is {threshold:.3} or more",
        levels(&rule.levels),
        rule.head.name(),
        rule.confidence.about(),
    );
    let sure = format!(
        "With confidence {}, at most {} of the tokens of a text change on average; {} did on held-out texts.",
        percent(1.0 - rule.delta),
        percent(rule.epsilon),
        percent(m.risk_heldout.value),
    );
    let counted = format!(
        "{} of the tokens leave, which {verb} {saving} of the multiply-adds{more}{}",
        percent(left),
        interval(&m.net_saving, percent)
    );
    match pays {
        true => format!("Leave {what}: {counted}. {sure}"),
        false => format!("Leaving early does not pay: the best rule is to leave {what}; {counted}. {sure}"),
    }
}

fn of_draft(draft: &Speculation) -> String {
    let Speculation { level, head, speedup, draft, alpha, .. } = draft;
    let times = |x: f64| format!("{x:.2}");
    let found = format!(
        "{} and the {} head as a draft of {} at a time, of which {} are accepted, are {:.2} times as fast as the whole \
         model{}",
        if *level == 1 { "the first layer".to_owned() } else { format!("the first {level} layers") },
        head.name(),
        counted(*draft as u64, "token"),
        percent(*alpha),
        speedup.value,
        interval(speedup, times)
    );
    match speedup.interval.map_or(speedup.value, |[low, _]| low) > 1.0 {
        true => format!(" Self-speculation pays: {found}."),
        false => format!(" Self-speculation does not pay: {found}."),
    }
}
