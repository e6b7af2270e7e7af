//! Against the definition in f64 and central differences.

use super::*;

fn shape(update: Update) -> Recurrence {
    let norm = match update {
        Update::Delta => OutputNorm::BeforeGate,
        Update::StateSpace => OutputNorm::BehindGate,
    };
    Recurrence {
        update,
        key_heads: 2,
        key_width: 6,
        heads: 4,
        value_width: 5,
        taps: 4,
        tiled: false,
        norm,
        least_time: 0.0,
    }
}

/// All that differ in how they are computed.
fn shapes() -> Vec<Recurrence> {
    let [delta, space] = [Update::Delta, Update::StateSpace].map(shape);
    vec![
        delta,
        Recurrence { tiled: true, ..delta },
        space,
        Recurrence { norm: OutputNorm::None, ..space },
        Recurrence { least_time: 0.7, ..space },
        Recurrence { norm: OutputNorm::BeforeGate, ..space },
    ]
}

/// Reproducible numbers from -1 to 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn weights(of: &Recurrence) -> RecurrenceWeights {
    let about_one = |count, seed| numbers(count, seed).iter().map(|x| 1.0 + 0.5 * x).collect::<Vec<_>>();
    let space = of.update == Update::StateSpace;
    RecurrenceWeights {
        conv: numbers(of.channels() * of.taps, 1),
        conv_bias: space.then(|| numbers(of.channels(), 2)),
        rate: about_one(of.heads, 3),
        time_bias: numbers(of.heads, 4),
        skip: if space { numbers(of.heads, 5) } else { vec![] },
        norm: about_one(if space { of.values() } else { of.value_width }, 6),
        eps: 1e-5,
    }
}

fn whole(start: usize, length: usize) -> Run {
    Run { rows: start..start + length, first: 0, length, past: vec![] }
}

/// The definition, one number at a time, for one text.
fn naive(of: &Recurrence, w: &RecurrenceWeights, x: &[f64]) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let (width, values, channels) = (of.width(), of.values(), of.channels());
    let tokens = x.len() / width;
    let mut states = vec![vec![vec![0.0; of.value_width]; of.key_width]; of.heads];
    let mut out = Vec::new();
    for t in 0..tokens {
        let channel = |c: usize| {
            let sum: f64 = (0..of.taps.min(t + 1))
                .map(|back| {
                    f64::from(w.conv[c * of.taps + of.taps - 1 - back]) * x[(t - back) * width + values + c]
                })
                .sum();
            silu(sum + w.conv_bias.as_ref().map_or(0.0, |bias| f64::from(bias[c])))
        };
        let mixed: Vec<f64> = (0..channels).map(channel).collect();
        let numbers = &x[t * width + values + channels..(t + 1) * width];
        let mut row = Vec::new();
        for (head, state) in states.iter_mut().enumerate() {
            let key_head = if of.tiled { head % of.key_heads } else { head / (of.heads / of.key_heads) };
            let vector = |at: usize, width: usize| mixed[at..at + width].to_vec();
            let mut q = vector(key_head * of.key_width, of.key_width);
            let mut k = vector(of.keys() + key_head * of.key_width, of.key_width);
            let v = vector(2 * of.keys() + head * of.value_width, of.value_width);
            let x = numbers[numbers.len() - of.heads + head] + f64::from(w.time_bias[head]);
            let time = (1.0 + x.exp()).ln().max(f64::from(of.least_time));
            let decay = (-f64::from(w.rate[head]) * time).exp();
            state.iter_mut().flatten().for_each(|s| *s *= decay);
            let delta = of.update == Update::Delta;
            if delta {
                let unit = |x: &mut Vec<f64>| {
                    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    x.iter_mut().for_each(|x| *x /= length);
                };
                unit(&mut q);
                unit(&mut k);
                q.iter_mut().for_each(|x| *x /= (of.key_width as f64).sqrt());
            }
            for (j, v) in v.iter().enumerate() {
                let given: f64 = state.iter().zip(&k).map(|(s, k)| s[j] * k).sum();
                let written = match delta {
                    true => (v - given) / (1.0 + (-numbers[head]).exp()),
                    false => time * v,
                };
                state.iter_mut().zip(&k).for_each(|(s, k)| s[j] += k * written);
            }
            for (j, v) in v.iter().enumerate() {
                let read: f64 = state.iter().zip(&q).map(|(s, q)| s[j] * q).sum();
                row.push(read + if delta { 0.0 } else { f64::from(w.skip[head]) * v });
            }
        }
        let gate = &x[t * width..][..values];
        let norm = |x: &[f64], weight: &[f32]| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + f64::from(w.eps)).sqrt();
            x.iter().zip(weight).map(|(x, w)| x * scale * f64::from(*w)).collect::<Vec<f64>>()
        };
        let gated = |x: &[f64]| x.iter().zip(gate).map(|(x, z)| x * silu(*z)).collect::<Vec<f64>>();
        let width = if of.update == Update::Delta { of.value_width } else { of.values() / of.key_heads };
        let normed = |x: &[f64]| -> Vec<f64> {
            let factors = w.norm.chunks(width).cycle();
            x.chunks(width).zip(factors).flat_map(|(x, weight)| norm(x, weight)).collect()
        };
        out.extend(match of.norm {
            OutputNorm::None => gated(&row),
            OutputNorm::BeforeGate => gated(&normed(&row)),
            OutputNorm::BehindGate => normed(&gated(&row)),
        });
    }
    out
}

fn in_f64(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

#[test]
fn the_forward_pass_follows_the_definition() {
    for of in shapes() {
        let (w, x) = (weights(&of), numbers(11 * of.width(), 7));
        let mut y = vec![0.0; 11 * of.values()];
        forward(&of, &w, &[whole(0, 7), whole(7, 4)], &[], &x, &mut y);
        let (first, second) = x.split_at(7 * of.width());
        let want = [naive(&of, &w, &in_f64(first)), naive(&of, &w, &in_f64(second))].concat();
        for (y, want) in y.iter().zip(&want) {
            assert!((f64::from(*y) - want).abs() < 2e-5, "{of:?}: {y} against {want}");
        }
    }
}

/// Runs that start from the cache, from other rows and from a part of another run have the bits of a whole text.
#[test]
fn rows_keep_their_bits_wherever_their_past_is() {
    for of in shapes() {
        let (w, tokens) = (weights(&of), 12);
        let x = numbers(tokens * of.width(), 8);
        let mut whole_text = vec![0.0; tokens * of.values()];
        forward(&of, &w, &[whole(0, tokens)], &[], &x, &mut whole_text);
        let past: Vec<f32> = x.chunks_exact(of.width()).flat_map(|row| row[of.values()..].to_vec()).collect();
        // Positions 5..8 behind the cache, 8..12 behind these, 7..12 behind a part of them, 2..4, and all again.
        let parts = [(5..8, 0), (8..12, 3), (7..12, 7), (2..4, 12), (0..12, 14)];
        let rows: Vec<f32> = parts
            .iter()
            .flat_map(|(positions, _)| x[positions.start * of.width()..positions.end * of.width()].to_vec())
            .collect();
        let pasts = [
            vec![Span::Cache(0..5)],
            vec![Span::Cache(0..5), Span::Rows(0..3)],
            vec![Span::Cache(0..5), Span::Rows(0..2)],
            vec![Span::Cache(0..2)],
            vec![],
        ];
        let runs: Vec<Run> = parts
            .iter()
            .zip(pasts)
            .map(|((positions, row), past)| Run {
                rows: *row..*row + positions.len(),
                first: positions.start,
                length: tokens,
                past,
            })
            .collect();
        let mut y = vec![0.0; rows.len() / of.width() * of.values()];
        forward(&of, &w, &runs, &past, &rows, &mut y);
        for (run, (positions, _)) in runs.iter().zip(&parts) {
            let got = &y[run.rows.start * of.values()..run.rows.end * of.values()];
            assert_eq!(
                got,
                &whole_text[positions.start * of.values()..positions.end * of.values()],
                "{run:?}"
            );
        }
    }
}

#[test]
fn the_backward_pass_agrees_with_central_differences() {
    for of in shapes() {
        // More positions than a segment.
        let lengths = [SEGMENT_AND_MORE, 3];
        let rows: usize = lengths.iter().sum();
        let (w, x, d_y) = (weights(&of), numbers(rows * of.width(), 9), numbers(rows * of.values(), 10));
        let mut d_x = vec![f32::NAN; x.len()];
        backward(&of, &w, &[whole(0, lengths[0]), whole(lengths[0], lengths[1])], &x, &d_y, &mut d_x);
        let mut start = 0;
        for length in lengths {
            let part = start * of.width()..(start + length) * of.width();
            let d_y = &d_y[start * of.values()..(start + length) * of.values()];
            let x = in_f64(&x[part.clone()]);
            let target = |x: &[f64]| -> f64 {
                naive(&of, &w, x).iter().zip(d_y).map(|(y, d)| y * f64::from(*d)).sum()
            };
            for (i, got) in d_x[part].iter().enumerate().step_by(7) {
                let at = |change: f64| {
                    let mut x = x.clone();
                    x[i] += change;
                    target(&x)
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (f64::from(*got) - want).abs() < 2e-4 * want.abs().max(1.0),
                    "{of:?} {i}: {got} against {want}"
                );
            }
            start += length;
        }
    }
}

const SEGMENT_AND_MORE: usize = 37;
