//! Activations kept for the backward pass.

/// Activations of the forward pass that the backward pass of a layer needs. Fields that the architecture
/// does not use stay empty.
#[derive(Clone, Debug, Default)]
pub struct SavedActivations {
    /// Input of the norm before attention, `[rows, d]`.
    pub(crate) attn_in: Vec<f32>,
    /// Queries, keys and values before their norms, `[rows, q + 2 kv]`.
    pub(crate) raw_qkv: Vec<f32>,
    /// Queries, keys and values as attention reads them, `[rows, q + 2 kv]`.
    pub(crate) qkv: Vec<f32>,
    /// Output of attention before its norm, `[rows, d]`.
    pub(crate) raw_attn: Vec<f32>,
    /// Input of the norm before the MLP, `[rows, d]`.
    pub(crate) mlp_in: Vec<f32>,
    /// Input of the activation, `[rows, 2 f]` or `[rows, f]`.
    pub(crate) wide: Vec<f32>,
    /// Output of the MLP before its norm, `[rows, d]`.
    pub(crate) raw_mlp: Vec<f32>,
}

/// Appends `activations` to `place`, if the backward pass needs them.
pub(crate) fn keep(place: Option<&mut Vec<f32>>, needed: bool, activations: &[f32]) {
    if let (true, Some(place)) = (needed, place) {
        place.extend_from_slice(activations);
    }
}
