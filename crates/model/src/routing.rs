//! Which experts a row takes and with what weight, from the logits of the router.
//!
//! Routing is computed on the host, in f64 and row by row, so it depends neither on the device nor on the batch.

use crate::config::{Experts, Groups, Routing, Score};

/// The experts that some rows of one layer take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Experts of a row, k.
    pub active: usize,
    /// `[rows, k]`, ascending within a row.
    pub experts: Vec<u32>,
    /// The weight of each of [`Self::experts`], `[rows, k]`.
    pub weights: Vec<f32>,
}

impl Routes {
    /// Some of the rows.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let part = rows.start * self.active..rows.end * self.active;
        Self {
            active: self.active,
            experts: self.experts[part.clone()].to_vec(),
            weights: self.weights[part].to_vec(),
        }
    }

    /// The rows that take each of `count` experts: places in [`Self::experts`], ascending.
    pub(crate) fn by_expert(&self, count: usize) -> Vec<Vec<u32>> {
        let mut places = vec![Vec::new(); count];
        for (place, expert) in self.experts.iter().enumerate() {
            places[*expert as usize].push(place as u32);
        }
        places
    }
}

/// What a checkpoint stores for each expert beside the router, `[E]` each.
#[derive(Clone, Copy, Default)]
pub(crate) struct PerExpert<'a> {
    /// Added to scores while experts are chosen.
    pub(crate) correction: Option<&'a [f32]>,
    /// Factors on the weights.
    pub(crate) scale: Option<&'a [f32]>,
}

impl PerExpert<'_> {
    fn scale_of(&self, expert: usize) -> f64 {
        self.scale.map_or(1.0, |all| f64::from(all[expert]))
    }
}

/// Chooses experts for every row.
///
/// # Shapes
/// `logits [rows, E]`.
pub(crate) fn route(experts: &Experts, stored: PerExpert<'_>, logits: &[f32]) -> Routes {
    let mut routes = Routes { active: experts.active, ..Routes::default() };
    for row in logits.chunks_exact(experts.count) {
        let mut chosen = choose(experts, stored.correction, row);
        chosen.sort_unstable();
        let weights = weights(&experts.routing, stored, row, &chosen);
        routes.experts.extend(chosen.iter().map(|expert| *expert as u32));
        routes.weights.extend(weights.iter().map(|w| *w as f32));
    }
    routes
}

/// The experts with the highest scores; of equal ones the first.
fn choose(experts: &Experts, correction: Option<&[f32]>, logits: &[f32]) -> Vec<usize> {
    let mut scores = scores(experts.routing.score, logits);
    if let Some(correction) = correction {
        scores.iter_mut().zip(correction).for_each(|(s, c)| *s += f64::from(*c));
    }
    let candidates = match experts.routing.groups {
        Some(groups) => kept(&groups, &scores),
        None => (0..scores.len()).collect(),
    };
    best(candidates, experts.active, |expert| scores[*expert])
}

/// The experts of the groups that are kept.
fn kept(groups: &Groups, scores: &[f64]) -> Vec<usize> {
    let size = scores.len() / groups.count;
    let judged: Vec<f64> = scores
        .chunks_exact(size)
        .map(|group| best((0..size).collect(), groups.best, |i| group[*i]).iter().map(|i| group[*i]).sum())
        .collect();
    let kept = best((0..groups.count).collect(), groups.kept, |group| judged[*group]);
    kept.into_iter().flat_map(|group| group * size..(group + 1) * size).collect()
}

/// The `count` items with the highest scores, best first; of equal ones the smallest.
fn best(mut items: Vec<usize>, count: usize, score: impl Fn(&usize) -> f64) -> Vec<usize> {
    items.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    items.truncate(count);
    items
}

fn scores(kind: Score, logits: &[f32]) -> Vec<f64> {
    match kind {
        Score::Softmax => {
            let top = logits.iter().fold(f64::NEG_INFINITY, |top, x| top.max(f64::from(*x)));
            let mut all: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - top).exp()).collect();
            let sum: f64 = all.iter().sum();
            all.iter_mut().for_each(|x| *x /= sum);
            all
        }
        Score::Sigmoid => logits.iter().map(|x| sigmoid(f64::from(*x))).collect(),
    }
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Below this sum of scores, weights are not divided by it, as in transformers.
const LEAST_SUM: f64 = 1e-20;

fn weights(routing: &Routing, stored: PerExpert<'_>, logits: &[f32], chosen: &[usize]) -> Vec<f64> {
    let all = scores(routing.score, logits);
    let mut weights: Vec<f64> = chosen.iter().map(|expert| all[*expert]).collect();
    let sum: f64 = if routing.normalised { weights.iter().sum::<f64>() + LEAST_SUM } else { 1.0 };
    weights.iter_mut().zip(chosen).for_each(|(w, expert)| {
        *w *= f64::from(routing.scale) * stored.scale_of(*expert) / sum;
    });
    weights
}

/// The gradient of one row's logits from that of its weights. The choice of experts is constant.
///
/// # Shapes
/// `logits`, `d_logits [E]`; `chosen`, `d_weights [k]`.
fn weights_backward(
    routing: &Routing,
    stored: PerExpert<'_>,
    logits: &[f32],
    chosen: &[u32],
    d_weights: &[f64],
    d_logits: &mut [f32],
) {
    let all = scores(routing.score, logits);
    let score = |expert: &u32| all[*expert as usize];
    let scale = |expert: &u32| f64::from(routing.scale) * stored.scale_of(*expert as usize);
    // The gradient of the chosen scores.
    let mut d_scores: Vec<f64> = d_weights.iter().zip(chosen).map(|(d, e)| d * scale(e)).collect();
    if routing.normalised {
        let sum = chosen.iter().map(score).sum::<f64>() + LEAST_SUM;
        let mean = chosen.iter().zip(&d_scores).map(|(e, d)| score(e) * d).sum::<f64>() / sum;
        d_scores.iter_mut().for_each(|d| *d = (*d - mean) / sum);
    }
    match routing.score {
        Score::Sigmoid => {
            for (expert, d) in chosen.iter().zip(&d_scores) {
                let s = score(expert);
                d_logits[*expert as usize] = (d * s * (1.0 - s)) as f32;
            }
        }
        Score::Softmax => {
            let mean: f64 = chosen.iter().zip(&d_scores).map(|(e, d)| score(e) * d).sum();
            let mut all_d: Vec<f64> = all.iter().map(|s| -s * mean).collect();
            for (expert, d) in chosen.iter().zip(&d_scores) {
                all_d[*expert as usize] += score(expert) * d;
            }
            d_logits.iter_mut().zip(all_d).for_each(|(to, d)| *to = d as f32);
        }
    }
}

/// The gradient of the logits from that of the weights of `routes`.
///
/// # Shapes
/// `logits` and the result `[rows, E]`; `d_weights [rows, k]`.
pub(crate) fn route_backward(
    experts: &Experts,
    stored: PerExpert<'_>,
    routes: &Routes,
    logits: &[f32],
    d_weights: &[f64],
) -> Vec<f32> {
    let mut all = vec![0.0; logits.len()];
    let k = routes.active;
    let rows = logits.chunks_exact(experts.count).zip(all.chunks_exact_mut(experts.count));
    for (((logits, d_logits), chosen), d) in
        rows.zip(routes.experts.chunks_exact(k)).zip(d_weights.chunks_exact(k))
    {
        weights_backward(&experts.routing, stored, logits, chosen, d, d_logits);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(score: Score, groups: Option<Groups>) -> Experts {
        let routing = Routing {
            score,
            normalised: true,
            scale: 1.0,
            correction: false,
            on_input: false,
            expert_scale: false,
            groups,
        };
        Experts { count: 6, active: 2, width: 1, shared: 0, shared_gate: false, routing }
    }

    #[test]
    fn the_best_are_chosen_and_of_equal_ones_the_first() {
        let logits = [1.0, 3.0, 0.0, 3.0, 3.0, 2.0];
        let routes = route(&experts(Score::Softmax, None), PerExpert::default(), &logits);
        assert_eq!(routes.experts, [1, 3]);
        assert_eq!(routes.weights, [0.5, 0.5]);
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let correction = [0.0, 0.0, 0.0, 0.0, 0.0, 9.0];
        let logits = [1.0, 0.5, 0.0, 0.0, 0.0, 1.0];
        let stored = PerExpert { correction: Some(&correction), scale: None };
        let routes = route(&experts(Score::Sigmoid, None), stored, &logits);
        assert_eq!(routes.experts, [0, 5]);
        assert_eq!(routes.weights, [0.5, 0.5]);
    }

    #[test]
    fn groups_restrict_the_choice() {
        let groups = Groups { count: 2, kept: 1, best: 2 };
        // The best expert is in a group whose two best have the smaller sum.
        let logits = [9.0, 0.0, 0.0, 6.0, 6.0, 0.0];
        let mut of_sums = experts(Score::Sigmoid, Some(groups));
        of_sums.routing.groups = Some(Groups { best: 2, ..groups });
        assert_eq!(route(&of_sums, PerExpert::default(), &logits).experts, [3, 4]);
        of_sums.routing.groups = Some(Groups { best: 1, ..groups });
        assert_eq!(route(&of_sums, PerExpert::default(), &logits).experts, [0, 1]);
    }

    #[test]
    fn gradients_are_differences() {
        let logits = [0.3f32, -0.2, 0.9, 0.1, 1.4, -1.0];
        let d_weights = [0.7, -1.3];
        for (score, normalised) in
            [Score::Softmax, Score::Sigmoid].iter().flat_map(|s| [(*s, true), (*s, false)])
        {
            let mut of = experts(score, None);
            of.routing = Routing { normalised, scale: 2.5, ..of.routing };
            let scale = [1.0, 0.5, 2.0, 1.5, -0.7, 1.0];
            let stored = PerExpert { correction: None, scale: Some(&scale) };
            let routes = route(&of, stored, &logits);
            let got = route_backward(&of, stored, &routes, &logits, &d_weights);
            for i in 0..6 {
                let chosen: Vec<usize> = routes.experts.iter().map(|e| *e as usize).collect();
                let target = |step: f32| -> f64 {
                    let mut moved = logits;
                    moved[i] += step;
                    weights(&of.routing, stored, &moved, &chosen)
                        .iter()
                        .zip(d_weights)
                        .map(|(w, d)| w * d)
                        .sum()
                };
                let want = (target(1e-2) - target(-1e-2)) / 2e-2;
                assert!((f64::from(got[i]) - want).abs() < 1e-3, "{score:?} {normalised} {i}");
            }
        }
    }
}
