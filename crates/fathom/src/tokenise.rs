//! From prompts to tokens.

use crate::error::invalid;
use crate::objective::Masking;
use crate::sequences::Sequences;
use crate::{Observer, Result};
use fathom_data::{Prompt, PromptSet, Random};
use fathom_model::Config;
use fathom_model::tokenizer::Tokenizer;
use fathom_probes::{TokenizedPair, TokenizedPrompt};
use fathom_results::QaPair;
use sha2::{Digest, Sha256};

/// Tokenises the prompts of a set for a model, one at a time.
pub(crate) struct PromptTokenizer<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a Config,
    /// Where the prompts come from, for messages.
    source: String,
    random: Random,
    positions: usize,
    max_tokens: Option<usize>,
    masking: Option<Masking>,
    /// What is done to texts, and the seed of random windows.
    sequences: (Sequences, u64),
    doubled: DoubledBos,
    unknown: u64,
    read: usize,
    too_long: usize,
}

impl<'a> PromptTokenizer<'a> {
    /// The positions of the skip probe are the prompt's own, or drawn as in the papers:
    /// range(8, T - 4, 8) shuffled, the first `positions`.
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        config: &'a Config,
        source: &str,
        random: Random,
        positions: usize,
    ) -> Result<Self> {
        let (source, doubled) = (source.to_owned(), DoubledBos::of(tokenizer)?);
        let (max_tokens, read, too_long) = (None, 0, 0);
        let (masking, unknown, sequences) = (None, 0, (Sequences::default(), 0));
        Ok(Self {
            tokenizer,
            config,
            source,
            random,
            positions,
            max_tokens,
            masking,
            sequences,
            doubled,
            unknown,
            read,
            too_long,
        })
    }

    /// Leaves out prompts of more tokens, and those that are longer than the model's context.
    pub(crate) fn leaving_out(self, max_tokens: Option<usize>) -> Self {
        Self { max_tokens, ..self }
    }

    /// Crops the texts, and puts something before and behind them.
    pub(crate) fn sequences(self, sequences: Sequences, seed: u64) -> Self {
        Self { sequences: (sequences, seed), ..self }
    }

    /// Masks the texts.
    pub(crate) fn masking(self, masking: Option<Masking>) -> Self {
        Self { masking, ..self }
    }

    /// The tokens of a prompt with each share of it masked; none if it is left out.
    pub(crate) fn texts(&mut self, prompt: &Prompt) -> Result<Vec<TokenizedPrompt>> {
        let Some(text) = self.text(prompt)? else { return Ok(Vec::new()) };
        match &self.masking {
            Some(masking) => masking.apply(text, self.tokenizer),
            None => Ok(vec![text]),
        }
    }

    /// The tokens of a prompt, unless it is left out.
    pub(crate) fn text(&mut self, prompt: &Prompt) -> Result<Option<TokenizedPrompt>> {
        let Prompt { id, text, positions, group, .. } = prompt;
        let (source, config) = (&self.source, self.config);
        if id.starts_with(PAIR) {
            invalid!("prompt '{id}' of {source} has an id that is reserved for pairs; give it another one");
        }
        self.read += 1;
        let (sequences, seed) = &self.sequences;
        let tokens = self.tokenizer.encode(&sequences.apply(text, id, *seed))?;
        let text_sha256 = Some(short_hash(&sequences.identity(text, id, *seed)));
        // Positions are drawn for what is left out too, so that those of the others do not depend on it.
        let positions = match positions {
            Some(own) => own.clone(),
            None => drawn(&mut self.random, tokens.len(), self.positions),
        };
        if self.max_tokens.is_some_and(|most| tokens.len() > most.min(config.context)) {
            self.too_long += 1;
            return Ok(None);
        }
        if tokens.len() > config.context {
            invalid!(
                "prompt '{id}' of {source} has {} tokens, more than the model's context of {context}; shorten it or \
                 leave it out, or leave out all such prompts with --max-tokens {context}",
                tokens.len(),
                context = config.context
            );
        }
        check(&tokens, id, source, config)?;
        let unknown = self.tokenizer.unknown();
        self.unknown += tokens.iter().filter(|token| Some(**token) == unknown).count() as u64;
        if let Some(wrong) = positions.iter().find(|t| !(2..tokens.len()).contains(t)) {
            invalid!(
                "prompt '{id}' of {source} has {} tokens and the position {wrong}; give positions from 2 to one \
                 less than the tokens",
                tokens.len()
            );
        }
        self.doubled.see(&tokens, id);
        let pieces = tokens.iter().map(|t| self.tokenizer.piece(*t)).collect();
        let (id, group) = (id.clone(), group.clone());
        Ok(Some(TokenizedPrompt { id, group, text_sha256, tokens, pieces, positions, masked: None }))
    }

    /// Reports what was left out or is unusual.
    pub(crate) fn finish(self, observer: &dyn Observer) -> Result<Remarks> {
        let Self { source, read, too_long, max_tokens, .. } = &self;
        if let Some(most) = max_tokens {
            let most = match self.config.context {
                context if context < *most => format!("{context} tokens (the model's context)"),
                _ => format!("{most} tokens"),
            };
            if *too_long > 0 && too_long == read {
                invalid!(
                    "every prompt of {source} has more than {most}; give shorter prompts or a larger --max-tokens"
                );
            }
            if *too_long > 0 {
                observer
                    .note(&format!("{too_long} of {read} prompts have more than {most} and are left out"));
            }
        }
        self.doubled.warn(source, observer);
        if self.unknown > 0 {
            observer.warn(&format!(
                "{source}: {} not in the vocabulary, which the model reads as unknown",
                if self.unknown == 1 { "1 token is".into() } else { format!("{} tokens are", self.unknown) }
            ));
        }
        Ok(Remarks { too_long: *too_long, double_bos: self.doubled.count, unknown: self.unknown })
    }
}

/// Positions of the skip probe, as the papers draw them.
fn drawn(random: &mut Random, tokens: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (8..tokens.saturating_sub(4)).step_by(8).collect();
    random.shuffle(&mut all);
    all.truncate(count);
    all
}

/// Counts of prompts that were left out or are unusual, for `run.json`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Remarks {
    pub(crate) too_long: usize,
    pub(crate) double_bos: usize,
    pub(crate) unknown: u64,
}

/// Tokenises a whole set for a model; see [`PromptTokenizer`].
pub(crate) fn tokenise(
    set: &PromptSet,
    mut tokenizer: PromptTokenizer<'_>,
    observer: &dyn Observer,
) -> Result<Vec<TokenizedPrompt>> {
    let mut texts = Vec::with_capacity(set.prompts.len());
    for prompt in &set.prompts {
        texts.extend(tokenizer.texts(prompt)?);
    }
    tokenizer.finish(observer)?;
    Ok(texts)
}

/// Counts texts that begin with BOS although the tokenizer adds it, so that the model reads it twice.
struct DoubledBos {
    bos: Option<u32>,
    name: String,
    count: usize,
    first: Option<String>,
}

impl DoubledBos {
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let described = tokenizer.describe();
        let bos = if described.adds_bos { tokenizer.encode("")?.first().copied() } else { None };
        let name = described.bos.clone().unwrap_or_else(|| "BOS".to_owned());
        Ok(Self { bos, name, count: 0, first: None })
    }

    fn see(&mut self, tokens: &[u32], id: &str) {
        if let (Some(bos), [first, second, ..]) = (self.bos, tokens)
            && [*first, *second] == [bos; 2]
        {
            self.count += 1;
            self.first.get_or_insert_with(|| id.to_owned());
        }
    }

    fn warn(&self, source: &str, observer: &dyn Observer) {
        let Self { name, count, first: Some(first), .. } = self else { return };
        observer.warn(&format!(
            "texts of {source} begin with {name} ({count} in all, first '{first}'), and the tokenizer adds \
             another, so the model reads it twice; remove it from the texts"
        ));
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of a text.
fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The prefix of the ids of pairs, which no prompt may have.
const PAIR: &str = "qa/";

/// Tokenises question-answer pairs.
pub(crate) fn pairs(
    set: &PromptSet,
    tokenizer: &Tokenizer,
    config: &Config,
    observer: &dyn Observer,
) -> Result<Vec<TokenizedPair>> {
    let mut pairs = Vec::with_capacity(set.prompts.len());
    let mut doubled = DoubledBos::of(tokenizer)?;
    for prompt in &set.prompts {
        let (id, source) = (&prompt.id, &set.source);
        let (Some(question), Some(answer)) = (prompt.question(), &prompt.answer) else {
            invalid!("'{id}' of {source} has no answer; give rows with \"question\" and \"answer\"");
        };
        let tokens = without_end(tokenizer.encode(&prompt.text)?, tokenizer)?;
        check(&tokens, id, source, config)?;
        doubled.see(&tokens, id);
        // Where text is cut depends on what stands before it, so the answer is not
        // tokenised alone: it begins at the first token that the question does not have.
        let of_question = tokenizer.encode(question)?;
        let common = tokens.iter().zip(&of_question).take_while(|(a, b)| a == b).count();
        let answer_tokens = tokens.len() - common;
        if answer_tokens == 0 || answer_tokens + 1 > tokens.len() {
            invalid!(
                "the answer of '{id}' of {source} has {answer_tokens} of {} tokens; it needs at least one, \
                 and the question one more: change it or leave it out",
                tokens.len()
            );
        }
        pairs.push(TokenizedPair {
            id: format!("{PAIR}{id}"),
            group: prompt.group.clone(),
            qa: QaPair { question: question.to_owned(), answer: answer.clone(), answer_tokens },
            pieces: tokens.iter().map(|t| tokenizer.piece(*t)).collect(),
            tokens,
            masked: None,
        });
    }
    doubled.warn(&set.source, observer);
    Ok(pairs)
}

/// The tokens without those that the tokenizer puts behind every text.
pub(crate) fn without_end(mut tokens: Vec<u32>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let around = tokenizer.encode("")?;
    let end = tokens.iter().rev().zip(around.iter().rev()).take_while(|(a, b)| a == b).count();
    tokens.truncate(tokens.len() - end);
    Ok(tokens)
}

/// Refuses tokens that the model cannot run; `id` and `source` name the prompt in errors.
pub(crate) fn check(tokens: &[u32], id: &str, source: &str, config: &Config) -> Result<()> {
    if tokens.is_empty() {
        invalid!("prompt '{id}' of {source} has no tokens; leave it out");
    }
    if tokens.len() > config.context {
        invalid!(
            "prompt '{id}' of {source} has {} tokens, more than the model's context of {}; shorten it or leave it out",
            tokens.len(),
            config.context
        );
    }
    within_vocabulary(tokens, id, source, config)
}

/// Refuses tokens outside the model's vocabulary.
pub(crate) fn within_vocabulary(tokens: &[u32], id: &str, source: &str, config: &Config) -> Result<()> {
    if let Some(token) = tokens.iter().find(|t| **t as usize >= config.vocab) {
        invalid!(
            "prompt '{id}' of {source}: the tokenizer makes token {token}, outside the model's vocabulary of {}; \
             they do not belong together, fetch both again",
            config.vocab
        );
    }
    Ok(())
}
