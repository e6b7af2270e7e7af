//! Edits that change nothing give the clean run.

use crate::support::{PLENTY, clean_added, clean_logits, edit, everywhere, near, planned, request};
use fathom_model::{Model, Trace};
use fathom_probes::planner::{Action, Edit, Request, Site};
use std::ops::Range;

const AT: Range<usize> = 3..9;

/// The clean values at a site.
fn own(trace: &Trace, site: Site, layer: usize) -> Vec<f32> {
    let all = match site {
        Site::Resid => trace.resid[layer].clone(),
        Site::Attn => trace.attn_out[layer].clone(),
        Site::Mlp => trace.mlp_out[layer].clone(),
        Site::Layer => (0..trace.tokens.len()).flat_map(|p| clean_added(trace, layer, p)).collect(),
    };
    all[AT.start * trace.hidden..AT.end * trace.hidden].to_vec()
}

/// Edits that change nothing at a site.
fn nothings(trace: &Trace, site: Site, layer: usize) -> Vec<Edit> {
    let mut actions = vec![
        Action::Scale(1.0),
        Action::Add(vec![0.0; trace.hidden].into()),
        Action::Add(vec![0.0; trace.hidden * AT.len()].into()),
        Action::Replace(own(trace, site, layer).into()),
    ];
    if site == Site::Resid {
        actions.push(Action::Skip);
    }
    actions.into_iter().map(|action| edit(site, layer, AT, action)).collect()
}

/// Requests that change nothing at a site: alone, and in a run that already began at layer 0, which
/// takes another path through the planner.
fn requests(model: &Model, trace: &Trace, site: Site, layer: usize) -> Vec<Request> {
    let begun = edit(Site::Resid, 0, 1..2, Action::Skip);
    let nothings = nothings(trace, site, layer).into_iter();
    let read = 0..trace.tokens.len();
    nothings
        .flat_map(|e| [vec![e.clone()], vec![begun.clone(), e]])
        .map(|edits| request(model, edits, read.clone()))
        .collect()
}

/// Checks everything read from edits that change nothing with `same`.
#[track_caller]
fn check(site: Site, same: impl Fn(&[f32], &[f32]) -> bool) {
    everywhere(43, |name, model, trace| {
        let depth = model.config().depth();
        for layer in 0..if site == Site::Resid { depth + 1 } else { depth } {
            let requests = requests(model, trace, site, layer);
            let (seen, _) = planned(model, trace, &requests, PLENTY);
            assert!(!seen.logits.is_empty() && (layer == depth || !seen.added.is_empty()));
            for ((r, l, p), row) in &seen.added {
                let edits = &requests[*r].edits;
                assert!(same(row, &clean_added(trace, *l, *p)), "{name}: D {l} at {p} under {edits:?}");
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
    check(Site::Resid, |a, b| a == b);
}

#[test]
fn an_empty_edit_of_a_sublayer_changes_no_bit() {
    check(Site::Attn, |a, b| a == b);
    check(Site::Mlp, |a, b| a == b);
}

/// The clean stream is (h + a) + m; an edit of D gives h + (a + m).
#[test]
fn an_empty_edit_of_a_layer_only_changes_rounding() {
    check(Site::Layer, |a, b| near(a, b, 2e-5));
}

#[test]
fn skipping_a_part_equals_setting_it_to_zero() {
    everywhere(30, |name, model, trace| {
        for site in [Site::Attn, Site::Mlp, Site::Layer] {
            for layer in 0..model.config().depth() {
                let of = |action| vec![request(model, vec![edit(site, layer, AT, action)], 2..30)];
                let seen = |action| planned(model, trace, &of(action), PLENTY);
                let zeros = Action::Replace(vec![0.0; trace.hidden].into());
                let skipped = seen(Action::Skip);
                assert_eq!(skipped, seen(Action::Zero), "{name}");
                assert_eq!(skipped, seen(zeros), "{name}");
            }
        }
    });
}
