//! Ctrl-C: while prompts are measured the first one asks the work to stop at the next
//! prompt; any other ends the program at once.

use crate::output;
use std::sync::atomic::{AtomicBool, Ordering};

static MEASURING: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
pub(crate) fn listen() {
    // Without a handler Ctrl-C still ends the program, and every finished prompt
    // is on disk already; so a failure here costs nothing.
    let _ = ctrlc::set_handler(|| {
        let measuring = MEASURING.load(Ordering::SeqCst);
        if measuring && !STOP.swap(true, Ordering::SeqCst) {
            output::note("\nstopping when this prompt is done; press Ctrl-C again to stop at once");
            return;
        }
        output::note(match measuring {
            true => {
                "\nerror: interrupted; the prompts that were finished are kept: measure --resume, or the same study again, goes on with them"
            }
            false => "\nerror: interrupted before the first prompt; nothing was lost, run the command again",
        });
        std::process::exit(1);
    });
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
    STOP.load(Ordering::SeqCst)
}
