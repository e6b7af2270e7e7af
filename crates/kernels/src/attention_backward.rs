//! The backward pass of attention: gradients of queries, keys and values, by the tiles of the forward pass.

use crate::attention::{AttentionShape, HeadBias, largest, padded};
use crate::cpu::multiversion;
use crate::elementwise::exp;
use crate::memory::{Lines, SharedPtr, view, view_mut};
use crate::panel::WIDTH;
use crate::tile::{Kernel, Prefetch, Tile};
use crate::transpose::transpose;
use crate::{Isa, checked_area};
use rayon::prelude::*;
use std::ops::Range;

/// Partial sums of a reduction; fixed, so that results do not depend on the register width.
const LANES: usize = 16;

/// Query rows whose weights are kept at a time, so that they stay in cache and long texts do not take their square.
const ROWS: usize = 64;

/// Backward of [`crate::attention::attend`] over whole texts: the gradients of queries, keys and values
/// from that of the output. Scores are recomputed rather than stored.
///
/// # Shapes
/// `qkv`, `d_qkv [m, (heads + 2 kv_heads) head_dim]`, each row its queries, keys and
/// values; `d_out [m, heads * head_dim]`. `texts` are the rows of each text, which
/// are consecutive and start at position 0.
///
/// # Panics
/// When the shape is impossible or the lengths do not fit.
pub fn attend(
    shape: &AttentionShape,
    bias: HeadBias<&[f32]>,
    qkv: &[f32],
    texts: &[Range<usize>],
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let width = shape.width();
    bias.check(shape.heads);
    let heads = shape.kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(shape.heads));
    let stride = checked_area(heads.unwrap_or(usize::MAX), shape.head_dim);
    let rows = texts.iter().fold(0, |end, text| {
        assert!(text.start == end && text.end >= end, "texts must follow each other");
        text.end
    });
    assert!(qkv.len() == checked_area(rows, stride) && d_qkv.len() == qkv.len());
    assert!(d_out.len() == checked_area(rows, width));
    let out = SharedPtr(d_qkv.as_mut_ptr());
    let texts = texts.iter().filter(|text| !text.is_empty());
    let jobs: Vec<TextHead<'_>> = texts
        .flat_map(|text| {
            (0..shape.kv_heads).map(|kv_head| TextHead {
                shape,
                bias,
                kv_head,
                count: text.len(),
                stride,
                qkv: &qkv[text.start * stride..text.end * stride],
                d_out: &d_out[text.start * width..text.end * width],
                d_qkv: SharedPtr(out.at(text.start * stride)),
            })
        })
        .collect();
    jobs.par_iter().for_each_init(Scratch::default, |scratch, job| {
        // SAFETY: d_qkv holds `rows` rows of `stride`; this job alone accesses the columns of its key head and of the
        // query heads that read it, in the rows of its text.
        unsafe { job.run(scratch) };
    });
}

/// One text, one key head and the query heads that read it.
struct TextHead<'a> {
    shape: &'a AttentionShape,
    bias: HeadBias<&'a [f32]>,
    kv_head: usize,
    /// Positions of the text.
    count: usize,
    /// Elements of a row of `qkv`.
    stride: usize,
    qkv: &'a [f32],
    d_out: &'a [f32],
    /// The first row of the text.
    d_qkv: SharedPtr,
}

/// Scratch buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// Keys and values in panels of 32 positions, `[positions / 32][head_dim][32]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Keys in panels of 32 columns, `[head_dim / 32][positions][32]`.
    key_columns: Vec<f32>,
    /// The queries of a block and the gradients of its output, as `key_columns`.
    queries: Vec<f32>,
    d_mixed: Vec<f32>,
    /// Weights of a block and the gradients of its dot products, `[rows][positions rounded up to 32]`, and transposed.
    weights: Lines,
    d_weights: Lines,
    transposed: Lines,
    /// Slopes of the soft-capping of one row.
    slopes: Vec<f32>,
    /// `[positions, head_dim]`.
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
}

/// Rows of a matrix, `stride` elements apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    first: &'a [f32],
    stride: usize,
    count: usize,
    /// Elements of each row.
    width: usize,
}

impl<'a> Rows<'a> {
    fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        self.first.chunks(self.stride).take(self.count).map(move |row| &row[..self.width])
    }

    /// Packs panels of 32 rows side by side, `[count / 32][width][32]`; what is missing of the last one is zero.
    fn pack_side_by_side(self, to: &mut Vec<f32>) {
        to.clear();
        to.resize(self.count.div_ceil(WIDTH) * self.width * WIDTH, 0.0);
        for (i, row) in self.iter().enumerate() {
            let panel = &mut to[i / WIDTH * self.width * WIDTH..][..self.width * WIDTH];
            for (to, x) in panel[i % WIDTH..].iter_mut().step_by(WIDTH).zip(row) {
                *to = *x;
            }
        }
    }

    /// Packs panels of 32 columns, `[width / 32][count][32]`; what is missing of the last one is zero.
    fn pack_columns(self, to: &mut Vec<f32>) {
        let panels = self.width.div_ceil(WIDTH);
        to.resize(panels * self.count * WIDTH, 0.0);
        for (i, row) in self.iter().enumerate() {
            for (p, part) in row.chunks(WIDTH).enumerate() {
                let to = &mut to[(p * self.count + i) * WIDTH..][..WIDTH];
                to[..part.len()].copy_from_slice(part);
                to[part.len()..].fill(0.0);
            }
        }
    }
}

/// A product of some rows and a panel, added to what is there if `accumulate`.
struct Product<'a> {
    x: &'a [f32],
    x_stride: usize,
    rows: usize,
    panel: &'a [f32],
    y: *mut f32,
    y_stride: usize,
    cols: usize,
    accumulate: bool,
}

impl Product<'_> {
    /// # Safety
    /// `y` must be valid for writes and reads of `rows` rows of `cols` elements, `y_stride` apart, that no other thread
    /// accesses meanwhile.
    unsafe fn run(&self, kernel: &Kernel<f32>) {
        let tile = Tile {
            x: self.x,
            x_stride: self.x_stride,
            panel: self.panel,
            steps: self.panel.len() / WIDTH,
            y: self.y,
            y_stride: self.y_stride,
            rows: self.rows,
            cols: self.cols,
            bias: None,
            accumulate: self.accumulate,
            prefetch: Prefetch::none(self.panel),
        };
        // SAFETY: the caller's guarantee.
        unsafe { tile.run(kernel) };
    }
}

/// A block of rows of one query head.
struct Block {
    head: usize,
    rows: Range<usize>,
    /// Positions that the rows see, from a multiple of 32 on.
    seen: Range<usize>,
}

impl Block {
    /// Elements of a row of weights.
    fn columns(&self) -> usize {
        padded(self.seen.len())
    }
}

impl TextHead<'_> {
    /// # Safety
    /// `d_qkv` must be valid for writes and reads of the rows of the text, and no other job may access the columns of this
    /// job's heads.
    unsafe fn run(&self, scratch: &mut Scratch) {
        let (shape, dim) = (self.shape, self.shape.head_dim);
        let key_column = (shape.heads + self.kv_head) * dim;
        let value_column = key_column + shape.kv_heads * dim;
        let keys = self.rows(self.qkv, self.stride, 0..self.count, key_column);
        keys.pack_side_by_side(&mut scratch.keys);
        keys.pack_columns(&mut scratch.key_columns);
        self.rows(self.qkv, self.stride, 0..self.count, value_column).pack_side_by_side(&mut scratch.values);
        for sums in [&mut scratch.d_keys, &mut scratch.d_values] {
            sums.clear();
            sums.resize(self.count * dim, 0.0);
        }
        let group = shape.heads / shape.kv_heads;
        for start in (0..self.count).step_by(ROWS) {
            let rows = start..(start + ROWS).min(self.count);
            let low = self.seen(start).start / WIDTH * WIDTH;
            let seen = low..self.seen(rows.end - 1).end;
            for head in self.kv_head * group..(self.kv_head + 1) * group {
                let block = Block { head, rows: rows.clone(), seen: seen.clone() };
                // SAFETY: the caller's guarantee.
                unsafe { self.backward_to_queries(&block, scratch) };
                self.backward_to_keys(&block, scratch);
            }
        }
        for (column, sums) in [(key_column, &scratch.d_keys), (value_column, &scratch.d_values)] {
            for (row, sums) in sums.chunks_exact(dim).enumerate() {
                let to = self.d_qkv.at(row * self.stride + column);
                // SAFETY: the caller's guarantee; these are the columns of the key head.
                unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), to, dim) };
            }
        }
    }

    /// The positions that a position of the text sees.
    fn seen(&self, position: usize) -> Range<usize> {
        self.shape.visibility.seen(position, self.count)
    }

    /// Some rows of one head of a matrix.
    fn rows<'a>(&self, from: &'a [f32], stride: usize, rows: Range<usize>, column: usize) -> Rows<'a> {
        let first = &from[rows.start * stride + column..];
        Rows { first, stride, count: rows.len(), width: self.shape.head_dim }
    }

    /// The queries of a block.
    fn queries(&self, block: &Block) -> Rows<'_> {
        self.rows(self.qkv, self.stride, block.rows.clone(), block.head * self.shape.head_dim)
    }

    /// The gradients of the output of a block.
    fn d_mixed(&self, block: &Block) -> Rows<'_> {
        let dim = self.shape.head_dim;
        self.rows(self.d_out, self.shape.heads * dim, block.rows.clone(), block.head * dim)
    }

    /// Computes the weights of a block and the gradients of its dot products, and from these those of its queries.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn backward_to_queries(&self, block: &Block, scratch: &mut Scratch) {
        let (dim, columns, low) = (self.shape.head_dim, block.columns(), block.seen.start);
        let kernel = Kernel::new(Isa::get(), block.rows.len());
        let Scratch { keys, values, key_columns, weights, d_weights, slopes, .. } = scratch;
        let [queries, d_mixed] = [self.queries(block), self.d_mixed(block)];
        let [weights, d_weights] = [weights, d_weights].map(|numbers| {
            numbers.resize(block.rows.len() * columns);
            view_mut::<f32>(numbers)
        });
        for tile in kernel.row_tiles() {
            let position = block.rows.start + tile.start;
            let seen = low..self.seen(position + tile.len() - 1).end;
            let wide = padded(seen.len());
            for (rows, panels, y) in [(queries, &*keys, &mut *weights), (d_mixed, &*values, &mut *d_weights)]
            {
                for (p, panel) in
                    panels.chunks_exact(dim * WIDTH).skip(low / WIDTH).take(wide / WIDTH).enumerate()
                {
                    let y = &mut y[tile.start * columns + p * WIDTH..];
                    let product = Product {
                        x: &rows.first[tile.start * rows.stride..],
                        x_stride: rows.stride,
                        rows: tile.len(),
                        panel,
                        y: y.as_mut_ptr(),
                        y_stride: columns,
                        cols: WIDTH,
                        accumulate: false,
                    };
                    // SAFETY: the numbers hold the rows of the block, of `columns` columns.
                    unsafe { product.run(&kernel) };
                }
            }
            for row in tile.clone() {
                let position = block.rows.start + row;
                let place = Place { position, low, seen: self.seen(position) };
                let part = row * columns..(row + 1) * columns;
                let (weights, d_weights) = (&mut weights[part.clone()], &mut d_weights[part]);
                let head = self.bias.of(block.head);
                dot_products_backward(
                    self.shape,
                    head,
                    &place,
                    &mut weights[..wide],
                    &mut d_weights[..wide],
                    slopes,
                );
                weights[wide..].fill(0.0);
                d_weights[wide..].fill(0.0);
            }
            for p in 0..dim.div_ceil(WIDTH) {
                let product = Product {
                    x: &d_weights[tile.start * columns..],
                    x_stride: columns,
                    rows: tile.len(),
                    panel: &key_columns
                        [(p * self.count + seen.start) * WIDTH..(p * self.count + seen.end) * WIDTH],
                    y: self.d_qkv.at(position * self.stride + block.head * dim + p * WIDTH),
                    y_stride: self.stride,
                    cols: (dim - p * WIDTH).min(WIDTH),
                    accumulate: false,
                };
                // SAFETY: the caller's guarantee; these are the columns of the query head.
                unsafe { product.run(&kernel) };
            }
        }
    }

    /// Adds what a block contributes to the gradients of keys and values, after [`Self::backward_to_queries`].
    fn backward_to_keys(&self, block: &Block, scratch: &mut Scratch) {
        let (dim, columns, rows) = (self.shape.head_dim, block.columns(), block.rows.len());
        let isa = Isa::get();
        self.queries(block).pack_columns(&mut scratch.queries);
        self.d_mixed(block).pack_columns(&mut scratch.d_mixed);
        let kernel = Kernel::new(isa, block.seen.len());
        let transposed = &mut scratch.transposed;
        transposed.resize(columns * rows);
        for (of_rows, panels, sums) in [
            (&scratch.d_weights, &scratch.queries, &mut scratch.d_keys),
            (&scratch.weights, &scratch.d_mixed, &mut scratch.d_values),
        ] {
            transpose(isa, of_rows, columns, transposed, rows, rows, block.seen.len());
            for tile in kernel.row_tiles() {
                let key = block.seen.start + tile.start;
                // No row before the first key sees any of the tile.
                let first = match self.shape.visibility.is_causal() {
                    true => key.saturating_sub(block.rows.start),
                    false => 0,
                };
                for p in 0..dim.div_ceil(WIDTH) {
                    let product = Product {
                        x: &view(transposed)[tile.start * rows + first..],
                        x_stride: rows,
                        rows: tile.len(),
                        panel: &panels[(p * rows + first) * WIDTH..(p + 1) * rows * WIDTH],
                        y: sums[key * dim + p * WIDTH..].as_mut_ptr(),
                        y_stride: dim,
                        cols: (dim - p * WIDTH).min(WIDTH),
                        accumulate: true,
                    };
                    // SAFETY: the sums have a row of `dim` elements for every position, and are borrowed.
                    unsafe { product.run(&kernel) };
                }
            }
        }
    }
}

/// Where a row of dot products stands.
struct Place {
    position: usize,
    /// The position of its first column.
    low: usize,
    seen: Range<usize>,
}

multiversion! {
    /// Turns the dot products of the query at a position and keys into attention weights, and the gradients of the weights
    /// into those of the dot products, in place; both are zero where the position does not see. Rows are whole panels.
    fn dot_products_backward(
        shape: &AttentionShape,
        bias: HeadBias<f32>,
        place: &Place,
        weights: &mut [f32],
        d_weights: &mut [f32],
        slopes: &mut Vec<f32>,
    ) {
        let seen = place.seen.start - place.low..place.seen.end - place.low;
        let rest = weigh::<FUSED>(shape, bias, place, weights, slopes);
        // The mean is taken of differences from the first gradient: where keys are similar, so are
        // the gradients, and the rounding error of the weights' sum would dominate. The gradient of a sink's
        // weight is zero.
        let first = d_weights[seen.start];
        d_weights[..seen.start].fill(first);
        d_weights[seen.end..].fill(first);
        let mut lanes = [0.0f32; LANES];
        let ((weights, _), (d_weights, _)) = (weights.as_chunks::<LANES>(), d_weights.as_chunks_mut::<LANES>());
        for (w, d) in weights.iter().zip(&mut *d_weights) {
            for i in 0..LANES {
                d[i] -= first;
                lanes[i] += w[i] * d[i];
            }
        }
        let mean = lanes.iter().sum::<f32>() - rest * first;
        if shape.softcap.is_none() {
            for (w, d) in weights.iter().zip(d_weights) {
                for i in 0..LANES {
                    d[i] = w[i] * (d[i] - mean) * shape.scale;
                }
            }
            return;
        }
        for ((w, d), slope) in weights.iter().zip(d_weights).zip(slopes.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                d[i] = w[i] * (d[i] - mean) * slope[i];
            }
        }
    }
}

/// Turns dot products into attention weights, and computes the slopes of the scores with respect to the dot products where
/// they are soft-capped. Returns the weight of the sink.
#[inline(always)]
fn weigh<const FUSED: bool>(
    shape: &AttentionShape,
    bias: HeadBias<f32>,
    Place { position, low, seen }: &Place,
    weights: &mut [f32],
    slopes: &mut Vec<f32>,
) -> f32 {
    weights.iter_mut().for_each(|w| *w *= shape.scale);
    if let Some(cap) = shape.softcap {
        slopes.resize(weights.len(), 0.0);
        for (w, slope) in weights.iter_mut().zip(slopes) {
            // tanh u = 1 - 2 / (1 + e^2u)
            let t = 1.0 - 2.0 / (1.0 + exp::<FUSED>(2.0 * *w / cap));
            *w = cap * t;
            *slope = shape.scale * (1.0 - t) * (1.0 + t);
        }
    }
    let columns = seen.start - low..seen.end - low;
    bias.add_slope(shape.scale, *position, seen.start, &mut weights[columns.clone()]);
    weights[..columns.start].fill(f32::NEG_INFINITY);
    weights[columns.end..].fill(f32::NEG_INFINITY);
    let (weights, _) = weights.as_chunks_mut::<LANES>();
    let max = largest(weights, bias.sinks);
    let mut lanes = [0.0f32; LANES];
    for w in &mut *weights {
        for i in 0..LANES {
            w[i] = exp::<FUSED>(w[i] - max);
            lanes[i] += w[i];
        }
    }
    let rest = bias.sinks.map_or(0.0, |sink| exp::<FUSED>(sink - max));
    let norm = 1.0 / (lanes.iter().sum::<f32>() + rest);
    weights.as_flattened_mut().iter_mut().for_each(|w| *w *= norm);
    rest * norm
}
