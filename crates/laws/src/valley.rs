//! Local optima along a valley.
//!
//! Huber's loss is almost linear far from zero, so its sum over rows has a kink near every row that the law passes
//! through, and many local optima in a row along a flat valley. From each, the valley is walked in both directions of
//! every parameter, and where it dips, the dip is minimised. Squared losses are smooth and need none of this.

use crate::solve::{Optimum, Problem};

/// The distance of two points of a walk, in a parameter's coordinate.
const STEP: f64 = 0.05;

/// The most points of a walk, and the rise of the objective at which it ends.
const POINTS: usize = 80;
const RISE: f64 = 1.02;

/// How often the walk starts again from a better optimum.
const ROUNDS: usize = 10;

/// The best optimum that walks from `found` lead to.
pub(crate) fn search(problem: &Problem<'_>, found: Optimum, is_stopped: &(dyn Fn() -> bool + Sync)) -> Optimum {
    let mut best = found;
    if problem.objective.loss.delta().is_none() {
        return best;
    }
    for _ in 0..ROUNDS {
        let from = best.clone();
        for index in 0..from.free.len() {
            for step in [STEP, -STEP] {
                if is_stopped() {
                    return best;
                }
                for dip in dips(problem, &from, index, step) {
                    match problem.minimise(&dip) {
                        Some(one) if one.objective < best.objective => best = one,
                        _ => {}
                    }
                }
            }
        }
        if best.objective >= from.objective * (1.0 - 1e-12) {
            break;
        }
    }
    best
}

/// The lowest points of a walk along one parameter, all others being fitted.
fn dips(problem: &Problem<'_>, from: &Optimum, index: usize, step: f64) -> Vec<Vec<f64>> {
    let mut walked: Vec<Optimum> = vec![from.clone()];
    for number in 1..=POINTS {
        let at = from.free[index] + step * number as f64;
        let held = Problem { fixed: Some((index, at)), ..*problem };
        let last = walked.last().expect("a walk has its start");
        match held.minimise(&last.free) {
            Some(one) if one.objective <= RISE * from.objective => walked.push(one),
            _ => break,
        }
    }
    let dips = walked.windows(3).filter(|w| w[1].objective <= w[0].objective.min(w[2].objective));
    dips.map(|window| window[1].free.clone()).collect()
}
