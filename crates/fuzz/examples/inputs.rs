//! `inputs seeds FOLDER` writes the seeds of each target to `FOLDER/TARGET`; `inputs run TARGET FILE` runs one input
//! without a fuzzer.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use fathom_fuzz::TARGETS;

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["seeds", folder] => {
            for target in TARGETS {
                let folder = Path::new(folder).join(target.name);
                fs::create_dir_all(&folder)?;
                for (number, seed) in (target.seeds)().iter().enumerate() {
                    fs::write(folder.join(format!("seed-{number}")), seed)?;
                }
            }
        }
        ["run", name, file] => {
            let target = TARGETS.into_iter().find(|target| target.name == name);
            let target = target.ok_or_else(|| io::Error::other(format!("there is no target {name}")))?;
            (target.run)(&fs::read(file)?);
        }
        _ => return Ok(ExitCode::from(2)),
    }
    Ok(ExitCode::SUCCESS)
}
