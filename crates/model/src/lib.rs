//! Open language models with every layer in view.
//!
//! [`source::locate`] finds a model; [`source::Checkpoint`] reads its files into a [`Model`] and a
//! [`tokenizer::Tokenizer`]. The forward pass consists of steps ([`Model::embed`], [`Model::attention`],
//! [`Model::mlp`], [`Model::head`]) over batches of runs, whose keys and values may be stored anywhere;
//! [`Model::run`] is the whole pass, kept as a [`Trace`].
//!
//! Work runs on the rayon pool of the calling thread. This crate knows nothing about probes.

#![deny(missing_docs)]

mod architecture;
mod backward;
mod blocks;
mod chunks;
pub mod config;
mod convert;
mod cost;
mod error;
mod expert_cache;
mod experts;
mod files;
mod forward;
pub mod gguf;
mod latent;
mod load;
mod mixer;
mod pickle;
mod projection;
mod rope;
mod routing;
mod saved;
mod side_inputs;
pub mod source;
pub mod tokenizer;
mod trace;
pub mod weights;

pub use architecture::{gguf_architectures, hybrids, mixtures_of_experts, supported};
pub use blocks::GGML_TYPES;
pub use config::Config;
pub use cost::SublayerSize;
pub use error::{Error, Result};
pub use experts::ExpertPart;
pub use fathom_kernels::Dtype;
pub use fathom_kernels::backend::{Backend, Cpu, Run, Span};
pub use forward::{Batch, Buffers, Model};
pub use projection::DownProjection;
pub use routing::Routes;
pub use saved::SavedActivations;
pub use side_inputs::LayerKeys;
pub use trace::{Hook, PostNorm, Trace};
