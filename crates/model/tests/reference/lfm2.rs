//! LFM2: attention in some layers, a gated short convolution in the others.

use super::{FeedForward, Layer, LayerMlp, Linear, Reader, Reference, Row};
use fathom_model::config::Mlp;

/// The gated short convolution of a layer.
pub(super) struct Convolution {
    /// The gate of the input, the gate of the output, and what is convolved.
    parts: [Linear; 3],
    taps: Vec<Row>,
    bias: Row,
}

impl Reader<'_> {
    pub(super) fn lfm2(&self, at: &str, l: usize) -> Layer {
        let (d, linear) = (self.config.hidden, |name: &str| self.linear(&format!("{at}{name}")));
        let has_attention = self.config.has_attention(l);
        let (qkv, out) = match has_attention {
            true => (["q", "k", "v"].map(|p| linear(&format!("self_attn.{p}_proj"))), "self_attn.out_proj"),
            false => ([(); 3].map(|()| Linear { weight: vec![], bias: vec![] }), "conv.out_proj"),
        };
        let names = ["operator_norm", out, "ffn_norm"];
        let mlp = match self.config.layers[l].mlp {
            Mlp::Experts(about) => LayerMlp::Experts(Box::new(self.mixture(at, about))),
            _ => LayerMlp::Dense(FeedForward {
                gate: Some(linear("feed_forward.w1")),
                up: linear("feed_forward.w3"),
                down: linear("feed_forward.w2"),
            }),
        };
        let norm = |p: &str| self.norm(&format!("{at}self_attn.{p}_layernorm"));
        let convolution = (!has_attention).then(|| {
            let (all, taps) = (linear("conv.in_proj"), self.matrix(&format!("{at}conv.conv.weight")));
            Convolution {
                parts: [0, 1, 2].map(|part| all.rows(part * d..(part + 1) * d)),
                bias: self.bias(&format!("{at}conv.conv"), taps.len()),
                taps,
            }
        });
        Layer {
            qk_norms: if has_attention { ["q", "k"].map(|p| vec![norm(p)]) } else { [vec![], vec![]] },
            convolution,
            mlp,
            ..self.mixer_of(at, names, qkv)
        }
    }
}

impl Reference {
    pub(super) fn convolved(&self, l: usize, w: &Convolution, h: &[Row]) -> Vec<Row> {
        let layer = &self.layers[l];
        let x: Vec<Row> = h.iter().map(|h| self.normed(&layer.attn_norm, h)).collect();
        let [before, after, values] =
            w.parts.each_ref().map(|of| x.iter().map(|x| of.of(x)).collect::<Vec<_>>());
        let at = |t: usize, c: usize| -> f64 {
            let taps = &w.taps[c];
            let seen = 0..taps.len().min(t + 1);
            let sum: f64 = seen
                .map(|back| taps[taps.len() - 1 - back] * before[t - back][c] * values[t - back][c])
                .sum();
            after[t][c] * (sum + w.bias[c])
        };
        let rows = (0..h.len()).map(|t| (0..w.taps.len()).map(|c| at(t, c)).collect::<Row>());
        rows.map(|y| self.added(&layer.post_attn_norm, &layer.attn_out.of(&y))).collect()
    }
}
