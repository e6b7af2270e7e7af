//! Multiple choice from files.

use std::fs;
use std::path::Path;

use fathom_data::{Access, Choice, ChoiceSet, Options, choice_sets, load_choices};

fn read(spec: &str) -> Result<ChoiceSet, String> {
    load_choices(spec, &Options::default(), &Access::default()).map_err(|error| error.to_string())
}

/// The rows of a file with these lines; `@` in the spec is its path.
fn lines(spec: &str, lines: &[&str]) -> Result<ChoiceSet, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    read(&spec.replace('@', path.to_str().unwrap()))
        .map_err(|error| error.replace(path.to_str().unwrap(), "rows.jsonl"))
}

fn row(line: &str) -> Choice {
    lines("@", &[line]).unwrap().rows.remove(0)
}

#[track_caller]
fn refused(line: &str, parts: &[&str]) {
    let good = r#"{"context": "c", "choices": ["a", "b"], "label": 0}"#;
    let lines = match line.contains("context") {
        true => lines("@", &[good, line]),
        false => lines("@", &[line]),
    };
    let message = lines.unwrap_err();
    assert!(message.starts_with("rows.jsonl, line "), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

/// The context and choices come from `process_docs` of lm-evaluation-harness.
#[test]
fn hellaswag() {
    let wikihow = r#"{"ind": 4, "activity_label": "Food and Entertaining",
        "ctx_a": "[header] How to make tea [title] Boil the water. [step] Use a kettle.", "ctx_b": "you SHOULD",
        "ctx": "unused", "endings": ["wait  now [substeps] or later.", " pour it. "], "label": "1"}"#;
    let found = row(&wikihow.replace('\n', ""));
    assert_eq!(
        found.context,
        "Food and Entertaining: How to make tea. Boil the water. Use a kettle. You should"
    );
    assert_eq!(found.choices, ["wait now or later.", "pour it."]);
    assert_eq!((found.label, found.continuation(1).as_str(), found.group), (1, " pour it.", None));
    let whole = row(r#"{"ctx": "A man sits. he", "endings": ["stands.", "sleeps."], "label": 0}"#);
    assert_eq!((whole.context.as_str(), whole.label), ("A man sits. he", 0));
}

#[test]
fn arc() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets/fixtures/arc.parquet");
    let set = read(file.to_str().unwrap()).unwrap();
    assert!(set.source.ends_with("arc.parquet, in the form of arc"), "{}", set.source);
    assert_eq!(set.rows.len(), 3);
    let second = Choice {
        id: "s-2".into(),
        context: "Question: What do plants take in to make sugar?\nAnswer:".into(),
        choices: vec!["salt".into(), "carbon dioxide".into()],
        label: 1,
        group: None,
    };
    assert_eq!(set.rows[1], second);
    assert_eq!((set.rows[0].label, set.rows[2].label, set.rows[2].choices.len()), (0, 1, 5));
    // JSON lines give the same, with a structure, and with letters or numbers from 1 where labels are missing.
    let question = r#"{"id": "s-2", "question": "What do plants take in to make sugar?", "#;
    let structure =
        r#""choices": {"text": ["salt", "carbon dioxide"], "label": ["1", "2"]}, "answerKey": "2"}"#;
    assert_eq!(row(&format!("{question}{structure}")), second);
    for key in ["\"B\"", "\"2\"", "2"] {
        let list = format!(r#"{question}"choices": ["salt", "carbon dioxide"], "answerKey": {key}}}"#);
        assert_eq!(row(&list), second, "{key}");
    }
    // By name, with ids of the set.
    let named = read(&format!("arc-easy:file={}", file.display())).unwrap();
    assert_eq!((named.id.as_str(), named.rows[1].id.as_str()), ("arc-easy-arc", "arc-easy-2"));
    let named: Vec<_> = named.rows.into_iter().map(|row| row.context).collect();
    assert_eq!(named, set.rows.into_iter().map(|row| row.context).collect::<Vec<_>>());
}

#[test]
fn mmlu() {
    let line = |answer| {
        format!(
            r#"{{"question": " What is 2 + 2?\n", "subject": "elementary_mathematics",
            "choices": ["3", "4", "5", "6"], "answer": {answer}}}"#
        )
        .replace('\n', "")
    };
    let found = row(&line("1"));
    assert_eq!(
        found.context,
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\n\
         What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    );
    assert_eq!((found.choices.join(""), found.label), ("ABCD".into(), 1));
    assert_eq!(found.group.as_deref(), Some("elementary_mathematics"));
    assert_eq!(row(&line("\"B\"")), found);
    assert_eq!(row(&line("\"1\"")), found);
}

#[test]
fn rows_of_ones_own() {
    let set = lines(
        "@",
        &[
            r#"{"context": "Roses are", "choices": ["red", "loud"], "label": 0, "id": "r", "group": "colours"}"#,
            "",
            r#"{"context": "Two and two are", "choices": ["five", "four", "six"], "label": "B"}"#,
        ],
    )
    .unwrap();
    assert_eq!((set.id.as_str(), set.rows[0].id.as_str(), set.rows[1].id.as_str()), ("rows", "r", "rows-3"));
    assert_eq!((set.rows[0].group.as_deref(), set.rows[1].label), (Some("colours"), 1));
    // hashlib.sha256(b'["r","Roses are",["red","loud"],0]\n["rows-3","Two and two are",["five","four","six"],1]\n')
    assert_eq!(set.sha256, "f24e30fd1fc5d44ee44625b2a6ab3e9865f815be4d5ba9e845a4105842e44792");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.jsonl");
    fs::write(&path, "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"label\": 0}\nnot read").unwrap();
    let first = Options { limit: Some(1), ..Options::default() };
    assert_eq!(load_choices(path.to_str().unwrap(), &first, &Access::default()).unwrap().rows.len(), 1);
}

#[test]
fn bad_rows_are_named() {
    let arc = |rest: &str| format!(r#"{{"question": "q", {rest}}}"#);
    refused(
        r#"{"context": "c", "choices": ["a", "b"], "label": 2}"#,
        &["line 2", "\"label\" is \"2\"", "0 to 1, or A to B"],
    );
    refused(r#"{"context": "c", "choices": ["a", "b"], "label": -1}"#, &["\"label\" is \"-1\""]);
    refused(r#"{"context": "c", "choices": ["a", "b"], "label": ""}"#, &["\"label\" is empty"]);
    refused(r#"{"context": "c", "choices": ["a", "b"], "label": [1]}"#, &["\"label\" is a list"]);
    refused(
        r#"{"context": "c", "choices": ["a", "b"], "label": null}"#,
        &["found the fields", "needs \"context\""],
    );
    refused(r#"{"context": "c", "choices": ["a"], "label": 0}"#, &["\"choices\" has 1 of the two"]);
    refused(r#"{"context": "c", "choices": ["a", " "], "label": 0}"#, &["choice 2 in \"choices\" is blank"]);
    refused(
        r#"{"context": "c", "choices": ["a", 2], "label": 0}"#,
        &["\"choices\" is a list with other things"],
    );
    refused(r#"{"context": " ", "choices": ["a", "b"], "label": 0}"#, &["\"context\" is empty"]);
    refused(r#"{"context": 1, "choices": ["a", "b"], "label": 0}"#, &["\"context\" is a number"]);
    refused(
        &arc(r#""choices": ["a", "b"], "answerKey": "C""#),
        &["\"answerKey\" is \"C\"", "1 to 2, or A to B"],
    );
    let labelled = arc(r#""choices": {"text": ["a", "b"], "label": ["x", "y"]}, "answerKey": "A""#);
    refused(&labelled, &["\"answerKey\" is \"A\"", "(x, y)"]);
    let short = arc(r#""choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A""#);
    refused(&short, &["2 texts but 1 labels"]);
    refused(
        r#"{"text": "t", "answer": "t"}"#,
        &["line 1", "found the fields \"answer\", \"text\"", "of multiple choice needs"],
    );
    let twice = r#"{"context": "c", "choices": ["a", "b"], "label": 0, "id": "x"}"#;
    assert!(lines("@", &[twice, twice]).unwrap_err().contains("line 1 has the id \"x\" too"));
    assert!(lines("@", &["", " "]).unwrap_err().contains("holds no prompts"));
}

#[test]
fn specs_are_checked() {
    assert_eq!(choice_sets(), ["hellaswag", "arc-easy", "arc-challenge", "mmlu"]);
    let unknown = read("helaswag").unwrap_err();
    assert!(unknown.contains("did you mean `hellaswag`?") && unknown.contains("arc-challenge"), "{unknown}");
    assert!(read("notes.txt").unwrap_err().contains("no set of multiple choice `notes.txt`"));
    assert!(read("mmlu").unwrap_err().contains("cais/mmlu"));
    assert!(read("mmlu:level=3").unwrap_err().contains("no parameter `level`"));
    assert!(read("gone.jsonl").unwrap_err().contains("cannot read gone.jsonl"));
    let none = Options { limit: Some(0), ..Options::default() };
    assert!(load_choices("mmlu", &none, &Access::default()).unwrap_err().to_string().contains("limit of 0"));
    // A file whose rows are not those of the named set.
    let other =
        lines("mmlu:file=@", &[r#"{"context": "c", "choices": ["a", "b"], "label": 0}"#]).unwrap_err();
    assert!(other.contains("line 1: found the fields") && other.contains("\"subject\""), "{other}");
}
