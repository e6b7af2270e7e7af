//! Arguments of `fathom mix`.

use clap::Args as Arguments;
use fathom::mixture::{Bound, Controller};
use std::path::PathBuf;

pub(super) const LONG: &str = "Weights two training sets, of short and of long solutions, by what a development set shows.

While a model is trained to answer shortly where that is enough (arXiv 2506.02678), measure the mean length and the accuracy of its \
answers every few steps, and append a line to a log:

  {\"step\": 200, \"length\": 3000, \"accuracy\": 0.7}

The command replays the log and prints its lines with \"weights\" {\"short\", \"long\"}: the shares of the next batches. Too long answers \
raise the weight of short solutions, too many errors that of long ones. A line that has weights starts from them, so one line \
is enough for a trainer that keeps its state. Other fields are copied.";

pub(super) const EXAMPLES: &str = "Examples:
  fathom mix --short 1120.9,0.289 --long 7379.6,0.756 evaluations.jsonl
  fathom mix --short 1120.9,0.289 --long 7379.6,0.756 --last evaluations.jsonl
  echo '{\"length\": 3000, \"accuracy\": 0.7, \"weights\": {\"short\": 0.5, \"long\": 0.5}}' |
      fathom mix --short 1120.9,0.289 --long 7379.6,0.756 -";

#[derive(Arguments)]
pub(crate) struct Mix {
    /// Measurements as JSONL, or - for stdin
    #[arg(value_name = "FILE")]
    pub(crate) log: PathBuf,
    /// Mean length and accuracy of a model that was trained on short solutions alone
    #[arg(long, value_name = "LENGTH,ACCURACY", value_parser = bound)]
    short: Bound,
    /// Mean length and accuracy of a model that was trained on long solutions alone
    #[arg(long, value_name = "LENGTH,ACCURACY", value_parser = bound)]
    long: Bound,
    /// How fast weights move (the paper's η)
    #[arg(long, value_name = "X", default_value_t = Controller::RATE)]
    rate: f64,
    /// Twice the least weight that a set keeps (the paper's c)
    #[arg(long, value_name = "X", default_value_t = Controller::FLOOR)]
    floor: f64,
    /// Print only the last line
    #[arg(long)]
    pub(crate) last: bool,
}

impl Mix {
    /// The controller that the arguments describe.
    pub(crate) fn controller(&self) -> Result<Controller, String> {
        Controller::new(self.short, self.long)?.rate(self.rate)?.floor(self.floor)
    }
}

fn bound(text: &str) -> Result<Bound, String> {
    let (length, accuracy) =
        text.split_once(',').ok_or("give a length and an accuracy, such as 1120.9,0.289")?;
    let number = |text: &str| text.trim().parse().map_err(|_| format!("'{text}' is not a number"));
    Ok(Bound { length: number(length)?, accuracy: number(accuracy)? })
}
