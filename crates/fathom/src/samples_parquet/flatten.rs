//! A sample as named values: scalars and lists of them.

use fathom_results::Sample;
use parquet::errors::ParquetError;
use serde_json::{Map, Value};

/// The values of a sample by their path, in the order of the format.
pub(super) type Row = Map<String, Value>;

/// The values of a sample, named by their path with dots between.
pub(super) fn flatten(sample: &Sample) -> Result<Row, ParquetError> {
    let value = serde_json::to_value(sample).map_err(|error| ParquetError::External(Box::new(error)))?;
    let mut row = Row::new();
    add(&mut row, String::new(), value);
    Ok(row)
}

fn add(row: &mut Row, path: String, value: Value) {
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                add(row, under(&name), field);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, mut item) in items.into_iter().enumerate() {
                let site = item.as_object_mut().and_then(|fields| fields.shift_remove("site"));
                let name = site.and_then(|site| site.as_str().map(str::to_owned));
                add(row, under(&name.unwrap_or_else(|| i.to_string())), item);
            }
        }
        leaf => {
            row.insert(path, leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_paths_and_lists_of_objects_are_named_by_their_site() {
        let mut row = Row::new();
        let value = json!({
            "id": "a",
            "lens": {"kl": [1.0, null]},
            "gradients": [{"site": "resid", "nodes": [4]}, {"site": "mlp", "nodes": []}],
            "fits": [{"slope": 1.5}],
        });
        add(&mut row, String::new(), value);
        let expected = json!({
            "id": "a",
            "lens.kl": [1.0, null],
            "gradients.resid.nodes": [4],
            "gradients.mlp.nodes": [],
            "fits.0.slope": 1.5,
        });
        assert_eq!(Value::Object(row), expected);
    }
}
