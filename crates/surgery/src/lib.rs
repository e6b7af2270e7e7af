//! Removing layers of a model: which can go, what that costs on held-out text, and the checkpoint that is left.
//!
//! A [`Removal`] says which layers, or which sublayers, are left out. [`evaluate()`] gives the loss of a model for many
//! removals at once, [`Search`] looks for the one that costs least, [`scores`] reads candidates off the clean runs, and
//! [`linear`] lets the MLP before a removed block take over some of its work. [`export::export`] writes the model that is
//! left.
//!
//! [`growth`] makes models with more layers instead.
//!
//! [`least_squares`] fits linear maps from sums over tokens: for [`linear`], [`mod@exit`], and [`maps`] between the layers of two
//! models.

#![deny(missing_docs)]

mod evaluate;
pub mod exit;
pub mod export;
mod group;
pub mod growth;
pub mod least_squares;
pub mod linear;
pub mod maps;
mod removal;
pub mod scores;
mod search;
mod text;

pub use evaluate::{EvaluateOptions, Evaluation, Reading, Variant, count, evaluate, group_sizes, logits};
pub use removal::{InvalidRemoval, Removal};
pub use search::{CLEARLY, Found, Search};
pub use text::{Score, Text};
