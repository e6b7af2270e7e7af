//! Published data sets, from the Hugging Face hub or from files with the same fields.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use crate::file_format::{FileFormat, stem};
use crate::files::{self, BOUNDS, PromptChecks};
use crate::rows::{Fields, RowReader};
use crate::schema::{DatasetSchema, Filter, RowOutcome, RowSchema};
use crate::stream::{PromptSource, PromptStream};
use crate::{Access, DataError, Prompt};

/// A published data set.
#[derive(Debug)]
pub(crate) struct PublishedSet<S = DatasetSchema> {
    pub(crate) name: &'static str,
    pub(crate) schema: S,
    /// Its id on the hub, if it is there in a format that is read.
    pub(crate) hub: Option<&'static str>,
    /// The folder to read on the hub, if the repository has several.
    pub(crate) folder: Option<&'static str>,
    /// Its splits, the default one first.
    pub(crate) splits: &'static [&'static str],
    pub(crate) parameters: &'static [&'static str],
}

pub(crate) const GSM8K: PublishedSet = PublishedSet {
    name: "gsm8k",
    schema: DatasetSchema::Gsm8k,
    hub: Some("openai/gsm8k"),
    folder: Some("main"),
    splits: &["test", "train"],
    parameters: &["split", "revision", "file"],
};

/// The test split has no labels.
pub(crate) const HELLASWAG: PublishedSet = PublishedSet {
    name: "hellaswag",
    schema: DatasetSchema::HellaSwag,
    hub: Some("Rowan/hellaswag"),
    folder: None,
    splits: &["validation", "train"],
    parameters: &["split", "revision", "file"],
};

pub(crate) const AIME24: PublishedSet = PublishedSet {
    name: "aime24",
    schema: DatasetSchema::Aime,
    hub: Some("HuggingFaceH4/aime_2024"),
    folder: None,
    splits: &["train"],
    parameters: &["split", "revision", "file"],
};

/// The seven subjects are separate folders, read in turn.
pub(crate) const MATH: PublishedSet = PublishedSet {
    name: "math",
    schema: DatasetSchema::Math,
    hub: Some("EleutherAI/hendrycks_math"),
    folder: None,
    splits: &["test", "train"],
    parameters: &["level", "split", "revision", "file"],
};

pub(crate) const MQUAKE: PublishedSet = PublishedSet {
    name: "mquake",
    schema: DatasetSchema::Mquake,
    hub: None,
    folder: None,
    splits: &[],
    parameters: &["hops", "file"],
};

/// The parameters of a spec.
#[derive(Debug, Default)]
pub(crate) struct Parameters<'a> {
    split: Option<&'a str>,
    revision: Option<&'a str>,
    file: Option<&'a str>,
    filter: Filter,
}

/// The files that rows are read from.
pub(crate) struct RowSource {
    /// For each folder, files that are read one after another; folders are read in turn.
    pub(crate) sequences: Vec<Vec<PathBuf>>,
    pub(crate) source: String,
    /// A suffix for the id of the set, unless this is the default source.
    pub(crate) suffix: Option<String>,
}

impl PublishedSet {
    /// Opens the set. `parameters` are the names and values in the spec.
    pub(crate) fn open(
        &self,
        parameters: &[(&str, &str)],
        access: &Access<'_>,
    ) -> Result<PromptStream, DataError> {
        let chosen = self.choose(parameters, access)?;
        let place = self.rows(&chosen, access)?;
        let mut id = self.name.to_owned();
        let Filter { level, hops } = chosen.filter;
        let level = level.map(|level| format!("level{level}"));
        let hops = hops.map(|hops| format!("hops{hops}"));
        for part in [place.suffix.clone(), level, hops].into_iter().flatten() {
            id = format!("{id}-{part}");
        }
        let source = place.source.clone();
        let mut rows = PublishedRows::new(self.schema, chosen.filter, place);
        let first = rows.pull()?.ok_or_else(|| rows.none_left())?;
        let stream = PromptStream::new(&id, source, rows).with_max_tokens(self.schema.max_tokens());
        Ok(stream.starting_with(first))
    }
}

impl<S> PublishedSet<S> {
    /// The files with the rows of the set.
    pub(crate) fn rows(&self, chosen: &Parameters<'_>, access: &Access<'_>) -> Result<RowSource, DataError> {
        match chosen.file {
            Some(file) => self.local(Path::new(file), chosen),
            None => self.remote(chosen, access),
        }
    }

    pub(crate) fn choose<'a>(
        &self,
        parameters: &[(&'a str, &'a str)],
        access: &Access<'a>,
    ) -> Result<Parameters<'a>, DataError> {
        let set = self.name;
        let mut chosen = Parameters { split: access.split, ..Parameters::default() };
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
                "level" => chosen.filter.level = number(1, 5)?,
                "hops" => chosen.filter.hops = number(1, 9)?,
                "split" => chosen.split = Some(value),
                "revision" => chosen.revision = Some(value),
                _ => chosen.file = Some(value),
            }
        }
        Ok(chosen)
    }

    fn local(&self, path: &Path, chosen: &Parameters<'_>) -> Result<RowSource, DataError> {
        let set = self.name;
        if chosen.split.is_some() {
            return Err(DataError::SplitOfFile { what: path.display().to_string() });
        }
        if chosen.revision.is_some() {
            return Err(DataError::RevisionOfFile { set });
        }
        match FileFormat::of(path) {
            Some(FileFormat::Jsonl | FileFormat::Parquet) => Ok(RowSource {
                sequences: vec![vec![path.to_owned()]],
                source: path.display().to_string(),
                suffix: Some(stem(path)),
            }),
            _ => Err(DataError::SetFile { set, path: path.to_owned() }),
        }
    }

    fn remote(&self, chosen: &Parameters<'_>, access: &Access<'_>) -> Result<RowSource, DataError> {
        let set = self.name;
        let (Some(id), Some(default)) = (self.hub, self.splits.first()) else {
            return Err(DataError::NeedsFile { set });
        };
        let split = chosen.split.unwrap_or(default);
        if !self.splits.contains(&split) {
            return Err(DataError::UnknownSplit { set, split: split.to_owned(), known: self.splits });
        }
        let hub = access.hub.ok_or(DataError::NoHub { set, id })?;
        let wanted = |name: &str| self.wants(name, split);
        let mut fetched = hub.dataset(id, chosen.revision, &wanted).map_err(|cause| DataError::Fetch {
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
        Ok(RowSource { sequences: folders, source, suffix: (split != *default).then(|| split.to_owned()) })
    }

    /// Whether a file on the hub belongs to a split, like `main/test-00000-of-00001.parquet` or, if the hub converted
    /// the data set, `main/test/0000.parquet`.
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

/// The prompts of a published set.
struct PublishedRows {
    schema: DatasetSchema,
    filter: Filter,
    place: String,
    folders: VecDeque<FileSequence<DatasetSchema>>,
    checks: PromptChecks,
    /// The number of rows read so far.
    rows: usize,
    /// The number of empty rows among them.
    empty: usize,
}

impl PublishedRows {
    fn new(schema: DatasetSchema, filter: Filter, place: RowSource) -> Self {
        let folders = place.sequences.into_iter().map(|files| FileSequence::new(files, schema)).collect();
        Self {
            schema,
            filter,
            place: place.source,
            folders,
            checks: PromptChecks::new(BOUNDS),
            rows: 0,
            empty: 0,
        }
    }

    fn none_left(&self) -> DataError {
        let Self { filter: Filter { level, hops }, rows, empty, .. } = *self;
        DataError::NoneLeft { place: self.place.clone(), rows, empty, level, hops }
    }
}

impl PromptSource for PublishedRows {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        while let Some(mut folder) = self.folders.pop_front() {
            let Some((path, line, fields)) = folder.next()? else { continue };
            self.folders.push_back(folder);
            self.rows += 1;
            match self
                .schema
                .row(&fields, self.filter)
                .map_err(|problem| DataError::row(&path, line, problem))?
            {
                RowOutcome::Prompt(mut row) => {
                    row.id = Some(format!("{}-{}", self.schema.name(), self.rows));
                    return self.checks.prompt(&path, line, row).map(Some);
                }
                RowOutcome::Empty => self.empty += 1,
                RowOutcome::Filtered => {}
            }
        }
        Ok(None)
    }

    fn empty(&self) -> usize {
        self.empty
    }
}

/// Files that are read one after another.
pub(crate) struct FileSequence<S> {
    files: std::vec::IntoIter<PathBuf>,
    schema: S,
    open: Option<(PathBuf, Box<dyn RowReader>)>,
}

impl<S: RowSchema> FileSequence<S> {
    pub(crate) fn new(files: Vec<PathBuf>, schema: S) -> Self {
        Self { files: files.into_iter(), schema, open: None }
    }

    /// The next row: its file, its number there, and its fields.
    pub(crate) fn next(&mut self) -> Result<Option<(PathBuf, usize, Fields)>, DataError> {
        loop {
            if let Some((path, rows)) = &mut self.open
                && let Some((line, fields)) = rows.next()?
            {
                return Ok(Some((path.clone(), line, fields)));
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            // Files in the hub's cache may have names without an extension; they are Parquet.
            let format = FileFormat::of(&path).unwrap_or(FileFormat::Parquet);
            let rows = files::rows_in(&path, format, self.schema)?;
            self.open = Some((path, rows));
        }
    }
}
