//! CPU kernels for transformer layers. They know nothing about models.
//!
//! All matrices are row-major `f32` slices. Weights are packed once, in the smallest lossless format,
//! and multiplied by [`Linear`] as panels; [`attention`] uses the same inner kernel on panels packed
//! from keys and values. The instruction set is chosen at run time ([`Isa`]); work runs on the rayon
//! pool of the calling thread.
//!
//! **Row invariance.** Every output row is a function of its own input row alone: each element is one
//! chain of additions in a fixed order, whatever the number of rows in the call, the row's place among
//! them, or the number of threads. Batching, sharing of prefixes and splitting to fit memory therefore
//! change no bit of a result; the planner of edited runs relies on this.
//!
//! **Global state.** The detected instruction set and each thread's scratch buffers are cached for the
//! life of the process; neither affects results. [`retain_freed_memory`] changes the allocator and is
//! left to the program.

#![deny(missing_docs)]

pub mod attention;
mod attention_backward;
pub mod backend;
pub mod backward;
mod cpu;
pub mod distribution;
mod element;
pub mod elementwise;
mod linear;
pub mod mapped;
mod memory;
pub mod norm;
mod panel;
pub mod peak;
pub mod recurrence;
pub mod reduction;
pub mod short_convolution;
mod storage;
mod tile;
mod transpose;
mod transposed;

pub use cpu::Isa;
pub use linear::{Dtype, Linear};
pub use memory::{Buffer, OutOfMemory, retain_freed_memory};
pub use storage::QuantBlocks;

/// The product of two sizes. Sizes are compared with the lengths of slices, on which `unsafe` code
/// relies, so they must not wrap around.
///
/// # Panics
/// On overflow.
fn checked_area(a: usize, b: usize) -> usize {
    a.checked_mul(b).expect("a shape is larger than any memory")
}
