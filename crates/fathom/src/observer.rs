//! Progress, messages and cancellation.

use fathom_hub::Progress;

/// A part of an operation that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// What is being done, such as `measuring`, or the name of a file that is downloaded.
    pub name: &'a str,
    /// What [`Observer::advance`] counts.
    pub unit: Unit,
    /// The amount of work, where it is known.
    pub total: Option<u64>,
}

/// What a task's progress is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things with a name, such as layers or prompts.
    Items(&'static str),
    /// Multiply-adds: to be shown as a share.
    MultiplyAdds,
    /// Bytes.
    Bytes,
    /// Nothing is counted.
    None,
}

/// Receives what happens during an operation, and can end it. Every method has a default that ignores the event.
///
/// Methods are called from one thread at a time, one task after the other: a thread of the operation's pool, or the caller's
/// where nothing is computed.
pub trait Observer: Sync {
    /// A task begins; the one before it has ended.
    fn begin(&self, _task: Task<'_>) {}
    /// Some of the current task's work is done.
    fn advance(&self, _amount: u64) {}
    /// The current task works on something else now, such as another prompt.
    fn detail(&self, _text: &str) {}
    /// The current task ends.
    fn end(&self) {}
    /// A sentence for the user.
    fn note(&self, _text: &str) {}
    /// A warning for the user, a sentence.
    fn warn(&self, _text: &str) {}
    /// Whether the operation polls [`is_cancelled`](Self::is_cancelled) from now on. Elsewhere it does not end early.
    fn cancellable(&self, _polls: bool) {}
    /// Whether the operation is to end early. Polled before every prompt; what was measured is kept.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything, and never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// A task that ends when this is dropped.
pub(crate) struct Running<'a>(&'a dyn Observer);

impl Running<'_> {
    pub(crate) fn advance(&self, amount: u64) {
        self.0.advance(amount);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Begins a task whose work is counted.
pub(crate) fn counted<'a>(observer: &'a dyn Observer, name: &str, unit: Unit, total: u64) -> Running<'a> {
    observer.begin(Task { name, unit, total: Some(total) });
    Running(observer)
}

/// Begins a task of unknown length.
pub(crate) fn uncounted<'a>(observer: &'a dyn Observer, name: &str) -> Running<'a> {
    observer.begin(Task { name, unit: Unit::None, total: None });
    Running(observer)
}

/// The part of an operation that can be cancelled; it ends when this is dropped.
pub(crate) struct Cancellable<'a>(&'a dyn Observer);

impl<'a> Cancellable<'a> {
    pub(crate) fn begin(observer: &'a dyn Observer) -> Self {
        observer.cancellable(true);
        Self(observer)
    }
}

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        self.0.cancellable(false);
    }
}

/// Passes downloads on to an observer.
pub(crate) struct Downloads<'a>(pub(crate) &'a (dyn Observer + 'a));

impl Progress for Downloads<'_> {
    fn start(&self, name: &str, total: Option<u64>) {
        let unit = if total.is_some() { Unit::Bytes } else { Unit::None };
        self.0.begin(Task { name, unit, total });
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn finish(&self) {
        self.0.end();
    }

    fn note(&self, text: &str) {
        // The note replaces what is left of a failed download.
        self.0.end();
        self.0.note(text);
    }
}
