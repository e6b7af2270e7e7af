//! What single experts add in mixtures of experts: how often tokens take them, with what weight, and their part of what
//! all experts of a layer add together.

use crate::number::{add_weighted, short};
use fathom_model::{Backend, Buffers, ExpertPart, Model, Trace};
use fathom_results::Experts;

/// The work of [`measure`]: the experts of every token once more.
pub(crate) fn plan<B: Backend>(model: &Model<B>, tokens: usize) -> crate::Work {
    let macs = layers(model).map(|l| model.mlp_macs_per_row(l) * tokens as u64).sum();
    crate::Work::plain(0, macs)
}

/// The layers with experts.
fn layers<B: Backend>(model: &Model<B>) -> impl Iterator<Item = usize> {
    let layers = model.config().layers.iter().enumerate();
    layers.filter(|(_, layer)| layer.mlp.experts().is_some()).map(|(l, _)| l)
}

/// Measures one prompt, from the stream that enters the experts.
pub fn measure<B: Backend>(model: &Model<B>, trace: &Trace<B>) -> Experts {
    let Some(about) = model.config().experts() else { return Experts::default() };
    let (on, tokens) = (model.backend(), trace.tokens.len());
    let mut sample = Experts {
        layers: layers(model).collect(),
        shared: about.shared > 0,
        active: about.active,
        ..Experts::default()
    };
    let (mut left_out, mut buffers) = (Vec::new(), Buffers::new(model));
    let positions: Vec<u32> = (0..trace.tokens.len() as u32).collect();
    for &l in &sample.layers {
        let mut input = on.copy(&trace.resid[l], 0..on.len(&trace.resid[l]));
        if !model.config().parallel {
            on.add_assign(&mut input, &trace.attn_out[l]);
        }
        model.read_tokens(l, trace, &positions, &mut buffers);
        let parts = model.expert_parts(l, &input, &mut buffers);
        let layer = Layer::of(on, trace.hidden, &parts, about.count + usize::from(sample.shared), tokens);
        let means = |sums: &[f64], over: &dyn Fn(usize) -> usize| {
            let mean = |(e, sum): (usize, &f64)| if over(e) == 0 { f64::NAN } else { sum / over(e) as f64 };
            sums.iter().enumerate().map(mean).map(short).collect::<Vec<f64>>()
        };
        sample.weight.push(means(&layer.weight, &|e| layer.tokens[e]));
        sample.relative_norm.push(means(&layer.relative_norm, &|e| layer.measured[e]));
        sample.share.push(means(&layer.share, &|_| tokens - layer.left_out));
        sample.tokens.push(layer.tokens);
        left_out.push(layer.left_out);
    }
    if left_out.iter().any(|n| *n > 0) {
        sample.left_out = left_out;
    }
    sample
}

/// Sums over the tokens of one layer, by expert.
#[derive(Debug, Default, PartialEq)]
struct Layer {
    tokens: Vec<usize>,
    /// Those of `tokens` whose experts add something.
    measured: Vec<usize>,
    weight: Vec<f64>,
    relative_norm: Vec<f64>,
    share: Vec<f64>,
    left_out: usize,
}

impl Layer {
    /// From what each expert adds; the shared one is the last of `count`.
    fn of<B: Backend>(on: &B, width: usize, parts: &[ExpertPart<B>], count: usize, tokens: usize) -> Self {
        let outputs: Vec<_> = parts.iter().map(|part| on.on_host(&part.output)).collect();
        let mut total = vec![0.0f64; tokens * width];
        for (part, output) in parts.iter().zip(&outputs) {
            for (row, values) in part.rows.iter().zip(output.chunks_exact(width)) {
                let total = &mut total[*row as usize * width..][..width];
                total.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        }
        let squares: Vec<f64> =
            total.chunks_exact(width).map(|row| row.iter().map(|x| x * x).sum()).collect();
        let zeros = || vec![0.0; count];
        let mut layer = Self {
            tokens: vec![0; count],
            measured: vec![0; count],
            weight: zeros(),
            relative_norm: zeros(),
            share: zeros(),
            left_out: squares.iter().filter(|square| **square == 0.0).count(),
        };
        for (part, output) in parts.iter().zip(&outputs) {
            let expert = part.expert.unwrap_or(count - 1);
            layer.tokens[expert] += part.rows.len();
            layer.weight[expert] += match &part.weights {
                Some(weights) => weights.iter().map(|w| f64::from(*w)).sum(),
                None => part.rows.len() as f64,
            };
            for (row, values) in part.rows.iter().zip(output.chunks_exact(width)) {
                let square = squares[*row as usize];
                if square == 0.0 {
                    continue;
                }
                let sum = &total[*row as usize * width..][..width];
                let (own, along) = values.iter().zip(sum).fold((0.0, 0.0), |(own, along), (x, sum)| {
                    let x = f64::from(*x);
                    (own + x * x, along + x * sum)
                });
                layer.measured[expert] += 1;
                layer.relative_norm[expert] += (own / square).sqrt();
                layer.share[expert] += along / square;
            }
        }
        layer
    }
}

/// Combines prompts, each with its number of tokens.
pub fn summarise(samples: &[(&Experts, usize)]) -> Experts {
    let Some((first, _)) = samples.first() else { return Experts::default() };
    let mut all = Experts {
        layers: first.layers.clone(),
        shared: first.shared,
        active: first.active,
        ..Experts::default()
    };
    let left_out = |s: &Experts, l: usize| s.left_out.get(l).copied().unwrap_or(0);
    for l in 0..all.layers.len() {
        let experts = first.tokens.get(l).map_or(0, Vec::len);
        let taken = |s: &Experts, e: usize| s.tokens.get(l).and_then(|row| row.get(e)).copied().unwrap_or(0);
        let mean = |of: &dyn Fn(&Experts) -> &Vec<Vec<f64>>,
                    weight: &dyn Fn(&Experts, usize, usize) -> usize| {
            let mean = |e: usize| {
                let counted = || samples.iter().filter(|(s, tokens)| weight(s, *tokens, e) > 0);
                let total: usize = counted().map(|(s, tokens)| weight(s, *tokens, e)).sum();
                let mut mean = Vec::new();
                counted().for_each(|(s, tokens)| {
                    let value = of(s).get(l).and_then(|row| row.get(e)).copied().unwrap_or(f64::NAN);
                    add_weighted(&mut mean, &[value], weight(s, *tokens, e) as f64 / total as f64);
                });
                mean.first().copied().unwrap_or(f64::NAN)
            };
            (0..experts).map(mean).collect::<Vec<f64>>()
        };
        all.weight.push(mean(&|s| &s.weight, &|s, _, e| taken(s, e)));
        all.relative_norm.push(mean(&|s| &s.relative_norm, &|s, _, e| taken(s, e)));
        all.share.push(mean(&|s| &s.share, &|s, tokens, _| tokens - left_out(s, l).min(tokens)));
        all.tokens.push((0..experts).map(|e| samples.iter().map(|(s, _)| taken(s, e)).sum()).collect());
    }
    let counts = (0..all.layers.len()).map(|l| samples.iter().map(|(s, _)| left_out(s, l)).sum());
    let counts: Vec<usize> = counts.collect();
    if counts.iter().any(|n| *n > 0) {
        all.left_out = counts;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use fathom_model::Cpu;

    fn part(expert: Option<usize>, rows: &[u32], weights: Option<&[f32]>, output: &[f32]) -> ExpertPart<Cpu> {
        ExpertPart {
            expert,
            rows: rows.to_vec(),
            weights: weights.map(<[f32]>::to_vec),
            output: output.to_vec().into(),
        }
    }

    /// Three tokens, two dimensions; the third token's experts cancel.
    #[test]
    fn a_layer_computed_by_hand() {
        let parts = [
            part(Some(0), &[0, 2], Some(&[0.25, 0.5]), &[3.0, 0.0, -1.0, 0.0]),
            part(Some(2), &[1], Some(&[1.0]), &[0.0, 2.0]),
            part(None, &[0, 1, 2], None, &[0.0, 4.0, 0.0, -1.0, 1.0, 0.0]),
        ];
        let layer = Layer::of(&Cpu, 2, &parts, 4, 3);
        assert_eq!(layer.tokens, [2, 0, 1, 3]);
        assert_eq!(layer.measured, [1, 0, 1, 2]);
        assert_eq!(layer.left_out, 1);
        assert_eq!(layer.weight, [0.75, 0.0, 1.0, 3.0]);
        // Token 0: the sum is (3, 4). Token 1: (0, 1).
        assert_relative_eq!(layer.relative_norm[0], 0.6);
        assert_relative_eq!(layer.relative_norm[3], 0.8 + 1.0);
        assert_relative_eq!(layer.share[0], 9.0 / 25.0);
        assert_relative_eq!(layer.share[2], 2.0);
        assert_relative_eq!(layer.share[3], 16.0 / 25.0 - 1.0);
        // Of the two tokens that are counted.
        assert_relative_eq!(layer.share.iter().sum::<f64>(), 2.0);
    }

    #[test]
    fn prompts_are_weighted_by_the_tokens_that_take_an_expert() {
        let sample = |tokens: [usize; 2], weight: [f64; 2], share: [f64; 2]| Experts {
            layers: vec![3],
            active: 1,
            tokens: vec![tokens.to_vec()],
            weight: vec![weight.to_vec()],
            relative_norm: vec![weight.to_vec()],
            share: vec![share.to_vec()],
            ..Experts::default()
        };
        let a = sample([4, 0], [0.5, f64::NAN], [1.0, 0.0]);
        let b = sample([2, 10], [0.8, 0.4], [0.25, 0.75]);
        let all = summarise(&[(&a, 4), (&b, 12)]);
        assert_eq!(all.tokens, [[6, 10]]);
        assert_relative_eq!(all.weight[0][0], (4.0 * 0.5 + 2.0 * 0.8) / 6.0);
        assert_relative_eq!(all.weight[0][1], 0.4);
        assert_relative_eq!(all.share[0][0], (4.0 + 12.0 * 0.25) / 16.0);
        assert_relative_eq!(all.share[0][1], 12.0 * 0.75 / 16.0);
        assert!(all.left_out.is_empty());
    }
}
