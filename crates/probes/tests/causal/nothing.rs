//! Edits that change nothing give the clean run.

use crate::support::{
    Action, Edit, PLENTY, Request, clean_added, clean_logits, edit, everywhere, full, near, noise, planned,
    request,
};
use fathom_kernels::Buffer;
use fathom_model::{Model, Trace};
use fathom_probes::planner::{Rows, Site};
use std::ops::Range;

const AT: Range<usize> = 3..9;

/// The clean values at a site.
fn own(trace: &Trace, site: Site, layer: usize) -> Buffer {
    let all = match site {
        Site::Resid => trace.resid[layer].to_vec(),
        Site::Attn => trace.attn_out[layer].to_vec(),
        Site::Mlp => trace.mlp_out[layer].to_vec(),
        Site::Layer => (0..trace.tokens.len()).flat_map(|p| clean_added(trace, layer, p)).collect(),
    };
    all[AT.start * trace.hidden..AT.end * trace.hidden].to_vec().into()
}

/// Edits that change nothing at a site whose clean values are `own`.
fn nothings<'a>(zeros: &'a Buffer, own: &'a Buffer, site: Site, layer: usize) -> Vec<Edit<'a>> {
    let mut actions = vec![
        Action::Scale(1.0),
        Action::Add(Rows::one(zeros, 0)),
        Action::Add(Rows::each(zeros, 0)),
        Action::Subtract(Rows::each(zeros, 0)),
        Action::Replace(Rows::each(own, 0)),
    ];
    if site == Site::Resid {
        actions.push(Action::Skip);
    }
    actions.into_iter().map(|action| edit(site, layer, AT, action)).collect()
}

/// Requests that change nothing at a site: alone, and in a run that already began at layer 0, which
/// takes another path through the planner.
fn requests<'a>(model: &Model, tokens: usize, nothings: Vec<Edit<'a>>) -> Vec<Request<'a>> {
    let begun = edit(Site::Resid, 0, 1..2, Action::Skip);
    let read = 0..tokens;
    nothings
        .into_iter()
        .flat_map(|e| [vec![e.clone()], vec![begun.clone(), e]])
        .map(|edits| request(model, edits, read.clone()))
        .collect()
}

/// Checks everything read from edits that change nothing: D changes by at most `change`, and the logits are the
/// `same`.
#[track_caller]
fn check(site: Site, change: f64, same: impl Fn(&[f32], &[f32]) -> bool) {
    everywhere(43, |name, model, trace| {
        let depth = model.config().depth();
        for layer in 0..if site == Site::Resid { depth + 1 } else { depth } {
            let (zeros, own) = (vec![0.0; trace.hidden * AT.len()].into(), own(trace, site, layer));
            let requests = requests(model, trace.tokens.len(), nothings(&zeros, &own, site, layer));
            let (seen, _) = planned(model, trace, &requests, PLENTY);
            assert!(!seen.logits.is_empty() && (layer == depth || !seen.added.is_empty()));
            for ((r, l, p), got) in &seen.added {
                let edits = &requests[*r].edits;
                assert!(*got <= change, "{name}: D {l} at {p} changes by {got} under {edits:?}");
            }
            for ((r, p), [clean, edited]) in &seen.logits {
                let edits = &requests[*r].edits;
                assert_eq!(*clean, clean_logits(model, trace, *p), "{name} at {p}");
                assert!(same(edited, clean), "{name}: logits at {p} under {edits:?}");
            }
        }
    });
}

#[test]
fn an_empty_edit_of_the_stream_changes_no_bit() {
    check(Site::Resid, 0.0, |a, b| a == b);
}

#[test]
fn an_empty_edit_of_a_sublayer_changes_no_bit() {
    check(Site::Attn, 0.0, |a, b| a == b);
    check(Site::Mlp, 0.0, |a, b| a == b);
}

/// The clean stream is (h + a) + m; an edit of D gives h + (a + m).
#[test]
fn an_empty_edit_of_a_layer_only_changes_rounding() {
    check(Site::Layer, 2e-5, |a, b| near(a, b, 2e-5));
}

#[test]
fn skipping_a_part_equals_setting_it_to_zero() {
    everywhere(30, |name, model, trace| {
        let zeros = vec![0.0; trace.hidden].into();
        for site in [Site::Attn, Site::Mlp, Site::Layer] {
            for layer in 0..model.config().depth() {
                let of = |action| vec![request(model, vec![edit(site, layer, AT, action)], 2..30)];
                let seen = |action| planned(model, trace, &of(action), PLENTY);
                let skipped = seen(Action::Skip);
                assert_eq!(skipped, seen(Action::Zero), "{name}");
                assert_eq!(skipped, seen(Action::Replace(Rows::one(&zeros, 0))), "{name}");
            }
        }
    });
}

#[test]
fn subtracting_rows_equals_adding_their_negatives() {
    everywhere(30, |name, model, trace| {
        let rows = noise(AT.len() * trace.hidden, 4);
        let negated = rows.iter().map(|x| -x).collect::<Vec<_>>().into();
        for site in [Site::Resid, Site::Attn, Site::Mlp, Site::Layer] {
            for layer in 0..model.config().depth() {
                let of = |action| vec![request(model, vec![edit(site, layer, AT, action)], 2..30)];
                let subtracted = of(Action::Subtract(Rows::each(&rows, 0)));
                let added = of(Action::Add(Rows::each(&negated, 0)));
                let seen = |requests: &[Request<'_>]| planned(model, trace, requests, PLENTY);
                assert_eq!(seen(&subtracted), seen(&added), "{name}");
                assert_eq!(full(model, trace, &subtracted), full(model, trace, &added), "{name}");
            }
        }
    });
}
