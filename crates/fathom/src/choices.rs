//! Multiple choice as tokens, and its accuracies, as lm-evaluation-harness has them for models of transformers.

use crate::error::invalid;
use crate::tokenise::{within_vocabulary, without_end};
use crate::{Observer, Result};
use fathom_data::{Choice, ChoiceSet};
use fathom_model::Config;
use fathom_model::tokenizer::Tokenizer;
use std::ops::Range;

/// Rows of multiple choice as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceJob {
    /// The rows, in order.
    pub rows: Vec<ChoiceTokens>,
}

/// A row of multiple choice as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceTokens {
    /// The id of the row.
    pub id: String,
    /// Its group.
    pub group: Option<String>,
    /// The choices, in order.
    pub choices: Vec<ChoiceText>,
    /// The index of the right choice.
    pub label: usize,
}

/// A context with one of its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceText {
    /// The tokens of the context and of the choice behind it. Their number is at most the model's context plus one,
    /// because the last one is only predicted.
    pub tokens: Vec<u32>,
    /// The tokens of the choice, `1 <= start < end = tokens.len()`. The log-likelihood of the choice is the sum of their
    /// log-probabilities, each given all earlier tokens.
    pub continuation: Range<usize>,
    /// The length of the choice in characters, without the space before it.
    pub characters: usize,
}

/// Whether a row was answered right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChoiceScore {
    /// The right choice has the largest log-likelihood. Among equal ones the first counts.
    pub acc: bool,
    /// The same for log-likelihoods divided by the length of the choice in characters.
    pub acc_norm: bool,
}

impl ChoiceJob {
    /// Tokenises the rows for a model.
    ///
    /// White space at the end of a context belongs to the choice. Context and choice are tokenised together; the tokens of
    /// the choice are those beyond the number that the context has alone, and they follow the context's own tokens.
    /// Tokens that the tokenizer adds before a text are kept, unless the text begins with its BOS; those that it adds behind
    /// are dropped. What is longer than the model's context loses tokens from the start, with a warning.
    ///
    /// # Errors
    /// When the tokenizer fails, or a choice has no tokens of its own or more than the model's context.
    pub fn new(
        set: &ChoiceSet,
        tokenizer: &Tokenizer,
        config: &Config,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let encoder = Encoder { tokenizer, config, source: &set.source };
        let rows: Vec<ChoiceTokens> = set.rows.iter().map(|row| encoder.row(row)).collect::<Result<_>>()?;
        let is_cut =
            |row: &&ChoiceTokens| row.choices.iter().any(|choice| choice.tokens.len() > config.context);
        if let Some(first) = rows.iter().find(is_cut) {
            observer.warn(&format!(
                "{} of {} rows of {} (first '{}') are longer than the model's context of {} tokens and lose their start",
                rows.iter().filter(is_cut).count(),
                rows.len(),
                set.source,
                first.id,
                config.context
            ));
        }
        Ok(Self { rows })
    }
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a Config,
    source: &'a str,
}

impl Encoder<'_> {
    fn row(&self, row: &Choice) -> Result<ChoiceTokens> {
        let Choice { id, context, choices, label, group } = row;
        let before = context.trim_end_matches(is_space);
        let of_context = self.encode(before)?;
        let text = |index: usize| {
            let rest = &context[before.len()..];
            let whole = self.encode(&format!("{before}{rest}{}", row.continuation(index)))?;
            let own = whole.get(of_context.len()..).unwrap_or_default();
            if own.is_empty() || own.len() > self.config.context || of_context.is_empty() {
                invalid!(
                    "choice {} of '{id}' of {} has {} tokens behind {} of its context; it needs one or more behind one or \
                     more, and at most {}: change the row or leave it out",
                    index + 1,
                    self.source,
                    own.len(),
                    of_context.len(),
                    self.config.context
                );
            }
            let mut tokens = [&of_context[..], own].concat();
            within_vocabulary(&tokens, id, self.source, self.config)?;
            // The last token is not read by the model.
            let cut = tokens.len().saturating_sub(self.config.context + 1);
            tokens.drain(..cut);
            let continuation = tokens.len() - own.len()..tokens.len();
            Ok(ChoiceText { tokens, continuation, characters: choices[index].chars().count() })
        };
        let choices = (0..choices.len()).map(text).collect::<Result<_>>()?;
        Ok(ChoiceTokens { id: id.clone(), group: group.clone(), choices, label: *label })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let described = self.tokenizer.describe();
        let bos = described.bos.as_ref().or(described.eos.as_ref());
        match bos.is_some_and(|bos| text.starts_with(bos.as_str())) {
            true => Ok(self.tokenizer.encode_bare(text)?),
            false => without_end(self.tokenizer.encode(text)?, self.tokenizer),
        }
    }
}

/// White space as Python's `str.rstrip` has it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl ChoiceTokens {
    /// Scores the row, given the log-likelihood of each choice.
    ///
    /// # Panics
    /// If there are not as many as choices.
    pub fn score(&self, log_likelihoods: &[f64]) -> ChoiceScore {
        assert_eq!(log_likelihoods.len(), self.choices.len(), "a log-likelihood for each choice");
        let per_character = log_likelihoods.iter().zip(&self.choices);
        let per_character: Vec<f64> =
            per_character.map(|(sum, choice)| sum / choice.characters as f64).collect();
        ChoiceScore {
            acc: first_largest(log_likelihoods) == self.label,
            acc_norm: first_largest(&per_character) == self.label,
        }
    }
}

fn first_largest(values: &[f64]) -> usize {
    let larger = |best: usize, index: usize| if values[index] > values[best] { index } else { best };
    (1..values.len()).fold(0, larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use fathom_data::{Access, Options, load_choices};
    use fathom_model::source::Checkpoint;
    use std::path::Path;

    fn fixture(name: &str) -> (Tokenizer, Config) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
        let loaded = Checkpoint::open(&path).unwrap().load(fathom_model::Dtype::F32, &|| ()).unwrap();
        (loaded.tokenizer, loaded.model.config().clone())
    }

    fn set(lines: &str) -> ChoiceSet {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, lines).unwrap();
        load_choices(path.to_str().unwrap(), &Options::default(), &Access::default()).unwrap()
    }

    fn job(name: &str, lines: &str) -> Result<ChoiceJob> {
        let (tokenizer, config) = fixture(name);
        ChoiceJob::new(&set(lines), &tokenizer, &config, &Silent)
    }

    #[test]
    fn choices_follow_the_tokens_of_their_context() {
        let lines = r#"{"context": "the cat \n", "choices": ["sat down", "é"], "label": 1, "group": "g"}"#;
        for name in ["llama2", "qwen2", "gpt2"] {
            let (tokenizer, _) = fixture(name);
            let row = job(name, lines).unwrap().rows.remove(0);
            assert_eq!((row.label, row.group.as_deref(), row.choices.len()), (1, Some("g"), 2), "{name}");
            let context = tokenizer.encode("the cat").unwrap();
            for (choice, text) in row.choices.iter().zip(["the cat \n sat down", "the cat \n é"]) {
                let whole = tokenizer.encode(text).unwrap();
                assert_eq!(choice.tokens[..context.len()], context, "{name}");
                assert_eq!(choice.tokens[choice.continuation.clone()], whole[context.len()..], "{name}");
                assert_eq!(choice.continuation, context.len()..whole.len(), "{name}");
            }
            assert_eq!(row.choices[0].characters, "sat down".len());
            assert_eq!(row.choices[1].characters, 1, "characters, not bytes");
        }
    }

    #[test]
    fn long_rows_lose_their_start() {
        let (tokenizer, mut config) = fixture("qwen2");
        config.context = 6;
        let set =
            set(r#"{"context": "one two three four five six seven", "choices": ["x", "y"], "label": 0}"#);
        let row = ChoiceJob::new(&set, &tokenizer, &config, &Silent).unwrap().rows.remove(0);
        let whole = tokenizer.encode("one two three four five six seven x").unwrap();
        assert!(whole.len() > 7, "{}", whole.len());
        assert_eq!(row.choices[0].tokens, whole[whole.len() - 7..]);
        assert_eq!(row.choices[0].continuation.end, 7);
        config.context = 1;
        let long = self::set(r#"{"context": "one", "choices": ["two three four five", "y"], "label": 0}"#);
        let message = ChoiceJob::new(&long, &tokenizer, &config, &Silent).unwrap_err().to_string();
        assert!(message.contains("choice 1 of 'rows-1' of") && message.contains("at most 1"), "{message}");
    }

    #[test]
    fn scores_by_hand() {
        let text = |characters| ChoiceText { tokens: vec![1, 2], continuation: 1..2, characters };
        let row = |label| ChoiceTokens {
            id: "r".into(),
            group: None,
            choices: vec![text(2), text(8), text(8)],
            label,
        };
        let sums = [-3.0, -4.0, -4.0];
        let score = |label| {
            let ChoiceScore { acc, acc_norm } = row(label).score(&sums);
            (acc, acc_norm)
        };
        // Divided by characters: -1.5, -0.5, -0.5; of equal ones the first is chosen.
        assert_eq!([score(0), score(1), score(2)], [(true, false), (false, true), (false, false)]);
    }
}
