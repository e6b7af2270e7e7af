//! Planned multiply-adds as a share of those of full passes.

use crate::support::{MODELS, PLENTY, baseline, mixing_macs, mlp_macs, projection_macs, run};
use fathom_model::Model;
use fathom_probes::ExecOptions;
use fathom_probes::erasure::measure as erase;
use fathom_probes::skip::measure;
use fathom_results::{SkipMode, SkipPart};

/// The shapes that the counts depend on.
struct Shape {
    depth: u64,
    d: u64,
    /// Multiply-adds of the matrices of attention in each layer, per row.
    projections: Vec<u64>,
    /// Multiply-adds of mixing positions in a layer, for a row that sees that many positions.
    mixing: Box<dyn Fn(usize, u64) -> u64>,
    /// Multiply-adds of the MLP of each layer, per row.
    mlp: Vec<u64>,
    parallel: bool,
    vocab: u64,
    /// Window of each layer.
    windows: Vec<u64>,
    /// Chunk of each layer.
    chunks: Vec<u64>,
}

impl Shape {
    fn of(model: &Model) -> Self {
        let c = model.config();
        let config = c.clone();
        Self {
            depth: c.depth() as u64,
            d: c.hidden as u64,
            projections: (0..c.depth()).map(|l| projection_macs(c, l)).collect(),
            mixing: Box::new(move |l, seen| mixing_macs(&config, l, seen)),
            mlp: (0..c.depth()).map(|l| mlp_macs(c, l)).collect(),
            parallel: c.parallel,
            vocab: c.vocab as u64,
            windows: c.layers.iter().map(|l| l.window.map_or(u64::MAX, |w| w as u64)).collect(),
            chunks: c.layers.iter().map(|l| l.chunk.map_or(u64::MAX, |w| w as u64)).collect(),
        }
    }

    /// SmolLM2-135M, from its `config.json`.
    fn smollm2() -> Self {
        Self {
            depth: 30,
            d: 576,
            projections: vec![576 * 2 * (576 + 192); 30],
            mixing: Box::new(|_, seen| 2 * 576 * seen),
            mlp: vec![3 * 576 * 1536; 30],
            parallel: false,
            vocab: 49152,
            windows: vec![u64::MAX; 30],
            chunks: vec![u64::MAX; 30],
        }
    }

    fn head(&self) -> u64 {
        self.d * self.vocab
    }

    /// Positions that go through layer `l`.
    fn rows(&self, l: u64, positions: impl Iterator<Item = u64>) -> u64 {
        let l = l as usize;
        let a_row = self.projections[l] + self.mlp[l];
        let seen = |p: u64| (p % self.chunks[l] + 1).min(self.windows[l]);
        positions.map(|p| a_row + (self.mixing)(l, seen(p))).sum()
    }

    fn pass(&self, tokens: u64) -> u64 {
        (0..self.depth).map(|l| self.rows(l, 0..tokens)).sum::<u64>() + self.head() * tokens
    }

    /// Planned and naive count of a future skip: one run that skips the part up to the last t, and
    /// one from each t on that no longer skips it.
    fn future(&self, tokens: u64, positions: &[u64], part: SkipPart) -> (u64, u64) {
        let (first, last) = (*positions.iter().min().unwrap(), *positions.iter().max().unwrap());
        let (mut planned, runs) = (0, positions.len() as u64 * self.depth);
        for s in 0..self.depth {
            for l in s + 1..self.depth {
                planned += self.rows(l, 1..last);
                planned += positions.iter().map(|t| self.rows(l, *t..tokens)).sum::<u64>();
            }
            if part == SkipPart::Attn && !self.parallel {
                planned += self.mlp[s as usize] * (last - 1);
            }
            planned += self.head() * positions.iter().map(|t| tokens - t).sum::<u64>();
        }
        (planned + self.head() * (tokens - first), self.pass(tokens) * runs)
    }

    /// Planned and naive count of an erasure: for each level, a run from each token to the last
    /// prediction.
    fn erasure(&self, tokens: u64, answer: u64) -> (u64, u64) {
        let read = tokens - answer - 1..tokens - 1;
        let mut planned = self.head() * answer;
        for level in 0..=self.depth {
            for t in 0..read.end {
                planned += (level..self.depth).map(|l| self.rows(l, t..read.end)).sum::<u64>();
                planned += self.head() * (read.end - t.max(read.start));
            }
        }
        (planned, self.pass(tokens) * (self.depth + 1) * read.end)
    }
}

fn share((planned, naive): (u64, u64)) -> f64 {
    planned as f64 / naive as f64
}

/// Upper bounds on the planner's share.
const SKIP_AT_MOST: f64 = 0.45;
const ERASURE_AT_MOST: f64 = 0.30;

const LONG: (u64, [u64; 4]) = (149, [64, 80, 32, 120]);
const SHORT: (u64, [u64; 3]) = (34, [16, 8, 24]);
const PAIR: (u64, u64) = (26, 6);

#[test]
fn a_skip_counts_the_rows_that_run() {
    for (name, model) in MODELS.iter() {
        let shape = Shape::of(model);
        for (tokens, positions) in [(LONG.0, &LONG.1[..]), (SHORT.0, &SHORT.1[..])] {
            let trace = run(model, tokens as usize);
            let at: Vec<usize> = positions.iter().map(|t| *t as usize).collect();
            for part in [SkipPart::Layer, SkipPart::Attn, SkipPart::Mlp] {
                let (_, work) =
                    measure(model, &trace, SkipMode::Future, part, &at, &ExecOptions::planned(PLENTY));
                let got = (work.macs, work.macs_naive);
                assert_eq!(got, shape.future(tokens, positions, part), "{name}, {part:?}");
                assert!(share(got) <= SKIP_AT_MOST, "{name}, {part:?}, {tokens} tokens: {}", share(got));
            }
        }
    }
}

#[test]
fn an_erasure_counts_the_rows_that_run() {
    for (name, model) in MODELS.iter() {
        let trace = run(model, PAIR.0 as usize);
        let baseline = baseline(model);
        let (_, work) = erase(model, &trace, PAIR.1 as usize, &baseline, &ExecOptions::planned(PLENTY));
        let got = (work.macs, work.macs_naive);
        assert_eq!(got, Shape::of(model).erasure(PAIR.0, PAIR.1), "{name}");
        assert!(share(got) <= ERASURE_AT_MOST, "{name}: {}", share(got));
    }
}

/// At the shapes of a real model; with the few layers of the fixtures, a larger share of the layers
/// lies before the edited one and never runs.
#[test]
fn the_planner_saves_most_of_the_work() {
    let shape = Shape::smollm2();
    let of = [
        ("149 tokens", share(shape.future(LONG.0, &LONG.1, SkipPart::Layer)), SKIP_AT_MOST),
        ("34 tokens", share(shape.future(SHORT.0, &SHORT.1, SkipPart::Layer)), SKIP_AT_MOST),
        ("erasure", share(shape.erasure(PAIR.0, PAIR.1)), ERASURE_AT_MOST),
    ];
    for (what, share, most) in of {
        assert!(share <= most, "{what}: {share}");
    }
}
