//! From prompts to tokens.

use crate::output;
use anyhow::{Result, bail};
use fathom_data::{Prompt, PromptSet, Random};
use fathom_model::Config;
use fathom_model::tokenizer::Tokenizer;
use fathom_probes::{Asked, Pair, Text};
use sha2::{Digest, Sha256};

/// Turns prompts into texts for a model, one at a time.
pub(crate) struct Tokeniser<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a Config,
    /// Where the prompts come from, in words.
    source: String,
    random: Random,
    positions: usize,
    max_tokens: Option<usize>,
    doubled: DoubledBos,
    read: usize,
    too_long: usize,
}

impl<'a> Tokeniser<'a> {
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
        Ok(Self { tokenizer, config, source, random, positions, max_tokens, doubled, read, too_long })
    }

    /// Leaves out prompts of more tokens, and those that are longer than the model's context.
    pub(crate) fn leaving_out(self, max_tokens: Option<usize>) -> Self {
        Self { max_tokens, ..self }
    }

    /// The text of a prompt, unless it is left out.
    pub(crate) fn text(&mut self, prompt: &Prompt) -> Result<Option<Text>> {
        let Prompt { id, text, positions, group, .. } = prompt;
        let (source, config) = (&self.source, self.config);
        if id.starts_with(PAIR) {
            bail!("prompt '{id}' of {source} has an id that is kept for pairs; give it another");
        }
        self.read += 1;
        let tokens = self.tokenizer.encode(text)?;
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
            bail!(
                "prompt '{id}' of {source} has {} tokens, more than the model's context of {context}; shorten it or \
                 leave it out, or leave out all such prompts with --max-tokens {context}",
                tokens.len(),
                context = config.context
            );
        }
        check(&tokens, id, source, config)?;
        if let Some(wrong) = positions.iter().find(|t| !(2..tokens.len()).contains(t)) {
            bail!(
                "prompt '{id}' of {source} has {} tokens and the position {wrong}; give positions from 2 to one \
                 less than the tokens",
                tokens.len()
            );
        }
        self.doubled.see(&tokens, id);
        let pieces = tokens.iter().map(|t| self.tokenizer.piece(*t)).collect();
        let (id, group, text_sha256) = (id.clone(), group.clone(), Some(short_hash(text)));
        Ok(Some(Text { id, group, text_sha256, tokens, pieces, positions }))
    }

    /// Says what was left out and what is odd, and gives how many prompts it was.
    pub(crate) fn finish(self) -> Result<Remarks> {
        let Self { source, read, too_long, max_tokens, .. } = &self;
        if let Some(most) = max_tokens {
            let most = match self.config.context {
                context if context < *most => format!("{context} tokens (the model's context)"),
                _ => format!("{most} tokens"),
            };
            if *too_long > 0 && too_long == read {
                bail!(
                    "every prompt of {source} has more than {most}; give shorter prompts or a larger --max-tokens"
                );
            }
            if *too_long > 0 {
                output::note(&format!("{too_long} of {read} prompts have more than {most} and are left out"));
            }
        }
        self.doubled.note(source);
        Ok(Remarks { too_long: *too_long, double_bos: self.doubled.count })
    }
}

/// Positions of the skip probe, as the papers draw them.
fn drawn(random: &mut Random, tokens: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (8..tokens.saturating_sub(4)).step_by(8).collect();
    random.shuffle(&mut all);
    all.truncate(count);
    all
}

/// What `run.json` says of prompts that were left out, or that are odd.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Remarks {
    pub(crate) too_long: usize,
    pub(crate) double_bos: usize,
}

/// Tokenises a whole set for a model; see [`Tokeniser`].
pub(crate) fn tokenise(set: &PromptSet, mut tokeniser: Tokeniser<'_>) -> Result<Vec<Text>> {
    let mut texts = Vec::with_capacity(set.prompts.len());
    for prompt in &set.prompts {
        texts.extend(tokeniser.text(prompt)?);
    }
    tokeniser.finish()?;
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

    fn note(&self, source: &str) {
        let Self { name, count, first: Some(first), .. } = self else { return };
        output::note(&format!(
            "warning: texts of {source} begin with {name} ({count} in all, first '{first}'), and the tokenizer adds \
             another, so the model reads it twice; remove it from the texts"
        ));
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of a text.
fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What the ids of pairs begin with, so that no prompt has the same.
const PAIR: &str = "qa/";

/// Tokenises question-answer pairs.
pub(crate) fn pairs(set: &PromptSet, tokenizer: &Tokenizer, config: &Config) -> Result<Vec<Pair>> {
    let mut pairs = Vec::with_capacity(set.prompts.len());
    let mut doubled = DoubledBos::of(tokenizer)?;
    for prompt in &set.prompts {
        let (id, source) = (&prompt.id, &set.source);
        let (Some(question), Some(answer)) = (prompt.question(), &prompt.answer) else {
            bail!("'{id}' of {source} has no answer; give rows with \"question\" and \"answer\"");
        };
        let tokens = without_end(tokenizer.encode(&prompt.text)?, tokenizer)?;
        check(&tokens, id, source, config)?;
        doubled.see(&tokens, id);
        // Where text is cut depends on what stands before it, so the answer is not
        // tokenised alone: it begins at the first token that the question does not have.
        let asked = tokenizer.encode(question)?;
        let common = tokens.iter().zip(&asked).take_while(|(a, b)| a == b).count();
        let answer_tokens = tokens.len() - common;
        if answer_tokens == 0 || answer_tokens + 1 > tokens.len() {
            bail!(
                "the answer of '{id}' of {source} has {answer_tokens} of {} tokens; it needs at least one, \
                 and the question one more: change it or leave it out",
                tokens.len()
            );
        }
        pairs.push(Pair {
            id: format!("{PAIR}{id}"),
            group: prompt.group.clone(),
            asked: Asked { question: question.to_owned(), answer: answer.clone(), answer_tokens },
            pieces: tokens.iter().map(|t| tokenizer.piece(*t)).collect(),
            tokens,
        });
    }
    doubled.note(&set.source);
    Ok(pairs)
}

/// The tokens without those that the tokenizer puts behind every text.
fn without_end(mut tokens: Vec<u32>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let around = tokenizer.encode("")?;
    let end = tokens.iter().rev().zip(around.iter().rev()).take_while(|(a, b)| a == b).count();
    tokens.truncate(tokens.len() - end);
    Ok(tokens)
}

/// Refuses what the model cannot run; `id` and `source` say whose tokens these are.
pub(crate) fn check(tokens: &[u32], id: &str, source: &str, config: &Config) -> Result<()> {
    if tokens.is_empty() {
        bail!("prompt '{id}' of {source} has no tokens; leave it out");
    }
    if tokens.len() > config.context {
        bail!(
            "prompt '{id}' of {source} has {} tokens, more than the model's context of {}; shorten it or leave it out",
            tokens.len(),
            config.context
        );
    }
    if let Some(token) = tokens.iter().find(|t| **t as usize >= config.vocab) {
        bail!(
            "prompt '{id}' of {source}: the tokenizer makes token {token}, outside the model's vocabulary of {}; \
             they do not belong together, fetch both again",
            config.vocab
        );
    }
    Ok(())
}
