//! The planner of edited runs against full forward passes, and the probes that
//! rest on it, on the fixture of every architecture.

mod counting;
mod degenerate;
mod erasure;
mod local;
mod nothing;
mod random;
mod skip;
mod support;
