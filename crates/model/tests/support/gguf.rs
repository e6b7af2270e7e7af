//! Writing GGUF files.

use std::path::Path;

/// A GGUF file in the making.
#[derive(Clone, Default)]
pub(crate) struct File {
    metadata: Vec<u8>,
    keys: u64,
    list: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

impl File {
    fn string(to: &mut Vec<u8>, text: &str) {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    }

    pub(crate) fn key(&mut self, key: &str, kind: u32, value: impl FnOnce(&mut Vec<u8>)) {
        Self::string(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        value(&mut self.metadata);
        self.keys += 1;
    }

    pub(crate) fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4, |to| to.extend(value.to_le_bytes()));
    }

    pub(crate) fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6, |to| to.extend(value.to_le_bytes()));
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7, |to| to.push(value.into()));
    }

    pub(crate) fn numbers(&mut self, key: &str, values: &[u32]) {
        self.key(key, 9, |to| {
            to.extend(4u32.to_le_bytes());
            to.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| to.extend(value.to_le_bytes()));
        });
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8, |to| Self::string(to, value));
    }

    pub(crate) fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key, 9, |to| {
            to.extend(8u32.to_le_bytes());
            to.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| Self::string(to, value));
        });
    }

    /// A tensor of this shape, slowest axis first, and of the type to which ggml gives this number.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) {
        Self::string(&mut self.list, name);
        self.list.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|d| self.list.extend((*d as u64).to_le_bytes()));
        self.list.extend(kind.to_le_bytes());
        self.list.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors += 1;
    }

    pub(crate) fn write(&self, path: &Path) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.keys.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.list);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        std::fs::write(path, bytes).unwrap();
    }
}
