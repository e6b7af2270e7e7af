//! Exports whose files fail, and small shards.

use super::stage::{self, Sink};
use super::{Export, ExportError, ExportFormat, stage_to};
use crate::Removal;
use fathom_model::source::Checkpoint;
use fathom_results::SkipPart;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A disk that takes some more bytes.
struct Disk {
    file: File,
    free: Rc<RefCell<usize>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(*self.free.borrow());
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.free.borrow_mut() -= taken;
        self.file.write(&bytes[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for Disk {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_full_disk_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
    let go = |_: u64, _: u64| ControlFlow::Continue(());
    for (source, format) in [("llama2", ExportFormat::Hf), ("gguf/qwen2.gguf", ExportFormat::Gguf)] {
        let source = fixture(source);
        let e =
            Export { source: &source, removal: &removal, replacement: None, format, out: &out, card: "card" };
        let whole = stage_to(&e, u64::MAX, &stage::create, &go).unwrap().publish().unwrap().bytes;
        std::fs::remove_dir_all(&out).unwrap();
        for free in [0, 1, whole / 2, whole - 1] {
            let free = Rc::new(RefCell::new(free as usize));
            let create = |path: &Path| -> io::Result<Box<dyn Sink>> {
                Ok(Box::new(Disk { file: File::create_new(path)?, free: free.clone() }))
            };
            let error = stage_to(&e, u64::MAX, &create, &go).unwrap_err();
            assert!(
                matches!(&error, ExportError::Write { path, source }
                if path.starts_with(&out) && source.kind() == io::ErrorKind::StorageFull),
                "{error}"
            );
            assert_eq!(names(place.path()), [""; 0].map(PathBuf::from));
        }
    }
}

#[test]
fn shards_have_an_index_and_open_as_one_model() {
    let place = tempfile::tempdir().unwrap();
    let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
    for (i, source) in ["llama2", "gguf/gemma3.gguf"].into_iter().enumerate() {
        let (source, out) = (fixture(source), place.path().join(i.to_string()));
        let format = ExportFormat::Hf;
        let e =
            Export { source: &source, removal: &removal, replacement: None, format, out: &out, card: "card" };
        stage_to(&e, 20_000, &stage::create, &|_, _| ControlFlow::Continue(())).unwrap().publish().unwrap();
        let index = std::fs::read(out.join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let opened = Checkpoint::open(&out).unwrap();
        let stored = opened.weights().stored();
        let bytes: usize = stored.iter().map(|tensor| tensor.bytes.len()).sum();
        assert_eq!(index["metadata"]["total_size"], bytes);
        assert_eq!(index["weight_map"].as_object().unwrap().len(), stored.len());
        let shards = opened.weights().paths().len();
        assert!(shards > 2, "{shards}");
        let last = format!("model-{shards:05}-of-{shards:05}.safetensors");
        assert!(out.join(last).is_file());
    }
}
