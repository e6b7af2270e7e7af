//! Parquet files and published sets.

mod published;
mod tables;
mod writer;
