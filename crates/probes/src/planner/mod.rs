//! The planner of edited runs, which never computes what an edit cannot change.
//!
//! A probe states [`Request`]s: edits, and what to read of their effect. [`execute()`] starts
//! each at the edited level from the saved clean stream, takes keys and values of earlier
//! positions from the clean run, runs shared prefixes once, runs each layer as one batch, and
//! computes logits only where they are read. [`naive`] runs every request as a full forward
//! pass, for checking.

mod edit;
mod execute;
mod group;
mod logits;
pub mod naive;
mod reading;
mod tree;

pub use edit::{Action, Edit, EditSink, LogitReading, Places, Request, Rows, Site};
pub use execute::{count, execute};
