//! Study descriptions (`STUDY.toml`): models, data sets and the pairs to compare.
//!
//! ```toml
//! name = "depth of Qwen2.5"
//! out = "qwen-study"             # results folder; default: fathom-out/study-NAME
//! probes = "contributions,lens"  # default: all
//! limit = 16                     # first prompts of every data set; default: all
//! seed = 42
//! primary = "settling"           # the rule of the verdicts, or { scale = "kl", difficulty = "cosine" }
//! qa = "qa"                      # question-answer pairs for erasure and gradients
//! options = { positions = 4 }    # further options of `fathom measure`
//!
//! [[model]]
//! id = "Qwen/Qwen2.5-0.5B"       # any model that `fathom measure` accepts
//! name = "Qwen2.5 0.5B"          # default: the last part of the id
//! family = "Qwen2.5"
//! size = 0.5                     # billions of parameters
//! type = "base"
//!
//! [[data]]
//! id = "word-problems"
//! difficulty = "easy"            # or a number
//! series = "problems"            # difficulties are compared within a series
//! probes = "all"                 # default: those of the study
//!
//! [[job]]                        # something other than a measurement
//! kind = "prune"                 # prune, exit, map, grow or lab
//! name = "prune"                 # default: the kind
//! models = ["Qwen2.5 0.5B"]      # default: all; of a map source and target
//! options = { limit = 64 }       # of the command
//!
//! [[job]]
//! kind = "lab"                   # about none of the models
//! command = "rl"                 # of `fathom lab`
//! recipe = "rl.toml"
//! ```

mod description;
mod error;
mod jobs;
mod pairs;
mod parse;
mod reader;

pub use description::{
    Cell, ComparedPair, Difficulty, OPTIONS, Question, StudyData, StudyDescription, StudyModel,
};
pub use error::{Problem, StudyError};
pub use jobs::{JobCell, JobKind, LabRecipe, StudyJob};
pub(crate) use pairs::{grouped, series};
