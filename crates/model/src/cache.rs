//! The KV cache.

/// Keys and values of consecutive positions in one layer, keys after the rotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KvCache {
    /// `[positions, kv_width]`.
    pub keys: Vec<f32>,
    /// `[positions, kv_width]`.
    pub values: Vec<f32>,
}
