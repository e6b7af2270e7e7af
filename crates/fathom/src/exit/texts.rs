//! The fitting, the calibration and the held-out texts.

use crate::prompts::OpenSet;
use crate::texts::{Division, Part, Texts};
use crate::{Exit, Observer, Result};
use fathom_model::Backend;
use fathom_model::source::Loaded;

const TOGETHER: [Part; 3] = [
    ("fitting", ", a quarter", 64),
    ("calibration", ", three eighths", 160),
    ("held-out", ", the rest", 256),
];

const APART: [Part; 2] = [("fitting", ", two fifths", 102), ("calibration", ", three fifths", 256)];

/// Reads the three sets.
pub(super) fn read<B: Backend>(
    e: &Exit,
    data: OpenSet,
    loaded: &Loaded<B>,
    observer: &dyn Observer,
) -> Result<[Texts; 3]> {
    let division = Division {
        options: &e.options,
        limit: e.texts().limit,
        heldout: e.heldout_texts(),
        together: &TOGETHER,
        apart: &APART,
        decides: "risk would be measured on texts that thresholds were calibrated on",
    };
    let mut all = division.read(data, loaded, &|_, _| Ok(()), observer)?;
    let mut last = || all.pop().unwrap_or_default();
    let (heldout, calibration, fit) = (last(), last(), last());
    Ok([fit, calibration, heldout])
}
