//! Making the files that tests read.

// Each test takes what it needs.
#![allow(dead_code)]

pub(crate) mod gguf;
pub(crate) mod hf;
