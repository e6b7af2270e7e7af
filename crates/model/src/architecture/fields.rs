//! Typed reading of `config.json`, with errors that name the field.

use crate::config::{Layer, Rope, RopeScaling};
use crate::error::{Error, Result};
use fathom_kernels::elementwise::Activation;
use serde_json::Value;
use std::path::Path;

/// The fields of a configuration (or of an object inside it).
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) path: &'a Path,
    json: &'a Value,
    /// What absent fields mean.
    defaults: &'a Value,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, json: &'a Value, defaults: &'a Value) -> Self {
        Self { path, json, defaults }
    }

    pub(crate) fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::config(self.path, what))
    }

    /// The value of a field. An absent one has its default, `null` says that there is nothing.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.json.get(name).or_else(|| self.defaults.get(name)).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => self.fail(format!("'{name}' is {value}, which is no {what}")),
            },
        }
    }

    fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.map_or_else(|| self.fail(format!("the field '{name}' is missing")), Ok)
    }

    pub(crate) fn opt_usize(&self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "count", |v| v.as_u64().and_then(|v| usize::try_from(v).ok()))
    }

    pub(crate) fn usize(&self, name: &str) -> Result<usize> {
        self.needed(name, self.opt_usize(name)?)
    }

    pub(crate) fn opt_f64(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "number", Value::as_f64)
    }

    pub(crate) fn f64_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.opt_f64(name)?.unwrap_or(default))
    }

    pub(crate) fn bool_or(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.typed(name, "truth value", Value::as_bool)?.unwrap_or(default))
    }

    pub(crate) fn opt_str(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "string", Value::as_str)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let object = self.typed(name, "object", |v| v.is_object().then_some(v))?;
        Ok(object.map(|json| Fields { path: self.path, json, defaults: &Value::Null }))
    }

    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(name, "list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let list = self.typed(name, "list of numbers", |v| {
            v.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
        })?;
        self.needed(name, list)
    }

    /// The activation named by a field.
    pub(crate) fn activation(&self, name: &str, default: &str) -> Result<Activation> {
        match self.opt_str(name)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::GeluErf),
            other => self.fail(format!("the activation '{other}' is not supported (silu and gelu are)")),
        }
    }

    /// The layers, of which those that `layer_types` (or `is_local`, where the
    /// field is absent) calls sliding see `window` positions and use `local_rope`.
    pub(crate) fn layers(
        &self,
        count: usize,
        window: Option<usize>,
        local_rope: usize,
        is_local: impl Fn(usize) -> bool,
    ) -> Result<Vec<Layer>> {
        // The count is checked before anything of that size is made.
        if count > 1 << 14 {
            return self.fail(format!("'num_hidden_layers' is {count}, more than any model has"));
        }
        let types = self.strings("layer_types")?;
        if types.as_ref().is_some_and(|t| t.len() != count) {
            return self.fail(format!("'layer_types' does not name {count} layers"));
        }
        let mut layers = Vec::with_capacity(count);
        for l in 0..count {
            let local = match types.as_ref().map(|t| t[l]) {
                None => is_local(l),
                Some("sliding_attention") => true,
                Some("full_attention") => false,
                Some(other) => return self.fail(format!("the layer type '{other}' is not supported")),
            };
            layers.push(if local && window.is_some() {
                Layer { window, rope: local_rope }
            } else {
                Layer { window: None, rope: 0 }
            });
        }
        Ok(layers)
    }

    /// The rotary embedding. transformers 5 keeps it in `rope_parameters` (nested by
    /// layer type where `kind` is given), transformers 4 in `rope_theta` and `rope_scaling`.
    pub(crate) fn rope(&self, kind: Option<&str>, head_dim: usize, theta: f64) -> Result<Rope> {
        let parameters = match (self.object("rope_parameters")?, kind) {
            (Some(p), Some(kind)) => p.object(kind)?.or(Some(p)),
            (p, _) => p,
        };
        let scaling = match parameters {
            Some(p) => Some(p),
            None => self.object("rope_scaling")?,
        };
        let place = parameters.unwrap_or(*self);
        let theta = match place.opt_f64("rope_theta")? {
            Some(theta) => theta,
            None => self.f64_or("rope_theta", self.f64_or("rotary_emb_base", theta)?)?,
        };
        let share = match place.opt_f64("partial_rotary_factor")? {
            Some(share) => share,
            None => self.f64_or("partial_rotary_factor", self.f64_or("rotary_pct", 1.0)?)?,
        };
        let dim = (head_dim as f64 * share) as usize;
        let scaling = scaling.map_or(Ok(RopeScaling::None), |s| self.rope_scaling(&s))?;
        Ok(Rope { dim, theta, scaling })
    }

    fn rope_scaling(&self, s: &Fields<'_>) -> Result<RopeScaling> {
        let kind = match s.opt_str("rope_type")? {
            Some(kind) => kind,
            None => s.opt_str("type")?.unwrap_or("default"),
        };
        let context = self.opt_usize("max_position_embeddings")?.unwrap_or(2048) as f64;
        let original = match s.opt_f64("original_max_position_embeddings")? {
            Some(original) => original,
            None => self.f64_or("original_max_position_embeddings", context)?,
        };
        let factor = s.needed("factor", s.opt_f64("factor")?);
        Ok(match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear(factor?),
            // Up to the original context the dynamic kind is the plain one.
            "dynamic" => RopeScaling::None,
            "llama3" => RopeScaling::Llama3 {
                factor: factor?,
                low: s.f64_or("low_freq_factor", 1.0)?,
                high: s.f64_or("high_freq_factor", 4.0)?,
                original,
            },
            "yarn" => {
                let factor = factor?;
                let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let (m, all) = (s.f64_or("mscale", 0.0)?, s.f64_or("mscale_all_dim", 0.0)?);
                let default = if m != 0.0 && all != 0.0 { scale(m) / scale(all) } else { scale(1.0) };
                RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: s.f64_or("beta_fast", 32.0)?,
                    beta_slow: s.f64_or("beta_slow", 1.0)?,
                    attention_factor: s.f64_or("attention_factor", default)?,
                    truncate: s.bool_or("truncate", true)?,
                }
            }
            "longrope" | "su" => {
                let stretch = factor.unwrap_or(context / original);
                let default = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
                RopeScaling::Long {
                    short: s.floats("short_factor")?,
                    long: s.floats("long_factor")?,
                    original: original as usize,
                    attention_factor: s.f64_or("attention_factor", default)?,
                }
            }
            other => {
                return self.fail(format!(
                    "the rotary scaling '{other}' is not supported (linear, llama3, yarn and longrope are)"
                ));
            }
        })
    }
}
