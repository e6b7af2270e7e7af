//! Removing layers of a model: which can go, what that costs on held-out text, and the checkpoint that is left.
//!
//! A [`Removal`] says which layers, or which sublayers, are left out. [`export::export`] writes the model that is left.

#![deny(missing_docs)]

pub mod export;
mod removal;

pub use removal::{InvalidRemoval, Removal};
