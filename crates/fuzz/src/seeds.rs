//! Small valid inputs: fixtures cut to the part that is read, and generated files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fathom_model::gguf::Header;
use parquet::basic::{Compression, Encoding, ZstdLevel};

use crate::writer::{Cells, Style, table, texts};

/// The folder of the fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = fixtures().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Headers of GGUF files.
pub(crate) fn gguf() -> Vec<Vec<u8>> {
    let names = ["llama2", "gpt2", "quants", "qwen2", "gemma2"];
    let files = names.map(|name| fixture(&format!("gguf/{name}.gguf")));
    files.map(|file| file[..header(&file)].to_vec()).into()
}

/// The length of the header of a GGUF file: the shortest prefix that parses.
fn header(file: &[u8]) -> usize {
    let (mut short, mut enough) = (0, file.len());
    while short + 1 < enough {
        let middle = short.midpoint(enough);
        match Header::parse(Path::new("seed.gguf"), &file[..middle]) {
            Ok(_) => enough = middle,
            Err(_) => short = middle,
        }
    }
    enough
}

const SHARDED: &str = "llama2-sharded-bf16";

pub(crate) fn safetensors_index() -> Vec<Vec<u8>> {
    let small =
        br#"{"metadata": {}, "weight_map": {"model.norm.weight": "model-00003-of-00003.safetensors"}}"#;
    vec![fixture(&format!("{SHARDED}/model.safetensors.index.json")), small.to_vec()]
}

/// The shards that the seed indices name.
pub(crate) fn shards() -> &'static [(&'static str, Vec<u8>)] {
    static SHARDS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
        let names = [
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
        ];
        names.map(|name| (name, fixture(&format!("{SHARDED}/{name}")))).into()
    });
    &SHARDS
}

pub(crate) fn pickle() -> Vec<Vec<u8>> {
    ["pickles/views.bin", "pickles/turned.bin"].map(fixture).into()
}

/// Parquet tables with every encoding, compression and kind of column.
pub(crate) fn parquet() -> Vec<Vec<u8>> {
    let endings =
        |n: usize| vec![vec!["one".to_owned(); n], vec![], vec!["two".to_owned(), "three".to_owned()]];
    let text = Cells::Texts(vec![Some("a text".into()), None, Some("a text that is longer".into())]);
    let own = vec![
        Cells::Unsigned(vec![1, 2, 3]),
        text,
        Cells::Doubles(vec![0.5, f64::NAN, 1.0]),
        Cells::Messages(endings(2)),
    ];
    let scenes = vec![texts(&["A cat", "A dog", "A"]), Cells::Lists(endings(1)), Cells::Ints(vec![0, 0, 1])];
    let mut seeds = Vec::new();
    for (compression, encoding, dictionary, second_version) in [
        (Compression::UNCOMPRESSED, Encoding::PLAIN, true, false),
        (Compression::SNAPPY, Encoding::PLAIN, true, true),
        (Compression::UNCOMPRESSED, Encoding::DELTA_BYTE_ARRAY, false, true),
        (Compression::UNCOMPRESSED, Encoding::DELTA_LENGTH_BYTE_ARRAY, false, false),
        (Compression::ZSTD(ZstdLevel::default()), Encoding::PLAIN, false, false),
        (Compression::LZ4, Encoding::PLAIN, true, false),
        (Compression::LZ4_RAW, Encoding::PLAIN, true, false),
        (Compression::GZIP(Default::default()), Encoding::PLAIN, true, false),
        (Compression::BROTLI(Default::default()), Encoding::PLAIN, true, false),
    ] {
        let style = Style { compression, dictionary, second_version, page: 2, encoding };
        seeds.push(table(&["id", "text", "group", "messages"], std::slice::from_ref(&own), style));
        seeds.push(table(&["ctx", "endings", "label"], &[scenes.clone(), scenes.clone()], style));
    }
    let questions = Cells::Lists(vec![vec!["Whose?".into()]]);
    let mquake = vec![questions.clone(), texts(&["Ann"]), questions];
    seeds.push(table(&["questions", "answer", "single_hops"], &[mquake], Style::default()));
    let gsm8k = vec![texts(&["Two and two?"]), texts(&["Four.\n#### 4"])];
    seeds.push(table(&["question", "answer"], &[gsm8k], Style::default()));
    seeds
}

pub(crate) fn jsonl() -> Vec<Vec<u8>> {
    let files = [
        "{\"id\": 7, \"question\": \"1 + 1 =\", \"answer\": \" 2\", \"positions\": [8, 0], \"level\": 3, \"x\": [{}]}\n",
        "\u{feff}{\"text\": \"a \\u00e9\\n\", \"score\": NaN, \"y\": [-Infinity]}\r\n\r\n{\"text\": null}\n",
        "{\"question\": \"Two?\", \"answer\": \"It is <<2+2=4>>4.\\n#### 1,004\"}\n",
        "{\"ctx\": \"A cat\", \"endings\": [\"barks.\", \"purrs.\"], \"label\": \"1\"}\n",
        "{\"Problem\": \"P?\", \"Solution\": \"S is $\\\\boxed{\\\\frac{1}{2}}$.\", \"Answer\": 4}\n",
        "{\"problem\": \"A\", \"level\": \"Level 2\", \"solution\": \"a\"}\n",
        "{\"questions\": [\"Whose?\"], \"answer\": \"Ann\", \"single_hops\": [{}, {}]}\n",
    ];
    files.map(|file| file.as_bytes().to_vec()).into()
}

pub(crate) fn study_toml() -> Vec<Vec<u8>> {
    ["paper.toml", "small-models.toml"].map(|name| fixture(&format!("../studies/{name}"))).into()
}

/// A table, an array, a description of a law and a formula.
pub(crate) fn laws() -> Vec<Vec<u8>> {
    let header = "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), }";
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.bytes());
    array.extend([0.0, 10.0, 1.5, 2.5].iter().flat_map(|x: &f64| x.to_le_bytes()));
    let law = "response = 'y'\nexpression = 'c / x ^ a + ln(l)'\n[parameters]\nc = { start = 1, log = true }\n\
               a = { start = 0.3, low = 0, high = 2 }\nl = { start = 2 }\n";
    vec![
        b"d_model,n_layers,num_tokens,loss\n512,8,1e9,3.5\n1024,\"16\",2e9,3.1\n".to_vec(),
        br#"{"N": [1e9, 2e9], "L": [3.5, "3.1"], "name": ["a", null]}"#.to_vec(),
        array,
        law.as_bytes().to_vec(),
        b"score ~ layers + ln(params / 1e9) * (d_ff - 2)".to_vec(),
    ]
}
