//! The samples of a finished run as a Parquet file, which data frames and databases read.

mod columns;
mod flatten;

use crate::resume::merged;
use crate::{Error, Result};
use columns::Column;
use fathom_results::{Folder, Sample, folder};
use flatten::flatten;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a row group: their values are in memory at once.
const ROWS: usize = 256;

/// Writes `samples.parquet` beside the `samples.jsonl` of a finished run, with one row per prompt and pair, and returns its
/// path.
///
/// A column is named by the path of its value in a line of `samples.jsonl`, such as `lens.kl_lens_final`, and holds a
/// scalar, a list or a list of lists. Gradients are columns by site, such as `gradients.resid.attribution`. What a
/// sample does not have is null, and so is a number that could not be measured.
///
/// ```no_run
/// let file = fathom::write_samples_parquet("fathom-out/gpt2/gsm8k".as_ref())?;
/// # Ok::<(), fathom::Error>(())
/// ```
///
/// # Errors
/// When the folder has no samples or cannot be written.
pub fn write_samples_parquet(path: &Path) -> Result<PathBuf> {
    let opened = Folder::open(path)?;
    let samples = in_order(opened.samples()?);
    if samples.is_empty() {
        crate::error::invalid!("{} has no samples", path.display());
    }
    let subject = opened.run()?.unwrap_or_default();
    let fail = |source: ParquetError| Error::Io {
        what: format!("cannot write {}", path.join(folder::SAMPLES_PARQUET).display()),
        source: std::io::Error::other(source),
    };
    let bytes = encode(&samples, &subject).map_err(fail)?;
    opened.write_bytes_atomic(folder::SAMPLES_PARQUET, &bytes)?;
    Ok(path.join(folder::SAMPLES_PARQUET))
}

/// Writes the file if it is wanted, or renews one that is there and would otherwise lack what was measured since.
pub(crate) fn renew(folder: &Folder, wanted: bool) -> Result<()> {
    if wanted || folder.path().join(folder::SAMPLES_PARQUET).exists() {
        write_samples_parquet(folder.path())?;
    }
    Ok(())
}

/// Samples with the probes that later lines added, in the order in which their first lines stand.
fn in_order(lines: Vec<Sample>) -> Vec<Sample> {
    let mut seen = HashSet::new();
    let ids: Vec<String> =
        lines.iter().filter(|line| seen.insert(&line.id)).map(|line| line.id.clone()).collect();
    let mut samples = merged(lines);
    ids.iter().filter_map(|id| samples.remove(id)).collect()
}

fn encode(samples: &[Sample], run: &Value) -> Result<Vec<u8>, ParquetError> {
    let mut columns: Vec<Column> = Vec::new();
    for sample in samples {
        columns::extend(&mut columns, &flatten(sample)?)?;
    }
    let fields = columns.iter().map(Column::field).collect::<Result<Vec<_>, _>>()?;
    let schema = Type::group_type_builder("samples").with_fields(fields).build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(metadata(run)))
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
    for chunk in samples.chunks(ROWS) {
        let rows = chunk.iter().map(flatten).collect::<Result<Vec<_>, _>>()?;
        let mut group = writer.next_row_group()?;
        for column in &columns {
            column.write(&rows, &mut group)?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(bytes)
}

/// What the samples are of, for readers that look at the file alone.
fn metadata(run: &Value) -> Vec<KeyValue> {
    let entries = [
        ("fathom.version", "/fathom"),
        ("fathom.samples_version", "/samples_version"),
        ("fathom.model", "/model/id"),
        ("fathom.revision", "/model/revision"),
        ("fathom.data", "/data/id"),
    ];
    let entry = |(name, place): (&str, &str)| {
        let value = match run.pointer(place)? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(KeyValue::new(name.to_owned(), value))
    };
    entries.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::{LensCurves, QaPair, SettlingSample};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use serde_json::json;

    fn rows(samples: &[Sample]) -> Vec<Value> {
        let bytes = encode(samples, &json!({"model": {"id": "m", "revision": null}})).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
        assert_eq!(metadata, [KeyValue::new("fathom.model".to_owned(), "m".to_owned())]);
        reader.get_row_iter(None).unwrap().map(|row| plain(Field::Group(row.unwrap()))).collect()
    }

    /// What the crate's reader found, as JSON.
    fn plain(field: Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Long(number) => number.into(),
            Field::Double(number) => number.into(),
            Field::Str(text) => text.into(),
            Field::ListInternal(list) => list.elements().iter().cloned().map(plain).collect(),
            Field::Group(row) => {
                row.get_column_iter().map(|(name, field)| (name.clone(), plain(field.clone()))).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let whole = Sample {
            id: "a".to_owned(),
            group: Some("easy".to_owned()),
            tokens: vec![1, 70_000],
            pieces: vec!["ä".to_owned(), String::new()],
            lens: Some(LensCurves { kl_lens_final: vec![2.5, f64::NAN, 0.0], ..LensCurves::default() }),
            settling: Some(SettlingSample { layers: vec![2, 0] }),
            ..Sample::default()
        };
        let pair = Sample {
            id: "qa/1".to_owned(),
            tokens: vec![5],
            pieces: vec!["x".to_owned()],
            qa: Some(QaPair { question: "?".to_owned(), answer: "!".to_owned(), answer_tokens: 1 }),
            erasure: Some(vec![vec![0.5], vec![], vec![f64::INFINITY, 1.0]]),
            ..Sample::default()
        };
        let rows = rows(&[whole, pair]);
        let columns = ["id", "group", "tokens", "pieces", "lens.kl_lens_final", "settling.layers", "erasure"];
        let shown = |row: &Value| -> Vec<Value> { columns.iter().map(|name| row[*name].clone()).collect() };
        assert_eq!(
            shown(&rows[0]),
            [
                json!("a"),
                json!("easy"),
                json!([1, 70_000]),
                json!(["ä", ""]),
                json!([2.5, null, 0.0]),
                json!([2, 0]),
                json!(null)
            ]
        );
        assert_eq!(
            shown(&rows[1]),
            [
                json!("qa/1"),
                json!(null),
                json!([5]),
                json!(["x"]),
                json!(null),
                json!(null),
                json!([[0.5], [], [null, 1.0]])
            ]
        );
        assert_eq!(rows[1]["asked.answer_tokens"], 1);
    }

    #[test]
    fn more_rows_than_a_row_group_keep_their_order_and_their_columns() {
        let sample = |i: usize| Sample {
            id: format!("p{i}"),
            tokens: vec![i as u32],
            pieces: vec![i.to_string()],
            // Only the last prompt has this probe.
            settling: (i == 2 * ROWS).then(|| SettlingSample { layers: vec![i] }),
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..=2 * ROWS).map(sample).collect();
        let rows = rows(&samples);
        assert_eq!(rows.len(), samples.len());
        for (i, row) in rows.iter().enumerate() {
            assert_eq!((&row["id"], &row["tokens"]), (&json!(format!("p{i}")), &json!([i])));
        }
        assert_eq!(rows[0]["settling.layers"], Value::Null);
        assert_eq!(rows[2 * ROWS]["settling.layers"], json!([2 * ROWS]));
    }

    #[test]
    fn lines_of_one_prompt_are_one_row() {
        let line = |id: &str, layers: Option<usize>| Sample {
            id: id.to_owned(),
            tokens: vec![1],
            settling: layers.map(|layer| SettlingSample { layers: vec![layer] }),
            ..Sample::default()
        };
        let rows = rows(&in_order(vec![line("b", None), line("a", Some(1)), line("b", Some(2))]));
        let found: Vec<(Value, Value)> =
            rows.iter().map(|row| (row["id"].clone(), row["settling.layers"].clone())).collect();
        assert_eq!(found, [(json!("b"), json!([2])), (json!("a"), json!([1]))]);
    }
}
