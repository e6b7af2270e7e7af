//! Quadrature along a path.

use fathom_results::Quadrature;
use std::f64::consts::PI;

/// The target and its derivative along the path, at a point of the path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The point, from 0 (baseline) to 1.
    pub(super) at: f64,
    /// The target.
    pub(super) value: f64,
    /// The contribution of each position to the derivative.
    pub(super) slopes: Vec<f64>,
}

/// The resolution of targets and of points of the path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Resolution {
    /// The smallest change of the target that counts.
    pub(super) change: f64,
    /// The unit roundoff of the model's weights and inputs. Points of the path that are closer than
    /// this are indistinguishable, and so are targets that differ by little more.
    pub(super) rounding: f64,
}

/// The integral of the derivative, its cost and its error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Integral {
    /// The contribution of each position.
    pub(super) parts: Vec<f64>,
    /// The number of nodes.
    pub(super) nodes: usize,
    /// The sum over intervals of the absolute difference between the integral and the change of the
    /// target; only for rules whose intervals end at nodes.
    pub(super) absolute_error: Option<f64>,
}

/// The number of nodes of an integral; for the adaptive rule, on average.
pub(super) fn expected_nodes(quadrature: Quadrature) -> u64 {
    match quadrature {
        // Measured on SmolLM2 with tolerances from 0.5 to 20 %.
        Quadrature::Adaptive(tolerance) => (40.0 * (0.01 / tolerance).powf(0.3)).round() as u64,
        Quadrature::GaussLegendre(count) | Quadrature::Riemann(count) => count.into(),
    }
}

/// Integrates along a path; `evaluate` computes nodes, `ends` are the targets at 0 and 1.
pub(super) fn integrate(
    quadrature: Quadrature,
    ends: [f64; 2],
    resolution: Resolution,
    mut evaluate: impl FnMut(&[f64]) -> Vec<Node>,
) -> Integral {
    let fixed = match quadrature {
        Quadrature::Adaptive(tolerance) => return adaptive(ends, tolerance, resolution, &mut evaluate),
        Quadrature::GaussLegendre(count) => gauss_legendre(count as usize),
        Quadrature::Riemann(steps) => {
            let n = f64::from(steps);
            (0..steps).map(|k| (f64::from(k) / n, 1.0 / n)).collect()
        }
    };
    let (at, weights): (Vec<f64>, Vec<f64>) = fixed.into_iter().unzip();
    let mut parts = Vec::new();
    let nodes = evaluate(&at);
    nodes.iter().zip(weights).for_each(|(node, weight)| add(&mut parts, &node.slopes, weight));
    Integral { parts, nodes: nodes.len(), absolute_error: None }
}

/// Number of intervals at the start.
const INTERVALS: usize = 4;

/// The share of the errors whose intervals are halved in one round.
const SHARE: f64 = 0.3;

/// The tolerated sum of absolute errors as a share of the total variation of the target, over the tolerated completeness
/// error. Errors of opposite sign cancel in the latter although they may belong to different positions.
const APART: f64 = 2.0;

/// The largest number of nodes.
const MAX_NODES: usize = 512;

/// Roundings that the change of the target over an interval may be off by, and the integral of contributions, which have
/// gone through all layers twice. Measured on SmolLM2 in bfloat16: targets of neighbouring points differ by 2 roundings
/// and sums of contributions by 5 (standard deviations), and smaller limits than these take up to twice the nodes without
/// coming nearer to the integral of 1,024 nodes.
const OF_TARGET: f64 = 24.0;
const OF_SLOPES: f64 = 10.0;

/// An interval of the path.
#[derive(Clone, Copy)]
struct Interval {
    /// Indices of the nodes at its start, middle and end.
    nodes: [usize; 3],
    /// The change of the target.
    change: f64,
    /// Simpson's rule minus the change.
    excess: f64,
    /// The part of `excess` that rounding may be the cause of.
    noise: f64,
    /// Its width.
    width: f64,
}

impl Interval {
    fn new(nodes: [usize; 3], all: &[Node], rounding: f64) -> Self {
        let [from, middle, to] = nodes.map(|n| &all[n]);
        let [a, b, c] = [from, middle, to].map(|n| n.slopes.iter().sum::<f64>());
        let integral = (to.at - from.at) / 6.0 * (a + 4.0 * b + c);
        let value = from.value.abs().max(to.value.abs());
        let (change, width) = (to.value - from.value, to.at - from.at);
        let slope = |node: &Node| node.slopes.iter().map(|slope| slope.abs()).sum::<f64>();
        // Where contributions cancel, their sizes are many times the change.
        let moved = width * slope(from).max(slope(middle)).max(slope(to));
        let noise = rounding * (OF_TARGET * value).max(OF_SLOPES * moved);
        Self { nodes, change, excess: integral - change, noise, width }
    }

    /// The error that rounding does not explain.
    fn error(&self) -> f64 {
        (self.excess.abs() - self.noise).max(0.0)
    }

    /// Whether halving it can help.
    fn can_improve(&self, rounding: f64) -> bool {
        self.error() > 0.0 && self.width > rounding
    }
}

/// Adaptive Simpson's rule: halves the intervals with the largest errors until the errors, beyond what rounding explains,
/// are small.
///
/// `tolerance` is the tolerated completeness error, as a share of the change of the target.
fn adaptive(
    ends: [f64; 2],
    tolerance: f64,
    resolution: Resolution,
    evaluate: &mut impl FnMut(&[f64]) -> Vec<Node>,
) -> Integral {
    let change = (ends[1] - ends[0]).abs().max(resolution.change);
    let noise = OF_TARGET * resolution.rounding * ends[0].abs().max(ends[1].abs());
    let mut partition = Partition::new(resolution.rounding, evaluate);
    while !partition.is_accurate(tolerance, change, noise) {
        let worst = partition.take_worst();
        if worst.is_empty() {
            break;
        }
        partition.halve(&worst, evaluate);
    }
    partition.integral()
}

/// A partition of the path into intervals, and the nodes evaluated so far.
struct Partition {
    nodes: Vec<Node>,
    intervals: Vec<Interval>,
    /// The unit roundoff.
    rounding: f64,
}

impl Partition {
    /// Intervals of equal width.
    fn new(rounding: f64, evaluate: &mut impl FnMut(&[f64]) -> Vec<Node>) -> Self {
        let at: Vec<f64> = (0..=2 * INTERVALS).map(|i| i as f64 / (2 * INTERVALS) as f64).collect();
        let nodes = evaluate(&at);
        let interval = |i: usize| Interval::new([2 * i, 2 * i + 1, 2 * i + 2], &nodes, rounding);
        let intervals = (0..INTERVALS).map(interval).collect();
        Self { nodes, intervals, rounding }
    }

    /// The sum of the absolute errors.
    fn absolute_error(&self) -> f64 {
        self.intervals.iter().map(|i| i.excess.abs()).sum()
    }

    /// Whether the errors are tolerated, of a target that changes by `change` with the error `noise`.
    fn is_accurate(&self, tolerance: f64, change: f64, noise: f64) -> bool {
        let excess: f64 = self.intervals.iter().map(|i| i.excess).sum();
        let error: f64 = self.intervals.iter().map(Interval::error).sum();
        let moved: f64 = self.intervals.iter().map(|i| i.change.abs()).sum();
        excess.abs() - noise < tolerance * change && error < tolerance * (APART * moved).max(change)
    }

    /// Removes and returns the intervals to halve: those with the largest errors, which together have the share
    /// [`SHARE`] of the errors. Empty if no more nodes are allowed or all errors are within rounding.
    fn take_worst(&mut self) -> Vec<Interval> {
        // Halving an interval takes two nodes.
        let most = MAX_NODES.saturating_sub(self.nodes.len()) / 2;
        if most == 0 {
            return Vec::new();
        }
        self.intervals.sort_by(|a, b| b.excess.abs().total_cmp(&a.excess.abs()));
        let (mut bad, mut good): (Vec<Interval>, Vec<Interval>) =
            self.intervals.iter().partition(|i| i.can_improve(self.rounding));
        let mut left = SHARE * bad.iter().map(|i| i.excess.abs()).sum::<f64>();
        let worst = bad.iter().take_while(|i| {
            let halve = left > 0.0;
            left -= i.excess.abs();
            halve
        });
        let worst = worst.count().min(most);
        good.extend(bad.split_off(worst));
        self.intervals = good;
        bad
    }

    /// Adds the halves of some intervals.
    fn halve(&mut self, intervals: &[Interval], evaluate: &mut impl FnMut(&[f64]) -> Vec<Node>) {
        let quarters = |i: &Interval| {
            let [from, middle, to] = i.nodes.map(|n| self.nodes[n].at);
            [0.5 * (from + middle), 0.5 * (middle + to)]
        };
        let more = evaluate(&intervals.iter().flat_map(quarters).collect::<Vec<f64>>());
        let next = self.nodes.len();
        self.nodes.extend(more);
        let halves = intervals.iter().enumerate().flat_map(|(k, i)| {
            let [from, middle, to] = i.nodes;
            let [left, right] = [next + 2 * k, next + 2 * k + 1];
            [[from, left, middle], [middle, right, to]]
        });
        let halves = halves.map(|nodes| Interval::new(nodes, &self.nodes, self.rounding));
        self.intervals = halves.chain(self.intervals.iter().copied()).collect();
    }

    /// Simpson's rule on all intervals, summed in the order of the path whatever the order of the errors.
    fn integral(mut self) -> Integral {
        self.intervals.sort_by(|a, b| self.nodes[a.nodes[0]].at.total_cmp(&self.nodes[b.nodes[0]].at));
        let mut parts = Vec::new();
        for Interval { nodes, .. } in &self.intervals {
            let width = self.nodes[nodes[2]].at - self.nodes[nodes[0]].at;
            for (node, share) in nodes.iter().zip([1.0, 4.0, 1.0]) {
                add(&mut parts, &self.nodes[*node].slopes, share * width / 6.0);
            }
        }
        Integral { parts, nodes: self.nodes.len(), absolute_error: Some(self.absolute_error()) }
    }
}

/// `sum += weight x`, where an empty sum is zero.
fn add(sum: &mut Vec<f64>, x: &[f64], weight: f64) {
    sum.resize(x.len(), 0.0);
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += weight * x);
}

/// Nodes and weights of Gauss-Legendre quadrature on [0, 1].
fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
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
            let nodes = gauss_legendre(count);
            assert!(nodes.iter().all(|(r, w)| (0.0..1.0).contains(r) && *w > 0.0));
            for power in 0..2 * count {
                let sum: f64 = nodes.iter().map(|(r, w)| w * r.powi(power as i32)).sum();
                assert!((sum * (power + 1) as f64 - 1.0).abs() < 1e-12, "{count} nodes, power {power}");
            }
        }
    }

    const EXACT: Resolution = Resolution { change: 1e-6, rounding: 0.0 };

    /// Targets with errors of up to a hundredth, as in bfloat16.
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
            let resolution = Resolution { rounding, ..EXACT };
            integrate(Quadrature::ADAPTIVE, [1.0, 1.3], resolution, path).nodes
        };
        assert!(nodes(0.005) <= 9, "{} nodes", nodes(0.005));
        assert!(nodes(0.0) > 9, "{} nodes without it", nodes(0.0));
    }

    /// A steep path whose targets have errors of up to a hundredth takes no more nodes than without them, and its parts
    /// stay close.
    #[test]
    fn rounding_takes_no_nodes_on_a_steep_path() {
        let steep = step(0.37, 0.01);
        let rounded = |at: &[f64]| {
            let mut nodes = steep(at);
            nodes.iter_mut().for_each(|node| node.value *= 1.0 + 0.004 * (node.at * 1e6).sin());
            nodes
        };
        let ends = steep(&[0.0, 1.0]).iter().map(|node| node.value).collect::<Vec<f64>>();
        let find = |rounding, path: &dyn Fn(&[f64]) -> Vec<Node>| {
            let resolution = Resolution { rounding, ..EXACT };
            integrate(Quadrature::Adaptive(0.002), [ends[0], ends[1]], resolution, path)
        };
        let (exact, followed, found) = (find(0.0, &steep), find(0.0, &rounded), find(5e-4, &rounded));
        assert!(
            found.nodes <= exact.nodes && exact.nodes < followed.nodes,
            "{} {} {}",
            found.nodes,
            exact.nodes,
            followed.nodes
        );
        for (got, want) in found.parts.iter().zip(&exact.parts) {
            assert!((got - want).abs() < 0.04 * (ends[1] - ends[0]), "{got} against {want}");
        }
    }

    /// Contributions that cancel to a thousandth of their size, with errors of up to half a percent.
    #[test]
    fn rounding_of_contributions_that_cancel_is_not_followed() {
        let path = |at: &[f64]| {
            let error = |at: f64| 0.005 * (at * 1e6).sin();
            let node = |&at: &f64| Node {
                at,
                value: 1.0 + 0.3 * at,
                slopes: vec![300.0 * (1.0 + error(at)), -299.7 * (1.0 - error(at))],
            };
            at.iter().map(node).collect()
        };
        let nodes = |rounding| {
            let resolution = Resolution { rounding, ..EXACT };
            integrate(Quadrature::ADAPTIVE, [1.0, 1.3], resolution, path).nodes
        };
        assert_eq!(nodes(0.005), 9);
        assert!(nodes(1e-6) > 100, "{} nodes without it", nodes(1e-6));
    }

    /// A parabola and a step at `place` of width `width`, shared by two positions.
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
        check(Quadrature::ADAPTIVE, 0.2, 0.5, 0.01, 9);
        check(Quadrature::ADAPTIVE, 0.2, 0.01, 0.03, 40);
        check(Quadrature::ADAPTIVE, 0.37, 1e-4, 0.03, 80);
        check(Quadrature::ADAPTIVE, 0.001, 1e-3, 0.03, 40);
    }

    /// A slow rise, and a step up and one down of equal height, both missed by the first intervals:
    /// the errors cancel in the sum, but the steps belong to different positions.
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
        let [up, down] = [0, 3].map(|n| Interval::new([n, n + 1, n + 2], &first, 0.0).excess);
        assert!(up.abs() > 1.0 && (up + down).abs() < 1e-9, "{up} and {down}");
        let ends = path(&[0.0, 1.0]);
        let found = integrate(Quadrature::ADAPTIVE, [ends[0].value, ends[1].value], EXACT, path);
        for (got, want) in found.parts.iter().zip([2.0, -2.0, 1.0]) {
            assert!((got - want).abs() < 0.03, "{got} against {want}");
        }
        // The target moves by 5, up and down.
        let error = found.absolute_error.unwrap();
        let signed: f64 = found.parts.iter().sum::<f64>() - (ends[1].value - ends[0].value);
        assert!(
            signed.abs() < 0.01 && signed.abs() <= error && error < 0.01 * APART * 5.0,
            "{signed}, {error}"
        );
    }

    #[test]
    fn a_larger_tolerance_takes_fewer_nodes_and_is_kept() {
        let mut before = usize::MAX;
        for tolerance in [1e-4, 1e-3, 0.01, 0.1] {
            let rule = Quadrature::Adaptive(tolerance);
            let ends = step(0.37, 0.01)(&[0.0, 1.0]);
            let found = integrate(rule, [ends[0].value, ends[1].value], EXACT, step(0.37, 0.01));
            let change = ends[1].value - ends[0].value;
            let error = found.parts.iter().sum::<f64>() - change;
            assert!(error.abs() < tolerance * change.abs(), "{tolerance}: {error}");
            assert!(found.nodes < before, "{tolerance}: {} nodes", found.nodes);
            before = found.nodes;
        }
    }

    #[test]
    fn fixed_rules_use_their_nodes() {
        check(Quadrature::GaussLegendre(32), 0.2, 0.5, 1e-9, 32);
        check(Quadrature::Riemann(1000), 0.5, 0.5, 2e-3, 1000);
        let left = integrate(Quadrature::Riemann(4), [0.0, 1.0], EXACT, step(-9.0, 1.0));
        assert!((left.parts[1] - 2.0 * (0.0 + 0.25 + 0.5 + 0.75) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn a_noisy_path_stops_at_the_node_limit() {
        let noise = |at: &[f64]| {
            let node = |&at: &f64| Node { at, value: at, slopes: vec![(at * 1e7).sin() * 50.0] };
            at.iter().map(node).collect()
        };
        let found = integrate(Quadrature::ADAPTIVE, [0.0, 1.0], EXACT, noise);
        assert!((MAX_NODES - 1..=MAX_NODES).contains(&found.nodes), "{}", found.nodes);
        assert!(found.absolute_error.unwrap() > 0.01);
    }
}
