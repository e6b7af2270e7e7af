//! Small trainings that test what depth does: seeded, resumable, on two cores or a GPU.
//!
//! [`train`](train::train) trains a decoder as a [`Recipe`] says and writes every checkpoint as a Hugging
//! Face folder that `fathom measure` and transformers load. [`residual::study`] trains students of several depths on what
//! a deep residual network does; [`repeat::study`] trains decoders on data that are
//! repeated more and more; [`mix::study`] compares
//! mixtures of short and long solutions; [`rl::study`] trains agents of several sizes in small environments.

#![deny(missing_docs)]

pub mod batches;
pub mod checkpoint;
pub mod corpus;
pub mod decoder;
mod files;
pub mod metrics;
pub mod mix;
pub mod optimiser;
mod page;
mod random;
pub mod recipe;
pub mod repeat;
pub mod residual;
pub mod rl;
mod settings;
mod statistics;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use recipe::Recipe;
pub use settings::folder_name;
pub use statistics::Mean;
