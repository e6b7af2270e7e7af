//! The commands, a file each.

pub(crate) mod lm;
pub(crate) mod mix;
pub(crate) mod repeat;
pub(crate) mod residual;
pub(crate) mod rl;

use anyhow::Result;
use clap::Args as Arguments;
use fathom_lab::folder_name;
use std::path::{Path, PathBuf};

/// What every command takes.
#[derive(Arguments)]
pub(crate) struct Common {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    pub(crate) recipe: PathBuf,
    /// The folder of the run [default: fathom-out/lab/NAME]
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// Delete what an earlier run left in the folder, and begin again
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print what was measured as JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl Common {
    /// The folder of a run of this name.
    ///
    /// # Errors
    /// When the name would lead out of the folder of all runs, and `--out` does not say where to write.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        match &self.out {
            Some(out) => Ok(out.clone()),
            None => Ok(Path::new("fathom-out/lab").join(folder_name(name)?)),
        }
    }
}
