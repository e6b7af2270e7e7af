//! Which prompts of two runs have the same text.

use super::{BootstrapOptions, PromptCurves};
use fathom_depth::{BootstrapError, Resampling};
use std::collections::HashMap;

/// The identity and the length of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prompt {
    pub(super) id: String,
    /// The hash of its text; older samples have none.
    pub(super) hash: Option<String>,
    /// Its text, decoded from its tokens.
    pub(super) text: String,
    pub(super) tokens: f64,
    /// Those that the lens reads.
    pub(super) lens_tokens: f64,
    /// Whether it is a masked text, of which there may be several.
    pub(super) is_masked: bool,
}

impl PromptCurves {
    /// For each prompt of `self`, the index of the same prompt in `other`.
    ///
    /// Prompts are the same if the hashes of their texts are, whatever their ids. If a run has no hashes,
    /// prompts are the same if their ids and their decoded tokens agree.
    ///
    /// # Errors
    /// The number of common prompts, if not all are.
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

    /// The text of each prompt, counted from 0. Prompts are texts of their own, apart from a text that is masked in several
    /// ways.
    pub(crate) fn texts(&self) -> Vec<usize> {
        let (mut seen, mut texts) = (HashMap::<&str, usize>::new(), Vec::new());
        let mut count = 0;
        for prompt in &self.prompts {
            let own = match prompt.hash.as_deref().filter(|_| prompt.is_masked) {
                Some(hash) => *seen.entry(hash).or_insert(count),
                None => count,
            };
            count = count.max(own + 1);
            texts.push(own);
        }
        texts
    }

    /// The number of texts, which resamples draw.
    pub(crate) fn text_count(&self) -> usize {
        self.texts().into_iter().max().map_or(0, |last| last + 1)
    }

    /// The resamples of the texts.
    pub(crate) fn resampling(&self, options: &BootstrapOptions) -> Result<Resampling, BootstrapError> {
        Resampling::of_texts(&[self.texts()], options.resamples, options.seed)
    }

    /// The hash of each prompt's text and the number of earlier prompts with the same hash; `None` unless
    /// all have a hash.
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
}

/// The text of a prompt decoded from its tokens, without white space and without special tokens at its
/// ends, in which tokenizers differ. A token that ends inside a character decodes to U+FFFD.
pub(super) fn shown_text(pieces: &[String]) -> String {
    let mark = |piece: &String| {
        let inside = |open, close| piece.len() > 2 && piece.starts_with(open) && piece.ends_with(close);
        inside('<', '>') || inside('[', ']')
    };
    let first = usize::from(pieces.first().is_some_and(mark));
    let end = pieces.len() - usize::from(pieces.len() > first && pieces.last().is_some_and(mark));
    let text = pieces[first..end].iter().flat_map(|piece| piece.chars());
    text.filter(|c| !c.is_whitespace()).collect()
}

/// What a part of a character decodes to.
const BROKEN: char = char::REPLACEMENT_CHARACTER;

/// Whether two decoded texts agree. If only one has broken characters, each run of them matches some
/// characters outside ASCII of the other. If both have some in different places, they count as
/// different.
fn same_text(a: &str, b: &str) -> bool {
    match (a.contains(BROKEN), b.contains(BROKEN)) {
        (true, false) => shows(a, b),
        (false, true) => shows(b, a),
        _ => a == b,
    }
}

/// Whether `shown` is `text` with some runs of characters outside ASCII broken.
fn shows(shown: &str, text: &str) -> bool {
    let mut shown: Vec<char> = shown.chars().collect();
    // One character may decode to several broken parts.
    shown.dedup_by(|a, b| *a == BROKEN && *b == BROKEN);
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where to backtrack to: the position after the latest broken run, and the text it has matched so far.
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
                // Let the run match one more character.
                Some((after, end)) if text.get(end).is_some_and(|c| !c.is_ascii()) => {
                    (at, read) = (after, end + 1);
                    back = Some((at, read));
                }
                _ => return false,
            },
        }
    }
}
