//! A small network with two hidden layers, its backward pass, and AdamW.
//!
//! Columns of a matrix are rows of a batch: `X [inputs, batch]`. Every product is divided into jobs of fixed columns, so no
//! bit depends on the threads.

use nalgebra::{DMatrix, DMatrixViewMut};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;
use rayon::prelude::*;

/// Width of both hidden layers.
pub(super) const HIDDEN: usize = 256;

/// Columns of a product that one job computes.
const COLUMNS: usize = 32;

/// Of AdamW: what steps are multiplied by, the decays of the moments, what is added to the root, and the decay of weights.
const RATE: f32 = 1e-3;
const DECAYS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.01;

/// Numbers that one job of AdamW updates.
const UPDATED: usize = 1 << 14;

/// `out = a b`, or `out = a' b`.
fn product(out: &mut DMatrix<f32>, a: &DMatrix<f32>, transposed: bool, b: &DMatrix<f32>) {
    let rows = out.nrows();
    if rows == 0 {
        return;
    }
    out.as_mut_slice().par_chunks_mut(COLUMNS * rows).enumerate().for_each(|(i, columns)| {
        let count = columns.len() / rows;
        let mut part = DMatrixViewMut::from_slice(columns, rows, count);
        let b = b.columns(i * COLUMNS, count);
        match transposed {
            true => part.gemm_tr(1.0, a, &b, 0.0),
            false => part.gemm(1.0, a, &b, 0.0),
        }
    });
}

/// `out = a b'`.
fn outer(out: &mut DMatrix<f32>, a: &DMatrix<f32>, b: &DMatrix<f32>) {
    let b = b.transpose();
    product(out, a, false, &b);
}

/// A layer `y = W x + b` with its gradients and moments.
#[derive(Clone)]
struct Dense {
    weight: DMatrix<f32>,
    bias: Vec<f32>,
    weight_gradient: DMatrix<f32>,
    bias_gradient: Vec<f32>,
    /// First and second moments of the weights, and of the biases.
    moments: [Vec<f32>; 4],
}

impl Dense {
    /// Uniform numbers within one over the root of the number of inputs.
    fn new(inputs: usize, outputs: usize, random: &mut ChaCha8Rng) -> Self {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut draw = || ((random.next_u32() >> 8) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0) * bound;
        let weight = DMatrix::from_fn(outputs, inputs, |_, _| draw());
        let bias: Vec<f32> = (0..outputs).map(|_| draw()).collect();
        let zeros = |len: usize| vec![0.0; len];
        Self {
            weight_gradient: DMatrix::zeros(outputs, inputs),
            bias_gradient: zeros(outputs),
            moments: [zeros(inputs * outputs), zeros(inputs * outputs), zeros(outputs), zeros(outputs)],
            weight,
            bias,
        }
    }

    fn forward(&self, x: &DMatrix<f32>) -> DMatrix<f32> {
        let mut y = DMatrix::zeros(self.weight.nrows(), x.ncols());
        product(&mut y, &self.weight, false, x);
        for mut column in y.column_iter_mut() {
            column.iter_mut().zip(&self.bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// Sets the gradients, from those of the outputs.
    fn gradients(&mut self, x: &DMatrix<f32>, dy: &DMatrix<f32>) {
        outer(&mut self.weight_gradient, dy, x);
        self.bias_gradient.fill(0.0);
        for column in dy.column_iter() {
            self.bias_gradient.iter_mut().zip(column.iter()).for_each(|(g, d)| *g += d);
        }
    }

    /// The gradient of the inputs.
    fn backward(&self, dy: &DMatrix<f32>) -> DMatrix<f32> {
        let mut dx = DMatrix::zeros(self.weight.ncols(), dy.ncols());
        product(&mut dx, &self.weight, true, dy);
        dx
    }

    fn step(&mut self, corrections: [f32; 2]) {
        let [m, v, bias_m, bias_v] = &mut self.moments;
        adamw(self.weight.as_mut_slice(), self.weight_gradient.as_slice(), m, v, corrections);
        adamw(&mut self.bias, &self.bias_gradient, bias_m, bias_v, corrections);
    }
}

/// A step of AdamW; `corrections` are one minus the powers of the decays.
fn adamw(x: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], corrections: [f32; 2]) {
    let jobs = x.par_chunks_mut(UPDATED).zip(gradient.par_chunks(UPDATED));
    let jobs = jobs.zip(m.par_chunks_mut(UPDATED).zip(v.par_chunks_mut(UPDATED)));
    jobs.for_each(|((x, gradient), (m, v))| {
        for ((x, g), (m, v)) in x.iter_mut().zip(gradient).zip(m.iter_mut().zip(v)) {
            *m = DECAYS[0] * *m + (1.0 - DECAYS[0]) * g;
            *v = DECAYS[1] * *v + (1.0 - DECAYS[1]) * g * g;
            let step = (*m / corrections[0]) / ((*v / corrections[1]).sqrt() + EPSILON);
            *x -= RATE * (WEIGHT_DECAY * *x + step);
        }
    });
}

/// `(1 - w) mean (o - t)^2 + w (|o| - |t|)^2`, with Frobenius norms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// w.
    pub(super) norm_weight: f64,
}

impl Loss {
    /// The loss of a batch.
    fn value(self, out: &DMatrix<f32>, target: &DMatrix<f32>) -> f64 {
        let [out_norm, target_norm] = norms(out, target);
        let gap = out_norm - target_norm;
        (1.0 - self.norm_weight) * mean_square(out, target) + self.norm_weight * gap * gap
    }

    /// Its gradient by the outputs.
    fn gradient(self, out: &DMatrix<f32>, target: &DMatrix<f32>) -> DMatrix<f32> {
        let [out_norm, target_norm] = norms(out, target);
        let error = (1.0 - self.norm_weight) * 2.0 / out.len() as f64;
        let norm = self.norm_weight * 2.0 * (out_norm - target_norm) / out_norm.max(f64::MIN_POSITIVE);
        out.zip_map(target, |o, t| (error * f64::from(o - t) + norm * f64::from(o)) as f32)
    }
}

fn norms(out: &DMatrix<f32>, target: &DMatrix<f32>) -> [f64; 2] {
    [out, target].map(|m| m.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt())
}

/// The mean squared difference of two matrices.
pub(super) fn mean_square(a: &DMatrix<f32>, b: &DMatrix<f32>) -> f64 {
    let sum: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    sum / a.len().max(1) as f64
}

/// inputs -> 256 -> 256 -> outputs, with ReLU.
#[derive(Clone)]
pub(super) struct Network {
    layers: [Dense; 3],
    steps: i32,
}

/// What the backward pass needs of a forward pass: the inputs of each layer, after ReLU.
struct Activations([DMatrix<f32>; 2]);

impl Network {
    pub(super) fn new(inputs: usize, outputs: usize, random: &mut ChaCha8Rng) -> Self {
        let layers = [(inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs)];
        Self { layers: layers.map(|(inputs, outputs)| Dense::new(inputs, outputs, random)), steps: 0 }
    }

    /// Multiply-adds of a forward pass for one row.
    pub(super) fn macs(inputs: usize, outputs: usize) -> u64 {
        (HIDDEN * (inputs + HIDDEN + outputs)) as u64
    }

    fn activate(&self, x: &DMatrix<f32>) -> (Activations, DMatrix<f32>) {
        let relu = |mut m: DMatrix<f32>| {
            m.apply(|x| *x = x.max(0.0));
            m
        };
        let one = relu(self.layers[0].forward(x));
        let two = relu(self.layers[1].forward(&one));
        let out = self.layers[2].forward(&two);
        (Activations([one, two]), out)
    }

    /// The outputs for a batch, `[outputs, batch]`.
    pub(super) fn forward(&self, x: &DMatrix<f32>) -> DMatrix<f32> {
        self.activate(x).1
    }

    /// Sets the gradients of a batch, and returns its loss.
    fn gradients(&mut self, x: &DMatrix<f32>, target: &DMatrix<f32>, loss: Loss) -> f64 {
        let (Activations([one, two]), out) = self.activate(x);
        let through_relu =
            |dy: DMatrix<f32>, y: &DMatrix<f32>| dy.zip_map(y, |d, y| if y > 0.0 { d } else { 0.0 });
        let d_out = loss.gradient(&out, target);
        let d_two = through_relu(self.layers[2].backward(&d_out), &two);
        let d_one = through_relu(self.layers[1].backward(&d_two), &one);
        self.layers[2].gradients(&two, &d_out);
        self.layers[1].gradients(&one, &d_two);
        self.layers[0].gradients(x, &d_one);
        loss.value(&out, target)
    }

    /// A step of AdamW on a batch, `x [inputs, batch]` and `target [outputs, batch]`; returns the loss before it.
    pub(super) fn train(&mut self, x: &DMatrix<f32>, target: &DMatrix<f32>, loss: Loss) -> f64 {
        let value = self.gradients(x, target, loss);
        self.steps += 1;
        let corrections = DECAYS.map(|decay| 1.0 - decay.powi(self.steps));
        self.layers.iter_mut().for_each(|layer| layer.step(corrections));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn batch(rows: usize, columns: usize, random: &mut ChaCha8Rng) -> DMatrix<f32> {
        DMatrix::from_fn(rows, columns, |_, _| (random.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5)
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut network = Network::new(10, 4, &mut random);
        let (x, target) = (batch(10, 6, &mut random), batch(4, 6, &mut random));
        let loss = Loss { norm_weight: 0.1 };
        network.gradients(&x, &target, loss);
        let value = |n: &Network| loss.value(&n.forward(&x), &target);
        let numeric = |change: &dyn Fn(&mut Network, f32)| {
            let step = 1e-2;
            let ends = [step, -step].map(|step| {
                let mut moved = network.clone();
                change(&mut moved, step);
                value(&moved)
            });
            (ends[0] - ends[1]) / (2.0 * f64::from(step))
        };
        for layer in 0..3 {
            let size = network.layers[layer].weight.len();
            let largest = network.layers[layer].weight_gradient.amax();
            assert!(largest > 1e-3, "layer {layer} has gradients");
            for place in (0..size).step_by(size / 23 + 1) {
                let found = network.layers[layer].weight_gradient.as_slice()[place];
                let wanted = numeric(&|n, step| n.layers[layer].weight.as_mut_slice()[place] += step);
                // A step may cross the kink of a ReLU.
                assert!(
                    (f64::from(found) - wanted).abs() < 0.02 * f64::from(largest),
                    "{layer} {place}: {found} {wanted}"
                );
            }
            for place in 0..network.layers[layer].bias.len().min(5) {
                let found = network.layers[layer].bias_gradient[place];
                let wanted = numeric(&|n, step| n.layers[layer].bias[place] += step);
                assert!((f64::from(found) - wanted).abs() < 2e-3, "{layer} bias {place}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn adamw_is_that_of_its_definition() {
        let (mut x, mut m, mut v) = (vec![2.0f32], vec![0.0], vec![0.0]);
        adamw(&mut x, &[0.5], &mut m, &mut v, [0.1, 0.001]);
        // At the first step the corrected moments are g and g^2, so the step is the sign of g.
        assert!((x[0] - (2.0 - 1e-3 * (0.02 + 1.0))).abs() < 1e-7, "{}", x[0]);
        adamw(&mut x, &[-0.5], &mut m, &mut v, [1.0 - 0.81, 1.0 - 0.999f32.powi(2)]);
        let (m, v) = ((0.9 * 0.05 - 0.05) / 0.19, (0.25 * 0.001 * 1.999) / (1.0 - 0.999f64.powi(2)));
        let before = 2.0 - 1e-3 * 1.02;
        let wanted = before - 1e-3 * (0.01 * before + m / v.sqrt());
        assert!((f64::from(x[0]) - wanted).abs() < 1e-6, "{} {wanted}", x[0]);
    }

    #[test]
    fn training_lowers_the_loss_and_threads_change_no_bit() {
        let train = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut random = ChaCha8Rng::seed_from_u64(3);
                let mut network = Network::new(12, 6, &mut random);
                let x = batch(12, 64, &mut random);
                let target = x.rows(0, 6) * 0.5 + x.rows(6, 6) * 0.5;
                let losses: Vec<f64> =
                    (0..60).map(|_| network.train(&x, &target, Loss { norm_weight: 5e-5 })).collect();
                losses
            })
        };
        let losses = train(1);
        assert!(losses[59] < 0.2 * losses[0], "{losses:?}");
        assert_eq!(losses, train(3));
    }
}
