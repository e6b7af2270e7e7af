//! Models with more layers, made of the layers of a model without training it.
//!
//! A [`Recipe`] says which layers the grown model has, [`Grower`] makes what is new of them, and
//! [`Growth`](crate::export::Growth) writes the model.

mod lesa;
mod network;
mod recipe;
mod spectrum;

use crate::export::{Change, ExportError, GrownLayer, layer_of};
use fathom_model::source::Checkpoint;
use fathom_model::weights::{StoredTensor, StoredType};
use fathom_results::{GrowMethod, GrowNetwork, LayerOrigin};
pub use lesa::LesaOptions;
use lesa::{Failed, Stack};
pub use recipe::{InvalidRecipe, Recipe};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// The weights of norms of a new layer between two others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewNorms {
    /// The mean of both.
    #[default]
    Mean,
    /// Those of layer 0, as the published code of lesa has it.
    First,
}

/// Why new layers cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrowthError {
    /// The method has no form for this model.
    #[error("{0}")]
    Unsupported(String),
    /// The weights cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Progress ended it.
    #[error("the making of new layers was ended")]
    Cancelled,
}

/// Makes the layers of a grown model.
pub struct Grower<'a> {
    checkpoint: &'a Checkpoint,
    method: GrowMethod,
    origins: &'a [LayerOrigin],
    /// The tensors of each layer, by their names behind its number.
    tensors: Vec<BTreeMap<&'a str, StoredTensor<'a>>>,
    norms: NewNorms,
    lesa: LesaOptions,
}

impl<'a> Grower<'a> {
    /// Looks for the tensors of the source.
    ///
    /// # Errors
    /// When new layers between neighbours cannot be made of the source: it has experts, tensors that differ from layer to
    /// layer, 8-bit floats that need scales of their own, or, for lesa, matrices that are fused.
    pub fn new(
        checkpoint: &'a Checkpoint,
        recipe: &Recipe,
        origins: &'a [LayerOrigin],
        norms: NewNorms,
        lesa: LesaOptions,
    ) -> Result<Self, GrowthError> {
        let prefix = checkpoint.layer_prefix();
        let mut tensors = vec![BTreeMap::new(); checkpoint.config().depth()];
        for tensor in checkpoint.weights().stored() {
            let Some((layer, rest)) = layer_of(prefix, tensor.name) else { continue };
            if let Some(tensors) = tensors.get_mut(layer) {
                tensors.insert(rest, tensor);
            }
        }
        let grower = Self { checkpoint, method: recipe.method, origins, tensors, norms, lesa };
        grower.check()?;
        Ok(grower)
    }

    /// The pairs of neighbours that new layers are made of.
    fn pairs(&self) -> impl Iterator<Item = [usize; 2]> {
        self.origins.iter().filter_map(|origin| match *origin {
            LayerOrigin::Mean { layers } | LayerOrigin::Predicted { layers } => Some(layers),
            LayerOrigin::Copy { .. } | LayerOrigin::Silent { .. } => None,
        })
    }

    fn check(&self) -> Result<(), GrowthError> {
        let name = self.method.name();
        let fail = |what: String| Err(GrowthError::Unsupported(format!("{name}: {what}")));
        let layers = &self.checkpoint.config().layers;
        for pair in self.pairs() {
            if let Some(layer) = pair.iter().find(|layer| layers[**layer].mlp.experts().is_some()) {
                return fail(format!(
                    "layer {layer} has experts, which do not correspond from layer to layer; grow by copies (solar, \
                     llama-pro, midas, lidas)"
                ));
            }
            self.check_alike(pair).or_else(|what| fail(format!("{what}{}", self.other_places())))?;
        }
        if self.method != GrowMethod::Lesa {
            return Ok(());
        }
        if let Some(fused) = self.checkpoint.fused_matrix() {
            return fail(format!(
                "'{fused}' holds several matrices in one or is stored transposed, which is not supported; use interpolate, \
                 or grow by copies"
            ));
        }
        match layers.len() {
            0..3 => {
                fail("the network learns from a layer between two others; the model has too few".to_owned())
            }
            depth => (1..depth).try_for_each(|layer| self.check_alike([0, layer])).or_else(fail),
        }
    }

    /// How to choose neighbours of one kind, where layers are of more than one.
    fn other_places(&self) -> &'static str {
        let c = self.checkpoint.config();
        let alike = |pair: [usize; 2]| c.layers[pair[0]].mixer == c.layers[pair[1]].mixer;
        match (1..c.depth()).any(|l| alike([l - 1, l])) && (1..c.depth()).any(|l| !alike([l - 1, l])) {
            true => ", or give with --insert layers whose next one mixes positions in the same way",
            false => "",
        }
    }

    /// Whether two layers have the same tensors; says what differs.
    fn check_alike(&self, [one, other]: [usize; 2]) -> Result<(), String> {
        let (a, b) = (&self.tensors[one], &self.tensors[other]);
        let names = a.keys().chain(b.keys());
        for name in names {
            match (a.get(name), b.get(name)) {
                (Some(a), Some(b)) if a.shape == b.shape => {}
                (Some(_), Some(_)) => {
                    return Err(format!(
                        "'{name}' has other shapes in layers {one} and {other}; grow by copies"
                    ));
                }
                _ => return Err(format!("layers {one} and {other} differ in '{name}'; grow by copies")),
            }
        }
        let is_fp8 = |t: &&StoredTensor<'_>| t.kind == StoredType::Plain(Dtype::F8_E4M3);
        match a.values().find(is_fp8) {
            Some(tensor) => Err(format!(
                "'{}' is stored in 8-bit floats, which need scales of their own; use the model in bfloat16, or grow by \
                 copies (solar, llama-pro, midas, lidas)",
                tensor.name
            )),
            None => Ok(()),
        }
    }

    /// Multiply-adds of [`make`](Self::make).
    pub fn macs(&self) -> u64 {
        let (depth, new) = (self.tensors.len(), self.pairs().count());
        self.matrices().map(|(_, shape)| lesa::macs(shape, depth, new, self.lesa.epochs)).sum()
    }

    /// Bytes of [`make`](Self::make) and of what it returns.
    pub fn bytes(&self) -> u64 {
        let (depth, new) = (self.tensors.len(), self.pairs().count());
        let made: usize = self.matrices().map(|(_, [d1, d2])| 4 * d1 * d2 * new).sum();
        made as u64 + self.matrices().map(|(_, shape)| lesa::bytes(shape, depth)).max().unwrap_or(0)
    }

    /// The matrices that lesa predicts.
    fn matrices(&self) -> impl Iterator<Item = (&'a str, [usize; 2])> {
        let first = self.tensors.first().filter(|_| self.method == GrowMethod::Lesa);
        first.into_iter().flatten().filter_map(|(name, tensor)| match *tensor.shape {
            [d1, d2] if !is_norm(name) && !self.is_constant(name) => Some((*name, [d1, d2])),
            _ => None,
        })
    }

    /// Whether a tensor is the same in all layers.
    fn is_constant(&self, name: &str) -> bool {
        let first = self.tensors[0].get(name).map(|tensor| tensor.bytes);
        self.tensors.iter().all(|layer| layer.get(name).map(|tensor| tensor.bytes) == first)
    }

    /// Makes the layers. `progress` receives multiply-adds as they are done, and says whether to go on.
    ///
    /// # Errors
    /// When weights cannot be read, a network diverges, or `progress` ends it.
    pub fn make(
        &self,
        progress: &dyn Fn(u64) -> bool,
    ) -> Result<(Vec<GrownLayer>, Vec<GrowNetwork>), GrowthError> {
        let mut layers: Vec<GrownLayer> = self.origins.iter().map(|origin| self.layer(*origin)).collect();
        let pairs: Vec<[usize; 2]> = self.pairs().collect();
        let mut networks = Vec::new();
        for (name, shape) in self.matrices() {
            let read = |layer: usize| self.read(layer, name);
            let stack = Stack { name, shape, layers: self.tensors.len(), read: &read };
            let (made, network) =
                stack.predict(&pairs, &self.lesa, progress).map_err(|error| match error {
                    Failed::Read(error) => error.into(),
                    Failed::Cancelled => GrowthError::Cancelled,
                    other => GrowthError::Unsupported(format!("{}: {other}", self.method.name())),
                })?;
            self.checkpoint.weights().release();
            let predicted = |origin: &LayerOrigin| matches!(origin, LayerOrigin::Predicted { .. });
            let new = layers.iter_mut().zip(self.origins).filter(|(_, origin)| predicted(origin));
            for ((layer, _), numbers) in new.zip(made) {
                let tensor = self.tensors[layer.from][name].name.to_owned();
                layer.changes.insert(tensor, Change::Numbers(numbers));
            }
            networks.push(network);
        }
        Ok((layers, networks))
    }

    /// A layer, without what lesa predicts.
    fn layer(&self, origin: LayerOrigin) -> GrownLayer {
        let from = origin.source();
        let changes = match origin {
            LayerOrigin::Copy { .. } => BTreeMap::new(),
            LayerOrigin::Silent { layer } => {
                let zeros = self.checkpoint.output_tensors(layer);
                zeros.into_iter().map(|name| (name, Change::Zeros)).collect()
            }
            LayerOrigin::Mean { layers } | LayerOrigin::Predicted { layers } => self.means(layers),
        };
        GrownLayer { from, changes }
    }

    /// The tensors of a layer between two others as means. What is equal in both stays as it is: masks and frequencies.
    fn means(&self, [one, other]: [usize; 2]) -> BTreeMap<String, Change> {
        let (a, b) = (&self.tensors[one], &self.tensors[other]);
        let mean = |(name, tensor): (&&str, &StoredTensor<'_>)| {
            let first = self.norms == NewNorms::First && is_norm(name);
            let of = if first { [0, 0] } else { [one, other] };
            let same = !first && b.get(name).is_some_and(|other| other.bytes == tensor.bytes);
            (!same).then(|| (tensor.name.to_owned(), Change::Mean(of)))
        };
        a.iter().filter_map(mean).collect()
    }

    fn read(&self, layer: usize, name: &str) -> Result<Vec<f32>, ExportError> {
        let stored = &self.tensors[layer][name];
        let tensor = self.checkpoint.weights().tensor(stored.name, stored.shape)?;
        let (rows, width) = tensor.size();
        let mut numbers = vec![0.0; rows * width];
        tensor.read(0..rows, &mut numbers)?;
        Ok(numbers)
    }
}

/// Whether a tensor of a layer is of a norm, by its name.
fn is_norm(name: &str) -> bool {
    name.contains("norm") || name.contains(".ln_") || name.contains("layer_norm")
}
