//! Published sets: schemas, templates, filters and splits, with invented rows.

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use crate::writer::{Cells, Style, table, texts};
use fathom_data::{
    Access, DataError, Fetch, Fetched, Options, PromptSet, catalogue, load, load_choices, load_with,
};
use tempfile::TempDir;

const TASK: &str = "Given the following problem, reason and give a final answer to the problem.\nProblem: ";

fn file(name: &str, content: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn named(spec: &str, content: &str) -> Result<PromptSet, DataError> {
    let (_folder, path) = file("rows.jsonl", content);
    load(&spec.replace('@', &path), &Options::default())
}

/// The same rows, with the set named and with the schema detected.
#[track_caller]
fn both(set: &str, content: &str) -> PromptSet {
    let set = named(&format!("{set}:file=@"), content).unwrap();
    let recognised = named("@", content).unwrap();
    for (a, b) in set.prompts.iter().zip(&recognised.prompts) {
        assert_eq!((&a.text, &a.answer, &a.group), (&b.text, &b.answer, &b.group));
    }
    assert_eq!(set.max_tokens, recognised.max_tokens);
    assert_eq!(recognised.id, "rows");
    set
}

#[test]
fn gsm8k() {
    let set = both(
        "gsm8k",
        "{\"question\": \"Two and two?\", \"answer\": \"It is <<2+2=4>>4.\\nSo four.\\n#### 1,004\"}",
    );
    let wanted = format!(
        "{TASK}Two and two?\nYour response should end with \"The final answer is [answer]\" where [answer] is the \
         response to the problem.\n\nIt is <<2+2=4>>4.\nSo four.\nThe final answer is 1,004"
    );
    assert_eq!(set.id, "gsm8k-rows");
    assert_eq!(set.prompts[0].id, "gsm8k-1");
    assert_eq!(set.prompts[0].text, wanted);
    assert_eq!(set.prompts[0].answer.as_deref(), Some("1,004"));
    assert_eq!(set.max_tokens, None);
    let message = named("gsm8k:file=@", r#"{"question": "?", "answer": "4"}"#).unwrap_err().to_string();
    assert!(message.ends_with(
        "rows.jsonl, line 1: \"answer\" has no `####` before the final answer, as answers of gsm8k have; add it"
    ));
}

#[test]
fn hellaswag() {
    let set = both(
        "hellaswag",
        r#"{"ctx": "A cat sits. it", "endings": ["barks.", "purrs."], "label": "1", "ind": 3}
           {"ctx": "A dog runs", "endings": [", then stops.", "flies."], "label": 0}"#,
    );
    let texts: Vec<&str> = set.prompts.iter().map(|prompt| &*prompt.text).collect();
    assert_eq!(texts, ["A cat sits. it purrs.", "A dog runs, then stops."]);
    assert_eq!(set.prompts[0].question(), Some("A cat sits. it"));
    for label in [r#""2""#, "-1", r#""x""#, "1.5"] {
        let row = format!(r#"{{"ctx": "A", "endings": ["b", "c"], "label": {label}}}"#);
        let message = named("hellaswag:file=@", &row).unwrap_err().to_string();
        assert!(
            message.ends_with("is not the number, from 0, of one of the 2 endings; correct it"),
            "{message}"
        );
    }
}

#[test]
fn aime24() {
    let wanted = format!(
        "{TASK}P?\nYour response should end with \"\\boxed{{[answer]}}\" where [answer] is the response to the \
         problem.\n\nS is $\\boxed{{\\frac{{1}}{{2}}}}$."
    );
    let row = r#"{"ID": "x-1", "Problem": "P?", "Solution": "S is $\\boxed{\\frac{1}{2}}$.", "Answer": 4}"#;
    let set = both("aime24", row);
    assert_eq!(set.prompts[0].text, wanted);
    assert_eq!(set.prompts[0].answer.as_deref(), Some(r"\boxed{\frac{1}{2}}$."));
    assert_eq!(set.max_tokens, Some(400));
    let small = r#"{"problem": "P?", "solution": "S is $\\boxed{\\frac{1}{2}}$.", "answer": "4"}"#;
    assert_eq!(named("aime24:file=@", small).unwrap().prompts[0].text, wanted);
    let on = r#"{"problem": "P?", "solution": "It is \\boxed{7}. Or so they say.", "answer": "7"}"#;
    assert_eq!(named("aime24:file=@", on).unwrap().prompts[0].answer, None);
}

const MATH: &str = r#"{"problem": "A", "level": "Level 2", "type": "Algebra", "solution": "a"}
{"problem": "B", "level": 5, "solution": "b"}
{"problem": "C", "level": "Level ?", "solution": "c"}
{"problem": "D", "level": "Level 5", "solution": "d"}"#;

#[test]
fn math() {
    let set = both("math", MATH);
    let found: Vec<_> = set.prompts.iter().map(|p| (&*p.text, p.group.as_deref().unwrap())).collect();
    assert_eq!(found[0], ("Problem: A\nAnswer: a", "level-2"));
    assert_eq!(found[1], ("Problem: B\nAnswer: b", "level-5"));
    assert_eq!(found[2].1, "level-unknown");
    assert_eq!(set.prompts[0].question(), Some("Problem: A\nAnswer:"));
    let five = named("math:file=@,level=5", MATH).unwrap();
    assert_eq!(five.id, "math-rows-level5");
    let ids: Vec<&str> = five.prompts.iter().map(|prompt| &*prompt.id).collect();
    assert_eq!(ids, ["math-2", "math-4"]);
    let message = named("math:level=1,file=@", MATH).unwrap_err().to_string();
    assert!(
        message.starts_with("none of the 4 rows of ") && message.ends_with("has level 1; choose another")
    );
    let message = named("math:level=6,file=@", MATH).unwrap_err().to_string();
    assert_eq!(message, "`level` of `math` must be a whole number from 1 to 5, not `6`");
}

#[test]
fn mquake() {
    let rows = r#"{"case_id": 1, "questions": ["Whose?", "Of whom?"], "answer": "Ann", "new_answer": "Bob", "single_hops": [{}, {}]}
{"case_id": 2, "questions": ["Where?"], "answer": "There", "new_single_hops": [{"question": "x"}, {}, {}, {}]}"#;
    let set = both("mquake", rows);
    let found: Vec<_> = set.prompts.iter().map(|p| (&*p.text, p.group.as_deref().unwrap())).collect();
    assert_eq!(
        found,
        [("Question: Whose?\nAnswer: Ann", "hops-2"), ("Question: Where?\nAnswer: There", "hops-4")]
    );
    assert_eq!(set.prompts[0].answer.as_deref(), Some(" Ann"));
    let four = named("mquake:hops=4,file=@", rows).unwrap();
    assert_eq!((four.id.as_str(), four.prompts.len()), ("mquake-rows-hops4", 1));
    let table = table(
        &["questions", "answer", "single_hops"],
        &[vec![
            Cells::Lists(vec![vec!["Whose?".into()]]),
            texts(&["Ann"]),
            Cells::Lists(vec![vec!["x".into(), "y".into()]]),
        ]],
        Style::default(),
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.parquet");
    fs::write(&path, table).unwrap();
    let set = load(&format!("mquake:hops=2,file={}", path.display()), &Options::default()).unwrap();
    assert_eq!(set.prompts[0].text, "Question: Whose?\nAnswer: Ann");
    assert_eq!(
        load("mquake", &Options::default()).unwrap_err().to_string(),
        "`mquake` is not on the Hugging Face hub in a supported format; give a file with its fields: \
         `mquake:file=PATH.jsonl`"
    );
}

#[test]
fn plain_rows_are_not_taken_for_a_published_set() {
    let rows = r#"{"module": "algebra", "regime": "interpolate", "question": "Solve x = 1.", "answer": "1"}"#;
    let set = named("@", rows).unwrap();
    assert_eq!(set.prompts[0].text, "Solve x = 1.1");
    assert_eq!(set.prompts[0].group.as_deref(), Some("interpolate"));
    // Rows that could be AIME, or MATH without its level, are not guessed.
    let row = r#"{"problem": "P", "solution": "S", "answer": "1"}"#;
    assert!(named("@", row).unwrap_err().to_string().contains("but a row needs \"text\""));
    let marked = "{\"text\": \"#### 1\", \"question\": \"Q\", \"answer\": \"#### 1 \"}";
    assert!(named("@", marked).unwrap_err().to_string().contains("does not end with"));
}

#[test]
fn missing_fields_name_the_set() {
    let message = named("math:file=@", r#"{"question": "P", "level": 1}"#).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "line 1: found the fields \"level\", \"question\", but a row of math needs \"problem\", \"solution\" \
             and \"level\"; name the set that the file belongs to"
        ),
        "{message}"
    );
}

#[test]
fn paths_may_contain_commas() {
    let (_folder, path) = file("a,b=c,d.jsonl", MATH);
    let set = load(&format!("math:file={path},level=2"), &Options::default()).unwrap();
    assert_eq!(set.prompts.len(), 1);
    let set = load(&format!("math:level=2,file={path}"), &Options::default()).unwrap();
    assert_eq!(set.id, "math-a_b_c_d-level2");
}

/// A hub with the files of a test, which records its requests.
struct Shelf {
    folder: TempDir,
    names: Vec<&'static str>,
    asked: RefCell<Vec<String>>,
}

impl Shelf {
    fn new(files: &[(&'static str, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        // Listings are not always sorted.
        let names = files.iter().rev().map(|(name, _)| *name).collect();
        Self { folder, names, asked: RefCell::default() }
    }
}

impl Fetch for Shelf {
    fn dataset(
        &self,
        id: &str,
        revision: Option<&str>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Fetched, Box<dyn Error + Send + Sync>> {
        if revision == Some("gone") {
            return Err("there is no such revision".into());
        }
        self.asked.borrow_mut().push(id.to_owned());
        let wanted = self.names.iter().filter(|name| wanted(name));
        let files: Vec<(String, PathBuf)> =
            wanted.map(|name| ((*name).to_owned(), self.folder.path().join(name))).collect();
        Ok(Fetched { files, commit: "c0ffee".to_owned() })
    }
}

fn problems(names: &[&str]) -> Vec<u8> {
    let levels: Vec<&str> = names.iter().map(|_| "Level 1").collect();
    let columns = vec![texts(names), texts(&levels), texts(names)];
    table(&["problem", "level", "solution"], &[columns], Style::default())
}

#[test]
fn subjects_are_interleaved_and_parts_are_concatenated() {
    let shelf = Shelf::new(&[
        ("README.md", vec![]),
        ("algebra/test-00000-of-00002.parquet", problems(&["a1", "a2"])),
        ("algebra/test-00001-of-00002.parquet", problems(&["a3"])),
        ("algebra/train-00000-of-00001.parquet", problems(&["t1"])),
        ("geometry/test-00000-of-00001.parquet", problems(&["g1"])),
        ("geometry/testing-1.parquet", problems(&["x"])),
    ]);
    let access = Access { split: None, hub: Some(&shelf) };
    let ask = |spec: &str, access| load_with(spec, &Options::default(), access).unwrap();
    let names = |set: &PromptSet| -> Vec<String> {
        set.prompts.iter().map(|p| p.answer.as_deref().unwrap().trim().to_owned()).collect()
    };
    let set = ask("math", &access);
    assert_eq!(names(&set), ["a1", "g1", "a2", "a3"]);
    assert_eq!(set.id, "math");
    assert_eq!(set.source, "EleutherAI/hendrycks_math, split test, commit c0ffee");
    assert_eq!(names(&ask("math:split=train", &access)), ["t1"]);
    let train = Access { split: Some("train"), ..access };
    assert_eq!(ask("math", &train).id, "math-train");
    assert_eq!(ask("math:split=test", &train).id, "math");
    let one = Options { limit: Some(2), ..Options::default() };
    assert_eq!(names(&load_with("math", &one, &access).unwrap()), ["a1", "g1"]);
    assert!(shelf.asked.borrow().iter().all(|id| id == "EleutherAI/hendrycks_math"));
}

#[test]
fn only_the_main_folder_of_gsm8k() {
    let rows =
        |answer| table(&["question", "answer"], &[vec![texts(&["Q"]), texts(&[answer])]], Style::default());
    let shelf = Shelf::new(&[
        ("main/test-00000-of-00001.parquet", rows("r\n#### 1")),
        ("socratic/test-00000-of-00001.parquet", rows("r\n#### 2")),
    ]);
    let converted = Shelf::new(&[
        ("main/test/0000.parquet", rows("r\n#### 1")),
        ("main/latest/0000.parquet", rows("r\n#### 2")),
        ("main/train/0000.parquet", rows("r\n#### 3")),
        ("socratic/test/0000.parquet", rows("r\n#### 4")),
    ]);
    let access = Access { split: None, hub: Some(&converted) };
    let spec = "gsm8k:revision=refs/convert/parquet";
    let other = load_with(spec, &Options::default(), &access).unwrap();
    let access = Access { split: None, hub: Some(&shelf) };
    let set = load_with("gsm8k", &Options::default(), &access).unwrap();
    assert_eq!(set.prompts, other.prompts);
    assert_eq!(set.prompts.len(), 1);
    assert!(set.prompts[0].text.ends_with("\n\nr\nThe final answer is 1"));
}

#[test]
fn errors_of_the_hub() {
    let shelf = Shelf::new(&[]);
    let access = Access { split: None, hub: Some(&shelf) };
    let message = |spec: &str, access: &Access<'_>| {
        load_with(spec, &Options::default(), access).unwrap_err().to_string()
    };
    assert_eq!(
        message("gsm8k", &access),
        "openai/gsm8k holds no Parquet files of the split test; try `gsm8k:revision=refs/convert/parquet`, or give \
         a file: `gsm8k:file=PATH`"
    );
    assert_eq!(
        message("hellaswag:revision=gone", &access),
        "cannot get `hellaswag` from Rowan/hellaswag: there is no such revision; a file with its fields works \
         too: `hellaswag:file=PATH`"
    );
    assert_eq!(
        message("gsm8k", &Access::default()),
        "`gsm8k` is read from openai/gsm8k on the Hugging Face hub, which is not used here; give a file with its \
         fields: `gsm8k:file=PATH`"
    );
    assert_eq!(
        message("hellaswag:split=test", &access),
        "`hellaswag` has no split `test`; use validation or train"
    );
    let test = Access { split: Some("test"), ..access };
    for (spec, what) in [("builtin", "`builtin`"), ("addition", "`addition`"), ("x.jsonl", "x.jsonl")] {
        assert_eq!(message(spec, &test), format!("{what} has no splits; leave the split out"));
    }
    assert_eq!(message("gsm8k:file=x.jsonl", &test), "x.jsonl has no splits; leave the split out");
    assert!(message("gsm8k:file=x.jsonl,revision=y", &access).starts_with("a file has no revisions"));
    assert!(
        message("mquake:file=x.json", &access).contains("convert a list in a .json file with `jq -c '.[]'`")
    );
    assert_eq!(
        message("gsm8k:level=1", &access),
        "`gsm8k` has no parameter `level`; it has split, revision, file"
    );
}

#[test]
fn the_catalogue_names_hub_data_sets() {
    let entry = |id: &str| catalogue().iter().find(|entry| entry.id == id).unwrap();
    assert_eq!(entry("math").splits, ["test", "train"]);
    assert_eq!(entry("aime24").max_tokens, Some(400));
    assert_eq!(entry("mquake").hub, None);
    assert_eq!(entry("gsm8k").hub, Some("openai/gsm8k"));
    assert_eq!(entry("plain").hub, None);
}

/// Multiple choice comes from one folder of its repository.
#[test]
fn choices_from_the_hub() {
    let mmlu = |question: &str| {
        let listed = Cells::Lists(vec![vec!["one".into(), "two".into()]]);
        let columns = vec![texts(&[question]), texts(&["law"]), listed, Cells::Longs(vec![Some(1)])];
        table(&["question", "subject", "choices", "answer"], &[columns], Style::default())
    };
    let arc = include_bytes!("fixtures/arc.parquet").to_vec();
    let shelf = Shelf::new(&[
        ("all/test-00000-of-00001.parquet", mmlu("How many?")),
        ("all/dev-00000-of-00001.parquet", mmlu("dev")),
        ("law/test-00000-of-00001.parquet", mmlu("another folder")),
        ("ARC-Easy/test-00000-of-00001.parquet", mmlu("another set")),
        ("ARC-Challenge/test-00000-of-00001.parquet", arc),
    ]);
    let access = Access { split: None, hub: Some(&shelf) };
    let ask = |spec: &str| load_choices(spec, &Options::default(), &access);
    let set = ask("mmlu").unwrap();
    assert_eq!((set.id.as_str(), set.rows.len(), set.rows[0].label), ("mmlu", 1, 1));
    assert!(set.rows[0].context.ends_with("about law.\n\nHow many?\nA. one\nB. two\nAnswer:"));
    assert_eq!(ask("mmlu:split=dev").unwrap().id, "mmlu-dev");
    let set = ask("arc-challenge").unwrap();
    assert_eq!((set.rows.len(), set.source.as_str()), (3, "allenai/ai2_arc, split test, commit c0ffee"));
    let wrong = ask("arc-easy").unwrap_err().to_string();
    assert!(wrong.contains("a row of arc needs \"question\", \"choices\" with \"text\""), "{wrong}");
    assert!(ask("arc-easy:split=dev").unwrap_err().to_string().contains("no split `dev`"));
    assert_eq!(*shelf.asked.borrow(), ["cais/mmlu", "cais/mmlu", "allenai/ai2_arc", "allenai/ai2_arc"]);
}
