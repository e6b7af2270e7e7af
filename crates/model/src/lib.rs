//! Open language models with every layer in view.
//!
//! Knows nothing of probes.

#![deny(missing_docs)]

mod error;
pub mod gguf;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
