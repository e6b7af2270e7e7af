//! The thread pool of an operation.

use crate::{Error, Result};
use fathom_kernels::OutOfMemory;
use fathom_kernels::backend::DeviceError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Bytes of stack of each thread, as many as a main thread has.
const STACK: usize = 8 << 20;

/// Runs on a pool of its own. Everything runs on a thread of that pool, because a thread outside would hand every small
/// product over and sleep until it is done, which costs a third of the speed on short prompts.
pub(crate) fn run<T: Send>(threads: Option<usize>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    fathom_kernels::retain_freed_memory();
    // 0 is as many threads as there are processors, or RAYON_NUM_THREADS.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).stack_size(STACK).build();
    let pool = pool.map_err(|error| {
        Error::Invalid(format!("cannot start threads ({error}); use fewer threads (--threads)"))
    })?;
    // Buffers panic when memory is refused, and devices when they fail. Nothing that was unwound is used again.
    match catch_unwind(AssertUnwindSafe(|| pool.install(work))) {
        Ok(done) => done,
        Err(payload) => Err(error_of(payload)),
    }
}

/// The error that a panic stands for. Other panics go on.
fn error_of(payload: Box<dyn Any + Send>) -> Error {
    let payload = match payload.downcast::<OutOfMemory>() {
        Ok(refused) => return fathom_model::Error::activations(*refused).into(),
        Err(payload) => payload,
    };
    match payload.downcast::<DeviceError>() {
        Ok(error) => Error::Invalid(error.0),
        Err(payload) => resume_unwind(payload),
    }
}
