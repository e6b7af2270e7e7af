//! Prompts from files: JSON lines, Parquet, and paragraphs of text.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::forms::{self, Filter, Form, Outcome, Wanted};
use crate::parquet::{self, Fault, Field, Table};
use crate::rows::{self, Fields, Row};
use crate::stream::{PromptStream, Pull};
use crate::{DataError, Prompt, RowProblem};

/// How a file is read, told by the ending of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A JSON object a line.
    Jsonl,
    /// A table.
    Parquet,
    /// Paragraphs.
    Text,
}

impl Kind {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            "txt" | "md" => Some(Self::Text),
            _ => None,
        }
    }
}

/// How much is read at most, so that no file can take all memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of a line, of a paragraph, or of a field of a table.
    line: usize,
    /// Bytes of all texts together.
    total: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds { line: 16 << 20, total: 1 << 30 };

/// Opens a file that is named by its path alone.
pub(crate) fn open(path: &Path, kind: Kind) -> Result<PromptStream, DataError> {
    if kind == Kind::Text {
        return of_text(reader(path)?, path, BOUNDS);
    }
    let Opened { rows, form, ignored } = rows_of(path, kind, None)?;
    Ok(of_rows(rows, form, path, BOUNDS)?.ignoring(ignored))
}

/// The paragraphs of a text.
fn of_text(reader: impl BufRead + 'static, path: &Path, bounds: Bounds) -> Result<PromptStream, DataError> {
    let mut paragraphs = Paragraphs::new(reader, path, bounds);
    let first = paragraphs.pull()?.ok_or_else(|| DataError::NoPrompts { path: path.to_owned() })?;
    Ok(PromptStream::new(&stem(path), path.display().to_string(), paragraphs).starting_with(first))
}

/// The rows of a file. Where their form is not given, the first row tells whether they are those of a data
/// set that is known by name.
fn of_rows(
    rows: Box<dyn Rows>,
    form: Option<Form>,
    path: &Path,
    bounds: Bounds,
) -> Result<PromptStream, DataError> {
    let mut rows = FileRows::new(rows, form, path, bounds);
    let first = rows.pull()?.ok_or_else(|| rows.none())?;
    let form = rows.form.unwrap_or(Form::Own);
    let source = match form {
        Form::Own => path.display().to_string(),
        form => format!("{}, in the form of {}", path.display(), form.name()),
    };
    Ok(PromptStream::new(&stem(path), source, rows).with_max_tokens(form.max_tokens()).starting_with(first))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    let path = path.to_owned();
    |cause| DataError::Io { path, cause }
}

fn reader(path: &Path) -> Result<BufReader<File>, DataError> {
    Ok(BufReader::new(File::open(path).map_err(io(path))?))
}

/// A file of JSON lines or a table.
pub(crate) struct Opened {
    pub(crate) rows: Box<dyn Rows>,
    /// The form of the rows, where it is given or the columns tell.
    form: Option<Form>,
    /// Columns that would be read if they held what they should, with what they hold.
    ignored: Vec<String>,
}

pub(crate) fn rows_of(path: &Path, kind: Kind, form: Option<Form>) -> Result<Opened, DataError> {
    if kind != Kind::Parquet {
        let rows = Box::new(Lines::new(reader(path)?, path, BOUNDS));
        return Ok(Opened { rows, form, ignored: Vec::new() });
    }
    let file = File::open(path).map_err(io(path))?;
    if file.metadata().map_err(io(path))?.is_dir() {
        return Err(io(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    let table = Table::open(file).map_err(|fault| table_error(path, None, fault))?;
    let form = form.map_or_else(|| form_of(&table, path), Ok)?;
    let columns = columns(table.fields(), form, path)?;
    let is_read = |name: &str| columns.iter().any(|column| column.name == name);
    let known = |name: &str| form.columns().iter().any(|(known, _)| *known == name);
    let ignored = table.fields().iter().filter(|field| known(&field.name) && !is_read(&field.name));
    let ignored = ignored.map(described).collect();
    let rows = Box::new(TableRows { rows: table.rows(columns, BOUNDS.line), path: path.to_owned() });
    Ok(Opened { rows, form: Some(form), ignored })
}

/// The form that the columns of a table tell and, where they leave it open, its first answer.
fn form_of(table: &Table<File>, path: &Path) -> Result<Form, DataError> {
    let has = |name: &str| table.fields().iter().any(|field| field.name == name);
    if Form::of(has, || true) != Form::Gsm8k {
        return Ok(Form::of(has, || false));
    }
    let columns = columns(table.fields(), Form::Gsm8k, path)?;
    let mut rows = TableRows { rows: table.rows(columns, BOUNDS.line), path: path.to_owned() };
    while let Some((_, fields)) = rows.next()? {
        if fields.has("answer") {
            return Ok(Form::of(has, || forms::is_marked(&fields)));
        }
    }
    Ok(Form::Own)
}

/// The columns that rows of a form are made of. What is only a name of a row may be missing.
fn columns(fields: &[Field], form: Form, path: &Path) -> Result<Vec<Field>, DataError> {
    let mut columns: Vec<Field> = Vec::new();
    for (name, wanted) in form.columns() {
        match fields.iter().find(|field| field.name == *name) {
            Some(field) if wanted.takes(&field.shape) => columns.push(field.clone()),
            Some(field) if *wanted == Wanted::Numbers => {
                let (path, column, found) = (path.to_owned(), field.name.clone(), field.shape.to_string());
                return Err(DataError::WrongColumn { path, column, found });
            }
            _ => {}
        }
    }
    if form.is_complete(|name| columns.iter().any(|column| column.name == name)) {
        return Ok(columns);
    }
    let set = (form != Form::Own).then(|| form.name());
    Err(DataError::MissingColumns { path: path.to_owned(), found: found(fields), set, needs: form.needs() })
}

fn described(field: &Field) -> String {
    let name: String = field.name.chars().take(40).collect();
    format!("{name:?} ({})", field.shape)
}

/// Columns and what they hold, in words; long names and long lists are cut.
fn found(fields: &[Field]) -> String {
    const MOST: usize = 10;
    let mut names: Vec<String> = fields.iter().take(MOST).map(described).collect();
    match fields.len() {
        0 => return "no columns".to_owned(),
        1 => return format!("only the column {}", names[0]),
        more if more > MOST => names.push(format!("{} more", more - MOST)),
        _ => {}
    }
    format!("the columns {}", names.join(", "))
}

/// The prompts of a file of rows.
struct FileRows {
    rows: Box<dyn Rows>,
    /// The form of the rows; that of the first which is not empty, where nothing else tells.
    form: Option<Form>,
    path: PathBuf,
    checks: Checks,
    empty: usize,
}

impl FileRows {
    fn new(rows: Box<dyn Rows>, form: Option<Form>, path: &Path, bounds: Bounds) -> Self {
        Self { rows, form, path: path.to_owned(), checks: Checks::new(bounds), empty: 0 }
    }

    /// Why there are no prompts.
    fn none(&self) -> DataError {
        let (path, rows) = (self.path.clone(), self.empty);
        match rows {
            0 => DataError::NoPrompts { path },
            _ => DataError::AllEmpty { unit: rows::unit(&path), path, rows },
        }
    }
}

impl Pull for FileRows {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        while let Some((line, fields)) = self.rows.next()? {
            let form = self.form.unwrap_or_else(|| Form::of_row(&fields));
            match form.row(&fields, Filter::default()).map_err(|problem| wrong(&self.path, line, problem))? {
                Outcome::Prompt(row) => {
                    self.form = Some(form);
                    return self.checks.prompt(&self.path, line, row).map(Some);
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

pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn wrong(path: &Path, line: usize, problem: RowProblem) -> DataError {
    DataError::Row { path: path.to_owned(), unit: rows::unit(path), line, problem }
}

/// Checks what can only be seen over all rows: ids and size.
pub(crate) struct Checks {
    bounds: Bounds,
    /// The line of each id.
    ids: HashMap<String, usize>,
    size: usize,
}

impl Checks {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, ids: HashMap::new(), size: 0 }
    }

    /// The prompt that a row gives.
    pub(crate) fn prompt(&mut self, path: &Path, line: usize, row: Row) -> Result<Prompt, DataError> {
        let Row { id, text, answer, positions, group } = row;
        let names = id.as_ref().map_or(0, String::len) + group.as_ref().map_or(0, String::len);
        self.size = self.size.saturating_add(text.len()).saturating_add(names);
        if self.size > self.bounds.total {
            let (path, unit) = (path.to_owned(), rows::unit(path));
            return Err(DataError::TooLarge { path, unit, line, bytes: self.bounds.total });
        }
        let id = id.unwrap_or_else(|| format!("{}-{line}", stem(path)));
        if let Some(first) = self.ids.insert(id.clone(), line) {
            return Err(wrong(path, line, RowProblem::DuplicateId { id, first }));
        }
        Ok(Prompt { id, text, answer, positions, group })
    }
}

/// Rows, one at a time: their numbers, from 1, and their fields.
pub(crate) trait Rows {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError>;
}

/// The rows of a table, and the file that it is in.
struct TableRows {
    rows: parquet::Rows<File>,
    path: PathBuf,
}

impl Rows for TableRows {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError> {
        let number = self.rows.number();
        let failed = |fault| table_error(&self.path, Some(number), fault);
        let Some(row) = self.rows.next().map_err(failed)? else { return Ok(None) };
        let fields = Fields::of_table(row).map_err(|error| failed(Fault::Damaged(error.to_string())))?;
        Ok(Some((number, fields)))
    }
}

fn table_error(path: &Path, row: Option<usize>, fault: Fault) -> DataError {
    let path = path.to_owned();
    match fault {
        Fault::Io(cause) => DataError::Io { path, cause },
        Fault::Damaged(problem) => DataError::DamagedTable { path, row, problem },
        Fault::Unsupported(problem) => DataError::UnsupportedTable { path, row, problem },
    }
}

/// Lines that are not blank.
impl<R: BufRead> Rows for Lines<R> {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError> {
        while self.advance()? {
            let line = self.line()?;
            if !line.trim().is_empty() {
                let fields = rows::fields(line).map_err(|problem| wrong(&self.path, self.number, problem))?;
                return Ok(Some((self.number, fields)));
            }
        }
        Ok(None)
    }
}

/// The lines of a file, one at a time and none longer than allowed.
struct Lines<R> {
    reader: R,
    path: PathBuf,
    longest: usize,
    /// The number of the last line read, from 1.
    number: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, path: &Path, bounds: Bounds) -> Self {
        Self { reader, path: path.to_owned(), longest: bounds.line, number: 0, buffer: Vec::new() }
    }

    /// Reads the next line, if there is one.
    fn advance(&mut self) -> Result<bool, DataError> {
        self.buffer.clear();
        // Room for the mark, a carriage return and a line feed on top of the longest line.
        let most = self.longest as u64 + 5;
        let mut part = self.reader.by_ref().take(most);
        if part.read_until(b'\n', &mut self.buffer).map_err(io(&self.path))? == 0 {
            return Ok(false);
        }
        self.number += 1;
        Ok(true)
    }

    /// The line that was read last, without its ending and, if it is the first, without a byte order mark.
    fn line(&self) -> Result<&str, DataError> {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let mut line = self.buffer.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(MARK).unwrap_or(line);
        }
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.longest {
            return Err(wrong(&self.path, self.number, RowProblem::TooLong { bytes: self.longest }));
        }
        std::str::from_utf8(line).map_err(|error| {
            let byte = error.valid_up_to() + 1;
            wrong(&self.path, self.number, RowProblem::Utf8 { byte })
        })
    }
}

/// The paragraphs of a text.
struct Paragraphs<R> {
    lines: Lines<R>,
    checks: Checks,
}

impl<R: BufRead> Paragraphs<R> {
    fn new(reader: R, path: &Path, bounds: Bounds) -> Self {
        Self { lines: Lines::new(reader, path, bounds), checks: Checks::new(bounds) }
    }
}

impl<R: BufRead> Pull for Paragraphs<R> {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        let Some((line, row)) = next_paragraph(&mut self.lines)? else { return Ok(None) };
        self.checks.prompt(&self.lines.path, line, row).map(Some)
    }
}

/// The next lines up to a blank one, as a row, with the number of the first of them.
fn next_paragraph<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<(usize, Row)>, DataError> {
    let mut first = 0;
    let mut text = String::new();
    while lines.advance()? {
        let line = lines.line()?;
        if line.trim().is_empty() {
            if text.is_empty() {
                continue;
            }
            break;
        }
        if text.is_empty() {
            first = lines.number;
        } else {
            text.push('\n');
        }
        text.push_str(line);
        if text.len() > lines.longest {
            return Err(wrong(&lines.path, first, RowProblem::TooLong { bytes: lines.longest }));
        }
    }
    text.truncate(text.trim_end().len());
    let row = Row { text, ..Row::default() };
    Ok((first > 0).then_some((first, row)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn read(
        reader: impl BufRead + 'static,
        path: &Path,
        kind: Kind,
        limit: Option<usize>,
        bounds: Bounds,
    ) -> Result<Vec<Prompt>, DataError> {
        let stream = match kind {
            Kind::Text => of_text(reader, path, bounds),
            _ => of_rows(Box::new(Lines::new(reader, path, bounds)), None, path, bounds),
        };
        stream?.read(limit)
    }

    fn from(bytes: &[u8], kind: Kind) -> Result<Vec<Prompt>, DataError> {
        read(Cursor::new(bytes.to_vec()), Path::new("dir/set.x"), kind, None, BOUNDS)
    }

    fn row(line: &str) -> Result<Prompt, DataError> {
        from(line.as_bytes(), Kind::Jsonl).map(|mut prompts| prompts.remove(0))
    }

    /// The whole message for content that is wrong.
    #[track_caller]
    fn refused(content: impl AsRef<[u8]>, message: &str) {
        let error = from(content.as_ref(), Kind::Jsonl).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    fn texts(prompts: &[Prompt]) -> Vec<&str> {
        prompts.iter().map(|prompt| prompt.text.as_str()).collect()
    }

    #[test]
    fn all_fields_of_a_row() {
        let line =
            r#"{"id": 7, "question": "1 + 1 =", "answer": " 2", "positions": [8, 0], "level": 3, "x": [{}]}"#;
        let wanted = Prompt {
            id: "7".into(),
            text: "1 + 1 = 2".into(),
            answer: Some(" 2".into()),
            positions: Some(vec![8, 0]),
            group: Some("3".into()),
        };
        assert_eq!(row(line).unwrap(), wanted);
    }

    #[test]
    fn text_goes_before_question_and_group_before_level() {
        let line =
            r#"{"text": "Say: 2", "question": "?", "answer": "2", "group": "a", "level": 1, "id": "n"}"#;
        let prompt = row(line).unwrap();
        assert_eq!(prompt.text, "Say: 2");
        assert_eq!(prompt.question(), Some("Say: "));
        assert_eq!(prompt.group.as_deref(), Some("a"));
    }

    #[test]
    fn absent_and_null_are_alike() {
        let prompt = row(r#"{"text": "caf\u00e9", "answer": null, "positions": null, "id": null}"#).unwrap();
        let wanted =
            Prompt { id: "set-1".into(), text: "café".into(), answer: None, positions: None, group: None };
        assert_eq!(prompt, wanted);
    }

    #[test]
    fn blank_lines_marks_and_carriage_returns() {
        let content = b"\xef\xbb\xbf\r\n{\"text\":\"a\"}\r\n  \t\r\n\n{\"text\":\"b\"}";
        let prompts = from(content, Kind::Jsonl).unwrap();
        assert_eq!(texts(&prompts), ["a", "b"]);
        assert_eq!([&prompts[0].id, &prompts[1].id], ["set-2", "set-5"]);
        let marked = from(b"\xef\xbb\xbf{\"text\":\"a\"}\n", Kind::Jsonl).unwrap();
        assert_eq!(texts(&marked), ["a"]);
    }

    #[test]
    fn missing_fields_name_what_is_there() {
        let wanted = r#"but a row needs "text", or "question" and "answer""#;
        refused("{}", &format!("dir/set.x, line 1: found no fields, {wanted}"));
        refused(
            "\n{\"question\": \"?\"}",
            &format!("dir/set.x, line 2: found only the field \"question\", {wanted}"),
        );
        refused(
            r#"{"prompt": "?", "answer": "!"}"#,
            &format!("dir/set.x, line 1: found the fields \"answer\", \"prompt\", {wanted}"),
        );
        let many: Vec<String> = (10..30).map(|n| format!("\"f{n}{}\":0", "x".repeat(99))).collect();
        let error = row(&format!("{{{}}}", many.join(","))).unwrap_err().to_string();
        assert!(error.contains(", 10 more, but") && error.len() < 700, "{error}");
    }

    #[test]
    fn wrong_json_names_the_column() {
        let advice = "every line must be one JSON object";
        refused(
            "{\"text\": \"a\"}\n{\"text\": \"é\" \"b\"}",
            &format!("dir/set.x, line 2: column 14: invalid JSON (expected `,` or `}}`); {advice}"),
        );
        refused(
            "{\"text\": \"a",
            &format!("dir/set.x, line 1: column 11: invalid JSON (EOF while parsing a string); {advice}"),
        );
        refused("  text", &format!("dir/set.x, line 1: column 4: invalid JSON (expected ident); {advice}"));
        for (line, found) in [
            ("[1]", "a list"),
            (" \"x\"", "a string"),
            ("3", "a number"),
            ("null", "null"),
            ("true", "true or false"),
        ] {
            refused(
                line,
                &format!("dir/set.x, line 1: the line holds {found}, but every line must be one JSON object"),
            );
        }
    }

    #[test]
    fn wrong_types() {
        refused(
            r#"{"question": "1+1=", "answer": 2}"#,
            "dir/set.x, line 1: the field \"answer\" is a number, but it must be a string",
        );
        refused(
            r#"{"text": "a", "id": []}"#,
            "dir/set.x, line 1: the field \"id\" is a list, but it must be a string or a number",
        );
        for (value, found) in [
            ("[1, -1]", "a list with other things in it"),
            ("[1.5]", "a list with other things in it"),
            ("[99999999999999999999]", "a list with other things in it"),
            ("3", "a number"),
            ("{}", "an object"),
        ] {
            refused(
                format!(r#"{{"text": "a", "positions": {value}}}"#),
                &format!(
                    "dir/set.x, line 1: the field \"positions\" is {found}, but it must be a list of whole numbers from 0 up"
                ),
            );
        }
        let error = row(r#"{"text": "\ud800"}"#).unwrap_err().to_string();
        assert!(
            error.starts_with("dir/set.x, line 1: the field \"text\" is not a valid string: "),
            "{error}"
        );
    }

    #[test]
    fn names_and_questions_may_not_be_empty() {
        for (line, field) in
            [(r#"{"text": "a", "id": ""}"#, "id"), (r#"{"text": "a", "positions": []}"#, "positions")]
        {
            refused(line, &format!("dir/set.x, line 1: \"{field}\" is empty; fill it in or remove the line"));
        }
        let line = r#"{"text": "a", "answer": "a"}"#;
        refused(line, "dir/set.x, line 1: nothing stands before the answer; put a question there");
        for kind in [Kind::Jsonl, Kind::Text] {
            for content in ["", "\n \n", "\u{feff}"] {
                let error = from(content.as_bytes(), kind).unwrap_err();
                assert_eq!(error.to_string(), "dir/set.x holds no prompts; write at least one into it");
            }
        }
    }

    /// Rows without a text, and one with.
    const EMPTY: [&str; 8] = [
        r#"{"text": ""}"#,
        r#"{"text": " \n\t"}"#,
        r#"{"text": null}"#,
        r#"{"question": " ", "answer": ""}"#,
        r#"{"question": "?", "answer": " "}"#,
        r#"{"question": "?", "answer": null}"#,
        r#"{"question": "", "answer": "a"}"#,
        r#"{"text": null, "question": null, "answer": "a"}"#,
    ];

    #[test]
    fn rows_without_text_are_skipped_and_counted() {
        let path = Path::new("dir/set.x");
        for line in EMPTY {
            let content = format!("{line}\n{{\"text\": \"a\"}}\n{line}\n");
            let lines = Lines::new(Cursor::new(content), path, BOUNDS);
            let mut stream = of_rows(Box::new(lines), None, path, BOUNDS).unwrap();
            let prompts = stream.read(None).unwrap();
            assert_eq!((prompts.len(), &*prompts[0].id, stream.empty()), (1, "set-2", 2), "{line}");
            refused(
                format!("{line}\n{line}"),
                "dir/set.x holds no prompts: the text, question or answer of every line (2 in all) is empty or null; fill it in",
            );
        }
        assert_eq!(row(r#"{"text": "a", "answer": " "}"#).unwrap().answer, None);
    }

    #[test]
    fn what_python_writes_beside_json_is_ignored_or_named() {
        let prompts = from(
            b"{\"text\": \"NaN, -Infinity\", \"a\": NaN, \"b\":[1, -Infinity,Infinity] , \"c\":{\"d\": NaN}}",
            Kind::Jsonl,
        );
        assert_eq!(texts(&prompts.unwrap()), ["NaN, -Infinity"]);
        for (field, value) in
            [("id", "NaN"), ("level", "-Infinity"), ("positions", "[8, NaN]"), ("text", "NaN")]
        {
            let text = if field == "text" { "" } else { "\"text\": \"a\", " };
            refused(
                format!("{{{text}\"{field}\": {value}}}"),
                &format!(
                    "dir/set.x, line 1: the field \"{field}\" holds NaN or an infinity; write a number or null"
                ),
            );
        }
        for line in
            ["{\"text\": 1NaN}", "{\"text\": NaN5}", "{\"a\": NaN \"b\"}", "{NaN: 1}", "{\"a\": NaNNaN}"]
        {
            let message = from(line.as_bytes(), Kind::Jsonl).unwrap_err().to_string();
            assert!(message.contains("invalid JSON"), "{line}: {message}");
        }
    }

    #[test]
    fn an_answer_beside_a_text_that_is_not_its_end_by_type_is_ignored() {
        for answer in ["7", "[\"b\"]", "true", "{}", "NaN"] {
            let prompt = row(&format!("{{\"text\": \"a b\", \"answer\": {answer}}}")).unwrap();
            assert_eq!((prompt.text.as_str(), prompt.answer), ("a b", None));
        }
    }

    #[test]
    fn the_text_must_end_with_the_answer() {
        refused(
            r#"{"text": "1+1=2.", "answer": "2"}"#,
            "dir/set.x, line 1: \"text\" does not end with \"answer\"; end it with exactly the answer, or leave one of them out",
        );
    }

    #[test]
    fn ids_must_differ() {
        refused(
            "{\"text\":\"a\",\"id\":\"x\"}\n\n{\"text\":\"b\"}\n{\"text\":\"c\",\"id\":\"x\"}",
            "dir/set.x, line 4: the id \"x\" is already that of line 1; ids must differ",
        );
        refused(
            "{\"text\":\"a\",\"id\":\"set-2\"}\n{\"text\":\"b\"}",
            "dir/set.x, line 2: the id \"set-2\" is already that of line 1; ids must differ",
        );
    }

    #[test]
    fn bytes_that_are_no_text() {
        for kind in [Kind::Jsonl, Kind::Text] {
            let error = from(b"\n\nab\xff", kind).unwrap_err();
            assert_eq!(
                error.to_string(),
                "dir/set.x, line 3: not valid UTF-8 from byte 3 on; save the file as UTF-8"
            );
        }
    }

    #[test]
    fn paragraphs() {
        let content = "\u{feff}\n  One\ntwo. \r\n\r\n \n\nThree.\n\n# Four\n";
        let prompts = from(content.as_bytes(), Kind::Text).unwrap();
        assert_eq!(texts(&prompts), ["  One\ntwo.", "Three.", "# Four"]);
        let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        assert_eq!(ids, ["set-2", "set-7", "set-9"]);
    }

    #[test]
    fn sizes_are_bounded() {
        let bounded = |content: &str, kind, line, total| {
            let bounds = Bounds { line, total };
            read(Cursor::new(content.to_owned()), Path::new("f"), kind, None, bounds)
                .map_err(|e| e.to_string())
        };
        let advice = "split it, or check that its lines end in line feeds";
        let thirteen = "{\"text\":\"ab\"}";
        for ending in ["", "\n", "\r\n"] {
            assert!(bounded(&format!("{thirteen}{ending}"), Kind::Jsonl, 13, 99).is_ok());
            assert!(bounded(&format!("\u{feff}{thirteen}{ending}"), Kind::Jsonl, 13, 99).is_ok());
            assert_eq!(
                bounded(&format!("\n{thirteen}{ending}"), Kind::Jsonl, 12, 99).unwrap_err(),
                format!("f, line 2: longer than 12 bytes; {advice}")
            );
        }
        assert!(bounded("ab\ncd", Kind::Text, 5, 99).is_ok());
        assert_eq!(
            bounded("\nab\ncd\nef", Kind::Text, 5, 99).unwrap_err(),
            format!("f, line 2: longer than 5 bytes; {advice}")
        );
        assert!(bounded("abc\n\ndef", Kind::Text, 9, 6).is_ok());
        assert_eq!(
            bounded("abc\n\ndefg", Kind::Text, 9, 6).unwrap_err(),
            "f, line 3: the prompts up to here are larger than 6 bytes; use a limit or split the file"
        );
    }

    /// A source that never ends: reading it to the end would take all memory.
    #[test]
    fn an_endless_line_ends_in_an_error() {
        for kind in [Kind::Jsonl, Kind::Text] {
            let bounds = Bounds { line: 1 << 12, ..BOUNDS };
            let path = Path::new("f");
            let endless = BufReader::new(std::io::repeat(b'a'));
            let error = read(endless, path, kind, None, bounds).unwrap_err();
            assert!(error.to_string().starts_with("f, line 1: longer than 4096 bytes"));
        }
    }

    #[test]
    fn a_limit_stops_reading() {
        let content = b"{\"text\":\"a\"}\n{\"text\":\"b\"}\nbroken \xff";
        let prompts = read(&content[..], Path::new("f"), Kind::Jsonl, Some(2), BOUNDS).unwrap();
        assert_eq!(texts(&prompts), ["a", "b"]);
        let text = b"a\n\nb\n\n\xff";
        let prompts = read(&text[..], Path::new("f"), Kind::Text, Some(2), BOUNDS).unwrap();
        assert_eq!(texts(&prompts), ["a", "b"]);
    }

    /// Bytes out of the alphabet of JSON lines, which come much further than arbitrary ones.
    fn near_json() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "\n",
            "\r\n",
            " ",
            "\\u",
            "\\",
            "d800",
            "0",
            "-1",
            "1e9",
            "null",
            "\"text\":",
            "\"question\":",
            "\"answer\":",
            "\"positions\":",
            "\"id\":",
            "\"a\"",
            "é",
            "\u{feff}",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..60)
            .prop_map(|p| p.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = from(&bytes, Kind::Jsonl);
            let _ = from(&bytes, Kind::Text);
        }

        #[test]
        fn nearly_right_lines_never_panic(bytes in near_json()) {
            for kind in [Kind::Jsonl, Kind::Text] {
                if let Err(error) = from(&bytes, kind) {
                    prop_assert!(!error.to_string().contains('\n'), "{}", error);
                }
            }
        }

        #[test]
        fn rows_come_back_as_written(rows in prop::collection::vec(("\\PC*x\\PC*", "\\PC*y", any::<u16>()), 1..8)) {
            let mut content = String::new();
            for (question, answer, position) in &rows {
                let row = serde_json::json!({
                    "question": question, "answer": answer, "positions": [position],
                });
                content += &format!("{row}\n");
            }
            let prompts = from(content.as_bytes(), Kind::Jsonl).unwrap();
            prop_assert_eq!(prompts.len(), rows.len());
            for (prompt, (question, answer, position)) in prompts.iter().zip(&rows) {
                prop_assert_eq!(prompt.question(), Some(question.as_str()));
                prop_assert_eq!(prompt.answer.as_ref(), Some(answer));
                prop_assert_eq!(&prompt.positions, &Some(vec![usize::from(*position)]));
            }
        }
    }
}
