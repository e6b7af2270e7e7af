//! New weights of a down projection in the form that the source stores.

use super::{ExportError, Job, Replacement};
use crate::linear::NotReplaceable;
use fathom_model::config::Mlp;

/// Refuses a replacement that does not fit the model.
pub(super) fn check(job: &Job<'_>, r: &Replacement) -> Result<(), ExportError> {
    let c = job.checkpoint.config();
    let refuse = |what: String| Err(ExportError::Replacement(what));
    if c.post_norm {
        return refuse(format!(
            "{} normalises what an MLP returns before it is added, so no weights of the down projection give a linear map of it; leave the replacement out",
            c.architecture
        ));
    }
    match c.layers.get(r.layer).map(|layer| layer.mlp) {
        Some(Mlp::Experts(_) | Mlp::DenseAndExperts(_)) => {
            return refuse(NotReplaceable::Experts(r.layer).to_string());
        }
        Some(Mlp::None) => return refuse(NotReplaceable::NoMlp(r.layer).to_string()),
        Some(Mlp::Dense) | None => {}
    }
    if job.places(r.layer).next().is_none() {
        return refuse(format!("layer {} does not remain in the model", r.layer));
    }
    if r.down.len() != c.hidden * c.intermediate {
        return refuse(format!(
            "it has {} weights where the down projection is [{}, {}]",
            r.down.len(),
            c.hidden,
            c.intermediate
        ));
    }
    let stored = job.checkpoint.down_projection(r.layer);
    match (&stored.bias, &r.bias) {
        (None, Some(_)) => {
            return refuse(format!("it has a bias, and the down projection '{}' has none", stored.weight));
        }
        (Some(name), None) => return refuse(format!("it has no bias in place of '{name}'")),
        (Some(name), Some(bias)) if bias.len() != c.hidden => {
            return refuse(format!("its bias has {} numbers where '{name}' has {}", bias.len(), c.hidden));
        }
        _ => {}
    }
    match r.down.iter().chain(r.bias.iter().flatten()).find(|x| !x.is_finite()) {
        Some(x) => refuse(format!("a weight is {x}")),
        None => Ok(()),
    }
}

/// What replaces a stored tensor.
pub(super) struct Replaced<'a> {
    /// The numbers, in the order of the forward pass.
    pub(super) numbers: &'a [f32],
    /// The matrix is stored `[inputs, outputs]` where it has this many outputs.
    pub(super) transposed: Option<usize>,
}

impl Replaced<'_> {
    /// The numbers in the order in which they are stored.
    pub(super) fn stored(&self) -> Vec<f32> {
        let Some(outputs) = self.transposed else { return self.numbers.to_vec() };
        let inputs = self.numbers.len() / outputs.max(1);
        let column = |i: usize| self.numbers[i..].iter().step_by(inputs).copied();
        (0..inputs).flat_map(column).collect()
    }
}

impl Job<'_> {
    /// What replaces the tensor of this name in the source.
    pub(super) fn replaced(&self, name: &str) -> Option<Replaced<'_>> {
        let r = self.replacement?;
        let stored = self.checkpoint.down_projection(r.layer);
        if stored.bias.as_deref() == Some(name) {
            return Some(Replaced { numbers: r.bias.as_deref()?, transposed: None });
        }
        let transposed = stored.transposed.then_some(self.checkpoint.config().hidden);
        (stored.weight == name).then_some(Replaced { numbers: &r.down, transposed })
    }
}
