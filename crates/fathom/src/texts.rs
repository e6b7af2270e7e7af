//! Texts divided into parts that serve different ends, such as calibration and proof.

use crate::error::invalid;
use crate::job::read;
use crate::prompts::OpenSet;
use crate::run_options::RunOptions;
use crate::tokenise::PromptTokenizer;
use crate::{Observer, PromptSpec, Result};
use fathom_data::PromptSet;
use fathom_model::Backend;
use fathom_model::source::Loaded;
use fathom_probes::TokenizedPrompt;
use fathom_results::TextSet;
use fathom_results::text::counted;
use fathom_surgery::Text;
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The hash that divides texts is not that of the text alone, by which a file may be sorted.
const SALT: &str = "calibration";

/// The fewest held-out texts whose intervals deserve trust.
const FEW: usize = 30;

/// A part of a set: what it is for, what its id says behind that of the set, and the end of its share of the values of
/// the first byte of a text's hash.
pub(crate) type Part = (&'static str, &'static str, u16);

/// Which texts, and how they are divided.
pub(crate) struct Division<'a> {
    pub(crate) options: &'a RunOptions,
    /// The limit of each set.
    pub(crate) limit: Option<usize>,
    /// The held-out texts, if they are a set of their own.
    pub(crate) heldout: Option<PromptSpec>,
    /// The parts of one set, the held-out texts last.
    pub(crate) together: &'static [Part],
    /// The parts where the held-out texts are a set of their own.
    pub(crate) apart: &'static [Part],
    /// What the first part decides, for the message if held-out texts are among them.
    pub(crate) decides: &'static str,
}

/// A set of texts as tokens.
#[derive(Default)]
pub(crate) struct Texts {
    pub(crate) about: TextSet,
    pub(crate) prompts: Vec<TokenizedPrompt>,
    /// The same, every token but the first scored.
    pub(crate) texts: Vec<Text>,
}

/// Checks a text, as the model reads it, and its tokens.
pub(crate) type Check<'a> = &'a dyn Fn(&str, &TokenizedPrompt) -> Result<()>;

impl Texts {
    pub(crate) fn new(set: &PromptSet, id: String, prompts: Vec<TokenizedPrompt>) -> Self {
        let texts: Vec<Text> = prompts.iter().map(|p| Text::whole(p.tokens.clone())).collect();
        let tokens = texts.iter().map(|t| t.scored.len() as u64).sum();
        let ids: HashSet<&str> = prompts.iter().map(|p| p.id.as_str()).collect();
        let chosen = set.prompts.iter().filter(|p| ids.contains(p.id.as_str())).cloned().collect();
        let sha256 = PromptSet::new(&id, String::new(), chosen).sha256;
        Self { about: TextSet { id, texts: prompts.len(), tokens, sha256 }, prompts, texts }
    }
}

impl Division<'_> {
    /// Reads all parts, the held-out texts last.
    pub(crate) fn read<B: Backend>(
        &self,
        data: OpenSet,
        loaded: &Loaded<B>,
        check: Check<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<Texts>> {
        let (set, prompts) = self.tokens_of(data, self.limit, loaded, check, observer)?;
        let parts = if self.heldout.is_some() { self.apart } else { self.together };
        let mut all = divide(&set, prompts, parts);
        if let Some(spec) = &self.heldout {
            let open = OpenSet::open(spec, observer)?;
            let (set, prompts) = self.tokens_of(open, spec.limit, loaded, check, observer)?;
            let heldout = Texts::new(&set, set.id.clone(), prompts);
            all.iter().try_for_each(|part| self.refuse_common(part, &heldout))?;
            all.push(heldout);
        }
        let names = parts.iter().map(|part| part.0).chain(self.heldout.as_ref().map(|_| "held-out"));
        for (texts, what) in all.iter().zip(names) {
            if texts.texts.is_empty() {
                invalid!(
                    "there is no {what} text; give more texts with --data, or both sets with --data and --heldout"
                );
            }
        }
        let heldout = all.last().map_or(0, |texts| texts.texts.len());
        if heldout < FEW {
            observer.warn(&format!(
                "{} {} too few for a narrow interval; give more texts",
                counted(heldout as u64, "held-out text"),
                if heldout == 1 { "is" } else { "are" }
            ));
        }
        Ok(all)
    }

    /// The tokens of a set, in the order of the hashes of the texts. Texts of one token are left out, because no token
    /// of theirs is predicted.
    fn tokens_of<B: Backend>(
        &self,
        data: OpenSet,
        limit: Option<usize>,
        loaded: &Loaded<B>,
        check: Check<'_>,
        observer: &dyn Observer,
    ) -> Result<(PromptSet, Vec<TokenizedPrompt>)> {
        let random = self.options.data.rng.seeded(self.options.data.seed);
        let config = loaded.model.config();
        let tokenizer = PromptTokenizer::new(&loaded.tokenizer, config, data.rest.source(), random, 0)?
            .leaving_out(data.max_tokens)
            .sequences(self.options.sequences.clone(), self.options.data.seed);
        let (set, mut prompts, _) = read(data, tokenizer, limit, observer)?;
        for (prompt, tokens) in set.prompts.iter().zip(&prompts) {
            let text = self.options.sequences.apply(&prompt.text, &prompt.id, self.options.data.seed);
            check(&text, tokens)?;
        }
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

    /// Refuses held-out texts that are among those of another part too.
    fn refuse_common(&self, part: &Texts, heldout: &Texts) -> Result<()> {
        let known: HashSet<_> = part.prompts.iter().map(|p| &p.text_sha256).collect();
        let mut common = heldout.prompts.iter().filter(|p| known.contains(&p.text_sha256));
        if let Some(first) = common.next() {
            invalid!(
                "{} also calibration texts (the first is '{}'), so the {}; remove what is in both from one of the sets",
                match common.count() {
                    0 => "1 held-out text is one of the".to_owned(),
                    more => format!("{} held-out texts are", 1 + more),
                },
                first.id,
                self.decides
            );
        }
        Ok(())
    }
}

/// A text's part depends on the text alone, not on its place in a file or on other texts.
fn divide(set: &PromptSet, prompts: Vec<TokenizedPrompt>, parts: &[Part]) -> Vec<Texts> {
    let mut divided: Vec<Vec<TokenizedPrompt>> = parts.iter().map(|_| Vec::new()).collect();
    for prompt in prompts {
        let byte = u16::from(draw(&prompt)[0]);
        let part = parts.iter().position(|part| byte < part.2).unwrap_or(parts.len() - 1);
        divided[part].push(prompt);
    }
    let name = |part: &Part| format!("{}{}", set.id, part.1);
    divided.into_iter().zip(parts).map(|(prompts, part)| Texts::new(set, name(part), prompts)).collect()
}

/// A hash that depends on the text alone.
fn draw(prompt: &TokenizedPrompt) -> [u8; 32] {
    let text = prompt.text_sha256.as_deref().unwrap_or(&prompt.id);
    Sha256::digest(format!("{SALT} {text}")).into()
}
