//! Built-in prompts (folder `prompts` of this crate; its `ORIGINS.md` says where they come from).

use serde::Deserialize;

use crate::{Prompt, templates};

pub(crate) const PLAIN: &str = include_str!("../prompts/plain.jsonl");
pub(crate) const WORD_PROBLEMS: &str = include_str!("../prompts/word-problems.jsonl");
pub(crate) const COMPETITION: &str = include_str!("../prompts/competition.jsonl");
pub(crate) const QA: &str = include_str!("../prompts/qa.jsonl");

pub(crate) const PROTEINS: &str = include_str!("../prompts/proteins.jsonl");
pub(crate) const PROSE: &str = include_str!("../prompts/prose.jsonl");

/// Reads one of the files above.
///
/// # Panics
/// If the file is malformed, which the tests of this module exclude.
pub(crate) fn read(file: &str) -> Vec<Prompt> {
    let parse = |line| serde_json::from_str::<Row>(line).expect("a built-in prompt is well-formed");
    file.lines().map(parse).map(Prompt::from).collect()
}

/// The three difficulties in turn, so that any first part of the set has all of them equally.
pub(crate) fn all() -> Vec<Prompt> {
    let mut files = [PLAIN, WORD_PROBLEMS, COMPETITION].map(|file| read(file).into_iter());
    let mut prompts = Vec::new();
    loop {
        let before = prompts.len();
        prompts.extend(files.iter_mut().filter_map(Iterator::next));
        if prompts.len() == before {
            return prompts;
        }
    }
}

/// A line of a file: the common fields, and those of one kind of prompt.
#[derive(Deserialize)]
struct Row {
    id: String,
    group: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Content {
    Plain { text: String },
    Worked { question: String, rationale: String, answer: String },
    Solved { question: String, solution: String },
    Asked { question: String, answer: String },
}

impl From<Row> for Prompt {
    fn from(Row { id, group, content }: Row) -> Self {
        let (text, answer) = match content {
            Content::Plain { text } => (text, None),
            Content::Worked { question, rationale, answer } => {
                (templates::gsm8k(&question, &rationale, &answer), Some(answer))
            }
            Content::Solved { question, solution } => {
                let answer = solution.rfind(r"\boxed{").map(|start| solution[start..].to_owned());
                (templates::aime(&question, &solution), answer)
            }
            Content::Asked { question, answer } => (question + &answer, Some(answer)),
        };
        Self { id, text, answer, positions: None, group: Some(group) }
    }
}
