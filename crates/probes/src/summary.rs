//! The summary of all samples.

use crate::{angles, contributions, experts, lens, order, settling, similarity, skip};
use fathom_results::{ErasurePair, Gradients, GradientsPair, ProbeResults, QaPair, Sample};

/// Combines the samples of prompts and pairs of a model with `depth` layers: `probes` of results.json. A probe
/// without samples is absent.
pub fn summarise(samples: &[Sample], depth: usize) -> ProbeResults {
    fn some<T>(parts: Vec<T>) -> Option<Vec<T>> {
        (!parts.is_empty()).then_some(parts)
    }
    let of = samples.iter();
    let weight = |s: &'_ Sample| s.tokens.len();
    let is_masked = samples.iter().any(|s| s.masked.is_some());
    let lens = some(of.clone().filter_map(|s| Some((s.lens.as_ref()?, s.lens_tokens()))).collect());
    let similar = some(of.clone().filter_map(|s| Some((s.similarity.as_ref()?, s.own_tokens()))).collect());
    let turns = some(of.clone().filter_map(|s| Some((s.angles.as_ref()?, weight(s)))).collect());
    let taken = some(of.clone().filter_map(|s| Some((s.experts.as_ref()?, weight(s)))).collect());
    let ordered = some(of.clone().filter_map(|s| Some((s.order.as_ref()?, weight(s)))).collect());
    ProbeResults {
        contributions: some(of.clone().filter_map(|s| s.contributions.as_ref()).collect())
            .map(|s| contributions::summarise(&s)),
        lens: lens.map(|s| if is_masked { lens::summarise_masked(&s) } else { lens::summarise(&s) }),
        similarity: similar.map(|s| similarity::summarise(&s)),
        angles: turns.map(|s| angles::summarise(&s)),
        experts: taken.map(|s| experts::summarise(&s)),
        settling: some(of.clone().filter_map(|s| s.settling.as_ref()).collect())
            .map(|s| settling::summarise(&s, depth)),
        skip: some(of.clone().filter_map(|s| s.skip.as_ref()).collect()).map(|s| skip::summarise(&s)),
        order: ordered.map(|s| order::summarise(&s)),
        erasure: of.clone().filter_map(erasure_pair).collect(),
        gradients: of.flat_map(|s| s.gradients.iter().flatten().map(|g| gradients_pair(s, g))).collect(),
        other: serde_json::Map::new(),
    }
}

fn erasure_pair(sample: &Sample) -> Option<ErasurePair> {
    let QaPair { question, answer, .. } = sample.qa.clone().unwrap_or_default();
    Some(ErasurePair { question, answer, tokens: sample.pieces.clone(), effect: sample.erasure.clone()? })
}

fn gradients_pair(sample: &Sample, gradients: &Gradients) -> GradientsPair {
    let QaPair { question, answer, .. } = sample.qa.clone().unwrap_or_default();
    GradientsPair { question, answer, tokens: sample.pieces.clone(), gradients: gradients.clone() }
}
