//! CPU kernels for transformer layers. They know nothing of models.
//!
//! Everything works on row-major `f32` slices. Weights are packed once, in a form no larger
//! than they need, and multiplied by [`Linear`] as panels; [`attention`] uses the same inner
//! kernel on panels that it packs from keys. The instruction set is chosen at
//! run time ([`Isa`]), threads are rayon's current pool.
//!
//! **Row invariance.** Every output row is a function of its own input row
//! alone: each element is one chain of additions in a fixed order, whatever the
//! number of rows in the call, the row's place among them, or the number of
//! threads. So batching, sharing of prefixes and splitting to fit memory change
//! no bit of a result; the planner of edited runs relies on this.

#![deny(missing_docs)]

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod backward;
#[cfg(target_arch = "x86_64")]
mod columns;
mod cpu;
pub mod distribution;
pub mod elementwise;
mod linear;
pub mod mapped;
mod memory;
pub mod norm;
mod panel;
pub mod peak;
mod storage;
mod tile;
mod transpose;
mod transposed;

pub use cpu::Isa;
pub use linear::{Dtype, Linear};
pub use memory::{Buffer, OutOfMemory, retain_freed_memory};
pub use storage::QuantBlocks;

/// A size from two others. Asserts compare blocking with the lengths of slices, and
/// `unsafe` code relies on them, so a size must not wrap around.
///
/// # Panics
/// When the product is too large.
fn checked_area(a: usize, b: usize) -> usize {
    a.checked_mul(b).expect("a shape is larger than any memory")
}
