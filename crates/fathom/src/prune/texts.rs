//! The calibration and the held-out texts.

use crate::error::invalid;
use crate::job::read;
use crate::prompts::OpenSet;
use crate::tokenise::PromptTokenizer;
use crate::{Observer, Prune, Result};
use fathom_data::PromptSet;
use fathom_model::Backend;
use fathom_model::source::Loaded;
use fathom_probes::TokenizedPrompt;
use fathom_results::TextSet;
use fathom_results::text::counted;
use fathom_surgery::Text;
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Texts are for calibration if the first byte of their hash is below this: a quarter of all.
const CALIBRATION: u8 = 64;

/// The hash that divides texts is not that of the text alone, by which a file may be sorted.
const SALT: &str = "calibration";

/// The fewest held-out texts whose intervals deserve trust.
const FEW: usize = 30;

/// A set of texts as tokens.
pub(super) struct Texts {
    pub(super) about: TextSet,
    pub(super) prompts: Vec<TokenizedPrompt>,
    /// The same, every token but the first scored.
    pub(super) texts: Vec<Text>,
}

impl Texts {
    fn new(set: &PromptSet, id: String, prompts: Vec<TokenizedPrompt>) -> Self {
        let texts: Vec<Text> = prompts.iter().map(|p| Text::whole(p.tokens.clone())).collect();
        let tokens = texts.iter().map(|t| t.scored.len() as u64).sum();
        let ids: HashSet<&str> = prompts.iter().map(|p| p.id.as_str()).collect();
        let chosen = set.prompts.iter().filter(|p| ids.contains(p.id.as_str())).cloned().collect();
        let sha256 = PromptSet::new(&id, String::new(), chosen).sha256;
        Self { about: TextSet { id, texts: prompts.len(), tokens, sha256 }, prompts, texts }
    }
}

/// Reads both sets.
pub(super) fn read_both<B: Backend>(
    p: &Prune,
    data: OpenSet,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<[Texts; 2]> {
    let (set, prompts) = tokens_of(p, data, p.texts().limit, loaded, observer)?;
    let both = match p.heldout_texts() {
        Some(spec) => {
            let (heldout_set, heldout) =
                tokens_of(p, OpenSet::open(&spec, observer)?, spec.limit, loaded, observer)?;
            let both = [
                Texts::new(&set, set.id.clone(), prompts),
                Texts::new(&heldout_set, heldout_set.id.clone(), heldout),
            ];
            refuse_common(&both)?;
            both
        }
        None => {
            let (calibration, heldout): (Vec<_>, Vec<_>) = prompts.into_iter().partition(is_calibration);
            [
                Texts::new(&set, format!("{}, a quarter", set.id), calibration),
                Texts::new(&set, format!("{}, the rest", set.id), heldout),
            ]
        }
    };
    for (texts, what) in both.iter().zip(["calibration", "held-out"]) {
        if texts.texts.is_empty() {
            invalid!(
                "there is no {what} text; give more texts with --data, or both sets with --data and --heldout"
            );
        }
    }
    let heldout = both[1].texts.len();
    if heldout < FEW {
        observer.warn(&format!(
            "{} {} too few for a narrow interval; give more texts",
            counted(heldout as u64, "held-out text"),
            if heldout == 1 { "is" } else { "are" }
        ));
    }
    Ok(both)
}

/// A text's side depends on the text alone, not on its place in a file or on other texts.
fn is_calibration(prompt: &TokenizedPrompt) -> bool {
    draw(prompt)[0] < CALIBRATION
}

/// A hash that depends on the text alone.
fn draw(prompt: &TokenizedPrompt) -> [u8; 32] {
    let text = prompt.text_sha256.as_deref().unwrap_or(&prompt.id);
    Sha256::digest(format!("{SALT} {text}")).into()
}

/// The tokens of a set, in the order of the hashes of the texts. Texts of one token are left out, because no token of
/// theirs is predicted.
fn tokens_of<B: Backend>(
    p: &Prune,
    data: OpenSet,
    limit: Option<usize>,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<(PromptSet, Vec<TokenizedPrompt>)> {
    let random = p.options.data.rng.seeded(p.options.data.seed);
    let config = loaded.model.config();
    let tokenizer = PromptTokenizer::new(&loaded.tokenizer, config, data.rest.source(), random, 0)?
        .leaving_out(data.max_tokens);
    let (set, mut prompts, _) = read(data, tokenizer, limit, observer)?;
    let all = prompts.len();
    prompts.retain(|p| p.tokens.len() > 1);
    if prompts.len() < all {
        observer.warn(&format!(
            "{} of {} without a second token to predict left out",
            counted((all - prompts.len()) as u64, "text"),
            set.source
        ));
    }
    prompts.sort_by_cached_key(|p| (draw(p), p.id.clone()));
    Ok((set, prompts))
}

/// Refuses held-out texts that are calibration texts too.
fn refuse_common([calibration, heldout]: &[Texts; 2]) -> Result<()> {
    let known: HashSet<_> = calibration.prompts.iter().map(|p| &p.text_sha256).collect();
    let mut common = heldout.prompts.iter().filter(|p| known.contains(&p.text_sha256));
    if let Some(first) = common.next() {
        invalid!(
            "{} also calibration texts (the first is '{}'), so the loss would be measured on texts that the layers were \
             chosen on; remove what is in both from one of the sets",
            match common.count() {
                0 => "1 held-out text is one of the".to_owned(),
                more => format!("{} held-out texts are", 1 + more),
            },
            first.id
        );
    }
    Ok(())
}
