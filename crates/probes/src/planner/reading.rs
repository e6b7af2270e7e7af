//! Numbers that requests read, on their way from the device.

use super::edit::EditSink;
use crate::vector::SMALLEST;
use fathom_model::Backend;

/// What some numbers are read for.
enum Of {
    /// The change of a layer's contribution: the layer, then request and position of each pair of sums.
    Added(usize, Vec<(usize, usize)>),
    /// Logits: request, position and index among the numbers.
    Distances(Vec<(usize, usize, usize)>),
    /// Log-probabilities: request, position, and the indices of the clean and the edited one.
    Probabilities(Vec<(usize, usize, [usize; 2])>),
}

/// Numbers that have not been delivered.
pub(super) struct Readings<B: Backend> {
    of: Vec<Of>,
    numbers: Vec<B::Numbers>,
}

impl<B: Backend> Default for Readings<B> {
    fn default() -> Self {
        Self { of: Vec::new(), numbers: Vec::new() }
    }
}

impl<B: Backend> Readings<B> {
    /// Keeps the sums of [`Backend::change_sums`] for requests and positions.
    pub(super) fn push_added(&mut self, layer: usize, of: Vec<(usize, usize)>, sums: B::Numbers) {
        self.of.push(Of::Added(layer, of));
        self.numbers.push(sums);
    }

    /// Keeps distances of distributions for requests, positions and indices among them.
    pub(super) fn push_distances(&mut self, of: Vec<(usize, usize, usize)>, distances: B::Numbers) {
        self.of.push(Of::Distances(of));
        self.numbers.push(distances);
    }

    /// Keeps log-probabilities of rows for requests, positions and the indices of the clean and the edited row.
    pub(super) fn push_probabilities(&mut self, of: Vec<(usize, usize, [usize; 2])>, numbers: B::Numbers) {
        self.of.push(Of::Probabilities(of));
        self.numbers.push(numbers);
    }

    /// Passes everything to the sink.
    pub(super) fn deliver(&mut self, on: &B, sink: &mut dyn EditSink) {
        let all = on.read(std::mem::take(&mut self.numbers));
        for (of, numbers) in self.of.drain(..).zip(all) {
            match of {
                Of::Added(layer, of) => deliver_added(layer, &of, &numbers, sink),
                Of::Probabilities(of) => of.iter().for_each(|(request, position, pair)| {
                    sink.logits(*request, *position, &pair.map(|i| numbers[i].exp()));
                }),
                Of::Distances(of) => {
                    of.iter()
                        .for_each(|(request, position, i)| sink.logits(*request, *position, &[numbers[*i]]));
                }
            }
        }
    }
}

/// Passes on the changes of consecutive positions of a request together.
fn deliver_added(layer: usize, of: &[(usize, usize)], sums: &[f64], sink: &mut dyn EditSink) {
    let changes: Vec<f64> =
        sums.as_chunks::<2>().0.iter().map(|[gap, clean]| gap.sqrt() / clean.sqrt().max(SMALLEST)).collect();
    let mut rest = &changes[..];
    for part in of.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1) {
        let (of_part, later) = rest.split_at(part.len());
        let (request, first) = part[0];
        sink.added(request, layer, first..first + part.len(), of_part);
        rest = later;
    }
}
