//! Parquet files written by another implementation.

use std::fs;

use crate::writer::{Cells, Style, table, texts};
use fathom_data::{DataError, Options, Prompt, load};
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

fn read(bytes: &[u8], spec: &str) -> Result<Vec<Prompt>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    fs::write(&path, bytes).unwrap();
    load(&spec.replace('@', path.to_str().unwrap()), &Options::default()).map(|set| set.prompts)
}

fn styles() -> Vec<Style> {
    let mut styles = Vec::new();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        for (dictionary, encoding) in [
            (true, Encoding::PLAIN),
            (false, Encoding::PLAIN),
            (false, Encoding::DELTA_LENGTH_BYTE_ARRAY),
            (false, Encoding::DELTA_BYTE_ARRAY),
        ] {
            for second_version in [false, true] {
                for page in [1, 7, 1000] {
                    styles.push(Style { compression, dictionary, second_version, page, encoding });
                }
            }
        }
    }
    styles
}

/// Two row groups whose texts repeat now and then, so that dictionaries are used.
fn scenes() -> (Vec<Vec<Cells>>, Vec<String>) {
    let (mut groups, mut wanted) = (Vec::new(), Vec::new());
    for group in 0..2 {
        let (mut contexts, mut endings, mut labels) = (vec![], vec![], vec![]);
        for row in 0..40usize {
            let context = format!("Scene {} é.", (row + group) % 9);
            let list: Vec<String> = (0..=row % 5).map(|place| format!("end {}", row * place % 11)).collect();
            let label = row % list.len();
            wanted.push(format!("{context} {}", list[label]));
            contexts.push(Some(context));
            endings.push(list);
            labels.push(label as i32);
        }
        groups.push(vec![Cells::Texts(contexts), Cells::Lists(endings), Cells::Ints(labels)]);
    }
    (groups, wanted)
}

#[test]
fn every_encoding_gives_the_same_rows() {
    let (groups, wanted) = scenes();
    for style in styles() {
        let bytes = table(&["ctx", "endings", "label"], &groups, style);
        for spec in ["@", "hellaswag:file=@"] {
            let prompts = read(&bytes, spec).unwrap_or_else(|error| panic!("{style:?}: {error}"));
            let found: Vec<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
            assert_eq!(found, wanted, "{style:?}");
        }
    }
}

/// A file written by pyarrow 26 with its defaults.
#[test]
fn a_file_of_pyarrow() {
    let prompts = read(include_bytes!("fixtures/scenes.parquet"), "@").unwrap();
    let mut wanted = Vec::new();
    for animal in ["cat", "goose", "robot"] {
        for place in ["kitchen", "garden", "café"] {
            let leaves = format!(" leaves the {place}.");
            let endings = [" sings.", ", as ever, sleeps.", &leaves, " counts to ten."];
            wanted.push(format!("A {animal} is in the {place}. it{}", endings[wanted.len() % 4]));
        }
    }
    let found: Vec<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(found, wanted);
}

#[test]
fn nulls_numbers_and_unused_columns() {
    let columns = vec![
        Cells::Lists(vec![vec!["x".into()], vec![], vec!["y".into(), "z".into()]]),
        Cells::Texts(vec![None, Some("b".into()), None]),
        texts(&["1+1=", "2+2=", "3+3="]),
        texts(&["2", "4", "6"]),
        Cells::Longs(vec![Some(7), None, Some(-8)]),
    ];
    for style in styles() {
        let names = ["other", "id", "question", "answer", "level"];
        let prompts = read(&table(&names, std::slice::from_ref(&columns), style), "@").unwrap();
        let found: Vec<_> = prompts.iter().map(|p| (&*p.id, &*p.text, p.group.as_deref())).collect();
        assert_eq!(
            found,
            [("rows-1", "1+1=2", Some("7")), ("b", "2+2=4", None), ("rows-3", "3+3=6", Some("-8"))]
        );
    }
}

#[test]
fn errors_name_row_and_field() {
    let bytes =
        table(&["text", "answer"], &[vec![texts(&["a b", "b"]), texts(&["b", "c"])]], Style::default());
    let message = read(&bytes, "@").unwrap_err().to_string();
    assert!(message.contains("rows.parquet, row 2: \"text\" does not end with \"answer\""), "{message}");
    let bytes = table(&["prompt"], &[vec![texts(&["a"])]], Style::default());
    let message = read(&bytes, "@").unwrap_err().to_string();
    assert!(
        message.ends_with(
            "rows.parquet: found only the column \"prompt\" (text), but a row needs \"text\", or \"question\" and \
             \"answer\", as text; rename the columns that hold them, or write them as JSON lines"
        ),
        "{message}"
    );
    for bytes in [&b"PAR1"[..], b"", &[b'x'; 100], &bytes[..bytes.len() - 1]] {
        let message = read(bytes, "@").unwrap_err().to_string();
        assert!(message.contains("the Parquet file is damaged ("), "{message}");
    }
}

#[test]
fn a_limit_stops_reading() {
    let (groups, wanted) = scenes();
    let mut bytes = table(&["ctx", "endings", "label"], &groups, Style::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    fs::write(&path, &bytes).unwrap();
    let file = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let (start, length) = file.metadata().row_group(1).column(0).byte_range();
    bytes[start as usize..(start + length) as usize].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let some = |limit| load(path.to_str().unwrap(), &Options { limit: Some(limit), ..Options::default() });
    assert_eq!(some(40).unwrap().prompts.last().unwrap().text, wanted[39]);
    assert!(some(80).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Changed, removed or inserted bytes give an error or other rows, never a panic.
    #[test]
    fn damaged_files_never_panic(
        style in prop::sample::select(styles()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6),
        at_end in any::<bool>(),
    ) {
        let (groups, _) = scenes();
        let mut bytes = table(&["ctx", "endings", "label"], &groups, style);
        for (place, byte, what) in changes {
            // Headers and the footer hold the sizes and counts.
            let from = if at_end { bytes.len().saturating_sub(600) } else { 0 };
            let at = from + place.index(bytes.len() - from);
            match what {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes[at] ^= 1 << (byte % 8),
                _ => bytes[at] = byte,
            }
            prop_assume!(bytes.len() > 8);
        }
        for spec in ["@", "hellaswag:file=@"] {
            if let Err(error) = read(&bytes, spec) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}

fn load_table(names: &[&str], columns: Vec<Cells>) -> Result<fathom_data::PromptSet, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    fs::write(&path, table(names, &[columns], Style::default())).unwrap();
    load(path.to_str().unwrap(), &Options::default())
}

fn found(names: &[&str], columns: Vec<Cells>) -> Vec<(String, String, Option<String>)> {
    let prompts = load_table(names, columns).unwrap().prompts;
    prompts.into_iter().map(|prompt| (prompt.id, prompt.text, prompt.group)).collect()
}

#[test]
fn data_parquet_double_label() {
    let rows = found(&["text", "label"], vec![texts(&["a", "b"]), Cells::Doubles(vec![0.5, f64::NAN])]);
    assert_eq!(rows[1], ("rows-2".to_owned(), "b".to_owned(), None));
}

#[test]
fn data_parquet_bool_label() {
    let rows = found(&["text", "label"], vec![texts(&["a", "b"]), Cells::Booleans(vec![true, false])]);
    assert_eq!(rows.len(), 2);
}

#[test]
fn data_parquet_uint32_id() {
    let rows = found(&["id", "text"], vec![Cells::Unsigned(vec![4_000_000_000, 7]), texts(&["a", "b"])]);
    assert_eq!((&*rows[0].0, &*rows[1].0), ("4000000000", "7"));
}

#[test]
fn ids_and_groups_of_other_types_are_ignored() {
    let structures = Cells::Structures(vec!["x".into(), "y".into()]);
    let rows = found(
        &["id", "group", "level", "answer", "text"],
        vec![
            Cells::Booleans(vec![true, true]),
            structures.clone(),
            Cells::Doubles(vec![3.0, f64::NAN]),
            structures,
            texts(&["a", "b"]),
        ],
    );
    assert_eq!(rows[0], ("rows-1".to_owned(), "a".to_owned(), Some("3".to_owned())));
    assert_eq!(rows[1], ("rows-2".to_owned(), "b".to_owned(), None));
}

#[test]
fn positions_of_another_type_are_refused() {
    let message = load_table(&["text", "positions"], vec![texts(&["a"]), texts(&["8"])]).unwrap_err();
    assert!(message.to_string().ends_with(
        "rows.parquet: the column \"positions\" is a text, but it must be a list of whole numbers"
    ));
}

#[test]
fn data_parquet_nested_messages() {
    let messages = Cells::Messages(vec![vec!["hello".into(), "there".into()]]);
    let message =
        load_table(&["messages", "n"], vec![messages, Cells::Ints(vec![1])]).unwrap_err().to_string();
    assert!(
        message.contains(
            "found the columns \"messages\" (list of structs), \"n\" (integer), but a row needs \"text\", or \
             \"question\" and \"answer\""
        ),
        "{message}"
    );
}

#[test]
fn data_parquet_struct_answer() {
    let message =
        load_table(&["question", "answer"], vec![texts(&["q"]), Cells::Structures(vec!["a".into()])])
            .unwrap_err()
            .to_string();
    assert!(message.contains("found the columns \"question\" (text), \"answer\" (struct), but"), "{message}");
    // Beside a text, no answer is needed.
    let set =
        load_table(&["text", "answer"], vec![texts(&["t"]), Cells::Structures(vec!["a".into()])]).unwrap();
    assert_eq!((&*set.prompts[0].text, set.ignored), ("t", vec!["\"answer\" (struct)".to_owned()]));
    // A named set lists its required fields.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let bytes = table(&["question", "level"], &[vec![texts(&["q"]), Cells::Ints(vec![1])]], Style::default());
    fs::write(&path, bytes).unwrap();
    let message =
        load(&format!("math:file={}", path.display()), &Options::default()).unwrap_err().to_string();
    assert!(message.contains("but a row of math needs \"problem\", \"solution\" and \"level\""), "{message}");
}

#[test]
fn data_parquet_empty_text() {
    let column = Cells::Texts(vec![Some(String::new()), Some("b".into()), None, Some(" \n".into())]);
    let set = load_table(&["text"], vec![column]).unwrap();
    assert_eq!((set.prompts.len(), &*set.prompts[0].id, set.empty), (1, "rows-2", 3));
    let message = load_table(&["text"], vec![Cells::Texts(vec![None, None])]).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "holds no prompts: the text, question or answer of every row (2 in all) is empty or null; fill it in"
        ),
        "{message}"
    );
    let message = load_table(&["text"], vec![Cells::Texts(vec![])]).unwrap_err().to_string();
    assert!(message.ends_with("holds no prompts; write at least one into it"), "{message}");
}

/// Columns that are not part of a prompt are not read, so they may be damaged.
#[test]
fn only_columns_that_are_used_are_decoded() {
    let columns = vec![texts(&["a", "b"]), texts(&["c", "d"]), texts(&["e", "f"])];
    let style = Style { compression: Compression::UNCOMPRESSED, dictionary: false, ..Style::default() };
    let mut bytes = table(&["text", "problem", "other"], &[columns], style);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    fs::write(&path, &bytes).unwrap();
    let file = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    for column in 1..3 {
        let (start, length) = file.metadata().row_group(0).column(column).byte_range();
        bytes[start as usize..(start + length) as usize].fill(0xff);
    }
    assert_eq!(read(&bytes, "@").unwrap().len(), 2);
    let (start, length) = file.metadata().row_group(0).column(0).byte_range();
    bytes[start as usize..(start + length) as usize].fill(0xff);
    assert!(read(&bytes, "@").is_err());
}
