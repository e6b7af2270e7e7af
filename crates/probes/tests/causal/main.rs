//! The planner of edited runs and the probes built on it, against full forward passes, on the fixture of
//! every architecture.

mod counting;
mod degenerate;
mod erasure;
mod local;
mod masked;
mod nothing;
mod random;
mod skip;
mod support;
