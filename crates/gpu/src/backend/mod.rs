//! The operations of a model over the kernels of a device.

mod batch;
mod edit;
mod launch;
mod numbers;
mod pack;
mod peak;
mod reductions;

pub use batch::Batch;
pub use numbers::Numbers;
pub use pack::Linear;

use crate::Gpu;
use crate::device::{Device, Kernel, word};
use edit::compatible;
use fathom_kernels::attention::{AttentionShape, HeadBias};
use fathom_kernels::backend::{Backend, BatchLimits, Columns, LinearLayer, Norm, RowEdit, Run};
use fathom_kernels::elementwise::{Activation, Rotation};
use fathom_kernels::{Dtype, OutOfMemory, QuantBlocks};
use launch::{activation_word, check_columns};
use std::collections::HashSet;
use std::ops::Range;

/// Floats in the memory of a device.
pub struct Buffer<M> {
    /// `None` until memory is needed.
    memory: Option<M>,
    len: usize,
    capacity: usize,
}

/// Memory for words that no error can be returned for.
///
/// # Panics
/// With [`OutOfMemory`] as the payload when the device refuses it.
pub(crate) fn allocate<D: Device>(device: &D, words: usize) -> D::Memory {
    device.allocate(words).unwrap_or_else(|error| std::panic::panic_any(error))
}

/// New memory that holds the given words.
///
/// # Panics
/// As [`allocate`].
pub(crate) fn upload<D: Device>(device: &D, words: &[u32]) -> D::Memory {
    let memory = allocate(device, words.len());
    if !words.is_empty() {
        device.write(&memory, 0, words);
    }
    memory
}

impl<D: Device> Backend for Gpu<D> {
    type Buffer = Buffer<D::Memory>;
    type Linear = Linear<D::Memory>;
    type Batch = Batch<D::Memory>;
    type Numbers = Numbers<D::Memory>;

    const READS_ROWS: bool = false;

    fn name(&self) -> String {
        self.device.name()
    }

    fn limits(&self) -> BatchLimits {
        self.device.limits()
    }

    fn memory(&self) -> Option<u64> {
        self.device.memory_bytes()
    }

    fn wait(&self) {
        self.device.wait();
    }

    fn peak(&self, dtype: Dtype, rounds: usize) -> f64 {
        self.best_rate(dtype, rounds)
    }

    fn empty(&self) -> Self::Buffer {
        Buffer { memory: None, len: 0, capacity: 0 }
    }

    fn len(&self, buffer: &Self::Buffer) -> usize {
        buffer.len
    }

    fn try_resize(&self, buffer: &mut Self::Buffer, len: usize) -> Result<(), OutOfMemory> {
        if len > buffer.capacity {
            // The old memory goes first, so that both need not exist at once.
            *buffer = self.empty();
            if len > self.device.largest_argument() {
                return Err(OutOfMemory { bytes: len.saturating_mul(size_of::<f32>()) });
            }
            buffer.memory = Some(self.device.allocate(len)?);
            buffer.capacity = len;
        }
        buffer.len = len;
        Ok(())
    }

    fn upload(&self, values: &[f32], to: &mut Self::Buffer) {
        self.resize(to, values.len());
        if !values.is_empty() {
            self.device.write(self.of(to), 0, bytemuck::cast_slice(values));
        }
    }

    fn download(&self, from: &Self::Buffer, part: Range<usize>) -> Vec<f32> {
        assert!(part.start <= part.end && part.end <= from.len, "the part must lie in the buffer");
        if part.is_empty() {
            return Vec::new();
        }
        bytemuck::cast_vec(self.device.read(self.of(from), part))
    }

    fn copy(&self, from: &Self::Buffer, part: Range<usize>) -> Self::Buffer {
        assert!(part.start <= part.end && part.end <= from.len, "the part must lie in the buffer");
        let mut to = self.empty();
        self.resize(&mut to, part.len());
        if !part.is_empty() {
            self.device.copy(self.of(from), part, self.of(&to), 0);
        }
        to
    }

    fn assign(&self, from: &Self::Buffer, to: &mut Self::Buffer) {
        self.resize(to, from.len);
        if from.len > 0 {
            self.device.copy(self.of(from), 0..from.len, self.of(to), 0);
        }
    }

    fn gather(&self, width: usize, from: &Self::Buffer, rows: &[u32], to: &mut Self::Buffer) {
        let indices = self.indices(rows, from.len / width);
        self.resize(to, rows.len() * width);
        let buffers = [self.of(from), &indices, self.of(to)];
        self.launch(Kernel::GatherRows, &buffers, rows.len() * width, &[word(width)]);
    }

    fn scatter(&self, width: usize, from: &Self::Buffer, rows: &[u32], to: &mut Self::Buffer) {
        assert_eq!(from.len, rows.len() * width, "each row needs a place");
        debug_assert_eq!(rows.iter().collect::<HashSet<_>>().len(), rows.len(), "the rows must differ");
        let indices = self.indices(rows, to.len / width);
        let buffers = [self.of(from), &indices, self.of(to)];
        self.launch(Kernel::ScatterRows, &buffers, rows.len() * width, &[word(width)]);
    }

    fn copy_columns(&self, columns: Columns, from: &Self::Buffer, rows: Range<usize>) -> Self::Buffer {
        assert!(rows.end <= check_columns(columns, from.len), "the rows must lie in the matrix");
        let total = columns.count * columns.width;
        let mut to = self.empty();
        self.resize(&mut to, rows.len() * total);
        let parameters = [word(rows.start), word(columns.stride), word(columns.start), word(total)];
        let buffers = [self.of(from), self.of(&to)];
        self.launch(Kernel::CopyColumns, &buffers, rows.len() * total, &parameters);
        to
    }

    fn pack<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self::Linear, E> {
        pack::floats(self.device(), pack::Shape { n, k, dtype }, bias, fill)
    }

    fn pack_quantised<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), E> + Sync,
    ) -> Result<Self::Linear, E> {
        pack::quantised(self.device(), pack::Shape { n, k, dtype }, columns, bias, fill)
    }

    fn supports_quantised(&self, _: usize, _: Dtype) -> bool {
        true
    }

    fn row(&self, _: &Self::Linear, _: usize, _: &mut [f32]) {
        panic!("rows of weights are not read from a GPU");
    }

    fn linear(&self, layer: &Self::Linear, x: &Self::Buffer, y: &mut Self::Buffer) {
        let (n, k) = (layer.outputs(), layer.inputs());
        assert_eq!(x.len % k, 0, "x must hold whole rows of {k}");
        let m = x.len / k;
        self.resize(y, m * n);
        if m > 0 {
            self.device.linear(&layer.weights, self.of(x), m, self.of(y));
        }
    }

    fn linear_backward(&self, layer: &Self::Linear, dy: &Self::Buffer, dx: &mut Self::Buffer) {
        let (n, k) = (layer.outputs(), layer.inputs());
        assert_eq!(dy.len % n, 0, "dy must hold whole rows of {n}");
        let m = dy.len / n;
        self.resize(dx, m * k);
        if m > 0 {
            self.device.linear_backward(&layer.weights, self.of(dy), m, self.of(dx));
        }
    }

    fn batch(&self, runs: &[Run], rotations: Vec<Rotation>) -> Self::Batch {
        batch::batch(self.device(), runs, &rotations)
    }

    fn norm(&self, norm: &Norm<Self>, columns: Columns, x: &mut Self::Buffer) {
        let rows = check_columns(columns, x.len);
        Self::check_norm(norm, columns);
        let weight = self.of(&norm.weight);
        let bias = norm.bias.as_ref().map_or(weight, |bias| self.of(bias));
        let parameters = Self::norm_parameters(norm, columns);
        self.launch(Kernel::Norm, &[weight, bias, self.of(x)], rows * columns.count, &parameters);
    }

    fn norm_backward(&self, norm: &Norm<Self>, columns: Columns, x: &Self::Buffer, d: &mut Self::Buffer) {
        let rows = check_columns(columns, x.len);
        Self::check_norm(norm, columns);
        assert_eq!(x.len, d.len, "a gradient must be as long as its vector");
        let buffers = [self.of(x), self.of(&norm.weight), self.of(d)];
        let parameters = Self::norm_parameters(norm, columns);
        self.launch(Kernel::NormBackward, &buffers, rows * columns.count, &parameters);
    }

    fn rotate(&self, batch: &Self::Batch, table: usize, heads: Columns, inverse: bool, x: &mut Self::Buffer) {
        let table = &batch.tables[table];
        let half = table.half;
        assert!(heads.start == 0 && half <= heads.width / 2, "a head must hold what is rotated");
        assert_eq!(check_columns(heads, x.len), batch.rows, "each row needs a place in the tables");
        let Columns { stride, width, count, .. } = heads;
        let parameters = [word(stride), word(count), word(width), word(half), u32::from(inverse)];
        let buffers = [&table.cos, &table.sin, &table.places, self.of(x)];
        self.launch(Kernel::Rotate, &buffers, batch.rows * count * half, &parameters);
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Self::Buffer>,
        batch: &Self::Batch,
        past: Option<&Self::Buffer>,
        qkv: &Self::Buffer,
        out: &mut Self::Buffer,
    ) {
        let parameters = Self::attention_parameters(shape, bias);
        let (width, cache_stride) = (shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim);
        assert_eq!(qkv.len, batch.rows * parameters[3] as usize, "qkv must hold a row per row of the batch");
        let cached = past.map_or(0, |past| past.len / cache_stride);
        assert!(batch.cache_rows <= cached, "the cache lacks positions that a run refers to");
        self.resize(out, batch.rows * width);
        let (tiles, count) = &batch.tiles;
        let cache = past.map_or(self.of(qkv), |past| self.of(past));
        let bias = bias.map(|numbers| self.of(numbers));
        let (sinks, slopes) = (bias.sinks.unwrap_or(&self.nothing), bias.slopes.unwrap_or(&self.nothing));
        let buffers = [self.of(qkv), cache, tiles, &batch.segments, sinks, slopes, self.of(out)];
        let mut all = parameters.to_vec();
        all.push(word(cache_stride));
        self.launch(Kernel::Attention, &buffers, count * shape.heads, &all);
    }

    fn attend_backward(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Self::Buffer>,
        batch: &Self::Batch,
        qkv: &Self::Buffer,
        d_out: &Self::Buffer,
        d_qkv: &mut Self::Buffer,
    ) {
        let parameters = Self::attention_parameters(shape, bias);
        assert_eq!(qkv.len, batch.rows * parameters[3] as usize, "qkv must hold a row per row of the batch");
        assert_eq!(d_out.len, batch.rows * shape.heads * shape.head_dim, "d_out must hold a row per row");
        let (tiles, count) = batch.texts.as_ref().expect("gradients need whole texts");
        self.resize(d_qkv, qkv.len);
        let stats = allocate(self.device(), batch.rows * shape.heads * 3);
        let (qkv, d_out, d_qkv) = (self.of(qkv), self.of(d_out), self.of(d_qkv));
        let bias = bias.map(|numbers| self.of(numbers));
        let (sinks, slopes) = (bias.sinks.unwrap_or(&self.nothing), bias.slopes.unwrap_or(&self.nothing));
        let work = count * shape.heads;
        let buffers = [qkv, d_out, tiles, sinks, slopes, &stats];
        self.launch(Kernel::AttentionStats, &buffers, work, &parameters);
        let buffers = [qkv, d_out, tiles, slopes, &stats, d_qkv];
        self.launch(Kernel::AttentionDq, &buffers, work, &parameters);
        self.launch(Kernel::AttentionDkv, &buffers, count * shape.kv_heads, &parameters);
    }

    fn gated(&self, activation: Activation, width: usize, wide: &Self::Buffer, out: &mut Self::Buffer) {
        assert!(width > 0 && wide.len.is_multiple_of(2 * width), "wide must hold whole rows");
        self.resize(out, wide.len / 2);
        let parameters = [word(width), activation_word(activation)];
        self.launch(Kernel::Gate, &[self.of(wide), self.of(out)], out.len, &parameters);
    }

    fn gated_backward(
        &self,
        activation: Activation,
        width: usize,
        wide: &Self::Buffer,
        d_out: &Self::Buffer,
        d_wide: &mut Self::Buffer,
    ) {
        assert!(width > 0 && wide.len.is_multiple_of(2 * width), "wide must hold whole rows");
        assert_eq!(wide.len, 2 * d_out.len, "wide must be twice as wide as d_out");
        self.resize(d_wide, wide.len);
        let parameters = [word(width), activation_word(activation)];
        let buffers = [self.of(wide), self.of(d_out), self.of(d_wide)];
        self.launch(Kernel::GateBackward, &buffers, d_out.len, &parameters);
    }

    fn activate(&self, activation: Activation, x: &mut Self::Buffer) {
        self.launch(Kernel::Activate, &[self.of(x)], x.len, &[activation_word(activation)]);
    }

    fn activate_backward(&self, activation: Activation, x: &Self::Buffer, d: &mut Self::Buffer) {
        assert_eq!(x.len, d.len, "an activation keeps the length");
        let buffers = [self.of(x), self.of(d)];
        self.launch(Kernel::ActivateBackward, &buffers, d.len, &[activation_word(activation)]);
    }

    fn scale(&self, factor: f32, x: &mut Self::Buffer) {
        self.launch(Kernel::Scale, &[self.of(x)], x.len, &[factor.to_bits()]);
    }

    fn softcap(&self, cap: f32, x: &mut Self::Buffer) {
        self.launch(Kernel::Softcap, &[self.of(x)], x.len, &[cap.to_bits()]);
    }

    fn add(&self, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer) {
        assert_eq!(a.len, b.len, "sums need equal lengths");
        self.resize(out, a.len);
        self.launch(Kernel::Add, &[self.of(a), self.of(b), self.of(out)], a.len, &[]);
    }

    fn add_assign(&self, to: &mut Self::Buffer, from: &Self::Buffer) {
        assert!(to.len == 0 || (from.len > 0 && to.len.is_multiple_of(from.len)), "from must repeat whole");
        self.launch(Kernel::AddAssign, &[self.of(from), self.of(to)], to.len, &[word(from.len)]);
    }

    fn subtract(&self, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer) {
        assert_eq!(a.len, b.len, "differences need equal lengths");
        self.resize(out, a.len);
        self.launch(Kernel::Subtract, &[self.of(a), self.of(b), self.of(out)], a.len, &[]);
    }

    fn interpolate(&self, base: &Self::Buffer, direction: &Self::Buffer, at: &[f32], out: &mut Self::Buffer) {
        assert_eq!(base.len, direction.len, "a line needs a direction of its own length");
        let points = upload(self.device(), bytemuck::cast_slice(at));
        self.resize(out, at.len() * base.len);
        let buffers = [self.of(base), self.of(direction), &points, self.of(out)];
        self.launch(Kernel::Interpolate, &buffers, out.len, &[word(base.len)]);
    }

    fn edit(&self, width: usize, edits: &[RowEdit<'_, Self::Buffer>], x: &mut Self::Buffer) {
        assert!(edits.iter().all(|e| (e.row + 1) * width <= x.len), "an edited row lies outside the matrix");
        let mut rest = edits;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(compatible(rest));
            self.edit_rows(width, now, x);
            rest = later;
        }
    }

    fn read(&self, numbers: Vec<Self::Numbers>) -> Vec<Vec<f64>> {
        numbers::read(self.device(), &numbers)
    }

    fn all_finite(&self, buffers: &[&Self::Buffer]) -> bool {
        self.are_finite(buffers)
    }

    fn contribution_sums(
        &self,
        width: usize,
        h: &Self::Buffer,
        a: &Self::Buffer,
        m: &Self::Buffer,
    ) -> Self::Numbers {
        self.sums_of_contributions(width, [h, a, m])
    }

    fn gram(&self, width: usize, levels: &[&Self::Buffer]) -> Self::Numbers {
        self.products_of_levels(width, levels)
    }

    fn change_sums(
        &self,
        width: usize,
        added: &Self::Buffer,
        rows: &[u32],
        clean: [&Self::Buffer; 2],
        positions: &[u32],
    ) -> Self::Numbers {
        self.sums_of_changes(width, (added, rows), clean, positions)
    }

    fn row_dots(&self, width: usize, a: &Self::Buffer, b: &Self::Buffer) -> Self::Numbers {
        let (rows, b_rows) = (a.len / width, b.len / width);
        assert!(rows == 0 || b_rows > 0, "rows need others to be multiplied with");
        let parameters = [word(width), word(b_rows)];
        self.reduce(Kernel::RowDots, &[self.of(a), self.of(b)], rows, rows, &parameters)
    }

    fn row_sums(&self, width: usize, x: &Self::Buffer) -> Self::Numbers {
        let rows = x.len / width;
        self.reduce(Kernel::RowSums, &[self.of(x)], rows, rows, &[word(width)])
    }

    fn column_sums(&self, width: usize, x: &Self::Buffer) -> Self::Numbers {
        let rows = [word(x.len / width)];
        self.reduce(Kernel::ColumnSums, &[self.of(x)], width, width, &rows)
    }

    fn lens(&self, vocab: usize, levels: usize, logits: &Self::Buffer, tokens: &[u32]) -> Self::Numbers {
        self.compare_levels(vocab, levels, logits, tokens)
    }

    fn distances(&self, vocab: usize, logits: &Self::Buffer, references: &[u32]) -> Self::Numbers {
        let rows = logits.len / vocab;
        assert_eq!(rows, references.len(), "each row needs a reference");
        let references = self.indices(references, rows);
        let stats = self.log_sum_exp(vocab, logits);
        let buffers = [self.of(logits), &stats, &references];
        self.reduce(Kernel::Distances, &buffers, rows, rows, &[word(vocab)])
    }

    fn log_probabilities(&self, vocab: usize, logits: &Self::Buffer, tokens: &[u32]) -> Self::Numbers {
        self.pick(vocab, logits, &self.log_sum_exp(vocab, logits), tokens).0
    }

    fn probability_backward(
        &self,
        vocab: usize,
        tokens: &[u32],
        cap: Option<f32>,
        logits: &mut Self::Buffer,
    ) -> Self::Numbers {
        self.gradients_of_probabilities(vocab, tokens, cap, logits)
    }
}
