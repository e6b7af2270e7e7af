//! Prompt sets: text in, prompts out.
//!
//! [`open`] turns what a user names on the command line into a [`PromptStream`], and [`load_with`] into a
//! [`PromptSet`]: a set that comes with Fathom, a generated one, a published one, or a file of one's own. The
//! crate knows nothing of models, tokens or the network; callers may hand in a way to the hub
//! ([`Fetch`]).
//!
//! | spec | what it gives |
//! | --- | --- |
//! | `builtin` | the three built-in difficulties in turn: [`DEFAULT`] |
//! | `plain`, `word-problems`, `competition`, `qa` | one built-in set |
//! | `addition`, `multiplication:digits=4,count=50,seed=7` | generated sums and products |
//! | `gsm8k`, `hellaswag`, `aime24`, `math` | a published set, from the Hugging Face hub |
//! | `gsm8k:split=train`, `math:level=5` | another split, one level |
//! | `gsm8k:file=test.jsonl`, `mquake:file=cf.parquet,hops=4` | the same from a file in the set's own fields |
//! | `prompts.jsonl` (or `.ndjson`) | one JSON object a line, see [`load_with`] |
//! | `prompts.parquet` | the same fields as columns |
//! | `prompts.txt` (or `.md`) | one prompt for each paragraph, paragraphs parted by blank lines |
//!
//! [`catalogue`] lists the names, and [`Random`] is the source of all draws, here and in the probes.

#![deny(missing_docs)]

mod builtin;
mod catalogue;
mod error;
mod file_format;
mod files;
mod generate;
mod parquet;
mod published;
mod random;
mod row_problem;
mod rows;
mod schema;
mod set;
mod stream;
pub mod templates;

pub use catalogue::{Entry, catalogue, load, load_with, open};
pub use error::DataError;
pub use parquet::is_guarded;
pub use random::{Random, Rng};
pub use row_problem::RowProblem;
pub use set::{Access, Fetch, Fetched, Options, Prompt, PromptSet};
pub use stream::PromptStream;

/// The set that is used when the user names none.
pub const DEFAULT: &str = "builtin";
