//! How far the residual stream turns from layer to layer, and what the last layer makes of the stream at each depth
//! (arXiv 2602.05970).

use crate::number::add_weighted;
use crate::vector::cosine;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_kernels::backend::Run;
use fathom_model::{Backend, Buffers, Model, Trace};
use fathom_results::{AngleComponent, AngleFit, Angles, AnglesSample};
use nalgebra::{DMatrix, SymmetricEigen};

/// Positions of a prompt for which the summary has a mean.
const POSITIONS: usize = 64;

/// Principal components in the summary.
const COMPONENTS: usize = 3;

/// The work of [`measure`] on a prompt of `tokens` tokens, and the bytes of its logits.
pub(crate) fn plan<B: Backend>(model: &Model<B>, tokens: usize, memory: MemoryPlan) -> (Work, u64) {
    let (depth, hidden) = (model.config().depth(), model.config().hidden);
    let pairs = (depth + 1) * (depth + 2) / 2 + 3 * (depth - 1);
    let rerun = if tokens > 1 { depth as u64 - 1 } else { 0 };
    let macs = (pairs * tokens * hidden) as u64 + model.layer_macs(depth - 1, tokens) * rerun;
    let head = model.head_macs_per_row() * (depth * tokens.saturating_sub(1)) as u64;
    let logits = rows_at_once(model, memory).min(tokens) * model.config().vocab * 4;
    (Work::plain(0, macs + head), logits as u64)
}

/// Rows whose logits are held at a time.
fn rows_at_once<B: Backend>(model: &Model<B>, memory: MemoryPlan) -> usize {
    (memory.bytes / (model.config().vocab * 4)).max(1)
}

/// Measures one prompt.
pub fn measure<B: Backend>(model: &Model<B>, trace: &Trace<B>, exec: &ExecOptions<'_>) -> AnglesSample {
    let on = model.backend();
    let levels = trace.resid.len();
    let products = on.gram(trace.hidden, &trace.resid.iter().collect::<Vec<_>>());
    let updates = update_products(on, trace);
    let losses = last_layer_losses(model, trace, exec);
    let mut numbers = on.read(std::iter::once(products).chain(updates).collect()).into_iter();
    let products = numbers.next().unwrap_or_default();
    let mut sample = AnglesSample::default();
    let mut sums = Sums::default();
    for products in products.chunks_exact(levels * (levels + 1) / 2) {
        let token = Token::of(products, levels);
        sample.centre.push(token.as_ref().map_or(f64::NAN, Token::centre));
        token.iter().for_each(|token| sums.add(token));
    }
    let kept: Vec<bool> = sample.centre.iter().map(|centre| !centre.is_nan()).collect();
    let counted = kept.iter().filter(|kept| **kept).count();
    sample.left_out = kept.len() - counted;
    let share = 1.0 / counted.max(1) as f64;
    let mean = |sum: Vec<f64>| sum.into_iter().map(|x| x * share).collect::<Vec<f64>>();
    (sample.step, sample.to_end) = (mean(sums.step), mean(sums.to_end));
    sample.products = sums.products.into_iter().map(mean).collect();
    (sample.updates, sample.updates_left_out) = between_updates(&numbers.collect::<Vec<_>>(), &kept);
    sample.last_layer_nll = losses;
    sample
}

/// The angles of one token.
struct Token {
    /// `[L]`.
    step: Vec<f64>,
    /// `[L]`.
    to_end: Vec<f64>,
}

impl Token {
    /// From the scalar products of all pairs of levels; `None` where a stream is zero.
    fn of(products: &[f64], levels: usize) -> Option<Self> {
        // Rows of the upper triangle, each from the diagonal on.
        let product = |i: usize, j: usize| products[i * levels - i * (i + 1) / 2 + j];
        let norms: Vec<f64> = (0..levels).map(|l| product(l, l).sqrt()).collect();
        if norms.contains(&0.0) {
            return None;
        }
        let between = |i: usize, j: usize| angle(product(i, j), norms[i], norms[j]);
        let last = levels - 1;
        Some(Self {
            step: (0..last).map(|l| between(l, l + 1)).collect(),
            to_end: (0..last).map(|l| between(l, last)).collect(),
        })
    }

    /// The layer around which the token turns.
    fn centre(&self) -> f64 {
        let total: f64 = self.step.iter().sum();
        let weighted: f64 = self.step.iter().enumerate().map(|(l, step)| l as f64 * step).sum();
        // A stream that never turns does so nowhere in particular.
        if total > 0.0 { weighted / total } else { (self.step.len() - 1) as f64 / 2.0 }
    }
}

fn angle(product: f64, a: f64, b: f64) -> f64 {
    cosine(product, a, b).clamp(-1.0, 1.0).acos()
}

/// Sums over tokens.
#[derive(Default)]
struct Sums {
    step: Vec<f64>,
    to_end: Vec<f64>,
    products: Vec<Vec<f64>>,
}

impl Sums {
    fn add(&mut self, token: &Token) {
        add_weighted(&mut self.step, &token.step, 1.0);
        add_weighted(&mut self.to_end, &token.to_end, 1.0);
        self.products.resize(token.step.len(), Vec::new());
        for (i, row) in self.products.iter_mut().enumerate() {
            add_weighted(row, &token.step[i..], token.step[i]);
        }
    }
}

/// The scalar products of what neighbouring layers add, `[L - 1]` of `[T, 3]`.
fn update_products<B: Backend>(on: &B, trace: &Trace<B>) -> Vec<B::Numbers> {
    let update = |l: usize| {
        let mut update = on.empty();
        on.subtract(&trace.resid[l + 1], &trace.resid[l], &mut update);
        update
    };
    let mut before = update(0);
    let next = |l: usize| {
        let after = update(l);
        let products = on.gram(trace.hidden, &[&before, &after]);
        before = after;
        products
    };
    (1..trace.depth()).map(next).collect()
}

/// Mean angles between neighbouring updates over the tokens with a direction at every layer, and the number of the other
/// tokens.
fn between_updates(products: &[Vec<f64>], kept: &[bool]) -> (Vec<f64>, usize) {
    // Products of a token with itself, with the next update, and of that with itself.
    let of = |token: usize, products: &Vec<f64>| {
        let [a, ab, b] = [0, 1, 2].map(|i| products[3 * token + i]);
        (a > 0.0 && b > 0.0).then(|| angle(ab, a.sqrt(), b.sqrt()))
    };
    let rows = (0..kept.len()).filter(|token| kept[*token]);
    let rows = rows.filter_map(|token| products.iter().map(|p| of(token, p)).collect::<Option<Vec<f64>>>());
    let rows: Vec<Vec<f64>> = rows.collect();
    let mut mean = vec![if rows.is_empty() { f64::NAN } else { 0.0 }; products.len()];
    rows.iter().for_each(|row| add_weighted(&mut mean, row, 1.0 / rows.len() as f64));
    (mean, kept.len() - rows.len())
}

/// The loss per token when the stream of each level goes through the last layer, the final norm and the head, `[L]`.
fn last_layer_losses<B: Backend>(model: &Model<B>, trace: &Trace<B>, exec: &ExecOptions<'_>) -> Vec<f64> {
    let (depth, tokens) = (trace.depth(), trace.tokens.len());
    if tokens < 2 {
        return Vec::new();
    }
    let per_batch = (exec.memory.rows / tokens).max(1);
    let mut losses = Vec::new();
    let levels: Vec<usize> = (0..depth - 1).collect();
    for levels in levels.chunks(per_batch) {
        let out = through_last_layer(model, trace, levels);
        (exec.on_progress)(model.layer_macs(depth - 1, tokens) * levels.len() as u64);
        losses.extend((0..levels.len()).map(|i| loss(model, trace, (&out, i * tokens), exec)));
    }
    losses.push(loss(model, trace, (&trace.resid[depth], 0), exec));
    losses
}

/// The last layer applied to the stream of some levels, `[levels, T, d]`.
fn through_last_layer<B: Backend>(model: &Model<B>, trace: &Trace<B>, levels: &[usize]) -> B::Buffer {
    let (on, d, tokens) = (model.backend(), trace.hidden, trace.tokens.len());
    let mut h = on.empty();
    on.resize(&mut h, levels.len() * tokens * d);
    let (mut runs, mut positions) = (Vec::new(), Vec::new());
    for (i, level) in levels.iter().enumerate() {
        let rows = i * tokens..(i + 1) * tokens;
        let to: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        on.scatter(d, &trace.resid[*level], &to, &mut h);
        positions.extend(0..tokens as u32);
        runs.push(Run { rows, first: 0, length: tokens, past: vec![] });
    }
    let (batch, mut buffers, mut out) = (model.batch(runs), Buffers::new(model), on.empty());
    let last = trace.depth() - 1;
    buffers.keys = model.clean_keys(trace, &positions);
    model.read_tokens(last, trace, &positions, &mut buffers);
    model.layer(last, &batch, &h, &mut buffers, &mut out);
    out
}

/// The loss per token of a stream before the final norm, the rows of a prompt from `first` on.
fn loss<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    (stream, first): (&B::Buffer, usize),
    exec: &ExecOptions<'_>,
) -> f64 {
    let (on, d) = (model.backend(), trace.hidden);
    let followed = trace.tokens.len() - 1;
    let (mut numbers, mut logits) = (Vec::new(), on.empty());
    for start in (0..followed).step_by(rows_at_once(model, exec.memory)) {
        let end = (start + rows_at_once(model, exec.memory)).min(followed);
        let rows = on.copy(stream, (first + start) * d..(first + end) * d);
        numbers.push(model.answer(&rows, &trace.tokens[start + 1..end + 1], &mut logits));
        (exec.on_progress)(model.head_macs_per_row() * (end - start) as u64);
    }
    -on.read(numbers).iter().flatten().sum::<f64>() / followed as f64
}

/// Combines prompts, each with its number of tokens. All tokens have equal weight.
pub fn summarise(samples: &[(&AnglesSample, usize)]) -> Angles {
    let counted = |s: &AnglesSample, tokens: usize| tokens - s.left_out.min(tokens);
    let mean = |weight: &dyn Fn(&AnglesSample, usize) -> usize, of: &dyn Fn(&AnglesSample) -> &Vec<f64>| {
        let present = || samples.iter().filter(|(s, tokens)| weight(s, *tokens) > 0);
        let total: usize = present().map(|(s, tokens)| weight(s, *tokens)).sum();
        let mut mean = Vec::new();
        present().for_each(|(s, tokens)| {
            add_weighted(&mut mean, of(s), weight(s, *tokens) as f64 / total as f64);
        });
        mean
    };
    let step = mean(&counted, &|s| &s.step);
    let products = (0..step.len()).map(|i| mean(&counted, &|s| &s.products[i])).collect::<Vec<_>>();
    let mut updates = mean(&|s, tokens| tokens - s.updates_left_out.min(tokens), &|s| &s.updates);
    if updates.is_empty() {
        updates = vec![f64::NAN; step.len().saturating_sub(1)];
    }
    Angles {
        updates,
        to_end: mean(&counted, &|s| &s.to_end),
        last_layer_nll: mean(&|_, tokens| tokens.saturating_sub(1), &|s| &s.last_layer_nll),
        fit: fit(&step),
        components: components(&step, &products),
        centre_by_position: centre_by_position(samples),
        left_out: samples.iter().map(|(s, _)| s.left_out).sum(),
        updates_left_out: samples.iter().map(|(s, _)| s.updates_left_out).sum(),
        step,
    }
}

/// `theta_l` against `1 / l`, l from 1, without the first and the last layer.
fn fit(step: &[f64]) -> Option<AngleFit> {
    let middle = step.get(1..step.len().saturating_sub(1)).filter(|middle| middle.len() > 2)?;
    let points: Vec<(f64, f64)> =
        middle.iter().enumerate().map(|(i, theta)| (1.0 / (i + 2) as f64, *theta)).collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / n, sum.1 + point.1 / n));
    let moment = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - x, p.1 - y)).sum::<f64>();
    let (xx, xy, yy) = (moment(&|a, _| a * a), moment(&|a, b| a * b), moment(&|_, b| b * b));
    let slope = xy / xx;
    let r2 = if yy > 0.0 { slope * xy / yy } else { f64::NAN };
    Some(AngleFit { intercept: y - slope * x, slope, r2 })
}

/// The principal components of single tokens' angles, from their means and the means of their products.
fn components(step: &[f64], products: &[Vec<f64>]) -> Vec<AngleComponent> {
    let covariance = DMatrix::from_fn(step.len(), step.len(), |i, j| {
        let (i, j) = (i.min(j), i.max(j));
        products[i][j - i] - step[i] * step[j]
    });
    let total = covariance.trace();
    // Negative variances and NaN are rounding of nothing.
    if step.is_empty() || total.is_nan() || total <= 1e-20 {
        return Vec::new();
    }
    let eigen = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..step.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let component = |i: &usize| {
        let mut weights: Vec<f64> = eigen.eigenvectors.column(*i).iter().copied().collect();
        let largest =
            weights.iter().copied().fold(0.0f64, |most, w| if w.abs() > most.abs() { w } else { most });
        weights.iter_mut().for_each(|w| *w *= largest.signum());
        AngleComponent { share: eigen.eigenvalues[*i] / total, weights }
    };
    order.iter().take(COMPONENTS).map(component).collect()
}

/// The mean layer around which tokens turn, by position.
fn centre_by_position(samples: &[(&AnglesSample, usize)]) -> Vec<f64> {
    let longest = samples.iter().map(|(s, _)| s.centre.len()).max().unwrap_or(0).min(POSITIONS);
    let at = |position: usize| {
        let centres = samples.iter().filter_map(|(s, _)| s.centre.get(position)).filter(|c| !c.is_nan());
        let count = centres.clone().count();
        if count == 0 { f64::NAN } else { centres.sum::<f64>() / count as f64 }
    };
    (0..longest).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn a_line_in_one_over_l_is_found() {
        let step: Vec<f64> = (1..=8).map(|l| 0.1 + 0.6 / f64::from(l)).collect();
        let mut bent = step.clone();
        // The first and the last layer do not count.
        (bent[0], bent[7]) = (9.0, 9.0);
        let fit = fit(&bent).unwrap();
        assert_relative_eq!(fit.intercept, 0.1, epsilon = 1e-12);
        assert_relative_eq!(fit.slope, 0.6, epsilon = 1e-12);
        assert_relative_eq!(fit.r2, 1.0, epsilon = 1e-12);
        assert_eq!(super::fit(&step[..4]), None);
    }

    #[test]
    fn components_are_directions_in_which_tokens_differ() {
        // Two tokens, which differ in the first two layers.
        let tokens = [[1.0, 0.2, 0.5], [0.6, 0.5, 0.5]];
        let step: Vec<f64> = (0..3).map(|l| (tokens[0][l] + tokens[1][l]) / 2.0).collect();
        let product = |i: usize, j: usize| (tokens[0][i] * tokens[0][j] + tokens[1][i] * tokens[1][j]) / 2.0;
        let products: Vec<Vec<f64>> = (0..3).map(|i| (i..3).map(|j| product(i, j)).collect()).collect();
        let found = components(&step, &products);
        assert_relative_eq!(found[0].share, 1.0, epsilon = 1e-9);
        for (weight, want) in found[0].weights.iter().zip([0.8, -0.6, 0.0]) {
            assert_relative_eq!(*weight, want, epsilon = 1e-9);
        }
        let same: Vec<Vec<f64>> = (0..3).map(|i| (i..3).map(|j| step[i] * step[j]).collect()).collect();
        assert!(components(&step, &same).is_empty());
    }
}
