//! Attention of runs over keys and values that may lie in several places.

use crate::cpu::multiversion;
use crate::elementwise::{exp, softcap_row};
use crate::memory::SharedPtr;
use crate::panel::{Blocking, WIDTH};
use crate::tile::{Kernel, Prefetch, Tile};
use crate::{Isa, checked_area};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// The parameters of attention in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `i` reads head `i / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Soft-capping of the scores.
    pub softcap: Option<f32>,
    /// Which positions a position sees.
    pub visibility: Visibility,
}

/// What is stored for each query head beside the shape of attention, `[heads]` each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadBias<T> {
    /// Scores that join the softmax of every row of the head and have no value, so that weights add up to less than
    /// 1 (attention sinks; arXiv 2309.17453, section 3.3, and gpt-oss).
    pub sinks: Option<T>,
    /// Slopes m of the head: `m (j - i)` is added to the score of position j for the query at position i, after scale
    /// and soft-capping (ALiBi, arXiv 2108.12409).
    pub slopes: Option<T>,
    /// Whether slopes are multiplied by positions in bfloat16 instead, as in Falcon: `scale m j` is added to the score of
    /// position j, where j and `m j` are rounded.
    pub rounded: bool,
}

impl<T> Default for HeadBias<T> {
    fn default() -> Self {
        Self { sinks: None, slopes: None, rounded: false }
    }
}

impl<T> HeadBias<T> {
    /// The same with what `view` makes of the numbers.
    pub fn map<'a, U>(&'a self, mut view: impl FnMut(&'a T) -> U) -> HeadBias<U> {
        HeadBias {
            sinks: self.sinks.as_ref().map(&mut view),
            slopes: self.slopes.as_ref().map(&mut view),
            rounded: self.rounded,
        }
    }
}

impl HeadBias<&[f32]> {
    /// # Panics
    /// When there is not a number for each head.
    pub(crate) fn check(&self, heads: usize) {
        let lens = [self.sinks, self.slopes].map(|numbers| numbers.map_or(heads, <[f32]>::len));
        assert_eq!(lens, [heads; 2], "each head needs a sink and a slope");
    }

    /// The sink and the slope of one head.
    pub(crate) fn of(&self, head: usize) -> HeadBias<f32> {
        HeadBias {
            sinks: self.sinks.map(|all| all[head]),
            slopes: self.slopes.map(|all| all[head]),
            rounded: self.rounded,
        }
    }
}

impl HeadBias<f32> {
    /// Adds what depends on positions to the scores of consecutive positions from `first` on, for the query at `position`.
    #[inline(always)]
    pub(crate) fn add_slope(&self, scale: f32, position: usize, first: usize, scores: &mut [f32]) {
        let Some(slope) = self.slopes else { return };
        if self.rounded {
            let round = |x: f32| bf16::from_f32(x).to_f32();
            for (i, score) in scores.iter_mut().enumerate() {
                *score += scale * round(slope * round((first + i) as f32));
            }
        } else {
            let distance = first as f32 - position as f32;
            for (i, score) in scores.iter_mut().enumerate() {
                *score += slope * (distance + i as f32);
            }
        }
    }
}

/// Which positions of a text a position sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Itself and all before it.
    Causal,
    /// Itself and those before it, as many positions in all.
    Window(usize),
    /// All.
    Full,
    /// Itself and as many on each side.
    Around(usize),
}

impl Visibility {
    /// Causal attention, with a sliding window if there is one.
    pub fn causal(window: Option<usize>) -> Self {
        window.map_or(Self::Causal, Self::Window)
    }

    /// Whether no position sees one after it.
    pub fn is_causal(self) -> bool {
        matches!(self, Self::Causal | Self::Window(_))
    }

    /// The positions that `position` of a text of `length` tokens sees.
    pub fn seen(self, position: usize, length: usize) -> Range<usize> {
        match self {
            Self::Causal => 0..position + 1,
            Self::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Self::Full => 0..length,
            Self::Around(side) => {
                position.saturating_sub(side)..position.saturating_add(side).saturating_add(1).min(length)
            }
        }
    }
}

impl AttentionShape {
    /// Width of all query heads.
    ///
    /// # Panics
    /// When the shape is impossible.
    pub(crate) fn width(&self) -> usize {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "heads must share key heads");
        let empty = self.visibility == Visibility::Window(0);
        assert!(self.head_dim > 0 && !empty, "heads and windows must not be empty");
        checked_area(self.heads, self.head_dim)
    }
}

/// Keys and values of consecutive positions, wherever they are stored.
#[derive(Clone, Copy)]
pub struct KvSegment<'a> {
    /// `[count, stride]`, the heads in the first `kv_heads * head_dim` columns.
    pub keys: &'a [f32],
    /// Values, laid out like `keys`.
    pub values: &'a [f32],
    /// Elements from one position to the next.
    pub stride: usize,
    /// Positions in this segment.
    pub count: usize,
}

impl KvSegment<'_> {
    fn holds(&self, width: usize) -> bool {
        let last = checked_area(self.count.saturating_sub(1), self.stride);
        let needed = last.saturating_add(width);
        self.count == 0 || needed <= self.keys.len().min(self.values.len())
    }
}

/// Rows of consecutive positions that attend to one list of segments.
pub struct AttentionRun<'a> {
    /// Rows of the query and output matrices.
    pub rows: Range<usize>,
    /// Position of the first row.
    pub first: usize,
    /// Keys and values of positions `0..first + rows.len()`, in order. Where attention is not causal, the text ends
    /// with them.
    pub segments: Vec<KvSegment<'a>>,
}

/// Partial sums of a reduction; fixed, so that results do not depend on the register width.
const LANES: usize = 16;

/// Query rows per job: few enough to occupy all threads, many enough to pay for packing the keys.
const ROWS_PER_JOB: usize = 64;

/// Attends: for each row and head, `softmax(scale q k^T) v` over the positions that the row sees, with what `bias` adds
/// to the scores.
///
/// # Shapes
/// `q [m, q_stride]` with the heads in its first columns, `out [m, heads * head_dim]`.
///
/// # Panics
/// When the shape is impossible, the lengths do not fit, or a run's segments do not cover its
/// positions.
pub fn attend(
    shape: &AttentionShape,
    bias: HeadBias<&[f32]>,
    q: &[f32],
    q_stride: usize,
    runs: &[AttentionRun<'_>],
    out: &mut [f32],
) {
    let width = shape.width();
    bias.check(shape.heads);
    let rows = check_runs(shape, runs);
    assert!(width <= q_stride);
    assert!(q.len() >= checked_area(rows, q_stride) && out.len() == checked_area(rows, width));

    let jobs: Vec<AttentionJob<'_>> = runs
        .iter()
        .flat_map(|run| {
            (0..run.rows.len()).step_by(ROWS_PER_JOB).flat_map(move |start| {
                let rows = start..(start + ROWS_PER_JOB).min(run.rows.len());
                (0..shape.kv_heads).map(move |kv_head| AttentionJob {
                    shape,
                    bias,
                    q,
                    q_stride,
                    run,
                    rows: rows.clone(),
                    kv_head,
                })
            })
        })
        .collect();
    let out = SharedPtr(out.as_mut_ptr());
    jobs.par_iter().for_each_init(Scratch::default, |scratch, job| {
        // SAFETY: out holds a row of `width` for every row of every run, and this job alone writes its
        // rows in the columns of its own heads.
        unsafe { job.run(scratch, out) };
    });
}

/// Checks that runs follow each other and that their segments cover them; returns the number of rows.
fn check_runs(shape: &AttentionShape, runs: &[AttentionRun<'_>]) -> usize {
    let kv_width = checked_area(shape.kv_heads, shape.head_dim);
    let mut rows = 0;
    for run in runs {
        assert!(run.rows.start == rows && run.rows.end >= rows, "runs must follow each other");
        rows = run.rows.end;
        let seen = run.segments.iter().try_fold(0usize, |sum, s| sum.checked_add(s.count));
        let last = run.first.checked_add(run.rows.len());
        assert!(seen.is_some() && seen == last, "segments must cover a run's positions");
        assert!(run.segments.iter().all(|s| s.holds(kv_width)), "a segment lacks keys or values");
    }
    rows
}

/// Some rows of a run, with the query heads that read one key head.
struct AttentionJob<'a> {
    shape: &'a AttentionShape,
    bias: HeadBias<&'a [f32]>,
    q: &'a [f32],
    q_stride: usize,
    run: &'a AttentionRun<'a>,
    rows: Range<usize>,
    kv_head: usize,
}

/// Scratch buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// Keys of the job in panels of 32 positions, `[positions / 32][head_dim][32]`.
    keys: Vec<f32>,
    /// Values in panels of 32 columns, `[head_dim / 32][positions][32]`.
    values: Vec<f32>,
    /// Scores of one tile, `[rows][positions rounded up to 32]`.
    scores: Vec<f32>,
}

impl AttentionJob<'_> {
    /// # Safety
    /// `out` must be valid for the rows of the run; no other job may write the columns of this job's
    /// heads.
    unsafe fn run(&self, scratch: &mut Scratch, out: SharedPtr) {
        let (shape, dim) = (self.shape, self.shape.head_dim);
        let kernel = Kernel::new(Isa::get(), self.rows.len());
        let first = self.run.first + self.rows.start;
        // Panels of keys start at multiples of their width.
        let low = self.seen(first).start / WIDTH * WIDTH;
        let high = self.seen(self.run.first + self.rows.end - 1).end;
        self.pack(low..high, scratch);
        let group = shape.heads / shape.kv_heads;
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            let bias = self.bias.of(head);
            for tile in kernel.row_tiles() {
                let row = self.run.rows.start + self.rows.start + tile.start;
                let position = first + tile.start;
                let seen = low..self.seen(position + tile.len() - 1).end;
                self.score(&kernel, head, row, tile.len(), seen.len(), scratch);
                for (i, scores) in scratch.scores.chunks_exact_mut(padded(seen.len())).enumerate() {
                    shape.weigh(bias, position + i, self.seen(position + i), low, scores);
                }
                let mix = Mix {
                    rows: tile.len(),
                    seen,
                    packed: high - low,
                    dim,
                    y: out.at((row * shape.heads + head) * dim),
                    y_stride: shape.heads * dim,
                };
                // SAFETY: the caller guarantees the rows of out, in the columns of this head.
                unsafe { mix.run(&kernel, &scratch.scores, &scratch.values) };
            }
        }
    }

    /// The positions that a position of the run sees.
    fn seen(&self, position: usize) -> Range<usize> {
        self.shape.visibility.seen(position, self.run.first + self.run.rows.len())
    }

    /// Scores of `rows` queries of one head, from row `row` on, against the first `seen` packed keys.
    fn score(
        &self,
        kernel: &Kernel<f32>,
        head: usize,
        row: usize,
        rows: usize,
        seen: usize,
        scratch: &mut Scratch,
    ) {
        let (dim, columns) = (self.shape.head_dim, padded(seen));
        scratch.scores.resize(rows * columns, 0.0);
        for p in 0..columns / WIDTH {
            let product = Tile {
                x: &self.q[row * self.q_stride + head * dim..],
                x_stride: self.q_stride,
                panel: &scratch.keys[p * dim * WIDTH..(p + 1) * dim * WIDTH],
                steps: dim,
                y: scratch.scores.as_mut_ptr().wrapping_add(p * WIDTH),
                y_stride: columns,
                rows,
                cols: WIDTH,
                bias: None,
                accumulate: false,
                prefetch: Prefetch::none(&scratch.keys),
            };
            // SAFETY: the scores hold `rows` rows of `columns` columns.
            unsafe { product.run(kernel) };
        }
    }

    /// Packs keys and values of some positions from the run's segments.
    fn pack(&self, positions: Range<usize>, scratch: &mut Scratch) {
        let (dim, count) = (self.shape.head_dim, positions.len());
        let value_panels = dim.div_ceil(WIDTH);
        scratch.keys.resize(count.div_ceil(WIDTH) * dim * WIDTH, 0.0);
        scratch.values.resize(value_panels * count * WIDTH, 0.0);
        let column = self.kv_head * dim;
        let mut start = 0;
        for segment in &self.run.segments {
            let end = start + segment.count;
            for position in positions.start.max(start)..positions.end.min(end) {
                let from = (position - start) * segment.stride + column;
                let at = position - positions.start;
                let key = &segment.keys[from..from + dim];
                let panel = &mut scratch.keys[at / WIDTH * dim * WIDTH..][..dim * WIDTH];
                for (to, k) in panel[at % WIDTH..].iter_mut().step_by(WIDTH).zip(key) {
                    *to = *k;
                }
                for (p, value) in segment.values[from..from + dim].chunks(WIDTH).enumerate() {
                    let to = &mut scratch.values[(p * count + at) * WIDTH..][..WIDTH];
                    to[..value.len()].copy_from_slice(value);
                    to[value.len()..].fill(0.0);
                }
            }
            start = end;
        }
        // A NaN left by an earlier job in the last panel would survive multiplication by zero.
        if !count.is_multiple_of(WIDTH) {
            let panel = &mut scratch.keys[count / WIDTH * dim * WIDTH..][..dim * WIDTH];
            panel.chunks_exact_mut(WIDTH).for_each(|at| at[count % WIDTH..].fill(0.0));
        }
    }
}

/// Columns of scores over `seen` positions: whole panels.
pub(crate) fn padded(seen: usize) -> usize {
    seen.div_ceil(WIDTH) * WIDTH
}

impl AttentionShape {
    /// Turns the scores of a row at `position` that sees the positions `seen`, against positions from `low` on, into
    /// weights: a softmax over what the row sees and zeros elsewhere.
    fn weigh(
        &self,
        bias: HeadBias<f32>,
        position: usize,
        seen: Range<usize>,
        low: usize,
        scores: &mut [f32],
    ) {
        let last = seen.end - low;
        let from = seen.start - low;
        scores[..from].fill(0.0);
        scores[last..].fill(0.0);
        let visible = &mut scores[from..last];
        if self.softcap.is_none() && bias.slopes.is_none() {
            return softmax(visible, self.scale, bias.sinks);
        }
        visible.iter_mut().for_each(|s| *s *= self.scale);
        if let Some(cap) = self.softcap {
            softcap_row(cap, visible);
        }
        add_slope(bias, self.scale, position, seen.start, visible);
        softmax(visible, 1.0, bias.sinks);
    }
}

/// The values of one head, weighted by the scores of a tile's rows and summed.
struct Mix {
    rows: usize,
    /// Positions that the last row sees, from the first packed one on.
    seen: Range<usize>,
    /// Packed positions, of which `seen` are the first.
    packed: usize,
    dim: usize,
    /// The first row of the result, in the columns of the head.
    y: *mut f32,
    y_stride: usize,
}

impl Mix {
    /// Sums in chains that end at multiples of their length counted from position 0. With cuts anywhere
    /// else, the rounding of a row would depend on what the rows beside it see. Weights of zero before
    /// and after what a row sees change no sum.
    ///
    /// # Safety
    /// `y` must be valid for writes and reads of `rows` rows of `dim` elements, `y_stride` apart, that
    /// no other thread accesses meanwhile.
    unsafe fn run(&self, kernel: &Kernel<f32>, scores: &[f32], values: &[f32]) {
        let chain = Blocking::of::<f32>(Isa::get()).chain;
        let low = self.seen.start;
        let panels = values.chunks_exact(self.packed * WIDTH).take(self.dim.div_ceil(WIDTH));
        for (p, values) in panels.enumerate() {
            let mut start = low;
            while start < self.seen.end {
                let end = self.seen.end.min((start / chain + 1) * chain);
                let product = Tile {
                    x: &scores[start - low..],
                    x_stride: padded(self.seen.len()),
                    panel: &values[(start - low) * WIDTH..(end - low) * WIDTH],
                    steps: end - start,
                    y: self.y.wrapping_add(p * WIDTH),
                    y_stride: self.y_stride,
                    rows: self.rows,
                    cols: (self.dim - p * WIDTH).min(WIDTH),
                    bias: None,
                    accumulate: start > low,
                    prefetch: Prefetch::none(values),
                };
                // SAFETY: the caller's guarantee, for the columns of this panel.
                unsafe { product.run(kernel) };
                start = end;
            }
        }
    }
}

/// The largest of some scores and a sink.
#[inline(always)]
pub(crate) fn largest(scores: &[[f32; LANES]], sink: Option<f32>) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores {
        for i in 0..LANES {
            lanes[i] = if scores[i] > lanes[i] { scores[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max)
}

multiversion! {
    fn add_slope(bias: HeadBias<f32>, scale: f32, position: usize, first: usize, scores: &mut [f32]) {
        bias.add_slope(scale, position, first, scores);
    }
}

multiversion! {
    /// Softmax of `scale * x`, in place, with one more score in its denominator if there is a sink.
    fn softmax(x: &mut [f32], scale: f32, sink: Option<f32>) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        for chunk in &mut *chunks {
            for i in 0..LANES {
                chunk[i] *= scale;
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        for (x, lane) in rest.iter_mut().zip(&mut lanes) {
            *x *= scale;
            *lane = if *x > *lane { *x } else { *lane };
        }
        let max = lanes.into_iter().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let mut lanes = [0.0f32; LANES];
        for chunk in &mut *chunks {
            for i in 0..LANES {
                chunk[i] = exp::<FUSED>(chunk[i] - max);
                lanes[i] += chunk[i];
            }
        }
        for (x, lane) in rest.iter_mut().zip(&mut lanes) {
            *x = exp::<FUSED>(*x - max);
            *lane += *x;
        }
        let sum = lanes.iter().sum::<f32>();
        let norm = 1.0 / sink.map_or(sum, |sink| sum + exp::<FUSED>(sink - max));
        for x in x.iter_mut() {
            *x *= norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_add(17);
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 22) as f32 - 2.0
            })
            .collect()
    }

    /// A number of at most 24 bits, rounded to 8 bits, ties to even.
    fn rounded(x: f32) -> f32 {
        let step = 2f32.powi(if x == 0.0 { 0 } else { x.abs().log2().floor() as i32 - 7 });
        (x / step).round_ties_even() * step
    }

    fn naive(
        shape: &AttentionShape,
        bias: HeadBias<&[f32]>,
        [q, k, v]: [&[f32]; 3],
        first: usize,
    ) -> Vec<f64> {
        let (width, kv_width, dim) =
            (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.head_dim);
        let mut out = Vec::new();
        for row in 0..q.len() / width {
            let position = first + row;
            let seen = shape.visibility.seen(position, first + q.len() / width);
            for head in 0..shape.heads {
                let kv = head / (shape.heads / shape.kv_heads) * dim;
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|p| {
                        let dot: f64 = (0..dim)
                            .map(|d| {
                                f64::from(q[row * width + head * dim + d])
                                    * f64::from(k[p * kv_width + kv + d])
                            })
                            .sum();
                        let s = dot * f64::from(shape.scale);
                        let s = shape.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh());
                        let Some(slope) = bias.slopes.map(|all| all[head]) else { return s };
                        match bias.rounded {
                            // Products of numbers of 8 bits are exact in f32.
                            true => s + f64::from(shape.scale * rounded(slope * rounded(p as f32))),
                            false => s + f64::from(slope) * (p as f64 - position as f64),
                        }
                    })
                    .collect();
                let sink = bias.sinks.map_or(f64::NEG_INFINITY, |all| f64::from(all[head]));
                let max = scores.iter().copied().fold(sink, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum::<f64>() + (sink - max).exp();
                for d in 0..dim {
                    out.push(
                        seen.clone()
                            .zip(&scores)
                            .map(|(p, s)| (s - max).exp() / sum * f64::from(v[p * kv_width + kv + d]))
                            .sum(),
                    );
                }
            }
        }
        out
    }

    /// Texts longer than two chains, with and without a window: the bits of a row depend neither on
    /// the rows beside it nor on where a run starts, and its values are correct.
    #[test]
    fn rows_keep_their_bits_at_700_tokens() {
        let (total, dim) = (700, 40);
        let (sinks, slopes) = ([1.5, -0.5], [0.25, 0.01]);
        let biases = [
            HeadBias::default(),
            HeadBias { sinks: Some(&sinks[..]), ..HeadBias::default() },
            HeadBias { slopes: Some(&slopes[..]), ..HeadBias::default() },
            HeadBias { slopes: Some(&[0.0625, 0.01171875]), rounded: true, sinks: None },
        ];
        let visibilities =
            [Visibility::Causal, Visibility::Window(512), Visibility::Window(100), Visibility::Window(333)];
        for (visibility, bias) in visibilities.into_iter().zip([biases[0]; 4]).chain([
            (Visibility::Window(100), biases[1]),
            (Visibility::Causal, biases[2]),
            (Visibility::Causal, biases[3]),
        ]) {
            let shape = AttentionShape {
                heads: 2,
                kv_heads: 1,
                head_dim: dim,
                scale: 0.3,
                softcap: None,
                visibility,
            };
            let q = numbers(total * 2 * dim, 1);
            let (k, v) = (numbers(total * dim, 2), numbers(total * dim, 3));
            let attend_from = |first: usize, end: usize| {
                let mut out = vec![f32::NAN; (end - first) * 2 * dim];
                let segment = KvSegment { keys: &k, values: &v, stride: dim, count: end };
                let run = AttentionRun { rows: 0..end - first, first, segments: vec![segment] };
                attend(&shape, bias, &q[first * 2 * dim..], 2 * dim, &[run], &mut out);
                out
            };
            let whole = attend_from(0, total);
            let expected = naive(&shape, bias, [&q, &k, &v], 0);
            for (got, want) in whole.iter().zip(&expected) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{got} against {want}");
            }
            for first in (0..total).step_by(37).chain([319, 320, 321, 329, 639, 640, 641, 699]) {
                for end in [first + 1, first + 9, total].map(|end| end.min(total)) {
                    let rows = first * 2 * dim..end * 2 * dim;
                    assert!(attend_from(first, end) == whole[rows], "{visibility:?}: rows {first}..{end}");
                }
            }
        }
    }

    fn visibilities() -> impl Strategy<Value = Visibility> {
        prop_oneof![
            Just(Visibility::Causal),
            (1usize..80).prop_map(Visibility::Window),
            Just(Visibility::Full),
            (0usize..80).prop_map(Visibility::Around),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_naive_attention(
            total in 1usize..140, rows in 1usize..140, cut in 0usize..140, kv_heads in 1usize..3, group in 1usize..4,
            dim in prop::sample::select(vec![4usize, 8, 20, 32, 40, 64]), visibility in visibilities(), cap: bool, sink: bool, slope: bool, seed: u32,
        ) {
            let rows = rows.min(total);
            let first = total - rows;
            let cut = cut.min(total);
            let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim: dim, scale: 0.3, softcap: cap.then_some(2.5), visibility };
            let (width, kv_width) = (shape.heads * dim, kv_heads * dim);
            let (sinks, slopes) = (numbers(shape.heads, seed ^ 3), numbers(shape.heads, seed ^ 4));
            // A score that grows with the distance would have too few digits of its own.
            let slopes: Vec<f32> = slopes.iter().map(|m| m.abs() / 2.0).collect();
            let bias = HeadBias { sinks: sink.then_some(&sinks[..]), slopes: slope.then_some(&slopes[..]), rounded: false };
            let q = numbers(rows * width, seed);
            let (k, v) = (numbers(total * kv_width, seed ^ 1), numbers(total * kv_width, seed ^ 2));
            let segment = |range: Range<usize>| KvSegment { keys: &k[range.start * kv_width..], values: &v[range.start * kv_width..], stride: kv_width, count: range.len() };
            let mut whole = vec![f32::NAN; rows * width];
            attend(&shape, bias, &q, width, &[AttentionRun { rows: 0..rows, first, segments: vec![segment(0..total)] }], &mut whole);
            for (got, want) in whole.iter().zip(naive(&shape, bias, [&q, &k, &v], first)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{got} against {want}");
            }
            // Splitting keys into segments or rows into runs changes no bit. A run without the end of the text cannot
            // see it.
            let half = if visibility.is_causal() { rows / 2 } else { 0 };
            let mut cut_up = vec![f32::NAN; rows * width];
            attend(&shape, bias, &q, width, &[
                AttentionRun { rows: 0..half, first, segments: vec![segment(0..first + half)] },
                AttentionRun { rows: half..rows, first: first + half, segments: vec![segment(0..cut), segment(cut..total)] },
            ], &mut cut_up);
            prop_assert_eq!(whole, cut_up);
        }
    }
}
