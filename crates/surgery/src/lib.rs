//! Removing layers of a model: which can go, what that costs on held-out text, and the checkpoint that is left.
//!
//! A [`Removal`] says which layers, or which sublayers, are left out.

#![deny(missing_docs)]

mod removal;

pub use removal::{InvalidRemoval, Removal};
