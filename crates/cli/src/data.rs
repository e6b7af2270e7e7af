//! `fathom data`.

use crate::args::Data;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::Prompt;
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Data) -> Result<()> {
    let Some(spec) = args.spec() else { return output::print(&list()) };
    let set = fathom::read_prompts(&spec, &Terminal::default())?;
    let mut text = String::new();
    if args.json {
        for prompt in &set.prompts {
            let _ = writeln!(text, "{}", row(prompt));
        }
        return output::print(&text);
    }
    let _ = writeln!(text, "{}: {} ({} prompts)", set.id, set.source, set.prompts.len());
    for prompt in &set.prompts {
        let group = prompt.group.as_deref().map(|g| format!(" [{g}]")).unwrap_or_default();
        let _ = writeln!(text, "\n{}{group}\n{}", prompt.id, indent(&prompt.text));
    }
    output::print(&text)
}

/// A row that `--data FILE` reads back to the same prompt.
fn row(prompt: &Prompt) -> serde_json::Value {
    let mut row = json!({"id": prompt.id});
    match (prompt.question(), &prompt.answer) {
        (Some(question), Some(answer)) if !question.is_empty() => {
            row["question"] = question.into();
            row["answer"] = answer.as_str().into();
        }
        _ => row["text"] = prompt.text.as_str().into(),
    }
    if let Some(group) = &prompt.group {
        row["group"] = group.as_str().into();
    }
    if let Some(positions) = &prompt.positions {
        row["positions"] = positions.clone().into();
    }
    row
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn list() -> String {
    let mut text = String::from("Prompt sets for --data:\n");
    for entry in fathom::catalogue() {
        let count = if entry.count == 0 { String::new() } else { entry.count.to_string() };
        let _ = writeln!(text, "  {:<15} {count:>5}  {}", entry.id, entry.about);
        if !entry.parameters.is_empty() {
            let _ = writeln!(text, "  {:<15}        parameters: {}", "", entry.parameters.join(", "));
        }
    }
    text.push_str(
        "\nParameters follow a colon: addition:digits=4,count=50\n\
         Published sets come from the Hugging Face cache or hub, or from file=PATH in their own fields.\n\
         A file works too: .jsonl or .parquet with rows {\"text\": ...} or {\"question\": ..., \"answer\": ...},\n\
         or .txt with prompts separated by blank lines, or .fasta. `fathom data ID` shows a set.\n",
    );
    text
}
