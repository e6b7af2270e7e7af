//! What is reduced on the device to numbers.

use super::numbers::{Finish, Numbers, words};
use super::{Buffer, allocate, upload};
use crate::Gpu;
use crate::device::{Device, Kernel, word};
use fathom_kernels::backend::{CONTRIBUTION_SUMS, TOP};

/// Words that [`Kernel::Gram`] reads at a time, at most, unless a single row has more.
const GRAM_WORDS: usize = 1 << 24;

impl<D: Device> Gpu<D> {
    /// Launches a kernel that fills `words` words of new memory.
    pub(super) fn reduce(
        &self,
        kernel: Kernel,
        inputs: &[&D::Memory],
        work: usize,
        words: usize,
        parameters: &[u32],
    ) -> Numbers<D::Memory> {
        let out = allocate(self.device(), words);
        let mut buffers = inputs.to_vec();
        buffers.push(&out);
        self.launch(kernel, &buffers, work, parameters);
        Numbers::floats(out, words)
    }

    pub(super) fn are_finite(&self, buffers: &[&Buffer<D::Memory>]) -> bool {
        let flag = upload(self.device(), &[0]);
        for buffer in buffers {
            self.launch(Kernel::FindNotFinite, &[self.of(buffer), &flag], buffer.len, &[]);
        }
        self.device.read(&flag, 0..1) == [0]
    }

    pub(super) fn sums_of_contributions(
        &self,
        width: usize,
        parts: [&Buffer<D::Memory>; 3],
    ) -> Numbers<D::Memory> {
        assert!(parts.iter().all(|part| part.len == parts[0].len), "contributions need equal lengths");
        let rows = parts[0].len / width;
        let buffers = parts.map(|part| self.of(part));
        self.reduce(Kernel::ContributionSums, &buffers, rows, rows * CONTRIBUTION_SUMS, &[word(width)])
    }

    pub(super) fn products_of_levels(
        &self,
        width: usize,
        levels: &[&Buffer<D::Memory>],
    ) -> Numbers<D::Memory> {
        let n = levels.len();
        let rows = levels.first().map_or(0, |level| level.len / width);
        assert!(levels.iter().all(|level| level.len == rows * width), "levels need equal lengths");
        let at_once = (GRAM_WORDS / (n * width).max(1)).max(1);
        let parts = (0..rows).step_by(at_once).map(|first| {
            let some = first..(first + at_once).min(rows);
            let pairs = some.len() * n * (n + 1) / 2;
            let out = allocate(self.device(), pairs);
            let stacked = self.stack(width, levels, some);
            self.launch(Kernel::Gram, &[&stacked, &out], pairs, &[word(n), word(width)]);
            (out, pairs)
        });
        Numbers { parts: parts.collect(), finish: Finish::Floats }
    }

    /// Some rows of all levels, those of one row next to each other.
    fn stack(&self, width: usize, levels: &[&Buffer<D::Memory>], rows: std::ops::Range<usize>) -> D::Memory {
        let (n, count) = (levels.len(), rows.len());
        let stacked = allocate(self.device(), count * n * width);
        let part = allocate(self.device(), count * width);
        for (i, level) in levels.iter().enumerate() {
            let places: Vec<u32> = (0..count).map(|row| word(row * n + i)).collect();
            let places = upload(self.device(), &places);
            self.device.copy(self.of(level), words(rows.clone(), width), &part, 0);
            self.launch(Kernel::ScatterRows, &[&part, &places, &stacked], count * width, &[word(width)]);
        }
        stacked
    }

    pub(super) fn sums_of_changes(
        &self,
        width: usize,
        (added, rows): (&Buffer<D::Memory>, &[u32]),
        clean: [&Buffer<D::Memory>; 2],
        positions: &[u32],
    ) -> Numbers<D::Memory> {
        assert_eq!(rows.len(), positions.len(), "each row needs a clean one");
        let clean_rows = clean[0].len.min(clean[1].len) / width;
        let rows_of_added = self.indices(rows, added.len / width);
        let positions = self.indices(positions, clean_rows);
        let [attn, mlp] = clean.map(|part| self.of(part));
        let buffers = [self.of(added), &rows_of_added, attn, mlp, &positions];
        self.reduce(Kernel::ChangeSums, &buffers, rows.len(), rows.len() * 2, &[word(width)])
    }

    /// Maximum and normaliser of every row of logits.
    pub(super) fn log_sum_exp(&self, vocab: usize, logits: &Buffer<D::Memory>) -> D::Memory {
        assert_eq!(logits.len % vocab, 0, "logits must hold whole rows of {vocab}");
        let rows = logits.len / vocab;
        let stats = allocate(self.device(), rows * 2);
        self.launch(Kernel::LogSumExp, &[self.of(logits), &stats], rows, &[word(vocab)]);
        stats
    }

    pub(super) fn compare_levels(
        &self,
        vocab: usize,
        levels: usize,
        logits: &Buffer<D::Memory>,
        tokens: &[u32],
    ) -> Numbers<D::Memory> {
        let rows = logits.len / vocab;
        assert!(levels > 0 && rows.is_multiple_of(levels), "logits must hold whole groups of {levels} rows");
        let stats = self.log_sum_exp(vocab, logits);
        let (picked, _) = self.pick(vocab, logits, &stats, tokens);
        let logits = self.of(logits);
        let (divergences, top) = (allocate(self.device(), rows * 4), allocate(self.device(), rows * TOP));
        let parameters = [word(vocab), word(levels)];
        self.launch(Kernel::Divergences, &[logits, &stats, &divergences], rows, &parameters);
        self.launch(Kernel::Top, &[logits, &top], rows, &[word(vocab)]);
        let mut parts = vec![(divergences, rows * 4), (top, rows * TOP)];
        parts.extend(picked.parts);
        Numbers { parts, finish: Finish::Lens { levels } }
    }

    /// The log-probabilities of tokens, given the statistics of the rows, and the tokens on the device.
    pub(super) fn pick(
        &self,
        vocab: usize,
        logits: &Buffer<D::Memory>,
        stats: &D::Memory,
        tokens: &[u32],
    ) -> (Numbers<D::Memory>, D::Memory) {
        assert_eq!(logits.len, tokens.len() * vocab, "logits must hold a row per token");
        let rows = tokens.len();
        let tokens = self.indices(tokens, vocab);
        let buffers = [self.of(logits), stats, &tokens];
        (self.reduce(Kernel::Pick, &buffers, rows, rows, &[word(vocab)]), tokens)
    }

    pub(super) fn gradients_of_probabilities(
        &self,
        vocab: usize,
        tokens: &[u32],
        cap: Option<f32>,
        logits: &Buffer<D::Memory>,
    ) -> Numbers<D::Memory> {
        let stats = self.log_sum_exp(vocab, logits);
        let (mut picked, device_tokens) = self.pick(vocab, logits, &stats, tokens);
        picked.finish = Finish::Exponentials;
        let parameters = [word(vocab), u32::from(cap.is_some()), cap.unwrap_or(1.0).to_bits()];
        let buffers = [&stats, &device_tokens, self.of(logits)];
        self.launch(Kernel::ProbabilityBackward, &buffers, tokens.len(), &parameters);
        picked
    }
}
