//! Fuzz targets and their seeds.
//!
//! The libFuzzer binaries are in the folder `fuzz`, a separate workspace. This crate holds what they share
//! with the smoke test, which needs no fuzzer.

#![deny(missing_docs)]

mod seeds;
// The tests of Parquet files write more kinds of columns than the seeds need.
#[allow(dead_code)]
#[path = "../../data/tests/sets/writer.rs"]
mod writer;

use std::fs;
use std::path::Path;

use fathom_analysis::StudyDescription;
use fathom_data::{Options, Random};
use fathom_laws::Table;
use fathom_laws::curves::{Array, Curve, Pattern, from_zip};
use fathom_laws::custom::{CustomLaw, Description};
use fathom_laws::expression::Expression;
use fathom_laws::regress::Formula;
use fathom_model::gguf;
use fathom_model::source::Checkpoint;
use fathom_model::tokenizer::Tokenizer;
use fathom_model::weights::Weights;
use tempfile::TempDir;

pub use seeds::fixtures;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also that of its binary.
    pub name: &'static str,
    /// Reads an input. It may fail but must not panic.
    pub run: fn(&[u8]),
    /// Small valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "gguf", run: gguf, seeds: seeds::gguf },
    Target { name: "safetensors_index", run: safetensors_index, seeds: seeds::safetensors_index },
    Target { name: "pickle", run: pickle, seeds: seeds::pickle },
    Target { name: "parquet", run: parquet, seeds: seeds::parquet },
    Target { name: "jsonl", run: jsonl, seeds: seeds::jsonl },
    Target { name: "tokenizer_metadata", run: tokenizer_metadata, seeds: seeds::gguf },
    Target { name: "study_toml", run: study_toml, seeds: seeds::study_toml },
    Target { name: "laws", run: laws, seeds: seeds::laws },
];

/// A GGUF file: header, architecture, tokenizer and tensor table.
pub fn gguf(bytes: &[u8]) {
    let _ = gguf::Header::parse(Path::new("fuzz.gguf"), bytes);
    with_folder(|folder| drop(Checkpoint::open(&write(folder, "model.gguf", bytes))));
}

/// A `model.safetensors.index.json` beside the shards of a fixture.
pub fn safetensors_index(bytes: &[u8]) {
    with_folder(|folder| {
        for (name, shard) in seeds::shards() {
            write(folder, name, shard);
        }
        write(folder, "model.safetensors.index.json", bytes);
        let _ = Weights::open_folder(folder);
    });
}

/// A `pytorch_model.bin`.
pub fn pickle(bytes: &[u8]) {
    with_folder(|folder| {
        write(folder, "pytorch_model.bin", bytes);
        let _ = Weights::open_folder(folder);
    });
}

/// A Parquet file, read with a detected schema and with that of each published set.
pub fn parquet(bytes: &[u8]) {
    prompts("rows.parquet", bytes, &["", "gsm8k:file=", "hellaswag:file=", "mquake:file="]);
}

/// A JSON lines file, read with a detected schema and with that of each published set.
pub fn jsonl(bytes: &[u8]) {
    prompts(
        "rows.jsonl",
        bytes,
        &["", "gsm8k:file=", "hellaswag:file=", "aime24:file=", "math:file=", "mquake:file="],
    );
}

fn prompts(name: &str, bytes: &[u8], specs: &[&str]) {
    with_folder(|folder| {
        let path = write(folder, name, bytes);
        for spec in specs {
            let _ = fathom_data::load(&format!("{spec}{}", path.display()), &Options::default());
        }
    });
}

/// The metadata of a GGUF file as a tokenizer, which then encodes some texts.
pub fn tokenizer_metadata(bytes: &[u8]) {
    let path = Path::new("fuzz.gguf");
    let Ok(header) = gguf::Header::parse(path, bytes) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(path, &header) else { return };
    for text in ["", " Héllo wörld,\n\n\tit's 1234567!<s></s> \u{1f600}", "<|endoftext|>a  b"] {
        for token in tokenizer.encode(text).unwrap_or_default() {
            let _ = tokenizer.piece(token);
        }
    }
}

/// A study description.
pub fn study_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = StudyDescription::parse(text, "study.toml");
    }
}

/// Calls a function with a temporary folder, in memory if possible.
fn with_folder(call: impl FnOnce(&Path)) {
    const MEMORY: &str = "/dev/shm";
    let folder = match Path::new(MEMORY).is_dir() {
        true => TempDir::new_in(MEMORY),
        false => TempDir::new(),
    };
    // A full disk is not a finding about the input.
    call(folder.expect("a temporary folder").path());
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// Mutates an input in a few places, as a fuzzer would.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const NUMBERS: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b'"', b'{'];
    for _ in 0..=random.randbelow(4) {
        let length = bytes.len() as u64;
        let at = random.randbelow(length + 1) as usize;
        let end = (at + random.randbelow(17) as usize).min(bytes.len());
        let byte = random.randbelow(256) as u8;
        match random.randbelow(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, byte),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => bytes[at..end].fill(NUMBERS[usize::from(byte) % NUMBERS.len()]),
            5 => bytes[at..end].iter_mut().for_each(|b| *b = byte),
            6 => bytes[at..end].iter_mut().take(1).for_each(|b| *b ^= 1 << (byte % 8)),
            _ => bytes[at..end].iter_mut().take(1).for_each(|b| *b = byte),
        }
    }
}

/// What `fathom fit` reads: tables, NumPy arrays, archives of them, descriptions of laws, expressions.
pub fn laws(bytes: &[u8]) {
    let _ = Table::from_csv(bytes);
    let _ = Table::from_json(bytes);
    if let Ok(array) = Array::from_npy(bytes) {
        let _ = Curve::of("fuzz.npy", &array);
    }
    let pattern = Pattern::parse("{name}.npy").expect("a pattern");
    let _ = from_zip(bytes, &pattern);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(description) = Description::parse(text) {
        let _ = CustomLaw::new(&description);
    }
    let _ = Formula::parse(text);
    let _ = Pattern::parse(text);
    if let Ok(expression) = Expression::parse(text) {
        let at = vec![1.5; expression.variables().len()];
        let _ = expression.value(&at);
    }
}
