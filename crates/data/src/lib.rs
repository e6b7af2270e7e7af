//! Prompt sets: text in, prompts out.
//!
//! [`load`] turns what a user names on the command line into a [`PromptSet`]: a set that comes with
//! Fathom, a generated one, or a file of one's own. The crate knows nothing of models or tokens.
//!
//! | spec | what it gives |
//! | --- | --- |
//! | `builtin` | the three built-in difficulties in turn: [`DEFAULT`] |
//! | `plain`, `word-problems`, `competition`, `qa` | one built-in set |
//! | `addition`, `multiplication:digits=4,count=50,seed=7` | generated sums and products |
//! | `prompts.jsonl` (or `.ndjson`) | one JSON object a line, see [`load`] |
//! | `prompts.txt` (or `.md`) | one prompt for each paragraph, paragraphs parted by blank lines |
//!
//! [`catalogue`] lists the names, and [`Random`] is the source of all draws, here and in the probes.

#![deny(missing_docs)]

mod builtin;
mod catalogue;
mod error;
mod files;
pub mod format;
mod generate;
mod random;
mod set;

pub use catalogue::{Entry, catalogue, load};
pub use error::{DataError, RowProblem};
pub use random::{Random, Rng};
pub use set::{Options, Prompt, PromptSet};

/// The set that is used when the user names none.
pub const DEFAULT: &str = "builtin";
