//! Arguments of `fathom fit`.

use super::run::{command_line, optional};
use clap::{Args as Arguments, ValueEnum};
use fathom::{FitSchedule, RlResponse};
use std::path::PathBuf;

pub(super) const LONG: &str = "Fits a law of depth, data or compute to a table.

  depth    loss by width, layers and data: L = c_m/m^a_m + c_l/l^a_l + c_d/D^a_d + l0
           columns d_model, n_layers, num_tokens, loss
  repeat   loss with repeated data: how fast repeated tokens lose their worth
           columns N (parameters), T (tokens), U (unique tokens), L (loss)
  rl       environment steps to a return, by updates per step and critic parameters
           columns utd, critic_params, time or time_to_threshold, and env_name if there are several
  regress  ordinary least squares of --formula
  custom   the law that --description describes

FILE is CSV with a heading, or JSON, an object of arrays. Every fit has several starts, standard errors, bootstrap \
intervals, the error on rows that were not fitted, a profile of each exponent, and scans over the choices that a fit \
makes, because the valleys of such laws are flat. The command fails if the fit does not converge; the best that was \
found is written all the same.";

pub(super) const EXAMPLES: &str = "Examples:
  fathom fit depth runs.csv --at params=7e9,tokens=2e12,layers=32 --optimal params=7e9,tokens=2e12
  fathom fit repeat runs.json --optimal params=2.8e9,unique=5e10
  fathom fit rl times.csv --optimal budget=1e16
  fathom fit rl curves.zip --curves 'utd_{utd}/{critic_params}/{env_name}/bs_{batch_size}.npy' --threshold 700
  fathom fit regress scores.csv --formula 'score ~ layers + d_ff + ln(params)'
  fathom fit custom runs.csv --description law.toml";

/// A law, a table and how to fit it.
#[derive(Arguments, Clone)]
pub(crate) struct Fit {
    /// The law
    #[arg(value_name = "LAW", value_enum)]
    law: LawArg,
    /// The table, .csv or .json; with --curves a folder, an archive or a file of NumPy arrays
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Columns that are not called as usual, such as loss=val_loss,n_layers=depth
    #[arg(long, value_name = "NAME=COLUMN,..", value_delimiter = ',', value_parser = pair)]
    columns: Vec<(String, String)>,
    /// Fit only the rows with this value in this column, such as data=plain; may be given more than once
    #[arg(long = "where", value_name = "COLUMN=VALUE", value_parser = filter)]
    filters: Vec<(String, String)>,
    /// Resample and hold out rows with the same value in this column together
    #[arg(long, value_name = "COLUMN")]
    groups: Option<String>,
    /// The column with the names of rows
    #[arg(long, value_name = "COLUMN")]
    names: Option<String>,
    /// Leave out the rows with the K highest observed values, and those equal to the last of them
    #[arg(long, value_name = "K")]
    drop_highest: Option<usize>,
    /// What is minimised: squared-log, huber-log, huber-log:DELTA or squared [default: as the law's source]
    #[arg(long, value_name = "OBJECTIVE")]
    objective: Option<String>,
    /// How it is minimised
    #[arg(long, value_name = "SCHEDULE", value_enum, default_value = "converged")]
    schedule: ScheduleArg,
    /// Predict at these inputs, such as params=7e9,tokens=2e12,layers=32; may be given more than once
    #[arg(long, value_name = "NAME=NUMBER,..")]
    at: Vec<String>,
    /// Find the best allocation: depth params=..,tokens=..; repeat params=..,unique=..[,tolerance=..];
    /// rl budget=.. (FLOP) or delta=.. (FLOP that a step is worth)
    #[arg(long, value_name = "NAME=NUMBER,..")]
    optimal: Option<String>,
    /// depth: take layers less two
    #[arg(long)]
    less_two: bool,
    /// rl: what is explained
    #[arg(long, value_name = "WHAT", value_enum)]
    response: Option<ResponseArg>,
    /// rl: read learning curves, NumPy arrays of steps and one return for each seed, whose paths end like this:
    /// w{critic_width}/utd_{utd}/{env_name}/bs_{batch_size}.npy
    #[arg(long, value_name = "PATTERN", requires = "threshold")]
    curves: Option<String>,
    /// rl: the return that curves must reach: a number, or ENVIRONMENT=NUMBER,..
    #[arg(long, value_name = "RETURN", requires = "curves")]
    threshold: Option<String>,
    /// rl: critic parameters by the critic_width of a path: WIDTH=NUMBER,..
    #[arg(long, value_name = "WIDTH=NUMBER,..", requires = "curves")]
    sizes: Option<String>,
    /// regress: the response and its terms, such as 'score ~ layers + ln(params)'
    #[arg(long, value_name = "FORMULA", required_if_eq("law", "regress"))]
    formula: Option<String>,
    /// custom: a TOML file with response, expression and parameters
    #[arg(long, value_name = "FILE", required_if_eq("law", "custom"))]
    description: Option<PathBuf>,
    /// Starts of the minimisation
    #[arg(long, value_name = "N", default_value_t = fathom::Fit::STARTS)]
    starts: usize,
    /// Resamples of the bootstrap; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = fathom::Fit::RESAMPLES)]
    resamples: usize,
    /// How often a fifth of the rows is held out; 0 for not at all
    #[arg(long, value_name = "N", default_value_t = fathom::Fit::HELDOUT)]
    heldout: usize,
    /// Values of each profile; 0 for none
    #[arg(long, value_name = "N", default_value_t = fathom::Fit::PROFILE)]
    profile: usize,
    /// Seed of starts, resamples and splits
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Succeed with a warning if the fit does not converge
    #[arg(long)]
    pub(crate) allow_unconverged: bool,
    /// Results folder [default: fathom-out/fit-LAW-FILE]
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// Replace the results of another fit in the folder
    #[arg(long)]
    overwrite: bool,
    /// Print fit.json instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// A law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LawArg {
    /// Loss by width, layers and data
    Depth,
    /// Loss with repeated data
    Repeat,
    /// Data efficiency of value-based reinforcement learning
    Rl,
    /// Ordinary least squares
    Regress,
    /// An expression of your own
    Custom,
}

/// How a fit is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleArg {
    /// To the optimum
    Converged,
    /// As the source did it: depth by Adam, stopped where the source stopped, without the 40 highest losses unless
    /// --drop-highest says otherwise; rl from one start
    Published,
}

/// What reinforcement learning explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResponseArg {
    /// Environment steps to the threshold
    Steps,
    /// The best batch size, from the column batch_size
    Batch,
}

fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.into(), value.into())),
        _ => Err("give COLUMN=VALUE".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => Ok((name.into(), column.into())),
        _ => Err("give NAME=COLUMN".to_owned()),
    }
}

impl Fit {
    /// The fit that the arguments describe.
    ///
    /// # Errors
    /// A sentence that names an option of another law.
    pub(crate) fn fit(&self, threads: Option<u16>) -> Result<fathom::Fit, String> {
        self.check()?;
        let file = &self.file;
        let fit = match self.law {
            LawArg::Depth => fathom::Fit::depth(file).less_two(self.less_two),
            LawArg::Repeat => fathom::Fit::repeat(file),
            LawArg::Rl => fathom::Fit::rl(file).response(match self.response {
                Some(ResponseArg::Batch) => RlResponse::Batch,
                _ => RlResponse::Steps,
            }),
            LawArg::Regress => fathom::Fit::regress(file, self.formula.clone().unwrap_or_default()),
            LawArg::Custom => fathom::Fit::custom(file, self.description.clone().unwrap_or_default()),
        };
        let fit = fit
            .schedule(match self.schedule {
                ScheduleArg::Converged => FitSchedule::Converged,
                ScheduleArg::Published => FitSchedule::Published,
            })
            .starts(self.starts)
            .resamples(self.resamples)
            .heldout(self.heldout)
            .profile(self.profile)
            .seed(self.seed)
            .overwrite(self.overwrite)
            .command(command_line());
        let fit = self.columns.iter().fold(fit, |f, (name, column)| f.column(name.as_str(), column.as_str()));
        let fit =
            self.filters.iter().fold(fit, |f, (name, value)| f.rows_where(name.as_str(), value.as_str()));
        let fit = self.at.iter().fold(fit, |f, at| f.at(at.as_str()));
        let fit = optional(fit, &self.optimal, |f, text| f.optimal(text.as_str()));
        let fit = optional(fit, &self.groups, |f, column| f.groups(column.as_str()));
        let fit = optional(fit, &self.names, |f, column| f.names(column.as_str()));
        let fit = optional(fit, &self.drop_highest, |f, count| f.drop_highest(*count));
        let fit = optional(fit, &self.objective, |f, text| f.objective(text.as_str()));
        let fit = optional(fit, &self.out, |f, out| f.out(out));
        let fit = optional(fit, &self.curves, |f, pattern| {
            let threshold = self.threshold.clone().unwrap_or_default();
            f.curves(pattern.as_str(), threshold, self.sizes.clone().unwrap_or_default())
        });
        Ok(optional(fit, &threads, |f, threads| f.threads((*threads).into())))
    }

    /// Refuses options of other laws.
    fn check(&self) -> Result<(), String> {
        let owned = [
            (LawArg::Depth, "--less-two", self.less_two),
            (LawArg::Rl, "--response", self.response.is_some()),
            (LawArg::Rl, "--curves", self.curves.is_some()),
            (LawArg::Regress, "--formula", self.formula.is_some()),
            (LawArg::Custom, "--description", self.description.is_some()),
        ];
        let name = |law: LawArg| law.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        match owned.into_iter().find(|(law, _, is_given)| *is_given && *law != self.law) {
            Some((law, option, _)) => {
                Err(format!("{option} is for the law {}; leave it out with {}", name(law), name(self.law)))
            }
            None => Ok(()),
        }
    }
}
