#![no_main]

// Panics that the readers catch themselves are not findings, so the hook that ends the process at once is taken away;
// a panic that reaches the fuzzer ends it all the same.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    fathom_fuzz::laws(bytes);
});
