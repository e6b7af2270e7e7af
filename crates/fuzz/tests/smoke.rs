//! Runs every target on its seeds and on some thousand mutations of them.

use fathom_data::Random;
use fathom_fuzz::{TARGETS, Target, mutate};

#[track_caller]
fn smoke(name: &str, rounds: u64) {
    let Target { run, seeds, .. } = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let seeds = seeds();
    for seed in &seeds {
        run(seed);
    }
    let mut random = Random::native(1);
    for round in 0..rounds {
        let mut bytes = seeds[random.randbelow(seeds.len() as u64) as usize].clone();
        mutate(&mut bytes, &mut random);
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("{name}, mutation {round}: {text}; the input is {bytes:?}");
        }
    }
}

macro_rules! targets {
    ($($name:ident: $rounds:literal;)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name), $rounds);
        })*

        #[test]
        fn all_targets_are_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), run);
        }
    };
}

targets! {
    gguf: 1500;
    safetensors_index: 3000;
    pickle: 5000;
    parquet: 5000;
    jsonl: 5000;
    tokenizer_metadata: 1500;
    study_toml: 5000;
    laws: 5000;
}
