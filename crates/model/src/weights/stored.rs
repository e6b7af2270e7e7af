//! Tensors as they are stored, whatever their type: for copying them.

use super::Weights;
use super::store::StoredType;

/// A tensor as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// The name.
    pub name: &'a str,
    /// The shape, slowest axis first.
    pub shape: &'a [usize],
    /// The type of its elements.
    pub kind: StoredType,
    /// Its bytes. Where Fathom does not know the size of a GGUF type, padding may follow.
    pub bytes: &'a [u8],
}

impl Weights {
    /// All tensors, those of types that are not read included, in the order in which they lie in the files.
    pub fn stored(&self) -> Vec<StoredTensor<'_>> {
        let inner = &*self.0;
        let known = inner.entries.iter().map(|(name, e)| (name, e.file, e.stored, &e.shape, &e.bytes));
        let others =
            inner.unsupported.iter().filter_map(|(name, tensor)| Some((name, tensor.place.as_ref()?)));
        let others = others.map(|(name, p)| (name, p.file, p.stored, &p.shape, &p.bytes));
        let mut all: Vec<_> = known.chain(others).collect();
        all.sort_unstable_by_key(|(name, file, _, _, bytes)| (*file, bytes.start, *name));
        all.into_iter()
            .map(|(name, file, kind, shape, bytes)| StoredTensor {
                name,
                shape,
                kind,
                bytes: &inner.files[file].map[bytes.clone()],
            })
            .collect()
    }

    /// The names of tensors whose bytes cannot be told, because the type is unknown or they are not contiguous.
    pub fn not_located(&self) -> Vec<&str> {
        let lost = self.0.unsupported.iter().filter(|(_, tensor)| tensor.place.is_none());
        lost.map(|(name, _)| name.as_str()).collect()
    }
}
