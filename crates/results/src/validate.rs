//! Checks that the parts of a `results.json` fit each other: the file may be damaged or edited.

use crate::{
    ErasurePair, Error, Experts, Gradients, GradientsPair, Result, Results, Similarity, SkipAverage,
    Uncertainty,
};

/// More layers than any model has; a larger number in a file is damage, and would only exhaust memory.
const MAX_LAYERS: usize = 10_000;

impl Results {
    /// Checks that every array has the length that the number of layers asks for.
    ///
    /// # Errors
    ///
    /// [`Error::Inconsistent`] naming the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        let layers = self.model.layers;
        if layers == 0 || layers > MAX_LAYERS {
            return Err(inconsistent("model.layers", format!("is {layers}, not between 1 and {MAX_LAYERS}")));
        }
        for (field, found, expected) in self.lengths() {
            if found != expected {
                let problem = format!("has {found} values where {layers} layers need {expected}");
                return Err(inconsistent(&field, problem));
            }
        }
        if let Some(similarity) = &self.probes.similarity {
            similarity.validate(layers)?;
        }
        if let Some(experts) = &self.probes.experts {
            experts.validate(layers)?;
        }
        for (mode, parts) in self.probes.skip.iter().flatten() {
            for (part, effects) in parts {
                effects.validate(&format!("probes.skip.{}.{}", mode.name(), part.name()), layers)?;
            }
        }
        for (index, ErasurePair { tokens, effect, .. }) in self.probes.erasure.iter().enumerate() {
            let field = format!("probes.erasure[{index}].effect");
            rectangle(&field, effect, (layers + 1, "layers"), (tokens.len(), "tokens"))?;
        }
        for (index, GradientsPair { tokens, gradients, .. }) in self.probes.gradients.iter().enumerate() {
            gradients.validate(&format!("probes.gradients[{index}]"), layers, tokens.len())?;
        }
        self.uncertainty.as_ref().map_or(Ok(()), Uncertainty::validate)
    }

    /// Every per-layer array as (field, length found, length expected).
    fn lengths(&self) -> Vec<(String, usize, usize)> {
        let layers = self.model.layers;
        let mut all = Vec::new();
        if let Some(contributions) = &self.probes.contributions {
            let quantities =
                [("relative_norm", &contributions.relative_norm), ("cosine", &contributions.cosine)];
            for (quantity, parts) in quantities {
                for (part, summary) in [("attn", &parts.attn), ("mlp", &parts.mlp), ("layer", &parts.layer)] {
                    let field = format!("probes.contributions.{quantity}.{part}");
                    all.push((format!("{field}.mean"), summary.mean.len(), layers));
                    all.push((format!("{field}.median"), summary.median.len(), layers));
                }
            }
        }
        if let Some(lens) = &self.probes.lens {
            all.extend(
                lens.curves().map(|(name, curve)| (format!("probes.lens.{name}"), curve.len(), layers + 1)),
            );
        }
        if let Some(similarity) = &self.probes.similarity {
            let found = similarity.block_influence.len();
            all.push(("probes.similarity.block_influence".to_owned(), found, layers));
        }
        if let Some(angles) = &self.probes.angles {
            let curves = [
                ("step", &angles.step, layers),
                ("to_end", &angles.to_end, layers),
                ("updates", &angles.updates, layers - 1),
            ];
            all.extend(
                curves.map(|(name, curve, length)| (format!("probes.angles.{name}"), curve.len(), length)),
            );
            if !angles.last_layer_nll.is_empty() {
                let found = angles.last_layer_nll.len();
                all.push(("probes.angles.last_layer_nll".to_owned(), found, layers));
            }
            let weights = angles.components.iter().map(|c| c.weights.len());
            all.extend(
                weights
                    .enumerate()
                    .map(|(i, found)| (format!("probes.angles.components[{i}]"), found, layers)),
            );
        }
        if let Some(order) = &self.probes.order {
            let middles = order.middle_from.len();
            let lengths = [layers, layers - 1, layers.saturating_sub(2), middles, middles, middles];
            for ((family, effects), length) in order.families().into_iter().zip(lengths) {
                let nll = Some(("nll", &effects.nll)).filter(|(_, curve)| !curve.is_empty());
                let curves = [("kl", &effects.kl), ("top1_agreement", &effects.top1_agreement)];
                let field = |(name, curve): (&str, &Vec<f64>)| {
                    (format!("probes.order.{family}.{name}"), curve.len(), length)
                };
                all.extend(curves.into_iter().chain(nll).map(field));
            }
        }
        if let Some(settling) = &self.probes.settling {
            all.push(("probes.settling.histogram".to_owned(), settling.histogram.len(), layers + 1));
        }
        all
    }
}

impl Similarity {
    /// Blocks of n layers start at layers 0..=L-n, so row n needs L + 1 - n entries; padding is allowed.
    fn validate(&self, layers: usize) -> Result<()> {
        for (name, rows) in [("angular_last", &self.angular_last), ("angular_mean", &self.angular_mean)] {
            let field = format!("probes.similarity.{name}");
            if rows.len() > layers {
                let problem = format!("has {} rows for {layers} layers", rows.len());
                return Err(inconsistent(&field, problem));
            }
            for (index, row) in rows.iter().enumerate() {
                if row.len() < layers - index || row.len() > layers + 1 {
                    let (found, least) = (row.len(), layers - index);
                    let problem = format!("has {found} values where {layers} layers need at least {least}");
                    return Err(inconsistent(&format!("{field}[{index}]"), problem));
                }
            }
        }
        Ok(())
    }
}

impl Experts {
    fn validate(&self, layers: usize) -> Result<()> {
        if let Some(layer) = self.layers.iter().find(|layer| **layer >= layers) {
            let problem = format!("has layer {layer} of a model with {layers} layers");
            return Err(inconsistent("probes.experts.layers", problem));
        }
        let (rows, experts) = (self.layers.len(), self.tokens.first().map_or(0, Vec::len));
        if rows == 0 || self.active == 0 || self.active > self.routed() {
            let problem = format!(
                "has {rows} layers in which tokens take {} of {} experts",
                self.active,
                self.routed()
            );
            return Err(inconsistent("probes.experts", problem));
        }
        let size = ((rows, "layers with experts"), (experts, "experts"));
        rectangle("probes.experts.tokens", &self.tokens, size.0, size.1)?;
        let matrices =
            [("weight", &self.weight), ("relative_norm", &self.relative_norm), ("share", &self.share)];
        for (name, matrix) in matrices {
            rectangle(&format!("probes.experts.{name}"), matrix, size.0, size.1)?;
        }
        match self.left_out.is_empty() {
            true => Ok(()),
            false => fits("probes.experts.left_out", self.left_out.len(), size.0),
        }
    }
}

impl SkipAverage {
    fn validate(&self, field: &str, layers: usize) -> Result<()> {
        let size = (layers, "layers");
        rectangle(&format!("{field}.layer_effect.max"), &self.layer_effect.max, size, size)?;
        rectangle(&format!("{field}.layer_effect.mean"), &self.layer_effect.mean, size, size)?;
        let Some(output) = &self.output_effect else { return Ok(()) };
        fits(&format!("{field}.output_effect.max"), output.max.len(), size)?;
        fits(&format!("{field}.output_effect.mean"), output.mean.len(), size)
    }
}

impl Gradients {
    fn validate(&self, field: &str, layers: usize, tokens: usize) -> Result<()> {
        let size = (layers, "layers");
        rectangle(&format!("{field}.attribution"), &self.attribution, size, (tokens, "tokens"))?;
        fits(&format!("{field}.completeness_error"), self.completeness_error.len(), size)?;
        if let Some(errors) = &self.interval_error {
            fits(&format!("{field}.interval_error"), errors.len(), size)?;
        }
        fits(&format!("{field}.nodes"), self.nodes.len(), size)
    }
}

impl Uncertainty {
    fn validate(&self) -> Result<()> {
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(found) = &rule.histogram else { continue };
            let field = format!("uncertainty.rules[{index}].histogram");
            let (edges, bins) = (&found.edges, found.counts.len());
            if bins == 0 || bins > MAX_LAYERS {
                let problem = format!("has {bins} bins, not between 1 and {MAX_LAYERS}");
                return Err(inconsistent(&field, problem));
            }
            fits(&format!("{field}.edges"), edges.len(), (bins + 1, "ends of bins"))?;
            // Ends of bins are the same where values differ by a rounding error.
            let ascending = edges.windows(2).all(|pair| pair[0] <= pair[1]);
            if !ascending || edges.iter().any(|edge| !edge.is_finite()) {
                return Err(inconsistent(&format!("{field}.edges"), "does not ascend".to_owned()));
            }
        }
        Ok(())
    }
}

/// Checks the size of a matrix, each side given with what it counts.
fn rectangle<T>(field: &str, rows: &[Vec<T>], down: (usize, &str), across: (usize, &str)) -> Result<()> {
    fits(field, rows.len(), down)?;
    rows.iter().enumerate().try_for_each(|(i, row)| fits(&format!("{field}[{i}]"), row.len(), across))
}

fn fits(field: &str, found: usize, (expected, what): (usize, &str)) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(inconsistent(
        field,
        format!("has {found} values where {expected} are needed, one for each of the {what}"),
    ))
}

fn inconsistent(field: &str, problem: String) -> Error {
    Error::Inconsistent { file: crate::folder::RESULTS, field: field.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use crate::*;
    use std::path::Path;

    #[track_caller]
    fn refuse(text: &str, sentence: &str) {
        let message = Results::parse(text.as_bytes(), Path::new("results.json")).unwrap_err().to_string();
        assert!(message.contains(sentence), "{message}");
    }

    #[test]
    fn arrays_that_do_not_fit_the_layers_are_named() {
        let mut results = fixture::results();
        results.probes.lens.as_mut().unwrap().overlap.pop();
        let text = serde_json::to_string(&results).unwrap();
        refuse(&text, "probes.lens.overlap has 30 values where 30 layers need 31");
        let mut results = fixture::results();
        results.probes.similarity.as_mut().unwrap().angular_mean[4].clear();
        refuse(&serde_json::to_string(&results).unwrap(), "probes.similarity.angular_mean[4]");
        fn changed(change: impl Fn(&mut Results)) -> String {
            let mut results = fixture::results();
            change(&mut results);
            serde_json::to_string(&results).unwrap()
        }
        fn future(results: &mut Results) -> &mut SkipAverage {
            let skip = results.probes.skip.as_mut().unwrap();
            skip.get_mut(&SkipMode::Future).unwrap().get_mut(&SkipPart::Layer).unwrap()
        }
        let text = changed(|results| future(results).layer_effect.mean[2].push(0.0));
        refuse(&text, "probes.skip.future.layer.layer_effect.mean[2] has 31 values where 30 are needed");
        let text = changed(|results| future(results).output_effect.as_mut().unwrap().max.clear());
        refuse(&text, "probes.skip.future.layer.output_effect.max");
        let text = changed(|results| drop(results.probes.erasure[1].effect.pop()));
        refuse(&text, "probes.erasure[1].effect has 30 values where 31 are needed");
        let text = changed(|results| drop(results.probes.erasure[1].tokens.pop()));
        refuse(
            &text,
            "probes.erasure[1].effect[0] has 5 values where 4 are needed, one for each of the tokens",
        );
        let text = changed(|results| results.probes.gradients[0].gradients.attribution[7].clear());
        refuse(&text, "probes.gradients[0].attribution[7]");
        let text = changed(|results| results.probes.gradients[0].gradients.nodes.truncate(3));
        refuse(&text, "probes.gradients[0].nodes");
        let text = changed(|results| {
            results.probes.gradients[0].gradients.interval_error.as_mut().unwrap().truncate(3);
        });
        refuse(&text, "probes.gradients[0].interval_error");
        let histogram = |results: &mut Results, edges: &[f64]| {
            results.uncertainty.as_mut().unwrap().rules[1].histogram.as_mut().unwrap().edges = edges.to_vec();
        };
        refuse(&changed(|results| histogram(results, &[1.0, 2.0])), "uncertainty.rules[1].histogram.edges");
        refuse(&changed(|results| histogram(results, &[1.0, 2.0, 1.5])), "does not ascend");
        let mut results = fixture::results();
        results.model.layers = usize::MAX;
        refuse(&serde_json::to_string(&results).unwrap(), "model.layers");
    }
}
