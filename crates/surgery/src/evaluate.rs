//! What a model loses without some of its layers, for many removals at once.
//!
//! Removals that agree on the first layers share them: the residual stream is copied where two of them part, and each
//! layer runs once for all that treat it alike. At the end the head runs on the rows that predict, a few positions at a
//! time with all removals side by side, so that the logits of the whole model are computed once.

use crate::group::{Group, Scored};
use crate::{Removal, Score, Text};
use fathom_kernels::backend::LENS_NUMBERS;
use fathom_model::{Backend, Buffers, Error, Model};
use fathom_results::Work;

/// A model to evaluate: what is left out of it, and a down projection that replaces one of its own.
pub struct Variant<'a, B: Backend> {
    /// What is left out.
    pub removal: &'a Removal,
    /// A layer and its new down projection.
    pub down: Option<(usize, &'a B::Linear)>,
}

impl<B: Backend> Clone for Variant<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Variant<'_, B> {}

impl<'a, B: Backend> Variant<'a, B> {
    /// A model without some layers.
    pub fn without(removal: &'a Removal) -> Self {
        Self { removal, down: None }
    }
}

/// What is read of the predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The loss alone.
    Loss,
    /// The loss, and a comparison with the last variant.
    Comparison,
}

/// How evaluations execute.
#[derive(Clone, Copy)]
pub struct EvaluateOptions<'a> {
    /// Bytes of working memory beside the weights.
    pub memory: u64,
    /// Receives multiply-adds as they are done.
    pub on_progress: &'a dyn Fn(u64),
}

/// The scores of each variant on each text, and the work they took.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// `[variants][texts]`.
    pub scores: Vec<Vec<Score>>,
    /// The work; naive is one forward pass from the embedding for each variant.
    pub work: Work,
}

/// Divides texts into groups that go through the layers together within the working memory.
pub fn group_sizes<B: Backend>(model: &Model<B>, texts: &[Text], variants: usize, memory: u64) -> Vec<usize> {
    let (limits, d) = (model.backend().limits(), model.config().hidden);
    // A row in the layers, its copies where variants part, and what every variant leaves of it for the head.
    let row = model.row_bytes() as u64 + 4 * d as u64 * (variants as u64 + model.config().depth() as u64);
    let rows = (memory / 2 / row.max(1)).clamp(1, limits.rows as u64) as usize;
    let mut sizes: Vec<usize> = Vec::new();
    let mut sum = usize::MAX;
    for text in texts {
        match sizes.last_mut().filter(|_| sum.saturating_add(text.tokens.len()) <= rows) {
            Some(size) => *size += 1,
            None => {
                sizes.push(1);
                sum = 0;
            }
        }
        sum += text.tokens.len();
    }
    sizes
}

/// Evaluates variants on texts that go through the layers together; see [`group_sizes`].
///
/// # Errors
/// When the model refuses a text, or memory is refused.
pub fn evaluate<B: Backend>(
    model: &Model<B>,
    texts: &[Text],
    variants: &[Variant<'_, B>],
    reading: Reading,
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation, Error> {
    let group = Group::new(model, texts)?;
    let (leaves, mut macs) = streams(model, &group, variants, options.on_progress)?;
    let readout = Readout { model, group: &group, leaves: &leaves, reading };
    let at_once = readout.positions_at_once(options.memory);
    let scores = readout.read(at_once, texts.len(), &mut |more| {
        macs += more;
        (options.on_progress)(more);
    });
    let macs_naive =
        variants.iter().map(|v| texts.iter().map(|t| naive_macs(model, t, v)).sum::<u64>()).sum();
    let work =
        Work { edits: (variants.len() * texts.len()) as u64, runs: texts.len() as u64, macs, macs_naive };
    Ok(Evaluation { scores, work })
}

/// The stream that each variant leaves at the rows that predict, `[scored, d]`, and the multiply-adds.
fn streams<B: Backend>(
    model: &Model<B>,
    group: &Group<B>,
    variants: &[Variant<'_, B>],
    on_progress: &dyn Fn(u64),
) -> Result<(Vec<B::Buffer>, u64), Error> {
    let on = model.backend();
    let mut buffers = Buffers::new(model);
    buffers.reserve(model, group.positions.len())?;
    let leaves = variants.iter().map(|_| None).collect();
    let mut descent =
        Descent { model, group, variants, buffers, mid: on.empty(), leaves, macs: 0, on_progress };
    descent.descend(0, (0..variants.len()).collect(), on.buffer_of(&group.embedded));
    Ok((descent.leaves.into_iter().flatten().collect(), descent.macs))
}

/// Multiply-adds of [`evaluate`], counted beforehand for texts that share no beginnings.
pub fn count<B: Backend>(model: &Model<B>, texts: &[Text], variants: &[Variant<'_, B>]) -> u64 {
    // Attention depends on the length of a text, so texts of one length are counted once.
    let mut lengths: Vec<(usize, u64, u64)> = Vec::new();
    for text in texts {
        let scored = text.scored.len() as u64;
        match lengths.iter_mut().find(|l| l.0 == text.read().len()) {
            Some(length) => (length.1, length.2) = (length.1 + 1, length.2 + scored),
            None => lengths.push((text.read().len(), 1, scored)),
        }
    }
    let all: Vec<usize> = (0..variants.len()).collect();
    let of = |(rows, texts, scored): &(usize, u64, u64)| {
        texts * count_layers(model, 0, variants, all.clone(), *rows)
            + scored * variants.len() as u64 * model.head_macs_per_row()
    };
    lengths.iter().map(of).sum()
}

/// Multiply-adds of the layers from `first` on, for a text of `rows` tokens.
fn count_layers<B: Backend>(
    model: &Model<B>,
    first: usize,
    variants: &[Variant<'_, B>],
    mut alive: Vec<usize>,
    rows: usize,
) -> u64 {
    let mut macs = 0;
    for l in first..model.config().depth() {
        while let Some(others) = part(variants, l, &mut alive) {
            macs += count_layers(model, l, variants, others, rows);
        }
        let Some(one) = alive.first() else { break };
        macs += layer_macs(model, l, variants[*one].removal, 0..rows);
    }
    macs
}

/// The logits of a variant at every position of a text.
///
/// # Shapes
/// The result is `[T, V]`.
///
/// # Errors
/// As [`evaluate`].
pub fn logits<B: Backend>(
    model: &Model<B>,
    tokens: &[u32],
    variant: Variant<'_, B>,
) -> Result<Vec<f32>, Error> {
    let on = model.backend();
    let mut group = Group::new(model, &[Text { tokens: tokens.to_vec(), scored: 0..0 }])?;
    // No token is scored, but the stream of every row is wanted.
    let all = (0..tokens.len() as u32).map(|row| Scored { text: 0, row, token: 0 });
    group.scored.extend(all);
    let (leaves, _) = streams(model, &group, &[variant], &|_| ())?;
    let mut logits = on.empty();
    leaves.iter().for_each(|leaf| model.head(leaf, &mut logits));
    Ok(on.download(&logits, 0..on.len(&logits)))
}

/// Multiply-adds of one variant on one text alone.
pub(crate) fn naive_macs<B: Backend>(model: &Model<B>, text: &Text, variant: &Variant<'_, B>) -> u64 {
    let rows = text.read().len();
    let layers: u64 =
        (0..model.config().depth()).map(|l| layer_macs(model, l, variant.removal, 0..rows)).sum();
    layers + model.head_macs_per_row() * text.scored.len() as u64
}

/// Multiply-adds of what is left of layer `l`, for rows at some positions.
fn layer_macs<B: Backend>(
    model: &Model<B>,
    l: usize,
    removal: &Removal,
    positions: impl ExactSizeIterator<Item = usize>,
) -> u64 {
    let ([attention, mlp], rows) = (model.sublayer_sizes(l), positions.len() as u64);
    let mut macs = 0;
    if !removal.drops_attention(l) {
        macs += attention.macs * rows + positions.map(|p| model.attention_macs(l, p, p + 1)).sum::<u64>();
    }
    if !removal.drops_mlp(l) {
        macs += mlp.macs * rows;
    }
    macs
}

/// The pass through the layers.
struct Descent<'a, B: Backend> {
    model: &'a Model<B>,
    group: &'a Group<B>,
    variants: &'a [Variant<'a, B>],
    buffers: Buffers<B>,
    /// Scratch buffer.
    mid: B::Buffer,
    /// For each variant, the stream at the rows that predict, `[scored, d]`.
    leaves: Vec<Option<B::Buffer>>,
    macs: u64,
    on_progress: &'a dyn Fn(u64),
}

impl<B: Backend> Descent<'_, B> {
    /// Takes variants that have agreed so far from the stream before layer `first` to the end.
    fn descend(&mut self, first: usize, mut variants: Vec<usize>, mut h: B::Buffer) {
        let on = self.model.backend();
        let mut out = on.empty();
        for l in first..self.model.config().depth() {
            while let Some(others) = part(self.variants, l, &mut variants) {
                let copy = on.copy(&h, 0..on.len(&h));
                self.descend(l, others, copy);
            }
            if self.layer(l, variants[0], &h, &mut out) {
                std::mem::swap(&mut h, &mut out);
            }
        }
        let rows: Vec<u32> = self.group.scored.iter().map(|s| s.row).collect();
        for &variant in &variants {
            let mut leaf = on.empty();
            on.gather(self.model.config().hidden, &h, &rows, &mut leaf);
            self.leaves[variant] = Some(leaf);
        }
    }

    /// Runs what a variant keeps of layer `l`; whether that is anything.
    fn layer(&mut self, l: usize, variant: usize, h: &B::Buffer, out: &mut B::Buffer) -> bool {
        let (model, on, b) = (self.model, self.model.backend(), &mut self.buffers);
        let Variant { removal, down } = self.variants[variant];
        let (attention, mlp) = (!removal.drops_attention(l), !removal.drops_mlp(l));
        let down = down.filter(|(layer, _)| *layer == l).map(|(_, linear)| linear);
        let run_mlp = |x: &B::Buffer, b: &mut Buffers<B>| match down {
            Some(down) => model.mlp_through(l, down, x, b),
            None => model.mlp(l, x, b),
        };
        if attention {
            model.attention(l, &self.group.batch, None, h, b);
        }
        match (attention, mlp) {
            (true, true) => {
                on.add(h, &b.attn_out, &mut self.mid);
                run_mlp(if model.config().parallel { h } else { &self.mid }, b);
                on.add(&self.mid, &b.mlp_out, out);
            }
            (true, false) => on.add(h, &b.attn_out, out),
            (false, true) => {
                run_mlp(h, b);
                on.add(h, &b.mlp_out, out);
            }
            (false, false) => return false,
        }
        let macs = layer_macs(model, l, removal, self.group.positions.iter().copied());
        self.macs += macs;
        (self.on_progress)(macs);
        true
    }
}

/// Separates variants that treat layer `l` otherwise than the first does, those of one kind.
fn part<B: Backend>(all: &[Variant<'_, B>], l: usize, variants: &mut Vec<usize>) -> Option<Vec<usize>> {
    let kind = |v: &usize| {
        let Variant { removal, down } = &all[*v];
        let down = down.filter(|(layer, _)| *layer == l).map(|(_, linear)| std::ptr::from_ref(linear));
        (removal.drops_attention(l), removal.drops_mlp(l), down)
    };
    let own = kind(variants.first()?);
    let other = variants.iter().map(kind).find(|k| *k != own)?;
    let (others, same) = variants.iter().partition(|v| kind(v) == other);
    *variants = same;
    Some(others)
}

/// The head on what the variants leave.
struct Readout<'a, B: Backend> {
    model: &'a Model<B>,
    group: &'a Group<B>,
    leaves: &'a [B::Buffer],
    reading: Reading,
}

impl<B: Backend> Readout<'_, B> {
    /// Positions whose logits are held at a time.
    fn positions_at_once(&self, memory: u64) -> usize {
        let limits = self.model.backend().limits();
        let row = 4 * self.model.config().vocab as u64;
        let bytes = limits.logit_bytes.max(limits.logit_rows * row).min(memory / 4);
        (bytes / (row * self.leaves.len() as u64).max(1)).max(1) as usize
    }

    /// The scores, `[variants][texts]`.
    fn read(&self, at_once: usize, texts: usize, on_progress: &mut dyn FnMut(u64)) -> Vec<Vec<Score>> {
        let (on, d, vocab) = (self.model.backend(), self.model.config().hidden, self.model.config().vocab);
        let variants = self.leaves.len();
        let (mut rows, mut logits) = (on.empty(), on.empty());
        let mut numbers = Vec::new();
        for (chunk, scored) in self.group.scored.chunks(at_once).enumerate() {
            let count = scored.len();
            on.resize(&mut rows, count * variants * d);
            for (v, leaf) in self.leaves.iter().enumerate() {
                let part = on.copy(leaf, chunk * at_once * d..(chunk * at_once + count) * d);
                let to: Vec<u32> = (0..count).map(|i| (i * variants + v) as u32).collect();
                on.scatter(d, &part, &to, &mut rows);
            }
            self.model.head(&rows, &mut logits);
            let tokens: Vec<u32> =
                scored.iter().flat_map(|s| std::iter::repeat_n(s.token, variants)).collect();
            numbers.push(match self.reading {
                Reading::Loss => on.log_probabilities(vocab, &logits, &tokens),
                Reading::Comparison => on.lens(vocab, variants, &logits, &tokens),
            });
            on_progress(self.model.head_macs_per_row() * (count * variants) as u64);
        }
        let numbers = on.read(numbers).concat();
        let rows: Vec<Score> = match self.reading {
            Reading::Loss => numbers.iter().map(|log| Score { nll: -log, ..Score::default() }).collect(),
            Reading::Comparison => numbers.as_chunks().0.iter().map(compared).collect(),
        };
        let mut scores = vec![vec![Score::default(); texts]; variants];
        for (scored, rows) in self.group.scored.iter().zip(rows.chunks_exact(variants)) {
            for (scores, row) in scores.iter_mut().zip(rows) {
                let score = &mut scores[scored.text];
                score.nll += row.nll;
                score.kl += row.kl;
                score.agreements += row.agreements;
            }
        }
        scores
    }
}

/// The score of one token, from its row of [`Backend::lens`]: q is the last variant.
fn compared(&[_, kl_reverse, _, _, _, agrees, log]: &[f64; LENS_NUMBERS]) -> Score {
    Score { nll: -log, kl: kl_reverse, agreements: agrees }
}
