//! Mixtures of experts: the MLP of a layer in which every row takes a few of many small MLPs.
//!
//! Rows are grouped by expert, so each expert multiplies all rows that take it at once. What the experts of a row
//! return is added in ascending order of the experts, the shared one last, so a row's bits do not depend on the batch.

use crate::config::Experts;
use crate::forward::{Buffers, Model, halves};
use crate::routing::{self, PerExpert, Routes, sigmoid};
use fathom_kernels::backend::{Backend, LinearLayer, RowAction, RowEdit};
use std::ops::Deref;
use std::sync::Arc;

/// The matrices of one MLP.
pub(crate) struct FeedForward<B: Backend> {
    /// `[2 f, d]`, gate first, or `[f, d]`.
    pub(crate) up: B::Linear,
    /// `[d, f]`.
    pub(crate) down: B::Linear,
    /// The bias of `down` once more, for the gradients of an expert's weights; `[d]`.
    pub(crate) down_bias: Option<B::Buffer>,
}

impl<B: Backend> FeedForward<B> {
    /// Both matrices.
    pub(crate) fn matrices(&self) -> [&B::Linear; 2] {
        [&self.up, &self.down]
    }
}

/// The experts of a layer that rows choose from.
pub(crate) enum ExpertMlps<B: Backend> {
    /// All of them.
    Packed(Vec<FeedForward<B>>),
    /// They are in the checkpoint ([`ExpertCache`](crate::expert_cache::ExpertCache)).
    Mapped(ExpertSize),
}

/// The size of one expert.
#[derive(Clone, Copy)]
pub(crate) struct ExpertSize {
    /// Weights and biases.
    pub(crate) parameters: u64,
    /// Multiply-adds per row.
    pub(crate) macs: u64,
}

impl<B: Backend> ExpertMlps<B> {
    /// Those in memory.
    pub(crate) fn packed(&self) -> &[FeedForward<B>] {
        match self {
            Self::Packed(mlps) => mlps,
            Self::Mapped(_) => &[],
        }
    }

    /// The size of each, where they are in the checkpoint.
    pub(crate) fn mapped(&self) -> Option<ExpertSize> {
        match self {
            Self::Packed(_) => None,
            Self::Mapped(size) => Some(*size),
        }
    }
}

/// An MLP that some rows take.
enum Taken<'a, B: Backend> {
    Packed(&'a FeedForward<B>),
    /// The expert of this number.
    Mapped(usize),
}

/// An MLP in memory, at least for now.
enum InMemory<'a, B: Backend> {
    Packed(&'a FeedForward<B>),
    Read(Arc<FeedForward<B>>),
}

impl<B: Backend> Deref for InMemory<'_, B> {
    type Target = FeedForward<B>;

    fn deref(&self) -> &FeedForward<B> {
        match self {
            Self::Packed(mlp) => mlp,
            Self::Read(mlp) => mlp,
        }
    }
}

/// The weights of a mixture of experts.
pub(crate) struct ExpertWeights<B: Backend> {
    pub(crate) about: Experts,
    /// `[E, d]`, always multiplied in f32: rounding a score could change the choice.
    pub(crate) router: B::Linear,
    /// Added to scores while experts are chosen, `[E]`.
    pub(crate) correction: Option<Vec<f32>>,
    /// Factors on the weights of experts, `[E]`.
    pub(crate) scale: Option<Vec<f32>>,
    pub(crate) experts: ExpertMlps<B>,
    pub(crate) shared: Option<FeedForward<B>>,
    /// `[1, d]`.
    pub(crate) shared_gate: Option<B::Linear>,
}

impl<B: Backend> ExpertWeights<B> {
    /// All matrices in memory.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &B::Linear> {
        let mlps = self.experts.packed().iter().chain(&self.shared);
        [&self.router].into_iter().chain(&self.shared_gate).chain(mlps.flat_map(FeedForward::matrices))
    }

    /// What is stored for each expert beside the router.
    fn stored(&self) -> PerExpert<'_> {
        PerExpert { correction: self.correction.as_deref(), scale: self.scale.as_deref() }
    }

    /// Bytes of the down projections.
    pub(crate) fn down_bytes(&self) -> u64 {
        self.experts.packed().iter().chain(&self.shared).map(|mlp| mlp.down.bytes() as u64).sum()
    }

    /// Parameters that are in no matrix in memory.
    pub(crate) fn small(&self) -> u64 {
        let mapped = self.experts.mapped().map_or(0, |size| size.parameters);
        let stored = self.correction.iter().chain(&self.scale).map(|all| all.len() as u64).sum::<u64>();
        mapped * self.about.count as u64 + stored
    }

    /// Multiply-adds per row.
    pub(crate) fn macs_of_a_row(&self) -> u64 {
        let mlps = self.experts.packed().iter().take(self.about.active).chain(&self.shared);
        let matrices = [&self.router].into_iter().chain(&self.shared_gate);
        let macs = |matrix: &B::Linear| (matrix.inputs() * matrix.outputs()) as u64;
        let mapped = self.experts.mapped().map_or(0, |size| size.macs * self.about.active as u64);
        matrices.chain(mlps.flat_map(FeedForward::matrices)).map(macs).sum::<u64>() + mapped
    }

    /// The MLPs that some rows take, with these rows: routed experts in ascending order, then the shared one.
    fn groups(&self, routes: &Routes, gates: &[f32]) -> Vec<Group<'_, B>> {
        let routed = routes.by_expert(self.about.count).into_iter().enumerate();
        let routed = routed.filter(|(_, places)| !places.is_empty()).map(|(expert, places)| Group {
            expert: Some(expert),
            mlp: match &self.experts {
                ExpertMlps::Packed(mlps) => Taken::Packed(&mlps[expert]),
                ExpertMlps::Mapped(_) => Taken::Mapped(expert),
            },
            rows: places.iter().map(|place| place / routes.active as u32).collect(),
            weights: Some(places.iter().map(|place| routes.weights[*place as usize]).collect()),
            places,
        });
        let rows = (routes.experts.len() / routes.active.max(1)) as u32;
        let shared = self.shared.iter().map(|mlp| Group {
            expert: None,
            mlp: Taken::Packed(mlp),
            rows: (0..rows).collect(),
            weights: self.shared_gate.is_some().then(|| gates.to_vec()),
            places: Vec::new(),
        });
        routed.chain(shared).collect()
    }
}

/// An MLP and the rows that take it.
struct Group<'a, B: Backend> {
    /// Its number; none for the shared one.
    expert: Option<usize>,
    mlp: Taken<'a, B>,
    /// Rows of the batch, ascending.
    rows: Vec<u32>,
    /// The weight of each row; none where all are 1.
    weights: Option<Vec<f32>>,
    /// Where the weights are in the routes; empty for the shared expert.
    places: Vec<u32>,
}

impl<B: Backend> Group<'_, B> {
    /// Whether the weights multiply what the MLP reads.
    fn weighs_input(&self, of: &Experts) -> bool {
        of.routing.on_input && !self.places.is_empty()
    }
}

/// What one expert adds to the tokens that take it, before any norm of the sum of all experts.
pub struct ExpertPart<B: Backend> {
    /// Its number; none for the expert that every token takes.
    pub expert: Option<usize>,
    /// The tokens that take it, ascending.
    pub rows: Vec<u32>,
    /// Its weight for each of them; none where all are 1.
    pub weights: Option<Vec<f32>>,
    /// `[rows, d]`, with the weights in it.
    pub output: B::Buffer,
}

/// Scratch buffers of a mixture of experts.
pub(crate) struct ExpertBuffers<B: Backend> {
    /// What each expert adds, where that is wanted.
    pub(crate) parts: Option<Vec<ExpertPart<B>>>,
    scores: B::Buffer,
    /// Rows of one expert, `[rows of it, d]`.
    input: B::Buffer,
    /// `[rows of it, 2 f]` or `[rows of it, f]`.
    wide: B::Buffer,
    /// `[rows of it, f]`.
    gated: B::Buffer,
    /// `[rows of it, d]`.
    output: B::Buffer,
}

impl<B: Backend> ExpertBuffers<B> {
    pub(crate) fn new(on: &B) -> Self {
        let empty = || on.empty();
        Self { parts: None, scores: empty(), input: empty(), wide: empty(), gated: empty(), output: empty() }
    }

    /// The buffers with their widths, for a layer of such experts.
    pub(crate) fn sizes(&mut self, hidden: usize, of: &Experts, up: usize) -> [(&mut B::Buffer, usize); 5] {
        let width = of.width.max(of.shared);
        [
            (&mut self.scores, of.count),
            (&mut self.input, hidden),
            (&mut self.wide, up * width),
            (&mut self.gated, width),
            (&mut self.output, hidden),
        ]
    }
}

/// What the backward pass of a mixture of experts needs.
pub(crate) struct SavedExperts<B: Backend> {
    /// Logits of the router, `[rows, E]`.
    logits: Vec<f32>,
    routes: Routes,
    /// Weights of the shared expert, `[rows]`, if it has a gate.
    gates: Vec<f32>,
    /// What experts read before it is multiplied by weights, `[rows, d]`, if it is.
    input: Option<B::Buffer>,
    /// Input of the activation in each group.
    wide: Vec<B::Buffer>,
}

/// The edits that set or add rows of `from` to rows of another matrix. A row's first contribution replaces what is there.
fn contributions<'a, T>(rows: &[u32], from: &'a T, begun: &mut [bool]) -> Vec<RowEdit<'a, T>> {
    let each = |(i, row): (usize, &u32)| {
        let begun = std::mem::replace(&mut begun[*row as usize], true);
        let action = if begun { RowAction::Add(from, i) } else { RowAction::Replace(from, i) };
        RowEdit { row: *row as usize, action }
    };
    rows.iter().enumerate().map(each).collect()
}

/// The edits that multiply rows from the first on.
fn scalings<'a, T>(factors: &[f32]) -> Vec<RowEdit<'a, T>> {
    let each = |(row, factor): (usize, &f32)| RowEdit { row, action: RowAction::Scale(*factor) };
    factors.iter().enumerate().map(each).collect()
}

impl<B: Backend> Model<B> {
    /// One MLP: fills `out` from its normalised input, through the input `wide` of the activation, of which a copy is
    /// returned if it is to be saved, and its output `gated`.
    ///
    /// # Shapes
    /// `input`, `out [rows, d]`.
    pub(crate) fn feed_forward(
        &self,
        [up, down]: [&B::Linear; 2],
        input: &B::Buffer,
        [wide, gated]: [&mut B::Buffer; 2],
        out: &mut B::Buffer,
        save: bool,
    ) -> Option<B::Buffer> {
        let (on, c) = (&self.backend, &self.config);
        on.linear(up, input, wide); // [rows, 2 f] or [rows, f]
        self.scale_gates(down.inputs(), wide);
        let saved = save.then(|| on.copy(wide, 0..on.len(wide)));
        if c.gated {
            on.gated(c.activation, down.inputs(), wide, gated); // [rows, f]
            on.linear(down, gated, out); // [rows, d]
        } else {
            on.activate(c.activation, wide);
            on.linear(down, wide, out); // [rows, d]
        }
        saved
    }

    /// Multiplies the gates in rows of gates and what they multiply, `f` each, by their factor; or their gradients.
    fn scale_gates(&self, f: usize, wide: &mut B::Buffer) {
        let (on, factor) = (&self.backend, self.config.multipliers.gate);
        if !self.config.gated || factor == 1.0 {
            return;
        }
        let [gates, _] = halves(on.len(wide) / (2 * f));
        let mut part = on.empty();
        on.gather(f, wide, &gates, &mut part);
        on.scale(factor, &mut part);
        on.scatter(f, &part, &gates, wide);
    }

    /// Backward of [`Self::feed_forward`]: the gradient of its input from that of its output, and where there are
    /// `weights` of rows of the output, what the gradients of these are the sum of.
    ///
    /// # Shapes
    /// `d_out`, `d_in [rows, d]`, `weights [rows]`.
    pub(crate) fn feed_forward_backward(
        &self,
        mlp: &FeedForward<B>,
        wide: &B::Buffer,
        weights: Option<&[f32]>,
        d_out: &B::Buffer,
        d_in: &mut B::Buffer,
    ) -> Vec<B::Numbers> {
        let (on, c, [up, down]) = (&self.backend, &self.config, mlp.matrices());
        let f = down.inputs();
        let mut d_inner = on.empty();
        on.linear_backward(down, d_out, &mut d_inner); // [rows, f]
        let mut d_weights = Vec::new();
        if let Some(weights) = weights {
            // The output is linear in the activations, so its product with a gradient is theirs with their gradient, and
            // that of the bias.
            let mut inner = on.empty();
            if c.gated {
                on.gated(c.activation, f, wide, &mut inner);
            } else {
                on.assign(wide, &mut inner);
                on.activate(c.activation, &mut inner);
            }
            d_weights.push(on.row_dots(f, &inner, &d_inner));
            d_weights.extend(mlp.down_bias.as_ref().map(|bias| on.row_dots(c.hidden, d_out, bias)));
            on.edit(f, &scalings(weights), &mut d_inner);
        }
        if c.gated {
            let mut d_wide = on.empty();
            on.gated_backward(c.activation, f, wide, &d_inner, &mut d_wide); // [rows, 2 f]
            self.scale_gates(f, &mut d_wide);
            on.linear_backward(up, &d_wide, d_in); // [rows, d]
        } else {
            on.activate_backward(c.activation, wide, &mut d_inner); // [rows, f]
            on.linear_backward(up, &d_inner, d_in); // [rows, d]
        }
        d_weights
    }

    /// The MLP of a group of rows.
    fn in_memory<'a>(&self, layer: usize, mlp: &Taken<'a, B>) -> InMemory<'a, B> {
        match mlp {
            Taken::Packed(mlp) => InMemory::Packed(mlp),
            Taken::Mapped(expert) => {
                let cache =
                    self.packed.expert_cache.as_ref().expect("experts outside the memory have a cache");
                InMemory::Read(cache.get(self, layer, *expert))
            }
        }
    }

    /// The mixture of experts of layer `l`: fills `out` from the normalised inputs of the experts and of their router.
    ///
    /// # Shapes
    /// `input`, `of_router`, `out [rows, d]`.
    pub(crate) fn experts(
        &self,
        l: usize,
        weights: &ExpertWeights<B>,
        [input, of_router]: [&B::Buffer; 2],
        s: &mut ExpertBuffers<B>,
        out: &mut B::Buffer,
        save: bool,
    ) -> (Routes, Option<SavedExperts<B>>) {
        let (on, d) = (&self.backend, self.config.hidden);
        let rows = on.len(input) / d;
        on.resize(out, rows * d);
        let mut to_host = |layer: &B::Linear| {
            on.linear(layer, of_router, &mut s.scores);
            on.download(&s.scores, 0..on.len(&s.scores))
        };
        let gates = weights.shared_gate.as_ref().map(&mut to_host).unwrap_or_default();
        let gates: Vec<f32> = gates.iter().map(|x| sigmoid(f64::from(*x)) as f32).collect();
        let logits = to_host(&weights.router);
        let routes = routing::route(&weights.about, weights.stored(), &logits);
        let (mut begun, mut wide) = (vec![false; rows], Vec::new());
        for group in weights.groups(&routes, &gates) {
            let on_input = group.weights.as_deref().filter(|_| group.weighs_input(&weights.about));
            let part = match group.rows.len() == rows && on_input.is_none() {
                true => input,
                false => {
                    on.gather(d, input, &group.rows, &mut s.input);
                    if let Some(factors) = on_input {
                        on.edit(d, &scalings(factors), &mut s.input);
                    }
                    &s.input
                }
            };
            let inner = [&mut s.wide, &mut s.gated];
            let mlp = self.in_memory(l, &group.mlp);
            wide.extend(self.feed_forward(mlp.matrices(), part, inner, &mut s.output, save));
            if let (Some(factors), None) = (&group.weights, on_input) {
                on.edit(d, &scalings(factors), &mut s.output);
            }
            on.edit(d, &contributions(&group.rows, &s.output, &mut begun), out);
            if let Some(parts) = &mut s.parts {
                let output = on.copy(&s.output, 0..group.rows.len() * d);
                let Group { expert, rows, weights, .. } = group;
                parts.push(ExpertPart { expert, rows, weights, output });
            }
        }
        let kept = weights.about.routing.on_input.then(|| on.copy(input, 0..on.len(input)));
        let saved = save.then(|| SavedExperts { logits, routes: routes.clone(), gates, input: kept, wide });
        (routes, saved)
    }

    /// What each expert of layer `l` adds, from the stream that [`Self::mlp`] reads, `x [rows, d]`: experts in ascending
    /// order, the shared one last. Their sum is what the mixture adds, up to a norm or a factor behind it. Empty for a
    /// layer without experts.
    ///
    /// # Panics
    /// As [`Self::mlp`].
    pub fn expert_parts(&self, l: usize, x: &B::Buffer, b: &mut Buffers<B>) -> Vec<ExpertPart<B>> {
        b.experts.parts = Some(Vec::new());
        self.mlp(l, x, b);
        b.experts.parts.take().unwrap_or_default()
    }

    /// Backward of [`Self::experts`]: the gradient of its input from that of its output. The choice of experts is
    /// constant, their weights are not. The gradient of the router's input is added to that of the experts', unless
    /// there is a buffer for it.
    ///
    /// # Shapes
    /// `d_out`, `d_in`, `of_router [rows, d]`.
    pub(crate) fn experts_backward(
        &self,
        l: usize,
        weights: &ExpertWeights<B>,
        saved: &SavedExperts<B>,
        d_out: &B::Buffer,
        d_in: &mut B::Buffer,
        of_router: Option<&mut B::Buffer>,
    ) {
        let (on, d) = (&self.backend, self.config.hidden);
        let rows = on.len(d_out) / d;
        on.resize(d_in, rows * d);
        let (mut begun, mut part, mut d_part) = (vec![false; rows], on.empty(), on.empty());
        let (mut places, mut numbers) = (Vec::new(), Vec::new());
        for (group, wide) in weights.groups(&saved.routes, &saved.gates).into_iter().zip(&saved.wide) {
            on.gather(d, d_out, &group.rows, &mut part);
            let factors = group.weights.as_deref();
            let on_input = factors.filter(|_| group.weighs_input(&weights.about));
            let factors = factors.filter(|_| on_input.is_none());
            let mlp = self.in_memory(l, &group.mlp);
            let mut of = self.feed_forward_backward(&mlp, wide, factors, &part, &mut d_part);
            if let (Some(factors), Some(input)) = (on_input, &saved.input) {
                on.gather(d, input, &group.rows, &mut part);
                of.push(on.row_dots(d, &part, &d_part));
                on.edit(d, &scalings(factors), &mut d_part);
            }
            on.edit(d, &contributions(&group.rows, &d_part, &mut begun), d_in);
            places.extend(of.iter().map(|_| group.places.clone()));
            numbers.extend(of);
        }
        let mut d_weights = vec![0.0; saved.routes.experts.len()];
        let mut d_gates = Vec::new();
        for (places, numbers) in places.into_iter().zip(on.read(numbers)) {
            match places.is_empty() {
                true => d_gates = numbers,
                false => places.iter().zip(numbers).for_each(|(place, d)| d_weights[*place as usize] += d),
            }
        }
        let d_logits = on.buffer_of(&routing::route_backward(
            &weights.about,
            weights.stored(),
            &saved.routes,
            &saved.logits,
            &d_weights,
        ));
        if let Some(of_router) = of_router {
            on.linear_backward(&weights.router, &d_logits, of_router);
        } else {
            on.linear_backward(&weights.router, &d_logits, &mut d_part);
            on.add_assign(d_in, &d_part);
        }
        if let Some(gate) = &weights.shared_gate {
            let through = |(d, g): (&f64, &f32)| (d * f64::from(*g) * (1.0 - f64::from(*g))) as f32;
            let d_gates: Vec<f32> = d_gates.iter().zip(&saved.gates).map(through).collect();
            on.linear_backward(gate, &on.buffer_of(&d_gates), &mut d_part);
            on.add_assign(d_in, &d_part);
        }
    }
}
