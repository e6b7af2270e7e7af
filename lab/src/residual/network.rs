//! Residual networks of an MLP in each layer.

use super::recipe::{Kind, Size};
use crate::random::{normal, stream};
use burn::module::{Module, Param};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Tensor, TensorData};

/// Added to the mean square before its root.
const EPSILON: f64 = 1e-6;
/// The number of temperatures at which two networks are compared.
const TEMPERATURES: usize = 16;

/// x ← x + W₂ relu(W₁ rms(x) + b)², layer by layer, then logits of rms(x).
#[derive(Module, Debug)]
pub struct Network {
    /// One for all layers where they share weights.
    layers: Vec<Layer>,
    /// `[outputs, width]`
    head: Param<Tensor<2>>,
    depth: usize,
}

/// Matrices are `[outputs, inputs]`.
#[derive(Module, Debug)]
struct Layer {
    w1: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
    w2: Param<Tensor<2>>,
}

impl Network {
    /// A teacher: W₁ and the head normal with 1/√width, W₂ with 1/√inner, divided by √depth; b is 0.
    pub fn teacher(size: &Size, depth: usize, kind: Kind, seed: u64, device: &Device) -> Self {
        let own = if kind == Kind::Tied { 1 } else { depth };
        let spread = 1.0 / (size.inner as f64).sqrt() / (depth as f64).sqrt();
        Self::new(size, [depth, own], [spread, 1.0], seed, device)
    }

    /// A student: as a teacher, but W₂ and the head are 0, so that it begins as no layers and a constant.
    pub fn student(size: &Size, depth: usize, seed: u64, device: &Device) -> Self {
        Self::new(size, [depth, depth], [0.0, 0.0], seed, device)
    }

    /// Of `depth` layers, `own` of them with weights of their own; `spreads` of W₂, and of the head in 1/√width.
    fn new(size: &Size, [depth, own]: [usize; 2], spreads: [f64; 2], seed: u64, device: &Device) -> Self {
        let Size { width, inner, outputs } = *size;
        let mut random = stream(seed, 0);
        let mut matrix = |rows: usize, columns: usize, spread: f64| {
            let values: Vec<f32> =
                (0..rows * columns).map(|_| (spread * normal(&mut random)) as f32).collect();
            Param::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let scale = 1.0 / (width as f64).sqrt();
        let layers = (0..own)
            .map(|_| Layer {
                w1: matrix(inner, width, scale),
                b: Param::from_data(TensorData::new(vec![0.0f32; inner], [inner]), device),
                w2: matrix(width, inner, spreads[0]),
            })
            .collect();
        Self { layers, head: matrix(outputs, width, spreads[1] * scale), depth }
    }

    /// Logits `[batch, outputs]` of inputs `[batch, width]`.
    pub fn forward(&self, inputs: Tensor<2>) -> Tensor<2> {
        let mut x = inputs;
        for i in 0..self.depth {
            let layer = &self.layers[i.min(self.layers.len() - 1)];
            let inner = normed(x.clone()).matmul(layer.w1.val().transpose()) + layer.b.val().unsqueeze();
            x = x + relu(inner).square().matmul(layer.w2.val().transpose());
        }
        normed(x).matmul(self.head.val().transpose())
    }
}

fn normed(x: Tensor<2>) -> Tensor<2> {
    let rms = x.clone().square().mean_dim(1).add_scalar(EPSILON).sqrt();
    x / rms
}

/// The divergence KL(teacher || student) of the softmaxes of logits `[batch, outputs]`, in nats: the mean over the batch and
/// over temperatures from 0.01 to 1, evenly spaced in their logarithms.
pub fn divergence(teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
    let [batch, outputs] = teacher.dims();
    let exponent = |i: usize| 2.0 - 2.0 * i as f64 / (TEMPERATURES - 1) as f64;
    let sharpness: Vec<f32> = (0..TEMPERATURES).map(|i| 10f64.powf(exponent(i)) as f32).collect();
    let sharpness =
        Tensor::<3>::from_data(TensorData::new(sharpness, [1, TEMPERATURES, 1]), &student.device());
    let log_softmaxes = |logits: Tensor<2>| {
        let logits: Tensor<3> = logits.unsqueeze_dim(1);
        log_softmax(logits.expand([batch, TEMPERATURES, outputs]) * sharpness.clone(), 2)
    };
    let (teacher, student) = (log_softmaxes(teacher), log_softmaxes(student));
    let terms = teacher.clone().exp() * (teacher - student);
    terms.sum().mul_scalar(1.0 / (batch * TEMPERATURES) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 5, inner: 7, outputs: 4 };
    const BATCH: usize = 3;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.try_into_vec_as::<f32>().unwrap().into_iter().map(f64::from).collect()
    }

    /// The weights in f64: of each layer w1, b and w2; the head.
    struct Plain {
        layers: Vec<[Vec<f64>; 3]>,
        head: Vec<f64>,
        depth: usize,
    }

    impl Plain {
        fn of(network: &Network) -> Self {
            let layer =
                |layer: &Layer| [values(layer.w1.val()), values(layer.b.val()), values(layer.w2.val())];
            Self {
                layers: network.layers.iter().map(layer).collect(),
                head: values(network.head.val()),
                depth: network.depth,
            }
        }

        fn logits(&self, x: &[f64]) -> Vec<f64> {
            let product = |w: &[f64], x: &[f64]| -> Vec<f64> {
                w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
            };
            let normed = |x: &[f64]| -> Vec<f64> {
                let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + EPSILON).sqrt();
                x.iter().map(|x| x / rms).collect()
            };
            let mut x = x.to_vec();
            for i in 0..self.depth {
                let [w1, b, w2] = &self.layers[i % self.layers.len()];
                let inner = product(w1, &normed(&x));
                let inner: Vec<f64> = inner.iter().zip(b).map(|(h, b)| (h + b).max(0.0).powi(2)).collect();
                x.iter_mut().zip(product(w2, &inner)).for_each(|(x, added)| *x += added);
            }
            product(&self.head, &normed(&x))
        }
    }

    /// The mean over temperatures of KL(p || q), for one pair of logits.
    fn plain_divergence(p: &[f64], q: &[f64]) -> f64 {
        let of = |temperature: f64| {
            let log_softmax = |z: &[f64]| -> Vec<f64> {
                let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum = z.iter().map(|z| ((z - most) / temperature).exp()).sum::<f64>().ln();
                z.iter().map(|z| (z - most) / temperature - sum).collect()
            };
            let pairs = log_softmax(p).into_iter().zip(log_softmax(q));
            pairs.map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        };
        (0..16).map(|i| of(10f64.powf(-2.0 + 2.0 * f64::from(i) / 15.0))).sum::<f64>() / 16.0
    }

    fn input() -> Vec<f32> {
        (0..BATCH * SIZE.width).map(|i| ((i * 7 % 11) as f32 - 5.0) / 3.0).collect()
    }

    #[test]
    fn logits_and_divergence_are_those_of_a_plain_pass() {
        let device = Device::default();
        for kind in [Kind::Independent, Kind::Tied] {
            let teacher = Network::teacher(&SIZE, 6, kind, 3, &device);
            let other = Network::teacher(&SIZE, 2, Kind::Independent, 4, &device);
            assert_eq!(teacher.layers.len(), if kind == Kind::Tied { 1 } else { 6 });
            let x: Tensor<2> = Tensor::from_data(TensorData::new(input(), [BATCH, SIZE.width]), &device);
            let logits = [teacher.forward(x.clone()), other.forward(x)];
            let plain = [Plain::of(&teacher), Plain::of(&other)];
            let rows: Vec<Vec<f64>> =
                input().chunks(SIZE.width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
            for (found, plain) in logits.iter().zip(&plain) {
                let expected: Vec<f64> = rows.iter().flat_map(|row| plain.logits(row)).collect();
                let found = values(found.clone());
                assert!(
                    found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{found:?} {expected:?}"
                );
            }
            let expected =
                rows.iter().map(|row| plain_divergence(&plain[0].logits(row), &plain[1].logits(row)));
            let expected = expected.sum::<f64>() / BATCH as f64;
            let [p, q] = logits;
            let found = f64::from(divergence(p.clone(), q).into_scalar::<f32>());
            assert!(expected > 0.1 && (found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
            assert!(f64::from(divergence(p.clone(), p).into_scalar::<f32>()).abs() < 1e-6);
        }
    }

    #[test]
    fn an_untrained_student_says_nothing() {
        let device = Device::default();
        let student = Network::student(&SIZE, 3, 1, &device);
        let x: Tensor<2> = Tensor::from_data(TensorData::new(input(), [BATCH, SIZE.width]), &device);
        assert!(values(student.forward(x)).iter().all(|logit| *logit == 0.0));
    }
}
