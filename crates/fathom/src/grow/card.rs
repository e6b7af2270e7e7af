//! The model card of a grown model.

use crate::Grow;
use fathom_model::source::Located;
use fathom_results::{GrowNetwork, LayerOrigin};
use std::fmt::Write;

/// `README.md` in the form of the Hugging Face hub.
pub(super) fn write(
    g: &Grow,
    located: &Located,
    origins: &[LayerOrigin],
    networks: &[GrowNetwork],
) -> String {
    // Only a model of the hub has an id there.
    let base = match &located.revision {
        Some(_) => format!("base_model: {}\n", serde_json::Value::from(located.id.as_str())),
        None => String::new(),
    };
    let method = g.recipe.method;
    let mut card = format!(
        "---\n{base}tags:\n- grown\n- fathom\n---\n\n# {} with {} layers\n\nMade by the method {} ({}). The model as a whole \
         was not trained; what is to be gained from the new layers takes further training.\n\n\
         | layer | of the source |\n|---:|---|\n",
        one_line(&located.id),
        origins.len(),
        method.name(),
        method.about(),
    );
    for (layer, origin) in origins.iter().enumerate() {
        let _ = writeln!(card, "| {layer} | {origin} |");
    }
    if !networks.is_empty() {
        card.push_str(
            "\nMean squared errors of the predicted right singular vectors, over the rows that the networks were trained \
             on:\n\n| matrix | network | copy of the layer before | mean of both neighbours |\n|---|---:|---:|---:|\n",
        );
    }
    for n in networks {
        let _ = writeln!(
            card,
            "| {} | {:.3e} | {:.3e} | {:.3e} |",
            one_line(&n.matrix),
            n.mse,
            n.mse_copy,
            n.mse_mean
        );
    }
    let command: Vec<String> =
        g.options.command.iter().map(|word| crate::shell_quoted(&one_line(word))).collect();
    let _ = write!(
        card,
        "\n## How it was made\n\nfathom {}:\n\n```\n{}\n```\n",
        env!("CARGO_PKG_VERSION"),
        command.join(" ")
    );
    card
}

/// Text from outside, which must not begin lines of its own or end a block of code.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '`', '|'], " ")
}
