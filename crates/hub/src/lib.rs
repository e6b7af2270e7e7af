//! Fetches the files of models and data sets, from the local cache or over the network.
//!
//! [`Hub`] serves Hugging Face repositories and shares its cache with Python's `huggingface_hub` in both directions.
//! [`built_in`] has models with a short name, pinned by their SHA-256. This crate knows nothing about tensors.
//!
//! HTTP requests use ureq rather than the hf-hub crate: hf-hub 1.0 restarts every interrupted file from byte zero and
//! does not honour `HF_HUB_OFFLINE`. It would also add some 220 crates (tokio, reqwest, hf-xet), ureq with rustls
//! about 20, for a protocol of one JSON listing, one HEAD and one ranged GET per file.
//!
//! Everything a server says is untrusted: file names, entity tags, commit names, lengths and the shard names in index
//! files are checked before they become paths, and reads into memory are limited.

#![deny(missing_docs)]

pub mod built_in;
mod cache;
mod client;
mod digest;
mod download;
mod error;
mod hub;
mod names;
mod progress;
mod select;
mod settings;
mod wheel;

pub use error::HubError;
pub use hub::{Companions, Hub, HubFile, Listing, Snapshot};
pub use names::check_repo_id;
pub use progress::{Progress, Quiet};
pub use settings::{HubSettings, default_folder};
