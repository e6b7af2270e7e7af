//! The CPU back end: the kernels of this crate on the rayon pool of the calling thread.
//!
//! Results do not depend on the number of threads, and a row's bits do not depend on the rows that share
//! its batch.

use super::{
    Backend, BatchLimits, Columns, LENS_NUMBERS, LinearLayer, Norm, RowAction, RowEdit, Run, Span, TOP,
};
use crate::attention::{AttentionRun, AttentionShape, HeadBias, KvSegment, attend};
use crate::distribution::{Softmax, log_sum_exp, scaled_softmax};
use crate::elementwise::{self as ops, Activation, Rotation};
use crate::memory::{Buffer, OutOfMemory};
use crate::norm::{self, NormKind};
use crate::peak::macs_per_second;
use crate::reduction::dot;
use crate::{Dtype, Isa, Linear, QuantBlocks, backward};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// The CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu;

/// Runs and their rotary tables.
pub struct CpuBatch {
    runs: Vec<Run>,
    rotations: Vec<Rotation>,
}

/// Elements per job; splitting work further costs more than it gains.
const ELEMENTS_PER_JOB: usize = 16_384;

impl LinearLayer for Linear {
    fn outputs(&self) -> usize {
        Linear::outputs(self)
    }

    fn inputs(&self) -> usize {
        Linear::inputs(self)
    }

    fn parameters(&self) -> usize {
        Linear::parameters(self)
    }

    fn bytes(&self) -> usize {
        Linear::bytes(self)
    }
}

impl Norm<Cpu> {
    fn row(&self, x: &mut [f32]) {
        match self.kind {
            NormKind::Rms => norm::rms_row(x, &self.weight, self.eps),
            NormKind::Layer => norm::layer_row(x, &self.weight, self.bias.as_deref(), self.eps),
        }
    }

    fn row_backward(&self, x: &[f32], d: &mut [f32]) {
        match self.kind {
            NormKind::Rms => backward::rms_row(x, &self.weight, self.eps, d),
            NormKind::Layer => backward::layer_row(x, &self.weight, self.eps, d),
        }
    }
}

impl Columns {
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.width * self.count
    }
}

fn row(x: &[f32], width: usize, i: usize) -> &[f32] {
    &x[i * width..(i + 1) * width]
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Linear = Linear;
    type Batch = CpuBatch;
    type Numbers = Vec<f64>;

    const READS_ROWS: bool = true;

    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn limits(&self) -> BatchLimits {
        // Logits beyond this are evicted from the caches before they are compared.
        BatchLimits { clean_rows: 256, rows: 2048, logit_bytes: 64 << 20, logit_rows: 128, saved_rows: 256 }
    }

    fn wait(&self) {}

    fn peak(&self, dtype: Dtype, rounds: usize) -> f64 {
        macs_per_second(Isa::get(), dtype, rounds)
    }

    fn empty(&self) -> Buffer {
        Buffer::default()
    }

    fn len(&self, buffer: &Buffer) -> usize {
        buffer.len()
    }

    fn try_resize(&self, buffer: &mut Buffer, len: usize) -> Result<(), OutOfMemory> {
        buffer.try_resize(len)
    }

    fn upload(&self, values: &[f32], to: &mut Buffer) {
        to.copy(values);
    }

    fn download(&self, from: &Buffer, part: Range<usize>) -> Vec<f32> {
        from[part].to_vec()
    }

    fn on_host<'a>(&self, buffer: &'a Buffer) -> Cow<'a, [f32]> {
        Cow::Borrowed(buffer)
    }

    fn buffer_of(&self, values: &[f32]) -> Buffer {
        values.to_vec().into()
    }

    fn copy(&self, from: &Buffer, part: Range<usize>) -> Buffer {
        let from = &from[part];
        let mut copy = Vec::with_capacity(from.len());
        copy.par_extend(from.par_iter().copied().with_min_len(ELEMENTS_PER_JOB));
        copy.into()
    }

    fn assign(&self, from: &Buffer, to: &mut Buffer) {
        to.copy(from);
    }

    fn gather(&self, width: usize, from: &Buffer, rows: &[u32], to: &mut Buffer) {
        to.resize(rows.len() * width);
        for (to, &i) in to.chunks_exact_mut(width).zip(rows) {
            to.copy_from_slice(row(from, width, i as usize));
        }
    }

    fn scatter(&self, width: usize, from: &Buffer, rows: &[u32], to: &mut Buffer) {
        for (from, &i) in from.chunks_exact(width).zip(rows) {
            let i = i as usize;
            to[i * width..(i + 1) * width].copy_from_slice(from);
        }
    }

    fn copy_columns(&self, columns: Columns, from: &Buffer, rows: Range<usize>) -> Buffer {
        let mut to = Buffer::default();
        let total = columns.width * columns.count;
        to.resize(rows.len() * total);
        let from = from[rows.start * columns.stride..rows.end * columns.stride].par_chunks(columns.stride);
        let pairs =
            to.par_chunks_mut(total.max(1)).zip(from).with_min_len((ELEMENTS_PER_JOB / total.max(1)).max(1));
        pairs.for_each(|(to, from)| to.copy_from_slice(&from[columns.range()]));
        to
    }

    fn pack<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Linear, E> {
        Linear::pack(n, k, dtype, bias, fill)
    }

    fn pack_quantised<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), E> + Sync,
    ) -> Result<Linear, E> {
        Linear::pack_quantised(n, k, columns, dtype, bias, fill)
    }

    fn supports_quantised(&self, k: usize, dtype: Dtype) -> bool {
        Linear::supports_quantised(k, dtype)
    }

    fn row(&self, layer: &Linear, row: usize, out: &mut [f32]) {
        layer.row(row, out);
    }

    fn linear(&self, layer: &Linear, x: &Buffer, y: &mut Buffer) {
        y.resize(x.len() / layer.inputs() * layer.outputs());
        layer.forward(x, y);
    }

    fn linear_backward(&self, layer: &Linear, dy: &Buffer, dx: &mut Buffer) {
        dx.resize(dy.len() / layer.outputs() * layer.inputs());
        layer.backward(dy, dx);
    }

    fn batch(&self, runs: &[Run], rotations: Vec<Rotation>) -> CpuBatch {
        CpuBatch { runs: runs.to_vec(), rotations }
    }

    fn norm(&self, norm: &Norm<Self>, columns: Columns, x: &mut Buffer) {
        norm::rows(x, columns.stride, |row| {
            row[columns.range()].chunks_exact_mut(columns.width).for_each(|part| norm.row(part));
        });
    }

    fn norm_backward(&self, norm: &Norm<Self>, columns: Columns, x: &Buffer, d: &mut Buffer) {
        let rows = d.par_chunks_mut(columns.stride).zip(x.par_chunks(columns.stride));
        rows.with_min_len((ELEMENTS_PER_JOB / columns.stride).max(1)).for_each(|(d, x)| {
            let parts = d[columns.range()].chunks_exact_mut(columns.width);
            parts
                .zip(x[columns.range()].chunks_exact(columns.width))
                .for_each(|(d, x)| norm.row_backward(x, d));
        });
    }

    fn rotate(&self, batch: &CpuBatch, table: usize, heads: Columns, inverse: bool, x: &mut Buffer) {
        let rotate = if inverse { backward::rotate } else { ops::rotate };
        rotate(x, heads.stride, heads.count, heads.width, &batch.rotations[table]);
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Buffer>,
        batch: &CpuBatch,
        past: Option<&Buffer>,
        qkv: &Buffer,
        out: &mut Buffer,
    ) {
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let stride = q + 2 * kv;
        out.resize(qkv.len() / stride * q);
        let runs: Vec<_> = batch.runs.iter().map(|run| segments(run, past, qkv, q, kv)).collect();
        attend(shape, bias.map(|numbers| &numbers[..]), qkv, stride, &runs, out);
    }

    fn attend_backward(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Buffer>,
        batch: &CpuBatch,
        qkv: &Buffer,
        d_out: &Buffer,
        d_qkv: &mut Buffer,
    ) {
        let whole = batch.runs.iter().all(|r| r.first == 0 && r.past.is_empty());
        assert!(whole, "gradients need whole texts");
        let texts: Vec<Range<usize>> = batch.runs.iter().map(|r| r.rows.clone()).collect();
        d_qkv.resize(qkv.len());
        backward::attend(shape, bias.map(|numbers| &numbers[..]), qkv, &texts, d_out, d_qkv);
    }

    fn gated(&self, activation: Activation, width: usize, wide: &Buffer, out: &mut Buffer) {
        out.resize(wide.len() / 2);
        ops::gated(activation, wide, width, out);
    }

    fn gated_backward(
        &self,
        activation: Activation,
        width: usize,
        wide: &Buffer,
        d_out: &Buffer,
        d_wide: &mut Buffer,
    ) {
        d_wide.resize(wide.len());
        backward::gated(activation, wide, width, d_out, d_wide);
    }

    fn activate(&self, activation: Activation, x: &mut Buffer) {
        ops::activate(activation, x);
    }

    fn activate_backward(&self, activation: Activation, x: &Buffer, d: &mut Buffer) {
        backward::activate(activation, x, d);
    }

    fn scale(&self, factor: f32, x: &mut Buffer) {
        ops::scale(factor, x);
    }

    fn softcap(&self, cap: f32, x: &mut Buffer) {
        ops::softcap(cap, x);
    }

    fn add(&self, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        out.resize(a.len());
        ops::add(a, b, out);
    }

    fn add_assign(&self, to: &mut Buffer, from: &Buffer) {
        to.chunks_mut(from.len().max(1)).for_each(|to| ops::add_assign(to, from));
    }

    fn subtract(&self, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        assert_eq!(a.len(), b.len(), "differences need equal lengths");
        out.resize(a.len());
        out.iter_mut().zip(a.iter().zip(b.iter())).for_each(|(out, (a, b))| *out = a - b);
    }

    fn interpolate(&self, base: &Buffer, direction: &Buffer, at: &[f32], out: &mut Buffer) {
        out.resize(base.len() * at.len());
        for (out, r) in out.chunks_exact_mut(base.len().max(1)).zip(at) {
            out.iter_mut().zip(base.iter().zip(direction.iter())).for_each(|(out, (b, w))| *out = b + r * w);
        }
    }

    fn edit(&self, width: usize, edits: &[RowEdit<'_, Buffer>], x: &mut Buffer) {
        for RowEdit { row: i, action } in edits {
            let x = &mut x[i * width..(i + 1) * width];
            match *action {
                RowAction::Zero => x.fill(0.0),
                RowAction::Scale(by) => x.iter_mut().for_each(|x| *x *= by),
                RowAction::Replace(from, i) => x.copy_from_slice(row(from, width, i)),
                RowAction::Add(from, i) => x.iter_mut().zip(row(from, width, i)).for_each(|(x, v)| *x += v),
                RowAction::Subtract(from, i) => {
                    x.iter_mut().zip(row(from, width, i)).for_each(|(x, v)| *x -= v);
                }
            }
        }
    }

    fn read(&self, numbers: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        numbers
    }

    fn all_finite(&self, buffers: &[&Buffer]) -> bool {
        buffers.par_iter().all(|buffer| buffer.iter().all(|x| x.is_finite()))
    }

    fn contribution_sums(&self, width: usize, h: &Buffer, a: &Buffer, m: &Buffer) -> Vec<f64> {
        let rows = h.par_chunks_exact(width).zip(a.par_chunks_exact(width)).zip(m.par_chunks_exact(width));
        let sums = rows.map(|((h, a), m)| {
            let mid: Vec<f32> = h.iter().zip(a).map(|(h, a)| h + a).collect();
            let added: Vec<f32> = a.iter().zip(m).map(|(a, m)| a + m).collect();
            [
                dot(h, h),
                dot(&mid, &mid),
                dot(a, a),
                dot(m, m),
                dot(&added, &added),
                dot(a, h),
                dot(m, &mid),
                dot(&added, h),
            ]
        });
        sums.flatten_iter().collect()
    }

    fn gram(&self, width: usize, levels: &[&Buffer]) -> Vec<f64> {
        let rows = levels.first().map_or(0, |level| level.len() / width);
        let of_row = |t: usize| {
            let vectors: Vec<&[f32]> = levels.iter().map(|level| row(level, width, t)).collect();
            let pairs = |i: usize| (i..levels.len()).map(move |j| (i, j));
            (0..levels.len()).flat_map(pairs).map(|(i, j)| dot(vectors[i], vectors[j])).collect::<Vec<f64>>()
        };
        (0..rows).into_par_iter().flat_map_iter(of_row).collect()
    }

    fn change_sums(
        &self,
        width: usize,
        added: &Buffer,
        rows: &[u32],
        clean: [&Buffer; 2],
        positions: &[u32],
    ) -> Vec<f64> {
        let pairs = rows.par_iter().zip(positions);
        let sums = pairs.map(|(&i, &position)| {
            let edited = row(added, width, i as usize);
            let [attn, mlp] = clean.map(|part| row(part, width, position as usize));
            let clean: Vec<f32> = attn.iter().zip(mlp).map(|(a, m)| a + m).collect();
            let gap: Vec<f32> = clean.iter().zip(edited).map(|(c, e)| c - e).collect();
            [dot(&gap, &gap), dot(&clean, &clean)]
        });
        sums.flatten_iter().collect()
    }

    fn row_dots(&self, width: usize, a: &Buffer, b: &Buffer) -> Vec<f64> {
        a.chunks_exact(width).zip(b.chunks_exact(width).cycle()).map(|(a, b)| dot(a, b)).collect()
    }

    fn row_sums(&self, width: usize, x: &Buffer) -> Vec<f64> {
        x.chunks_exact(width).map(|row| row.iter().map(|x| f64::from(*x)).sum()).collect()
    }

    fn column_sums(&self, width: usize, x: &Buffer) -> Vec<f64> {
        let mut sums = vec![0.0; width];
        for row in x.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        sums
    }

    fn lens(&self, vocab: usize, levels: usize, logits: &Buffer, tokens: &[u32]) -> Vec<f64> {
        assert_eq!(logits.len(), tokens.len() * vocab, "logits must hold a row per token");
        let groups = logits.par_chunks_exact(levels * vocab).zip(tokens.par_chunks_exact(levels));
        groups.map(|(group, tokens)| compare(group, vocab, tokens)).collect::<Vec<_>>().concat()
    }

    fn distances(&self, vocab: usize, logits: &Buffer, references: &[u32]) -> Vec<f64> {
        // One reference at a time per thread, because its probabilities take as much memory as a row.
        let groups: Vec<(usize, &[u32])> = with_starts(references.chunk_by(|a, b| a == b)).collect();
        let of_group = |(start, group): (usize, &[u32])| -> Vec<f64> {
            let reference = group[0] as usize;
            if group.len() == 1 && reference == start {
                return vec![0.0];
            }
            let mut scratch = Vec::new();
            let q = Softmax::new(row(logits, vocab, reference), &mut scratch);
            let distance = |scratch: &mut Vec<f32>, i: usize| match start + i == reference {
                true => 0.0,
                false => Softmax::new(row(logits, vocab, start + i), scratch).distance_to(&q),
            };
            (0..group.len()).into_par_iter().map_init(Vec::new, distance).collect()
        };
        groups.into_par_iter().map(of_group).collect::<Vec<_>>().concat()
    }

    fn log_probabilities(&self, vocab: usize, logits: &Buffer, tokens: &[u32]) -> Vec<f64> {
        let rows = logits.par_chunks(vocab).zip(tokens);
        rows.map(|(row, token)| f64::from(row[*token as usize]) - log_sum_exp(row)).collect()
    }

    fn probability_backward(
        &self,
        vocab: usize,
        tokens: &[u32],
        cap: Option<f32>,
        logits: &mut Buffer,
    ) -> Vec<f64> {
        let rows = logits.par_chunks_mut(vocab).zip(tokens);
        rows.map(|(row, token)| probability_backward(row, *token, cap)).collect()
    }
}

/// Groups with the index of their first element.
fn with_starts<'a>(groups: impl Iterator<Item = &'a [u32]>) -> impl Iterator<Item = (usize, &'a [u32])> {
    groups.scan(0, |next, group| {
        let start = *next;
        *next += group.len();
        Some((start, group))
    })
}

/// The keys and values that a run attends to: its past, then its own rows.
fn segments<'a>(
    run: &Run,
    past: Option<&'a Buffer>,
    qkv: &'a Buffer,
    q: usize,
    kv: usize,
) -> AttentionRun<'a> {
    let stride = q + 2 * kv;
    let of_rows = |rows: &Range<usize>| KvSegment {
        keys: &qkv[rows.start * stride + q..],
        values: &qkv[rows.start * stride + q + kv..],
        stride,
        count: rows.len(),
    };
    let of_span = |span: &Span| match span {
        Span::Rows(rows) => of_rows(rows),
        Span::Cache(positions) => {
            let cache = past.expect("a run refers to a KV cache that is missing");
            KvSegment {
                keys: &cache[positions.start * 2 * kv..],
                values: &cache[positions.start * 2 * kv + kv..],
                stride: 2 * kv,
                count: positions.len(),
            }
        }
    };
    let segments = run.past.iter().map(of_span).chain([of_rows(&run.rows)]).collect();
    AttentionRun { rows: run.rows.clone(), first: run.first, segments }
}

/// Compares each level of one token with the last level.
///
/// # Shapes
/// `logits [levels, V]`, `tokens [levels]`; the result is `[levels, LENS_NUMBERS]`.
fn compare(logits: &[f32], vocab: usize, tokens: &[u32]) -> Vec<f64> {
    let Some(last) = logits.chunks_exact(vocab).next_back() else { return Vec::new() };
    let mut scratch = Vec::new();
    let last = Softmax::new(last, &mut scratch);
    let k = TOP.min(vocab);
    let best = last.top::<TOP>();
    let level = |scratch: &mut Vec<f32>, (row, token): (&[f32], &u32)| -> [f64; LENS_NUMBERS] {
        let lens = Softmax::new(row, scratch);
        let mine = lens.top::<TOP>();
        let common = mine[..k].iter().filter(|token| best[..k].contains(token)).count() as f64;
        let agrees = f64::from(u8::from(mine[0] == best[0]));
        let log = f64::from(row[*token as usize]) - lens.log_sum_exp();
        let d = lens.divergence_from(&last);
        [d.kl, d.kl_reverse, d.jsd_bits, d.entropy, common, agrees, log]
    };
    logits.par_chunks_exact(vocab).zip(tokens).map_init(Vec::new, level).collect::<Vec<_>>().concat()
}

/// The softmax probability p of a token. The logits are replaced by their gradient
/// `p (onehot - softmax)`, taken through the soft-capping.
fn probability_backward(row: &mut [f32], token: u32, cap: Option<f32>) -> f64 {
    let lse = log_sum_exp(row);
    let token = token as usize;
    let log = f64::from(row[token]) - lse;
    let p = log.exp();
    let capped = cap.map(|cap| (cap, row.to_vec()));
    scaled_softmax(row, lse, -p as f32);
    // p (1 - p), accurate where p is close to 1.
    row[token] = (p * -log.exp_m1()) as f32;
    if let Some((cap, capped)) = capped {
        backward::softcap(cap, &capped, row);
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_level_is_the_output() {
        let logits: Vec<f32> = (0..60).map(|i| ((i * 37) % 17) as f32 / 3.0).collect();
        let numbers = compare(&logits, 20, &[3, 4, 19]);
        let [first, _, last] = numbers.as_chunks::<LENS_NUMBERS>().0 else { panic!("three levels") };
        assert_eq!((last[0], last[1], last[2]), (0.0, 0.0, 0.0));
        assert_eq!((last[4], last[5]), (5.0, 1.0));
        assert!(first[0] > 0.0);
    }

    #[test]
    fn distances_are_taken_from_each_row_s_reference() {
        let logits: Vec<f32> = (0..5 * 30).map(|i| ((i * 53) % 19) as f32 / 4.0).collect();
        let buffer = Cpu.buffer_of(&logits);
        let soft = |i: usize| -> Vec<f64> {
            let e: Vec<f64> = logits[i * 30..(i + 1) * 30].iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|e| e / sum).collect()
        };
        let references = [0, 0, 0, 3, 3];
        for (i, got) in Cpu.distances(30, &buffer, &references).into_iter().enumerate() {
            let pairs = soft(i).into_iter().zip(soft(references[i] as usize));
            let want = pairs.map(|(p, q)| (p - q).powi(2)).sum::<f64>().sqrt();
            assert!((got - want).abs() < 1e-6, "row {i}: {got} against {want}");
        }
    }

    #[test]
    fn edits_apply_in_order() {
        let mut x = Cpu.buffer_of(&[1.0, 2.0, 3.0, 4.0]);
        let values = Cpu.buffer_of(&[10.0, 20.0, 30.0, 40.0]);
        let edits = [
            RowEdit { row: 0, action: RowAction::Scale(2.0) },
            RowEdit { row: 0, action: RowAction::Subtract(&values, 1) },
            RowEdit { row: 1, action: RowAction::Replace(&values, 0) },
            RowEdit { row: 1, action: RowAction::Add(&values, 1) },
        ];
        Cpu.edit(2, &edits, &mut x);
        assert_eq!(x[..], [-28.0, -36.0, 40.0, 60.0]);
        Cpu.edit(2, &[RowEdit { row: 1, action: RowAction::Zero }], &mut x);
        assert_eq!(x[2..], [0.0, 0.0]);
    }
}
