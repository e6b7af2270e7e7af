//! Data sets that are published elsewhere: from the Hugging Face hub, or from files in their own fields.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use crate::files::{self, BOUNDS, Checks, Kind, Rows, stem};
use crate::forms::{Filter, Form, Outcome};
use crate::stream::{PromptStream, Pull};
use crate::{Access, DataError, Prompt, rows};

/// A data set that has a name here and lies elsewhere.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) form: Form,
    /// Its id on the hub, if it is there in a form that is read.
    pub(crate) hub: Option<&'static str>,
    /// The folder of the hub's files, where only one of several is meant.
    folder: Option<&'static str>,
    /// Its splits, the usual one first.
    pub(crate) splits: &'static [&'static str],
    pub(crate) parameters: &'static [&'static str],
}

pub(crate) const GSM8K: Published = Published {
    form: Form::Gsm8k,
    hub: Some("openai/gsm8k"),
    folder: Some("main"),
    splits: &["test", "train"],
    parameters: &["split", "revision", "file"],
};

/// The test split has no labels.
pub(crate) const HELLASWAG: Published = Published {
    form: Form::HellaSwag,
    hub: Some("Rowan/hellaswag"),
    folder: None,
    splits: &["validation", "train"],
    parameters: &["split", "revision", "file"],
};

pub(crate) const AIME24: Published = Published {
    form: Form::Aime,
    hub: Some("HuggingFaceH4/aime_2024"),
    folder: None,
    splits: &["train"],
    parameters: &["split", "revision", "file"],
};

/// The seven subjects lie in folders of their own, which are read in turn.
pub(crate) const MATH: Published = Published {
    form: Form::Math,
    hub: Some("EleutherAI/hendrycks_math"),
    folder: None,
    splits: &["test", "train"],
    parameters: &["level", "split", "revision", "file"],
};

pub(crate) const MQUAKE: Published =
    Published { form: Form::Mquake, hub: None, folder: None, splits: &[], parameters: &["hops", "file"] };

/// What a spec says about a set.
#[derive(Debug, Default)]
struct Choice<'a> {
    split: Option<&'a str>,
    revision: Option<&'a str>,
    file: Option<&'a str>,
    filter: Filter,
}

/// Where rows are read from.
struct Place {
    /// Files that follow one another, for each of the folders that are read in turn.
    folders: Vec<Vec<PathBuf>>,
    source: String,
    /// What the id of the set says about the place, if it is not the usual one.
    mark: Option<String>,
}

impl Published {
    pub(crate) fn name(&self) -> &'static str {
        self.form.name()
    }

    /// Opens the set. `parameters` are the names and values that the spec carries.
    pub(crate) fn open(
        &self,
        parameters: &[(&str, &str)],
        access: &Access<'_>,
    ) -> Result<PromptStream, DataError> {
        let choice = self.choose(parameters, access)?;
        let place = match choice.file {
            Some(file) => self.local(Path::new(file), &choice)?,
            None => self.remote(&choice, access)?,
        };
        let mut id = self.name().to_owned();
        let Filter { level, hops } = choice.filter;
        let level = level.map(|level| format!("level{level}"));
        let hops = hops.map(|hops| format!("hops{hops}"));
        for part in [place.mark.clone(), level, hops].into_iter().flatten() {
            id = format!("{id}-{part}");
        }
        let source = place.source.clone();
        let mut rows = Selection::new(self.form, choice.filter, place);
        let first = rows.pull()?.ok_or_else(|| rows.none_left())?;
        let stream = PromptStream::new(&id, source, rows).with_max_tokens(self.form.max_tokens());
        Ok(stream.starting_with(first))
    }

    fn choose<'a>(
        &self,
        parameters: &[(&'a str, &'a str)],
        access: &Access<'a>,
    ) -> Result<Choice<'a>, DataError> {
        let set = self.name();
        let mut choice = Choice { split: access.split, ..Choice::default() };
        for &(name, value) in parameters {
            if !self.parameters.contains(&name) {
                let (name, known) = (name.to_owned(), self.parameters);
                return Err(DataError::UnknownParameter { set, name, known });
            }
            let number = |low, high| match value.parse() {
                Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
                _ => {
                    let (name, value) = (name.to_owned(), value.to_owned());
                    Err(DataError::ParameterValue { set, name, value, low, high })
                }
            };
            match name {
                "level" => choice.filter.level = number(1, 5)?,
                "hops" => choice.filter.hops = number(1, 9)?,
                "split" => choice.split = Some(value),
                "revision" => choice.revision = Some(value),
                _ => choice.file = Some(value),
            }
        }
        Ok(choice)
    }

    fn local(&self, path: &Path, choice: &Choice<'_>) -> Result<Place, DataError> {
        let set = self.name();
        if choice.split.is_some() {
            return Err(DataError::SplitOfFile { what: path.display().to_string() });
        }
        if choice.revision.is_some() {
            return Err(DataError::RevisionOfFile { set });
        }
        match Kind::of(path) {
            Some(Kind::Jsonl | Kind::Parquet) => Ok(Place {
                folders: vec![vec![path.to_owned()]],
                source: path.display().to_string(),
                mark: Some(stem(path)),
            }),
            _ => Err(DataError::SetFile { set, path: path.to_owned() }),
        }
    }

    fn remote(&self, choice: &Choice<'_>, access: &Access<'_>) -> Result<Place, DataError> {
        let set = self.name();
        let (Some(id), Some(usual)) = (self.hub, self.splits.first()) else {
            return Err(DataError::NeedsFile { set });
        };
        let split = choice.split.unwrap_or(usual);
        if !self.splits.contains(&split) {
            return Err(DataError::UnknownSplit { set, split: split.to_owned(), known: self.splits });
        }
        let hub = access.hub.ok_or(DataError::NoHub { set, id })?;
        let wanted = |name: &str| self.wants(name, split);
        let mut fetched = hub.dataset(id, choice.revision, &wanted).map_err(|cause| DataError::Fetch {
            set,
            id,
            cause: cause.to_string(),
        })?;
        fetched.files.sort();
        let mut folders = BTreeMap::<&str, Vec<PathBuf>>::new();
        for (name, path) in &fetched.files {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(path.clone());
        }
        if folders.is_empty() {
            return Err(DataError::NoFiles { set, id, split: split.to_owned() });
        }
        let folders = folders.into_values().collect();
        let source = format!("{id}, split {split}, commit {}", fetched.commit);
        Ok(Place { folders, source, mark: (split != *usual).then(|| split.to_owned()) })
    }

    /// Whether a file of the hub belongs to a split, as `main/test-00000-of-00001.parquet` does, or, where the
    /// hub has converted a data set itself, `main/test/0000.parquet`.
    fn wants(&self, name: &str, split: &str) -> bool {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = if file.strip_prefix(split).is_some_and(|rest| rest.starts_with(['-', '.'])) {
            Some(folder)
        } else if folder == split {
            Some("")
        } else {
            folder.strip_suffix(split).and_then(|rest| rest.strip_suffix('/'))
        };
        file.ends_with(".parquet")
            && folder.is_some_and(|folder| self.folder.is_none_or(|wanted| wanted == folder))
    }
}

/// The prompts that the rows of a place give.
struct Selection {
    form: Form,
    filter: Filter,
    place: String,
    folders: VecDeque<Folder>,
    checks: Checks,
    /// How many rows have been read, and how many of them were empty.
    rows: usize,
    empty: usize,
}

impl Selection {
    fn new(form: Form, filter: Filter, place: Place) -> Self {
        let folders = place.folders.into_iter().map(|files| Folder::new(files, form)).collect();
        Self { form, filter, place: place.source, folders, checks: Checks::new(BOUNDS), rows: 0, empty: 0 }
    }

    fn none_left(&self) -> DataError {
        let Self { filter: Filter { level, hops }, rows, empty, .. } = *self;
        DataError::NoneLeft { place: self.place.clone(), rows, empty, level, hops }
    }
}

impl Pull for Selection {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        while let Some(mut folder) = self.folders.pop_front() {
            let Some((path, line, fields)) = folder.next()? else { continue };
            self.folders.push_back(folder);
            self.rows += 1;
            match self.form.row(&fields, self.filter).map_err(|problem| files::wrong(&path, line, problem))? {
                Outcome::Prompt(mut row) => {
                    row.id = Some(format!("{}-{}", self.form.name(), self.rows));
                    return self.checks.prompt(&path, line, row).map(Some);
                }
                Outcome::Empty => self.empty += 1,
                Outcome::Filtered => {}
            }
        }
        Ok(None)
    }

    fn empty(&self) -> usize {
        self.empty
    }
}

/// Files that are read one after another.
struct Folder {
    files: std::vec::IntoIter<PathBuf>,
    form: Form,
    open: Option<(PathBuf, Box<dyn Rows>)>,
}

impl Folder {
    fn new(files: Vec<PathBuf>, form: Form) -> Self {
        Self { files: files.into_iter(), form, open: None }
    }

    /// The next row: its file, its number there, and its fields.
    fn next(&mut self) -> Result<Option<(PathBuf, usize, rows::Fields)>, DataError> {
        loop {
            if let Some((path, rows)) = &mut self.open
                && let Some((line, fields)) = rows.next()?
            {
                return Ok(Some((path.clone(), line, fields)));
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            // The hub keeps its files under names of its own, so what they are is known from elsewhere.
            let kind = Kind::of(&path).unwrap_or(Kind::Parquet);
            let opened = files::rows_of(&path, kind, Some(self.form))?;
            self.open = Some((path, opened.rows));
        }
    }
}
