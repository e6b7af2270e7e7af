//! `fathom mix`: weights of two training sets from a log of measurements.

use crate::args::Mix;
use crate::output;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

pub(crate) fn run(args: &Mix) -> Result<()> {
    let controller = args.controller().map_err(anyhow::Error::msg)?;
    let lines = match args.log == Path::new("-") {
        true => fathom::mix("stdin", std::io::stdin().lock(), &controller)?,
        false => {
            let name = args.log.display().to_string();
            let file = File::open(&args.log)
                .with_context(|| format!("cannot read {name}; give a file of JSON lines"))?;
            fathom::mix(&name, BufReader::new(file), &controller)?
        }
    };
    let first = if args.last { lines.len() - 1 } else { 0 };
    output::print(&lines[first..].iter().map(|line| format!("{line}\n")).collect::<String>())
}
