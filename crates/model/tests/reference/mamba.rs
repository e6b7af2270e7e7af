//! Mamba 2 alone, among layers of attention (Bamba), and beside attention (Falcon-H1).

use super::{FeedForward, Layer, LayerMlp, Linear, Mixture, Reader};
use fathom_model::config::{Experts, Mixer, Mlp};

fn nothing() -> Linear {
    Linear { weight: vec![], bias: vec![] }
}

/// A layer that has nothing.
fn empty() -> Layer {
    Layer {
        attn_norm: None,
        q: nothing(),
        k: nothing(),
        v: nothing(),
        qk_norms: [vec![], vec![]],
        latent: None,
        recurrence: None,
        beside: None,
        convolution: None,
        gate: None,
        sinks: None,
        attn_out: nothing(),
        post_attn_norm: None,
        mlp_norm: None,
        mlp: LayerMlp::None,
        post_mlp_norm: None,
        stream_norms: [None, None],
        token_gate: None,
        scale: 1.0,
    }
}

impl Reader<'_> {
    pub(super) fn mamba2(&self, at: &str, l: usize) -> Layer {
        Layer {
            attn_norm: Some(self.norm(&format!("{at}norm"))),
            recurrence: self.config.recurrence(l).map(|of| self.recurrence(at, &of)),
            attn_out: self.linear(&format!("{at}mixer.out_proj")),
            ..empty()
        }
    }

    /// Nemotron-H: one sublayer.
    pub(super) fn nemotron_h(&self, at: &str, l: usize) -> Layer {
        let own = |name: &str| self.linear(&format!("{at}mixer.{name}"));
        let norm = || Some(self.norm(&format!("{at}norm")));
        let mlp = |module: &str| FeedForward {
            gate: None,
            up: own(&format!("{module}up_proj")),
            down: own(&format!("{module}down_proj")),
        };
        let experts = |about: Experts| Mixture {
            about,
            router: own("gate"),
            scale: vec![1.0; about.count],
            correction: self.matrix(&format!("{at}mixer.gate.e_score_correction_bias")).concat(),
            experts: (0..about.count).map(|e| mlp(&format!("experts.{e}."))).collect(),
            shared: Some(mlp("shared_experts.")),
            shared_gate: None,
        };
        let layer = &self.config.layers[l];
        match (layer.mixer, layer.mlp) {
            (Mixer::None, Mlp::Experts(about)) => {
                let mlp = LayerMlp::Experts(Box::new(experts(about)));
                Layer { mlp_norm: norm(), mlp, ..empty() }
            }
            (Mixer::None, _) => Layer { mlp_norm: norm(), mlp: LayerMlp::Dense(mlp("")), ..empty() },
            (Mixer::Attention, _) => {
                let [q, k, v, attn_out] = ["q", "k", "v", "o"].map(|p| own(&format!("{p}_proj")));
                Layer { attn_norm: norm(), q, k, v, attn_out, ..empty() }
            }
            _ => self.mamba2(at, l),
        }
    }

    /// Bamba and Falcon-H1.
    pub(super) fn among_attention(&self, at: &str, l: usize) -> Layer {
        let linear = |name: &str| self.linear(&format!("{at}{name}"));
        let (attends, factors) = (self.config.has_attention(l), self.config.multipliers);
        let recurrence = self.config.recurrence(l).map(|of| self.recurrence(at, &of));
        let both = matches!(self.config.layers[l].mixer, Mixer::Both(_));
        let (recurrence, beside) = match both {
            true => (None, recurrence.map(|of| (of, linear("mamba.out_proj")))),
            false => (recurrence, None),
        };
        let part = |name: &str| if attends { linear(&format!("self_attn.{name}_proj")) } else { nothing() };
        Layer {
            attn_norm: Some(self.norm(&format!("{at}input_layernorm"))),
            q: part("q"),
            k: part("k"),
            v: part("v"),
            attn_out: if attends { part("o") } else { linear("mamba.out_proj") },
            recurrence,
            beside,
            mlp_norm: Some(self.norm(&format!("{at}pre_ff_layernorm"))),
            mlp: LayerMlp::Dense(FeedForward {
                gate: Some(linear("feed_forward.gate_proj").times(factors.gate)),
                up: linear("feed_forward.up_proj"),
                down: linear("feed_forward.down_proj").times(factors.mlp),
            }),
            ..empty()
        }
    }
}
