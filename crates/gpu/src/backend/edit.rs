//! Edits of rows.

use super::{Buffer, upload};
use crate::Gpu;
use crate::device::{Device, Kernel, word};
use fathom_kernels::backend::{RowAction, RowEdit};
use std::collections::HashSet;

impl<D: Device> Gpu<D> {
    /// Applies edits that take their values from one matrix, to rows that differ.
    pub(super) fn edit_rows(
        &self,
        width: usize,
        edits: &[RowEdit<'_, Buffer<D::Memory>>],
        x: &Buffer<D::Memory>,
    ) {
        let mut values = &*self.nothing;
        let mut table = Vec::with_capacity(edits.len() * 4);
        for edit in edits {
            let (operation, factor, from) = match edit.action {
                RowAction::Zero => (0, 0, None),
                RowAction::Scale(factor) => (1, factor.to_bits(), None),
                RowAction::Replace(values, row) => (2, 0, Some((values, row))),
                RowAction::Add(values, row) => (3, 0, Some((values, row))),
                RowAction::Subtract(values, row) => (4, 0, Some((values, row))),
            };
            if let Some((buffer, row)) = from {
                assert!((row + 1) * width <= buffer.len, "an edit's values must have the row");
                values = self.of(buffer);
            }
            table.extend([word(edit.row), operation, factor, word(from.map_or(0, |f| f.1))]);
        }
        let table = upload(self.device(), &table);
        let buffers = [&table, values, self.of(x)];
        self.launch(Kernel::EditRows, &buffers, edits.len() * width, &[word(width)]);
    }
}

/// The length of the longest start of `edits` that one launch can apply.
pub(super) fn compatible<T>(edits: &[RowEdit<'_, T>]) -> usize {
    let mut values: Option<*const T> = None;
    let mut rows = HashSet::new();
    let mut fits = |edit: &RowEdit<'_, T>| {
        let from: Option<*const T> = match edit.action {
            RowAction::Zero | RowAction::Scale(_) => None,
            RowAction::Replace(v, _) | RowAction::Add(v, _) | RowAction::Subtract(v, _) => Some(v),
        };
        if from.is_some() && values.is_some() && from != values {
            return false;
        }
        values = values.or(from);
        rows.insert(edit.row)
    };
    edits.iter().take_while(|edit| fits(edit)).count()
}
