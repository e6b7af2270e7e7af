//! File formats, recognised by file name extension.

use std::path::Path;

/// The format of a file of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFormat {
    /// One JSON object per line.
    Jsonl,
    /// A Parquet table.
    Parquet,
    /// Paragraphs of text.
    Text,
    /// Sequences of residues, compressed by gzip or not.
    Fasta,
}

impl FileFormat {
    /// The format of a path, if its extension is known.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "gz" => Self::of(Path::new(path.file_stem()?)).filter(|format| *format == Self::Fasta),
            "fasta" | "fa" | "faa" | "fas" => Some(Self::Fasta),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            "txt" | "md" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The name of a file without its extension.
pub(crate) fn stem(path: &Path) -> String {
    let stem = Path::new(path.file_stem().unwrap_or_default());
    let gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let name = if gzip { stem.file_stem().unwrap_or_default() } else { stem.as_os_str() };
    name.to_string_lossy().into_owned()
}

/// The noun for a row of a file in messages.
pub(crate) fn unit(path: &Path) -> &'static str {
    if FileFormat::of(path) == Some(FileFormat::Parquet) { "row" } else { "line" }
}
