//! What the output loses when layers run in another order: one left out, neighbours swapped, three reversed, and the middle
//! of the model reversed, replaced by one layer, or run in parallel (arXiv 2406.19384, 2407.09298).
//!
//! An intervention begins with the stream of the clean run where it first differs, and ends at a level from which on the
//! layers follow each other as usual. Those layers run for all interventions together.

use crate::number::add_weighted;
use crate::{ExecOptions, MemoryPlan, Work, lens};
use fathom_kernels::backend::Run;
use fathom_model::{Backend, Buffers, LayerKeys, Model, Trace};
use fathom_results::{Order, OrderEffects};
use std::ops::Range;

/// Layers that run in place of some others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervention {
    /// The layers that are replaced.
    pub replaced: Range<usize>,
    /// What runs in their place.
    pub by: Replacement,
}

/// What runs in place of some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// These layers, one after the other.
    Sequence(Vec<usize>),
    /// These layers on the same stream; the mean of what they return.
    Parallel(Range<usize>),
}

impl Replacement {
    fn layers(&self) -> Vec<usize> {
        match self {
            Self::Sequence(layers) => layers.clone(),
            Self::Parallel(layers) => layers.clone().collect(),
        }
    }
}

/// The first layers of the middles of a model: 1, 2, .. while two layers are left.
pub fn middles(depth: usize) -> Vec<usize> {
    (1..depth).take_while(|n| 2 * n + 2 <= depth).collect()
}

/// The interventions on a model of `depth` layers, by family in the order of [`Order::families`].
pub fn interventions(depth: usize) -> [Vec<Intervention>; 6] {
    let sequence =
        |replaced: Range<usize>, by: Vec<usize>| Intervention { replaced, by: Replacement::Sequence(by) };
    let reversed = |block: Range<usize>| sequence(block.clone(), block.rev().collect());
    let middle = |n: &usize| *n..depth - n;
    let middles = middles(depth);
    let of_middles = |of: &dyn Fn(Range<usize>) -> Intervention| middles.iter().map(middle).map(of).collect();
    let repeated = |block: Range<usize>| {
        let layer = block.start + block.len() / 2;
        sequence(block.clone(), vec![layer; block.len()])
    };
    [
        (0..depth).map(|l| sequence(l..l + 1, Vec::new())).collect(),
        (0..depth.saturating_sub(1)).map(|l| reversed(l..l + 2)).collect(),
        (0..depth.saturating_sub(2)).map(|l| reversed(l..l + 3)).collect(),
        of_middles(&reversed),
        of_middles(&repeated),
        of_middles(&|block| Intervention { replaced: block.clone(), by: Replacement::Parallel(block) }),
    ]
}

/// Interventions that run together.
fn at_once(tokens: usize, memory: MemoryPlan) -> usize {
    (memory.rows / tokens.max(1)).max(1)
}

/// The work of [`measure`] on a prompt of `tokens` tokens, and the bytes of its logits.
pub(crate) fn plan<B: Backend>(model: &Model<B>, tokens: usize, memory: MemoryPlan) -> (Work, u64) {
    let depth = model.config().depth();
    let all = interventions(depth).concat();
    let head = model.head_macs_per_row() * tokens as u64;
    let layers =
        |layers: &mut dyn Iterator<Item = usize>| layers.map(|l| model.layer_macs(l, tokens)).sum::<u64>();
    let own = |i: &Intervention| layers(&mut i.by.layers().into_iter().chain(i.replaced.end..depth)) + head;
    let naive = |i: &Intervention| {
        layers(&mut (0..i.replaced.start).chain(i.by.layers()).chain(i.replaced.end..depth)) + head
    };
    // Each group compares with the output of the clean run.
    let clean = head * all.len().div_ceil(at_once(tokens, memory)) as u64;
    let work = Work {
        edits: all.len() as u64,
        runs: all.len() as u64,
        macs: all.iter().map(own).sum::<u64>() + clean,
        macs_naive: all.iter().map(naive).sum::<u64>() + head,
    };
    let width = all.len().min(at_once(tokens, memory)) + 1;
    (work, memory.bytes.max(width * model.config().vocab * 4) as u64)
}

/// Measures one prompt.
pub fn measure<B: Backend>(model: &Model<B>, trace: &Trace<B>, exec: &ExecOptions<'_>) -> Order {
    let depth = trace.depth();
    let families = interventions(depth);
    let all = families.concat();
    let mut effects = OrderEffects::default();
    for group in all.chunks(at_once(trace.tokens.len(), exec.memory)) {
        let outputs = Runs::new(model, trace, exec).finish(group);
        let mut levels = outputs;
        levels.push(model.backend().copy(&trace.resid[depth], 0..trace.tokens.len() * trace.hidden));
        // The lens compares the stream of every level with the last one.
        let streams = Trace {
            tokens: trace.tokens.clone(),
            hidden: trace.hidden,
            resid: levels,
            attn_out: vec![],
            mlp_out: vec![],
            kv_cache: vec![],
            token_inputs: vec![],
            post_norm: vec![],
            routes: vec![],
            without: Default::default(),
        };
        let curves = lens::curves(&lens::sweep(model, &streams, exec));
        let own = |curve: Vec<f64>| curve.into_iter().take(group.len());
        effects.kl.extend(own(curves.kl_final_lens));
        effects.top1_agreement.extend(own(curves.top1_agreement));
        effects.nll.extend(own(curves.nll));
    }
    let mut order = Order { middle_from: middles(depth), ..Order::default() };
    let mut first = 0;
    for (family, to) in families.iter().zip(order.families_mut()) {
        let part = first..first + family.len();
        first = part.end;
        let of = |values: &[f64]| values.get(part.clone()).unwrap_or_default().to_vec();
        *to = OrderEffects {
            kl: of(&effects.kl),
            top1_agreement: of(&effects.top1_agreement),
            nll: of(&effects.nll),
        };
    }
    order
}

/// The streams of some interventions, `[count, T, d]`, and the keys that their layers share.
struct Streams<B: Backend> {
    h: B::Buffer,
    keys: LayerKeys<B>,
}

/// Runs of interventions on one prompt. Layers that read the keys of another one take those of the clean run until it
/// has run.
struct Runs<'a, B: Backend> {
    model: &'a Model<B>,
    trace: &'a Trace<B>,
    exec: &'a ExecOptions<'a>,
    buffers: Buffers<B>,
}

impl<'a, B: Backend> Runs<'a, B> {
    fn new(model: &'a Model<B>, trace: &'a Trace<B>, exec: &'a ExecOptions<'a>) -> Self {
        Self { model, trace, exec, buffers: Buffers::new(model) }
    }

    /// The stream that leaves the last layer after an intervention, by a forward pass of its own.
    fn alone(&mut self, intervention: &Intervention) -> B::Buffer {
        let mut streams = self.clean(0);
        for l in 0..intervention.replaced.start {
            streams.h = self.layer(l, &mut streams, 1);
        }
        self.replace(intervention, &mut streams);
        for l in intervention.replaced.end..self.trace.depth() {
            streams.h = self.layer(l, &mut streams, 1);
        }
        streams.h
    }

    /// The clean run before a layer.
    fn clean(&self, level: usize) -> Streams<B> {
        let (on, h) = (self.model.backend(), &self.trace.resid[level]);
        let positions: Vec<u32> = (0..self.trace.tokens.len() as u32).collect();
        Streams { h: on.copy(h, 0..on.len(h)), keys: self.model.clean_keys(self.trace, &positions) }
    }

    /// The stream that leaves the last layer after each intervention, in their order.
    fn finish(mut self, group: &[Intervention]) -> Vec<B::Buffer> {
        if self.exec.naive {
            return group.iter().map(|intervention| self.alone(intervention)).collect();
        }
        let (on, size) = (self.model.backend(), self.trace.tokens.len() * self.trace.hidden);
        // Those that are back in order first come first.
        let mut by_end: Vec<usize> = (0..group.len()).collect();
        by_end.sort_by_key(|i| group[*i].replaced.end);
        let mut streams = Streams { h: on.empty(), keys: LayerKeys::default() };
        let mut joined = 0;
        for l in 0..=self.trace.depth() {
            while let Some(next) = by_end.get(joined).filter(|i| group[**i].replaced.end == l) {
                let intervention = &group[*next];
                let mut own = self.clean(intervention.replaced.start);
                self.replace(intervention, &mut own);
                streams = self.join(&streams, &own, joined);
                joined += 1;
            }
            if l < self.trace.depth() && joined > 0 {
                streams.h = self.layer(l, &mut streams, joined);
            }
        }
        let place = |i: usize| by_end.iter().position(|other| *other == i).unwrap_or_default();
        (0..group.len()).map(|i| on.copy(&streams.h, place(i) * size..(place(i) + 1) * size)).collect()
    }

    /// Runs what stands in place of the replaced layers.
    fn replace(&mut self, intervention: &Intervention, streams: &mut Streams<B>) {
        let on = self.model.backend();
        match &intervention.by {
            Replacement::Sequence(layers) => {
                for l in layers {
                    streams.h = self.layer(*l, streams, 1);
                }
            }
            Replacement::Parallel(layers) => {
                let share = 1.0 / layers.len() as f32;
                let mut mean = self.layer(layers.start, streams, 1);
                on.scale(share, &mut mean);
                for l in layers.start + 1..layers.end {
                    let out = self.layer(l, streams, 1);
                    let mut sum = on.empty();
                    on.interpolate(&mean, &out, &[share], &mut sum);
                    mean = sum;
                }
                streams.h = mean;
            }
        }
    }

    /// What one layer makes of the streams of `count` interventions, `[count, T, d]`. Replaces the keys that it makes for
    /// others.
    fn layer(&mut self, l: usize, streams: &mut Streams<B>, count: usize) -> B::Buffer {
        let tokens = self.trace.tokens.len();
        let run =
            |i: usize| Run { rows: i * tokens..(i + 1) * tokens, first: 0, length: tokens, past: vec![] };
        let batch = self.model.batch((0..count).map(run).collect());
        let mut out = self.model.backend().empty();
        let positions: Vec<u32> = (0..count).flat_map(|_| 0..tokens as u32).collect();
        self.model.read_tokens(l, self.trace, &positions, &mut self.buffers);
        std::mem::swap(&mut self.buffers.keys, &mut streams.keys);
        self.model.layer(l, &batch, &streams.h, &mut self.buffers, &mut out);
        std::mem::swap(&mut self.buffers.keys, &mut streams.keys);
        (self.exec.on_progress)(self.model.layer_macs(l, tokens) * count as u64);
        out
    }

    /// Another stream behind `count` of them.
    fn join(&self, streams: &Streams<B>, other: &Streams<B>, count: usize) -> Streams<B> {
        let (on, d, tokens) = (self.model.backend(), self.trace.hidden, self.trace.tokens.len());
        let mut all = on.empty();
        on.resize(&mut all, (count + 1) * tokens * d);
        let rows = |rows: Range<usize>| rows.map(|row| row as u32).collect::<Vec<u32>>();
        if count > 0 {
            on.scatter(d, &streams.h, &rows(0..count * tokens), &mut all);
        }
        on.scatter(d, &other.h, &rows(count * tokens..(count + 1) * tokens), &mut all);
        Streams { h: all, keys: self.model.append_keys(&streams.keys, &other.keys) }
    }
}

/// Combines prompts, each with its number of tokens. All tokens have equal weight.
pub fn summarise(samples: &[(&Order, usize)]) -> Order {
    let total =
        |weight: &dyn Fn(usize) -> usize| samples.iter().map(|(_, tokens)| weight(*tokens)).sum::<usize>();
    let followed = |tokens: usize| tokens.saturating_sub(1);
    let (all, predicted) = (total(&|tokens| tokens) as f64, total(&followed) as f64);
    let middle_from = samples.first().map_or_else(Vec::new, |(s, _)| s.middle_from.clone());
    let mut order = Order { middle_from, ..Order::default() };
    for (sample, tokens) in samples {
        let share = *tokens as f64 / all;
        for ((_, from), to) in sample.families().into_iter().zip(order.families_mut()) {
            add_weighted(&mut to.kl, &from.kl, share);
            add_weighted(&mut to.top1_agreement, &from.top1_agreement, share);
            if followed(*tokens) > 0 {
                add_weighted(&mut to.nll, &from.nll, followed(*tokens) as f64 / predicted);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interventions_of_a_small_model() {
        let [skip, swap, reverse, backwards, repeat, parallel] = interventions(5);
        let sequence = |replaced: Range<usize>, by: &[usize]| Intervention {
            replaced,
            by: Replacement::Sequence(by.to_vec()),
        };
        assert_eq!((skip.len(), skip[2].clone()), (5, sequence(2..3, &[])));
        assert_eq!((swap.len(), swap[3].clone()), (4, sequence(3..5, &[4, 3])));
        assert_eq!((reverse.len(), reverse[1].clone()), (3, sequence(1..4, &[3, 2, 1])));
        assert_eq!(backwards, [sequence(1..4, &[3, 2, 1])]);
        assert_eq!(repeat, [sequence(1..4, &[2, 2, 2])]);
        assert_eq!(parallel, [Intervention { replaced: 1..4, by: Replacement::Parallel(1..4) }]);
        assert_eq!((middles(6), middles(3), middles(1)), (vec![1, 2], vec![], vec![]));
        assert!(interventions(1)[1..].iter().all(Vec::is_empty));
    }
}
