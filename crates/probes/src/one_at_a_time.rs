//! A masked text with the mask at one position at a time: as many runs as the text has tokens of its own.

use crate::tokenized::{Masked, TokenizedPrompt};
use fathom_model::{Backend, Model, PostNorm, Trace};

/// What each own position has in the run in which it alone is masked, as the rows of one trace, in ascending order; at most
/// about `rows` tokens run at a time.
///
/// # Errors
/// As [`Model::run`].
pub(crate) fn trace<B: Backend>(
    model: &Model<B>,
    prompt: &TokenizedPrompt,
    masked: &Masked,
    mask: u32,
    rows: usize,
    on_progress: &dyn Fn(u64),
) -> Result<Trace<B>, fathom_model::Error> {
    let tokens = prompt.tokens.len();
    let at_once = (rows / tokens.max(1)).max(1);
    let mut parts: Vec<Trace<B>> = Vec::new();
    for positions in masked.own.chunks(at_once) {
        let texts: Vec<Vec<u32>> = positions
            .iter()
            .map(|position| {
                let mut text = prompt.tokens.clone();
                text[*position] = mask;
                text
            })
            .collect();
        let traces = model.run(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let on = model.backend();
        parts.extend(
            traces.iter().zip(positions).map(|(trace, position)| trace.rows(on, &[*position as u32])),
        );
        on_progress(model.layers_macs(tokens) * positions.len() as u64);
    }
    Ok(joined(model.backend(), parts))
}

/// The rows of all parts, one each.
fn joined<B: Backend>(on: &B, parts: Vec<Trace<B>>) -> Trace<B> {
    let hidden = parts[0].hidden;
    let all = |pick: &dyn Fn(&Trace<B>) -> &B::Buffer| {
        let mut whole = on.empty();
        on.resize(&mut whole, parts.len() * hidden);
        for (row, part) in parts.iter().enumerate() {
            on.scatter(hidden, pick(part), &[row as u32], &mut whole);
        }
        whole
    };
    let depth = parts[0].depth();
    let layers = |pick: &dyn Fn(&Trace<B>, usize) -> &B::Buffer, count: usize| {
        (0..count).map(|l| all(&|part| pick(part, l))).collect::<Vec<_>>()
    };
    let of_post_norm = if parts[0].post_norm.is_empty() { 0 } else { depth };
    let post_norm = (0..of_post_norm).map(|l| {
        PostNorm::new(on, all(&|part| &part.post_norm[l].mid), all(&|part| &part.post_norm[l].added))
    });
    Trace {
        tokens: parts.iter().flat_map(|part| part.tokens.clone()).collect(),
        hidden,
        resid: layers(&|part, l| &part.resid[l], depth + 1),
        attn_out: layers(&|part, l| &part.attn_out[l], depth),
        mlp_out: layers(&|part, l| &part.mlp_out[l], depth),
        kv_cache: Vec::new(),
        token_inputs: Vec::new(),
        post_norm: post_norm.collect(),
        routes: Vec::new(),
        without: parts[0].without.clone(),
    }
}
