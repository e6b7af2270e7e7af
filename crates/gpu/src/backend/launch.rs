//! Launches, and the parameters that several operations share.

use super::{Buffer, upload};
use crate::Gpu;
use crate::device::{Device, Kernel, word};
use fathom_kernels::attention::{AttentionShape, HeadBias, Visibility};
use fathom_kernels::backend::{Columns, Norm};
use fathom_kernels::elementwise::Activation;
use fathom_kernels::norm::NormKind;

pub(super) fn activation_word(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
        Activation::Relu => 3,
        Activation::ReluSquared => 4,
        Activation::Sigmoid => 6,
        Activation::ClampedSwiglu => 5,
    }
}

fn kind_word(kind: NormKind) -> u32 {
    match kind {
        NormKind::Rms => 0,
        NormKind::Layer => 1,
    }
}

pub(super) fn check_columns(columns: Columns, len: usize) -> usize {
    let Columns { stride, start, width, count } = columns;
    assert!(stride > 0 && width > 0, "a row must have a width");
    assert!(start + width * count <= stride, "the columns must lie in the row");
    assert_eq!(len % stride, 0, "a matrix must hold whole rows of {stride}");
    len / stride
}

/// Windows from this on see all of any text.
const LONGEST_WINDOW: usize = 1 << 30;

impl<D: Device> Gpu<D> {
    /// Launches a kernel over `work` units, if there are any.
    pub(super) fn launch(&self, kernel: Kernel, buffers: &[&D::Memory], work: usize, parameters: &[u32]) {
        if work == 0 {
            return;
        }
        let mut all = Vec::with_capacity(parameters.len() + 1);
        all.push(word(work));
        all.extend_from_slice(parameters);
        self.device.launch(kernel, buffers, &all, work);
    }

    /// The memory of a buffer; some memory when it is empty.
    pub(super) fn of<'a>(&'a self, buffer: &'a Buffer<D::Memory>) -> &'a D::Memory {
        buffer.memory.as_ref().unwrap_or(&self.nothing)
    }

    pub(super) fn norm_parameters(norm: &Norm<Self>, columns: Columns) -> [u32; 7] {
        let Columns { stride, start, width, count } = columns;
        let has_bias = u32::from(norm.bias.is_some());
        let kind = kind_word(norm.kind);
        [word(stride), word(start), word(width), word(count), kind, norm.eps.to_bits(), has_bias]
    }

    pub(super) fn check_norm(norm: &Norm<Self>, columns: Columns) {
        let lens = [Some(norm.weight.len), norm.bias.as_ref().map(|b| b.len)];
        assert!(
            lens.iter().flatten().all(|len| *len == columns.width),
            "a norm must be as wide as its vectors"
        );
    }

    /// Heads, dimensions, scale, soft-capping, visibility, and whether heads have sinks and slopes, as the kernels of
    /// attention take them.
    pub(super) fn attention_parameters(
        shape: &AttentionShape,
        bias: &HeadBias<Buffer<D::Memory>>,
    ) -> [u32; 11] {
        let AttentionShape { heads, kv_heads, head_dim, scale, softcap, visibility } = *shape;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads must share key heads");
        let (window, ahead) = match visibility {
            Visibility::Causal => (None, 0),
            Visibility::Window(window) => (Some(window), 0),
            Visibility::Full => (None, LONGEST_WINDOW),
            Visibility::Around(side) => (side.checked_add(1), side.min(LONGEST_WINDOW)),
        };
        assert!(head_dim > 0 && window != Some(0), "heads and windows must not be empty");
        let lens = [&bias.sinks, &bias.slopes].map(|numbers| numbers.as_ref().map_or(heads, |n| n.len));
        assert_eq!(lens, [heads; 2], "each head needs a sink and a slope");
        let cap = softcap.unwrap_or(1.0).to_bits();
        // A window longer than any text sees all of it. Kernels add windows to positions.
        let window = window.filter(|window| *window < LONGEST_WINDOW).map_or(0, word);
        let stride = word((heads + 2 * kv_heads) * head_dim);
        [
            word(heads),
            word(kv_heads),
            word(head_dim),
            stride,
            scale.to_bits(),
            u32::from(softcap.is_some()),
            cap,
            window,
            word(ahead),
            u32::from(bias.sinks.is_some()),
            bias.slopes.as_ref().map_or(0, |_| 1 + u32::from(bias.rounded)),
        ]
    }

    /// Indices of rows in the memory of the device.
    pub(super) fn indices(&self, rows: &[u32], below: usize) -> D::Memory {
        assert!(rows.iter().all(|row| (*row as usize) < below), "a row lies outside the matrix");
        upload(self.device(), rows)
    }
}
