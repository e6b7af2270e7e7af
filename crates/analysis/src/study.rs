//! The description of a study, `STUDY.toml`: which models, which data, and what is compared.
//!
//! ```toml
//! name = "depth of Qwen2.5"
//! out = "qwen-study"             # results; default: fathom-out/study-NAME
//! probes = "contributions,lens"  # default: all
//! limit = 16                     # first prompts of every data set; default: all
//! seed = 42
//! primary = "settling"           # the rule of the verdicts, or { scale = "kl", difficulty = "cosine" }
//! qa = "qa"                      # pairs of erasure and gradients
//! options = { positions = 4 }    # further options of `fathom measure`
//!
//! [[model]]
//! id = "Qwen/Qwen2.5-0.5B"       # whatever `fathom measure` takes
//! name = "Qwen2.5 0.5B"          # default: the end of the id
//! family = "Qwen2.5"
//! size = 0.5                     # billions of parameters
//! type = "base"
//!
//! [[data]]
//! id = "word-problems"
//! difficulty = "easy"            # or a number
//! series = "problems"            # difficulties are compared within a series
//! probes = "all"                 # where not those of the study
//! ```

use crate::format::clean;
use fathom_results::Probe;
use fathom_results::{Rule, UnknownRule};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// What is measured and compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyDescription {
    /// What it is called.
    pub name: String,
    /// The folder of all results.
    pub out: PathBuf,
    /// The probes of every cell.
    pub probes: Vec<Probe>,
    /// The number of prompts of data sets that do not say their own.
    pub limit: Option<usize>,
    /// The seed of generated prompts and of the bootstrap, where given.
    pub seed: Option<u64>,
    /// The rule by which each question is answered; the others only describe.
    pub primary: BTreeMap<Question, Rule>,
    /// Question-answer pairs, where given.
    pub qa: Option<String>,
    /// Further options of `fathom measure`, without the dashes, and their values.
    pub options: Vec<(String, String)>,
    /// The models, at least one.
    pub models: Vec<StudyModel>,
    /// The data sets, at least one.
    pub data: Vec<StudyData>,
    /// What is compared: the declared pairs, and for questions without one the derived.
    pub pairs: Vec<ComparedPair>,
}

/// A model of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyModel {
    /// What `fathom measure` is given.
    pub id: String,
    /// What it is called, unlike every other model.
    pub name: String,
    /// Models of one family differ in size or type alone.
    pub family: Option<String>,
    /// Billions of parameters.
    pub size: Option<f64>,
    /// How it was trained: "base", "instruct" or the like.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The type in which weights are kept.
    pub dtype: Option<String>,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

/// A data set of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyData {
    /// What `fathom measure --data` is given.
    pub id: String,
    /// What it is called, unlike every other data set.
    pub name: String,
    /// How hard it is.
    pub difficulty: Option<Difficulty>,
    /// What it is a part of: difficulties are compared within a series.
    pub series: Option<String>,
    /// The number of prompts.
    pub limit: Option<usize>,
    /// The probes of its cells, where not those of the study.
    pub probes: Option<Vec<Probe>>,
}

/// How hard a data set is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difficulty {
    /// As it was given.
    pub label: String,
    /// Harder is larger.
    pub order: f64,
}

/// What a study asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Whether larger models of a family use more of their depth.
    Scale,
    /// Whether differently trained models of a family and size do.
    Training,
    /// Whether a model does on harder data.
    Difficulty,
}

/// Two models, or for [`Question::Difficulty`] two data sets, that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ComparedPair {
    /// The question that the pair is for.
    pub question: Question,
    /// Index of the first.
    pub a: usize,
    /// Index of the second; differences are second less first.
    pub b: usize,
}

/// A model on a data set, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cell {
    /// Index of the model.
    pub model: usize,
    /// Index of the data set.
    pub data: usize,
}

/// Everything that is wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyError {
    /// The file's name.
    pub file: String,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One thing wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
}

impl fmt::Display for StudyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problems.len() > 1 {
            write!(f, "{} has {} errors:", self.file, self.problems.len())?;
        }
        for Problem { line, message } in &self.problems {
            let message = clean(message);
            match (self.problems.len(), line) {
                (1, Some(line)) => write!(f, "{}, line {line}: {message}", self.file)?,
                (1, None) => write!(f, "{}: {message}", self.file)?,
                (_, Some(line)) => write!(f, "\n  line {line}: {message}")?,
                (_, None) => write!(f, "\n  {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for StudyError {}

impl Question {
    /// All questions, in the order in which they are answered.
    pub const ALL: [Self; 3] = [Self::Scale, Self::Training, Self::Difficulty];

    /// The name in a description.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Training => "training",
            Self::Difficulty => "difficulty",
        }
    }

    /// The question in words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Scale => "Do larger models use more of their depth?",
            Self::Training => "Do differently trained models use more of their depth?",
            Self::Difficulty => "Does a model use more of its depth on harder data?",
        }
    }
}

/// Difficulties in words, from easy to hard.
const WORDS: [&str; 5] = ["very easy", "easy", "medium", "hard", "very hard"];
/// The types in which weights can be kept.
const DTYPES: [&str; 2] = ["f32", "bf16"];
/// Options of `fathom measure` that a study may set under `options`, beside those with fields of their own.
pub const OPTIONS: [&str; 11] = [
    "split",
    "max-tokens",
    "skip-modes",
    "skip-parts",
    "positions",
    "baseline-data",
    "sites",
    "baseline",
    "quadrature",
    "memory",
    "rng",
];
const STUDY: [&str; 11] =
    ["name", "out", "probes", "limit", "seed", "primary", "qa", "options", "model", "data", "pair"];
const MODEL: [&str; 7] = ["id", "name", "family", "size", "type", "dtype", "revision"];
const DATA: [&str; 6] = ["id", "name", "difficulty", "series", "limit", "probes"];
const PAIR: [&str; 3] = ["question", "a", "b"];

impl StudyDescription {
    /// Reads a description; `file` only names it in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn parse(text: &str, file: &str) -> Result<Self, StudyError> {
        let mut reader = Reader { text, problems: Vec::new() };
        let study = reader.study();
        let mut problems = reader.problems;
        // Problems without a line are about the whole file.
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        match study {
            Some(study) if problems.is_empty() => Ok(study),
            _ => Err(StudyError { file: file.to_owned(), problems }),
        }
    }

    /// All cells, those of one model together.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let data = self.data.len();
        (0..self.models.len()).flat_map(move |model| (0..data).map(move |data| Cell { model, data }))
    }

    /// Where the results of a cell are kept.
    pub fn folder(&self, cell: Cell) -> PathBuf {
        self.out.join(folder(&self.models[cell.model].name)).join(folder(&self.data[cell.data].name))
    }

    /// What a cell is called: the model on the data.
    pub fn title(&self, cell: Cell) -> String {
        format!("{} on {}", self.models[cell.model].name, self.data[cell.data].name)
    }

    /// The options of `fathom measure` that measure a cell, without model, data and folder: names without dashes, and
    /// values.
    pub fn options(&self, cell: Cell) -> Vec<(String, String)> {
        let (model, data) = (&self.models[cell.model], &self.data[cell.data]);
        let probes = data.probes.as_ref().unwrap_or(&self.probes);
        let probes: Vec<&str> = probes.iter().map(|probe| probe.name()).collect();
        let mut options = vec![("probes".to_owned(), probes.join(","))];
        let mut add = |name: &str, value: Option<String>| {
            options.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("limit", data.limit.or(self.limit).map(|limit| limit.to_string()));
        add("seed", self.seed.map(|seed| seed.to_string()));
        add("qa", self.qa.clone());
        add("dtype", model.dtype.clone());
        add("revision", model.revision.clone());
        options.extend(self.options.iter().cloned());
        options
    }

    /// The arguments of `fathom measure` that measure a cell, without the folder.
    pub fn arguments(&self, cell: Cell) -> Vec<String> {
        // An equals sign keeps values that begin with a dash from being taken for options.
        let data = format!("--data={}", self.data[cell.data].id);
        let options = self.options(cell).into_iter().map(|(name, value)| format!("--{name}={value}"));
        let model = ["--".to_owned(), self.models[cell.model].id.clone()];
        [data].into_iter().chain(options).chain(model).collect()
    }
}

/// A name as the name of a folder: letters, digits and a few marks.
fn folder(name: &str) -> String {
    let keep =
        |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '=' | ',') { c } else { '_' };
    let name: String = name.chars().map(keep).collect();
    // Names of dots alone mean other folders, and those that begin with one are hidden.
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// The end of an id, without the endings of files.
fn short(id: &str) -> String {
    let end = id.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(id);
    let endings = [".gguf", ".safetensors", ".jsonl", ".ndjson", ".txt", ".md"];
    endings.iter().find_map(|ending| end.strip_suffix(ending)).unwrap_or(end).to_owned()
}

fn derived(models: &[StudyModel], data: &[StudyData], question: Question) -> Vec<ComparedPair> {
    let pair = |(a, b): (usize, usize)| ComparedPair { question, a, b };
    let pairs = match question {
        Question::Scale => {
            let key = |model: &StudyModel| Some(format!("{:?}", (model.family.as_ref()?, &model.kind)));
            let groups = grouped(models, |model| model.size.and(key(model)));
            groups.iter().flat_map(|group| steps(group, |i| models[i].size.unwrap_or_default())).collect()
        }
        Question::Training => {
            let key = |model: &StudyModel| Some(format!("{:?}", (model.family.as_ref()?, model.size?)));
            let groups = grouped(models, |model| model.kind.as_ref().and(key(model)));
            groups.iter().flat_map(|group| from_base(models, group)).collect()
        }
        Question::Difficulty => {
            let groups = grouped(data, |data| {
                data.difficulty.as_ref().map(|_| data.series.clone().unwrap_or_default())
            });
            let order = |i: usize| data[i].difficulty.as_ref().map_or(0.0, |difficulty| difficulty.order);
            groups.iter().flat_map(|group| steps(group, order)).collect::<Vec<_>>()
        }
    };
    pairs.into_iter().map(pair).collect()
}

/// The indices of what has equal keys, in the order of the first of each.
pub(crate) fn grouped<T>(all: &[T], key: impl Fn(&T) -> Option<String>) -> Vec<Vec<usize>> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let Some(key) = key(one) else { continue };
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Each with all that come next in order. Equals make no pair, and neither do the first and the last:
/// their difference is the sum of those in between, and would be counted twice.
fn steps(group: &[usize], order: impl Fn(usize) -> f64) -> Vec<(usize, usize)> {
    let mut sorted = group.to_vec();
    sorted.sort_by(|i, j| order(*i).total_cmp(&order(*j)));
    let levels: Vec<&[usize]> = sorted.chunk_by(|i, j| order(*i) == order(*j)).collect();
    let two = |levels: &[&[usize]]| -> Vec<(usize, usize)> {
        levels[0].iter().flat_map(|a| levels[1].iter().map(|b| (*a, *b))).collect()
    };
    levels.windows(2).flat_map(two).collect()
}

/// The rules that can answer a question where the description names none, the first whose probe is
/// measured. `settling` comes first because it is a mean over tokens: it varies smoothly, so its
/// intervals and p-values hold with few prompts, and models of different depth are not compared on
/// grids of different widths, as by rules that give whole layers.
const PRIMARY: [Rule; 4] = [Rule::Settling, Rule::Kl, Rule::Cosine, Rule::SkipOutput];

/// The base model, or else the first, with each model of another type.
fn from_base(models: &[StudyModel], group: &[usize]) -> Vec<(usize, usize)> {
    let is_base =
        |i: &&usize| models[**i].kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("base"));
    let Some(&first) = group.iter().find(is_base).or(group.first()) else { return Vec::new() };
    let other = |i: &&usize| models[**i].kind != models[first].kind;
    group.iter().filter(other).map(|i| (first, *i)).collect()
}

/// A table of the description whose fields are taken one by one.
struct Table<'i> {
    /// How messages call it.
    title: String,
    line: Option<usize>,
    fields: BTreeMap<String, (usize, Spanned<DeValue<'i>>)>,
}

/// A value and its line.
struct At<T> {
    value: T,
    line: usize,
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    fn problem(&mut self, line: Option<usize>, message: impl Into<String>) {
        self.problems.push(Problem { line, message: message.into() });
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn study(&mut self) -> Option<StudyDescription> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let line = error.span().map(|span| self.line(span));
            self.problem(line, format!("this is not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            // What was made of the rest is a guess and would give misleading messages.
            return None;
        }
        let mut top = self.table("the study".to_owned(), None, document.into_inner());
        self.unknown(&top, &STUDY);
        let name = self.required(&mut top, "name");
        let out = self.text(&mut top, "out");
        let probes = self.probes(&mut top).unwrap_or_else(|| Probe::ALL.to_vec());
        let limit = self.limit(&mut top);
        let seed = self.whole(&mut top, "seed").map(|seed| seed.value);
        let primary = self.primary(&mut top, &probes);
        let qa = self.text(&mut top, "qa").map(|qa| qa.value);
        let options = self.options(&mut top);
        let (models, model_lines) = self.models(&mut top);
        let (data, data_lines) = self.data(&mut top);
        self.distinct("model", models.iter().map(|m| m.name.as_str()).zip(model_lines));
        self.distinct("data set", data.iter().map(|d| d.name.as_str()).zip(data_lines));
        let declared = self.pairs(&mut top, &models, &data);
        let pairs = |question| {
            let of: Vec<ComparedPair> =
                declared.iter().filter(|pair| pair.question == question).copied().collect();
            if of.is_empty() { derived(&models, &data, question) } else { of }
        };
        let pairs = Question::ALL.into_iter().flat_map(pairs).collect();
        let name = name?.value;
        let out = out.map_or_else(
            || PathBuf::from("fathom-out").join(folder(&format!("study-{name}"))),
            |out| PathBuf::from(out.value),
        );
        Some(StudyDescription { name, out, probes, limit, seed, primary, qa, options, models, data, pairs })
    }

    fn table<'i>(&self, title: String, line: Option<usize>, table: DeTable<'i>) -> Table<'i> {
        let field = |(key, value): (Spanned<_>, _)| {
            let line = self.line(key.span());
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            (key.into_owned(), (line, value))
        };
        Table { title, line, fields: table.into_iter().map(field).collect() }
    }

    /// Names the fields that nothing reads.
    fn unknown(&mut self, table: &Table<'_>, known: &[&str]) {
        for (name, (line, _)) in table.fields.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let Table { title, .. } = table;
            let message = format!("{title} has no field '{name}'{}", instead(name, known));
            self.problem(Some(*line), message);
        }
    }

    fn wrong<T>(&mut self, table: &Table<'_>, name: &str, line: usize, must: &str) -> Option<T> {
        self.problem(Some(line), format!("'{name}' of {} must be {must}", table.title));
        None
    }

    /// A text that is not empty.
    fn text(&mut self, table: &mut Table<'_>, name: &str) -> Option<At<String>> {
        let (line, value) = table.fields.remove(name)?;
        match value.into_inner() {
            DeValue::String(text) if !text.trim().is_empty() => Some(At { value: text.into_owned(), line }),
            DeValue::String(_) => self.wrong(table, name, line, "a text that is not empty"),
            _ => self.wrong(table, name, line, "a text in quotes"),
        }
    }

    /// A text that must be there.
    fn required(&mut self, table: &mut Table<'_>, name: &str) -> Option<At<String>> {
        if !table.fields.contains_key(name) {
            self.problem(table.line, format!("{} has no '{name}'; add one", table.title));
            return None;
        }
        self.text(table, name)
    }

    fn whole(&mut self, table: &mut Table<'_>, name: &str) -> Option<At<u64>> {
        let (line, value) = table.fields.remove(name)?;
        match whole(value.get_ref()) {
            Some(value) => Some(At { value, line }),
            None => self.wrong(table, name, line, "a whole number from 0 up"),
        }
    }

    fn limit(&mut self, table: &mut Table<'_>) -> Option<usize> {
        let At { value, line } = self.whole(table, "limit")?;
        match usize::try_from(value) {
            Ok(limit) if limit > 0 => Some(limit),
            _ => self.wrong(table, "limit", line, "a number of prompts from 1 up; leave it out for all"),
        }
    }

    fn probes(&mut self, table: &mut Table<'_>) -> Option<Vec<Probe>> {
        let (line, value) = table.fields.remove("probes")?;
        let Some(words) = list(value.get_ref()) else {
            self.wrong::<()>(
                table,
                "probes",
                line,
                "a text such as \"contributions,lens\" or a list of texts",
            );
            return None;
        };
        let mut probes = Vec::new();
        for word in words.iter().flat_map(|words| words.split(',')) {
            match Probe::list(word) {
                Ok(some) => probes.extend(some),
                Err(error) => self.problem(Some(line), error.to_string()),
            }
        }
        probes.sort();
        probes.dedup();
        if words.is_empty() {
            self.wrong::<()>(table, "probes", line, "at least one probe, or left out for all");
        }
        Some(probes)
    }

    /// The primary rule of every question: one text for all, or a table by question.
    fn primary(&mut self, top: &mut Table<'_>, probes: &[Probe]) -> BTreeMap<Question, Rule> {
        let measured = |rule: &Rule| probes.contains(&rule.probe());
        let usual = PRIMARY.into_iter().find(measured).unwrap_or(PRIMARY[0]);
        let mut primary = BTreeMap::from(Question::ALL.map(|question| (question, usual)));
        let Some((line, value)) = top.fields.remove("primary") else { return primary };
        let value = value.into_inner();
        if let DeValue::String(name) = &value {
            let rule = self.rule(&At { value: name.clone().into_owned(), line }, probes);
            return rule
                .map_or(primary, |rule| BTreeMap::from(Question::ALL.map(|question| (question, rule))));
        }
        if let DeValue::Table(table) = value {
            let mut table = self.table("primary".to_owned(), Some(line), table);
            self.unknown(&table, &Question::ALL.map(Question::name));
            for question in Question::ALL {
                let rule = self.text(&mut table, question.name());
                if let Some(rule) = rule.and_then(|rule| self.rule(&rule, probes)) {
                    primary.insert(question, rule);
                }
            }
            return primary;
        }
        self.wrong::<()>(
            top,
            "primary",
            line,
            "a rule in quotes or a table such as { scale = \"settling\" }",
        );
        primary
    }

    /// A rule that the study measures.
    fn rule(&mut self, name: &At<String>, probes: &[Probe]) -> Option<Rule> {
        let rule: Rule = match name.value.parse() {
            Ok(rule) => rule,
            Err(error) => {
                let error: UnknownRule = error;
                self.problem(Some(name.line), error.to_string());
                return None;
            }
        };
        let probe = rule.probe();
        if !probes.contains(&probe) {
            let probe = probe.name();
            let message = format!(
                "the primary rule {rule} needs the probe {probe}; add it to 'probes' or name another rule"
            );
            self.problem(Some(name.line), message);
            return None;
        }
        Some(rule)
    }

    fn options(&mut self, table: &mut Table<'_>) -> Vec<(String, String)> {
        let Some((line, value)) = table.fields.remove("options") else { return Vec::new() };
        let DeValue::Table(options) = value.into_inner() else {
            self.wrong::<()>(table, "options", line, "a table such as { positions = 4 }");
            return Vec::new();
        };
        let options = self.table("options".to_owned(), Some(line), options);
        self.unknown(&options, &OPTIONS);
        let mut all = Vec::new();
        for (name, (line, value)) in &options.fields {
            let text = match value.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
                value => list(value).map(|words| words.join(",")),
            };
            match text {
                Some(text) => all.push((name.clone(), text)),
                None => {
                    self.wrong::<()>(&options, name, *line, "a text, a whole number or a list of texts");
                }
            }
        }
        all
    }

    /// The tables of an array such as `[[model]]`.
    fn tables<'i>(&mut self, top: &mut Table<'i>, name: &str) -> Vec<Table<'i>> {
        let Some((line, value)) = top.fields.remove(name) else { return Vec::new() };
        let DeValue::Array(array) = value.into_inner() else {
            self.problem(Some(line), format!("'{name}' must be written as [[{name}]], once for each {name}"));
            return Vec::new();
        };
        let array: DeArray<'i> = array;
        let mut tables = Vec::new();
        for (i, element) in array.into_iter().enumerate() {
            let line = self.line(element.span());
            match element.into_inner() {
                DeValue::Table(table) => {
                    tables.push(self.table(format!("{name} {}", i + 1), Some(line), table));
                }
                _ => self.problem(Some(line), format!("'{name}' must be written as [[{name}]]")),
            }
        }
        tables
    }

    fn models(&mut self, top: &mut Table<'_>) -> (Vec<StudyModel>, Vec<Option<usize>>) {
        let tables = self.tables(top, "model");
        if tables.is_empty() {
            self.problem(None, "the study has no model; add [[model]] with an id");
        }
        let mut lines = Vec::new();
        let mut models = Vec::new();
        for mut table in tables {
            self.unknown(&table, &MODEL);
            let (id, name) = self.id_and_name(&mut table);
            lines.push(name.as_ref().map(|name| name.line).or(table.line));
            let dtype = self.text(&mut table, "dtype").and_then(|dtype| self.dtype(&table, dtype));
            let size = self.size(&mut table);
            let mut text = |name| self.text(&mut table, name).map(|text| text.value);
            models.push(StudyModel {
                family: text("family"),
                size,
                kind: text("type"),
                dtype,
                revision: text("revision"),
                name: name.map_or_else(|| short(&id), |name| name.value),
                id,
            });
        }
        (models, lines)
    }

    fn id_and_name(&mut self, table: &mut Table<'_>) -> (String, Option<At<String>>) {
        let id = self.required(table, "id").map(|id| id.value).unwrap_or_default();
        let name = self.text(table, "name");
        if let Some(name) = &name {
            // Messages after this one can call the table by its name.
            table.title = format!("'{}'", name.value);
        }
        (id, name)
    }

    fn dtype(&mut self, table: &Table<'_>, dtype: At<String>) -> Option<String> {
        if DTYPES.contains(&dtype.value.as_str()) {
            return Some(dtype.value);
        }
        self.wrong(table, "dtype", dtype.line, &format!("one of {}", DTYPES.join(", ")))
    }

    fn size(&mut self, table: &mut Table<'_>) -> Option<f64> {
        let (line, value) = table.fields.remove("size")?;
        match number(value.get_ref()).filter(|size| *size > 0.0 && size.is_finite()) {
            Some(size) => Some(size),
            None => self.wrong(table, "size", line, "a number of billions of parameters, such as 0.5"),
        }
    }

    fn data(&mut self, top: &mut Table<'_>) -> (Vec<StudyData>, Vec<Option<usize>>) {
        let tables = self.tables(top, "data");
        if tables.is_empty() {
            self.problem(None, "the study has no data; add [[data]] with an id");
        }
        let (mut lines, mut all) = (Vec::new(), Vec::new());
        let mut ways: Vec<(bool, usize)> = Vec::new();
        for mut table in tables {
            self.unknown(&table, &DATA);
            let (id, name) = self.id_and_name(&mut table);
            lines.push(name.as_ref().map(|name| name.line).or(table.line));
            let difficulty = self.difficulty(&mut table, &mut ways);
            let limit = self.limit(&mut table);
            let series = self.text(&mut table, "series").map(|series| series.value);
            let probes = self.probes(&mut table);
            let name = name.map_or_else(|| short(&id), |name| name.value);
            all.push(StudyData { name, difficulty, series, limit, probes, id });
        }
        if let [(first, _), rest @ ..] = &ways[..]
            && let Some((_, line)) = rest.iter().find(|(words, _)| words != first)
        {
            let message =
                "difficulties are given in words and in numbers, which have no common order; use either";
            self.problem(Some(*line), message);
        }
        (all, lines)
    }

    /// `ways` collects whether difficulties are words, and their lines.
    fn difficulty(&mut self, table: &mut Table<'_>, ways: &mut Vec<(bool, usize)>) -> Option<Difficulty> {
        let (line, value) = table.fields.remove("difficulty")?;
        if let DeValue::String(word) = value.get_ref() {
            let Some(order) = WORDS.iter().position(|known| *known == word.as_ref()) else {
                let must = format!("a number or one of {}{}", WORDS.join(", "), likely(word, &WORDS));
                return self.wrong(table, "difficulty", line, &must);
            };
            ways.push((true, line));
            return Some(Difficulty { label: word.clone().into_owned(), order: order as f64 });
        }
        let Some(order) = number(value.get_ref()).filter(|order| order.is_finite()) else {
            return self.wrong(
                table,
                "difficulty",
                line,
                &format!("a number or one of {}", WORDS.join(", ")),
            );
        };
        ways.push((false, line));
        Some(Difficulty { label: order.to_string(), order })
    }

    /// Names that two have, or that would share a folder.
    fn distinct<'n>(&mut self, what: &str, names: impl Iterator<Item = (&'n str, Option<usize>)>) {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for (name, line) in names.filter(|(name, _)| !name.is_empty()) {
            // Some file systems do not tell capital letters from small ones.
            match seen.insert(folder(name).to_lowercase(), name) {
                None => {}
                Some(earlier) if earlier == name => {
                    let message = format!("two {what}s are called '{name}'; give one of them another name");
                    self.problem(line, message);
                }
                Some(earlier) => {
                    let message = format!(
                        "the {what}s '{earlier}' and '{name}' would share a folder; give one of them another name"
                    );
                    self.problem(line, message);
                }
            }
        }
    }

    fn pairs(&mut self, top: &mut Table<'_>, models: &[StudyModel], data: &[StudyData]) -> Vec<ComparedPair> {
        let names_of = |question| -> Vec<&str> {
            match question {
                Question::Difficulty => data.iter().map(|data| data.name.as_str()).collect(),
                _ => models.iter().map(|model| model.name.as_str()).collect(),
            }
        };
        let mut pairs = Vec::new();
        for mut table in self.tables(top, "pair") {
            self.unknown(&table, &PAIR);
            let question =
                self.required(&mut table, "question").and_then(|text| self.question(&table, &text));
            let (a, b) = (self.required(&mut table, "a"), self.required(&mut table, "b"));
            let Some(question) = question else { continue };
            let names = names_of(question);
            let a = a.and_then(|a| self.named(question, &a, &names));
            let b = b.and_then(|b| self.named(question, &b, &names));
            match (a, b) {
                (Some(a), Some(b)) if a == b => {
                    let message = format!("{} compares '{}' with itself; name two", table.title, names[a]);
                    self.problem(table.line, message);
                }
                (Some(a), Some(b)) => pairs.push(ComparedPair { question, a, b }),
                _ => {}
            }
        }
        pairs
    }

    fn question(&mut self, table: &Table<'_>, text: &At<String>) -> Option<Question> {
        let found = Question::ALL.into_iter().find(|question| question.name() == text.value);
        if found.is_none() {
            let names = Question::ALL.map(Question::name);
            let must = format!("one of {}{}", names.join(", "), likely(&text.value, &names));
            return self.wrong(table, "question", text.line, &must);
        }
        found
    }

    fn named(&mut self, question: Question, name: &At<String>, names: &[&str]) -> Option<usize> {
        let found = names.iter().position(|known| *known == name.value);
        if found.is_none() {
            let what = if question == Question::Difficulty { "data set" } else { "model" };
            let message = format!("no {what} is called '{}'{}", name.value, instead(&name.value, names));
            self.problem(Some(name.line), message);
        }
        found
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(integer) = value else { return None };
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    }
}

/// One text, or those of a list.
fn list(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.clone().into_owned()]),
        DeValue::Array(array) => {
            let text = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
                DeValue::String(text) => Some(text.clone().into_owned()),
                _ => None,
            };
            array.iter().map(text).collect()
        }
        _ => None,
    }
}

/// The likeliest of the known words, or all of them.
fn instead(word: &str, known: &[&str]) -> String {
    match likely(word, known) {
        none if none.is_empty() && known.is_empty() => "; there is none".to_owned(),
        none if none.is_empty() => format!("; there are {}", known.join(", ")),
        some => some,
    }
}

/// "; did you mean ...?", if a known word is like this one.
fn likely(word: &str, known: &[&str]) -> String {
    // Below this similarity a word is no likely misspelling of another.
    const LIKENESS: f64 = 0.8;
    // Comparing takes time with the square of the length.
    let word: String = word.to_lowercase().chars().take(64).collect();
    let likeness = |known: &str| strsim::jaro_winkler(&word, &known.to_lowercase());
    // Of equals, the last of an iterator is the largest; the first is to be named.
    let nearest = known.iter().rev().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest
        .filter(|nearest| likeness(nearest) >= LIKENESS)
        .map_or(String::new(), |nearest| format!("; did you mean '{nearest}'?"))
}
