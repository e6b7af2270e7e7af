//! The planner of edited runs: never compute what an edit cannot change.
//!
//! A probe states [`Request`]s: edits, and what is read of their effect.
//! [`execute()`] starts each at the edited level from the saved clean stream, takes
//! keys and values of earlier positions from the clean run, runs prefixes on which
//! requests agree once, puts all that is alive at a layer through it as one batch,
//! and makes logits only where they are read. [`naive`] does the same work as full
//! forward passes, for checking.

mod edit;
mod execute;
pub mod naive;
mod tree;

pub use edit::{Action, Edit, EditSink, Request, Site};
pub use execute::{count, execute};
