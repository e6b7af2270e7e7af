//! Mixtures of experts, one row and one expert at a time.

use super::{Linear, Row, add, dot};
use fathom_kernels::elementwise::Activation;
use fathom_model::config::{Experts, Score};

/// One MLP.
pub(super) struct FeedForward {
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl FeedForward {
    pub(super) fn of(&self, kind: Activation, x: &[f64]) -> Row {
        let act = |x: &f64| super::activation(kind, *x);
        let up = self.up.of(x);
        let inner: Row = match &self.gate {
            Some(gate) => gate.of(x).iter().zip(up).map(|(g, u)| act(g) * factor(kind, u)).collect(),
            None => up.iter().map(act).collect(),
        };
        self.down.of(&inner)
    }
}

/// The other factor of a gated MLP.
fn factor(kind: Activation, u: f64) -> f64 {
    match kind {
        Activation::ClampedSwiglu => u.clamp(-7.0, 7.0) + 1.0,
        _ => u,
    }
}

pub(super) struct Mixture {
    pub(super) about: Experts,
    pub(super) router: Linear,
    pub(super) correction: Row,
    /// Factors on the weights of experts.
    pub(super) scale: Row,
    pub(super) experts: Vec<FeedForward>,
    pub(super) shared: Option<FeedForward>,
    pub(super) shared_gate: Option<Linear>,
}

impl Mixture {
    pub(super) fn of(&self, kind: Activation, x: &[f64]) -> Row {
        let mut sum = vec![0.0; x.len()];
        for (expert, weight) in self.route(x) {
            let times = |x: &[f64], factor: f64| -> Row { x.iter().map(|x| factor * x).collect() };
            let [before, behind] = if self.about.routing.on_input { [weight, 1.0] } else { [1.0, weight] };
            let out = self.experts[expert].of(kind, &times(x, before));
            sum = add(&sum, &times(&out, behind));
        }
        if let Some(shared) = &self.shared {
            let weight = self.shared_gate.as_ref().map_or(1.0, |gate| sigmoid(dot(&gate.weight[0], x)));
            sum = add(&sum, &shared.of(kind, x).iter().map(|y| weight * y).collect::<Row>());
        }
        sum
    }

    /// The experts that a row takes, with their weights.
    pub(super) fn route(&self, x: &[f64]) -> Vec<(usize, f64)> {
        let routing = self.about.routing;
        let logits = self.router.of(x);
        let scores: Row = match routing.score {
            Score::Softmax => super::softmax(&logits),
            Score::Sigmoid => logits.iter().map(|x| sigmoid(*x)).collect(),
        };
        let mut ranked: Row = scores.iter().zip(&self.correction).map(|(s, c)| s + c).collect();
        if let Some(groups) = routing.groups {
            let size = ranked.len() / groups.count;
            let judge = |group: usize| -> f64 {
                let mut of: Row = ranked[group * size..(group + 1) * size].to_vec();
                of.sort_by(|a, b| b.total_cmp(a));
                of[..groups.best].iter().sum()
            };
            let judged: Row = (0..groups.count).map(judge).collect();
            for group in 0..groups.count {
                let better = judged.iter().filter(|other| **other > judged[group]).count();
                if better >= groups.kept {
                    ranked[group * size..(group + 1) * size].fill(f64::NEG_INFINITY);
                }
            }
        }
        let rank = |expert: usize| ranked.iter().filter(|other| **other > ranked[expert]).count();
        let chosen: Vec<usize> = (0..ranked.len()).filter(|e| rank(*e) < self.about.active).collect();
        assert_eq!(chosen.len(), self.about.active, "two experts have the same score");
        let sum: f64 = if routing.normalised { chosen.iter().map(|e| scores[*e]).sum() } else { 1.0 };
        let weight = |e: usize| f64::from(routing.scale) * scores[e] / sum * self.scale[e];
        chosen.into_iter().map(|e| (e, weight(e))).collect()
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
