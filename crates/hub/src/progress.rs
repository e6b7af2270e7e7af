//! Progress callbacks.

/// Receives the progress of downloads and unpacking, one file at a time.
///
/// Every [`start`](Progress::start) is followed by any number of [`advance`](Progress::advance) and, when the file is
/// complete, by one [`finish`](Progress::finish). A second `start` without a `finish` means that the same file was
/// restarted from zero. There is no `finish` after an error.
pub trait Progress: Send + Sync {
    /// Work on `name` starts; `total` is its size in bytes, or `None` if unknown (show a spinner).
    fn start(&self, name: &str, total: Option<u64>);
    /// `bytes` more are done. Bytes kept from an interrupted run are reported right after `start`.
    fn advance(&self, bytes: u64);
    /// The file that was started last is complete.
    fn finish(&self);
    /// Something the user should know, in one sentence; not an error. Ignored by default.
    fn note(&self, _text: &str) {}
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _name: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
