//! From samples to the curves of each prompt.

use super::matching::{Prompt, shown_text};
use super::{Curve, PLAIN, PerPrompt, PromptCurves, Skipped};
use crate::Error;
use fathom_depth::effects;
use fathom_results::{Sample, SkipMode, SkipPart};
use std::collections::{HashMap, HashSet};

impl PromptCurves {
    /// The curves of the samples of a model. Samples of question-answer pairs are skipped, and samples
    /// with the same id, as a resumed run writes them, are merged.
    ///
    /// # Errors
    /// [`Error::Length`] for the first curve that does not fit the number of layers, and
    /// [`Error::NoLayers`].
    pub fn of(samples: &[Sample], layers: usize) -> Result<Self, Error> {
        if layers == 0 {
            return Err(Error::NoLayers);
        }
        let samples = by_prompt(samples);
        let mut plain = [const { None }; PLAIN];
        for (plain, curve) in plain.iter_mut().zip(Curve::ALL) {
            *plain = per_prompt(&samples, curve, layers)?;
        }
        let settled = |s: &SamplesOfPrompt<'_>| {
            let layers = &s.find(|s| s.settling.as_ref())?.layers;
            Some((layers.iter().map(|layer| *layer as f64).sum(), layers.len() as f64))
        };
        let skip: Option<Vec<Skipped>> = match samples.iter().any(|s| s.find(|s| s.skip.as_ref()).is_none()) {
            true => None,
            false => Some(samples.iter().map(|s| skipped(s, layers)).collect::<Result<_, _>>()?),
        };
        // If no prompt has such effects, skip was measured only in other modes.
        let skip = skip.filter(|all| all.iter().any(|one| one.measured));
        let prompt = |s: &SamplesOfPrompt<'_>| Prompt {
            id: s.0[0].id.clone(),
            hash: s.find(|s| s.text_sha256.clone()),
            text: shown_text(&s.0[0].pieces),
            tokens: s.0[0].own_tokens() as f64,
            lens_tokens: s.0[0].lens_tokens() as f64,
            is_masked: s.0[0].masked.is_some(),
        };
        Ok(Self {
            layers,
            prompts: samples.iter().map(prompt).collect(),
            plain,
            settling: samples.iter().map(settled).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()),
            skip,
            loss: samples.iter().map(output_loss).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()),
        })
    }
}

/// The samples of one prompt, at least one.
struct SamplesOfPrompt<'a>(Vec<&'a Sample>);

impl<'a> SamplesOfPrompt<'a> {
    /// The latest result of a probe.
    fn find<T>(&self, probe: impl Fn(&'a Sample) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|sample| probe(sample))
    }
}

/// The sum of the losses at the output and their number; `None` if they were not measured.
fn output_loss(sample: &SamplesOfPrompt<'_>) -> Option<(f64, f64)> {
    let lens = sample.find(|s| s.lens.as_ref())?;
    match sample.0[0].predicted_tokens() {
        0 => Some((0.0, 0.0)),
        predicted => {
            let predicted = predicted as f64;
            lens.nll.last().map(|mean| (mean * predicted, predicted))
        }
    }
}

/// Groups samples by id, in the order in which ids first occur. Prompts that failed are skipped.
fn by_prompt(samples: &[Sample]) -> Vec<SamplesOfPrompt<'_>> {
    let failed: HashSet<&str> =
        samples.iter().filter(|s| s.failed.is_some()).map(|s| s.id.as_str()).collect();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<SamplesOfPrompt<'_>> = Vec::new();
    let measured = |s: &&Sample| s.qa.is_none() && !failed.contains(s.id.as_str());
    for sample in samples.iter().filter(measured) {
        match places.get(sample.id.as_str()) {
            Some(place) => all[*place].0.push(sample),
            None => {
                places.insert(sample.id.as_str(), all.len());
                all.push(SamplesOfPrompt(vec![sample]));
            }
        }
    }
    all
}

/// A curve of every prompt; `None` unless every prompt has it.
fn per_prompt(
    samples: &[SamplesOfPrompt<'_>],
    curve: Curve,
    layers: usize,
) -> Result<Option<PerPrompt>, Error> {
    let expected =
        if matches!(curve, Curve::KlLensFinal | Curve::Overlap | Curve::Top1) { layers + 1 } else { layers };
    let mut all = Vec::with_capacity(samples.len());
    for sample in samples {
        let Some(values) = sample.find(|s| plain_curve(s, curve)) else { return Ok(None) };
        // A lens curve may lack its last value, which compares the output with itself.
        if values.len() != expected && values.len() != layers {
            return Err(Error::length(&sample.0[0].id, curve, values.len(), expected, layers));
        }
        all.push(values[..layers].to_vec());
    }
    Ok((!all.is_empty()).then_some(all))
}

fn plain_curve(sample: &Sample, curve: Curve) -> Option<&Vec<f64>> {
    let (contributions, lens) = (sample.contributions.as_ref(), sample.lens.as_ref());
    Some(match curve {
        Curve::NormAttn => &contributions?.relative_norm.attn.mean,
        Curve::NormMlp => &contributions?.relative_norm.mlp.mean,
        Curve::NormLayer => &contributions?.relative_norm.layer.mean,
        Curve::CosineAttn => &contributions?.cosine.attn.mean,
        Curve::CosineMlp => &contributions?.cosine.mlp.mean,
        Curve::CosineLayer => &contributions?.cosine.layer.mean,
        Curve::KlLensFinal => &lens?.kl_lens_final,
        Curve::Overlap => &lens?.overlap,
        // Rules of causal models do not read it.
        Curve::Top1 => sample.masked.as_ref().and(lens).map(|lens| &lens.top1_agreement)?,
        Curve::BlockInfluence => &sample.similarity.as_ref()?.block_influence,
        Curve::Angle => &sample.angles.as_ref()?.step,
        Curve::SkipLayerMax | Curve::SkipLayerMean | Curve::SkipOutputMax | Curve::SkipOutputMean => {
            return None;
        }
    })
}

/// The effects of one prompt. A prompt that is too short gets zeros, which do not change a maximum over
/// prompts.
fn skipped(sample: &SamplesOfPrompt<'_>, layers: usize) -> Result<Skipped, Error> {
    let future = |s: &'_ Sample| {
        s.skip.as_ref()?.effects.get(&SkipMode::far(s.masked.is_some()))?.get(&SkipPart::Layer).cloned()
    };
    let found = sample.find(future).and_then(|effects| Some((effects.layer_effect, effects.output_effect?)));
    let Some((rows, output)) = found else {
        let none = vec![0.0; layers];
        let all = vec![0.0; layers * layers];
        return Ok(Skipped { measured: false, layers: all, later: none.clone(), output: none });
    };
    let wrong = |curve, found| Error::length(&sample.0[0].id, curve, found, layers, layers);
    let bad_row = rows.iter().map(Vec::len).find(|found| *found != layers);
    if rows.len() != layers || bad_row.is_some() {
        return Err(wrong(Curve::SkipLayerMax, bad_row.unwrap_or(rows.len())));
    }
    if output.len() != layers {
        return Err(wrong(Curve::SkipOutputMax, output.len()));
    }
    let later = effects::on_later_layers(&rows).unwrap_or_default();
    Ok(Skipped { measured: true, layers: rows.concat(), later, output })
}
