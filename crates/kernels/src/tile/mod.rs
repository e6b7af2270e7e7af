//! The inner kernel: a few rows times one panel, with all sums in registers.
//!
//! Each sum is one chain of multiply-adds in the order of k, the same on every call, so that the result
//! of a row does not depend on the rows beside it.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_source;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod call;
mod dot;
mod fma;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod panel_source;
mod portable;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::peak as amx_peak;
pub(crate) use call::{Prefetch, Tile, prefetch};
pub(crate) use dot::{COLUMNS, DotTile, PanelPrefetch, decoded_words, max_rows as max_dot_rows, pack_rows};
pub(crate) use fma::Multiply;
pub(crate) use kernel::{Kernel, row_tiles};
