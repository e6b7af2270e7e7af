//! From prompts to tokens.

use anyhow::{Result, bail};
use fathom_data::{PromptSet, Random};
use fathom_model::Config;
use fathom_model::tokenizer::Tokenizer;
use fathom_probes::{Asked, Pair, Text};
use sha2::{Digest, Sha256};

/// Tokenises a set for a model. The positions of the skip probe are the prompt's
/// own, or drawn as in the papers: range(8, T - 4, 8) shuffled, the first `positions`.
pub(crate) fn tokenise(
    set: &PromptSet,
    tokenizer: &Tokenizer,
    config: &Config,
    mut random: Random,
    positions: usize,
) -> Result<Vec<Text>> {
    let mut texts = Vec::with_capacity(set.prompts.len());
    for prompt in &set.prompts {
        let tokens = tokenizer.encode(&prompt.text)?;
        check(&tokens, &prompt.id, &set.source, config)?;
        let pieces = tokens.iter().map(|t| tokenizer.piece(*t)).collect();
        if prompt.id.starts_with(PAIR) {
            bail!(
                "prompt '{}' of {} has an id that is kept for pairs; give it another",
                prompt.id,
                set.source
            );
        }
        let positions = match &prompt.positions {
            Some(own) => {
                if let Some(wrong) = own.iter().find(|t| !(2..tokens.len()).contains(t)) {
                    bail!(
                        "prompt '{}' of {} has {} tokens and the position {wrong}; give positions from 2 to one less than the tokens",
                        prompt.id,
                        set.source,
                        tokens.len()
                    );
                }
                own.clone()
            }
            None => {
                let mut all: Vec<usize> = (8..tokens.len().saturating_sub(4)).step_by(8).collect();
                random.shuffle(&mut all);
                all.truncate(positions);
                all
            }
        };
        let (id, group, text_sha256) =
            (prompt.id.clone(), prompt.group.clone(), Some(short_hash(&prompt.text)));
        texts.push(Text { id, group, text_sha256, tokens, pieces, positions });
    }
    Ok(texts)
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
    for prompt in &set.prompts {
        let (id, source) = (&prompt.id, &set.source);
        let (Some(question), Some(answer)) = (prompt.question(), &prompt.answer) else {
            bail!("'{id}' of {source} has no answer; give rows with \"question\" and \"answer\"");
        };
        let tokens = without_end(tokenizer.encode(&prompt.text)?, tokenizer)?;
        check(&tokens, id, source, config)?;
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
