//! The calibration and the held-out texts of a pruning.

use crate::prompts::OpenSet;
use crate::texts::{Division, Part, Texts};
use crate::{Observer, Prune, Result};
use fathom_model::Backend;
use fathom_model::source::Loaded;

/// A quarter of the texts is for calibration.
const TOGETHER: [Part; 2] = [("calibration", ", a quarter", 64), ("held-out", ", the rest", 256)];

/// All of them are, where the held-out texts are a set of their own.
const APART: [Part; 1] = [("calibration", "", 256)];

/// Reads both sets.
pub(super) fn read_both<B: Backend>(
    p: &Prune,
    data: OpenSet,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<[Texts; 2]> {
    let division = Division {
        options: &p.options,
        limit: p.texts().limit,
        heldout: p.heldout_texts(),
        together: &TOGETHER,
        apart: &APART,
        decides: "loss would be measured on texts that the layers were chosen on",
    };
    let mut all = division.read(data, loaded, &|_, _| Ok(()), observer)?;
    let heldout = all.pop().unwrap_or_default();
    Ok([all.pop().unwrap_or_default(), heldout])
}
