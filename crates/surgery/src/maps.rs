//! Affine maps from the levels of one model to those of another (arXiv 2505.13898).
//!
//! For every pair of a source and a target level, the map of least squared error is solved from sums over tokens. All
//! targets of a source share its Gram matrix. Its penalty is chosen on a few random projections of the target, which
//! show the error over all columns at a hundredth of the work.

use crate::least_squares::{Fit, Gram, Intercept, Map, PENALTIES};
use fathom_kernels::backend::Backend;
use fathom_kernels::{Dtype, Linear, OutOfMemory};
use fathom_model::{Cpu, Trace};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Random projections of a target on which the penalty is chosen.
const PROJECTIONS: usize = 16;

/// Rows of a text that are added at a time.
const ROWS: usize = 256;

/// What of a run is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The residual stream at each level, L + 1 of them.
    Levels,
    /// What each layer adds to it, L of them.
    Differences,
}

/// The rows that are mapped, level by level, `[T - 1, d]` each. The first token is left out, because its norm is of
/// another order.
pub fn rows<B: Backend>(on: &B, trace: &Trace<B>, mapped: Mapped) -> Vec<Vec<f32>> {
    let all = |buffer: &B::Buffer| on.download(buffer, trace.hidden.min(on.len(buffer))..on.len(buffer));
    match mapped {
        Mapped::Levels => trace.resid.iter().map(all).collect(),
        Mapped::Differences => {
            let mut difference = on.empty();
            let pairs = trace.resid.windows(2);
            pairs
                .map(|pair| {
                    on.subtract(&pair[1], &pair[0], &mut difference);
                    all(&difference)
                })
                .collect()
        }
    }
}

/// Levels of a text side by side, with their projections.
pub struct Targets {
    /// `[rows, levels d]`.
    side_by_side: Vec<f32>,
    /// `[rows, levels PROJECTIONS]`.
    projected: Vec<f32>,
    levels: usize,
}

/// The random projections of a target.
pub struct Projections {
    /// Signs, `[PROJECTIONS][d]`.
    signs: Vec<Vec<f32>>,
}

impl Projections {
    /// Those of targets of width `d`, always the same.
    pub fn new(d: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut sign = |_| if random.next_u32() & 1 == 0 { 1.0 } else { -1.0 };
        Self { signs: (0..PROJECTIONS).map(|_| (0..d).map(&mut sign).collect()).collect() }
    }

    /// Puts the levels of a text side by side.
    pub fn targets(&self, levels: &[Vec<f32>]) -> Targets {
        let d = self.signs.first().map_or(0, Vec::len).max(1);
        let rows = levels.first().map_or(0, |level| level.len() / d);
        let mut side_by_side = Vec::with_capacity(rows * levels.len() * d);
        let mut projected = Vec::with_capacity(rows * levels.len() * PROJECTIONS);
        for row in 0..rows {
            for level in levels {
                let row = &level[row * d..(row + 1) * d];
                side_by_side.extend_from_slice(row);
                let project = |signs: &Vec<f32>| fathom_kernels::reduction::dot(signs, row) as f32;
                projected.extend(self.signs.iter().map(project));
            }
        }
        Targets { side_by_side, projected, levels: levels.len() }
    }
}

/// The maps from one source level to all target levels, being fitted.
pub struct SourceFit {
    /// Width of the target.
    d: usize,
    /// All texts, all columns.
    all: Gram,
    /// The projections, some of the texts held out.
    projected: Fit,
}

/// A fitted map.
pub struct LevelMap {
    map: Linear,
    /// The penalty, one of [`PENALTIES`].
    pub penalty: f64,
}

/// Why maps from a level cannot be fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFitted {
    /// The activations are not finite or vanish.
    #[error("the activations are not finite or vanish, so no map can be fitted")]
    Singular,
    /// Memory was refused.
    #[error("there is too little memory for the maps")]
    OutOfMemory,
}

impl From<OutOfMemory> for NotFitted {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl SourceFit {
    /// No texts yet: from a level of width `k` to `levels` levels of width `d`.
    pub fn new(k: usize, d: usize, levels: usize) -> Self {
        let all = Gram::new(k, levels * d, Intercept::Fitted);
        Self { d, all, projected: Fit::new(k, levels * PROJECTIONS, Intercept::Fitted) }
    }

    /// Bytes of a fit. Its maps, which take its place, are half as large.
    pub fn bytes(k: usize, d: usize, levels: usize) -> u64 {
        Gram::bytes(k, levels * d) + Fit::bytes(k, levels * PROJECTIONS)
    }

    /// Multiply-adds of adding a token.
    pub fn macs_per_token(k: usize, d: usize, levels: usize) -> u64 {
        (k * levels * (d + PROJECTIONS) + 2 * k * k) as u64
    }

    /// Multiply-adds of solving.
    pub fn macs_of_solving(k: usize, d: usize, levels: usize) -> u64 {
        let (columns, projected) = (levels * d, levels * PROJECTIONS);
        let tried = PENALTIES.len();
        (k * k * (columns + 2 * tried * projected) + (2 * tried) * k * k * k / 6) as u64
    }

    /// Adds a text.
    ///
    /// # Shapes
    /// `source [rows, k]`, as many rows as the targets have.
    pub fn add(&mut self, source: &[f32], targets: &Targets) {
        let k = self.all.inputs();
        let columns = targets.levels * self.d;
        let some = source.chunks(ROWS * k).zip(targets.side_by_side.chunks(ROWS * columns));
        some.for_each(|(x, z)| self.all.add(x, z));
        self.projected.add(source, &targets.projected);
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.all.tokens()
    }

    /// The maps, one for each target level.
    ///
    /// # Errors
    /// When a map has no solution.
    pub fn solve(&self) -> Result<Vec<LevelMap>, NotFitted> {
        let (k, d) = (self.all.inputs(), self.d);
        let chosen: Vec<f64> =
            self.projected.choose(PROJECTIONS).into_iter().map(|best| best.map_or(0.1, |b| b.0)).collect();
        let mut maps: Vec<Option<LevelMap>> = chosen.iter().map(|_| None).collect();
        for penalty in PENALTIES {
            if !chosen.contains(&penalty) {
                continue;
            }
            let solver = self.all.factorise(penalty).ok_or(NotFitted::Singular)?;
            for (l, to) in maps.iter_mut().enumerate().filter(|(l, _)| chosen[*l] == penalty) {
                let map = solver.solve(&self.all, l * d..(l + 1) * d);
                if !map.is_finite() {
                    return Err(NotFitted::Singular);
                }
                *to = Some(LevelMap { map: pack(&map, k, d)?, penalty });
            }
        }
        Ok(maps.into_iter().flatten().collect())
    }
}

/// A map as a linear layer.
fn pack(map: &Map, k: usize, d: usize) -> Result<Linear, OutOfMemory> {
    let bias = map.bias().iter().map(|b| *b as f32).collect();
    let weights = map.transposed();
    Cpu.pack(d, k, Dtype::F32, Some(bias), |rows, to| {
        let from = &weights[rows.start * k..rows.end * k];
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
        Ok::<_, OutOfMemory>(())
    })
}

/// The errors of a map on a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MapErrors {
    /// The sum over tokens of the mean size of the error in shares of the mean size of the target.
    pub relative: f64,
    /// The sum of squares.
    pub squared: f64,
}

impl LevelMap {
    /// Maps the rows of a text and compares them with the target's.
    ///
    /// # Shapes
    /// `source [rows, k]`, `target [rows, d]`.
    pub fn errors(&self, source: &[f32], target: &[f32]) -> MapErrors {
        let (on, d) = (Cpu, fathom_kernels::backend::LinearLayer::outputs(&self.map));
        let mut mapped = on.empty();
        on.linear(&self.map, &on.buffer_of(source), &mut mapped);
        let of_token = |(mapped, target): (&[f32], &[f32])| {
            let (mut size, mut of_target, mut squared) = (0.0, 0.0, 0.0);
            for (m, t) in mapped.iter().zip(target) {
                let error = f64::from(*m) - f64::from(*t);
                size += error.abs();
                of_target += f64::from(t.abs());
                squared += error * error;
            }
            // A target of zeros that is met has no error.
            MapErrors { relative: if size == 0.0 { 0.0 } else { size / of_target }, squared }
        };
        let tokens: Vec<MapErrors> = mapped.par_chunks(d).zip(target.par_chunks(d)).map(of_token).collect();
        let add = |sum: MapErrors, one: &MapErrors| MapErrors {
            relative: sum.relative + one.relative,
            squared: sum.squared + one.squared,
        };
        tokens.iter().fold(MapErrors::default(), add)
    }
}

/// The spread of target levels over texts, about their means.
#[derive(Clone, Debug)]
pub struct Spread {
    tokens: f64,
    /// `[levels][d]`.
    sums: Vec<Vec<f64>>,
    squares: Vec<f64>,
}

impl Spread {
    /// No texts yet.
    pub fn new(levels: usize, d: usize) -> Self {
        Self { tokens: 0.0, sums: vec![vec![0.0; d]; levels], squares: vec![0.0; levels] }
    }

    /// Adds the levels of a text, `[rows, d]` each.
    pub fn add(&mut self, levels: &[Vec<f32>]) {
        for ((level, sums), squares) in levels.iter().zip(&mut self.sums).zip(&mut self.squares) {
            for row in level.chunks(sums.len().max(1)) {
                sums.iter_mut().zip(row).for_each(|(sum, z)| *sum += f64::from(*z));
            }
            *squares += level.iter().map(|z| f64::from(*z) * f64::from(*z)).sum::<f64>();
        }
        let rows = levels.first().zip(self.sums.first()).map_or(0, |(level, sums)| level.len() / sums.len());
        self.tokens += rows as f64;
    }

    /// Tokens so far.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    /// The sum of squares about the mean of each level.
    pub fn totals(&self) -> Vec<f64> {
        let total = |(sums, squares): (&Vec<f64>, &f64)| {
            squares - sums.iter().map(|sum| sum * sum).sum::<f64>() / self.tokens
        };
        self.sums.iter().zip(&self.squares).map(total).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::least_squares::tests::{apply, numbers};

    const K: usize = 12;
    const D: usize = 9;

    /// Texts of source rows and two target levels: a planted relation, and noise.
    fn texts(seeds: std::ops::Range<u32>) -> Vec<(Vec<f32>, Vec<Vec<f32>>)> {
        let a: Vec<f64> = numbers(K * D, 77).into_iter().map(f64::from).collect();
        let b: Vec<f64> = numbers(D, 78).into_iter().map(f64::from).collect();
        let text = |seed: u32| {
            let x = numbers(30 * K, seed);
            let planted = apply(&x, &a, &b);
            (x, vec![planted, numbers(30 * D, 1000 + seed)])
        };
        seeds.map(text).collect()
    }

    /// R squared and the relative error of each target.
    fn fit(train: &[(Vec<f32>, Vec<Vec<f32>>)], test: &[(Vec<f32>, Vec<Vec<f32>>)]) -> Vec<[f64; 2]> {
        let (projections, mut fit) = (Projections::new(D), SourceFit::new(K, D, 2));
        train.iter().for_each(|(x, z)| fit.add(x, &projections.targets(z)));
        let (maps, mut spread) = (fit.solve().unwrap(), Spread::new(2, D));
        test.iter().for_each(|(_, z)| spread.add(z));
        let score = |(l, map): (usize, &LevelMap)| {
            let errors: Vec<MapErrors> = test.iter().map(|(x, z)| map.errors(x, &z[l])).collect();
            let squared: f64 = errors.iter().map(|e| e.squared).sum();
            let relative: f64 = errors.iter().map(|e| e.relative).sum();
            [1.0 - squared / spread.totals()[l], relative / spread.tokens()]
        };
        maps.iter().enumerate().map(score).collect()
    }

    #[test]
    fn a_planted_relation_is_found_and_noise_is_not() {
        let scores = fit(&texts(0..20), &texts(50..60));
        assert!(scores[0][0] > 1.0 - 1e-9 && scores[0][1] < 1e-5, "{scores:?}");
        assert!(scores[1][0].abs() < 0.1 && scores[1][1] > 0.8, "{scores:?}");
    }

    #[test]
    fn shuffled_targets_cannot_be_predicted() {
        let shuffle = |(x, mut z): (Vec<f32>, Vec<Vec<f32>>)| {
            z[0].rotate_left(7 * D);
            (x, z)
        };
        let all = |seeds| texts(seeds).into_iter().map(shuffle).collect::<Vec<_>>();
        let scores = fit(&all(0..20), &all(50..60));
        assert!(scores[0][0].abs() < 0.1, "{scores:?}");
    }

    #[test]
    fn the_spread_is_the_variance_times_the_tokens() {
        let mut spread = Spread::new(1, 2);
        spread.add(&[vec![1.0, 2.0, 3.0, 2.0]]);
        spread.add(&[vec![5.0, 2.0]]);
        assert_eq!((spread.tokens(), spread.totals()), (3.0, vec![8.0]));
    }
}
