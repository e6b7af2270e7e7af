//! What the output loses when layers run in another order (arXiv 2406.19384, 2407.09298).

use crate::null;
use serde::{Deserialize, Serialize};

/// The probe on one prompt, means over its tokens, or over all prompts. Every intervention is on whole layers at all
/// positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Layer l is left out, `[L]`.
    pub skip: OrderEffects,
    /// Layers l and l + 1 change places, `[L - 1]`.
    pub swap: OrderEffects,
    /// Layers l, l + 1 and l + 2 run in reverse order, `[L - 2]`.
    pub reverse: OrderEffects,
    /// The first layer n of each middle, which is layers n to L - n - 1: 1, 2, .. while two layers are left.
    pub middle_from: Vec<usize>,
    /// The middle runs in reverse order, `[middle_from]`.
    pub middle_reverse: OrderEffects,
    /// The layer in the middle of the middle runs in place of each of its layers, `[middle_from]`.
    pub middle_repeat: OrderEffects,
    /// The layers of the middle run in parallel: all read the same stream, and the mean of what they return goes on,
    /// `[middle_from]`.
    pub middle_parallel: OrderEffects,
}

/// What an intervention does to the output, one element an intervention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderEffects {
    /// `KL(output || output after the intervention)` per token, in nats.
    #[serde(deserialize_with = "null::numbers")]
    pub kl: Vec<f64>,
    /// The share of tokens at which both predict the same.
    #[serde(deserialize_with = "null::numbers")]
    pub top1_agreement: Vec<f64>,
    /// The loss after the intervention, in nats per token; empty for texts of one token.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub nll: Vec<f64>,
}

impl Order {
    /// The families of interventions by name, in the order of results.
    pub fn families(&self) -> [(&'static str, &OrderEffects); 6] {
        [
            ("skip", &self.skip),
            ("swap", &self.swap),
            ("reverse", &self.reverse),
            ("middle_reverse", &self.middle_reverse),
            ("middle_repeat", &self.middle_repeat),
            ("middle_parallel", &self.middle_parallel),
        ]
    }

    /// The same, to be changed.
    pub fn families_mut(&mut self) -> [&mut OrderEffects; 6] {
        [
            &mut self.skip,
            &mut self.swap,
            &mut self.reverse,
            &mut self.middle_reverse,
            &mut self.middle_repeat,
            &mut self.middle_parallel,
        ]
    }
}
