//! The numbers behind a figure.

/// The numbers behind a figure, as a table: a column per heading, mostly a row per layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FigureTable {
    /// The heading of the row names, such as `layer`.
    pub index: String,
    /// The headings of the columns after the index.
    pub headings: Vec<String>,
    /// The name and the values of each row; a missing value is NaN.
    pub rows: Vec<(String, Vec<f64>)>,
}
