//! Residual critics with layer norm: h = W x + b, then h ← h + W₂ relu(W₁ LN(h) + b₁) + b₂ block by block, then a head on
//! LN(h) (as BRO, arXiv 2405.16158, and SimBa, arXiv 2410.09754).
//!
//! Passes are written out here: on networks this small an update with burn's automatic differentiation took up to four times as
//! long. The gradients are checked against finite differences.
//!
//! LN has no gain and no shift of its own: the matrix and the vector that follow it would only be multiplied by one and
//! added to the other.

use crate::random::{normal, stream};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2, NdFloat};
use std::ops::Range;

/// Added to the variance before its root.
const EPSILON: f64 = 1e-5;

/// The sizes of a critic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The length of an observation.
    pub inputs: usize,
    /// The width of the residual stream.
    pub width: usize,
    /// The inner width of a block.
    pub inner: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The number of actions.
    pub outputs: usize,
}

/// A matrix `[inputs, outputs]` and a vector `[outputs]`, in the list of all weights.
#[derive(Clone, Copy, Debug)]
struct Linear {
    at: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    fn matrix(self) -> Range<usize> {
        self.at..self.at + self.inputs * self.outputs
    }

    fn vector(self) -> Range<usize> {
        let end = self.matrix().end;
        end..end + self.outputs
    }
}

impl Shape {
    /// The number of weights.
    pub fn count(&self) -> usize {
        self.layers().last().map_or(0, |head| head.vector().end)
    }

    /// The first layer, two for each block, and the head.
    fn layers(&self) -> Vec<Linear> {
        let block = [[self.width, self.inner], [self.inner, self.width]];
        let mut sizes = vec![[self.inputs, self.width]];
        sizes.extend(std::iter::repeat_n(block, self.blocks).flatten());
        sizes.push([self.width, self.outputs]);
        let mut at = 0;
        let mut place = |[inputs, outputs]: [usize; 2]| {
            let layer = Linear { at, inputs, outputs };
            at = layer.vector().end;
            layer
        };
        sizes.into_iter().map(&mut place).collect()
    }
}

/// A critic: one value for each action.
#[derive(Clone, Debug, PartialEq)]
pub struct Critic<F> {
    shape: Shape,
    weights: Vec<F>,
}

/// What a backward pass needs of a forward pass.
struct Trace<F> {
    /// Of each block: LN(h), what it was divided by, and what relu let through.
    blocks: Vec<(Normed<F>, Array2<F>)>,
    last: Normed<F>,
}

/// Rows without their mean, divided by their standard deviation.
struct Normed<F> {
    values: Array2<F>,
    /// One over the standard deviation of each row.
    scales: Array1<F>,
}

impl<F: NdFloat> Critic<F> {
    /// Normal weights of variance 1 / inputs, twice that before relu; the sum of blocks has the variance of one; the head and all
    /// vectors are 0, so that all values are.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut random = stream(seed, 0);
        let mut weights = vec![F::zero(); shape.count()];
        let layers = shape.layers();
        for (i, layer) in layers.iter().enumerate() {
            let factor = match i {
                0 => 1.0,
                _ if i + 1 == layers.len() => 0.0,
                _ if i % 2 == 1 => 2.0,
                _ => 1.0 / shape.blocks as f64,
            };
            let spread = (factor / layer.inputs as f64).sqrt();
            weights[layer.matrix()]
                .iter_mut()
                .for_each(|weight| *weight = real(spread * normal(&mut random)));
        }
        Self { shape, weights }
    }

    /// The values `[rows, actions]` of observations `[rows, inputs]`.
    pub fn values(&self, observations: ArrayView2<'_, F>) -> Array2<F> {
        self.pass(observations, |_, _| {})
    }

    /// The mean over rows of the squared difference between the values of actions and targets, halved, with the gradient by
    /// each weight.
    pub fn loss(&self, observations: ArrayView2<'_, F>, actions: &[usize], targets: &[F]) -> (F, Vec<F>) {
        let mut blocks = Vec::with_capacity(self.shape.blocks);
        let mut last = None;
        let values = self.pass(observations, |normed, inner| match inner {
            Some(inner) => blocks.push((normed, inner)),
            None => last = Some(normed),
        });
        let mut gradient = vec![F::zero(); self.weights.len()];
        let Some(last) = last else { return (F::zero(), gradient) };
        let rows: F = real(actions.len() as f64);
        let mut by_values = Array2::zeros(values.dim());
        let mut loss = F::zero();
        for (row, (action, target)) in actions.iter().zip(targets).enumerate() {
            let error = values[[row, *action]] - *target;
            loss += real::<F>(0.5) * error * error / rows;
            by_values[[row, *action]] = error / rows;
        }
        self.backward(observations, by_values, &Trace { blocks, last }, &mut gradient);
        (loss, gradient)
    }

    /// A forward pass; what was normed, and the inner vectors of blocks, are handed to `keep`.
    fn pass(
        &self,
        observations: ArrayView2<'_, F>,
        mut keep: impl FnMut(Normed<F>, Option<Array2<F>>),
    ) -> Array2<F> {
        let layers = self.shape.layers();
        let mut h = self.apply(layers[0], observations);
        for pair in layers[1..layers.len() - 1].chunks_exact(2) {
            let normed = Normed::of(&h);
            let mut inner = self.apply(pair[0], normed.values.view());
            inner.mapv_inplace(|value| if value > F::zero() { value } else { F::zero() });
            h += &self.apply(pair[1], inner.view());
            keep(normed, Some(inner));
        }
        let normed = Normed::of(&h);
        let values = self.apply(layers[layers.len() - 1], normed.values.view());
        keep(normed, None);
        values
    }

    fn apply(&self, layer: Linear, inputs: ArrayView2<'_, F>) -> Array2<F> {
        let vector = &self.weights[layer.vector()];
        let mut outputs = inputs.dot(&self.matrix(layer));
        for mut row in outputs.outer_iter_mut() {
            row.iter_mut().zip(vector).for_each(|(output, shift)| *output += *shift);
        }
        outputs
    }

    fn matrix(&self, layer: Linear) -> ArrayView2<'_, F> {
        shaped(&self.weights[layer.matrix()], layer)
    }

    fn backward(
        &self,
        observations: ArrayView2<'_, F>,
        by_values: Array2<F>,
        trace: &Trace<F>,
        gradient: &mut [F],
    ) {
        let layers = self.shape.layers();
        let head = layers[layers.len() - 1];
        add_gradient(head, trace.last.values.view(), &by_values, gradient);
        let mut by_h = trace.last.backward(by_values.dot(&self.matrix(head).t()));
        let pairs = layers[1..layers.len() - 1].chunks_exact(2);
        for (pair, (normed, inner)) in pairs.zip(&trace.blocks).rev() {
            add_gradient(pair[1], inner.view(), &by_h, gradient);
            let mut by_inner = by_h.dot(&self.matrix(pair[1]).t());
            by_inner.zip_mut_with(inner, |by, value| {
                if *value <= F::zero() {
                    *by = F::zero();
                }
            });
            add_gradient(pair[0], normed.values.view(), &by_inner, gradient);
            by_h += &normed.backward(by_inner.dot(&self.matrix(pair[0]).t()));
        }
        add_gradient(layers[0], observations, &by_h, gradient);
    }

    /// Moves all weights towards those of another critic by a share of the difference (Polyak averaging).
    pub fn approach(&mut self, other: &Self, share: F) {
        self.weights
            .iter_mut()
            .zip(&other.weights)
            .for_each(|(mine, other)| *mine += share * (*other - *mine));
    }

    /// Whether all weights are numbers.
    pub fn is_finite(&self) -> bool {
        self.weights.iter().all(|weight| weight.is_finite())
    }
}

/// Writes the gradient by a layer's matrix and vector, given its inputs and the gradient by its outputs.
fn add_gradient<F: NdFloat>(
    layer: Linear,
    inputs: ArrayView2<'_, F>,
    by_outputs: &Array2<F>,
    gradient: &mut [F],
) {
    let (matrix, vector) = gradient[layer.at..layer.vector().end].split_at_mut(layer.matrix().len());
    if let Ok(mut matrix) = ArrayViewMut2::from_shape([layer.inputs, layer.outputs], matrix) {
        ndarray::linalg::general_mat_mul(F::one(), &inputs.t(), by_outputs, F::zero(), &mut matrix);
    }
    let mut vector = ArrayViewMut1::from(vector);
    by_outputs.outer_iter().for_each(|row| vector += &row);
}

fn shaped<F>(weights: &[F], layer: Linear) -> ArrayView2<'_, F> {
    ArrayView2::from_shape([layer.inputs, layer.outputs], weights)
        .expect("a range has the length of its layer")
}

impl<F: NdFloat> Normed<F> {
    fn of(rows: &Array2<F>) -> Self {
        let mut values = rows.clone();
        let width: F = real(rows.ncols() as f64);
        let mut scales = Array1::zeros(rows.nrows());
        for (mut row, scale) in values.outer_iter_mut().zip(&mut scales) {
            let mean = row.sum() / width;
            row.mapv_inplace(|value| value - mean);
            let variance = row.fold(F::zero(), |sum, value| sum + *value * *value) / width;
            *scale = F::one() / (variance + real(EPSILON)).sqrt();
            row.mapv_inplace(|value| value * *scale);
        }
        Self { values, scales }
    }

    /// The gradient by what was normed, given that by the result.
    fn backward(&self, mut by_values: Array2<F>) -> Array2<F> {
        let width: F = real(self.values.ncols() as f64);
        let rows = by_values.outer_iter_mut().zip(self.values.outer_iter()).zip(&self.scales);
        for ((mut by, values), scale) in rows {
            let mean = by.sum() / width;
            let along = by.dot(&values) / width;
            by.zip_mut_with(&values, |by, value| *by = (*by - mean - *value * along) * *scale);
        }
        by_values
    }
}

/// Adam (Kingma and Ba, 2015).
#[derive(Clone, Debug)]
pub struct Adam {
    rate: f32,
    steps: i32,
    means: Vec<f32>,
    squares: Vec<f32>,
}

const DECAY: [f32; 2] = [0.9, 0.999];
const ADAM_EPSILON: f32 = 1e-8;

impl Adam {
    /// For a critic with this many weights.
    pub fn new(count: usize, rate: f64) -> Self {
        Self { rate: rate as f32, steps: 0, means: vec![0.0; count], squares: vec![0.0; count] }
    }

    /// Takes a step down a gradient.
    pub fn step(&mut self, critic: &mut Critic<f32>, gradient: &[f32]) {
        self.steps = self.steps.saturating_add(1);
        let [first, second] = DECAY.map(|decay| 1.0 / (1.0 - decay.powi(self.steps)));
        let moments = self.means.iter_mut().zip(&mut self.squares);
        for ((weight, by), (mean, square)) in critic.weights.iter_mut().zip(gradient).zip(moments) {
            *mean += (1.0 - DECAY[0]) * (by - *mean);
            *square += (1.0 - DECAY[1]) * (by * by - *square);
            *weight -= self.rate * (*mean * first) / ((*square * second).sqrt() + ADAM_EPSILON);
        }
    }
}

fn real<F: NdFloat>(value: f64) -> F {
    F::from(value).unwrap_or_else(F::nan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { inputs: 3, width: 5, inner: 8, blocks: 2, outputs: 4 };
    const ROWS: usize = 6;

    /// A critic whose weights are all different from 0.
    fn critic() -> Critic<f64> {
        let mut critic = Critic::new(SHAPE, 1);
        let mut random = stream(9, 0);
        critic.weights.iter_mut().for_each(|weight| *weight += 0.3 * normal(&mut random));
        critic
    }

    fn observations() -> Array2<f64> {
        let mut random = stream(5, 0);
        Array2::from_shape_simple_fn([ROWS, SHAPE.inputs], || normal(&mut random))
    }

    #[test]
    fn gradients_are_finite_differences() {
        let mut critic = critic();
        let (x, actions, targets) = (observations(), [0, 3, 1, 2, 3, 0], [0.5, -1.0, 0.2, 2.0, -0.3, 0.7]);
        let (_, gradient) = critic.loss(x.view(), &actions, &targets);
        assert_eq!(gradient.len(), 20 + 2 * (48 + 45) + 24);
        let step = 1e-5;
        for (i, by) in gradient.iter().enumerate() {
            let before = critic.weights[i];
            let mut at = |value: f64| {
                critic.weights[i] = value;
                critic.loss(x.view(), &actions, &targets).0
            };
            let slope = (at(before + step) - at(before - step)) / (2.0 * step);
            critic.weights[i] = before;
            assert!((slope - by).abs() < 1e-7 * (1.0 + slope.abs()), "weight {i}: {by}, not {slope}");
            assert!(*by != 0.0 || slope == 0.0);
        }
        assert!(gradient.iter().filter(|by| **by != 0.0).count() > gradient.len() / 2);
    }

    #[test]
    fn values_are_those_of_plain_loops() {
        let critic = critic();
        let linear = |layer: Linear, x: &[f64]| -> Vec<f64> {
            let (matrix, vector) = (&critic.weights[layer.matrix()], &critic.weights[layer.vector()]);
            let column =
                |j: usize| (0..layer.inputs).map(|i| x[i] * matrix[i * layer.outputs + j]).sum::<f64>();
            (0..layer.outputs).map(|j| vector[j] + column(j)).collect()
        };
        let norm = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            x.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt()).collect()
        };
        let layers = SHAPE.layers();
        let x = observations();
        let found = critic.values(x.view());
        for (row, found) in x.outer_iter().zip(found.outer_iter()) {
            let mut h = linear(layers[0], &row.to_vec());
            for block in 0..SHAPE.blocks {
                let inner: Vec<f64> =
                    linear(layers[1 + 2 * block], &norm(&h)).into_iter().map(|v| v.max(0.0)).collect();
                let added = linear(layers[2 + 2 * block], &inner);
                h.iter_mut().zip(added).for_each(|(h, added)| *h += added);
            }
            let values = linear(layers[5], &norm(&h));
            assert!(found.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-12), "{found} {values:?}");
        }
    }

    #[test]
    fn a_new_critic_is_0_and_adam_descends() {
        let mut critic = Critic::<f32>::new(SHAPE, 1);
        let x = observations().mapv(|value| value as f32);
        assert!(critic.values(x.view()).iter().all(|value| *value == 0.0) && critic.is_finite());
        let (actions, targets) = ([0, 3, 1, 2, 3, 0], [0.5, -1.0, 0.2, 2.0, -0.3, 0.7]);
        let mut adam = Adam::new(SHAPE.count(), 1e-2);
        let (before, gradient) = critic.loss(x.view(), &actions, &targets);
        // The first step of Adam is the rate, against the sign of the gradient.
        let first = critic.clone();
        adam.step(&mut critic, &gradient);
        for ((new, old), by) in critic.weights.iter().zip(&first.weights).zip(&gradient) {
            let expected = if *by == 0.0 { 0.0 } else { -1e-2 * by.signum() };
            assert!(by.abs() < 1e-5 && *by != 0.0 || (new - old - expected).abs() < 1e-4, "{new} {old} {by}");
        }
        for _ in 0..300 {
            let (_, gradient) = critic.loss(x.view(), &actions, &targets);
            adam.step(&mut critic, &gradient);
        }
        let (after, _) = critic.loss(x.view(), &actions, &targets);
        assert!(after < 1e-3 * before, "{before} {after}");
    }

    #[test]
    fn polyak_averaging_goes_a_share_of_the_way() {
        let (mut slow, fast) = (critic(), Critic::new(SHAPE, 2));
        let before = slow.weights[7];
        slow.approach(&fast, 0.25);
        assert!((slow.weights[7] - (0.75 * before + 0.25 * fast.weights[7])).abs() < 1e-15);
    }
}
