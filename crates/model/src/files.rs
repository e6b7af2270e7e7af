//! Opening the files of a checkpoint, and detecting their format by their first bytes.

use crate::error::{Error, Result};
use fathom_kernels::mapped::Mapped;
use std::path::Path;

/// File formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Gguf,
    Safetensors,
    /// A zip archive, as written by PyTorch.
    Zip,
    Other,
}

/// The start of every Git LFS pointer.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Maps a file.
///
/// # Errors
/// When it cannot be opened or is a Git LFS pointer.
pub(crate) fn map(path: &Path) -> Result<Mapped> {
    let map = Mapped::open(path).map_err(Error::io(path))?;
    refuse_pointer(path, &map)?;
    Ok(map)
}

/// Reads a text file.
///
/// # Errors
/// As [`map`], or when it is not UTF-8.
pub(crate) fn text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    refuse_pointer(path, text.as_bytes())?;
    Ok(text)
}

/// Reads a JSON file.
///
/// # Errors
/// As [`text`], or when it is not JSON.
pub(crate) fn json(path: &Path) -> Result<serde_json::Value> {
    let text = text(path)?;
    let json =
        serde_json::from_str(&text).or_else(|error| serde_json::from_str(&quoted(&text)).or(Err(error)));
    json.map_err(|e| Error::file(path, format!("it is not JSON: {e}")))
}

/// Numbers that Python writes and JSON lacks, as strings.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            out.push('"');
            // An escaped quotation mark does not end a string.
            let escaped = out[..out.len() - 1].chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
            in_string ^= !(in_string && escaped);
        }
        match in_string {
            true => out.push_str(part),
            false => out.push_str(
                &part.replace("Infinity", "\"Infinity\"").replace("-\"", "\"-").replace("NaN", "\"NaN\""),
            ),
        }
    }
    out
}

/// SHA-256 of a small file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    use sha2::{Digest, Sha256};
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// Detects the format of a file by its first bytes.
///
/// # Errors
/// As [`map`].
pub(crate) fn kind(path: &Path) -> Result<FileKind> {
    let map = map(path)?;
    // A safetensors file begins with the length of its header, a JSON object.
    let header = map.first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
    Ok(match &map[..] {
        bytes if bytes.starts_with(b"GGUF") => FileKind::Gguf,
        bytes if bytes.starts_with(b"PK\x03\x04") => FileKind::Zip,
        bytes if bytes.get(8) == Some(&b'{') && header <= bytes.len() as u64 => FileKind::Safetensors,
        _ => FileKind::Other,
    })
}

/// Refuses a Git LFS pointer, which a clone without Git LFS leaves in place of a large file.
pub(crate) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(LFS_POINTER) {
        return Ok(());
    }
    Err(Error::config(
        path,
        "it is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder, or download the file again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_beyond_json_becomes_strings() {
        let python = r#"{"a \" Infinity": [0.0, Infinity], "b": "NaN \\", "c": NaN, "d": -Infinity}"#;
        let want = serde_json::json!({"a \" Infinity": [0.0, "Infinity"], "b": "NaN \\", "c": "NaN", "d": "-Infinity"});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&quoted(python)).unwrap(), want);
    }
}
