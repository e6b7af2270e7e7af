//! Progress bars on stderr, with the time that is left. Nothing is drawn when stderr is not a terminal.

use crate::{interrupt, output};
use fathom::{Observer, Task, Unit};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shows progress and messages on stderr, and cancels when the user interrupts.
#[derive(Default)]
pub(crate) struct Terminal(Mutex<Option<ProgressBar>>);

impl Terminal {
    fn current(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        // A poisoned lock only means that a drawing thread died; the bar is still there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints without a bar in between.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &*self.current() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Terminal {
    fn begin(&self, task: Task<'_>) {
        if let Some(earlier) = self.current().replace(bar(&task)) {
            earlier.finish_and_clear();
        }
    }

    fn advance(&self, amount: u64) {
        if let Some(bar) = &*self.current() {
            bar.inc(amount);
        }
    }

    fn detail(&self, text: &str) {
        if let Some(bar) = &*self.current() {
            bar.set_message(format!("({text})"));
        }
    }

    fn end(&self) {
        if let Some(bar) = self.current().take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        self.suspend(|| output::note(text));
    }

    fn warn(&self, text: &str) {
        self.suspend(|| output::note(&format!("warning: {text}")));
    }

    fn cancellable(&self, polls: bool) {
        interrupt::set_polled(polls);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::stopped()
    }
}

fn bar(task: &Task<'_>) -> ProgressBar {
    let left = "{elapsed} elapsed, {eta} left {msg}";
    let template = match (task.total, task.unit) {
        (None, _) | (_, Unit::None) => {
            let bar = ProgressBar::new_spinner().with_message(task.name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            return bar;
        }
        (_, Unit::Items(unit)) => format!("{{pos}}/{{len}} {unit}  {left}"),
        (_, Unit::MultiplyAdds) => format!("{{percent:>3}} %  {left}"),
        (_, Unit::Bytes) => "{bytes}/{total_bytes}  {bytes_per_sec}, {eta} left".to_owned(),
    };
    let style = ProgressStyle::with_template(&format!("{{prefix}} {{wide_bar:.cyan/dim}} {template}"));
    let bar = ProgressBar::new(task.total.unwrap_or(0))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_prefix(task.name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
