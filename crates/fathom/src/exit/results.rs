//! `exit.json` from the samples.

use super::job::{FIT, Job, Known, MEASURE};
use crate::Result;
use crate::execute::model_info;
use crate::observer::uncounted;
use crate::texts::Texts;
use fathom_analysis::exit::ExitTexts;
use fathom_model::Backend;
use fathom_model::source::Located;
use fathom_results::{EXIT_SCHEMA_VERSION, ExitSample, Exiting, Resources, WorkByProbe};
use std::collections::BTreeMap;
use std::time::Instant;

/// The most tokens of an example: more do not fit the figure.
const EXAMPLE: usize = 64;

impl<B: Backend> Job<'_, B> {
    pub(super) fn results(&self, known: &Known, located: &Located, started: Instant) -> Result<Exiting> {
        let analysing = uncounted(self.observer, "calibrating thresholds");
        let costs = self.costs();
        let [fit, calibration, heldout] = self.texts;
        let of = |texts: &Texts| -> Vec<&ExitSample> {
            texts.prompts.iter().filter_map(|p| known.samples.get(&p.id)).collect()
        };
        let texts =
            ExitTexts { fit: of(fit), calibration: of(calibration), heldout: of(heldout), costs: &costs };
        let analysis = texts.analyse(&known.maps, &self.e.analysis())?;
        let rule = analysis.choice.rule.map(|i| &analysis.rules[i]);
        // The longest text that fits the figure.
        let fitting = heldout.prompts.iter().filter(|p| p.tokens.len() <= EXAMPLE + 1);
        let longest = fitting.max_by_key(|p| p.tokens.len()).or(heldout.prompts.first());
        let example = rule.zip(longest).and_then(|(rule, p)| {
            let mut example = texts.example(rule, &p.id, &p.pieces)?;
            example.truncate(EXAMPLE);
            Some(example)
        });
        drop(analysing);
        let mut cost = WorkByProbe::new();
        known.fit.add_to(&mut cost, FIT);
        let ids = self.texts.iter().flat_map(|t| &t.prompts).map(|p| &p.id);
        ids.filter_map(|id| known.samples.get(id)).for_each(|s| s.work.add_to(&mut cost, MEASURE));
        let all =
            Resources { seconds: started.elapsed().as_secs_f64(), peak_bytes: fathom_probes::peak_bytes() };
        Ok(Exiting {
            schema_version: EXIT_SCHEMA_VERSION,
            model: model_info(located, self.loaded),
            fit: fit.about.clone(),
            calibration: calibration.about.clone(),
            heldout: heldout.about.clone(),
            epsilon: self.e.epsilon,
            delta: self.e.delta,
            full_nll: analysis.full_nll,
            levels: analysis.levels,
            rules: analysis.rules,
            by_epsilon: analysis.by_epsilon,
            speculation: analysis.speculation,
            choice: analysis.choice,
            example,
            costs,
            cost,
            resources: BTreeMap::from([("all".to_owned(), all)]),
        })
    }
}
