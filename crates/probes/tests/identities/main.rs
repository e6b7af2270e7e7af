//! The probes against straightforward `f64` implementations of their definitions, on the fixture of every
//! architecture.

mod angles;
mod contributions;
mod counting;
mod experts;
mod lens;
mod likelihood;
mod measuring;
mod order;
mod settling;
mod similarity;
mod summaries;
mod support;
