//! The integral along a path.

use fathom_results::Quadrature;
use std::f64::consts::PI;

/// The target at a point of the path and its derivative along the path there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Where, from 0 at the baseline to 1.
    pub(super) at: f64,
    /// The target.
    pub(super) value: f64,
    /// What each position has to do with the derivative.
    pub(super) slopes: Vec<f64>,
}

/// What is too little to matter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Resolution {
    /// The smallest change of the target that counts.
    pub(super) change: f64,
    /// The unit roundoff of the model's weights and inputs. Points of the path nearer to each
    /// other than this share of it cannot be told apart, nor targets that differ by little more.
    pub(super) rounding: f64,
}

/// The integral of the derivative, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Integral {
    /// What each position has to do with it.
    pub(super) parts: Vec<f64>,
    /// Nodes at which slopes were taken.
    pub(super) nodes: usize,
    /// By how much the rule misses the change of the target, interval by interval, the
    /// absolute values added up; only a rule of intervals that end at nodes can tell.
    pub(super) missed: Option<f64>,
}

/// Nodes of one integral; for the adaptive rule, the number it takes on average.
pub(super) fn expected_nodes(quadrature: Quadrature) -> u64 {
    match quadrature {
        Quadrature::Adaptive => 40,
        Quadrature::GaussLegendre(count) | Quadrature::Riemann(count) => count.into(),
    }
}

/// Integrates along a path whose nodes `evaluate` computes; `ends` are the targets at 0 and 1.
pub(super) fn integrate(
    quadrature: Quadrature,
    ends: [f64; 2],
    limits: Resolution,
    mut evaluate: impl FnMut(&[f64]) -> Vec<Node>,
) -> Integral {
    let fixed = match quadrature {
        Quadrature::Adaptive => return adaptive(ends, limits, &mut evaluate),
        Quadrature::GaussLegendre(count) => rule(count as usize),
        Quadrature::Riemann(steps) => {
            let n = f64::from(steps);
            (0..steps).map(|k| (f64::from(k) / n, 1.0 / n)).collect()
        }
    };
    let (at, weights): (Vec<f64>, Vec<f64>) = fixed.into_iter().unzip();
    let mut parts = Vec::new();
    let nodes = evaluate(&at);
    nodes.iter().zip(weights).for_each(|(node, weight)| add(&mut parts, &node.slopes, weight));
    Integral { parts, nodes: nodes.len(), missed: None }
}

/// Intervals at the beginning.
const INTERVALS: usize = 4;

/// Share of the errors for which intervals are halved at once.
const SHARE: f64 = 0.3;

/// Completeness error that is good enough.
const COMPLETE: f64 = 0.01;

/// What the intervals may miss if no errors cancel, as a share of all that the target moves up and
/// down: errors of opposite sign may belong to different positions, so the completeness error says
/// nothing of a single position.
const APART: f64 = 0.02;

/// No more nodes than this are taken.
const MOST_NODES: usize = 512;

/// A part of the path: its ends and its middle, as places in the list of nodes.
#[derive(Clone, Copy)]
struct Interval {
    nodes: [usize; 3],
    /// The change of the target.
    change: f64,
    /// By how much Simpson's rule exceeds it.
    excess: f64,
    /// The larger target of its ends.
    value: f64,
    /// Its share of the path.
    width: f64,
}

impl Interval {
    fn new(nodes: [usize; 3], all: &[Node]) -> Self {
        let [from, middle, to] = nodes.map(|n| &all[n]);
        let [a, b, c] = [from, middle, to].map(|n| n.slopes.iter().sum::<f64>());
        let integral = (to.at - from.at) / 6.0 * (a + 4.0 * b + c);
        let value = from.value.abs().max(to.value.abs());
        let change = to.value - from.value;
        Self { nodes, change, excess: integral - change, value, width: to.at - from.at }
    }

    /// Whether halves would say more.
    fn shows(&self, rounding: f64) -> bool {
        self.excess.abs() > 4.0 * rounding * self.value && self.width > rounding
    }
}

/// Simpson's rule on intervals that are halved where needed.
fn adaptive(ends: [f64; 2], limits: Resolution, evaluate: &mut impl FnMut(&[f64]) -> Vec<Node>) -> Integral {
    let enough = COMPLETE * (ends[1] - ends[0]).abs().max(limits.change);
    let first: Vec<f64> = (0..=2 * INTERVALS).map(|i| i as f64 / (2 * INTERVALS) as f64).collect();
    let mut all = evaluate(&first);
    let mut intervals: Vec<Interval> =
        (0..INTERVALS).map(|i| Interval::new([2 * i, 2 * i + 1, 2 * i + 2], &all)).collect();
    let missed = |intervals: &[Interval]| intervals.iter().map(|i| i.excess.abs()).sum::<f64>();
    loop {
        let excess: f64 = intervals.iter().map(|i| i.excess).sum();
        let moved: f64 = intervals.iter().map(|i| i.change.abs()).sum();
        let complete = excess.abs() < enough && missed(&intervals) < (APART * moved).max(enough);
        // A half takes one node more.
        let room = MOST_NODES.saturating_sub(all.len()) / 2;
        if complete || room == 0 {
            break;
        }
        // The worst ones, which have this share of the errors together; halves of those within
        // rounding would be no better.
        intervals.sort_by(|a, b| b.excess.abs().total_cmp(&a.excess.abs()));
        let (mut bad, mut good): (Vec<Interval>, Vec<Interval>) =
            intervals.iter().partition(|i| i.shows(limits.rounding));
        if bad.is_empty() {
            break;
        }
        let mut left = SHARE * bad.iter().map(|i| i.excess.abs()).sum::<f64>();
        let worst = bad.iter().take_while(|i| {
            let halve = left > 0.0;
            left -= i.excess.abs();
            halve
        });
        let worst = worst.count().min(room);
        good.extend(bad.split_off(worst));
        let quarters = |i: &Interval| {
            let [from, middle, to] = i.nodes.map(|n| all[n].at);
            [0.5 * (from + middle), 0.5 * (middle + to)]
        };
        let more = evaluate(&bad.iter().flat_map(quarters).collect::<Vec<f64>>());
        let next = all.len();
        all.extend(more);
        let halves = bad.iter().enumerate().flat_map(|(k, i)| {
            let [from, middle, to] = i.nodes;
            let [left, right] = [next + 2 * k, next + 2 * k + 1];
            [[from, left, middle], [middle, right, to]]
        });
        intervals = halves.map(|nodes| Interval::new(nodes, &all)).chain(good).collect();
    }
    // In the order of the path, whatever the order of the errors.
    intervals.sort_by(|a, b| all[a.nodes[0]].at.total_cmp(&all[b.nodes[0]].at));
    let mut parts = Vec::new();
    for Interval { nodes, .. } in &intervals {
        let width = all[nodes[2]].at - all[nodes[0]].at;
        for (node, share) in nodes.iter().zip([1.0, 4.0, 1.0]) {
            add(&mut parts, &all[*node].slopes, share * width / 6.0);
        }
    }
    Integral { parts, nodes: all.len(), missed: Some(missed(&intervals)) }
}

/// `sum += weight x`, where an empty sum is zero.
fn add(sum: &mut Vec<f64>, x: &[f64], weight: f64) {
    sum.resize(x.len(), 0.0);
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += weight * x);
}

/// Nodes and weights of Gauss and Legendre on [0, 1].
fn rule(count: usize) -> Vec<(f64, f64)> {
    let n = count as f64;
    let node = |i: usize| {
        // Newton's method from the usual asymptotic guess converges in a few steps.
        let mut x = (PI * (i as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..20 {
            let (mut before, mut value) = (1.0, x);
            for k in 2..=count {
                let k = k as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..count).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_exact_for_polynomials() {
        for count in [1, 2, 5, 32] {
            let nodes = rule(count);
            assert!(nodes.iter().all(|(r, w)| (0.0..1.0).contains(r) && *w > 0.0));
            for power in 0..2 * count {
                let sum: f64 = nodes.iter().map(|(r, w)| w * r.powi(power as i32)).sum();
                assert!((sum * (power + 1) as f64 - 1.0).abs() < 1e-12, "{count} nodes, power {power}");
            }
        }
    }

    const EXACT: Resolution = Resolution { change: 1e-6, rounding: 0.0 };

    /// Targets that are off by up to a hundredth here and there, as in bfloat16.
    #[test]
    fn rounding_is_not_followed() {
        let path = |at: &[f64]| {
            let node = |&at: &f64| {
                let error = 0.01 * (at * 1e6).sin();
                Node { at, value: 1.0 + 0.3 * at + error, slopes: vec![0.3 * (1.0 + error)] }
            };
            at.iter().map(node).collect()
        };
        let nodes = |rounding| {
            let limits = Resolution { rounding, ..EXACT };
            integrate(Quadrature::Adaptive, [1.0, 1.3], limits, path).nodes
        };
        assert!(nodes(0.005) <= 9, "{} nodes", nodes(0.005));
        assert!(nodes(0.0) > 9, "{} nodes without it", nodes(0.0));
    }

    /// A parabola and a step at `place`, `width` wide, in which two positions share.
    fn step(place: f64, width: f64) -> impl Fn(&[f64]) -> Vec<Node> {
        move |at| {
            let node = |&at: &f64| {
                let tanh = ((at - place) / width).tanh();
                let slope = (1.0 - tanh * tanh) / width;
                let slopes = vec![1.5 * slope, 2.0 * at - 0.5 * slope];
                Node { at, value: tanh + at * at, slopes }
            };
            at.iter().map(node).collect()
        }
    }

    #[track_caller]
    fn check(quadrature: Quadrature, place: f64, width: f64, tolerance: f64, most: usize) {
        let path = step(place, width);
        let ends = path(&[0.0, 1.0]);
        let ends = [ends[0].value, ends[1].value];
        let found = integrate(quadrature, ends, EXACT, &path);
        let jump = ends[1] - ends[0] - 1.0;
        for (got, want) in found.parts.iter().zip([1.5 * jump, 1.0 - 0.5 * jump]) {
            assert!((got - want).abs() < tolerance * (ends[1] - ends[0]), "{got} against {want}");
        }
        assert!(found.nodes <= most, "{} nodes", found.nodes);
    }

    #[test]
    fn steep_paths_are_followed() {
        check(Quadrature::Adaptive, 0.2, 0.5, 0.01, 9);
        check(Quadrature::Adaptive, 0.2, 0.01, 0.03, 40);
        check(Quadrature::Adaptive, 0.37, 1e-4, 0.03, 80);
        check(Quadrature::Adaptive, 0.001, 1e-3, 0.03, 40);
    }

    /// A slow rise, and a step up and one down of equal height, each of which the first
    /// intervals miss: the errors cancel in the sum, but each step has a position of its own.
    #[test]
    fn errors_of_opposite_sign_do_not_cancel() {
        let places = [0.19, 0.69];
        let steps = |at: f64| places.map(|place| ((at - place) / 0.01).tanh());
        let path = |at: &[f64]| {
            let node = |&at: &f64| {
                let [up, down] = steps(at);
                let slope = |tanh: f64| (1.0 - tanh * tanh) / 0.01;
                Node { at, value: up - down + at, slopes: vec![slope(up), -slope(down), 1.0] }
            };
            at.iter().map(node).collect()
        };
        let first: Vec<Node> = path(&[0.0, 0.125, 0.25, 0.5, 0.625, 0.75]);
        let [up, down] = [0, 3].map(|n| Interval::new([n, n + 1, n + 2], &first).excess);
        assert!(up.abs() > 1.0 && (up + down).abs() < 1e-9, "{up} and {down}");
        let ends = path(&[0.0, 1.0]);
        let found = integrate(Quadrature::Adaptive, [ends[0].value, ends[1].value], EXACT, path);
        for (got, want) in found.parts.iter().zip([2.0, -2.0, 1.0]) {
            assert!((got - want).abs() < 0.03, "{got} against {want}");
        }
        // The target moves by 5, up and down.
        let missed = found.missed.unwrap();
        let signed: f64 = found.parts.iter().sum::<f64>() - (ends[1].value - ends[0].value);
        assert!(
            signed.abs() < COMPLETE && signed.abs() <= missed && missed < APART * 5.0,
            "{signed}, {missed}"
        );
    }

    #[test]
    fn fixed_rules_take_their_nodes() {
        check(Quadrature::GaussLegendre(32), 0.2, 0.5, 1e-9, 32);
        check(Quadrature::Riemann(1000), 0.5, 0.5, 2e-3, 1000);
        let left = integrate(Quadrature::Riemann(4), [0.0, 1.0], EXACT, step(-9.0, 1.0));
        assert!((left.parts[1] - 2.0 * (0.0 + 0.25 + 0.5 + 0.75) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn a_path_that_never_settles_ends() {
        let noise = |at: &[f64]| {
            let node = |&at: &f64| Node { at, value: at, slopes: vec![(at * 1e7).sin() * 50.0] };
            at.iter().map(node).collect()
        };
        let found = integrate(Quadrature::Adaptive, [0.0, 1.0], EXACT, noise);
        assert!((MOST_NODES - 1..=MOST_NODES).contains(&found.nodes), "{}", found.nodes);
        assert!(found.missed.unwrap() > COMPLETE);
    }
}
