//! The catalogue of named sets, and opening a set from its spec.

use std::path::Path;
use std::sync::LazyLock;

use fathom_results::text::nearest;

use crate::builtin::{COMPETITION, PLAIN, PROSE, QA, WORD_PROBLEMS};
use crate::file_format::FileFormat;
use crate::files;
use crate::generate::{self, Operation};
use crate::published::{self, PublishedSet};
use crate::stream::PromptStream;
use crate::{Access, DataError, Options, Prompt, PromptSet, builtin};

/// A named prompt set.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub id: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The default number of prompts; 0 if it depends on a file.
    pub count: usize,
    /// The fields of [`Prompt`] that at least some of its prompts have, apart from the id.
    pub fields: &'static [&'static str],
    /// The parameters of its spec, as in `addition:digits=4,count=50`.
    pub parameters: &'static [&'static str],
    /// Its data set on the Hugging Face hub, if it is read from there.
    pub hub: Option<&'static str>,
    /// Its splits, the default one first.
    pub splits: &'static [&'static str],
    /// The largest number of tokens of a prompt; see [`PromptSet::max_tokens`].
    pub max_tokens: Option<usize>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Builtin(fn() -> Vec<Prompt>),
    Generated(Operation),
    Published(&'static PublishedSet),
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    const TEXT: &[&str] = &["text", "group"];
    const ANSWERED: &[&str] = &["text", "answer", "group"];
    vec![
        builtin_entry(
            "builtin",
            "plain, word-problems and competition in turn: three difficulties",
            ANSWERED,
            builtin::all,
        ),
        builtin_entry("plain", "text to be continued: tales, facts, code, dialogue, news", TEXT, || {
            builtin::read(PLAIN)
        }),
        builtin_entry(
            "word-problems",
            "school word problems with worked answers, in the form of GSM8K",
            ANSWERED,
            || builtin::read(WORD_PROBLEMS),
        ),
        builtin_entry(
            "competition",
            "competition mathematics with short solutions, in the form of AIME",
            ANSWERED,
            || builtin::read(COMPETITION),
        ),
        builtin_entry(
            "qa",
            "questions with short answers: arithmetic, facts, two hops, patterns",
            ANSWERED,
            || builtin::read(QA),
        ),
        builtin_entry(
            "prose",
            "passages of a novel, of addresses and on computing, for losses and calibration",
            TEXT,
            || builtin::read(PROSE),
        ),
        generated_entry("addition", "sums of two random numbers of 6 digits", Operation::Addition),
        generated_entry(
            "multiplication",
            "products of two random numbers of 6 digits",
            Operation::Multiplication,
        ),
        published_entry("GSM8K: school word problems with worked answers", 1319, &published::GSM8K),
        published_entry("HellaSwag: scenes with the ending that fits", 10_042, &published::HELLASWAG),
        published_entry("AIME 2024: competition problems with solutions", 30, &published::AIME24),
        published_entry("MATH: problems of five levels with solutions", 5000, &published::MATH),
        published_entry("MQuAKE: questions of two to four hops; needs file=PATH", 0, &published::MQUAKE),
    ]
});

fn builtin_entry(
    id: &'static str,
    about: &'static str,
    fields: &'static [&'static str],
    read: fn() -> Vec<Prompt>,
) -> Entry {
    let count = read().len();
    let (hub, splits, max_tokens) = (None, [].as_slice(), None);
    let origin = Origin::Builtin(read);
    Entry { id, about, count, fields, parameters: &[], hub, splits, max_tokens, origin }
}

fn generated_entry(id: &'static str, about: &'static str, operation: Operation) -> Entry {
    Entry {
        id,
        about,
        count: generate::COUNT,
        fields: &["text", "answer", "group"],
        parameters: generate::PARAMETERS,
        hub: None,
        splits: &[],
        max_tokens: None,
        origin: Origin::Generated(operation),
    }
}

fn published_entry(about: &'static str, count: usize, set: &'static PublishedSet) -> Entry {
    const ANSWERED: &[&str] = &["text", "answer"];
    const GROUPED: &[&str] = &["text", "answer", "group"];
    let grouped = set.parameters.iter().any(|name| ["level", "hops"].contains(name));
    Entry {
        id: set.name,
        about,
        count,
        fields: if grouped { GROUPED } else { ANSWERED },
        parameters: set.parameters,
        hub: set.hub,
        splits: set.splits,
        max_tokens: set.schema.max_tokens(),
        origin: Origin::Published(set),
    }
}

/// The named prompt sets.
pub fn catalogue() -> &'static [Entry] {
    &ENTRIES
}

/// Loads a prompt set without network access; see [`load_with`].
///
/// # Errors
/// As [`load_with`].
pub fn load(spec: &str, options: &Options) -> Result<PromptSet, DataError> {
    load_with(spec, options, &Access::default())
}

/// Opens a prompt set as a stream. The stream does not apply `options.limit`; its reader does.
///
/// A spec is a name of the [`catalogue`] with optional parameters (`addition:digits=4,count=50,seed=7`,
/// `math:level=5,split=train`, `gsm8k:file=my/test.jsonl`) or else the path of a file that ends in `.jsonl`,
/// `.ndjson`, `.parquet`, `.txt` or `.md`. The value of `file=` extends to the next parameter and may contain
/// commas.
///
/// # JSON lines
/// Each line that is not blank is a JSON object with a field `text`, or with `question` and `answer`,
/// which are joined without a space. If both `text` and
/// `answer` are present, the text must end with the answer. Optional fields are `id` and `group` (or
/// `level`, or `regime`), strings or numbers, and `positions`, a list of whole numbers from 0 up. A field
/// that is `null` counts as absent. Other fields are ignored, even if they contain `NaN`.
/// A row whose text, question or answer is empty or `null` is skipped; [`PromptSet::empty`] counts such rows.
/// Beside a `text`, an `answer` that is not a string is ignored. A prompt without an id is named
/// after its file and line. Files must be UTF-8; a byte order mark and CR LF are accepted.
///
/// # Rows of published sets
/// If the first row of a file has no `text` but the fields of a published set, all rows are read as such
/// with the prompt template of that set: `question` and an `answer` with `####` (GSM8K), `ctx`, `endings` and `label`
/// (HellaSwag), `Problem`, `Solution` and `Answer` (AIME), `problem`, `solution` and `level` (MATH),
/// `questions`, `answer` and `single_hops` (MQuAKE). `SET:file=PATH` names the set explicitly.
///
/// # Parquet files
/// The columns are the fields above: text, numbers and lists of them, in any encoding and any compression
/// except LZO. Other columns are not read, and neither are ids and groups that are neither text nor numbers.
///
/// # Text files
/// Each paragraph is a prompt, with its inner line breaks; blank lines separate paragraphs.
///
/// # Errors
/// [`DataError`] names the cause, the place and the remedy. The first prompt is read at once, so that an empty
/// file is an error here.
pub fn open(spec: &str, options: &Options, access: &Access<'_>) -> Result<PromptStream, DataError> {
    if options.limit == Some(0) {
        return Err(DataError::ZeroLimit);
    }
    let (name, parameters) = match spec.split_once(':') {
        Some((name, parameters)) => (name, Some(parameters)),
        None => (spec, None),
    };
    let entry = catalogue().iter().find(|entry| entry.id == name);
    let path = Path::new(spec);
    match (entry, FileFormat::of(path)) {
        (Some(entry), _) => entry.open(parameters, options, access),
        (None, Some(_)) if access.split.is_some() => Err(DataError::SplitOfFile { what: spec.to_owned() }),
        (None, Some(kind)) => files::open(path, kind),
        (None, None) if path.exists() => Err(DataError::UnknownKind { path: path.to_owned() }),
        (None, None) => {
            let known: Vec<&str> = catalogue().iter().map(|entry| entry.id).collect();
            let nearest = nearest(name, known.iter().copied());
            Err(DataError::UnknownSet { name: name.to_owned(), nearest, known })
        }
    }
}

/// Loads a prompt set: the first `options.limit` prompts of [`open`].
///
/// # Errors
/// As [`open`], and the error of the first invalid row. Rows beyond the limit are not read.
pub fn load_with(spec: &str, options: &Options, access: &Access<'_>) -> Result<PromptSet, DataError> {
    let mut stream = open(spec, options, access)?;
    let prompts = stream.read(options.limit)?;
    Ok(stream.set(prompts))
}

impl Entry {
    fn open(
        &self,
        parameters: Option<&str>,
        options: &Options,
        access: &Access<'_>,
    ) -> Result<PromptStream, DataError> {
        let parameters = match parameters {
            Some(text) => self::parameters(self.id, self.parameters, text)?,
            None => Vec::new(),
        };
        match self.origin {
            Origin::Published(set) => set.open(&parameters, access),
            _ if access.split.is_some() => Err(DataError::SplitOfFile { what: format!("`{}`", self.id) }),
            Origin::Generated(operation) => generate::open(operation, &parameters, options),
            Origin::Builtin(read) => {
                if let Some((name, _)) = parameters.first() {
                    let (set, name, known) = (self.id, (*name).to_owned(), self.parameters);
                    return Err(DataError::UnknownParameter { set, name, known });
                }
                Ok(PromptStream::new(self.id, "the built-in prompts".to_owned(), read().into_iter()))
            }
        }
    }
}

/// Splits the parameters of a set: `name=value,name=value`.
pub(crate) fn parameters<'a>(
    set: &'static str,
    allowed: &[&str],
    text: &'a str,
) -> Result<Vec<(&'a str, &'a str)>, DataError> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let known = |text: &str| text.split_once('=').is_some_and(|(name, _)| allowed.contains(&name));
    let mut rest = Some(text);
    while let Some(text) = rest {
        let comma = |from: usize| text[from..].find(',').map_or(text.len(), |at| from + at);
        let mut end = comma(0);
        // Paths may contain commas.
        while text.starts_with("file=") && end < text.len() && !known(&text[end + 1..]) {
            end = comma(end + 1);
        }
        rest = text.get(end + 1..);
        let text = &text[..end];
        let Some((name, value)) = text.split_once('=') else {
            return Err(DataError::ParameterForm { set, text: text.to_owned() });
        };
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(DataError::RepeatedParameter { set, name: name.to_owned() });
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}
