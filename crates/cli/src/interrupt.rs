//! Ctrl-C and requests to terminate: while prompts are measured the first one asks the work to stop at
//! the next prompt; any other ends the program at once.
//!
//! SIGHUP keeps the meaning it has, so that `nohup` works.

use crate::output;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

static MEASURING: AtomicBool = AtomicBool::new(false);

/// The signal that asked for an end; 0 for none.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Listens from now on.
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
    let measuring = MEASURING.load(Ordering::SeqCst);
    let earlier = SIGNAL.swap(signal, Ordering::SeqCst);
    if measuring && earlier == 0 {
        output::note("\nstopping when this prompt is done; interrupt again to stop at once");
        return;
    }
    output::note(match measuring {
        true => {
            "\nerror: interrupted; the prompts that were finished are kept, and the same command goes on with the others"
        }
        false => "\nerror: interrupted",
    });
    std::process::exit(code().into());
}

/// The exit code of a program that a signal has ended, as shells have it.
fn code() -> u8 {
    128 + SIGNAL.load(Ordering::SeqCst)
}

/// The exit code of a command that failed, if that is because the user stopped it.
pub(crate) fn exit_code() -> Option<u8> {
    stopped().then(code)
}

/// While this lives there are finished prompts to put together, so the first Ctrl-C
/// only asks for an end.
pub(crate) fn measuring() -> Measuring {
    MEASURING.store(true, Ordering::SeqCst);
    Measuring
}

/// See [`measuring`].
pub(crate) struct Measuring;

impl Drop for Measuring {
    fn drop(&mut self) {
        MEASURING.store(false, Ordering::SeqCst);
    }
}

/// Whether the user wants to stop.
pub(crate) fn stopped() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}
