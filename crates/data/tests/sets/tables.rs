//! Parquet files, against those that another implementation writes.

use std::fs;

use crate::writer::{Cells, Style, table, texts};
use fathom_data::{DataError, Options, Prompt, load};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
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
    ] {
        for dictionary in [false, true] {
            for second_version in [false, true] {
                for page in [1, 7, 1000] {
                    styles.push(Style { compression, dictionary, second_version, page });
                }
            }
        }
    }
    styles
}

/// Two row groups of rows whose texts repeat now and then, so that dictionaries are of use.
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
fn every_way_of_writing_gives_the_same_rows() {
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

/// The file was written by pyarrow 26 with its defaults from rows that Python put together.
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
fn nulls_numbers_and_columns_of_no_interest() {
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
        table(&["question", "answer"], &[vec![texts(&["a", "b"]), texts(&["c", " "])]], Style::default());
    let message = read(&bytes, "@").unwrap_err().to_string();
    assert!(message.ends_with("rows.parquet, row 2: \"answer\" is empty; fill it in or remove the line"));
    let bytes = table(&["prompt"], &[vec![texts(&["a"])]], Style::default());
    let message = read(&bytes, "@").unwrap_err().to_string();
    assert!(message.contains(", row 1: found no fields, but a row needs \"text\""), "{message}");
    let style = Style { compression: Compression::LZ4_RAW, ..Style::default() };
    let message = read(&table(&["text"], &[vec![texts(&["a"])]], style), "@").unwrap_err().to_string();
    assert!(
        message.ends_with(
            "row 1: cannot read the Parquet file, because it is compressed with LZ4; write it with the defaults \
             of pyarrow, or as JSON lines"
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

    /// Bytes that are changed, cut out or put in lead to an error or to other rows, never to a panic.
    #[test]
    fn damaged_files_never_panic(
        style in prop::sample::select(styles()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6),
        at_end in any::<bool>(),
    ) {
        let (groups, _) = scenes();
        let mut bytes = table(&["ctx", "endings", "label"], &groups, style);
        for (place, byte, what) in changes {
            // Headers and the footer are where numbers decide.
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
