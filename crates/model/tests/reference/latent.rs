//! Latent attention as DeepSeek describes it: nothing is padded or reordered.

use super::{Linear, Norm, Reader, Reference, Row, dot, frequencies, rotate, softmax};
use fathom_model::config::{NormKind, Positions};

/// The projections of a layer's attention.
pub(super) struct Projections {
    q_down: Option<(Linear, Norm)>,
    q: Linear,
    kv_down: Linear,
    kv_norm: Norm,
    kv_up: Linear,
}

impl Reader<'_> {
    pub(super) fn latent(&self, at: &str) -> Projections {
        let linear = |name: &str| self.linear(&format!("{at}self_attn.{name}"));
        let norm = |name: &str| Norm { eps: 1e-6, ..self.norm(&format!("{at}self_attn.{name}")) };
        let low = self.weights.has(&format!("{at}self_attn.q_a_proj.weight"));
        Projections {
            q_down: low.then(|| (linear("q_a_proj"), norm("q_a_layernorm"))),
            q: linear(if low { "q_b_proj" } else { "q_proj" }),
            kv_down: linear("kv_a_proj_with_mqa"),
            kv_norm: norm("kv_a_layernorm"),
            kv_up: linear("kv_b_proj"),
        }
    }
}

impl Reference {
    pub(super) fn latent_attention(&self, l: usize, p: &Projections, h: &[Row]) -> Vec<Row> {
        let (c, layer) = (&self.config, &self.layers[l]);
        let about = c.latent.unwrap();
        let Positions::Rotary(ropes) = &c.positions else { panic!("latent attention rotates") };
        let rotation = frequencies(&ropes[0], h.len());
        let [mut q, mut k, mut v]: [Vec<Vec<Row>>; 3] = [vec![], vec![], vec![]];
        for (position, h) in h.iter().enumerate() {
            let x = self.normed(&layer.attn_norm, h);
            let turned = |row: &[f64]| rotate(row, position as f64, &rotation, true);
            let queries = match &p.q_down {
                Some((down, norm)) => p.q.of(&norm.of(NormKind::Rms, &down.of(&x))),
                None => p.q.of(&x),
            };
            let query = |head: &[f64]| [&head[..about.plain], &turned(&head[about.plain..])].concat();
            q.push(queries.chunks(about.plain + about.rotated).map(query).collect());
            let low = p.kv_down.of(&x);
            let shared = turned(&low[about.rank..]);
            let wide = p.kv_up.of(&p.kv_norm.of(NormKind::Rms, &low[..about.rank]));
            let heads = wide.chunks(about.plain + about.value);
            k.push(heads.clone().map(|head| [&head[..about.plain], &shared[..]].concat()).collect());
            v.push(heads.map(|head| head[about.plain..].to_vec()).collect());
        }
        let rows = q.iter().enumerate().map(|(i, queries)| {
            let mixed = queries.iter().enumerate().flat_map(|(head, query)| {
                let scores: Row =
                    (0..=i).map(|j| dot(query, &k[j][head]) * f64::from(c.attention_scale)).collect();
                let mut sum = vec![0.0; about.value];
                for (j, w) in softmax(&scores).into_iter().enumerate() {
                    sum.iter_mut().zip(&v[j][head]).for_each(|(s, v)| *s += w * v);
                }
                sum
            });
            self.added(&layer.post_attn_norm, &layer.attn_out.of(&mixed.collect::<Row>()))
        });
        rows.collect()
    }
}
