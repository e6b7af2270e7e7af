//! Texts that go through the layers together, and which rows predict what.

use crate::Text;
use fathom_model::{Backend, Batch, Error, Model, Result, Run, Span};

/// The fewest common tokens for which two texts share rows.
const SHARED: usize = 8;

/// Some texts as one batch. A text that begins like an earlier one takes keys and values of what they have in common
/// from there, as the choices of a question do.
pub(crate) struct Group<B: Backend> {
    pub(crate) batch: Batch<B>,
    /// `[rows, d]`.
    pub(crate) embedded: Vec<f32>,
    /// The position of each row.
    pub(crate) positions: Vec<usize>,
    pub(crate) scored: Vec<Scored>,
}

/// A token whose prediction is scored.
#[derive(Clone, Copy)]
pub(crate) struct Scored {
    /// The text, counted in the group.
    pub(crate) text: usize,
    /// The row that predicts it.
    pub(crate) row: u32,
    pub(crate) token: u32,
}

/// Where the rows of a text are.
struct Place {
    text: usize,
    /// The row of position `own`, the first that is not shared.
    start: usize,
    own: usize,
    /// The row of position 0 of the text whose rows are shared.
    shared_start: usize,
}

impl Place {
    fn row(&self, position: usize) -> usize {
        match position < self.own {
            true => self.shared_start + position,
            false => self.start + position - self.own,
        }
    }
}

impl<B: Backend> Group<B> {
    pub(crate) fn new(model: &Model<B>, texts: &[Text]) -> Result<Self> {
        if model.config().has_side_inputs() {
            return Err(Error::InvalidInput(
                "layers that read the keys of other layers, or embeddings of their own, cannot be left out"
                    .into(),
            ));
        }
        let (mut embedded, mut positions, mut scored) = (Vec::new(), Vec::new(), Vec::new());
        let mut runs: Vec<Run> = Vec::new();
        // The last text with rows of its own from its first position on.
        let mut leader: Option<Place> = None;
        for (index, text) in texts.iter().enumerate() {
            let (start, length) = (positions.len(), text.read().len());
            let shared = leader.as_ref().map_or(0, |place| shared(model, &texts[place.text], text));
            let shared_start = leader.as_ref().map_or(0, |place| place.start);
            let place = Place { text: index, start, own: shared, shared_start };
            embedded.extend(model.embed(&text.read()[shared..], shared)?);
            positions.extend(shared..length);
            let past =
                if shared > 0 { vec![Span::Rows(shared_start..shared_start + shared)] } else { vec![] };
            runs.push(Run { rows: start..positions.len(), first: shared, length, past });
            scored.extend(text.scored.clone().map(|position| Scored {
                text: index,
                row: place.row(position - 1) as u32,
                token: text.tokens[position],
            }));
            if shared == 0 {
                leader = Some(place);
            }
        }
        Ok(Self { batch: model.batch(runs), embedded, positions, scored })
    }
}

/// The leading tokens of `text` whose rows are those of `leader`.
fn shared<B: Backend>(model: &Model<B>, leader: &Text, text: &Text) -> usize {
    let (leader, text) = (leader.read(), text.read());
    let common = leader.iter().zip(text).take_while(|(a, b)| a == b).count();
    // A run has at least one row of its own.
    let common = common.min(text.len().saturating_sub(1));
    let alike = model.shares_positions(leader.len(), text.len());
    if alike && common >= SHARED { common } else { 0 }
}
