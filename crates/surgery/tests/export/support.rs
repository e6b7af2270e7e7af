//! Fixtures, the run that leaves layers out, and exports.

use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Buffers, Dtype, Model, Run};
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::{Export, ExportError, ExportFormat, Exported, Replacement, export};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The folders of causal models of the fixtures.
pub(crate) fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").is_file())
        // The loss of a removal is that of the next token.
        .filter(|path| open(path).config().is_causal())
        .filter(|path| open(path).fixed_layers().is_none())
        .collect();
    found.sort();
    assert!(found.len() > 20, "{} folders", found.len());
    found
}

/// The models among the GGUF files of the fixtures.
pub(crate) fn ggufs() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(fixtures().join("gguf"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        // One tensor of each type, not a model.
        .filter(|path| path.file_stem().unwrap() != "quants")
        .collect();
    found.sort();
    assert!(found.len() >= 12, "{} files", found.len());
    found
}

pub(crate) fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn load(path: &Path) -> Model {
    open(path).load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{}: {e}", path.display())).model
}

/// A text longer than the windows of all fixtures.
pub(crate) fn tokens(model: &Model) -> Vec<u32> {
    let vocab = model.config().vocab as u32;
    (0..80u32).map(|i| (i * i * 7 + i * 13 + 5) % vocab.min(300)).collect()
}

/// The logits of a run that goes through some layers only, in order; as bits.
pub(crate) fn logits(model: &Model, layers: &[usize], tokens: &[u32]) -> Vec<u32> {
    let on = model.backend();
    use fathom_model::Backend;
    let batch =
        model.batch(vec![Run { rows: 0..tokens.len(), first: 0, length: tokens.len(), past: vec![] }]);
    let mut b = Buffers::new(model);
    let mut h = on.buffer_of(&model.embed(tokens, 0).unwrap());
    let (mut mid, mut out) = (on.empty(), on.empty());
    for &l in layers {
        model.attention(l, &batch, None, &h, &mut b);
        on.add(&h, &b.attn_out, &mut mid);
        model.mlp(l, if model.config().parallel { &h } else { &mid }, &mut b);
        on.add(&mid, &b.mlp_out, &mut out);
        std::mem::swap(&mut h, &mut out);
    }
    let mut logits = Buffer::default();
    model.head(&h, &mut logits);
    logits.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn all_layers(model: &Model) -> Vec<usize> {
    (0..model.config().depth()).collect()
}

/// Removals of a model of some layers: one in the middle, a block, the first, the last, both ends.
pub(crate) fn removals(depth: usize) -> Vec<Removal> {
    let lists = [vec![depth / 2], (1..depth - 1).collect(), vec![0], vec![depth - 1], vec![0, depth - 1]];
    lists
        .into_iter()
        .filter(|layers| !layers.is_empty() && layers.len() < depth)
        .map(|layers| Removal::new(SkipPart::Layer, layers).unwrap())
        .collect()
}

/// A folder for exports.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The names in it, hidden ones included.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

pub(crate) fn try_export(
    source: &Path,
    removal: &Removal,
    replacement: Option<&Replacement>,
    format: ExportFormat,
    out: &Path,
) -> Result<Exported, ExportError> {
    let e = Export { source, removal, replacement, format, out, card: "# A card\n" };
    export(&e, &|_, _| ControlFlow::Continue(()))
}

/// Exports, checks what every export must hold, and returns it.
#[track_caller]
pub(crate) fn exported(source: &Path, removal: &Removal, format: ExportFormat, place: &Place) -> Exported {
    let out = place.path().join("pruned");
    let done = try_export(source, removal, None, format, &out)
        .unwrap_or_else(|e| panic!("{} without {removal}: {e}", source.display()));
    assert_eq!(place.names(), ["pruned"], "nothing else may be left");
    assert_eq!(std::fs::read_to_string(out.join("README.md")).unwrap(), "# A card\n");
    let sizes: u64 = done.files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    assert_eq!(sizes, done.bytes);
    let count = std::fs::read_dir(&out).unwrap().count();
    assert_eq!(count, done.files.len());
    done
}

/// Every removal of [`removals`]: the export gives the logits of the run that leaves the layers out, bit for bit.
pub(crate) fn check(source: &Path, format: ExportFormat) {
    let model = load(source);
    let tokens = tokens(&model);
    let depth = model.config().depth();
    for removal in removals(depth) {
        let place = Place::new();
        let done = exported(source, &removal, format, &place);
        let pruned = load(&done.model);
        let kept = removal.kept(depth);
        let layers: Vec<_> = kept.iter().map(|l| model.config().layers[*l]).collect();
        assert_eq!(pruned.config().layers, layers, "{} without {removal}", source.display());
        let want = logits(&model, &kept, &tokens);
        let got = logits(&pruned, &all_layers(&pruned), &tokens);
        assert!(got == want, "{} without {removal}: logits differ", source.display());
        assert!(want != logits(&model, &all_layers(&model), &tokens), "removing changes logits");
    }
}
