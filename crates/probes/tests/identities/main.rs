//! The probes against definitions computed in the plainest way, in `f64`, on the
//! fixture of every architecture.

mod contributions;
mod counting;
mod lens;
mod likelihood;
mod measuring;
mod settling;
mod similarity;
mod summaries;
mod support;
