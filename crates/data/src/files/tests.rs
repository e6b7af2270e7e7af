use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn read(
    reader: impl BufRead + 'static,
    path: &Path,
    kind: FileFormat,
    limit: Option<usize>,
    bounds: Bounds,
) -> Result<Vec<Prompt>, DataError> {
    let stream = match kind {
        FileFormat::Text => of_text(reader, path, bounds),
        _ => of_rows(Box::new(Lines::new(reader, path, bounds)), None, path, bounds),
    };
    stream?.read(limit)
}

fn from(bytes: &[u8], kind: FileFormat) -> Result<Vec<Prompt>, DataError> {
    read(Cursor::new(bytes.to_vec()), Path::new("dir/set.x"), kind, None, BOUNDS)
}

fn row(line: &str) -> Result<Prompt, DataError> {
    from(line.as_bytes(), FileFormat::Jsonl).map(|mut prompts| prompts.remove(0))
}

/// Checks the whole message for invalid content.
#[track_caller]
fn refused(content: impl AsRef<[u8]>, message: &str) {
    let error = from(content.as_ref(), FileFormat::Jsonl).unwrap_err();
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
fn text_takes_precedence_over_question_and_group_over_level() {
    let line = r#"{"text": "Say: 2", "question": "?", "answer": "2", "group": "a", "level": 1, "id": "n"}"#;
    let prompt = row(line).unwrap();
    assert_eq!(prompt.text, "Say: 2");
    assert_eq!(prompt.question(), Some("Say: "));
    assert_eq!(prompt.group.as_deref(), Some("a"));
}

#[test]
fn null_counts_as_absent() {
    let prompt = row(r#"{"text": "caf\u00e9", "answer": null, "positions": null, "id": null}"#).unwrap();
    let wanted =
        Prompt { id: "set-1".into(), text: "café".into(), answer: None, positions: None, group: None };
    assert_eq!(prompt, wanted);
}

#[test]
fn blank_lines_marks_and_carriage_returns() {
    let content = b"\xef\xbb\xbf\r\n{\"text\":\"a\"}\r\n  \t\r\n\n{\"text\":\"b\"}";
    let prompts = from(content, FileFormat::Jsonl).unwrap();
    assert_eq!(texts(&prompts), ["a", "b"]);
    assert_eq!([&prompts[0].id, &prompts[1].id], ["set-2", "set-5"]);
    let marked = from(b"\xef\xbb\xbf{\"text\":\"a\"}\n", FileFormat::Jsonl).unwrap();
    assert_eq!(texts(&marked), ["a"]);
}

#[test]
fn missing_fields_list_the_present_ones() {
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
fn invalid_json_names_the_column() {
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
    assert!(error.starts_with("dir/set.x, line 1: the field \"text\" is not a valid string: "), "{error}");
}

#[test]
fn names_and_questions_may_not_be_empty() {
    for (line, field) in
        [(r#"{"text": "a", "id": ""}"#, "id"), (r#"{"text": "a", "positions": []}"#, "positions")]
    {
        refused(line, &format!("dir/set.x, line 1: \"{field}\" is empty; fill it in or remove the line"));
    }
    let line = r#"{"text": "a", "answer": "a"}"#;
    refused(line, "dir/set.x, line 1: there is no question before the answer; add one");
    for kind in [FileFormat::Jsonl, FileFormat::Text] {
        for content in ["", "\n \n", "\u{feff}"] {
            let error = from(content.as_bytes(), kind).unwrap_err();
            assert_eq!(error.to_string(), "dir/set.x holds no prompts; write at least one into it");
        }
    }
}

/// Rows without a text.
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
fn nan_and_infinity_are_ignored_or_reported() {
    let prompts = from(
        b"{\"text\": \"NaN, -Infinity\", \"a\": NaN, \"b\":[1, -Infinity,Infinity] , \"c\":{\"d\": NaN}}",
        FileFormat::Jsonl,
    );
    assert_eq!(texts(&prompts.unwrap()), ["NaN, -Infinity"]);
    for (field, value) in [("id", "NaN"), ("level", "-Infinity"), ("positions", "[8, NaN]"), ("text", "NaN")]
    {
        let text = if field == "text" { "" } else { "\"text\": \"a\", " };
        refused(
            format!("{{{text}\"{field}\": {value}}}"),
            &format!(
                "dir/set.x, line 1: the field \"{field}\" holds NaN or an infinity; write a number or null"
            ),
        );
    }
    for line in ["{\"text\": 1NaN}", "{\"text\": NaN5}", "{\"a\": NaN \"b\"}", "{NaN: 1}", "{\"a\": NaNNaN}"]
    {
        let message = from(line.as_bytes(), FileFormat::Jsonl).unwrap_err().to_string();
        assert!(message.contains("invalid JSON"), "{line}: {message}");
    }
}

#[test]
fn an_answer_that_is_not_a_string_is_ignored_beside_a_text() {
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
        "dir/set.x, line 4: line 1 has the id \"x\" too; ids must differ",
    );
    refused(
        "{\"text\":\"a\",\"id\":\"set-2\"}\n{\"text\":\"b\"}",
        "dir/set.x, line 2: line 1 has the id \"set-2\" too; ids must differ",
    );
}

#[test]
fn invalid_utf8() {
    for kind in [FileFormat::Jsonl, FileFormat::Text] {
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
    let prompts = from(content.as_bytes(), FileFormat::Text).unwrap();
    assert_eq!(texts(&prompts), ["  One\ntwo.", "Three.", "# Four"]);
    let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
    assert_eq!(ids, ["set-2", "set-7", "set-9"]);
}

#[test]
fn sizes_are_bounded() {
    let bounded = |content: &str, kind, line, total| {
        let bounds = Bounds { line, total };
        read(Cursor::new(content.to_owned()), Path::new("f"), kind, None, bounds).map_err(|e| e.to_string())
    };
    let advice = "split it, or check that its lines end in line feeds";
    let thirteen = "{\"text\":\"ab\"}";
    for ending in ["", "\n", "\r\n"] {
        assert!(bounded(&format!("{thirteen}{ending}"), FileFormat::Jsonl, 13, 99).is_ok());
        assert!(bounded(&format!("\u{feff}{thirteen}{ending}"), FileFormat::Jsonl, 13, 99).is_ok());
        assert_eq!(
            bounded(&format!("\n{thirteen}{ending}"), FileFormat::Jsonl, 12, 99).unwrap_err(),
            format!("f, line 2: longer than 12 bytes; {advice}")
        );
    }
    assert!(bounded("ab\ncd", FileFormat::Text, 5, 99).is_ok());
    assert_eq!(
        bounded("\nab\ncd\nef", FileFormat::Text, 5, 99).unwrap_err(),
        format!("f, line 2: longer than 5 bytes; {advice}")
    );
    assert!(bounded("abc\n\ndef", FileFormat::Text, 9, 6).is_ok());
    assert_eq!(
        bounded("abc\n\ndefg", FileFormat::Text, 9, 6).unwrap_err(),
        "f, line 3: the prompts up to here are larger than 6 bytes; use a limit or split the file"
    );
}

/// An endless source: reading all of it would exhaust memory.
#[test]
fn an_endless_line_ends_in_an_error() {
    for kind in [FileFormat::Jsonl, FileFormat::Text] {
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
    let prompts = read(&content[..], Path::new("f"), FileFormat::Jsonl, Some(2), BOUNDS).unwrap();
    assert_eq!(texts(&prompts), ["a", "b"]);
    let text = b"a\n\nb\n\n\xff";
    let prompts = read(&text[..], Path::new("f"), FileFormat::Text, Some(2), BOUNDS).unwrap();
    assert_eq!(texts(&prompts), ["a", "b"]);
}

/// Bytes from pieces of JSON lines, which reach deeper into the parser than arbitrary bytes.
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
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..60).prop_map(|p| p.concat().into_bytes())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = from(&bytes, FileFormat::Jsonl);
        let _ = from(&bytes, FileFormat::Text);
    }

    #[test]
    fn nearly_valid_lines_never_panic(bytes in near_json()) {
        for kind in [FileFormat::Jsonl, FileFormat::Text] {
            if let Err(error) = from(&bytes, kind) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn rows_round_trip(rows in prop::collection::vec(("\\PC*x\\PC*", "\\PC*y", any::<u16>()), 1..8)) {
        let mut content = String::new();
        for (question, answer, position) in &rows {
            let row = serde_json::json!({
                "question": question, "answer": answer, "positions": [position],
            });
            content += &format!("{row}\n");
        }
        let prompts = from(content.as_bytes(), FileFormat::Jsonl).unwrap();
        prop_assert_eq!(prompts.len(), rows.len());
        for (prompt, (question, answer, position)) in prompts.iter().zip(&rows) {
            prop_assert_eq!(prompt.question(), Some(question.as_str()));
            prop_assert_eq!(prompt.answer.as_ref(), Some(answer));
            prop_assert_eq!(&prompt.positions, &Some(vec![usize::from(*position)]));
        }
    }
}
