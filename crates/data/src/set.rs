//! A prompt, a set of prompts, and what a caller may choose about them.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::Rng;

/// One text for a model to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Names the prompt; unique in its set.
    pub id: String,
    /// All that the model reads: the question followed by the answer where there are both.
    pub text: String,
    /// The tail of `text` that is the answer, byte for byte.
    pub answer: Option<String>,
    /// The token positions at which the skip probe is to work, where the data fixes them.
    pub positions: Option<Vec<usize>>,
    /// What results may be grouped by: a difficulty, a level, a number of digits.
    pub group: Option<String>,
}

impl Prompt {
    /// The part of the text before the answer, or `None` where there is no answer.
    pub fn question(&self) -> Option<&str> {
        self.text.strip_suffix(self.answer.as_deref()?)
    }
}

/// An ordered set of prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSet {
    /// A name made of ASCII letters, digits, `.`, `_` and `-` only, fit for a file name. It tells one
    /// generated set from another, but it does not tell how many prompts were selected.
    pub id: String,
    /// Where the prompts come from, in words.
    pub source: String,
    /// The prompts, in order.
    pub prompts: Vec<Prompt>,
    /// The SHA-256 of the prompts in lower-case hexadecimal.
    ///
    /// The hashed bytes are, for each prompt in order, the JSON array `[id,text,answer,positions]`
    /// without spaces, `null` for what is absent, followed by a line feed. Characters outside ASCII
    /// are written as they are, in UTF-8. In Python this is
    /// `json.dumps([...], ensure_ascii=False, separators=(",", ":")) + "\n"`.
    pub sha256: String,
    /// How many tokens a prompt should have at most, where the papers leave longer ones out. This crate
    /// knows no tokens, so nothing has been left out yet; a limit on the number of prompts is best
    /// applied after it.
    pub max_tokens: Option<usize>,
    /// How many rows were skipped because their text is empty or null.
    pub empty: usize,
    /// Columns of a table that are not read although their names are known, because of what they hold: their
    /// names, quoted, and what that is, as in `"answer" (struct)`.
    pub ignored: Vec<String>,
}

impl PromptSet {
    /// Makes a set and computes its hash. Characters that `id` may not hold are replaced by `_`.
    pub fn new(id: &str, source: String, prompts: Vec<Prompt>) -> Self {
        let id = id.replace(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)), "_");
        let sha256 = hash(&prompts);
        Self { id, source, prompts, sha256, max_tokens: None, empty: 0, ignored: Vec::new() }
    }
}

/// What a caller may choose about a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Take only this many prompts, the first ones; `None` takes all.
    pub limit: Option<usize>,
    /// The seed of generated sets, unless the spec carries its own.
    pub seed: u64,
    /// The generator of random numbers behind generated sets.
    pub rng: Rng,
}

impl Options {
    /// The seed that the papers use for generated sets.
    pub const SEED: u64 = 42;
}

impl Default for Options {
    fn default() -> Self {
        Self { limit: None, seed: Self::SEED, rng: Rng::Native }
    }
}

/// What a caller may give to sets that do not come with Fathom.
#[derive(Clone, Copy, Default)]
pub struct Access<'a> {
    /// The split to take, unless the spec carries its own. Of what has no splits, none may be asked for.
    pub split: Option<&'a str>,
    /// The way to data sets on the hub; without one, only files are read.
    pub hub: Option<&'a dyn Fetch>,
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { split, hub } = self;
        f.debug_struct("Access").field("split", split).field("hub", &hub.is_some()).finish()
    }
}

/// A way to data sets on the hub.
pub trait Fetch {
    /// Brings the files of a data set whose names are wanted to the local disk. A name is the path in the
    /// data set, with `/` between its parts. Without a revision, the main branch is meant.
    ///
    /// # Errors
    /// Whatever keeps the files away, in a sentence without a full stop.
    fn dataset(
        &self,
        id: &str,
        revision: Option<&str>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Fetched, Box<dyn Error + Send + Sync>>;
}

/// Files of a data set on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The names in the data set, and where the files are.
    pub files: Vec<(String, PathBuf)>,
    /// The commit that they belong to.
    pub commit: String,
}

fn hash(prompts: &[Prompt]) -> String {
    let mut hasher = Sha256::new();
    for Prompt { id, text, answer, positions, group: _ } in prompts {
        let row = serde_json::json!([id, text, answer, positions]);
        hasher.update(row.to_string());
        hasher.update("\n");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value is what Python gives for the form that the documentation states:
    ///
    /// ```python
    /// rows = [["a", "caf\u00e9 \"x\"\n\u001f\u007f\u2028", None, None], ["b", "1+1=2", "2", [8, 16]]]
    /// text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
    /// hashlib.sha256(text.encode()).hexdigest()
    /// ```
    #[test]
    fn hash_is_the_stated_form() {
        let first = Prompt {
            id: "a".into(),
            text: "café \"x\"\n\u{1f}\u{7f}\u{2028}".into(),
            answer: None,
            positions: None,
            group: Some("not hashed".into()),
        };
        let second = Prompt {
            id: "b".into(),
            text: "1+1=2".into(),
            answer: Some("2".into()),
            positions: Some(vec![8, 16]),
            group: None,
        };
        assert_eq!(second.question(), Some("1+1="));
        let set = PromptSet::new("my set/1.jsonl", "here".into(), vec![first, second]);
        assert_eq!(set.id, "my_set_1.jsonl");
        assert_eq!(set.sha256, "33eff9c14393cd5cba75a5201fa43a313698f9371ccaaa5832b105cce403e648");
    }
}
