//! The program as a user meets it: arguments in, exit code, streams and files out.

mod bad_data;
mod bad_models;
mod bad_output;
mod bench;
mod causal;
mod clusters;
mod data;
mod devices;
mod exit;
mod fit;
mod grow;
mod hub;
mod interrupt;
mod jobs;
mod lens;
mod lists;
mod map;
mod measure;
mod mix;
mod prune;
mod report;
mod resume;
mod snapshots;
mod study;
mod support;
mod verify;
