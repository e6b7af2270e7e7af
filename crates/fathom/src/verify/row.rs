//! Quantities beside their references.

use fathom_probes::{ExecOptions, MemoryPlan};

/// How a difference is measured, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// None.
    Equal,
    /// An absolute difference.
    Absolute(f64),
    /// Relative to the reference; values below `floor` count as `floor`, so that a
    /// cosine near zero is not held to more digits than the file has.
    Relative {
        /// The relative difference.
        share: f64,
        /// The smallest reference that counts as itself.
        floor: f64,
    },
}

/// A quantity beside its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenRow {
    /// What was compared.
    pub name: String,
    /// The number of values.
    pub values: usize,
    /// The worst difference of any value, as `limit` measures it.
    pub worst: f64,
    /// The index of the worst value.
    pub place: usize,
    /// The largest difference allowed.
    pub limit: Limit,
}

impl GoldenRow {
    pub(super) fn compare(name: impl Into<String>, got: &[f64], want: &[f64], limit: Limit) -> Self {
        let mut row = Self { name: name.into(), values: want.len(), worst: 0.0, place: 0, limit };
        if got.len() != want.len() {
            row.worst = f64::INFINITY;
        }
        for (place, (got, want)) in got.iter().zip(want).enumerate() {
            let gap = (got - want).abs();
            let gap =
                if let Limit::Relative { floor, .. } = limit { gap / want.abs().max(floor) } else { gap };
            // A difference that is not a number is the worst there can be.
            let gap = if gap.is_nan() { f64::INFINITY } else { gap };
            if gap > row.worst {
                (row.worst, row.place) = (gap, place);
            }
        }
        row
    }

    /// Whether the worst difference is within the limit.
    pub fn passes(&self) -> bool {
        self.worst
            <= match self.limit {
                Limit::Equal => 0.0,
                Limit::Absolute(x) | Limit::Relative { share: x, .. } => x,
            }
    }
}

/// Bytes of logits held at once, and rows.
pub(super) const MEMORY: usize = 64 << 20;
pub(super) const EXEC: ExecOptions<'static> = ExecOptions {
    memory: MemoryPlan { clean: 1, rows: 2048, bytes: MEMORY, saved: MEMORY },
    naive: false,
    on_progress: &|_| (),
};
