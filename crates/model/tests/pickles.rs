//! PyTorch's files: tensors that are parts of storages, and files made to do harm.

use fathom_model::weights::Weights;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pickles").join(name)
}

/// Opens a file as the weights of a folder.
fn open(bytes: &[u8]) -> Result<Weights, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), bytes).unwrap();
    Weights::open_folder(folder.path()).map_err(|e| e.to_string())
}

/// The offset of a slice was scaled by the size of its elements twice.
#[test]
fn slices_of_storages_begin_where_they_should() {
    let weights = open(&std::fs::read(fixture("views.bin")).unwrap()).unwrap();
    let views = std::fs::read(fixture("views.json")).unwrap();
    let views: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&views).unwrap();
    assert_eq!(weights.names().len(), views.len(), "the mask is not a weight");
    for (name, view) in views {
        let shape: Vec<usize> = serde_json::from_value(view["shape"].clone()).unwrap();
        let values: Vec<f32> = serde_json::from_value(view["values"].clone()).unwrap();
        let rows = if shape.len() > 1 { shape[0] } else { 1 };
        let mut read = vec![f32::NAN; values.len()];
        weights.tensor(&name, &shape).unwrap().read(0..rows, &mut read).unwrap();
        assert_eq!(read, values, "{name}");
    }
}

#[test]
fn turned_tensors_are_refused() {
    let error = open(&std::fs::read(fixture("turned.bin")).unwrap()).err().unwrap();
    assert!(error.contains("'turned' is not contiguous; save it with .contiguous()"), "{error}");
}

/// A zip archive of stored entries, as `torch.save` writes it; checksums are left out.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for size in [data.len(), data.len()] {
            about.extend((size as u32).to_le_bytes());
        }
        about.extend([name.len() as u8, 0, 0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend((zip.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        zip.extend(b"PK\x03\x04");
        zip.extend(about);
        zip.extend(name.as_bytes());
        zip.extend(*data);
    }
    let (start, count) = (zip.len() as u32, entries.len() as u8);
    zip.extend(&directory);
    zip.extend([b'P', b'K', 5, 6, 0, 0, 0, 0, count, 0, count, 0]);
    zip.extend((directory.len() as u32).to_le_bytes());
    zip.extend(start.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

#[test]
fn hostile_pickles_are_errors() {
    let nested = [b"N".as_slice(), &[0x85; 4_000_000], b"."].concat();
    let doubling = [b"N".as_slice(), &b"q\0h\0\x86".repeat(60), b"."].concat();
    let long = b"X\xff\xff\xff\xff.";
    for (pickle, says) in [
        (&nested[..], "not hold a state dictionary"),
        (&doubling, "not hold a state dictionary"),
        (long, "damaged"),
    ] {
        let error = open(&archive(&[("a/data.pkl", pickle)])).err().unwrap();
        assert!(error.contains(says) && error.contains("pytorch_model.bin"), "{error}");
    }
    let short = b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n)Rs.";
    assert!(open(&archive(&[("a/data.pkl", short)])).unwrap().names().is_empty());
    assert!(open(&archive(&[("a/b", b"")])).err().unwrap().contains("no data.pkl"));
}
