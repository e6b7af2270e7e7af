//! `fathom fit`.

use crate::args::Fit;
use crate::observer::Terminal;
use crate::output;
use anyhow::{Result, bail};
use fathom::{FitOutcome, fit_summary};

pub(crate) fn run(args: &Fit, threads: Option<u16>) -> Result<()> {
    let terminal = Terminal::default();
    let fit = args.fit(threads).map_err(anyhow::Error::msg)?;
    let done = fit.run(&terminal)?;
    present(&done, args.json)?;
    let unconverged = done.unconverged();
    if !unconverged.is_empty() && !args.allow_unconverged {
        bail!(
            "the fit of {} did not converge; the best that was found is in {} (try more --starts, or accept it with \
             --allow-unconverged)",
            unconverged.join(", "),
            done.folder.display()
        );
    }
    Ok(())
}

fn present(done: &FitOutcome, as_json: bool) -> Result<()> {
    let FitOutcome { folder, results, elapsed, .. } = done;
    if as_json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(results)?));
    }
    output::print(&fit_summary(results, output::style()))?;
    output::print(&format!(
        "\nresults: {}\nreport:  {}\ntime:    {:.1} s\n",
        folder.display(),
        folder.join("report.html").display(),
        elapsed.as_secs_f64()
    ))
}
