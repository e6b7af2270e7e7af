//! Exports a model without some layers:
//! `cargo run --release -p fathom-surgery --example export -- model.gguf 21..24 gguf pruned`.

use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::{Export, ExportFormat, export};
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, layers, format, out] = &arguments[..] else {
        return Err("give a model, the layers to remove, hf or gguf, and a folder".into());
    };
    let removal = Removal::parse(SkipPart::Layer, layers)?;
    let format = match format.as_str() {
        "hf" => ExportFormat::Hf,
        "gguf" => ExportFormat::Gguf,
        other => return Err(format!("'{other}' is neither hf nor gguf").into()),
    };
    let card = format!("# {source} without layers {removal}\n");
    let e = Export {
        source: source.as_ref(),
        removal: &removal,
        replacement: None,
        format,
        out: out.as_ref(),
        card: &card,
    };
    let done = export(&e, &|_, _| ControlFlow::Continue(()))?;
    let mut to = std::io::stdout();
    for warning in &done.warnings {
        writeln!(to, "warning: {warning}")?;
    }
    writeln!(to, "{}: {} bytes", done.model.display(), done.bytes)?;
    Ok(())
}
