//! Changed copies of the fixtures' model folders.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A tensor in memory.
#[derive(Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn of(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn floats(&self) -> Vec<f32> {
        self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// A copy of a model folder.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    pub(crate) tensors: Tensors,
}

impl Folder {
    /// Copies the configuration, the tokenizer and the weights (in one safetensors file) of a fixture.
    pub(crate) fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = fixtures().join(name);
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors.tensors().into_iter().map(|(name, view)| {
            let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name, Tensor { dtype, shape, bytes })
        });
        let this = Self { tensors: tensors.collect(), folder };
        this.write_weights();
        this
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the weights as they are now.
    pub(crate) fn write_weights(&self) {
        self.write_shard("model.safetensors", &self.tensors);
    }

    pub(crate) fn write_shard(&self, file: &str, tensors: &Tensors) {
        let views = tensors
            .iter()
            .map(|(name, t)| (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        std::fs::write(self.path().join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Gives every tensor another name.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> String) {
        self.tensors = std::mem::take(&mut self.tensors).into_iter().map(|(n, t)| (name(&n), t)).collect();
        self.write_weights();
    }

    /// Changes a JSON file.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(file);
        let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    }

    /// Sets fields of config.json.
    pub(crate) fn set(&self, fields: Value) {
        self.edit("config.json", |config| {
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
    }
}
