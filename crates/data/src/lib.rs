//! Prompt sets: text in, prompts out.
//!
//! [`open`] turns a spec, as given on the command line, into a [`PromptStream`], and [`load_with`] into a
//! [`PromptSet`]: a built-in set, a generated one, a published one, or a file. The crate has no models,
//! tokens or network access; callers can provide access to the hub ([`Fetch`]).
//!
//! | spec | prompts |
//! | --- | --- |
//! | `builtin` | the three built-in difficulties in turn: [`DEFAULT`] |
//! | `plain`, `word-problems`, `competition`, `qa`, `prose` | one built-in set |
//! | `addition`, `multiplication:digits=4,count=50,seed=7` | generated sums and products |
//! | `gsm8k`, `hellaswag`, `aime24`, `math` | a published set, from the Hugging Face hub |
//! | `gsm8k:split=train`, `math:level=5` | another split, one level |
//! | `gsm8k:file=test.jsonl`, `mquake:file=cf.parquet,hops=4` | the same from a file with the fields of the set |
//! | `prompts.jsonl` (or `.ndjson`) | one JSON object per line, see [`load_with`] |
//! | `prompts.parquet` | the same fields as columns |
//! | `prompts.txt` (or `.md`) | one prompt per paragraph; blank lines separate paragraphs |
//! | `sequences.fasta` (or `.fa`, `.faa`, `.fas`, also `.gz`) | one prompt per record |
//!
//! [`load_choices`] reads multiple choice: HellaSwag, ARC, MMLU, or rows of one's own.
//!
//! [`catalogue`] lists the names. [`Random`] is the random number generator of this crate and of the probes.

#![deny(missing_docs)]

mod builtin;
mod catalogue;
mod choices;
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
pub use choices::{Choice, ChoiceSet, choice_sets, load_choices};
pub use error::DataError;
pub use parquet::is_guarded;
pub use random::{Random, Rng};
pub use row_problem::RowProblem;
pub use set::{Access, Fetch, Fetched, Options, Prompt, PromptSet};
pub use stream::PromptStream;

/// The default set.
pub const DEFAULT: &str = "builtin";
