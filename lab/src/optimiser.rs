//! AdamW with warm-up and cosine, and the gradient's norm over all weights.

use crate::decoder::Decoder;
use crate::recipe::Training;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;

/// AdamW that decays matrices and not the gains of norms.
pub fn optimiser(training: &Training) -> ModuleOptimizer {
    let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8);
    let gains = burn::module::ParamGroup::from_predicate("norm");
    config.clone().with_weight_decay(training.weight_decay as f32).init().with_group(
        gains,
        config.with_weight_decay(0.0).build(),
        None,
    )
}

/// The learning rate of a step: rising over the warm-up, then half a cosine down to the last rate.
pub fn learning_rate(training: &Training, step: usize, steps: usize) -> f64 {
    let warmup = (training.warmup * steps as f64).ceil();
    let step = step as f64;
    if step < warmup {
        return training.learning_rate * (step + 1.0) / warmup;
    }
    let progress = (step - warmup) / (steps as f64 - warmup).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    training.learning_rate * (training.last_rate + (1.0 - training.last_rate) * cosine)
}

/// Scales gradients so that their norm over all weights is at most `most`, and returns what it was.
pub fn clip(grads: &mut GradientsParams, decoder: &Decoder, most: f64) -> f64 {
    let mut norm = SumOfSquares { grads, sum: 0.0 };
    decoder.visit(&mut norm);
    let norm = norm.sum.sqrt();
    if norm > most {
        decoder.visit(&mut Scale { grads, by: most / norm });
    }
    norm
}

struct SumOfSquares<'a> {
    grads: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.sum += f64::from(grad.square().sum().into_scalar::<f32>());
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    by: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad.mul_scalar(self.by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn the_rate_rises_then_falls_to_its_last_value() {
        let recipe = "name = 'a'\n[data]\n[model]\nwidth = 8\nlayers = 1\nheads = 1\ncontext = 4\n[training]\ntokens = 400\nbatch = 1\nlearning-rate = 0.5\nwarmup = 0.1\nlast-rate = 0.2\n";
        let recipe: Recipe = toml::from_str(recipe).unwrap();
        let rate = |step| learning_rate(&recipe.training, step, 100);
        assert_eq!((rate(0), rate(9), rate(10)), (0.05, 0.5, 0.5));
        assert!((rate(55) - 0.3).abs() < 1e-12 && (rate(100) - 0.1).abs() < 1e-12);
        assert!((10..99).all(|step| rate(step + 1) < rate(step)));
    }
}
