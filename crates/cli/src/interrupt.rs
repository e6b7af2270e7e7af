//! Ctrl-C: the first asks the work to stop at the next prompt, the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
pub(crate) fn listen() {
    // Without a handler Ctrl-C still ends the program, and every finished prompt
    // is on disk already; so a failure here costs nothing.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
    });
}

/// Whether the user wants to stop.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}
