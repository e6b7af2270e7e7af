//! Why a law cannot be fitted.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a law cannot be fitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The table cannot be read.
    #[error("{0}")]
    Table(String),
    /// A column is missing.
    #[error(
        "there is no column '{column}'{purpose}; the table has {found}; name another with --columns {name}=COLUMN"
    )]
    NoColumn {
        /// The column that was looked for.
        column: String,
        /// What it is for, or nothing.
        purpose: String,
        /// The columns that there are.
        found: String,
        /// The quantity of the law.
        name: String,
    },
    /// A value of the table cannot be used.
    #[error("row {row}, column '{column}': {problem}")]
    Value {
        /// The row, from 1, the heading not counted.
        row: usize,
        /// The column.
        column: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The rows do not determine the parameters.
    #[error("{0}")]
    Undetermined(String),
    /// Options that do not fit together or to the law.
    #[error("{0}")]
    Invalid(String),
    /// An expression cannot be used.
    #[error("the expression '{expression}': {problem}")]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong.
        problem: String,
    },
    /// The caller asked to stop.
    #[error("interrupted before the fit was finished")]
    Cancelled,
}

macro_rules! invalid {
    ($($arg:tt)*) => { return Err($crate::Error::Invalid(format!($($arg)*))) };
}
pub(crate) use invalid;

/// `a, b and c`, in quotes.
pub(crate) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("'{name}'")).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
