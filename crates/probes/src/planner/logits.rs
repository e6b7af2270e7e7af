//! The logits that requests read.

use super::edit::EditSink;
use super::execute::Running;
use super::group::rows_at_once;
use fathom_kernels::Buffer;

/// Rows whose logits are computed together.
#[derive(Default)]
struct Readings {
    /// Positions and the requests that read there; the clean row of a position comes first.
    of: Vec<(usize, Vec<usize>)>,
    /// `[rows, d]`.
    rows: Vec<f32>,
    /// `[rows, V]`; reused.
    logits: Buffer,
}

impl Running<'_> {
    /// Computes the logits that requests read, position by position, so that the clean row of a position is
    /// computed once for all requests. Several positions share a product, because the head takes as long for a
    /// few rows as for a hundred.
    pub(super) fn head(&mut self, streams: &[Vec<f32>], sink: &mut dyn EditSink) {
        let d = self.trace.hidden;
        let at_once = rows_at_once(self.model, self.exec.memory);
        let mut read = Readings::default();
        for position in 0..self.trace.tokens.len() {
            let (readers, rows) = self.readers(streams, position);
            for (requests, edited) in readers.chunks(at_once).zip(rows.chunks(at_once * d)) {
                if read.rows.len() / d + requests.len() > at_once {
                    self.flush(&mut read, sink);
                }
                let clean = &self.trace.resid[self.model.config().depth()][position * d..(position + 1) * d];
                read.rows.extend_from_slice(clean);
                read.rows.extend_from_slice(edited);
                read.of.push((position, requests.to_vec()));
            }
        }
        self.flush(&mut read, sink);
    }

    /// The requests that read logits at a position, and their rows of the stream, `[requests, d]`.
    fn readers(&self, streams: &[Vec<f32>], position: usize) -> (Vec<usize>, Vec<f32>) {
        let d = self.trace.hidden;
        let (mut readers, mut rows) = (Vec::new(), Vec::new());
        for (request, leaf) in &self.group.leaves {
            if !self.requests[*request].logits.contains(&position) {
                continue;
            }
            for (node, _) in self.group.pieces(*leaf, &(position..position + 1)) {
                let at = (position - self.group.nodes[node].positions.start) * d;
                rows.extend_from_slice(&streams[node][at..at + d]);
                readers.push(*request);
            }
        }
        (readers, rows)
    }

    /// Computes the logits of the collected rows and passes them on.
    fn flush(&mut self, read: &mut Readings, sink: &mut dyn EditSink) {
        let vocab = self.model.config().vocab;
        let rows = read.rows.len() / self.trace.hidden;
        read.logits.resize(rows * vocab);
        self.model.head(&read.rows, &mut read.logits);
        self.macs += self.model.head_macs_per_row() * rows as u64;
        let mut logits = &read.logits[..];
        for (position, requests) in read.of.drain(..) {
            let (clean, rest) = logits.split_at(vocab);
            let (edited, rest) = rest.split_at(requests.len() * vocab);
            sink.logits(position, clean, &requests, edited);
            logits = rest;
        }
        read.rows.clear();
        self.report_progress();
    }
}
