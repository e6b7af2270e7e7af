//! The names that a spec may start with, and the way from a spec to its set.

use std::path::Path;
use std::sync::LazyLock;

use crate::builtin::{COMPETITION, PLAIN, QA, WORD_PROBLEMS};
use crate::files::{self, Kind};
use crate::generate::{self, Operation};
use crate::{DataError, Options, Prompt, PromptSet, builtin};

/// A prompt set that has a name.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub id: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// How many prompts it has unless a parameter says otherwise.
    pub count: usize,
    /// The fields of [`Prompt`] that its prompts fill, or some of them, apart from the id.
    pub fields: &'static [&'static str],
    /// The parameters that a spec may carry, as in `addition:digits=4,count=50`.
    pub parameters: &'static [&'static str],
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Builtin(fn() -> Vec<Prompt>),
    Generated(Operation),
}

/// Below this Jaro-Winkler similarity a name is no likely misspelling of another.
const LIKENESS: f64 = 0.8;

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
        generated_entry("addition", "sums of two random numbers of 6 digits", Operation::Addition),
        generated_entry(
            "multiplication",
            "products of two random numbers of 6 digits",
            Operation::Multiplication,
        ),
    ]
});

fn builtin_entry(
    id: &'static str,
    about: &'static str,
    fields: &'static [&'static str],
    read: fn() -> Vec<Prompt>,
) -> Entry {
    let count = read().len();
    Entry { id, about, count, fields, parameters: &[], origin: Origin::Builtin(read) }
}

fn generated_entry(id: &'static str, about: &'static str, operation: Operation) -> Entry {
    Entry {
        id,
        about,
        count: generate::COUNT,
        fields: &["text", "answer", "group"],
        parameters: generate::PARAMETERS,
        origin: Origin::Generated(operation),
    }
}

/// The prompt sets that have names.
pub fn catalogue() -> &'static [Entry] {
    &ENTRIES
}

/// Loads a prompt set.
///
/// A spec that ends in `.jsonl`, `.ndjson`, `.txt` or `.md` is the path of a file. Any other is a name
/// of the [`catalogue`], which may be followed by parameters: `addition:digits=4,count=50,seed=7`.
///
/// # Files of JSON lines
/// Each line that is not blank is a JSON object with a field `text`, or with `question` and `answer`,
/// whose text is the one directly followed by the other, no space put between. If both `text` and
/// `answer` are there, the text must end with the answer. Optional fields are `id` and `group` (or
/// `level`), strings or numbers, and `positions`, a list of whole numbers from 0 up. A field that is
/// `null` counts as absent, and fields of other names are ignored. A prompt without an id is named
/// after its file and line. Files must be UTF-8; a byte order mark and CR LF are accepted.
///
/// # Text files
/// Each paragraph is a prompt, with its inner line breaks; paragraphs are parted by blank lines.
///
/// # Errors
/// [`DataError`] says what is wrong, where, and what to do about it. Reading stops as soon as
/// `options.limit` prompts are there, so that what follows them is not checked.
pub fn load(spec: &str, options: &Options) -> Result<PromptSet, DataError> {
    if options.limit == Some(0) {
        return Err(DataError::ZeroLimit);
    }
    let path = Path::new(spec);
    if let Some(kind) = Kind::of(path) {
        return files::load(path, kind, options);
    }
    let (name, parameters) = match spec.split_once(':') {
        Some((name, parameters)) => (name, Some(parameters)),
        None => (spec, None),
    };
    match catalogue().iter().find(|entry| entry.id == name) {
        Some(entry) => entry.load(parameters, options),
        None if path.exists() => Err(DataError::UnknownKind { path: path.to_owned() }),
        None => Err(DataError::UnknownSet { name: name.to_owned(), nearest: nearest(name) }),
    }
}

impl Entry {
    fn load(&self, parameters: Option<&str>, options: &Options) -> Result<PromptSet, DataError> {
        let parameters = parameters.map_or(Ok(Vec::new()), |text| self.split(text))?;
        match self.origin {
            Origin::Generated(operation) => generate::load(operation, &parameters, options),
            Origin::Builtin(read) => {
                if let Some((name, _)) = parameters.first() {
                    let (set, name, known) = (self.id, (*name).to_owned(), self.parameters);
                    return Err(DataError::UnknownParameter { set, name, known });
                }
                let mut prompts = read();
                prompts.truncate(options.limit.unwrap_or(usize::MAX));
                Ok(PromptSet::new(self.id, "built in".to_owned(), prompts))
            }
        }
    }

    fn split<'a>(&self, parameters: &'a str) -> Result<Vec<(&'a str, &'a str)>, DataError> {
        let set = self.id;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for text in parameters.split(',') {
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
}

/// All names, for a sentence.
pub(crate) fn names() -> String {
    catalogue().iter().map(|entry| entry.id).collect::<Vec<_>>().join(", ")
}

fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let likeness = |entry: &Entry| strsim::jaro_winkler(&name, entry.id);
    let best = catalogue().iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS).then_some(best.id)
}
