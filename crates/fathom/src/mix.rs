//! Weights of training sets for other people's trainers: measurements as JSONL in, weights out.

use crate::error::invalid;
use crate::{Error, Result};
use fathom_laws::mixture::{Bound, Controller, Weights};
use serde_json::{Map, Value, json};
use std::io::BufRead;

/// The most bytes of a line that are read.
const LONGEST_LINE: u64 = 1 << 20;

/// Replays a log of measurements on a development set and returns its lines with the weights after each.
///
/// A line is an object with `length`, the mean number of tokens of the answers, and `accuracy`, a share from 0 to 1. The rule starts
/// from equal weights, or from a line's `weights` (`{"short": .., "long": ..}`) where it has some. Other fields are copied.
///
/// # Errors
/// When the log cannot be read, or a line is not such an object; with its number.
pub fn mix(name: &str, log: impl BufRead, controller: &Controller) -> Result<Vec<Value>> {
    let mut weights = Weights::default();
    let mut lines = Vec::new();
    let mut log = std::io::Read::take(log, 0);
    for number in 1.. {
        log.set_limit(LONGEST_LINE);
        let mut text = String::new();
        let read = log.read_line(&mut text);
        if read.map_err(|source| Error::Io { what: format!("cannot read {name}, line {number}"), source })?
            == 0
        {
            break;
        }
        if log.limit() == 0 {
            invalid!("{name}, line {number}: it is longer than {LONGEST_LINE} bytes");
        }
        if text.trim().is_empty() {
            continue;
        }
        let (mut fields, start, measured) =
            parse(&text).map_err(|what| Error::Invalid(format!("{name}, line {number}: {what}")))?;
        weights = controller
            .step(start.unwrap_or(weights), measured)
            .map_err(|what| Error::Invalid(format!("{name}, line {number}: {what}")))?;
        fields.insert("weights".to_owned(), json!(weights));
        lines.push(Value::Object(fields));
    }
    if lines.is_empty() {
        invalid!("{name} has no measurements; give lines such as {{\"length\": 3000, \"accuracy\": 0.7}}");
    }
    Ok(lines)
}

/// A line: its fields, the weights that it starts from, and what was measured.
type Line = (Map<String, Value>, Option<Weights>, Bound);

fn parse(text: &str) -> Result<Line, String> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let number = |name: &str| match fields.get(name).map(Value::as_f64) {
        Some(Some(number)) => Ok(number),
        Some(None) => Err(format!("'{name}' is not a number")),
        None => Err(format!("it has no '{name}'")),
    };
    let measured = Bound { length: number("length")?, accuracy: number("accuracy")? };
    let start = fields.get("weights").map(|weights| serde_json::from_value(weights.clone()));
    let start = start.transpose().map_err(|error| format!("weights: {error}"))?;
    Ok((fields, start, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> Controller {
        let bound = |length, accuracy| Bound { length, accuracy };
        Controller::new(bound(1120.9, 0.289), bound(7379.6, 0.756)).unwrap()
    }

    #[test]
    fn a_log_is_replayed_and_a_state_is_taken() {
        let log = "{\"step\": 100, \"length\": 7379.6, \"accuracy\": 0.756}\n\n{\"length\": 3000, \"accuracy\": 0.7}\n";
        let lines = mix("log", log.as_bytes(), &controller()).unwrap();
        assert_eq!((lines.len(), &lines[0]["step"]), (2, &json!(100)));
        assert!((lines[0]["weights"]["short"].as_f64().unwrap() - 0.981_965_59).abs() < 5e-9);
        // The second line alone, from the weights of the first.
        let mut alone = json!({"length": 3000, "accuracy": 0.7});
        alone["weights"] = lines[0]["weights"].clone();
        let stepped = mix("log", alone.to_string().as_bytes(), &controller()).unwrap();
        assert_eq!(stepped[0]["weights"], lines[1]["weights"]);
    }

    #[test]
    fn wrong_lines_are_named() {
        let refuse = |log: &str, part: &str| {
            let message = mix("log.jsonl", log.as_bytes(), &controller()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refuse("", "log.jsonl has no measurements");
        refuse("{\"length\": 3, \"accuracy\": 0.5}\n{\"length\": 3}\n", "line 2: it has no 'accuracy'");
        refuse("{\"length\": \"3\", \"accuracy\": 0.5}\n", "line 1: 'length' is not a number");
        refuse("{\"length\": 3, \"accuracy\": 50}\n", "the accuracy is 50");
        refuse("[1, 2]\n", "line 1: ");
        refuse(
            "{\"length\": 3, \"accuracy\": 0.5, \"weights\": {\"short\": 1}}\n",
            "weights: missing field `long`",
        );
        refuse(&format!("{{\"x\": \"{}\"}}", "y".repeat(1 << 20)), "longer than");
    }
}
