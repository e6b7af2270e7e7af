//! What can go wrong with figures and pages.

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The results folder could not be read or written.
    #[error(transparent)]
    Folder(#[from] fathom_results::Error),
    /// A figure or the page could not be drawn.
    #[error("cannot draw {what}: {reason}; the numbers are safe in results.json")]
    Draw {
        /// The figure or file.
        what: String,
        /// The library's message.
        reason: String,
    },
}
