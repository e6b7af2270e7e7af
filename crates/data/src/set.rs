//! Prompts, prompt sets and the options of loading them.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::Rng;

/// One text for a model to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The name of the prompt, unique in its set.
    pub id: String,
    /// The whole input of the model: the question followed by the answer, if there is one.
    pub text: String,
    /// The answer, which is a suffix of `text`, byte for byte.
    pub answer: Option<String>,
    /// The token positions of the skip probe, if the data fixes them.
    pub positions: Option<Vec<usize>>,
    /// A group for results, such as a difficulty, a level or a number of digits.
    pub group: Option<String>,
}

impl Prompt {
    /// The part of the text before the answer; `None` without an answer.
    pub fn question(&self) -> Option<&str> {
        self.text.strip_suffix(self.answer.as_deref()?)
    }
}

/// An ordered set of prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSet {
    /// A name of ASCII letters, digits, `.`, `_` and `-`, usable as a file name. It distinguishes generated
    /// sets, but does not depend on how many prompts were selected.
    pub id: String,
    /// The origin of the prompts, in words.
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
    /// The largest number of tokens of a prompt, for sets of which the papers skip longer prompts. This
    /// crate does not tokenise, so the caller has to skip them, before it limits the number of prompts.
    pub max_tokens: Option<usize>,
    /// The number of rows skipped because their text is empty or null.
    pub empty: usize,
    /// Columns of a table with a known name and an unusable type, which are ignored, as in `"answer" (struct)`.
    pub ignored: Vec<String>,
}

impl PromptSet {
    /// A set with its hash. Characters that are not allowed in `id` are replaced by `_`.
    pub fn new(id: &str, source: String, prompts: Vec<Prompt>) -> Self {
        let id = id.replace(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)), "_");
        let sha256 = hash(&prompts);
        Self { id, source, prompts, sha256, max_tokens: None, empty: 0, ignored: Vec::new() }
    }
}

/// Options of loading a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The number of prompts to take from the start; `None` takes all.
    pub limit: Option<usize>,
    /// The seed of generated sets, unless the spec has its own.
    pub seed: u64,
    /// The random number generator of generated sets.
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

/// Access to sets that are not part of Fathom.
#[derive(Clone, Copy, Default)]
pub struct Access<'a> {
    /// The split, unless the spec has its own; an error for sets without splits.
    pub split: Option<&'a str>,
    /// Fetches data sets from the hub; without it, only files are read.
    pub hub: Option<&'a dyn Fetch>,
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { split, hub } = self;
        f.debug_struct("Access").field("split", split).field("hub", &hub.is_some()).finish()
    }
}

/// Fetches data sets from the hub.
pub trait Fetch {
    /// Downloads the files of a data set for which `wanted` is true. A name is the path in the data set, with `/`
    /// between its parts. `revision` defaults to the main branch.
    ///
    /// # Errors
    /// Any error whose message is a sentence without a full stop.
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
    /// The name of each file in the data set, and its local path.
    pub files: Vec<(String, PathBuf)>,
    /// The commit of the files.
    pub commit: String,
}

fn hash(prompts: &[Prompt]) -> String {
    hash_rows(prompts.iter().map(|Prompt { id, text, answer, positions, group: _ }| {
        serde_json::json!([id, text, answer, positions])
    }))
}

/// The SHA-256 of JSON values, each followed by a line feed, in lower-case hexadecimal.
pub(crate) fn hash_rows(rows: impl Iterator<Item = serde_json::Value>) -> String {
    let mut hasher = Sha256::new();
    for row in rows {
        hasher.update(row.to_string());
        hasher.update("\n");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value comes from Python, in the documented form:
    ///
    /// ```python
    /// rows = [["a", "caf\u00e9 \"x\"\n\u001f\u007f\u2028", None, None], ["b", "1+1=2", "2", [8, 16]]]
    /// text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
    /// hashlib.sha256(text.encode()).hexdigest()
    /// ```
    #[test]
    fn hash_has_the_documented_form() {
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
