//! Multiple choice: a context, choices that may follow it, and the number of the right one.
//!
//! Contexts and choices are those of lm-evaluation-harness (its tasks `hellaswag`, `arc_easy`, `arc_challenge` and
//! `mmlu`, without examples), so that results can be compared with it. A choice follows its context after one space.

mod clean;
mod schema;

use std::path::Path;

use fathom_results::text::nearest;

use crate::file_format::{FileFormat, stem};
use crate::files::{self, BOUNDS, PromptChecks};
use crate::published::{FileSequence, PublishedSet};
use crate::rows::{Fields, Row};
use crate::schema::RowSchema;
use crate::set::hash_rows;
use crate::{Access, DataError, Options, Prompt, catalogue};
use schema::{ChoiceRow, ChoiceSchema};

/// A context with choices, one of which is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The name of the row, unique in its set.
    pub id: String,
    /// What stands before each choice. It is not blank.
    pub context: String,
    /// The choices, at least two, none of them blank. [`Self::continuation`] puts a space before them.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub label: usize,
    /// A group for results: the subject of a row of MMLU, or the field `group`.
    pub group: Option<String>,
}

impl Choice {
    /// What follows the context if choice `index` is taken: a space and the choice.
    ///
    /// # Panics
    /// If the row does not have that choice.
    pub fn continuation(&self, index: usize) -> String {
        format!(" {}", self.choices[index])
    }
}

/// An ordered set of rows of multiple choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceSet {
    /// A name of ASCII letters, digits, `.`, `_` and `-`.
    pub id: String,
    /// The origin of the rows, in words.
    pub source: String,
    /// The rows, in order.
    pub rows: Vec<Choice>,
    /// The SHA-256 of the rows in lower-case hexadecimal. The hashed bytes are, for each row in order, the JSON array
    /// `[id,context,choices,label]` without spaces, followed by a line feed.
    pub sha256: String,
}

type ChoicePublished = PublishedSet<ChoiceSchema>;

const PARAMETERS: &[&str] = &["split", "revision", "file"];

/// The default splits are those that lm-evaluation-harness tests on.
static PUBLISHED: [ChoicePublished; 4] = [
    PublishedSet {
        name: "hellaswag",
        schema: ChoiceSchema::HellaSwag,
        hub: Some("Rowan/hellaswag"),
        folder: None,
        splits: &["validation", "train"],
        parameters: PARAMETERS,
    },
    PublishedSet {
        name: "arc-easy",
        schema: ChoiceSchema::Arc,
        hub: Some("allenai/ai2_arc"),
        folder: Some("ARC-Easy"),
        splits: &["test", "validation", "train"],
        parameters: PARAMETERS,
    },
    PublishedSet {
        name: "arc-challenge",
        schema: ChoiceSchema::Arc,
        hub: Some("allenai/ai2_arc"),
        folder: Some("ARC-Challenge"),
        splits: &["test", "validation", "train"],
        parameters: PARAMETERS,
    },
    PublishedSet {
        name: "mmlu",
        schema: ChoiceSchema::Mmlu,
        hub: Some("cais/mmlu"),
        folder: Some("all"),
        splits: &["test", "validation", "dev"],
        parameters: PARAMETERS,
    },
];

/// The names of the published sets of multiple choice.
pub fn choice_sets() -> Vec<&'static str> {
    PUBLISHED.iter().map(|set| set.name).collect()
}

/// Loads rows of multiple choice: the first `options.limit`, or all.
///
/// A spec is one of [`choice_sets`] with optional parameters (`arc-easy:split=train`, `hellaswag:file=rows.jsonl`) or
/// the path of a file that ends in `.jsonl`, `.ndjson` or `.parquet`. The fields of its first row say what it is:
///
/// | rows | fields | context |
/// |---|---|---|
/// | HellaSwag | `ctx_a`, `ctx_b` (or only `ctx`), `endings`, `label`, `activity_label` | `{activity_label}: {ctx}` |
/// | ARC | `question`, `choices` (`text` and `label`), `answerKey` | `Question: {question}` / `Answer:` |
/// | MMLU | `question`, `subject`, `choices`, `answer` | the subject, the question, lettered choices, `Answer:` |
/// | any | `context`, `choices`, `label` | as it is |
///
/// Labels are indices from 0, or letters; those of ARC are among the labels of its choices. `id` names a row and `group`
/// groups it.
///
/// # Errors
/// [`DataError`] names the file, the line or row, and the field. A row without a right choice, with fewer than two, or
/// with a blank one is refused.
pub fn load_choices(spec: &str, options: &Options, access: &Access<'_>) -> Result<ChoiceSet, DataError> {
    if options.limit == Some(0) {
        return Err(DataError::ZeroLimit);
    }
    let limit = options.limit.unwrap_or(usize::MAX);
    let (name, parameters) = spec.split_once(':').map_or((spec, None), |(name, rest)| (name, Some(rest)));
    let path = Path::new(spec);
    match (PUBLISHED.iter().find(|set| set.name == name), FileFormat::of(path)) {
        (Some(set), _) => published(set, parameters, limit, access),
        (None, Some(format @ (FileFormat::Jsonl | FileFormat::Parquet))) => {
            if access.split.is_some() {
                return Err(DataError::SplitOfFile { what: spec.to_owned() });
            }
            from_file(path, format, limit)
        }
        _ => {
            let known = choice_sets();
            let nearest = nearest(name, known.iter().copied());
            Err(DataError::UnknownChoices { name: spec.to_owned(), nearest, known })
        }
    }
}

fn published(
    set: &ChoicePublished,
    parameters: Option<&str>,
    limit: usize,
    access: &Access<'_>,
) -> Result<ChoiceSet, DataError> {
    let parameters = match parameters {
        Some(text) => catalogue::parameters(set.name, set.parameters, text)?,
        None => Vec::new(),
    };
    let chosen = set.choose(&parameters, access)?;
    let place = set.rows(&chosen, access)?;
    let id = place.suffix.map_or_else(|| set.name.to_owned(), |suffix| format!("{}-{suffix}", set.name));
    let mut rows = Collected::default();
    for files in place.sequences {
        let mut sequence = FileSequence::new(files, set.schema);
        while rows.rows.len() < limit
            && let Some((path, line, fields)) = sequence.next()?
        {
            let name = format!("{}-{}", set.name, rows.rows.len() + 1);
            rows.add(set.schema, &path, line, &fields, Some(name))?;
        }
    }
    rows.set(&id, place.source.clone()).ok_or(DataError::NoneLeft {
        place: place.source,
        rows: 0,
        empty: 0,
        level: None,
        hops: None,
    })
}

fn from_file(path: &Path, format: FileFormat, limit: usize) -> Result<ChoiceSet, DataError> {
    let (mut reader, mut schema) =
        files::rows_detected(path, format, |has| ChoiceSchema::of(has), ChoiceSchema::ANY)?;
    let mut rows = Collected::default();
    while rows.rows.len() < limit
        && let Some((line, fields)) = reader.next()?
    {
        let detected = schema.map_or_else(|| ChoiceSchema::of_row(&fields), Ok);
        let known = detected.map_err(|problem| DataError::row(path, line, problem))?;
        rows.add(known, path, line, &fields, None)?;
        schema = Some(known);
    }
    let source = match schema.and_then(RowSchema::set) {
        Some(name) => format!("{}, in the form of {name}", path.display()),
        None => path.display().to_string(),
    };
    rows.set(&stem(path), source).ok_or_else(|| DataError::NoPrompts { path: path.to_owned() })
}

/// Rows as they are read, with the checks over all of them.
struct Collected {
    rows: Vec<Choice>,
    checks: PromptChecks,
}

impl Default for Collected {
    fn default() -> Self {
        Self { rows: Vec::new(), checks: PromptChecks::new(BOUNDS) }
    }
}

impl Collected {
    fn add(
        &mut self,
        schema: ChoiceSchema,
        path: &Path,
        line: usize,
        fields: &Fields,
        name: Option<String>,
    ) -> Result<(), DataError> {
        let mut row = schema.row(fields).map_err(|problem| DataError::row(path, line, problem))?;
        let id = name.or(row.id.take());
        // The checks count bytes, so they see all texts of the row.
        let text = row.context.clone() + &row.choices.concat();
        let checked = Row { id, text, group: row.group.take(), ..Row::default() };
        let Prompt { id, group, .. } = self.checks.prompt(path, line, checked)?;
        let ChoiceRow { context, choices, label, .. } = row;
        self.rows.push(Choice { id, context, choices, label, group });
        Ok(())
    }

    /// The set of these rows; `None` if there are none.
    fn set(self, id: &str, source: String) -> Option<ChoiceSet> {
        let rows = self.rows;
        let id = id.replace(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)), "_");
        let hashed = |Choice { id, context, choices, label, .. }: &Choice| {
            serde_json::json!([id, context, choices, label])
        };
        let sha256 = hash_rows(rows.iter().map(hashed));
        (!rows.is_empty()).then_some(ChoiceSet { id, source, rows, sha256 })
    }
}
