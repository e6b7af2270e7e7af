//! Which layers, or which sublayers, are left out.

use fathom_results::SkipPart;
use std::fmt;
use std::ops::Range;

/// The layers that are left out, whole or only their attention or MLP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Removal {
    unit: SkipPart,
    layers: Vec<usize>,
}

/// Why a removal is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRemoval {
    /// The text is not a list of layers.
    #[error("'{0}' is not a list of layers; write 3,7 or half-open ranges such as 21..29")]
    Syntax(String),
    /// A layer is named twice.
    #[error("layer {0} is listed twice; ranges are half-open, so 3..5 and 5..7 do not overlap")]
    Twice(usize),
    /// The model does not have the layer.
    #[error("the model has layers 0 to {last}, not {layer}", last = depth.saturating_sub(1))]
    OutOfRange {
        /// The layer.
        layer: usize,
        /// The number of layers of the model.
        depth: usize,
    },
    /// Nothing would be left.
    #[error("all {0} layers would be removed; keep at least one")]
    Everything(usize),
}

impl Removal {
    /// A removal of layers, in any order.
    ///
    /// # Errors
    /// When a layer is listed twice.
    pub fn new(unit: SkipPart, layers: impl IntoIterator<Item = usize>) -> Result<Self, InvalidRemoval> {
        let mut layers: Vec<usize> = layers.into_iter().collect();
        layers.sort_unstable();
        match layers.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(InvalidRemoval::Twice(pair[0])),
            None => Ok(Self { unit, layers }),
        }
    }

    /// Nothing is removed.
    pub fn nothing(unit: SkipPart) -> Self {
        Self { unit, layers: Vec::new() }
    }

    /// A contiguous block.
    pub fn block(unit: SkipPart, block: Range<usize>) -> Self {
        Self { unit, layers: block.collect() }
    }

    /// Reads a list of layers and half-open ranges, such as `3,7,21..29`. A model has at most 2^14 layers, so larger
    /// numbers are refused here.
    ///
    /// # Errors
    /// When the text is not such a list, or a layer is listed twice.
    pub fn parse(unit: SkipPart, text: &str) -> Result<Self, InvalidRemoval> {
        const LAYERS: usize = 1 << 14;
        let syntax = || InvalidRemoval::Syntax(text.to_owned());
        let number = |word: &str| word.trim().parse().ok().filter(|n| *n <= LAYERS).ok_or_else(syntax);
        let mut layers: Vec<usize> = Vec::new();
        for word in text.split(',') {
            match word.split_once("..") {
                Some((from, to)) => {
                    let (from, to) = (number(from)?, number(to)?);
                    if from >= to {
                        return Err(syntax());
                    }
                    layers.extend(from..to);
                }
                None => layers.push(number(word)?),
            }
            if layers.len() > LAYERS {
                return Err(syntax());
            }
        }
        Self::new(unit, layers)
    }

    /// Checks the removal against a model of `depth` layers.
    ///
    /// # Errors
    /// When a layer does not exist, or no layer would be left.
    pub fn check(&self, depth: usize) -> Result<(), InvalidRemoval> {
        if let Some(layer) = self.layers.iter().find(|layer| **layer >= depth) {
            return Err(InvalidRemoval::OutOfRange { layer: *layer, depth });
        }
        match self.unit == SkipPart::Layer && self.layers.len() == depth {
            true => Err(InvalidRemoval::Everything(depth)),
            false => Ok(()),
        }
    }

    /// What of each layer is removed.
    pub fn unit(&self) -> SkipPart {
        self.unit
    }

    /// The layers, ascending.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The number of units removed.
    pub fn count(&self) -> usize {
        self.layers.len()
    }

    /// The removal with one unit more.
    #[must_use]
    pub fn with(&self, layer: usize) -> Self {
        let mut layers = self.layers.clone();
        if let Err(place) = layers.binary_search(&layer) {
            layers.insert(place, layer);
        }
        Self { unit: self.unit, layers }
    }

    /// Whether the attention of a layer is left out.
    pub fn drops_attention(&self, layer: usize) -> bool {
        self.unit != SkipPart::Mlp && self.contains(layer)
    }

    /// Whether the MLP of a layer is left out.
    pub fn drops_mlp(&self, layer: usize) -> bool {
        self.unit != SkipPart::Attn && self.contains(layer)
    }

    /// Whether the unit of a layer is removed.
    pub fn contains(&self, layer: usize) -> bool {
        self.layers.binary_search(&layer).is_ok()
    }

    /// The removed layers as half-open ranges, `[a, b)`.
    pub fn ranges(&self) -> Vec<[usize; 2]> {
        let mut ranges: Vec<[usize; 2]> = Vec::new();
        for &layer in &self.layers {
            match ranges.last_mut() {
                Some([_, end]) if *end == layer => *end += 1,
                _ => ranges.push([layer, layer + 1]),
            }
        }
        ranges
    }

    /// The removed block, if it is contiguous and not empty.
    pub fn as_block(&self) -> Option<Range<usize>> {
        match self.ranges()[..] {
            [[start, end]] => Some(start..end),
            _ => None,
        }
    }

    /// The layers of a model of `depth` layers that remain, ascending.
    pub fn kept(&self, depth: usize) -> Vec<usize> {
        (0..depth).filter(|layer| self.unit != SkipPart::Layer || !self.contains(*layer)).collect()
    }
}

/// As [`Removal::parse`] reads it: `3,7,21..29`.
impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, [start, end]) in self.ranges().into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match end - start {
                1 => write!(f, "{comma}{start}")?,
                _ => write!(f, "{comma}{start}..{end}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_alike() {
        let removal = Removal::parse(SkipPart::Layer, "7, 3,21..24,8").unwrap();
        assert_eq!(removal.layers(), [3, 7, 8, 21, 22, 23]);
        assert_eq!(removal.to_string(), "3,7..9,21..24");
        assert_eq!(Removal::parse(SkipPart::Layer, &removal.to_string()).unwrap(), removal);
        assert_eq!(removal.kept(10), [0, 1, 2, 4, 5, 6, 9]);
        assert_eq!(removal.as_block(), None);
        assert_eq!(Removal::block(SkipPart::Layer, 3..5).as_block(), Some(3..5));
    }

    #[track_caller]
    fn refused(text: &str, sentence: &str) {
        let removal = Removal::parse(SkipPart::Layer, text).and_then(|r| r.check(4));
        let message = removal.unwrap_err().to_string();
        assert!(message.contains(sentence), "{message}");
    }

    #[test]
    fn wrong_lists_are_refused() {
        refused("", "is not a list of layers");
        refused("3..3", "is not a list of layers");
        refused("5..3", "is not a list of layers");
        refused("0..99999999999", "is not a list of layers");
        refused("1..3,2", "layer 2 is listed twice");
        refused("2..5", "layers 0 to 3, not 4");
        refused("0..4", "all 4 layers would be removed");
    }

    #[test]
    fn units_are_what_is_dropped() {
        let attn = Removal::parse(SkipPart::Attn, "0..4").unwrap();
        attn.check(4).unwrap();
        assert!(attn.drops_attention(1) && !attn.drops_mlp(1));
        assert_eq!(attn.kept(4), [0, 1, 2, 3]);
    }
}
