//! The speed of linear layers, forward and backward.

use super::clock::{self, Speed};
use super::effort::Effort;
use crate::Result;
use fathom_kernels::backend::LinearLayer;
use fathom_kernels::{OutOfMemory, QuantBlocks};
use fathom_model::{Backend, Config, Dtype};
use serde::Serialize;
use std::ops::Range;

/// Inputs and outputs that every machine is measured at, so that lines of the history can
/// be compared: the MLP of Qwen2.5-1.5B, both ways.
const ALWAYS: [(usize, usize); 2] = [(1536, 8960), (8960, 1536)];

/// Columns that share a scale.
const COLUMNS: usize = 32;

/// More outputs of a head would take memory and time and show nothing new.
const MOST_OUTPUTS: usize = 32_768;

/// The forms of weights: with all digits of the type in which they are multiplied, and in blocks of 8 bits.
const FORMS: [Form; 4] = [
    Form { dtype: Dtype::F32, is_quantised: false },
    Form { dtype: Dtype::F32, is_quantised: true },
    Form { dtype: Dtype::Bf16, is_quantised: false },
    Form { dtype: Dtype::Bf16, is_quantised: true },
];

/// How weights are multiplied and stored.
#[derive(Clone, Copy)]
struct Form {
    dtype: Dtype,
    is_quantised: bool,
}

/// A linear layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// What it is in a model.
    of: Vec<&'static str>,
    inputs: usize,
    outputs: usize,
}

/// The direction of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Inputs to outputs.
    Forward,
    /// Gradients of outputs to gradients of inputs.
    Backward,
}

impl Direction {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        }
    }
}

/// The speed of one layer with a number of rows.
#[derive(Clone, Debug, Serialize)]
pub struct KernelSpeed {
    /// What it is in a model.
    pub layer: String,
    /// Forward or backward.
    pub direction: Direction,
    /// The type in which weights are multiplied.
    pub dtype: &'static str,
    /// K.
    pub inputs: usize,
    /// N.
    pub outputs: usize,
    /// M.
    pub rows: usize,
    /// 4 in full, 2 in bfloat16, 1.25 quantised: bytes in which a weight is stored.
    pub bytes_a_weight: f64,
    /// Times and speed.
    #[serde(flatten)]
    pub speed: Speed,
    /// Gigabytes of weights that go by in a second: with few rows memory is the limit.
    pub weights_gb_per_second: f64,
}

/// What is measured: always the same, and what a model has.
pub(super) fn shapes(config: Option<&Config>) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    let mut add =
        |of, inputs, outputs| match shapes.iter_mut().find(|s| (s.inputs, s.outputs) == (inputs, outputs)) {
            Some(same) => same.of.push(of),
            None => shapes.push(Shape { of: vec![of], inputs, outputs }),
        };
    for (inputs, outputs) in ALWAYS {
        add("reference", inputs, outputs);
    }
    if let Some(c) = config {
        add("qkv", c.hidden, c.q_width(0) + 2 * c.kv_width(0));
        add("attn_out", c.q_width(0), c.hidden);
        let width = c.experts().map_or(c.intermediate, |experts| experts.width);
        add("up", c.hidden, width * if c.gated { 2 } else { 1 });
        add("down", width, c.hidden);
        let head = if c.vocab > MOST_OUTPUTS { "part of head" } else { "head" };
        add(head, c.hidden, c.vocab.min(MOST_OUTPUTS));
    }
    shapes
}

/// The forms in which weights of a shape can be: blocks must fill rows.
fn forms(shape: &Shape) -> impl Iterator<Item = Form> + use<> {
    let can_be_quantised = shape.inputs.is_multiple_of(COLUMNS);
    FORMS.into_iter().filter(move |form| can_be_quantised || !form.is_quantised)
}

/// How many timings that are.
pub(super) fn count(shapes: &[Shape], effort: &Effort) -> usize {
    shapes.iter().map(|shape| forms(shape).count() * effort.rows.len() * 2).sum()
}

/// Measures all, and reports each as soon as it is ready.
pub(super) fn measure<B: Backend>(
    on: &B,
    shapes: &[Shape],
    effort: &Effort,
    each: &mut dyn FnMut(&KernelSpeed) -> Result<()>,
) -> Result<Vec<KernelSpeed>> {
    let mut kernels = Vec::new();
    for shape in shapes {
        for form in forms(shape) {
            let layers = copies(on, shape, form, effort.weights);
            for direction in [Direction::Forward, Direction::Backward] {
                for &rows in effort.rows {
                    let kernel = one(on, shape, &layers, form.dtype, direction, rows, effort)?;
                    each(&kernel)?;
                    kernels.push(kernel);
                }
            }
        }
    }
    Ok(kernels)
}

/// Copies of a layer that fill `bytes` together: taken in turn, their weights come from memory, as
/// those of a model do, and not from a cache.
fn copies<B: Backend>(on: &B, shape: &Shape, form: Form, bytes: usize) -> Vec<B::Linear> {
    let (n, k) = (shape.outputs, shape.inputs);
    let floats = |rows: Range<usize>, block: &mut [f32]| {
        numbers(rows.start * k, block);
        Ok::<(), OutOfMemory>(())
    };
    let blocks = |rows: Range<usize>, blocks: QuantBlocks<'_>| {
        numbers(rows.start, blocks.scales);
        // Few digits, as in any format: products with the whole numbers are exact.
        blocks.scales.iter_mut().for_each(|s| *s = (*s * 1024.0).round() / 1024.0);
        numbers(rows.end, blocks.offsets);
        for (i, value) in blocks.values.iter_mut().enumerate() {
            *value = (rows.start * k + i).wrapping_mul(97) as u8 as i8;
        }
        Ok::<(), OutOfMemory>(())
    };
    let pack = || {
        let packed = if form.is_quantised {
            on.pack_quantised(n, k, COLUMNS, form.dtype, None, blocks)
        } else {
            on.pack(n, k, form.dtype, None, floats)
        };
        // The panic hook reports this payload as a shortage of memory.
        // The caller turns it into an error.
        packed.unwrap_or_else(|error| std::panic::panic_any(error))
    };
    let mut layers = vec![pack()];
    let all = bytes.div_ceil(layers[0].bytes().max(1));
    layers.resize_with(all.max(1), pack);
    layers
}

/// Numbers between -0.5 and 0.5; none is so small that arithmetic takes longer.
fn numbers(first: usize, into: &mut [f32]) {
    for (i, x) in into.iter_mut().enumerate() {
        let mixed =
            ((first + i) as u32).wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519);
        *x = (mixed >> 8) as f32 / (1 << 24) as f32 - 0.5;
    }
}

fn one<B: Backend>(
    on: &B,
    shape: &Shape,
    layers: &[B::Linear],
    dtype: Dtype,
    direction: Direction,
    rows: usize,
    effort: &Effort,
) -> Result<KernelSpeed> {
    let from = match direction {
        Direction::Forward => shape.inputs,
        Direction::Backward => shape.outputs,
    };
    let mut x = vec![0.0; rows * from];
    numbers(0, &mut x);
    let (x, mut y) = (on.buffer_of(&x), on.empty());
    let multiply = |layer: &B::Linear, y: &mut B::Buffer| match direction {
        Direction::Forward => on.linear(layer, &x, y),
        Direction::Backward => on.linear_backward(layer, &x, y),
    };
    // The first time wakes threads and touches memory.
    multiply(&layers[0], &mut y);
    let mut turns = layers.iter().cycle();
    let macs = (rows * shape.inputs * shape.outputs) as u64;
    let speed = clock::time(on, effort, dtype, macs, &mut || {
        let layer = turns.next().unwrap_or(&layers[0]);
        Ok(clock::seconds(on, || multiply(layer, &mut y)).0)
    })?;
    Ok(KernelSpeed {
        layer: shape.of.join(", "),
        direction,
        dtype: dtype.name(),
        inputs: shape.inputs,
        outputs: shape.outputs,
        rows,
        bytes_a_weight: layers[0].bytes() as f64 / (shape.inputs * shape.outputs) as f64,
        speed,
        weights_gb_per_second: layers[0].bytes() as f64 / speed.seconds / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_model::Cpu;

    #[test]
    fn weights_are_neither_tiny_nor_all_alike() {
        let mut x = vec![0.0; 10_000];
        numbers(7, &mut x);
        assert!(x.iter().all(|x| (-0.5..0.5).contains(x)));
        assert!(x.iter().filter(|x| x.abs() < 1e-6).count() < 10);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.02, "{mean}");
    }

    #[test]
    fn copies_fill_what_they_are_to_fill() {
        let shape = Shape { of: vec![], inputs: 100, outputs: 64 };
        let bytes =
            |fill: usize| copies(&Cpu, &shape, FORMS[0], fill).iter().map(LinearLayer::bytes).sum::<usize>();
        assert_eq!(bytes(0), 25_600);
        assert!((1_000_000..1_025_600).contains(&bytes(1_000_000)));
    }
}
