//! Requests of probes: edits of the residual stream, and what to read of their effect.

use std::ops::Range;
use std::sync::Arc;

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

/// What an edit does to a row. The values of an action are one row for all positions, `[d]`, or
/// one for each position of the edit, `[positions, d]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bypasses the part. At [`Site::Layer`], [`Site::Attn`] and [`Site::Mlp`] the same as
    /// [`Action::Zero`]; no effect at [`Site::Resid`].
    Skip,
    /// Sets the row to zero.
    Zero,
    /// Replaces the row.
    Replace(Arc<[f32]>),
    /// Multiplies the row.
    Scale(f32),
    /// Adds to the row.
    Add(Arc<[f32]>),
}

impl Action {
    /// Whether two actions are equal. Equal actions usually share their values, which makes this cheap.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Replace(a), Self::Replace(b)) | (Self::Add(a), Self::Add(b)) if Arc::ptr_eq(a, b) => true,
            _ => self == other,
        }
    }
}

/// One edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Layer, 0 to L - 1; to L for [`Site::Resid`].
    pub layer: usize,
    /// The site.
    pub site: Site,
    /// The positions.
    pub positions: Range<usize>,
    /// The action.
    pub action: Action,
}

impl Edit {
    /// The first level of the residual stream that the edit changes.
    pub(super) fn level(&self) -> usize {
        match self.site {
            Site::Resid => self.layer,
            _ => self.layer + 1,
        }
    }

    /// Applies the edit to the row of `position`.
    pub(super) fn apply(&self, position: usize, row: &mut [f32]) {
        let part = |all: &Arc<[f32]>| {
            let d = row.len();
            let at = if all.len() == d { 0 } else { (position - self.positions.start) * d };
            at..at + d
        };
        match &self.action {
            Action::Skip if self.site == Site::Resid => {}
            Action::Skip | Action::Zero => row.fill(0.0),
            Action::Scale(by) => row.iter_mut().for_each(|x| *x *= by),
            Action::Replace(all) => row.copy_from_slice(&all[part(all)]),
            Action::Add(all) => {
                let part = part(all);
                row.iter_mut().zip(&all[part]).for_each(|(x, v)| *x += v);
            }
        }
    }

    /// Whether the result does not depend on the previous row.
    pub(super) fn replaces(&self) -> bool {
        match self.action {
            Action::Skip => self.site != Site::Resid,
            Action::Zero | Action::Replace(_) => true,
            Action::Scale(_) | Action::Add(_) => false,
        }
    }

    /// Whether two edits do the same at positions that both act on.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.layer == other.layer
            && self.site == other.site
            && self.positions.start == other.positions.start
            && self.action.same(&other.action)
    }
}

/// One edited run: its edits, and what to read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The edits, in order of application.
    pub edits: Vec<Edit>,
    /// Positions at which D is read, for every layer from the first edited one on.
    pub added: Range<usize>,
    /// Positions at which the logits are read.
    pub logits: Range<usize>,
    /// The first layer that is not run; L if logits are read.
    pub until: usize,
}

impl Request {
    /// The first level of the residual stream that the edits change.
    pub(super) fn level(&self) -> usize {
        self.edits.iter().map(Edit::level).min().unwrap_or(0)
    }

    /// The positions to run: from the first edit to the last read.
    pub(super) fn positions(&self) -> Range<usize> {
        let start = self.edits.iter().map(|e| e.positions.start).min().unwrap_or(0);
        let read = |r: &Range<usize>| if r.is_empty() { 0 } else { r.end };
        start..read(&self.added).max(read(&self.logits)).max(start)
    }
}

/// Receives the values that requests read.
pub trait EditSink {
    /// D' of layer `layer` for consecutive positions of a request.
    ///
    /// # Shapes
    /// `added [positions, d]`.
    fn added(&mut self, request: usize, layer: usize, positions: Range<usize>, added: &[f32]);

    /// The logits of some requests at one position, and those of the clean run.
    ///
    /// # Shapes
    /// `clean [V]`, `edited [requests, V]`.
    fn logits(&mut self, position: usize, clean: &[f32], requests: &[usize], edited: &[f32]);
}
