//! The slopes of ALiBi (arXiv 2108.12409), by which attention scores fall with the distance.

use crate::config::{Alibi, MOST_HEADS, Positions};
use half::bf16;

/// The largest exponent of the slopes in most models: that of the last head is 2^-8.
pub(super) const USUAL: f64 = 8.0;

/// Slopes of `heads` heads. Where these are a power of two, the slopes are `2^(-max k / heads)` for k = 1 to `heads`.
/// Else they are those of the next smaller power, and behind them every other one of the next larger power.
pub(super) fn positions(heads: usize, max: f64) -> Positions {
    // The check of the configuration refuses more heads than this.
    let heads = heads.min(MOST_HEADS + 1);
    let whole = if heads == 0 { 0 } else { 1 << heads.ilog2() };
    let slope = |k: usize, of: usize| (-max * k as f64 / of as f64).exp2() as f32;
    let first = (1..=whole).map(|k| slope(k, whole));
    let slopes = first.chain((0..heads - whole).map(|i| slope(2 * i + 1, 2 * whole))).collect();
    Positions::Alibi(Alibi { slopes, rounded: false })
}

/// As [`positions`], rounded as Falcon rounds them.
pub(super) fn rounded_positions(heads: usize) -> Positions {
    let mut positions = positions(heads, USUAL);
    if let Positions::Alibi(alibi) = &mut positions {
        alibi.slopes.iter_mut().for_each(|slope| *slope = bf16::from_f32(*slope).to_f32());
        alibi.rounded = true;
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        let of = |heads| match positions(heads, USUAL) {
            Positions::Alibi(alibi) => alibi.slopes,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(8), (1..=8).map(|k| 0.5f32.powi(k)).collect::<Vec<_>>());
        assert_eq!(of(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
        assert_eq!(of(1), [0.00390625]);
    }
}
