//! FASTA files: what is read of them, and what is refused.

use fathom_data::{DataError, Options, PromptSet, load};
use std::io::Write;

fn read(name: &str, content: &[u8]) -> Result<PromptSet, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    load(path.to_str().unwrap(), &Options::default())
}

const SEQUENCES: &[u8] =
    b"; a comment\n>sp|P1 first of two\nmkta\n YIA-K*\n\n>second\r\nMKXB\r\n>none\n>stop\n*\n";

#[test]
fn a_record_is_a_prompt() {
    let set = read("some.faa", SEQUENCES).unwrap();
    let found: Vec<_> = set.prompts.iter().map(|p| (p.id.as_str(), p.text.as_str())).collect();
    assert_eq!(found, [("sp|P1", "MKTAYIA-K"), ("second", "MKXB")]);
    assert_eq!((set.id.as_str(), set.empty), ("some", 2));
}

#[test]
fn gzip_is_read_in_members() {
    let mut bytes = Vec::new();
    for part in [&SEQUENCES[..30], &SEQUENCES[30..]] {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(part).unwrap();
        bytes.extend(writer.finish().unwrap());
    }
    let set = read("some.fasta.gz", &bytes).unwrap();
    assert_eq!(set.prompts, read("some.fa", SEQUENCES).unwrap().prompts);
    assert_eq!(set.id, "some");
    assert!(read("some.fasta.gz", &bytes[..40]).is_err());
}

#[test]
fn what_is_no_sequence_is_refused() {
    for (content, says) in [
        (&b"MKTA\n"[..], "line 1: residues before the first header"),
        (b">a\nMK1A\n", "line 2: '1' is not a residue"),
        (b">a\nMK\n>a\nMK\n", "a"),
        (b"", "no prompts"),
        (b">a\n>b\n*\n", "empty"),
    ] {
        let error = read("some.fasta", content).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Three kinds, each of the twenty residues.
#[test]
fn proteins_are_built_in() {
    let set = load("proteins", &Options::default()).unwrap();
    for kind in ["short", "long", "low-complexity"] {
        assert!(set.prompts.iter().any(|p| p.group.as_deref() == Some(kind)), "{kind}");
    }
    assert!(set.prompts.iter().all(|p| p.text.chars().all(|c| "ACDEFGHIKLMNPQRSTVWY".contains(c))));
    let length = |id: &str| set.prompts.iter().find(|p| p.id == id).unwrap().text.len();
    assert_eq!((length("ubiquitin-P0CG48"), length("serum-albumin-P02768")), (76, 609));
}
