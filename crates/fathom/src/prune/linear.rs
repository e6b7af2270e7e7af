//! Linear maps that replace contiguous blocks.

use super::candidates::{Chosen, Replacement};
use super::execute::Job;
use crate::error::invalid;
use crate::{Error, Result};
use fathom_model::Backend;
use fathom_results::{LinearMap, Work};
use fathom_surgery::linear::{Fit, Fitted};
use fathom_surgery::{Removal, export};

/// The stage in results.
pub(super) const FIT: &str = "fit";

impl<B: Backend> Job<'_, B> {
    /// Fits a map for every contiguous block among the candidates. `None` when cancelled.
    pub(super) fn replacements(&self, chosen: &[Chosen]) -> Result<Option<(Vec<Replacement<B>>, Work)>> {
        let mut blocks: Vec<&Removal> = Vec::new();
        for removal in chosen.iter().map(|c| &c.removal) {
            let fits = removal.as_block().is_some_and(|block| block.start > 0);
            if fits && !blocks.contains(&removal) {
                blocks.push(removal);
            }
        }
        if blocks.is_empty() {
            invalid!(
                "--replace linear needs a contiguous block that does not begin at layer 0, and no method chose one; add \
                 the method block or angular"
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
                all.push(self.merge((*removal).clone(), &fit.solve().map_err(refuse)?)?);
            }
        }
        Ok(Some((all, work)))
    }

    /// Merges a map into the down projection, as an export stores it.
    fn merge(&self, removal: Removal, fitted: &Fitted) -> Result<Replacement<B>> {
        let stored = self.loaded.down_projection(fitted.layer)?;
        let down = export::as_stored(&self.loaded.weights, fitted.merged(&stored));
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
