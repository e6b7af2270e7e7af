//! Fits of scaling laws, and linear regressions: pure functions of tables.
//!
//! [`fit()`] fits a law ([`Choice`]) to a [`Table`] and returns everything that is said of the fit: parameters with standard
//! errors and bootstrap intervals, the optima of several starts, the error on rows that were not fitted, profiles, scans
//! over the choices that a fit makes, predictions and best allocations. What it returns are the types of `fit.json`
//! ([`fathom_results::Fitting`]).
//!
//! - [`depth`], [`repeat`], [`rl`], [`custom`]: the laws; [`regress`]: linear regression.
//! - [`engine`]: what every law is fitted with. [`Problem`] is a law with rows and an [`Objective`], minimised by
//!   Levenberg-Marquardt.
//! - [`curves`]: learning curves from NumPy arrays, and the steps that they take to a threshold.
//! - [`expression`]: formulas as users write them.
//! - [`mixture`]: weights of two training sets, from what a development set shows.
//!
//! The crate reads bytes that it is handed and no files. Nothing depends on the number of threads.
//!
//! ```
//! use fathom_laws::{Choice, Options, Table, fit, regress::Formula};
//!
//! let table = Table::from_csv(b"layers,score\n8,1.1\n16,1.9\n24,3.2\n32,3.9\n40,5.1\n")?;
//! let formula = Formula::parse("score ~ layers")?;
//! let outcome = fit(&Choice::Regress(formula), &table, &Options::default())?;
//! let (_, fitted) = &outcome.fits[0];
//! let slope = fitted.parameters.get("layers").expect("a coefficient for every term");
//! assert!((slope.value - 0.125).abs() < 1e-12);
//! # Ok::<(), fathom_laws::Error>(())
//! ```

#![deny(missing_docs)]

pub mod adam;
pub mod curves;
pub mod custom;
pub mod depth;
pub mod engine;
mod error;
pub mod expression;
mod fit;
pub mod isotonic;
mod law;
pub mod mixture;
mod objective;
pub mod ols;
mod random;
pub mod regress;
pub mod repeat;
pub mod rl;
mod solve;
mod table;
mod valley;

pub use engine::Effort;
pub use error::{Error, Result};
pub use fit::{Choice, Options, Outcome, Response, Schedule, fit};
pub use law::{Coordinate, Law, ParameterSpec, Rows};
pub use objective::{Loss, Objective};
pub use solve::{Optimum, Problem};
pub use table::{ColumnNames, Table};
