//! Linear maps that replace contiguous blocks.

use super::candidates::{Chosen, Replacement};
use super::job::Job;
use crate::{Error, Result};
use fathom_model::Backend;
use fathom_results::{LinearMap, PruneMethod, Work};
use fathom_surgery::Removal;
use fathom_surgery::linear::{Fit, Fitted};
use half::{bf16, f16};

/// The stage in results.
pub(super) const FIT: &str = "fit";

impl<B: Backend> Job<'_, B> {
    /// Fits a map for every block that a method which looks for blocks has chosen. `None` when cancelled.
    pub(super) fn replacements(&self, chosen: &[Chosen]) -> Result<Option<(Vec<Replacement<B>>, Work)>> {
        let mut blocks: Vec<&Removal> = Vec::new();
        let contiguous = [PruneMethod::Angular, PruneMethod::Block, PruneMethod::Layers];
        for removal in chosen.iter().filter(|c| contiguous.contains(&c.method)).map(|c| &c.removal) {
            let fits = removal.as_block().is_some_and(|block| block.start > 0);
            if fits && !blocks.contains(&removal) {
                blocks.push(removal);
            }
        }
        if blocks.is_empty() {
            self.observer.warn(
                "no contiguous block that begins after layer 0 was chosen, so no linear map replaces one; the methods \
                 block and angular choose blocks",
            );
        }
        // Every fit holds matrices in f64.
        let at_once = (self.memory / 2 / Fit::bytes(self.model().config().hidden)).max(1) as usize;
        let (mut all, mut work) = (Vec::new(), Work::default());
        for blocks in blocks.chunks(at_once) {
            let refuse = |e| Error::Invalid(format!("--replace linear: {e}"));
            let fit = |removal: &&Removal| Fit::new(self.model(), removal.as_block().unwrap_or_default());
            let mut fits = blocks.iter().map(fit).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
            let mut add = |trace: &_| fits.iter_mut().for_each(|fit| fit.add(self.model().backend(), trace));
            let Some(more) = self.each_trace("fitting linear maps", &mut add)? else { return Ok(None) };
            work += more;
            for (fit, removal) in fits.iter().zip(blocks) {
                match fit.solve() {
                    Ok(fitted) => all.push(self.merge((*removal).clone(), &fitted)?),
                    Err(why) => self.observer.warn(&format!(
                        "layers {removal} are measured without a linear map in their place: {why}"
                    )),
                }
            }
        }
        Ok(Some((all, work)))
    }

    /// Merges a map into the down projection, as an export stores it.
    fn merge(&self, removal: Removal, fitted: &Fitted) -> Result<Replacement<B>> {
        let stored = self.loaded.down_projection(fitted.layer)?;
        let gguf = self.is_gguf();
        let mut down = fitted.merged(&stored);
        round(&mut down.weight, if gguf { Stored::F16 } else { Stored::of(&stored.weight) });
        if let (Some(bias), Some(stored), false) = (&mut down.bias, &stored.bias, gguf) {
            round(bias, Stored::of(stored));
        }
        let packed = self.model().pack_down(&down)?;
        let about = LinearMap {
            layer: fitted.layer,
            penalty: fitted.penalty,
            error: fitted.error,
            error_without: fitted.error_without,
        };
        Ok(Replacement { removal, about, down, packed })
    }
}

/// The type in which an export stores new weights: in GGUF half precision, elsewhere that of the weights they replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    /// The smallest type that holds all numbers.
    fn of(numbers: &[f32]) -> Self {
        if numbers.iter().all(|x| bf16::from_f32(*x).to_f32() == *x) {
            Self::Bf16
        } else if numbers.iter().all(|x| f16::from_f32(*x).to_f32() == *x) {
            Self::F16
        } else {
            Self::F32
        }
    }
}

/// Rounds numbers as they will be stored, so that what is measured is what is exported. Numbers that half precision
/// cannot hold are stored in full.
fn round(numbers: &mut [f32], to: Stored) {
    match to {
        Stored::F32 => {}
        Stored::Bf16 => numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        Stored::F16 if numbers.iter().all(|x| f16::from_f32(*x).is_finite()) => {
            numbers.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        Stored::F16 => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_as_they_are_stored() {
        assert_eq!(Stored::of(&[1.0, 2f32.powi(100)]), Stored::Bf16);
        assert_eq!(Stored::of(&[1.0, 1.0 + 1.0 / 1024.0]), Stored::F16);
        assert_eq!(Stored::of(&[0.1]), Stored::F32);
        let rounded = |to, mut numbers: Vec<f32>| {
            round(&mut numbers, to);
            numbers
        };
        assert_eq!(rounded(Stored::Bf16, vec![1.001]), [1.0]);
        assert_eq!(rounded(Stored::F16, vec![1.0001]), [1.0]);
        assert_eq!(rounded(Stored::F16, vec![1.0001, 1e6]), [1.0001, 1e6]);
    }
}
