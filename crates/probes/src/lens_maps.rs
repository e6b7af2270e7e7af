//! Affine maps that the residual stream goes through before the lens.

use fathom_model::{Backend, Dtype, Error, Model};

/// An affine map of the stream at one level to that at the last, as a linear layer of the model's back end.
pub struct LevelMap<B: Backend>(B::Linear);

impl<B: Backend> LevelMap<B> {
    /// Packs `x A + b`.
    ///
    /// # Shapes
    /// `transposed [d, d]`, row-major, is A transposed, the weights of a linear layer; `bias [d]`.
    ///
    /// # Errors
    /// When the device refuses the memory.
    ///
    /// # Panics
    /// When the weights are not of the model's width.
    pub fn pack(model: &Model<B>, transposed: &[f64], bias: &[f64]) -> Result<Self, Error> {
        let d = model.config().hidden;
        assert_eq!(transposed.len(), d * d, "a map is [d, d]");
        let bias = bias.iter().map(|b| *b as f32).collect();
        let packed = model.backend().pack(d, d, Dtype::F32, Some(bias), |rows, to| {
            let from = &transposed[rows.start * d..rows.end * d];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
            Ok::<_, Error>(())
        })?;
        Ok(Self(packed))
    }

    /// Maps rows.
    ///
    /// # Shapes
    /// `x [rows, d]`, `out [rows, d]`.
    pub fn apply(&self, on: &B, x: &B::Buffer, out: &mut B::Buffer) {
        on.linear(&self.0, x, out);
    }
}

/// The maps of a lens, by level. A level without one, and the last, are read as they are: the logit lens.
pub struct LensMaps<B: Backend>(Vec<Option<LevelMap<B>>>);

impl<B: Backend> LensMaps<B> {
    /// The logit lens.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Maps of the first levels, of which there are at most L.
    pub fn new(maps: Vec<Option<LevelMap<B>>>) -> Self {
        Self(maps)
    }

    /// The map of a level, if it has one.
    pub fn at(&self, level: usize) -> Option<&LevelMap<B>> {
        self.0.get(level)?.as_ref()
    }

    /// The number of levels that have a map.
    pub fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }
}
