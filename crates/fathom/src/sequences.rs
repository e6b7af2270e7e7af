//! What is done to sequences before they are tokens.

use crate::error::invalid;
use crate::{Observer, Result};
use fathom_data::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// Which part of a long sequence is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// Its beginning.
    #[default]
    Start,
    /// A random window, the same in every run.
    Random,
}

impl Crop {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Start, Self::Random];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Random => "random",
        }
    }
}

/// What is done to every text of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sequences {
    pub(crate) max_residues: Option<usize>,
    pub(crate) crop: Crop,
    pub(crate) prefix: String,
    pub(crate) suffix: String,
}

impl Sequences {
    pub(crate) fn check(&self) -> Result<()> {
        match (self.max_residues, self.crop) {
            (Some(0), _) => invalid!("--max-residues: give at least 1"),
            (None, Crop::Random) => {
                invalid!("--crop is about sequences longer than --max-residues; give that too")
            }
            _ => Ok(()),
        }
    }

    /// The text as the model reads it. `seed` and the id of the text choose the window.
    pub(crate) fn apply<'t>(&self, text: &'t str, id: &str, seed: u64) -> Cow<'t, str> {
        let window = self.window(text, id, seed);
        match self.prefix.is_empty() && self.suffix.is_empty() {
            true => window,
            false => format!("{}{window}{}", self.prefix, self.suffix).into(),
        }
    }

    /// What tells whether two texts are the same to the model, whatever stands around them: the part that is kept, or,
    /// where windows are random and may overlap, the whole.
    pub(crate) fn identity<'t>(&self, text: &'t str, id: &str, seed: u64) -> Cow<'t, str> {
        match self.crop {
            Crop::Start => self.window(text, id, seed),
            Crop::Random => text.into(),
        }
    }

    fn window<'t>(&self, text: &'t str, id: &str, seed: u64) -> Cow<'t, str> {
        let Some(most) = self.max_residues else { return text.into() };
        let residues: Vec<char> = text.chars().collect();
        let kept = most.min(residues.len());
        let first = match self.crop {
            Crop::Start => 0,
            Crop::Random => {
                let hash = Sha256::digest(format!("{seed}/{id}"));
                let seed = hash.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
                let mut places: Vec<usize> = (0..=residues.len() - kept).collect();
                Rng::default().seeded(seed).shuffle(&mut places);
                places[0]
            }
        };
        residues[first..first + kept].iter().collect::<String>().into()
    }

    /// Warns that questions are left as they are, if texts are not.
    pub(crate) fn remark_on_questions(&self, what: &str, observer: &dyn Observer) {
        if *self != Self::default() {
            observer.warn(&format!(
                "{what} stay as they are: --max-residues, --prefix and --suffix are about texts alone; write such marks \
                 into the questions"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sequences_are_cropped_and_all_get_prefix_and_suffix() {
        let some = Sequences { max_residues: Some(3), prefix: "[A]".into(), ..Sequences::default() };
        assert_eq!(some.apply("MKTAY", "x", 1), "[A]MKT");
        assert_eq!(some.apply("MK", "x", 1), "[A]MK");
        let random =
            Sequences { crop: Crop::Random, prefix: String::new(), suffix: "!".into(), ..some.clone() };
        let windows: Vec<_> = (0..40).map(|seed| random.apply("MKTAY", "x", seed)).collect();
        assert!(["MKT!", "KTA!", "TAY!"].iter().all(|one| windows.iter().any(|window| window == one)));
        assert_eq!(random.apply("MKTAY", "x", 7), random.apply("MKTAY", "x", 7));
        assert_eq!(
            (some.identity("MKTAY", "x", 1), random.identity("MKTAY", "x", 1)),
            ("MKT".into(), "MKTAY".into())
        );
        assert!(Sequences { max_residues: None, ..random.clone() }.check().is_err());
        assert!(Sequences { max_residues: Some(0), ..random }.check().is_err());
    }
}
