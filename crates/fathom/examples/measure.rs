//! Measures a model from Rust and prints where each rule puts the effective depth.
//!
//!     cargo run --release -p fathom --example measure -- [MODEL] [DATA]

#![allow(clippy::print_stdout, clippy::print_stderr)]

use fathom::{Measurement, Observer, Probe, Task};

/// Prints what happens, one line an event.
struct Lines;

impl Observer for Lines {
    fn begin(&self, task: Task<'_>) {
        eprintln!("{} ...", task.name);
    }

    fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }
}

fn main() -> fathom::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| fathom::DEFAULT_MODEL.to_owned());
    let data = arguments.next().unwrap_or_else(|| fathom::DEFAULT_DATA.to_owned());

    // Running it again continues in the same folder, so nothing is measured twice.
    let measured = Measurement::new(model)
        .data(data)
        .limit(4)
        .probes(&[Probe::Contributions, Probe::Lens, Probe::Settling])
        .out(std::env::temp_dir().join("fathom-example"))
        .run(&Lines)?;

    let layers = measured.results.model.layers;
    for depth in &measured.results.depth {
        let used = depth.layers_used.map_or("none".to_owned(), |used| format!("{used:.1}"));
        println!("{:<10} {used} of {layers} layers ({})", depth.rule.name(), depth.rule.about());
    }
    println!("{}", fathom::headline(&measured.results));
    println!("report: {}", measured.folder.join("report.html").display());
    Ok(())
}
