//! Small trainings that test what depth does: seeded, resumable, on two cores or a GPU.
//!
//! [`train`](train::train) trains a decoder as a [`Recipe`] says and writes every checkpoint as a Hugging
//! Face folder that `fathom measure` and transformers load.

#![deny(missing_docs)]

pub mod batches;
pub mod checkpoint;
pub mod corpus;
pub mod decoder;
pub mod metrics;
pub mod optimiser;
pub mod recipe;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use recipe::Recipe;
