//! From `STUDY.toml` to a [`StudyDescription`].

use super::description::{ComparedPair, Difficulty, OPTIONS, Question};
use super::description::{StudyData, StudyDescription, StudyModel, folder, short};
use super::error::{Problem, StudyError};
use super::pairs::derived;
use super::reader::{At, Field, Reader, Table, instead, number, texts};
use fathom_results::text::did_you_mean;
use fathom_results::{Probe, Rule, UnknownRule};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use toml::de::DeValue;

/// Difficulties in words, from easy to hard.
const WORDS: [&str; 5] = ["very easy", "easy", "medium", "hard", "very hard"];
/// The types in which weights can be stored.
const DTYPES: [&str; 2] = ["f32", "bf16"];
/// Fields of the document and of its tables.
const STUDY: [&str; 12] =
    ["name", "out", "probes", "limit", "seed", "primary", "qa", "options", "model", "data", "pair", "job"];
const MODEL: [&str; 9] = ["id", "name", "family", "size", "tokens", "type", "dtype", "revision", "options"];
const DATA: [&str; 7] = ["id", "name", "difficulty", "series", "limit", "probes", "options"];
const PAIR: [&str; 3] = ["question", "a", "b"];

/// Primary rules by preference: a description that names none gets the first whose probe is measured.
/// `settling` comes first because it is a mean over tokens: it varies smoothly, so its intervals and
/// p-values hold with few prompts, and models of different depth are not compared on grids of different
/// widths, as with rules that give whole layers.
const PRIMARY: [Rule; 4] = [Rule::Settling, Rule::Kl, Rule::Cosine, Rule::SkipOutput];

/// A number of prompts, at least 1.
struct Limit(usize);

impl Field for Limit {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        match usize::try_from(u64::of(value)?) {
            Ok(limit) if limit > 0 => Ok(Self(limit)),
            _ => Err("a number of prompts from 1 up; leave it out for all".to_owned()),
        }
    }
}

/// Billions of parameters.
struct Size(f64);

impl Field for Size {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let size = number(&value).filter(|size| *size > 0.0);
        size.map(Self).ok_or_else(|| "a number of billions of parameters, such as 0.5".to_owned())
    }
}

/// Tokens of a training.
struct Tokens(f64);

impl Field for Tokens {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let tokens = number(&value).filter(|tokens| *tokens > 0.0);
        tokens.map(Self).ok_or_else(|| "a number of training tokens, such as 2e12".to_owned())
    }
}

struct Dtype(String);

impl Field for Dtype {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let dtype = String::of(value)?;
        match DTYPES.contains(&dtype.as_str()) {
            true => Ok(Self(dtype)),
            false => Err(format!("one of {}", DTYPES.join(", "))),
        }
    }
}

/// One text or several.
struct Texts(Vec<String>);

impl Field for Texts {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let wrong = || "a text such as \"contributions,lens\" or a list of texts".to_owned();
        texts(value).map(Self).ok_or_else(wrong)
    }
}

/// The value of an option of `fathom measure`, as on the command line.
struct OptionValue(String);

impl Field for OptionValue {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let text = match value {
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(value) => Some(value.to_string()),
            value => texts(value).map(|texts| texts.join(",")),
        };
        text.map(Self).ok_or_else(|| "a text, a number, true or false, or a list of texts".to_owned())
    }
}

impl Field for Question {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let name = String::of(value)?;
        let names = Self::ALL.map(Self::name);
        let wrong = || format!("one of {}{}", names.join(", "), did_you_mean(&name, names));
        Self::ALL.into_iter().find(|question| question.name() == name).ok_or_else(wrong)
    }
}

/// A difficulty, and whether it was given as a word.
struct Level {
    difficulty: Difficulty,
    is_word: bool,
}

impl Field for Level {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let must = format!("a number or one of {}", WORDS.join(", "));
        let (label, order, is_word) = match &value {
            DeValue::String(word) => {
                let order = WORDS.iter().position(|known| *known == word.as_ref());
                let order = order.ok_or_else(|| must + &did_you_mean(word, WORDS))?;
                (word.to_string(), order as f64, true)
            }
            value => {
                let order = number(value).ok_or(must)?;
                (order.to_string(), order, false)
            }
        };
        Ok(Self { difficulty: Difficulty { label, order }, is_word })
    }
}

/// Models or data sets, and the line of each name.
struct Named<T> {
    items: Vec<T>,
    lines: Vec<Option<usize>>,
}

impl StudyDescription {
    /// Parses a description; `file` is its name in error messages.
    ///
    /// # Errors
    /// All errors of the description at once, each with its line.
    pub fn parse(text: &str, file: &str) -> Result<Self, StudyError> {
        let mut reader = Reader::new(text);
        let study = reader.study();
        let problems: Vec<Problem> = reader.into_problems();
        match study {
            Some(study) if problems.is_empty() => Ok(study),
            _ => Err(StudyError { file: file.to_owned(), problems }),
        }
    }
}

impl Reader<'_> {
    fn study(&mut self) -> Option<StudyDescription> {
        let mut top = self.document("the study")?;
        self.unknown(&top, &STUDY);
        let name = self.required::<String>(&mut top, "name");
        let out: Option<String> = self.value(&mut top, "out");
        let probes = self.probes(&mut top).unwrap_or_else(|| Probe::COMMON.to_vec());
        let limit = self.value::<Limit>(&mut top, "limit").map(|limit| limit.0);
        let seed = self.value(&mut top, "seed");
        let primary = self.primary(&mut top, &probes);
        let qa = self.value(&mut top, "qa");
        let options = self.options(&mut top, &OPTIONS);
        let models = self.models(&mut top);
        let data = self.data(&mut top);
        self.distinct("model", models.items.iter().map(|m| m.name.as_str()).zip(models.lines));
        self.distinct("data set", data.items.iter().map(|d| d.name.as_str()).zip(data.lines));
        let (models, data) = (models.items, data.items);
        let names: Vec<&str> = models.iter().map(|m| m.name.as_str()).collect();
        let jobs = self.jobs(&mut top, &names);
        // Both are folders beside each other.
        let job_names = jobs.iter().map(|(job, line)| (job.name.as_str(), *line));
        let sets = data.iter().map(|d| (d.name.as_str(), None));
        self.distinct("data sets and job", sets.chain(job_names));
        let jobs = jobs.into_iter().map(|(job, _)| job).collect();
        let pairs = self.pairs(&mut top, &models, &data);
        let name = name?.value;
        let default = || PathBuf::from("fathom-out").join(folder(&format!("study-{name}")));
        let out = out.map_or_else(default, PathBuf::from);
        Some(StudyDescription {
            name,
            out,
            probes,
            limit,
            seed,
            primary,
            qa,
            options,
            models,
            data,
            jobs,
            pairs,
        })
    }

    fn probes(&mut self, table: &mut Table<'_>) -> Option<Vec<Probe>> {
        let At { value: Texts(texts), line } = self.optional(table, "probes")?;
        let mut probes = Vec::new();
        for word in texts.iter().flat_map(|text| text.split(',')) {
            match Probe::list(word) {
                Ok(some) => probes.extend(some),
                Err(error) => self.problem(Some(line), error.to_string()),
            }
        }
        probes.sort();
        probes.dedup();
        if texts.is_empty() {
            self.wrong(table, "probes", line, "at least one probe, or left out for all");
        }
        Some(probes)
    }

    /// The primary rule of every question: one name for all, or a table by question.
    fn primary(&mut self, top: &mut Table<'_>, probes: &[Probe]) -> BTreeMap<Question, Rule> {
        let measured = |rule: &Rule| probes.contains(&rule.probe());
        let default = PRIMARY.into_iter().find(measured).unwrap_or(PRIMARY[0]);
        let for_all = |rule| BTreeMap::from(Question::ALL.map(|question| (question, rule)));
        let mut primary = for_all(default);
        let Some(At { value, line }) = top.fields.remove("primary") else { return primary };
        match value {
            DeValue::String(name) => {
                let name = At { value: name.into_owned(), line };
                return self.rule(&name, probes).map_or(primary, for_all);
            }
            DeValue::Table(table) => {
                let mut table = self.table("primary".to_owned(), Some(line), table);
                self.unknown(&table, &Question::ALL.map(Question::name));
                for question in Question::ALL {
                    let name = self.optional(&mut table, question.name());
                    if let Some(rule) = name.and_then(|name| self.rule(&name, probes)) {
                        primary.insert(question, rule);
                    }
                }
            }
            _ => {
                let must = "a rule in quotes or a table such as { scale = \"settling\" }";
                self.wrong(top, "primary", line, must);
            }
        }
        primary
    }

    /// A rule whose probe the study runs.
    fn rule(&mut self, name: &At<String>, probes: &[Probe]) -> Option<Rule> {
        let parsed: Result<Rule, UnknownRule> = name.value.parse();
        let message = match parsed {
            Ok(rule) if probes.contains(&rule.probe()) => return Some(rule),
            Ok(rule) => format!(
                "the primary rule {rule} needs the probe {}; add it to 'probes' or name another rule",
                rule.probe().name()
            ),
            Err(error) => error.to_string(),
        };
        self.problem(Some(name.line), message);
        None
    }

    pub(super) fn options(&mut self, top: &mut Table<'_>, known: &[&str]) -> Vec<(String, String)> {
        let Some(At { value, line }) = top.fields.remove("options") else { return Vec::new() };
        let DeValue::Table(options) = value else {
            self.wrong(top, "options", line, "a table such as { positions = 4 }");
            return Vec::new();
        };
        let mut options = self.table("options".to_owned(), Some(line), options);
        self.unknown(&options, known);
        let names: Vec<String> = options.fields.keys().cloned().collect();
        let value = |name: String| {
            let OptionValue(value) = self.value(&mut options, &name)?;
            Some((name, value))
        };
        names.into_iter().filter_map(value).collect()
    }

    fn models(&mut self, top: &mut Table<'_>) -> Named<StudyModel> {
        let tables = self.tables(top, "model");
        if tables.is_empty() {
            self.problem(None, "the study has no model; add [[model]] with an id");
        }
        let mut models = Named { items: Vec::new(), lines: Vec::new() };
        for mut table in tables {
            self.unknown(&table, &MODEL);
            let (id, name, line) = self.id_and_name(&mut table);
            models.lines.push(line);
            let dtype = self.value::<Dtype>(&mut table, "dtype").map(|dtype| dtype.0);
            let size = self.value::<Size>(&mut table, "size").map(|size| size.0);
            let tokens = self.value::<Tokens>(&mut table, "tokens").map(|tokens| tokens.0);
            let mut text = |name| self.value::<String>(&mut table, name);
            let (family, kind, revision) = (text("family"), text("type"), text("revision"));
            let options = self.options(&mut table, &OPTIONS);
            models.items.push(StudyModel { id, name, family, size, tokens, kind, dtype, revision, options });
        }
        models
    }

    /// The id, the name and the line of the name, or of the table if the name follows from the id.
    fn id_and_name(&mut self, table: &mut Table<'_>) -> (String, String, Option<usize>) {
        let id = self.required::<String>(table, "id").map(|id| id.value).unwrap_or_default();
        match self.optional::<String>(table, "name") {
            Some(At { value: name, line }) => {
                // From here on, messages can use the name.
                table.title = format!("'{name}'");
                (id, name, Some(line))
            }
            None => {
                let name = short(&id);
                (id, name, table.line)
            }
        }
    }

    fn data(&mut self, top: &mut Table<'_>) -> Named<StudyData> {
        let tables = self.tables(top, "data");
        if tables.is_empty() {
            self.problem(None, "the study has no data; add [[data]] with an id");
        }
        let mut data = Named { items: Vec::new(), lines: Vec::new() };
        let mut levels: Vec<(bool, usize)> = Vec::new();
        for mut table in tables {
            self.unknown(&table, &DATA);
            let (id, name, line) = self.id_and_name(&mut table);
            data.lines.push(line);
            let level = self.optional::<Level>(&mut table, "difficulty");
            levels.extend(level.as_ref().map(|level| (level.value.is_word, level.line)));
            let difficulty = level.map(|level| level.value.difficulty);
            let limit = self.value::<Limit>(&mut table, "limit").map(|limit| limit.0);
            let series = self.value(&mut table, "series");
            let probes = self.probes(&mut table);
            let options = self.options(&mut table, &OPTIONS);
            data.items.push(StudyData { id, name, difficulty, series, limit, probes, options });
        }
        let mixed = levels.iter().find(|(is_word, _)| *is_word != levels[0].0);
        if let Some((_, line)) = mixed {
            let message =
                "difficulties are given in words and in numbers, which have no common order; use either";
            self.problem(Some(*line), message);
        }
        data
    }

    /// Reports names that occur twice or would share a folder.
    fn distinct<'n>(&mut self, what: &str, names: impl Iterator<Item = (&'n str, Option<usize>)>) {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for (name, line) in names.filter(|(name, _)| !name.is_empty()) {
            // Some file systems ignore case.
            let Some(earlier) = seen.insert(folder(name).to_lowercase(), name) else { continue };
            let message = match earlier == name {
                true => format!("two {what}s are called '{name}'; give one of them another name"),
                false => format!(
                    "the {what}s '{earlier}' and '{name}' would share a folder; give one of them another name"
                ),
            };
            self.problem(line, message);
        }
    }

    /// The declared pairs; for a question without any, the derived ones.
    fn pairs(&mut self, top: &mut Table<'_>, models: &[StudyModel], data: &[StudyData]) -> Vec<ComparedPair> {
        let mut declared = Vec::new();
        for table in self.tables(top, "pair") {
            declared.extend(self.pair(table, models, data));
        }
        let pairs = |question| {
            let of: Vec<ComparedPair> =
                declared.iter().filter(|pair| pair.question == question).copied().collect();
            if of.is_empty() { derived(models, data, question) } else { of }
        };
        Question::ALL.into_iter().flat_map(pairs).collect()
    }

    fn pair(
        &mut self,
        mut table: Table<'_>,
        models: &[StudyModel],
        data: &[StudyData],
    ) -> Option<ComparedPair> {
        self.unknown(&table, &PAIR);
        let question = self.required::<Question>(&mut table, "question");
        let (a, b) = (self.required(&mut table, "a"), self.required(&mut table, "b"));
        let question = question?.value;
        let (what, names): (&str, Vec<&str>) = match question {
            Question::Difficulty => ("data set", data.iter().map(|data| data.name.as_str()).collect()),
            _ => ("model", models.iter().map(|model| model.name.as_str()).collect()),
        };
        let a = a.and_then(|a| self.index(what, &a, &names));
        let b = b.and_then(|b| self.index(what, &b, &names));
        let (a, b) = (a?, b?);
        if a == b {
            let message = format!("{} compares '{}' with itself; name two", table.title, names[a]);
            self.problem(table.line, message);
            return None;
        }
        Some(ComparedPair { question, a, b })
    }

    fn index(&mut self, what: &str, name: &At<String>, names: &[&str]) -> Option<usize> {
        let found = names.iter().position(|known| *known == name.value);
        if found.is_none() {
            let message = format!("no {what} is called '{}'{}", name.value, instead(&name.value, names));
            self.problem(Some(name.line), message);
        }
        found
    }
}
