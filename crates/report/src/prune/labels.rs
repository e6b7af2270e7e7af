//! Names of candidates in figures and tables.

use fathom_results::{PruneMethod, Pruning};

/// A method with or without a linear map: a curve of its own.
pub(super) type Kind = (PruneMethod, bool);

/// The kinds of candidates, in the order of the results.
pub(super) fn kinds(pruning: &Pruning) -> Vec<Kind> {
    let mut all: Vec<Kind> = pruning.candidates.iter().map(|c| (c.method, c.replaced.is_some())).collect();
    all.sort_by_key(|(method, linear)| (*linear, *method));
    all.dedup();
    all
}

pub(super) fn name_of((method, linear): Kind) -> String {
    if linear { format!("{}+linear", method.name()) } else { method.name().to_owned() }
}

/// `3, 7..9` for half-open ranges.
pub(super) fn layers(removed: &[[usize; 2]]) -> String {
    let range = |[start, end]: &[usize; 2]| match end - start {
        1 => start.to_string(),
        _ => format!("{start}..{end}"),
    };
    removed.iter().map(range).collect::<Vec<_>>().join(", ")
}
