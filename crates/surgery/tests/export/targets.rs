//! Targets that are not free, sources that are damaged, exports that end early.

use crate::support::*;
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::ExportFormat::{Gguf, Hf};
use fathom_surgery::export::{Export, ExportError, export};
use std::cell::Cell;
use std::ops::ControlFlow;

fn removal(list: &str) -> Removal {
    Removal::parse(SkipPart::Layer, list).unwrap()
}

#[track_caller]
fn refused(source: &str, removal: &Removal, out: &std::path::Path, sentence: &str) {
    let error = try_export(&fixtures().join(source), removal, None, Hf, out).unwrap_err().to_string();
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let place = Place::new();
    let (folder, file) = (place.path().join("folder"), place.path().join("file"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mine"), "mine").unwrap();
    std::fs::write(&file, "mine").unwrap();
    refused("llama2", &removal("1"), &folder, "the folder is not empty");
    refused("llama2", &removal("1"), &file, "there is a file of that name");
    refused("llama2", &removal("1"), &place.path().join("a.gguf"), "an export is a folder");
    assert_eq!(std::fs::read_to_string(folder.join("mine")).unwrap(), "mine");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(place.names().len(), 2);
}

#[test]
fn an_empty_folder_is_a_target() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("pruned")).unwrap();
    exported(&fixtures().join("llama2"), &removal("1"), Hf, &place);
}

#[test]
fn impossible_removals_are_refused() {
    let place = Place::new();
    let out = place.path().join("out");
    refused("llama2", &removal("3"), &out, "layers 0 to 2, not 3");
    refused("llama2", &removal("0..3"), &out, "all 3 layers");
    for unit in [SkipPart::Attn, SkipPart::Mlp] {
        let removal = Removal::parse(unit, "1").unwrap();
        refused("llama2", &removal, &out, "no standard configuration");
    }
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_damaged_source_leaves_nothing() {
    let place = Place::new();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let bytes = std::fs::read(fixtures().join("llama2").join(file)).unwrap();
        let end = if file == "model.safetensors" { bytes.len() - 100 } else { bytes.len() };
        std::fs::write(source.join(file), &bytes[..end]).unwrap();
    }
    let error = try_export(&source, &removal("1"), None, Hf, &place.path().join("out")).unwrap_err();
    assert!(matches!(error, ExportError::Model(_)), "{error}");
    assert_eq!(place.names(), ["source"]);
}

/// NaN in a converted tensor is found while the types are chosen.
#[test]
fn a_source_with_nan_leaves_nothing() {
    let place = Place::new();
    let bytes = std::fs::read(fixtures().join("gguf/qwen2.gguf")).unwrap();
    let header = fathom_model::gguf::Header::parse("x".as_ref(), &bytes).unwrap();
    let tensor = header.tensors.iter().find(|t| t.name == "blk.0.ffn_up.weight").unwrap();
    let mut damaged = bytes.clone();
    damaged[tensor.offset..tensor.offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let source = place.path().join("nan.gguf");
    std::fs::write(&source, damaged).unwrap();
    let error = try_export(&source, &removal("1"), None, Hf, &place.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("'blk.0.ffn_up.weight' holds NaN"), "{error}");
    assert_eq!(place.names(), ["nan.gguf"]);
}

#[test]
fn progress_counts_to_the_end_and_ends_an_export() {
    for (source, format) in [("llama2", Hf), ("gguf/qwen2.gguf", Gguf), ("gguf/gemma3.gguf", Hf)] {
        let place = Place::new();
        let (source, removal) = (fixtures().join(source), removal("1"));
        let out = place.path().join("pruned");
        let e =
            Export { source: &source, removal: &removal, replacement: None, format, out: &out, card: "card" };
        let (last, all) = (Cell::new(0), Cell::new(0));
        let done = export(&e, &|written, of| {
            assert!(last.replace(written) <= written);
            all.set(of);
            ControlFlow::Continue(())
        });
        assert_eq!((last.get(), all.get()), (done.as_ref().unwrap().bytes, done.unwrap().bytes));
        std::fs::remove_dir_all(&out).unwrap();
        for share in [0, 1, 2, 3] {
            let stop = |written: u64, of: u64| match written >= of * share / 3 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            assert!(matches!(export(&e, &stop), Err(ExportError::Cancelled)));
            assert_eq!(place.names(), [""; 0]);
        }
    }
}

/// Removing layers of a Gemma of 46 or 62 layers would change the scale of attention, which files do not state.
#[test]
fn a_setting_that_would_change_is_refused() {
    use fathom_model::gguf::Header;
    let place = Place::new();
    let bytes = std::fs::read(fixtures().join("gguf/gemma2.gguf")).unwrap();
    let header = Header::parse("x".as_ref(), &bytes).unwrap();
    let source = place.path().join("wide.gguf");
    std::fs::write(&source, deep(&bytes, &header, 46)).unwrap();
    let error = try_export(&source, &removal("3"), None, Gguf, &place.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("scales attention in another way"), "{error}");
    // A folder states the scale.
    let out = Place::new();
    let done = exported(&source, &removal("3"), Hf, &out);
    assert_eq!(open(&done.model).config().attention_scale, open(&source).config().attention_scale);
}

/// A file with the first layer's tensors in each of `depth` layers.
fn deep(bytes: &[u8], header: &fathom_model::gguf::Header, depth: u32) -> Vec<u8> {
    let string = |to: &mut Vec<u8>, text: &str| {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    };
    let (mut list, mut data, mut count) = (Vec::new(), Vec::new(), 0u64);
    for tensor in &header.tensors {
        let own = tensor.name.strip_prefix("blk.0.");
        if tensor.name.starts_with("blk.") && own.is_none() {
            continue;
        }
        let names: Vec<String> = match own {
            Some(own) => (0..depth).map(|layer| format!("blk.{layer}.{own}")).collect(),
            None => vec![tensor.name.clone()],
        };
        let size = if tensor.kind == 0 { 4 } else { 2 };
        let len = tensor.shape.iter().product::<usize>() * size;
        for name in names {
            string(&mut list, &name);
            list.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|d| list.extend((*d as u64).to_le_bytes()));
            list.extend(tensor.kind.to_le_bytes());
            list.extend((data.len() as u64).to_le_bytes());
            data.extend(&bytes[tensor.offset..tensor.offset + len]);
            data.resize(data.len().next_multiple_of(32), 0);
            count += 1;
        }
    }
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(count.to_le_bytes());
    out.extend((header.entries.len() as u64).to_le_bytes());
    for entry in &header.entries {
        string(&mut out, &entry.key);
        match entry.key.as_str() {
            "gemma2.block_count" => out.extend([4u32.to_le_bytes(), depth.to_le_bytes()].concat()),
            _ => out.extend(&bytes[entry.bytes.clone()]),
        }
    }
    out.extend(list);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
