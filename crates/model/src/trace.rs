//! The activations of a forward pass over one text, by hook name.

use crate::error::{Error, Result};
use crate::forward::{Buffers, Model};
use crate::routing::Routes;
use fathom_kernels::backend::{Backend, Cpu, Run};
use std::ops::Range;

/// A place in the model, with its TransformerLens name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `blocks.L.hook_resid_pre`: the residual stream before the layer, h.
    ResidPre(usize),
    /// `blocks.L.hook_attn_out`: the output of attention, a.
    AttnOut(usize),
    /// `blocks.L.hook_resid_mid`: h + a, normalised in post-norm blocks.
    ResidMid(usize),
    /// `blocks.L.hook_mlp_out`: the output of the MLP, m.
    MlpOut(usize),
    /// `blocks.L.hook_resid_post`: the residual stream after the layer.
    ResidPost(usize),
}

/// A hook's name and its constructor.
type Named = (&'static str, fn(usize) -> Hook);

const NAMES: [Named; 5] = [
    ("hook_resid_pre", Hook::ResidPre),
    ("hook_attn_out", Hook::AttnOut),
    ("hook_resid_mid", Hook::ResidMid),
    ("hook_mlp_out", Hook::MlpOut),
    ("hook_resid_post", Hook::ResidPost),
];

impl Hook {
    /// Parses a name such as `blocks.5.hook_resid_pre` for a model of `layers` layers.
    ///
    /// # Errors
    /// Suggests the most similar hook when the name is unknown.
    pub fn parse(name: &str, layers: usize) -> Result<Self> {
        let parts: Vec<&str> = name.split('.').collect();
        let layer = parts.get(1).and_then(|l| l.parse().ok()).filter(|l| *l < layers);
        let hook = NAMES.iter().find(|n| Some(&n.0) == parts.get(2));
        if let (["blocks", _, _], Some(layer), Some(hook)) = (&parts[..], layer, hook) {
            return Ok(hook.1(layer));
        }
        let last = parts.last().copied().unwrap_or_default();
        let nearest = NAMES
            .iter()
            .map(|n| (strsim::jaro_winkler(n.0, last), n.0))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or("hook_resid_pre", |n| n.1);
        Err(Error::Hook {
            name: name.to_owned(),
            suggestion: format!(", did you mean 'blocks.{}.{nearest}'?", layer.unwrap_or(0)),
            known: format!(
                "blocks.L.{{{}}} with L from 0 to {}",
                NAMES.map(|n| n.0).join(", "),
                layers.saturating_sub(1)
            ),
        })
    }
}

/// All activations of a forward pass over one text.
///
/// # Shapes
/// Every matrix is `[T, d]`, T tokens, d the width of the residual stream.
pub struct Trace<B: Backend = Cpu> {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Width of the residual stream, d.
    pub hidden: usize,
    /// h_0 ..= h_L: the residual stream before each layer, then before the final norm.
    pub resid: Vec<B::Buffer>,
    /// The output of attention in each layer.
    pub attn_out: Vec<B::Buffer>,
    /// The output of the MLP in each layer.
    pub mlp_out: Vec<B::Buffer>,
    /// The KV cache of each layer, `[T, 2 kv]`: keys after the rotation, then values. Of a recurrence, what its inputs
    /// are but for the gates. Empty for layers that read the keys of another one ([`Config::keys_of`](crate::Config::keys_of)).
    pub kv_cache: Vec<B::Buffer>,
    /// For each layer what its embedding gives to the tokens, `[T, p]`; empty in models without.
    pub token_inputs: Vec<B::Buffer>,
    /// In post-norm blocks, what those of other models follow from; empty elsewhere.
    pub post_norm: Vec<PostNorm<B>>,
    /// The experts that each token took in each layer; `None` for a dense one.
    pub routes: Vec<Option<Routes>>,
    /// The layers that do not mix positions, and those without an MLP: their rows in [`Self::attn_out`] and
    /// [`Self::mlp_out`] are zeros.
    pub without: [Vec<usize>; 2],
}

/// What a post-norm block keeps of a text beside its sublayers' outputs, `[T, d]` each.
pub struct PostNorm<B: Backend = Cpu> {
    /// The stream between the sublayers, after the norm.
    pub mid: B::Buffer,
    /// What the stream changes by, D.
    pub added: B::Buffer,
    /// Zeros.
    zeros: B::Buffer,
}

impl<B: Backend> PostNorm<B> {
    /// The stream between the sublayers and what the stream changes by, of the same size.
    pub fn new(on: &B, mid: B::Buffer, added: B::Buffer) -> Self {
        let zeros = on.buffer_of(&vec![0.0; on.len(&mid)]);
        Self { mid, added, zeros }
    }
}

impl<B: Backend> Trace<B> {
    /// Two matrices whose sum is what layer `l` contributes to the stream, D.
    pub fn contribution(&self, l: usize) -> [&B::Buffer; 2] {
        match self.post_norm.get(l) {
            Some(PostNorm { added, zeros, .. }) => [added, zeros],
            None => [&self.attn_out[l], &self.mlp_out[l]],
        }
    }

    /// Some rows of the trace, as a trace of its own for what looks at rows one by one. It has no KV cache.
    pub fn rows(&self, on: &B, rows: &[u32]) -> Self {
        let some = |buffer: &B::Buffer| {
            let mut part = on.empty();
            on.gather(self.hidden, buffer, rows, &mut part);
            part
        };
        let all = |buffers: &[B::Buffer]| buffers.iter().map(some).collect();
        let of_post_norm = |of: &PostNorm<B>| PostNorm {
            mid: some(&of.mid),
            added: some(&of.added),
            zeros: some(&of.zeros),
        };
        Self {
            tokens: rows.iter().map(|row| self.tokens[*row as usize]).collect(),
            hidden: self.hidden,
            resid: all(&self.resid),
            attn_out: all(&self.attn_out),
            mlp_out: all(&self.mlp_out),
            kv_cache: Vec::new(),
            token_inputs: Vec::new(),
            post_norm: self.post_norm.iter().map(of_post_norm).collect(),
            routes: Vec::new(),
            without: self.without.clone(),
        }
    }

    /// Number of layers, L.
    pub fn depth(&self) -> usize {
        self.attn_out.len()
    }

    fn new(tokens: &[u32], hidden: usize) -> Self {
        Self {
            tokens: tokens.to_vec(),
            hidden,
            resid: Vec::new(),
            attn_out: Vec::new(),
            mlp_out: Vec::new(),
            kv_cache: Vec::new(),
            token_inputs: Vec::new(),
            post_norm: Vec::new(),
            routes: Vec::new(),
            without: Default::default(),
        }
    }
}

impl<B: Backend> Model<B> {
    /// Runs the whole forward pass over some texts and keeps all of it.
    ///
    /// # Errors
    /// When a text is empty, when there is too little memory, and as [`Self::embed`].
    pub fn run(&self, texts: &[&[u32]]) -> Result<Vec<Trace<B>>> {
        if let Some(empty) = texts.iter().position(|text| text.is_empty()) {
            return Err(Error::InvalidInput(format!(
                "text {empty} has no tokens; give each text at least one, such as the one that begins a text"
            )));
        }
        let (on, d) = (&self.backend, self.config.hidden);
        let mut embedded = Vec::new();
        let (mut runs, mut traces) = (Vec::new(), Vec::new());
        for text in texts {
            let rows = embedded.len() / d..embedded.len() / d + text.len();
            embedded.extend(self.embed(text, 0)?);
            runs.push(Run { rows, first: 0, length: text.len(), past: vec![] });
            traces.push(Trace { without: self.without(), ..Trace::new(text, d) });
        }
        let mut token_inputs = self.token_inputs(&texts.concat())?.into_iter();
        let batch = self.batch(runs);
        let mut buffers = Buffers::new(self);
        buffers.reserve(self, batch.rows())?;
        let post_norm = self.is_post_norm();
        let (mut h, mut out) = (on.buffer_of(&embedded), on.empty());
        for l in 0..self.config.depth() {
            buffers.side.inputs = token_inputs.next().map(|inputs| (l, inputs));
            self.layer(l, &batch, &h, &mut buffers, &mut out);
            for (run, trace) in batch.runs.iter().zip(&mut traces) {
                let part = run.rows.start * d..run.rows.end * d;
                trace.resid.push(on.copy(&h, part.clone()));
                trace.attn_out.push(on.copy(&buffers.attn_out, part.clone()));
                trace.mlp_out.push(on.copy(&buffers.mlp_out, part.clone()));
                if post_norm {
                    trace.post_norm.push(self.kept_of_post_norm(&h, &out, &buffers, part));
                }
                trace.kv_cache.push(self.kv_cache(l, run.rows.clone(), &buffers));
                if let (Some((_, inputs)), Some(p)) = (&buffers.side.inputs, self.config.token_inputs) {
                    trace.token_inputs.push(on.copy(inputs, run.rows.start * p..run.rows.end * p));
                }
                trace.routes.push(buffers.routes.as_ref().map(|routes| routes.rows(run.rows.clone())));
            }
            std::mem::swap(&mut h, &mut out);
        }
        for (run, trace) in batch.runs.iter().zip(&mut traces) {
            trace.resid.push(on.copy(&h, run.rows.start * d..run.rows.end * d));
        }
        Ok(traces)
    }

    /// The layers that do not mix positions, and those without an MLP.
    fn without(&self) -> [Vec<usize>; 2] {
        let (c, all) = (&self.config, 0..self.config.depth());
        [all.clone().filter(|l| !c.has_mixer(*l)).collect(), all.filter(|l| !c.has_mlp(*l)).collect()]
    }

    /// What is kept of some elements of a post-norm block's streams, `h` before and `out` after it.
    fn kept_of_post_norm(
        &self,
        h: &B::Buffer,
        out: &B::Buffer,
        buffers: &Buffers<B>,
        part: Range<usize>,
    ) -> PostNorm<B> {
        let on = &self.backend;
        let mut added = on.empty();
        on.subtract(&on.copy(out, part.clone()), &on.copy(h, part.clone()), &mut added);
        PostNorm::new(on, on.copy(buffers.mid(), part), added)
    }

    /// The values at a hook of a trace, `[T, d]`.
    ///
    /// # Panics
    /// When the model has no such layer; [`Hook::parse`] checks it.
    pub fn hook(&self, trace: &Trace<B>, hook: Hook) -> Vec<f32> {
        let all = |buffer: &B::Buffer| self.backend.download(buffer, 0..self.backend.len(buffer));
        match hook {
            Hook::ResidPre(l) => all(&trace.resid[l]),
            Hook::AttnOut(l) => all(&trace.attn_out[l]),
            Hook::ResidMid(l) if !trace.post_norm.is_empty() => all(&trace.post_norm[l].mid),
            Hook::ResidMid(l) => {
                let attn = all(&trace.attn_out[l]);
                all(&trace.resid[l]).iter().zip(&attn).map(|(h, a)| h + a).collect()
            }
            Hook::MlpOut(l) => all(&trace.mlp_out[l]),
            Hook::ResidPost(l) => all(&trace.resid[l + 1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: std::result::Result<Hook, &str>) {
        match (Hook::parse(name, 12), expected) {
            (Ok(hook), Ok(want)) => assert_eq!(hook, want),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
            (got, want) => panic!("{name}: {got:?} against {want:?}"),
        }
    }

    #[test]
    fn names_are_those_of_transformer_lens() {
        check("blocks.5.hook_resid_pre", Ok(Hook::ResidPre(5)));
        check("blocks.11.hook_mlp_out", Ok(Hook::MlpOut(11)));
        check("blocks.3.hook_resid_past", Err("did you mean 'blocks.3.hook_resid_post'?"));
        check("blocks.12.hook_mlp_out", Err("L from 0 to 11"));
        check("hook_attn", Err("hook_attn_out"));
        check("", Err("unknown hook ''"));
        check("blocks.1.2.hook_attn_out", Err("unknown hook"));
    }
}
