//! GGUF files.

use crate::support::*;
use fathom_model::gguf::{Header, Value};
use fathom_model::source::Form;
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::ExportFormat::Gguf;
use std::path::{Path, PathBuf};

#[test]
fn every_file_gives_the_logits_of_the_run_without_the_layers() {
    let can_be_cut = |file: &&PathBuf| {
        !has_implied_rotation(file) && interval(file).is_none() && !multiplies_the_stream(file)
    };
    for file in ggufs().iter().filter(can_be_cut) {
        check(file, Gguf);
    }
}

/// Whether layers multiply the stream by numbers that those after them count on.
fn multiplies_the_stream(file: &Path) -> bool {
    file.file_stem().unwrap().to_str().unwrap().starts_with("gemma4")
}

/// Every how many layers one has attention, where the file says it so.
fn interval(file: &Path) -> Option<usize> {
    let header = header(file);
    let keys = header.metadata.keys().find(|key| key.ends_with(".full_attention_interval"));
    header.get(keys?)?.as_usize()
}

#[test]
fn layers_whose_number_tells_whether_they_have_attention_stay_where_they_are() {
    let files: Vec<PathBuf> = ggufs().into_iter().filter(|file| interval(file).is_some()).collect();
    assert!(files.len() > 2);
    for file in files {
        let place = Place::new();
        let out = place.path().join("out");
        let first = Removal::new(SkipPart::Layer, [0]).unwrap();
        let error = try_export(&file, &first, None, Gguf, &out).err().unwrap().to_string();
        assert!(error.contains("full_attention_interval'"), "{error}");
        assert!(place.names().is_empty());
        let (depth, last) = (open(&file).config().depth(), interval(&file).unwrap());
        let whole = Removal::new(SkipPart::Layer, last..depth).unwrap();
        if depth > last {
            let kept: Vec<usize> = (0..last).collect();
            let pruned = load(&exported(&file, &whole, Gguf, &place).model);
            let model = load(&file);
            let tokens = tokens(&model);
            assert!(logits(&pruned, &kept, &tokens) == logits(&model, &kept, &tokens), "{}", file.display());
        }
    }
}

/// Whether the file's architecture says by the number of a layer whether it rotates.
fn has_implied_rotation(file: &Path) -> bool {
    ["smollm3", "llama4"].contains(&file.file_stem().unwrap().to_str().unwrap())
}

#[test]
fn layers_whose_number_tells_whether_they_rotate_stay_where_they_are() {
    for file in ggufs().into_iter().filter(|file| has_implied_rotation(file)) {
        let place = Place::new();
        let out = place.path().join("out");
        let first = Removal::new(SkipPart::Layer, [0]).unwrap();
        let error = try_export(&file, &first, None, Gguf, &out).err().unwrap().to_string();
        assert!(error.contains("'layers'") || error.contains("the number of a layer"), "{error}");
        let last = Removal::new(SkipPart::Layer, [3]).unwrap();
        assert!(try_export(&file, &last, None, Gguf, &out).is_ok());
    }
}

fn header(file: &Path) -> Header {
    Header::parse(file, &std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn only_what_changes_is_changed() {
    let source = fixtures().join("gguf/mistral.gguf");
    let place = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Gguf, &place);
    assert_eq!(done.model, place.path().join("pruned/pruned.gguf"));
    let (before, after) = (header(&source), header(&done.model));
    let keys = |h: &Header| h.entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&before), keys(&after));
    for (key, value) in &before.metadata {
        let wanted = if key == "llama.block_count" { &Value::Unsigned(2) } else { value };
        assert_eq!(after.get(key), Some(wanted), "{key}");
    }
    let (before, after) = (open(&source), open(&done.model));
    let old = before.weights().stored();
    for tensor in after.weights().stored() {
        let name = tensor.name.replace("blk.1.", "blk.2.");
        let old = old.iter().find(|old| old.name == name).unwrap();
        assert_eq!((old.kind, old.shape, old.bytes), (tensor.kind, tensor.shape, tensor.bytes), "{name}");
    }
}

/// Writes a key into a copy of a file.
fn with_key(source: &Path, to: PathBuf, key: &str, typed: &[u8]) -> PathBuf {
    let bytes = std::fs::read(source).unwrap();
    let header = header(source);
    let infos = header.entries.last().unwrap().bytes.end;
    let first = header.tensors.iter().map(|t| t.offset).min().unwrap();
    let mut out = bytes[..16].to_vec();
    out.extend((header.entries.len() as u64 + 1).to_le_bytes());
    out.extend(&bytes[24..infos]);
    out.extend((key.len() as u64).to_le_bytes());
    out.extend(key.as_bytes());
    out.extend(typed);
    let list_end = infos + list_len(&header);
    out.extend(&bytes[infos..list_end]);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(&bytes[first..]);
    std::fs::write(&to, out).unwrap();
    to
}

/// Bytes of the list of tensors.
fn list_len(header: &Header) -> usize {
    header.tensors.iter().map(|t| 8 + t.name.len() + 4 + 8 * t.shape.len() + 4 + 8).sum()
}

fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), elements].concat()
}

fn marks(file: &Path, key: &str) -> Option<Vec<bool>> {
    let header = header(file);
    let Some(Value::Numbers(marks)) = header.get(key) else { return None };
    Some(marks.iter().map(|mark| mark.as_bool().unwrap()).collect())
}

#[test]
fn an_implied_pattern_of_windows_is_written_out() {
    let source = fixtures().join("gguf/gemma3.gguf");
    let key = "gemma3.attention.sliding_window_pattern";
    let place = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Gguf, &place);
    assert_eq!(marks(&done.model, key).unwrap(), [true, true, true, true, false, true]);
    assert!(done.warnings[0].contains(key), "{:?}", done.warnings);
    // The last layer leaves the pattern as it is.
    let place = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "6").unwrap(), Gguf, &place);
    assert_eq!((marks(&done.model, key), done.warnings), (None, vec![]));
}

#[test]
fn a_stated_pattern_of_windows_is_cut() {
    let place = Place::new();
    let key = "gemma3.attention.sliding_window_pattern";
    let source = fixtures().join("gguf/gemma3.gguf");
    let marked = array(7, 7, &[0, 1, 1, 0, 1, 1, 0]);
    let file = with_key(&source, place.path().join("marked.gguf"), key, &marked);
    check(&file, Gguf);
    let out = Place::new();
    let done = exported(&file, &Removal::parse(SkipPart::Layer, "1..4").unwrap(), Gguf, &out);
    assert_eq!(marks(&done.model, key).unwrap(), [false, true, true, false]);
    // A period becomes marks where it no longer holds.
    let file = with_key(
        &source,
        place.path().join("period.gguf"),
        key,
        &[&4u32.to_le_bytes()[..], &3u32.to_le_bytes()].concat(),
    );
    check(&file, Gguf);
    let out = Place::new();
    let done = exported(&file, &Removal::parse(SkipPart::Layer, "0").unwrap(), Gguf, &out);
    assert_eq!(marks(&done.model, key).unwrap(), [true, false, true, true, false, true]);
}

#[test]
fn arrays_per_layer_are_cut_and_unknown_ones_named() {
    let place = Place::new();
    let numbers: Vec<u8> = [5u32, 6, 7].iter().flat_map(|n| n.to_le_bytes()).collect();
    let file = fixtures().join("gguf/llama3.gguf");
    let file = with_key(&file, place.path().join("a.gguf"), "llama.made_up", &array(4, 3, &numbers));
    let heads: Vec<u8> = [2u32, 2, 2].iter().flat_map(|n| n.to_le_bytes()).collect();
    let file =
        with_key(&file, place.path().join("b.gguf"), "llama.attention.key_length_swa", &array(4, 3, &heads));
    let file = with_key(&file, place.path().join("c.gguf"), "general.tags", &array(4, 3, &numbers));
    let out = Place::new();
    let done = exported(&file, &Removal::parse(SkipPart::Layer, "0").unwrap(), Gguf, &out);
    let header = header(&done.model);
    let read = |key: &str| match header.get(key) {
        Some(Value::Numbers(n)) => n.iter().map(|v| v.as_usize().unwrap()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!((read("llama.made_up"), read("general.tags")), (vec![6, 7], vec![5, 6, 7]));
    assert!(done.warnings.iter().any(|w| w.contains("'llama.made_up'")), "{:?}", done.warnings);
}

#[test]
fn parts_are_joined_and_alignment_kept() {
    let place = Place::new();
    let source = fixtures().join("gguf/qwen2.gguf");
    let parts = split(&source, &place);
    check(&parts, Gguf);
    let out = Place::new();
    let done = exported(&parts, &Removal::parse(SkipPart::Layer, "1").unwrap(), Gguf, &out);
    let header = header(&done.model);
    assert!(header.entries.iter().all(|entry| !entry.key.starts_with("split.")));
    assert_eq!(header.get("general.alignment"), Some(&Value::Unsigned(64)));
    assert!(header.tensors.iter().all(|tensor| tensor.offset % 64 == 0));
}

/// The tensors of a file in two parts, aligned to 64 bytes; the path of the second part.
fn split(source: &Path, place: &Place) -> PathBuf {
    let (bytes, all) = (std::fs::read(source).unwrap(), header(source));
    let end = all.entries.last().unwrap().bytes.end;
    let cut = all.tensors.len() / 2;
    let string = |to: &mut Vec<u8>, text: &str| {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    };
    let mut last = PathBuf::new();
    for (no, tensors) in [&all.tensors[..cut], &all.tensors[cut..]].into_iter().enumerate() {
        let keys = if no == 0 { all.entries.len() as u64 } else { 0 };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((keys + 3).to_le_bytes());
        out.extend(if no == 0 { &bytes[24..end] } else { &[] });
        for (key, value) in [("split.no", no as u32), ("split.count", 2), ("general.alignment", 64)] {
            string(&mut out, key);
            out.extend(4u32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        let mut data = Vec::new();
        for tensor in tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            // All tensors of the file are of 32 bits.
            let len = tensor.shape.iter().product::<usize>() * 4;
            data.extend(&bytes[tensor.offset..tensor.offset + len]);
            data.resize(data.len().next_multiple_of(64), 0);
        }
        out.resize(out.len().next_multiple_of(64), 0);
        out.extend(data);
        last = place.path().join(format!("m-{:05}-of-00002.gguf", no + 1));
        std::fs::write(&last, out).unwrap();
    }
    last
}

#[test]
fn what_fathom_reads_as_gguf_stays_gguf() {
    let place = Place::new();
    let source = fixtures().join("gguf/qwen2.gguf");
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Gguf, &place);
    assert!(matches!(open(&done.model).form(), Form::Gguf { .. }));
    // The folder opens as the one model in it.
    assert_eq!(open(&place.path().join("pruned")).config().depth(), 2);
    let folder = try_export(
        &fixtures().join("qwen2"),
        &Removal::parse(SkipPart::Layer, "1").unwrap(),
        None,
        Gguf,
        &place.path().join("no"),
    );
    assert!(folder.unwrap_err().to_string().contains("convert_hf_to_gguf.py"));
}
