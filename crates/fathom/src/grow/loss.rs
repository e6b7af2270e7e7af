//! The loss of a model on the held-out texts.

use crate::observer::counted;
use crate::prompts::OpenSet;
use crate::texts::{Division, Part, Texts};
use crate::{Error, Grow, Observer, Result, Unit, memory};
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_results::{SkipPart, Work};
use fathom_surgery::{
    EvaluateOptions, Reading, Removal, Text, Variant, count, evaluate, group_sizes, logits,
};

/// All texts are held out.
const HELDOUT: [Part; 1] = [("held-out", "", 256)];

/// Texts on which logits are compared, and tokens of each at most.
const COMPARED: usize = 6;
const COMPARED_TOKENS: usize = 48;

/// Reads the held-out texts.
pub(super) fn read<B: Backend>(
    g: &Grow,
    data: OpenSet,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<Texts> {
    let division = Division {
        options: &g.options,
        limit: g.texts().limit,
        heldout: None,
        together: &HELDOUT,
        apart: &HELDOUT,
        decides: "",
    };
    let mut all = division.read(data, loaded, &|_, _| Ok(()), observer)?;
    let texts = all.pop().unwrap_or_default();
    memory::check_texts(&loaded.model, texts.prompts.iter(), memory_of(g, &loaded.model))?;
    Ok(texts)
}

pub(super) fn memory_of<B: Backend>(g: &Grow, model: &Model<B>) -> u64 {
    g.options.memory.unwrap_or_else(|| memory::default_for(model))
}

/// Multiply-adds of [`losses`].
pub(super) fn macs<B: Backend>(model: &Model<B>, texts: &[Text]) -> u64 {
    count(model, texts, &[Variant::without(&Removal::nothing(SkipPart::Layer))])
}

/// The negative log-likelihood of each text, and the work.
pub(super) fn losses<B: Backend>(
    model: &Model<B>,
    texts: &[Text],
    memory: u64,
    (doing, observer): (&str, &dyn Observer),
) -> Result<(Vec<f64>, Work)> {
    let whole = Removal::nothing(SkipPart::Layer);
    let variants = [Variant::without(&whole)];
    let running = counted(observer, doing, Unit::MultiplyAdds, macs(model, texts));
    let options = EvaluateOptions { memory, on_progress: &|macs| running.advance(macs) };
    let (mut losses, mut work, mut first) = (Vec::new(), Work::default(), 0);
    for size in group_sizes(model, texts, 1, memory) {
        if observer.is_cancelled() {
            return Err(Error::Cancelled(format!("interrupted while {doing}; the same command goes on")));
        }
        let done = evaluate(model, &texts[first..first + size], &variants, Reading::Loss, &options)?;
        losses.extend(done.scores[0].iter().map(|score| score.nll));
        work += done.work;
        first += size;
    }
    Ok((losses, work))
}

/// The logits at the beginnings of some texts.
pub(super) fn some_logits<B: Backend>(model: &Model<B>, texts: &[Text]) -> Result<Vec<Vec<f32>>> {
    let whole = Removal::nothing(SkipPart::Layer);
    let beginning = |text: &Text| {
        let tokens = &text.tokens[..text.tokens.len().min(COMPARED_TOKENS)];
        Ok(logits(model, tokens, Variant::without(&whole))?)
    };
    texts.iter().take(COMPARED).map(beginning).collect()
}

/// The largest difference of two sets of logits; infinite where one is not a number on one side only.
pub(super) fn largest_difference(one: &[Vec<f32>], other: &[Vec<f32>]) -> f64 {
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    let differing = pairs.filter(|(a, b)| a.to_bits() != b.to_bits());
    let gaps = differing.map(|(a, b)| f64::from((a - b).abs()));
    gaps.map(|gap| if gap.is_nan() { f64::INFINITY } else { gap }).fold(0.0, f64::max)
}
