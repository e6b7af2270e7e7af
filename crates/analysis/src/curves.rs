//! The curves of each prompt, the depth rules on any weighting of the prompts, and the rows of the
//! depth table.

use crate::Error;
use fathom_depth::{
    Curves, Depth, Interval, Resampling, Rule, Thresholds, depth, effects, pool, with_interval,
};
use fathom_results::{SETTLING_THRESHOLD_BITS, Sample};
use fathom_results::{SkipMode, SkipPart};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// Bootstrap settings, the same in every part of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapOptions {
    /// The cut-offs of the rules.
    pub thresholds: Thresholds,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
}

impl BootstrapOptions {
    /// Resamples of the bootstrap, unless told otherwise: the ends of an interval move by a few
    /// hundredths of its width from seed to seed.
    pub const RESAMPLES: usize = 2000;

    /// The usual cut-offs and number of resamples.
    pub fn seeded(seed: u64) -> Self {
        Self { thresholds: Thresholds::default(), resamples: Self::RESAMPLES, seed }
    }
}

/// A curve over layers that runs can be compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// What attention adds, relative to the stream.
    NormAttn,
    /// What the MLP adds.
    NormMlp,
    /// What the whole layer adds.
    NormLayer,
    /// The cosine of what attention adds with the stream.
    CosineAttn,
    /// Of what the MLP adds.
    CosineMlp,
    /// Of what the whole layer adds.
    CosineLayer,
    /// KL(lens || output) in nats.
    KlLensFinal,
    /// Top-5 overlap of lens and output.
    Overlap,
    /// Block influence.
    BlockInfluence,
    /// Mean effect of skipping a layer on the later ones, of the largest effects of any prompt.
    SkipLayerMax,
    /// The same, of the mean effects over prompts.
    SkipLayerMean,
    /// Effect of skipping a layer on the output, the largest of any prompt.
    SkipOutputMax,
    /// The same, as a mean over prompts.
    SkipOutputMean,
}

impl Curve {
    /// Every curve, in the order in which they are reported.
    pub const ALL: [Self; 13] = [
        Self::NormAttn,
        Self::NormMlp,
        Self::NormLayer,
        Self::CosineAttn,
        Self::CosineMlp,
        Self::CosineLayer,
        Self::KlLensFinal,
        Self::Overlap,
        Self::BlockInfluence,
        Self::SkipLayerMax,
        Self::SkipLayerMean,
        Self::SkipOutputMax,
        Self::SkipOutputMean,
    ];

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NormAttn => "norm_attn",
            Self::NormMlp => "norm_mlp",
            Self::NormLayer => "norm_layer",
            Self::CosineAttn => "cosine_attn",
            Self::CosineMlp => "cosine_mlp",
            Self::CosineLayer => "cosine_layer",
            Self::KlLensFinal => "kl_lens_final",
            Self::Overlap => "overlap",
            Self::BlockInfluence => "block_influence",
            Self::SkipLayerMax => "skip_layer_max",
            Self::SkipLayerMean => "skip_layer_mean",
            Self::SkipOutputMax => "skip_output_max",
            Self::SkipOutputMean => "skip_output_mean",
        }
    }

    /// Whether it is the largest of any prompt, which resamples say nothing about: none has a larger
    /// one.
    pub fn is_largest(self) -> bool {
        matches!(self, Self::SkipLayerMax | Self::SkipOutputMax)
    }
}

/// What is known of a prompt beside its curves.
#[derive(Clone, Debug, PartialEq)]
struct Prompt {
    id: String,
    /// The hash of its text; absent from older samples.
    hash: Option<String>,
    /// Its text as its tokens show it.
    text: String,
    tokens: f64,
}

/// The curves of one kind, one a prompt.
type PerPrompt = Vec<Vec<f64>>;

/// The effects of skipping whole layers of one prompt on later tokens. A prompt too short for any
/// position has none.
#[derive(Clone, Debug, PartialEq)]
struct Skipped {
    measured: bool,
    /// `[L][L]`, skipped layer first, in one row.
    layers: Vec<f64>,
    /// The mean of each row over the later layers, `[L]`.
    later: Vec<f64>,
    /// `[L]`.
    output: Vec<f64>,
}

/// The curves of each prompt of a run, without the values of single tokens; a probe that not every
/// prompt has is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptCurves {
    layers: usize,
    prompts: Vec<Prompt>,
    /// The curves of contributions, lens and similarity, in the order of [`Curve::ALL`].
    plain: [Option<PerPrompt>; PLAIN],
    /// Sum of the settle layers of each prompt's tokens, and the number of those.
    settling: Option<Vec<(f64, f64)>>,
    skip: Option<Vec<Skipped>>,
}

/// Which effect of skipping the prompts have together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The largest of any prompt.
    Largest,
    /// The mean over prompts.
    Mean,
}

/// Curves that are token-weighted means, the first of [`Curve::ALL`].
const PLAIN: usize = 9;

impl PromptCurves {
    /// The curves of the samples of a model. Samples of question-answer pairs are left out, and
    /// samples of one id, as a resumed run leaves them, are put together.
    ///
    /// # Errors
    /// [`Error::Length`] for the first curve that does not fit the number of layers, and
    /// [`Error::NoLayers`].
    pub fn of(samples: &[Sample], layers: usize) -> Result<Self, Error> {
        if layers == 0 {
            return Err(Error::NoLayers);
        }
        let samples = whole(samples);
        let mut plain = [const { None }; PLAIN];
        for (plain, curve) in plain.iter_mut().zip(Curve::ALL) {
            *plain = per_prompt(&samples, curve, layers)?;
        }
        let settled = |s: &Parts<'_>| {
            let layers = &s.find(|s| s.settling.as_ref())?.layers;
            Some((layers.iter().map(|layer| *layer as f64).sum(), layers.len() as f64))
        };
        let skip: Option<Vec<Skipped>> = match samples.iter().any(|s| s.find(|s| s.skip.as_ref()).is_none()) {
            true => None,
            false => Some(samples.iter().map(|s| skipped(s, layers)).collect::<Result<_, _>>()?),
        };
        // Where no prompt has such effects, skipping was measured in other modes alone.
        let skip = skip.filter(|all| all.iter().any(|one| one.measured));
        let prompt = |s: &Parts<'_>| Prompt {
            id: s.0[0].id.clone(),
            hash: s.find(|s| s.text_sha256.clone()),
            text: shown_text(&s.0[0].pieces),
            tokens: s.0[0].tokens.len() as f64,
        };
        Ok(Self {
            layers,
            prompts: samples.iter().map(prompt).collect(),
            plain,
            settling: samples.iter().map(settled).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()),
            skip,
        })
    }

    /// L, the number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// The ids of the prompts, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.prompts.iter().map(|prompt| prompt.id.as_str())
    }

    /// One for each prompt: the weights of the run as it was measured.
    pub fn once(&self) -> Vec<u32> {
        vec![1; self.prompts.len()]
    }

    /// For each prompt of `self` its place in `other`, where both have the same prompts. Otherwise how
    /// many are common.
    ///
    /// Prompts are the same where the hashes of their texts are, whatever their ids. Where a run has no
    /// hashes, as older ones, prompts are the same that have one id and whose tokens show one text.
    ///
    /// # Errors
    /// The number of common prompts.
    pub fn places_in(&self, other: &Self) -> Result<Vec<usize>, usize> {
        let found = match (self.by_hash(), other.by_hash()) {
            (Some(these), Some(those)) => {
                let places: HashMap<_, _> = those.into_iter().enumerate().map(|(i, key)| (key, i)).collect();
                these.iter().filter_map(|key| places.get(key).copied()).collect()
            }
            _ => self.places_by_id(other),
        };
        let same = found.len() == self.prompts.len() && found.len() == other.prompts.len();
        if same { Ok(found) } else { Err(found.len()) }
    }

    /// The hash of each prompt's text, and how many before it have the same, if all have one.
    fn by_hash(&self) -> Option<Vec<(&str, usize)>> {
        let hashes: Vec<&str> =
            self.prompts.iter().map(|prompt| prompt.hash.as_deref()).collect::<Option<_>>()?;
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let key = |hash| {
            let before = seen.entry(hash).or_default();
            *before += 1;
            (hash, *before - 1)
        };
        Some(hashes.into_iter().map(key).collect())
    }

    fn places_by_id(&self, other: &Self) -> Vec<usize> {
        let places: HashMap<&str, usize> =
            other.prompts.iter().enumerate().map(|(i, prompt)| (prompt.id.as_str(), i)).collect();
        let place = |prompt: &Prompt| {
            let place = *places.get(prompt.id.as_str())?;
            same_text(&prompt.text, &other.prompts[place].text).then_some(place)
        };
        self.prompts.iter().filter_map(place).collect()
    }

    /// Whether a rule's probe was run on every prompt.
    pub fn feeds(&self, rule: Rule) -> bool {
        match rule {
            Rule::Cosine => self.plain[3..6].iter().all(Option::is_some),
            Rule::Kl | Rule::KlLast => self.plain[6].is_some(),
            Rule::Overlap => self.plain[7].is_some(),
            Rule::Settling => self.settling.is_some(),
            Rule::SkipLayer | Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => {
                self.skip.is_some()
            }
        }
    }

    /// What `rule` reads, on prompts with these weights; `over` matters to rules on skip effects.
    pub(crate) fn pooled(&self, rule: Rule, weights: &[u32], over: Over) -> Option<Pooled> {
        let mut pooled = Pooled { layers: self.layers, ..Pooled::default() };
        match rule {
            Rule::Cosine => {
                let mean = |curve| self.mean(curve, weights);
                pooled.cosine =
                    Some([mean(Curve::CosineAttn)?, mean(Curve::CosineMlp)?, mean(Curve::CosineLayer)?]);
            }
            Rule::Kl | Rule::KlLast => pooled.kl = Some(self.mean(Curve::KlLensFinal, weights)?),
            Rule::Overlap => pooled.overlap = Some(self.mean(Curve::Overlap, weights)?),
            Rule::Settling => {
                let each = self.settling.as_ref()?.iter().zip(weights).map(|(s, w)| (s, f64::from(*w)));
                let (sum, tokens) = each.fold((0.0, 0.0), |all, (s, w)| (all.0 + s.0 * w, all.1 + s.1 * w));
                pooled.settle = Some(sum / tokens);
            }
            Rule::SkipLayer => {
                let flat = self.skip(weights, |s| &s.layers, over)?;
                pooled.layer_effect = Some(flat.chunks(self.layers).map(<[f64]>::to_vec).collect());
            }
            Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => {
                pooled.output_effect = Some(self.skip(weights, |s| &s.output, over)?);
            }
        }
        Some(pooled)
    }

    /// A rule on prompts with these weights, as often as each was drawn, without an interval; nothing
    /// where its probe was not run or no prompt has weight.
    pub fn apply(&self, rule: Rule, weights: &[u32], thresholds: &Thresholds) -> Option<Depth> {
        let depth = self.pooled(rule, weights, Over::Largest)?.depth(rule, thresholds);
        let mean = rule.reads_largest().then(|| self.estimate(rule, weights, thresholds)).flatten();
        Some(Depth { mean, ..depth })
    }

    /// The number that intervals and comparisons of a rule are about ([`Depth::estimate`]), on prompts
    /// with these weights.
    pub fn estimate(&self, rule: Rule, weights: &[u32], thresholds: &Thresholds) -> Option<f64> {
        self.pooled(rule, weights, Over::Mean)?.depth(rule, thresholds).value
    }

    /// The estimate of a rule on each resample, as an interval reads it.
    pub(crate) fn resampled(
        &self,
        rule: Rule,
        resampling: &Resampling,
        thresholds: &Thresholds,
    ) -> Vec<Option<f64>> {
        let mut values = resampling.each(|weights| self.estimate(rule, weights, thresholds));
        self.take_bias_off(rule, thresholds, &mut values);
        values
    }

    /// Takes the bias off the estimates of a biased rule on resamples. Resamples are off from all
    /// prompts as these are off from the truth: to lie about the truth, their values move by twice as
    /// much.
    pub(crate) fn take_bias_off(&self, rule: Rule, thresholds: &Thresholds, values: &mut [Option<f64>]) {
        let Some(estimate) = self.estimate(rule, &self.once(), thresholds).filter(|_| rule.is_biased())
        else {
            return;
        };
        let found: Vec<f64> = values.iter().flatten().copied().collect();
        let bias = found.iter().sum::<f64>() / found.len().max(1) as f64 - estimate;
        let layers = self.layers as f64;
        values.iter_mut().flatten().for_each(|value| *value = (*value - 2.0 * bias).clamp(0.0, layers));
    }

    /// A curve on prompts with these weights, `[L]`; nothing where its probe was not run or no prompt
    /// has weight.
    pub fn curve(&self, curve: Curve, weights: &[u32]) -> Option<Vec<f64>> {
        match curve {
            Curve::SkipLayerMax => {
                let flat = self.skip(weights, |s| &s.layers, Over::Largest)?;
                let rows: Vec<Vec<f64>> = flat.chunks(self.layers).map(<[f64]>::to_vec).collect();
                effects::on_later_layers(&rows)
            }
            Curve::SkipOutputMax => self.skip(weights, |s| &s.output, Over::Largest),
            Curve::SkipLayerMean => self.skip(weights, |s| &s.later, Over::Mean),
            Curve::SkipOutputMean => self.skip(weights, |s| &s.output, Over::Mean),
            _ => {
                let mut mean = self.mean(curve, weights)?;
                // The lens has an identity check at the end, which says nothing of the model.
                mean.truncate(self.layers);
                Some(mean)
            }
        }
    }

    /// A token-weighted mean.
    fn mean(&self, curve: Curve, weights: &[u32]) -> Option<Vec<f64>> {
        let curves = self.plain.get(curve as usize)?.as_ref()?;
        let each = self.prompts.iter().zip(curves);
        let samples: Vec<pool::Sample<'_>> =
            each.map(|(prompt, curve)| pool::Sample { tokens: prompt.tokens, curve }).collect();
        pool::mean(&samples, weights)
    }

    /// An effect of skipping: the largest of any prompt with weight, or the mean over those that were
    /// long enough, each counting the same.
    fn skip(&self, weights: &[u32], part: impl Fn(&Skipped) -> &Vec<f64>, over: Over) -> Option<Vec<f64>> {
        let each = self.skip.as_ref()?.iter();
        if over == Over::Largest {
            return pool::max(&each.map(|s| part(s).as_slice()).collect::<Vec<_>>(), weights);
        }
        let samples: Vec<pool::Sample<'_>> =
            each.map(|s| pool::Sample { tokens: f64::from(u8::from(s.measured)), curve: part(s) }).collect();
        pool::mean(&samples, weights)
    }
}

/// Curves of some prompts together, those that one rule reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pooled {
    layers: usize,
    cosine: Option<[Vec<f64>; 3]>,
    kl: Option<Vec<f64>>,
    overlap: Option<Vec<f64>>,
    layer_effect: Option<Vec<Vec<f64>>>,
    output_effect: Option<Vec<f64>>,
    settle: Option<f64>,
}

impl Pooled {
    pub(crate) fn depth(&self, rule: Rule, thresholds: &Thresholds) -> Depth {
        let curves = Curves {
            layers: self.layers,
            cosine: self.cosine.as_ref().map(|[attn, mlp, layer]| [&attn[..], &mlp[..], &layer[..]]),
            kl_lens_final: self.kl.as_deref(),
            overlap: self.overlap.as_deref(),
            layer_effect: self.layer_effect.as_deref(),
            output_effect: self.output_effect.as_deref(),
            settle_mean: self.settle,
        };
        // The probe has applied this cut-off already; another would be a false claim.
        let thresholds = thresholds.with(Rule::Settling, SETTLING_THRESHOLD_BITS);
        depth(rule, &curves, &thresholds)
    }
}

/// The depth table: every rule that the probes of these samples can feed, with its 95 % bootstrap
/// interval over prompts.
///
/// # Errors
/// [`Error::Length`] where a curve does not fit the number of layers.
pub fn rows(samples: &[Sample], layers: usize, settings: &BootstrapOptions) -> Result<Vec<Depth>, Error> {
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    Ok(rows_of(&PromptCurves::of(samples, layers)?, settings))
}

/// As [`rows`], of curves that are there already.
pub fn rows_of(curves: &PromptCurves, settings: &BootstrapOptions) -> Vec<Depth> {
    let once = curves.once();
    let row = |rule: Rule| {
        let measured = curves.apply(rule, &once, &settings.thresholds)?;
        if measured.estimate().is_none() || once.len() < 2 {
            return Some(measured);
        }
        let interval = Resampling::of(once.len(), settings.resamples, settings.seed).and_then(|resampling| {
            Interval::of(curves.resampled(rule, &resampling, &settings.thresholds), resampling.correction())
        });
        Some(with_interval(measured, &interval))
    };
    Rule::ALL.into_iter().filter_map(row).collect()
}

/// The samples of one prompt, at least one.
struct Parts<'a>(Vec<&'a Sample>);

impl<'a> Parts<'a> {
    /// What the latest of them has of a probe.
    fn find<T>(&self, probe: impl Fn(&'a Sample) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|sample| probe(sample))
    }
}

/// The samples of prompts, those of one id together, in the order in which the ids first occur.
/// Prompts that could not be measured are left out.
fn whole(samples: &[Sample]) -> Vec<Parts<'_>> {
    let failed: HashSet<&str> =
        samples.iter().filter(|s| s.failed.is_some()).map(|s| s.id.as_str()).collect();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<Parts<'_>> = Vec::new();
    let measured = |s: &&Sample| s.qa.is_none() && !failed.contains(s.id.as_str());
    for sample in samples.iter().filter(measured) {
        match places.get(sample.id.as_str()) {
            Some(place) => all[*place].0.push(sample),
            None => {
                places.insert(sample.id.as_str(), all.len());
                all.push(Parts(vec![sample]));
            }
        }
    }
    all
}

/// One curve of every prompt, if every prompt has it.
fn per_prompt(samples: &[Parts<'_>], curve: Curve, layers: usize) -> Result<Option<PerPrompt>, Error> {
    let expected = if matches!(curve, Curve::KlLensFinal | Curve::Overlap) { layers + 1 } else { layers };
    let mut all = Vec::with_capacity(samples.len());
    for sample in samples {
        let Some(values) = sample.find(|s| plain_curve(s, curve)) else { return Ok(None) };
        // Curves without the identity check at the end are as good.
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
        Curve::BlockInfluence => &sample.similarity.as_ref()?.block_influence,
        Curve::SkipLayerMax | Curve::SkipLayerMean | Curve::SkipOutputMax | Curve::SkipOutputMean => {
            return None;
        }
    })
}

/// The effects of one prompt, zeros for one too short, which leave a maximum over prompts as it is.
fn skipped(sample: &Parts<'_>, layers: usize) -> Result<Skipped, Error> {
    let future =
        |s: &'_ Sample| s.skip.as_ref()?.effects.get(&SkipMode::Future)?.get(&SkipPart::Layer).cloned();
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

/// The text of a prompt as its tokens show it, without spaces, in which tokenizers differ, and without
/// the marks that some put around a text. Where a token ends within a character, it shows U+FFFD.
fn shown_text(pieces: &[String]) -> String {
    let mark = |piece: &String| {
        let inside = |open, close| piece.len() > 2 && piece.starts_with(open) && piece.ends_with(close);
        inside('<', '>') || inside('[', ']')
    };
    let first = usize::from(pieces.first().is_some_and(mark));
    let end = pieces.len() - usize::from(pieces.len() > first && pieces.last().is_some_and(mark));
    let text = pieces[first..end].iter().flat_map(|piece| piece.chars());
    text.filter(|c| !c.is_whitespace()).collect()
}

/// What a tokenizer shows of a part of a character.
const BROKEN: char = char::REPLACEMENT_CHARACTER;

/// Whether two texts are the same as far as they are shown. Where only one has broken characters, each
/// run of those stands for some characters outside ASCII of the other. Where both have, in different
/// places, nothing is sure, and they are not taken for the same.
fn same_text(a: &str, b: &str) -> bool {
    match (a.contains(BROKEN), b.contains(BROKEN)) {
        (true, false) => shows(a, b),
        (false, true) => shows(b, a),
        _ => a == b,
    }
}

/// Whether `shown` is `text` with runs of characters outside ASCII broken.
fn shows(shown: &str, text: &str) -> bool {
    let mut shown: Vec<char> = shown.chars().collect();
    // A character may show as several parts.
    shown.dedup_by(|a, b| *a == BROKEN && *b == BROKEN);
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    // The place after the latest broken run, and how much of the text was read with it.
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (shown.get(at), text.get(read)) {
            (None, None) => return true,
            (Some(&BROKEN), Some(c)) if !c.is_ascii() => {
                (at, read) = (at + 1, read + 1);
                back = Some((at, read));
            }
            (Some(a), Some(b)) if a == b => (at, read) = (at + 1, read + 1),
            _ => match back {
                // The run stands for one character more.
                Some((after, end)) if text.get(end).is_some_and(|c| !c.is_ascii()) => {
                    (at, read) = (after, end + 1);
                    back = Some((at, read));
                }
                _ => return false,
            },
        }
    }
}
