//! The inner kernel in plain Rust.

use super::call::Tile;
use crate::element::Element;
use crate::panel::WIDTH;

/// # Safety
/// The bounds of [`Tile::run`] must hold.
pub(super) unsafe fn run<E: Element>(t: &Tile<'_, E>) {
    for r in 0..t.rows {
        let mut sums = [0.0; WIDTH];
        let x = &t.x[r * t.x_stride..][..t.steps * E::GROUP];
        for (x, step) in x.chunks_exact(E::GROUP).zip(t.panel.chunks_exact(WIDTH * E::GROUP)) {
            for (sum, columns) in sums.iter_mut().zip(step.chunks_exact(E::GROUP)) {
                x.iter().zip(columns).for_each(|(x, w)| *sum += x.to_f32() * w.to_f32());
            }
        }
        // SAFETY: the caller guarantees the row of y.
        unsafe { t.write_row_scalar(r, &sums) };
    }
}
