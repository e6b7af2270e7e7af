//! The effect of bypassing a layer on later layers and on the output (arXiv 2505.13898).

use crate::number::add_weighted;
use crate::planner::{Action, Edit, EditSink, Places, Request, Rows, Site, count, execute};
use crate::tokenized::Masked;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_model::{Backend, Model, Trace};
use fathom_results::{
    ByMode, OverPrompts, SkipAverage, SkipEffects, SkipMode, SkipPart, SkipSample, SkipSummary,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// The planner site at which a part is bypassed.
fn site(part: SkipPart) -> Site {
    match part {
        SkipPart::Layer => Site::Layer,
        SkipPart::Attn => Site::Attn,
        SkipPart::Mlp => Site::Mlp,
    }
}

/// Options of the skip probe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SkipOptions {
    /// The modes.
    pub modes: Vec<SkipMode>,
    /// The parts of a layer.
    pub parts: Vec<SkipPart>,
}

impl SkipOptions {
    /// The modes and parts that a prompt of `tokens` tokens with these positions allows. Others are absent
    /// from the sample, because zeros would count as a prompt without effect.
    fn kinds(&self, tokens: usize, positions: &[usize]) -> impl Iterator<Item = (SkipMode, SkipPart)> {
        let allowed = move |m: &&SkipMode| match m {
            SkipMode::Current => tokens > 1,
            SkipMode::Future | SkipMode::Local => !positions.is_empty(),
            SkipMode::Others => false,
        };
        self.modes.iter().filter(allowed).flat_map(|m| self.parts.iter().map(|p| (*m, *p)))
    }
}

impl SkipOptions {
    /// The modes and parts of a masked text.
    fn masked_kinds(&self, masked: &Masked) -> impl Iterator<Item = (SkipMode, SkipPart)> {
        let halves = !masked.halves.is_empty();
        let allowed = move |mode: &&SkipMode| match mode {
            SkipMode::Current => true,
            SkipMode::Others => halves,
            SkipMode::Future | SkipMode::Local => false,
        };
        self.modes.iter().filter(allowed).flat_map(|mode| self.parts.iter().map(|part| (*mode, *part)))
    }
}

impl Default for SkipOptions {
    fn default() -> Self {
        Self {
            modes: vec![SkipMode::Future, SkipMode::Current, SkipMode::Local],
            parts: vec![SkipPart::Layer],
        }
    }
}

/// Measures one prompt in all modes and parts.
pub fn sample<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    options: &SkipOptions,
    positions: &[usize],
    exec: &ExecOptions<'_>,
) -> (SkipSample, Work) {
    let mut sample = SkipSample { positions: positions.to_vec(), ..SkipSample::default() };
    let mut work = Work::default();
    for (mode, part) in options.kinds(trace.tokens.len(), positions) {
        let (effects, done) = measure(model, trace, mode, part, positions, exec);
        sample.effects.entry(mode).or_default().insert(part, effects);
        work += done;
    }
    (sample, work)
}

/// As [`sample`] for a masked text. Of the modes, `current` bypasses a part at all own positions, and `others` at a random
/// half of them, as often as there are draws, with effects on layers read at the other half. Effects on the output are
/// read at the masked positions; of `others`, at those of the other half.
pub fn sample_masked<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    options: &SkipOptions,
    masked: &Masked,
    exec: &ExecOptions<'_>,
) -> (SkipSample, Work) {
    let (mut sample, mut work) = (SkipSample::default(), Work::default());
    let depth = model.config().depth();
    for (mode, part) in options.masked_kinds(masked) {
        let (keys, requests) = masked_requests::<B::Buffer>(depth, mode, part, masked);
        let mut reader = Reader::new(depth, &keys);
        work += execute(model, trace, &requests, exec, &mut reader);
        sample.effects.entry(mode).or_default().insert(part, reader.effects(mode));
    }
    (sample, work)
}

/// The work of [`sample_masked`] on a text of `tokens` tokens.
pub fn plan_masked<B: Backend>(
    model: &Model<B>,
    tokens: usize,
    options: &SkipOptions,
    masked: &Masked,
    memory: MemoryPlan,
) -> Work {
    let mut work = Work::default();
    for (mode, part) in options.masked_kinds(masked) {
        let (_, requests) = masked_requests::<B::Buffer>(model.config().depth(), mode, part, masked);
        work += count(model, tokens, &requests, memory);
    }
    work
}

/// The edited runs and the skipped layer of each.
fn masked_requests<'a, T>(
    depth: usize,
    mode: SkipMode,
    part: SkipPart,
    masked: &Masked,
) -> (Vec<usize>, Vec<Request<'a, T>>) {
    // What is bypassed, where effects on layers are read, and where those on the output.
    let all = || masked.own.iter().copied();
    let hidden = || masked.targets.positions.iter().copied();
    let draws: Vec<[Places; 3]> = match mode {
        SkipMode::Others => {
            let draw = |half: &Vec<usize>| {
                let others = |position: &usize| half.binary_search(position).is_err();
                let bypassed = Places::of(half.iter().copied());
                [bypassed, Places::of(all().filter(others)), Places::of(hidden().filter(others))]
            };
            masked.halves.iter().map(draw).collect()
        }
        _ => vec![[Places::of(all()), Places::of(all()), Places::of(hidden())]],
    };
    let request = |layer: usize, [bypassed, added, logits]: &[Places; 3]| {
        let edit = |positions| Edit { layer, site: site(part), positions, action: Action::Skip };
        let edits = bypassed.ranges().map(edit).collect();
        Request { edits, added: added.clone(), logits: logits.clone(), until: depth }
    };
    let each = (0..depth).flat_map(|layer| draws.iter().map(move |draw| (layer, request(layer, draw))));
    each.unzip()
}

/// The work of [`sample`] on a prompt of `tokens` tokens.
pub fn plan<B: Backend>(
    model: &Model<B>,
    tokens: usize,
    options: &SkipOptions,
    positions: &[usize],
    memory: MemoryPlan,
) -> Work {
    let mut work = Work::default();
    // Counting only compares matrices, so those of different layers just have to differ.
    let removed: Vec<B::Buffer> = (0..model.config().depth()).map(|_| model.backend().empty()).collect();
    let removed: Vec<&B::Buffer> = removed.iter().collect();
    for (mode, part) in options.kinds(tokens, positions) {
        let (_, requests) = requests(tokens, mode, part, positions, &removed);
        work += count(model, tokens, &requests, memory);
    }
    work
}

/// Combines prompts: the maximum and the mean, each prompt with equal weight.
pub fn summarise(samples: &[&SkipSample]) -> SkipSummary {
    let mut all: ByMode<Vec<&SkipEffects>> = BTreeMap::new();
    for (mode, parts) in samples.iter().flat_map(|s| &s.effects) {
        for (part, effects) in parts {
            all.entry(*mode).or_default().entry(*part).or_default().push(effects);
        }
    }
    let of_parts = |parts: BTreeMap<SkipPart, Vec<&SkipEffects>>| {
        parts.into_iter().map(|(part, effects)| (part, average(&effects))).collect()
    };
    all.into_iter().map(|(mode, parts)| (mode, of_parts(parts))).collect()
}

fn average(effects: &[&SkipEffects]) -> SkipAverage {
    let share = 1.0 / effects.len() as f64;
    let average_rows = |rows: &mut dyn Iterator<Item = &Vec<f64>>| {
        let mut over = OverPrompts::<Vec<f64>>::default();
        for row in rows {
            add_weighted(&mut over.mean, row, share);
            over.max.resize(row.len(), 0.0);
            over.max.iter_mut().zip(row).for_each(|(m, x)| *m = m.max(*x));
        }
        over
    };
    let depth = effects.first().map_or(0, |e| e.layer_effect.len());
    let mut layer_effect = OverPrompts::<Vec<Vec<f64>>>::default();
    for s in 0..depth {
        let row = average_rows(&mut effects.iter().filter_map(|e| e.layer_effect.get(s)));
        layer_effect.max.push(row.max);
        layer_effect.mean.push(row.mean);
    }
    let outputs: Vec<&Vec<f64>> = effects.iter().filter_map(|e| e.output_effect.as_ref()).collect();
    let output_effect = (!outputs.is_empty()).then(|| average_rows(&mut outputs.into_iter()));
    SkipAverage { layer_effect, output_effect }
}

/// Measures one prompt; `positions` are the t of `future` and `local`.
pub fn measure<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    mode: SkipMode,
    part: SkipPart,
    positions: &[usize],
    exec: &ExecOptions<'_>,
) -> (SkipEffects, Work) {
    let layers = match (mode, part) {
        (SkipMode::Local, SkipPart::Layer) => contributions(model, trace),
        _ => Vec::new(),
    };
    let removed: Vec<&B::Buffer> = match part {
        SkipPart::Layer if mode == SkipMode::Local => layers.iter().collect(),
        SkipPart::Mlp => trace.mlp_out.iter().collect(),
        // The other modes bypass layers and need no values.
        SkipPart::Attn | SkipPart::Layer => trace.attn_out.iter().collect(),
    };
    let (keys, requests) = requests(trace.tokens.len(), mode, part, positions, &removed);
    let mut reader = Reader::new(model.config().depth(), &keys);
    let work = execute(model, trace, &requests, exec, &mut reader);
    (reader.effects(mode), work)
}

/// The contribution D of each layer, `[T, d]`.
fn contributions<B: Backend>(model: &Model<B>, trace: &Trace<B>) -> Vec<B::Buffer> {
    let of_layer = |(attn, mlp)| {
        let mut added = model.backend().empty();
        model.backend().add(attn, mlp, &mut added);
        added
    };
    trace.attn_out.iter().zip(&trace.mlp_out).map(of_layer).collect()
}

/// The edited runs and the skipped layer of each. `removed` are the contributions of a part of each layer,
/// `[T, d]`.
fn requests<'a, T>(
    tokens: usize,
    mode: SkipMode,
    part: SkipPart,
    positions: &[usize],
    removed: &[&'a T],
) -> (Vec<usize>, Vec<Request<'a, T>>) {
    let depth = removed.len();
    let (mut keys, mut requests) = (Vec::new(), Vec::new());
    let skip = |layer: usize, edited: Range<usize>, read: Range<usize>| Request {
        edits: vec![Edit { layer, site: site(part), positions: edited, action: Action::Skip }],
        added: read.clone().into(),
        logits: read.into(),
        until: depth,
    };
    for (s, &removed) in removed.iter().enumerate() {
        match mode {
            SkipMode::Current if tokens > 1 => {
                keys.push(s);
                requests.push(skip(s, 1..tokens, 1..tokens));
            }
            SkipMode::Current | SkipMode::Others => {}
            SkipMode::Future => {
                for &t in positions.iter().filter(|t| (2..tokens).contains(*t)) {
                    keys.push(s);
                    requests.push(skip(s, 1..t, t..tokens));
                }
            }
            SkipMode::Local => {
                for (l, &t) in (s + 1..depth).flat_map(|l| positions.iter().map(move |t| (l, t))) {
                    if (2..tokens).contains(&t) {
                        keys.push(s);
                        requests.push(without(removed, l, t, tokens));
                    }
                }
            }
        }
    }
    (keys, requests)
}

/// Runs layer `l` on the clean stream without a contribution, `[T, d]`, at positions 1..t.
fn without<T>(removed: &T, l: usize, t: usize, tokens: usize) -> Request<'_, T> {
    let action = Action::Subtract(Rows::each(removed, 1));
    Request {
        edits: vec![Edit { layer: l, site: Site::Resid, positions: 1..t, action }],
        added: (t..tokens).into(),
        logits: Places::default(),
        until: l + 1,
    }
}

struct Reader<'a> {
    /// The skipped layer of each request.
    keys: &'a [usize],
    layer_effect: Vec<Vec<f64>>,
    output_effect: Vec<f64>,
}

impl<'a> Reader<'a> {
    fn new(depth: usize, keys: &'a [usize]) -> Self {
        Self { keys, layer_effect: vec![vec![0.0; depth]; depth], output_effect: vec![0.0; depth] }
    }

    fn effects(self, mode: SkipMode) -> SkipEffects {
        SkipEffects {
            layer_effect: self.layer_effect,
            output_effect: (mode != SkipMode::Local).then_some(self.output_effect),
        }
    }
}

impl EditSink for Reader<'_> {
    fn added(&mut self, request: usize, layer: usize, _: Range<usize>, changes: &[f64]) {
        let largest = &mut self.layer_effect[self.keys[request]][layer];
        *largest = changes.iter().copied().fold(*largest, larger);
    }

    fn logits(&mut self, request: usize, _: usize, numbers: &[f64]) {
        let largest = &mut self.output_effect[self.keys[request]];
        *largest = numbers.iter().copied().fold(*largest, larger);
    }
}

/// The larger of two numbers. Unlike [`f64::max`], NaN if `b` is NaN, so that overflows are noticed.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}
