//! Local optima along a valley.
//!
//! Huber's loss is almost linear far from zero, so its sum over rows has a kink near every row that the law passes
//! through, and many local optima in a row along a flat valley. From each, the valley is walked in both directions of
//! every parameter, and where it dips, the dip is minimised. Squared losses are smooth and need none of this.

use crate::solve::{Optimum, Problem};
use rayon::prelude::*;

/// The distance of two points of a walk, in a parameter's coordinate.
const STEP: f64 = 0.05;

/// The most points of a walk, and the rise of the objective at which it ends.
const POINTS: usize = 80;
const RISE: f64 = 1.02;

/// Laws with more parameters have too many valleys to walk; there, starts have to do.
const MOST_PARAMETERS: usize = 3;

/// The relative difference of objectives up to which two optima are one.
const SAME: f64 = 1e-9;

/// How often the walk starts again from a better optimum.
const ROUNDS: usize = 10;

/// The optima that walks from each of `found` lead to. Starts that ended at one optimum share their walk.
pub(crate) fn search_all(
    problem: &Problem<'_>,
    found: Vec<Option<Optimum>>,
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Vec<Option<Optimum>> {
    if problem.objective.loss.delta().is_none() || problem.law.parameters().len() > MOST_PARAMETERS {
        return found;
    }
    let mut distinct: Vec<Optimum> = Vec::new();
    let which: Vec<Option<usize>> = found
        .into_iter()
        .map(|one| {
            let one = one?;
            let is_same =
                |other: &Optimum| (other.objective - one.objective).abs() <= SAME * one.objective.abs();
            let index = distinct.iter().position(is_same).unwrap_or(distinct.len());
            if index == distinct.len() {
                distinct.push(one);
            }
            Some(index)
        })
        .collect();
    let reached: Vec<Optimum> =
        distinct.into_par_iter().map(|one| search(problem, one, is_stopped)).collect();
    which.into_iter().map(|index| index.map(|index| reached[index].clone())).collect()
}

/// The best optimum that walks from `found` lead to.
fn search(problem: &Problem<'_>, found: Optimum, is_stopped: &(dyn Fn() -> bool + Sync)) -> Optimum {
    let mut best = found;
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
        match held.minimise_roughly(&last.free) {
            Some(one) if one.objective <= RISE * from.objective => walked.push(one),
            _ => break,
        }
    }
    let dips = walked.windows(3).filter(|w| w[1].objective <= w[0].objective.min(w[2].objective));
    dips.map(|window| window[1].free.clone()).collect()
}
