//! Activations kept for the backward pass.

use crate::experts::SavedExperts;
use crate::latent::SavedLatent;
use fathom_kernels::backend::{Backend, Cpu};

/// Activations of the forward pass that the backward pass of a layer needs. Those that the architecture
/// does not use are absent.
pub struct SavedActivations<B: Backend = Cpu> {
    /// Input of the norm before attention, `[rows, d]`.
    pub(crate) attn_in: Option<B::Buffer>,
    /// What latent attention needs.
    pub(crate) latent: Option<SavedLatent<B>>,
    /// Queries, keys and values as their norms read them, `[rows, q + 2 kv]`.
    pub(crate) raw_qkv: Option<B::Buffer>,
    /// Queries, keys and values as attention reads them, `[rows, q + 2 kv]`.
    pub(crate) qkv: Option<B::Buffer>,
    /// What the recurrence beside attention reads, `[rows, width]`.
    pub(crate) beside: Option<B::Buffer>,
    /// The gate of attention and what it multiplies, `[rows, 2 q]`.
    pub(crate) attn_gate: Option<B::Buffer>,
    /// Output of attention before its norm, `[rows, d]`.
    pub(crate) raw_attn: Option<B::Buffer>,
    /// Input of the norm before the MLP, `[rows, d]`.
    pub(crate) mlp_in: Option<B::Buffer>,
    /// Input of the activation, `[rows, 2 f]` or `[rows, f]`.
    pub(crate) wide: Option<B::Buffer>,
    /// In the place of `wide` or beside it, what a mixture of experts needs.
    pub(crate) experts: Option<SavedExperts<B>>,
    /// Output of a dense MLP beside experts before its norm, `[rows, d]`.
    pub(crate) raw_dense: Option<B::Buffer>,
    /// Output of those experts before their norm, `[rows, d]`.
    pub(crate) raw_experts: Option<B::Buffer>,
    /// The gate of token inputs with these, `[rows, 2 p]`, and what they add before its norm, `[rows, d]`.
    pub(crate) token_gate: Option<[B::Buffer; 2]>,
    /// Output of the MLP before its norm, `[rows, d]`.
    pub(crate) raw_mlp: Option<B::Buffer>,
    /// The stream after attention before its norm, `[rows, d]`.
    pub(crate) raw_mid: Option<B::Buffer>,
    /// The stream after the MLP before its norm, `[rows, d]`.
    pub(crate) raw_out: Option<B::Buffer>,
}

impl<B: Backend> Default for SavedActivations<B> {
    fn default() -> Self {
        Self {
            attn_in: None,
            latent: None,
            raw_qkv: None,
            qkv: None,
            beside: None,
            attn_gate: None,
            raw_attn: None,
            mlp_in: None,
            wide: None,
            experts: None,
            raw_dense: None,
            raw_experts: None,
            token_gate: None,
            raw_mlp: None,
            raw_mid: None,
            raw_out: None,
        }
    }
}
