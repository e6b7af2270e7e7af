//! The logits that requests read.

use super::edit::{EditSink, LogitReading};
use super::execute::Running;
use super::group::rows_at_once;
use fathom_model::Backend;

/// Rows whose logits are computed together. Its buffers serve one group after another.
pub(super) struct Slots<B: Backend> {
    /// Positions whose clean rows are needed, and the slot of each.
    clean: Vec<(u32, u32)>,
    /// Rows of the streams, and the slot of each.
    edited: Vec<(u32, u32)>,
    /// For each slot, the slot of the clean row of its position.
    references: Vec<u32>,
    /// Request, position and slot of each edited row.
    of: Vec<(usize, usize, usize)>,
    /// `[slots, d]`; reused.
    rows: B::Buffer,
    /// `[slots, V]`; reused.
    logits: B::Buffer,
}

impl<B: Backend> Slots<B> {
    pub(super) fn new(on: &B) -> Self {
        Self {
            clean: Vec::new(),
            edited: Vec::new(),
            references: Vec::new(),
            of: Vec::new(),
            rows: on.empty(),
            logits: on.empty(),
        }
    }

    fn len(&self) -> usize {
        self.references.len()
    }

    /// Adds the clean row of a position and edited rows, each a request and its row in the streams.
    fn push(&mut self, position: usize, readers: &[(usize, u32)]) {
        let clean = self.len() as u32;
        self.clean.push((position as u32, clean));
        self.references.push(clean);
        for (request, row) in readers {
            self.of.push((*request, position, self.len()));
            self.edited.push((*row, self.len() as u32));
            self.references.push(clean);
        }
    }

    fn clear(&mut self) {
        self.clean.clear();
        self.edited.clear();
        self.references.clear();
        self.of.clear();
    }
}

impl<B: Backend> Running<'_, B> {
    /// Computes the logits that requests read, position by position, so that the clean row of a position is
    /// computed once for all requests. Several positions share a product, because the head takes as long for a
    /// few rows as for a hundred.
    pub(super) fn head(&mut self, streams: &B::Buffer, slots: &mut Slots<B>, sink: &mut dyn EditSink) {
        let at_once = rows_at_once(self.model, self.exec.memory);
        for position in 0..self.trace.tokens.len() {
            for readers in self.readers(position).chunks(at_once) {
                if slots.len() + readers.len() > at_once {
                    self.flush(streams, slots, sink);
                }
                slots.push(position, readers);
            }
        }
        self.flush(streams, slots, sink);
    }

    /// The requests that read logits at a position, and their rows of the streams.
    fn readers(&self, position: usize) -> Vec<(usize, u32)> {
        let reads = |(request, _): &&(usize, usize)| self.requests[*request].logits.contains(position);
        let rows = self.group.leaves.iter().filter(reads).flat_map(|(request, leaf)| {
            let pieces = self.group.pieces(*leaf, &(position..position + 1));
            pieces.into_iter().map(|(node, _)| (*request, self.stream_row((node, position)) as u32))
        });
        rows.collect()
    }

    /// The token that is read of each row of logits.
    fn tokens_of(&self, slots: &Slots<B>, tokens: &mut [u32], sink: &dyn EditSink) {
        for (_, position, slot) in &slots.of {
            let token = sink.token(*position);
            tokens[*slot] = token;
            tokens[slots.references[*slot] as usize] = token;
        }
    }

    /// Computes the logits of the collected rows and what is read of them.
    fn flush(&mut self, streams: &B::Buffer, slots: &mut Slots<B>, sink: &mut dyn EditSink) {
        if slots.len() == 0 {
            return;
        }
        let (on, d, vocab) = (self.model.backend(), self.trace.hidden, self.model.config().vocab);
        let rows = slots.len();
        on.resize(&mut slots.rows, rows * d);
        let clean = &self.trace.resid[self.model.config().depth()];
        let mut part = on.empty();
        for (from, rows) in [(clean, &slots.clean), (streams, &slots.edited)] {
            let (rows, to): (Vec<u32>, Vec<u32>) = rows.iter().copied().unzip();
            on.gather(d, from, &rows, &mut part);
            on.scatter(d, &part, &to, &mut slots.rows);
        }
        self.model.head(&slots.rows, &mut slots.logits);
        self.macs += self.model.head_macs_per_row() * rows as u64;
        match sink.reading() {
            LogitReading::Distance => {
                let distances = on.distances(vocab, &slots.logits, &slots.references);
                self.readings.push_distances(slots.of.clone(), distances);
            }
            LogitReading::Probability => {
                let mut tokens = vec![0; rows];
                self.tokens_of(slots, &mut tokens, sink);
                let numbers = on.log_probabilities(vocab, &slots.logits, &tokens);
                let of = slots.of.iter().map(|(request, position, slot)| {
                    (*request, *position, [slots.references[*slot] as usize, *slot])
                });
                self.readings.push_probabilities(of.collect(), numbers);
            }
            LogitReading::Rows => {
                for (request, position, slot) in &slots.of {
                    let of_slot = |slot: usize| {
                        let row = on.download(&slots.logits, slot * vocab..(slot + 1) * vocab);
                        row.into_iter().map(f64::from)
                    };
                    let numbers = of_slot(slots.references[*slot] as usize).chain(of_slot(*slot));
                    sink.logits(*request, *position, &numbers.collect::<Vec<_>>());
                }
            }
        }
        slots.clear();
        self.report_progress();
    }
}
