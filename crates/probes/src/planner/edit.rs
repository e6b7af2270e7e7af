//! Requests of probes: edits of the residual stream, and what to read of their effect.

use fathom_kernels::backend::RowAction;
use fathom_model::{Backend, Model};
use std::ops::Range;

/// Where an edit acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The residual stream that enters layer l (l = L: the final norm), h_l.
    Resid,
    /// The attention output of layer l, a_l; the MLP of the layer sees the change.
    Attn,
    /// The MLP output of layer l, m_l.
    Mlp,
    /// The contribution of layer l, D_l = a_l + m_l.
    Layer,
}

/// Rows on the device that an edit takes its values from.
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// A matrix as wide as the residual stream.
    of: &'a T,
    /// The row for the first position of the edit.
    first: usize,
    /// Whether each position has a row of its own, one after the other.
    per_position: bool,
}

impl<'a, T> Rows<'a, T> {
    /// Row `row` of a matrix `[_, d]` for all positions.
    pub fn one(of: &'a T, row: usize) -> Self {
        Self { of, first: row, per_position: false }
    }

    /// Row `first` of a matrix `[_, d]` for the first position, the next row for the next position, and so
    /// on.
    pub fn each(of: &'a T, first: usize) -> Self {
        Self { of, first, per_position: true }
    }

    /// The row of the `i`-th position.
    fn at(&self, i: usize) -> usize {
        if self.per_position { self.first + i } else { self.first }
    }
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<'_, T> {}

/// Rows are equal where they are the same rows of the same matrix.
impl<T> PartialEq for Rows<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.of, other.of)
            && (self.first, self.per_position) == (other.first, other.per_position)
    }
}

/// What an edit does to a row.
#[derive(Debug)]
pub enum Action<'a, T> {
    /// Bypasses the part. At [`Site::Layer`], [`Site::Attn`] and [`Site::Mlp`] the same as
    /// [`Action::Zero`]; no effect at [`Site::Resid`].
    Skip,
    /// Sets the row to zero.
    Zero,
    /// Replaces the row.
    Replace(Rows<'a, T>),
    /// Multiplies the row.
    Scale(f32),
    /// Adds to the row.
    Add(Rows<'a, T>),
    /// Subtracts from the row.
    Subtract(Rows<'a, T>),
}

impl<T> Clone for Action<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Action<'_, T> {}

impl<T> PartialEq for Action<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Skip, Self::Skip) | (Self::Zero, Self::Zero) => true,
            (Self::Scale(a), Self::Scale(b)) => a == b,
            (Self::Replace(a), Self::Replace(b))
            | (Self::Add(a), Self::Add(b))
            | (Self::Subtract(a), Self::Subtract(b)) => a == b,
            _ => false,
        }
    }
}

/// One edit.
#[derive(Debug)]
pub struct Edit<'a, T> {
    /// Layer, 0 to L - 1; to L for [`Site::Resid`].
    pub layer: usize,
    /// The site.
    pub site: Site,
    /// The positions.
    pub positions: Range<usize>,
    /// The action.
    pub action: Action<'a, T>,
}

impl<T> Clone for Edit<'_, T> {
    fn clone(&self) -> Self {
        Self { positions: self.positions.clone(), ..*self }
    }
}

impl<'a, T> Edit<'a, T> {
    /// The first level of the residual stream that the edit changes.
    pub(super) fn level(&self) -> usize {
        match self.site {
            Site::Resid => self.layer,
            _ => self.layer + 1,
        }
    }

    /// What the edit does to the row of `position`; `None` for nothing.
    pub(super) fn at(&self, position: usize) -> Option<RowAction<'a, T>> {
        let i = position - self.positions.start;
        Some(match &self.action {
            Action::Skip if self.site == Site::Resid => return None,
            Action::Skip | Action::Zero => RowAction::Zero,
            Action::Scale(by) => RowAction::Scale(*by),
            Action::Replace(rows) => RowAction::Replace(rows.of, rows.at(i)),
            Action::Add(rows) => RowAction::Add(rows.of, rows.at(i)),
            Action::Subtract(rows) => RowAction::Subtract(rows.of, rows.at(i)),
        })
    }

    /// Whether the result does not depend on the previous row.
    pub(super) fn replaces(&self) -> bool {
        match self.action {
            Action::Skip => self.site != Site::Resid,
            Action::Zero | Action::Replace(_) => true,
            Action::Scale(_) | Action::Add(_) | Action::Subtract(_) => false,
        }
    }

    /// Whether two edits do the same at positions that both act on.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.layer == other.layer
            && self.site == other.site
            && self.positions.start == other.positions.start
            && self.action == other.action
    }

    /// The matrix that the values come from, and the rows of it that are needed.
    pub(super) fn values(&self) -> Option<(&'a T, usize)> {
        match &self.action {
            Action::Replace(rows) | Action::Add(rows) | Action::Subtract(rows) => {
                Some((rows.of, rows.at(self.positions.len().saturating_sub(1)) + 1))
            }
            Action::Skip | Action::Zero | Action::Scale(_) => None,
        }
    }
}

/// Positions of a text: ranges in ascending order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<Range<usize>>);

impl Places {
    /// These positions, in ascending order.
    pub fn of(positions: impl IntoIterator<Item = usize>) -> Self {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for position in positions {
            match ranges.last_mut() {
                Some(last) if last.end == position => last.end += 1,
                _ => ranges.push(position..position + 1),
            }
        }
        Self(ranges)
    }

    /// The ranges.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().cloned()
    }

    /// The positions.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranges().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a position is among them.
    pub fn contains(&self, position: usize) -> bool {
        self.0.iter().any(|range| range.contains(&position))
    }

    /// One past the last; 0 without any.
    pub fn end(&self) -> usize {
        self.0.last().map_or(0, |range| range.end)
    }
}

impl From<Range<usize>> for Places {
    fn from(range: Range<usize>) -> Self {
        Self(if range.is_empty() { Vec::new() } else { vec![range] })
    }
}

/// One edited run: its edits, and what to read of it.
#[derive(Debug)]
pub struct Request<'a, T> {
    /// The edits, in order of application.
    pub edits: Vec<Edit<'a, T>>,
    /// Positions at which the change of D is read, for every layer from the first edited one on.
    pub added: Places,
    /// Positions at which the logits are read.
    pub logits: Places,
    /// The first layer that is not run; L if logits are read.
    pub until: usize,
}

impl<T> Request<'_, T> {
    /// The first level of the residual stream that the edits change.
    pub(super) fn level(&self) -> usize {
        self.edits.iter().map(Edit::level).min().unwrap_or(0)
    }

    /// The positions to run in a text of `tokens` tokens: from the first edit to the last read, or all.
    pub(super) fn positions<B: Backend>(&self, model: &Model<B>, tokens: usize) -> Range<usize> {
        let start = self.edits.iter().map(|e| e.positions.start).min().unwrap_or(0);
        model.reached(start, self.added.end().max(self.logits.end()), tokens)
    }
}

/// What is read of the logits of an edited run. It is computed on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitReading {
    /// `|p - p'|_2` of the clean and the edited distribution: one number.
    #[default]
    Distance,
    /// The clean logits, then the edited ones: `2 V` numbers.
    Rows,
    /// The probability of [`EditSink::token`] in the clean run, then in the edited one: two numbers.
    Probability,
}

/// Receives the numbers that requests read.
pub trait EditSink {
    /// What is read of logits.
    fn reading(&self) -> LogitReading {
        LogitReading::default()
    }

    /// The token whose probability [`LogitReading::Probability`] reads at a position.
    fn token(&self, _position: usize) -> u32 {
        0
    }

    /// The relative change of the contribution of layer `layer`, `|D - D'| / |D|`, at consecutive positions
    /// of a request.
    ///
    /// # Shapes
    /// `changes [positions]`.
    fn added(&mut self, request: usize, layer: usize, positions: Range<usize>, changes: &[f64]);

    /// The numbers of [`Self::reading`] for the logits of a request at one position.
    fn logits(&mut self, request: usize, position: usize, numbers: &[f64]);
}
