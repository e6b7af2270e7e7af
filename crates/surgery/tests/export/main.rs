//! Exported models, opened again and run.

mod conversions;
mod folders;
mod gguf;
mod growth;
mod replacements;
mod support;
mod targets;
