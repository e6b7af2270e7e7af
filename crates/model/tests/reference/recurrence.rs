//! The gated delta rule as Qwen3-Next describes it, and Mamba 2 as Granite 4 does: nothing is reordered, and no state is
//! computed twice.

use super::{Linear, Reader, Reference, Row, dot};
use fathom_model::config::{OutputNorm, Recurrence, Update};

/// The weights of a layer's recurrence.
pub(super) struct Weights {
    heads: Vec<KeyHead>,
    log_rate: Row,
    time_bias: Row,
    skip: Row,
    norm: Row,
}

/// What the value heads share that have a key in common.
struct KeyHead {
    /// Queries, keys and values, with the taps and biases of their convolutions.
    qkv: [(Linear, Vec<Row>, Row); 3],
    gates: Linear,
    /// Strengths of the delta rule.
    strengths: Option<Linear>,
    decays: Linear,
}

impl Reader<'_> {
    pub(super) fn recurrence(&self, at: &str, of: &Recurrence) -> Weights {
        let module = match of.update {
            Update::Delta => "linear_attn",
            Update::StateSpace if matches!(&*self.config.architecture, "mamba2" | "nemotron_h") => "mixer",
            Update::StateSpace => "mamba",
        };
        let name = |name: &str| format!("{at}{module}.{name}");
        let vector = |what: &str| self.matrix(&name(what)).concat();
        let head = |head: usize| match of.update {
            Update::Delta => self.delta_head(&name(""), of, head),
            Update::StateSpace => self.mamba_head(&name(""), of, head),
        };
        Weights {
            heads: (0..of.key_heads).map(head).collect(),
            log_rate: vector("A_log"),
            time_bias: vector("dt_bias"),
            skip: if of.update == Update::StateSpace { vector("D") } else { vec![0.0; of.heads] },
            norm: if of.norm == OutputNorm::None { vec![] } else { vector("norm.weight") },
        }
    }

    /// Some channels of the convolution.
    fn taps(&self, at: &str, start: usize, count: usize) -> (Vec<Row>, Row) {
        let taps = self.matrix(&format!("{at}conv1d.weight"));
        let bias = self.bias(&format!("{at}conv1d"), taps.len());
        (taps[start..start + count].to_vec(), bias[start..start + count].to_vec())
    }

    fn delta_head(&self, at: &str, of: &Recurrence, head: usize) -> KeyHead {
        let (k, v, each) = (of.key_width, of.value_width * of.heads / of.key_heads, of.heads / of.key_heads);
        let part = |from: &str, start: usize, count: usize| {
            self.linear(&format!("{at}{from}")).rows(start..start + count)
        };
        let [q_rows, k_rows, v_rows, gates, strengths, decays] =
            if self.weights.has(&format!("{at}in_proj_qkvz.weight")) {
                let (start, numbers) = (head * (2 * k + 2 * v), head * 2 * each);
                let qkvz = |at: usize, count: usize| part("in_proj_qkvz", start + at, count);
                let number = |at: usize| part("in_proj_ba", numbers + at, each);
                [qkvz(0, k), qkvz(k, k), qkvz(2 * k, v), qkvz(2 * k + v, v), number(0), number(each)]
            } else {
                [
                    part("in_proj_qkv", head * k, k),
                    part("in_proj_qkv", of.keys() + head * k, k),
                    part("in_proj_qkv", 2 * of.keys() + head * v, v),
                    part("in_proj_z", head * v, v),
                    part("in_proj_b", head * each, each),
                    part("in_proj_a", head * each, each),
                ]
            };
        let with = |rows: Linear, start: usize, count: usize| {
            let (taps, bias) = self.taps(at, start, count);
            (rows, taps, bias)
        };
        KeyHead {
            qkv: [
                with(q_rows, head * k, k),
                with(k_rows, of.keys() + head * k, k),
                with(v_rows, 2 * of.keys() + head * v, v),
            ],
            gates,
            strengths: Some(strengths),
            decays,
        }
    }

    /// Mamba 2 projects gates, values, keys, queries and time steps, in this order.
    fn mamba_head(&self, at: &str, of: &Recurrence, head: usize) -> KeyHead {
        let (k, v, each) = (of.key_width, of.value_width * of.heads / of.key_heads, of.heads / of.key_heads);
        let (values, keys) = (of.values(), of.keys());
        let all = self.linear(&format!("{at}in_proj"));
        let [of_gates, of_queries, of_keys, of_values, of_times] = self.config.multipliers.recurrence_in;
        let with = |channel: usize, count: usize, factor: f32| {
            let (taps, bias) = self.taps(at, channel, count);
            (all.rows(values + channel..values + channel + count).times(factor), taps, bias)
        };
        let times = 2 * values + 2 * keys + head * each;
        KeyHead {
            qkv: [
                with(values + keys + head * k, k, of_queries),
                with(values + head * k, k, of_keys),
                with(head * v, v, of_values),
            ],
            gates: all.rows(head * v..(head + 1) * v).times(of_gates),
            strengths: None,
            decays: all.rows(times..times + each).times(of_times),
        }
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The convolution of some channels with SiLU behind it.
fn convolved(rows: &[Row], taps: &[Row], bias: &[f64]) -> Vec<Row> {
    let at = |t: usize, c: usize| -> f64 {
        let taps = &taps[c];
        let sum: f64 =
            (0..taps.len().min(t + 1)).map(|back| taps[taps.len() - 1 - back] * rows[t - back][c]).sum();
        sum + bias[c]
    };
    (0..rows.len()).map(|t| (0..taps.len()).map(|c| silu(at(t, c))).collect()).collect()
}

fn unit(x: &[f64]) -> Row {
    let length = (dot(x, x) + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

/// The state for a key or query.
fn read(state: &[Row], by: &[f64]) -> Row {
    (0..state[0].len()).map(|j| state.iter().zip(by).map(|(row, x)| row[j] * x).sum()).collect()
}

impl Reference {
    pub(super) fn recur(&self, l: usize, w: &Weights, attn_out: &Linear, h: &[Row]) -> Vec<Row> {
        let layer = &self.layers[l];
        let of = self.config.recurrence(l).unwrap();
        let x: Vec<Row> = h.iter().map(|h| self.normed(&layer.attn_norm, h)).collect();
        let mut out = vec![Row::new(); h.len()];
        for (key_head, parts) in w.heads.iter().enumerate() {
            let mixed = parts.qkv.each_ref().map(|(rows, taps, bias)| {
                convolved(&x.iter().map(|x| rows.of(x)).collect::<Vec<Row>>(), taps, bias)
            });
            let outputs = self.key_head(&of, w, (key_head, parts), &x, &mixed);
            for ((out, y), x) in out.iter_mut().zip(outputs).zip(&x) {
                out.extend(self.gated(&of, w, key_head, &y, &parts.gates.of(x)));
            }
        }
        out.iter().map(|y| self.added(&layer.post_attn_norm, &attn_out.of(y))).collect()
    }

    /// What the states of the value heads of one key head give, at every position.
    fn key_head(
        &self,
        of: &Recurrence,
        w: &Weights,
        (key_head, parts): (usize, &KeyHead),
        x: &[Row],
        [q, k, v]: &[Vec<Row>; 3],
    ) -> Vec<Row> {
        let each = of.heads / of.key_heads;
        let mut out = vec![Row::new(); x.len()];
        for i in 0..each {
            let head = key_head * each + i;
            let mut state = vec![vec![0.0; of.value_width]; of.key_width];
            for t in 0..x.len() {
                let time = (1.0 + (parts.decays.of(&x[t])[i] + w.time_bias[head]).exp()).ln();
                let time = time.max(of.least_time.into());
                let decay = (-w.log_rate[head].exp() * time).exp();
                state.iter_mut().flatten().for_each(|s| *s *= decay);
                let value = &v[t][i * of.value_width..][..of.value_width];
                let (query, key, written) = match &parts.strengths {
                    Some(strengths) => {
                        let strength = 1.0 / (1.0 + (-strengths.of(&x[t])[i]).exp());
                        let query: Row =
                            unit(&q[t]).iter().map(|q| q / (of.key_width as f64).sqrt()).collect();
                        let key = unit(&k[t]);
                        let given = read(&state, &key);
                        let written: Row = value.iter().zip(given).map(|(v, g)| strength * (v - g)).collect();
                        (query, key, written)
                    }
                    None => (q[t].clone(), k[t].clone(), value.iter().map(|v| time * v).collect()),
                };
                for (row, k) in state.iter_mut().zip(&key) {
                    row.iter_mut().zip(&written).for_each(|(s, w)| *s += k * w);
                }
                let skip = w.skip[head];
                out[t].extend(read(&state, &query).iter().zip(value).map(|(y, v)| y + skip * v));
            }
        }
        out
    }

    /// The norm and the gates of the value heads of one key head.
    fn gated(&self, of: &Recurrence, w: &Weights, key_head: usize, y: &[f64], gates: &[f64]) -> Row {
        let eps = f64::from(self.config.norm_eps);
        let normed = |y: &[f64], weight: &[f64]| -> Row {
            let scale = (dot(y, y) / y.len() as f64 + eps).sqrt();
            y.iter().zip(weight).map(|(y, w)| y / scale * w).collect()
        };
        let by_gates = |y: &[f64]| -> Row { y.iter().zip(gates).map(|(y, z)| y * silu(*z)).collect() };
        // The delta rule normalises each head by itself, with the same weights.
        let all = |y: &[f64]| -> Row {
            match of.update {
                Update::Delta => y.chunks(of.value_width).flat_map(|head| normed(head, &w.norm)).collect(),
                Update::StateSpace => normed(y, &w.norm[key_head * y.len()..][..y.len()]),
            }
        };
        match of.norm {
            OutputNorm::None => by_gates(y),
            OutputNorm::BeforeGate => by_gates(&all(y)),
            OutputNorm::BehindGate => all(&by_gates(y)),
        }
    }
}
