//! `fathom devices`.

use crate::output;
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    output::print(&fathom::devices().iter().map(|device| format!("{device}\n")).collect::<String>())
}
