//! Random requests: the planner against full passes, and bit equality for any grouping and sharing.

use crate::support::{
    Action, Edit, MODELS, PLENTY, Request, Seen, clean_logits, edit, full, mixing_macs, mlp_macs, near,
    near_change, noise, planned, projection_macs, request, run,
};
use fathom_kernels::Buffer;
use fathom_model::{Model, Routes, Trace};
use fathom_probes::MemoryPlan;
use fathom_probes::planner::{Rows, Site};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

/// An edit, independent of model and prompt. It has few different values, so that requests often share
/// prefixes.
#[derive(Clone, Debug)]
struct Draft {
    layer: usize,
    site: Site,
    start: usize,
    count: usize,
    action: usize,
    values: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Drafts {
    edits: Vec<Draft>,
    added: (usize, usize),
    logits: (usize, usize),
    until: Option<usize>,
}

fn draft() -> impl Strategy<Value = Draft> {
    let site = prop::sample::select(vec![Site::Resid, Site::Attn, Site::Mlp, Site::Layer]);
    let start = prop_oneof![3 => prop::sample::select(vec![0, 3, 5]), 1 => 0..60usize];
    let count = prop_oneof![3 => prop::sample::select(vec![1, 3, 6]), 1 => 1..60usize];
    (0..8usize, site, start, count, 0..10usize, 0..2u64).prop_map(
        |(layer, site, start, count, action, values)| Draft { layer, site, start, count, action, values },
    )
}

fn drafts() -> impl Strategy<Value = Drafts> {
    let end = || prop_oneof![2 => prop::sample::select(vec![0, 6, 9, 60]), 1 => 0..61usize];
    let read = move || (prop_oneof![2 => Just(0usize), 1 => 0..60usize], end());
    let edits = prop::collection::vec(draft(), 1..=3);
    let until = prop_oneof![3 => Just(None), 1 => (0..8usize).prop_map(Some)];
    (edits, read(), read(), until).prop_map(|(edits, added, logits, until)| Drafts {
        edits,
        added,
        logits,
        until,
    })
}

/// In some lists, requests share whole edits.
pub(crate) fn lists() -> impl Strategy<Value = Vec<Drafts>> {
    let own = prop::collection::vec(drafts(), 1..=6);
    let shared = (draft(), prop::collection::vec((drafts(), 1..30usize), 2..=6)).prop_map(|(first, all)| {
        let with_first = |(mut one, count): (Drafts, usize)| {
            // In every other request, equal except for its end.
            let count = if count % 2 == 0 { first.count } else { count };
            one.edits.insert(0, Draft { count, ..first.clone() });
            one.edits.truncate(1 + count % 3);
            one
        };
        all.into_iter().map(with_first).collect()
    });
    prop_oneof![own, shared]
}

/// Rows for the edits of drafts, two choices of them, enough for any prompt.
pub(crate) fn values(model: &Model) -> [Buffer; 2] {
    [0, 1].map(|seed| noise(60 * model.config().hidden, seed))
}

pub(crate) fn finish<'a>(model: &Model, tokens: usize, one: &Drafts, values: &'a [Buffer; 2]) -> Request<'a> {
    let depth = model.config().depth();
    let clip = |(start, end): (usize, usize)| -> Range<usize> {
        let end = end.min(tokens);
        start.min(end)..end
    };
    let logits = if one.until.is_some() { 0..0 } else { clip(one.logits) };
    Request {
        edits: one.edits.iter().map(|e| finish_edit(model, tokens, e, values)).collect(),
        added: clip(one.added).into(),
        logits: logits.into(),
        until: one.until.map_or(depth, |u| u.min(depth)),
    }
}

fn finish_edit<'a>(model: &Model, tokens: usize, draft: &Draft, values: &'a [Buffer; 2]) -> Edit<'a> {
    let depth = model.config().depth();
    let layer = draft.layer % if draft.site == Site::Resid { depth + 1 } else { depth };
    let start = draft.start % tokens;
    let positions = start..(start + draft.count).min(tokens);
    let rows = &values[draft.values as usize];
    let action = match draft.action {
        0 => Action::Skip,
        1 => Action::Zero,
        2 => Action::Replace(Rows::one(rows, 0)),
        3 => Action::Replace(Rows::each(rows, 0)),
        4 => Action::Add(Rows::one(rows, 0)),
        5 => Action::Add(Rows::each(rows, 0)),
        6 => Action::Scale(0.5),
        7 => Action::Scale(1.0),
        8 => Action::Scale(-1.5),
        _ => Action::Subtract(Rows::each(rows, 0)),
    };
    edit(draft.site, layer, positions, action)
}

/// Rounding, relative to the row.
const ROUNDING: f64 = 1e-4;

pub(crate) fn agree(
    model: &Model,
    trace: &Trace,
    requests: &[Request<'_>],
    got: &Seen,
    want: &Seen,
) -> Result<(), String> {
    for (key, change) in &got.added {
        let full = want.added.get(key).ok_or(format!("D {key:?} was not asked for"))?;
        if !near_change(*change, *full, ROUNDING) {
            return Err(format!("D {key:?} changes by {change} instead of {full}"));
        }
    }
    for (key, [clean, edited]) in &got.logits {
        let [_, full] = want.logits.get(key).ok_or(format!("logits {key:?} were not asked for"))?;
        if *clean != clean_logits(model, trace, key.1) || !near(edited, full, ROUNDING) {
            return Err(format!("logits {key:?} are off"));
        }
    }
    // Values that the planner does not compute are clean.
    for (key, full) in want.added.iter().filter(|(k, _)| !got.added.contains_key(k)) {
        if !near_change(*full, 0.0, ROUNDING) {
            return Err(format!("D {key:?} changed and was left out"));
        }
    }
    for (key, [clean, full]) in want.logits.iter().filter(|(k, _)| !got.logits.contains_key(k)) {
        if !near(full, clean, ROUNDING) {
            return Err(format!("logits {key:?} changed and were left out"));
        }
    }
    if !model.config().is_causal() {
        return Ok(());
    }
    // Nothing runs before the first edit.
    let first = |r: usize| requests[r].edits.iter().map(|e| e.positions.start).min();
    let early = |r: usize, p: usize| first(r).is_none_or(|f| p < f);
    if got.added.keys().any(|k| early(k.0, k.2)) || got.logits.keys().any(|k| early(k.0, k.1)) {
        return Err("a position before the first edit was run".into());
    }
    Ok(())
}

/// What one request reads: the change of D by layer and position, and the edited logits by position.
pub(crate) type Read<'a> = (Vec<((usize, usize), f64)>, Vec<(usize, &'a [f32])>);

pub(crate) fn only(seen: &Seen, request: usize) -> Read<'_> {
    let added = seen.added.iter().filter(|(k, _)| k.0 == request);
    let logits = seen.logits.iter().filter(|(k, _)| k.0 == request);
    (
        added.map(|(k, change)| ((k.1, k.2), *change)).collect(),
        logits.map(|(k, [_, edited])| (k.1, &edited[..])).collect(),
    )
}

/// Multiply-adds if everything runs as one batch, counted from the shapes: a row is identified by the
/// edits from the start of a request up to a position, and each distinct row runs once through the layers
/// that a request needs.
fn counted(model: &Model, requests: &[Request<'_>]) -> u64 {
    let c = model.config();
    let d = c.hidden as u64;
    let a_row = |l: usize| projection_macs(c, l) + mlp_macs(c, l);
    let level = |e: &Edit<'_>| if e.site == Site::Resid { e.layer } else { e.layer + 1 };
    let (mut rows, mut started) = (BTreeSet::new(), BTreeSet::new());
    let (mut heads, mut cleans) = (0, BTreeSet::new());
    let actions: Vec<Action<'_>> = requests.iter().flat_map(|r| &r.edits).map(|e| e.action).collect();
    let number = |action: &Action<'_>| actions.iter().position(|other| other == action);
    for r in requests.iter().filter(|r| !r.edits.is_empty()) {
        let start = r.edits.iter().map(|e| e.positions.start).min().unwrap();
        let first = r.edits.iter().map(level).min().unwrap();
        let mut text = format!("{first} {start}");
        for p in start..r.added.end().max(r.logits.end()) {
            let acting = || r.edits.iter().filter(|e| e.positions.contains(&p));
            acting().for_each(|e| {
                text += &format!("|{} {:?} {} {:?}", e.layer, e.site, e.positions.start, number(&e.action));
            });
            text += ";";
            rows.extend((first..r.until).map(|l| (l, p, text.clone())));
            let here = |site| acting().filter(move |e| level(e) == first && e.site == site);
            let gone = |site| {
                here(site).any(|e| matches!(e.action, Action::Skip | Action::Zero | Action::Replace(_)))
            };
            let again = here(Site::Attn).count() > 0 && !gone(Site::Mlp) && !gone(Site::Layer);
            if again && !c.parallel {
                started.insert((first, text.clone()));
            }
            if r.logits.contains(p) {
                heads += 1;
                cleans.insert(p);
            }
        }
    }
    let seen = |l: usize, p: usize| {
        let in_chunk = p % c.layers[l].chunk.unwrap_or(usize::MAX) + 1;
        c.layers[l].window.unwrap_or(usize::MAX).min(in_chunk)
    };
    rows.iter().map(|(l, p, _)| a_row(*l) + mixing_macs(c, *l, seen(*l, *p) as u64)).sum::<u64>()
        + started.iter().map(|(level, _)| mlp_macs(c, level - 1)).sum::<u64>()
        + (heads + cleans.len() as u64) * d * c.vocab as u64
}

fn check(which: usize, tokens: usize, drafts: &[Drafts]) -> Result<(), String> {
    let (name, model) = &MODELS[which];
    let trace = run(model, tokens);
    let values = values(model);
    let mut requests: Vec<_> = drafts.iter().map(|d| finish(model, tokens, d, &values)).collect();
    let (seen, macs) = planned(model, &trace, &requests, PLENTY);
    agree(model, &trace, &requests, &seen, &full(model, &trace, &requests))
        .map_err(|e| format!("{name}: {e}"))?;
    let count = counted(model, &requests);
    if macs != count {
        return Err(format!("{name}: {macs} multiply-adds instead of {count}"));
    }
    for (rows, bytes) in [(0, 0), (25, 1 << 13), (90, 1 << 20)] {
        if planned(model, &trace, &requests, MemoryPlan { rows, bytes, ..PLENTY }).0 != seen {
            return Err(format!("{name}: {rows} rows a batch change bits"));
        }
    }
    for (r, one) in requests.iter().enumerate() {
        let (alone, _) = planned(model, &trace, std::slice::from_ref(one), PLENTY);
        if only(&alone, 0) != only(&seen, r) {
            return Err(format!("{name}: request {r} alone has other bits"));
        }
    }
    requests.reverse();
    let (reversed, again) = planned(model, &trace, &requests, PLENTY);
    let last = requests.len() - 1;
    if again != macs || (0..=last).any(|r| only(&reversed, last - r) != only(&seen, r)) {
        return Err(format!("{name}: the order of requests matters"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planned_equals_naive_for_any_grouping(
        which in 0..MODELS.len(),
        tokens in 12..=60usize,
        drafts in lists(),
    ) {
        if let Err(e) = check(which, tokens, &drafts) {
            let requests: Vec<_> = drafts.iter().map(|d| format!("{d:?}")).collect();
            prop_assert!(false, "{e}\n{tokens} tokens, {}", requests.join("\n"));
        }
    }
}

/// An edited token sends others to other experts. The planner chooses anew, and gives what the text with another token in
/// the edited place gives.
#[test]
fn an_edit_changes_the_experts_of_later_tokens() {
    const EDITED: usize = 5;
    for (name, model) in MODELS.iter().filter(|(_, model)| model.config().experts().is_some()) {
        let trace = run(model, 40);
        let mut text = trace.tokens.clone();
        text[EDITED] = (text[EDITED] + 1) % model.config().vocab as u32;
        let other = model.run(&[&text]).unwrap().remove(0);
        let later = |routes: &Option<Routes>| {
            routes.as_ref().map(|routes| routes.experts[(EDITED + 1) * routes.active..].to_vec())
        };
        let moved = trace.routes.iter().zip(&other.routes).any(|(one, other)| later(one) != later(other));
        assert!(moved, "{name}: no later token takes another expert");
        let d = model.config().hidden;
        let rows = Buffer::from(other.resid[0][EDITED * d..(EDITED + 1) * d].to_vec());
        let replaced = edit(Site::Resid, 0, EDITED..EDITED + 1, Action::Replace(Rows::one(&rows, 0)));
        let requests = [request(model, vec![replaced], EDITED..40)];
        let (seen, _) = planned(model, &trace, &requests, PLENTY);
        let result = agree(model, &trace, &requests, &seen, &full(model, &trace, &requests));
        assert_eq!(result, Ok(()), "{name}");
        for position in EDITED..40 {
            let [_, edited] = &seen.logits[&(0, position)];
            assert!(
                near(edited, &clean_logits(model, &other, position), 1e-5),
                "{name}, position {position}"
            );
        }
    }
}

/// Requests that only differ in where an edit ends, and read no further than their edits.
#[test]
fn edits_that_differ_in_their_end_share_their_prefix() {
    for (name, model) in MODELS.iter() {
        let trace = run(model, 40);
        let rows = noise(model.config().hidden, 1);
        for action in [Action::Scale(2.0), Action::Add(Rows::one(&rows, 0))] {
            let to =
                |end: usize, read: usize| request(model, vec![edit(Site::Resid, 1, 3..end, action)], 3..read);
            for requests in [[to(6, 6), to(9, 9)], [to(9, 6), to(6, 20)], [to(9, 9), to(6, 20)]] {
                let (seen, _) = planned(model, &trace, &requests, PLENTY);
                let result = agree(model, &trace, &requests, &seen, &full(model, &trace, &requests));
                assert_eq!(result, Ok(()), "{name}, {requests:?}");
            }
        }
    }
}

/// Edits at one site are applied in the order of the request, duplicates included.
#[test]
fn edits_at_one_site_keep_their_order_and_number() {
    for (name, model) in MODELS.iter() {
        let (trace, rows) = (run(model, 40), noise(model.config().hidden, 1));
        for site in [Site::Resid, Site::Attn, Site::Mlp, Site::Layer] {
            let scale = |at| edit(site, 1, at, Action::Scale(2.0));
            let add = |at| edit(site, 1, at, Action::Add(Rows::one(&rows, 0)));
            let lists =
                [vec![scale(5..8), add(3..8)], vec![add(3..8), scale(5..8)], vec![scale(3..8), scale(3..8)]];
            let requests = lists.map(|edits| request(model, edits, 0..40));
            let (seen, _) = planned(model, &trace, &requests, PLENTY);
            let result = agree(model, &trace, &requests, &seen, &full(model, &trace, &requests));
            assert_eq!(result, Ok(()), "{name}, {site:?}");
        }
    }
}

/// Prompts longer than two chains of attention sums: a run that starts at the edit has the bits of one that
/// starts at the first token, for any grouping, and an edit that changes nothing has an effect of exactly 0.
#[test]
fn at_700_tokens_no_bit_depends_on_where_a_run_starts() {
    const TOKENS: usize = 700;
    let long = |(name, _): &&(&str, Model)| ["llama3", "gemma3", "mistral", "gpt_neox"].contains(name);
    for (name, model) in MODELS.iter().filter(long) {
        let trace = run(model, TOKENS);
        let row = noise(model.config().hidden, 3);
        let requests = |whole: bool| -> Vec<Request<'_>> {
            let of = |start: usize| {
                let edits = [
                    edit(Site::Layer, 0, start..TOKENS - 40, Action::Skip),
                    edit(Site::Resid, 1, start..start + 1, Action::Replace(Rows::one(&row, 0))),
                    edit(Site::Attn, 1, start..start + 7, Action::Scale(1.0)),
                ];
                let reads = [start..start + 2, TOKENS - 3..TOKENS];
                edits.map(|edit| reads.clone().map(|read| (edit.clone(), read)))
            };
            let all = [1, 300, 319, 321, 333, 641].into_iter().flat_map(of).flatten();
            // Scaling the first token's embedding by one makes the run a whole forward pass.
            let first = whole.then(|| edit(Site::Resid, 0, 0..1, Action::Scale(1.0)));
            all.map(|(edit, read)| request(model, first.clone().into_iter().chain([edit]).collect(), read))
                .collect()
        };
        let short = requests(false);
        let (seen, _) = planned(model, &trace, &short, PLENTY);
        let (cut, _) = planned(model, &trace, &short, MemoryPlan { rows: 90, bytes: 1 << 20, ..PLENTY });
        assert!(cut == seen, "{name}: groups change bits");
        agree(model, &trace, &short, &seen, &full(model, &trace, &short)).unwrap();
        let (whole, _) = planned(model, &trace, &requests(true), PLENTY);
        let nothing = |request: usize| short[request].edits[0].action == Action::Scale(1.0);
        for (key, change) in &seen.added {
            assert!(whole.added[key] == *change, "{name}: D {key:?} depends on where the run starts");
            assert!(!nothing(key.0) || *change == 0.0, "{name}: D {key:?} of an edit of nothing");
        }
        for (key, [clean, edited]) in &seen.logits {
            assert!(whole.logits[key][1] == *edited, "{name}: logits {key:?} depend on where the run starts");
            assert!(!nothing(key.0) || clean == edited, "{name}: logits {key:?} of an edit of nothing");
        }
    }
}
