//! `run.json` of a pruning.

use super::job::Job;
use crate::Result;
use crate::run::{self, refuse_differences, refuse_other_kind};
use fathom_model::Backend;
use fathom_model::source::Located;
use serde_json::{Value, json};
use std::path::Path;

impl<B: Backend> Job<'_, B> {
    /// Everything known before anything is measured.
    pub(super) fn describe(&self, located: &Located, hashes: &[String]) -> Value {
        let p = self.p;
        let mut run = run::provenance(&p.options.command, located, self.loaded, hashes);
        let mut methods: Vec<String> = p.choosing().map(|m| m.name().to_owned()).collect();
        methods.extend(self.own.iter().map(|removal| format!("layers={removal}")));
        run["prune"] = json!({
            "unit": p.unit,
            "methods": methods,
            "remove": self.counts,
            "max_loss": p.max_loss,
            "racing": p.racing,
            "replace": if p.replace == crate::Replace::Linear { "linear" } else { "none" },
            "calibration": self.calibration.about,
            "heldout": self.heldout.about,
            "choices": self.questions.map(|q| &q.about),
        });
        run["memory_bytes"] = self.memory.into();
        p.options.record(&mut run);
        run
    }
}

/// The questions of a run.
fn questions(run: &Value) -> Option<&Value> {
    run.pointer("/prune/choices").filter(|q| !q.is_null())
}

/// Keeps in mind of which questions the folder has answers, even if this run does not ask them.
pub(super) fn keep_questions(earlier: &Value, now: &mut Value) {
    if let (Some(before), None) = (questions(earlier), questions(now)) {
        now["prune"]["choices"] = before.clone();
    }
}

/// Refuses to go on with a folder whose lines another program, model or set of texts has made.
pub(super) fn check_same(earlier: &Value, now: &Value, folder: &Path) -> Result<()> {
    refuse_other_kind(earlier, Some("prune"), folder)?;
    let compared = [
        ("other calibration texts", "/prune/calibration"),
        ("other held-out texts", "/prune/heldout"),
        ("another unit", "/prune/unit"),
        ("another kind of search (--no-racing)", "/prune/racing"),
    ];
    // Questions may be added and left out again.
    let others = match (questions(earlier), questions(now)) {
        (Some(before), Some(now)) if before != now => vec!["other questions (--choices)".to_owned()],
        _ => Vec::new(),
    };
    refuse_differences(earlier, now, &compared, others, folder)
}
