//! Texts as tokens, those to train on and those held out.

use crate::random::stream;
use crate::recipe::Data;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Mixed into the hash of texts, so that the split is not that of other programs.
const SALT: &str = "fathom-lab validation";

/// Tokens to train on and tokens held out.
#[derive(Debug)]
pub struct Corpus {
    /// How texts are cut.
    pub tokenizer: Tokenizer,
    /// The unique training tokens.
    pub training: Vec<u32>,
    /// The held-out tokens.
    pub validation: Vec<u32>,
    /// Pieces of the held-out texts of at most a context, evenly spread over all of them.
    pub held_out: Vec<String>,
}

impl Corpus {
    /// Reads the texts, splits them, and cuts them into tokens.
    ///
    /// # Errors
    /// When texts cannot be read, or are too few for a window of `context` tokens on each side.
    pub fn of(data: &Data, context: usize, seed: u64) -> Result<Self> {
        let texts = texts(&data.texts)?;
        let (validation, mut training): (Vec<String>, Vec<String>) =
            texts.into_iter().partition(|text| is_held_out(text, data.validation));
        shuffle(&mut training, &mut stream(seed, 0));
        let tokenizer = Tokenizer::train(&training, data.vocabulary)?;
        let mut corpus = Self {
            training: tokenizer.stream(&training)?,
            validation: tokenizer.stream(&validation)?,
            held_out: spread(&validation, context),
            tokenizer,
        };
        if let Some(unique) = data.unique {
            if unique > corpus.training.len() {
                bail!(
                    "data.unique is {unique}, and {} has {} tokens to train on; give fewer, or more texts",
                    data.texts,
                    corpus.training.len()
                );
            }
            corpus.training.truncate(unique);
        }
        for (what, tokens) in [("to train on", &corpus.training), ("held out", &corpus.validation)] {
            if tokens.len() <= context {
                bail!(
                    "{} has {} tokens {what}, and model.context is {context}; give more texts or a shorter context",
                    data.texts,
                    tokens.len()
                );
            }
        }
        Ok(corpus)
    }
}

/// The texts of a prompt set, a file, or a folder of files in the order of their names.
fn texts(spec: &str) -> Result<Vec<String>> {
    let files: Vec<String> = match Path::new(spec).is_dir() {
        false => vec![spec.to_owned()],
        true => {
            let entries = std::fs::read_dir(spec).with_context(|| format!("cannot read {spec}"))?;
            let mut paths: Vec<PathBuf> =
                entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
            paths.retain(|path| path.is_file());
            paths.sort();
            paths.into_iter().map(|path| path.display().to_string()).collect()
        }
    };
    let mut texts = Vec::new();
    for file in files {
        let set = fathom_data::load(&file, &fathom_data::Options::default())?;
        texts.extend(set.prompts.into_iter().map(|prompt| prompt.text));
    }
    if texts.is_empty() {
        bail!("{spec} has no texts");
    }
    Ok(texts)
}

/// Whether a text is held out: equal texts are on the same side, whatever their order.
fn is_held_out(text: &str, share: f64) -> bool {
    let hash = Sha256::new().chain_update(SALT).chain_update(text).finalize();
    let number = u64::from_be_bytes(hash[..8].try_into().unwrap_or_default());
    (number as f64) < share * u64::MAX as f64
}

/// The most pieces of held-out texts.
const PIECES: usize = 64;

/// Pieces of texts of whole words and at most `most` bytes, and so at most as many tokens: the token that measurements put
/// before a text has room.
fn spread(texts: &[String], most: usize) -> Vec<String> {
    let pieces: Vec<String> = texts.iter().flat_map(|text| pieces(text, most.saturating_sub(1))).collect();
    let count = PIECES.min(pieces.len());
    (0..count).map(|i| pieces[i * pieces.len() / count].clone()).collect()
}

/// A word that is too long alone is left out.
fn pieces(text: &str, most: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in text.split_inclusive(char::is_whitespace).filter(|word| word.len() <= most) {
        if pieces.last().is_some_and(|piece| piece.len() + word.len() > most) {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(word);
        }
    }
    // What is left at the end of a text may be a word or two.
    pieces.retain(|piece| 2 * piece.trim().len() >= most);
    pieces
}

/// Fisher and Yates.
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        let j = random.next_u64() % (i as u64 + 1);
        items.swap(i, j as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_prose_is_split_by_text_and_cut_into_bytes() {
        let corpus = Corpus::of(&Data::default(), 64, 1).unwrap();
        let all = corpus.training.len() + corpus.validation.len();
        let share = corpus.validation.len() as f64 / all as f64;
        assert!(all > 100_000 && (0.05..0.15).contains(&share), "{all} {share}");
        let few = Data { unique: Some(1000), ..Data::default() };
        assert_eq!(Corpus::of(&few, 64, 1).unwrap().training[..], corpus.training[..1000]);
        let other = Corpus::of(&few, 64, 2).unwrap();
        assert_ne!(other.training[..], corpus.training[..1000]);
        assert_eq!(other.validation, corpus.validation);
    }

    #[test]
    fn pieces_are_of_whole_words_and_fit_a_context() {
        assert_eq!(pieces("one two three four", 8), ["one two ", "three ", "four"]);
        assert_eq!(pieces("incomprehensible äöü an", 7), ["äöü "]);
        let corpus = Corpus::of(&Data::default(), 100, 1).unwrap();
        assert_eq!(corpus.held_out.len(), PIECES);
        assert!(corpus.held_out.iter().all(|piece| (50..100).contains(&piece.trim().len())));
    }

    #[test]
    fn too_little_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "one\n\ntwo\n\nthree\n\nfour\n").unwrap();
        let data = |unique| Data {
            texts: folder.path().display().to_string(),
            validation: 0.5,
            unique,
            ..Data::default()
        };
        let refuse = |data: &Data, context, part: &str| {
            let message = Corpus::of(data, context, 1).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refuse(&data(None), 64, "model.context is 64");
        refuse(&data(Some(1000)), 2, "data.unique is 1000");
    }
}
