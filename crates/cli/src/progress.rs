//! Progress on stderr, with the time that is left. Nothing is drawn when stderr
//! is no terminal.

use fathom_hub::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::time::Duration;

/// A bar over `len` steps that are called `unit`.
pub(crate) fn bar(what: &str, len: u64, unit: &str) -> ProgressBar {
    let template = format!(
        "{{prefix}} {{wide_bar:.cyan/dim}} {{pos}}/{{len}} {unit}  {{elapsed}} elapsed, {{eta}} left {{msg}}"
    );
    let bar = ProgressBar::new(len).with_style(style(&template)).with_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A bar over so much work, of which only the share is shown.
pub(crate) fn work(what: &str, amount: u64) -> ProgressBar {
    let template = "{prefix} {wide_bar:.cyan/dim} {percent:>3} %  {elapsed} elapsed, {eta} left {msg}";
    let bar = ProgressBar::new(amount).with_style(style(template)).with_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Downloads, one bar a file.
#[derive(Default)]
pub(crate) struct Downloads(Mutex<Option<ProgressBar>>);

impl Downloads {
    fn current(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        // A poisoned lock only means that a drawing thread died; the bar is still there.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Downloads {
    fn start(&self, name: &str, total: Option<u64>) {
        let bar = match total {
            None => spinner(name),
            Some(total) => {
                let template =
                    "{prefix} {wide_bar:.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
                let bar = ProgressBar::new(total).with_style(style(template)).with_prefix(name.to_owned());
                bar.enable_steady_tick(Duration::from_millis(250));
                bar
            }
        };
        if let Some(earlier) = self.current().replace(bar) {
            earlier.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.current() {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.current().take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        // The note replaces what is left of a failed download.
        self.finish();
        crate::output::note(&format!("note: {text}"));
    }
}
