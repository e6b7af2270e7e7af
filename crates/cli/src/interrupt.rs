//! SIGINT (Ctrl-C) and SIGTERM: while prompts are measured, the first one stops the work at the next prompt; any other
//! ends the program at once.
//!
//! SIGHUP is left alone, so that `nohup` works.

use crate::output;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Whether the operation polls for cancellation, so that finished prompts are put together in the end.
static POLLED: AtomicBool = AtomicBool::new(false);

/// The signal that requested an end; 0 for none.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Installs the signal handlers.
pub(crate) fn listen() {
    // Without a handler a signal still ends the program, and every finished prompt is on disk already;
    // so a failure here costs nothing.
    #[cfg(unix)]
    if let Ok(mut signals) =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
    {
        std::thread::spawn(move || signals.forever().for_each(|signal| received(signal as u8)));
    }
    #[cfg(not(unix))]
    let _ = ctrlc::set_handler(|| received(2));
}

fn received(signal: u8) {
    let polled = POLLED.load(Ordering::SeqCst);
    let earlier = SIGNAL.swap(signal, Ordering::SeqCst);
    if polled && earlier == 0 {
        output::note("\nstopping when this prompt is done; interrupt again to stop at once");
        return;
    }
    output::note(match polled {
        true => {
            "\nerror: interrupted; the prompts that were finished are kept, and the same command goes on with the others"
        }
        false => "\nerror: interrupted",
    });
    std::process::exit(code().into());
}

/// The exit code of a program ended by a signal, by the convention of shells.
fn code() -> u8 {
    128 + SIGNAL.load(Ordering::SeqCst)
}

/// The exit code of a command that failed because the user stopped it.
pub(crate) fn exit_code() -> Option<u8> {
    stopped().then(code)
}

/// While the operation polls, the first signal only requests an end.
pub(crate) fn set_polled(polled: bool) {
    POLLED.store(polled, Ordering::SeqCst);
}

/// Whether the user wants to stop.
pub(crate) fn stopped() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}
