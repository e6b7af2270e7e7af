//! Experts that stay in the checkpoint: they are packed when rows take them, and kept while there is memory for them.
//! Packing gives the same bits every time, so no result depends on the memory.

use crate::architecture::Layout;
use crate::experts::FeedForward;
use crate::forward::Model;
use crate::load;
use crate::weights::Weights;
use fathom_kernels::backend::{Backend, DeviceError, LinearLayer};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The experts of all layers, in a checkpoint.
pub(crate) struct ExpertCache<B: Backend> {
    layout: Layout,
    weights: Weights,
    /// Bytes of experts that are kept.
    budget: u64,
    held: Mutex<Held<B>>,
}

struct Held<B: Backend> {
    /// By layer and expert.
    mlps: HashMap<(usize, usize), Kept<B>>,
    bytes: u64,
    time: u64,
}

struct Kept<B: Backend> {
    mlp: Arc<FeedForward<B>>,
    /// The time of the last use.
    used: u64,
}

impl<B: Backend> ExpertCache<B> {
    pub(crate) fn new(layout: Layout, weights: Weights, budget: u64) -> Self {
        Self { layout, weights, budget, held: Mutex::new(Held { mlps: HashMap::new(), bytes: 0, time: 0 }) }
    }

    /// Bytes of experts that are kept.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// An expert of a layer, from memory or from the checkpoint.
    ///
    /// # Panics
    /// With [`DeviceError`] as the payload when it cannot be read, and with `OutOfMemory` when it does not fit.
    pub(crate) fn get(&self, model: &Model<B>, layer: usize, expert: usize) -> Arc<FeedForward<B>> {
        if let Some(mlp) = self.held().find((layer, expert)) {
            return mlp;
        }
        let (on, config, dtype) = (&model.backend, &model.config, model.dtype);
        let mlp = load::expert(on, config, &self.layout, &self.weights, dtype, layer, expert);
        let mlp = Arc::new(mlp.unwrap_or_else(|error| {
            std::panic::panic_any(DeviceError(format!("expert {expert} of layer {layer}: {error}")))
        }));
        self.held().keep((layer, expert), &mlp, self.budget);
        mlp
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held<B>> {
        // Every update leaves the cache consistent, so a panic elsewhere does not spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Held<B> {
    fn find(&mut self, key: (usize, usize)) -> Option<Arc<FeedForward<B>>> {
        self.time += 1;
        let kept = self.mlps.get_mut(&key)?;
        kept.used = self.time;
        Some(kept.mlp.clone())
    }

    /// Keeps an expert if there is room once those that have not been used for longest are gone.
    fn keep(&mut self, key: (usize, usize), mlp: &Arc<FeedForward<B>>, budget: u64) {
        let size = |mlp: &FeedForward<B>| mlp.matrices().iter().map(|m| m.bytes() as u64).sum::<u64>();
        let bytes = size(mlp);
        if bytes > budget || self.mlps.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > budget {
            let oldest = self.mlps.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let Some(gone) = oldest.and_then(|key| self.mlps.remove(&key)) else { break };
            self.bytes -= size(&gone.mlp);
        }
        self.bytes += bytes;
        self.mlps.insert(key, Kept { mlp: mlp.clone(), used: self.time });
    }
}
