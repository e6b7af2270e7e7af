//! Typed reading of `config.json`, with errors that name the field.

use crate::config::{Layer, Rope, RopeScaling};
use crate::error::{Error, Result};
use fathom_kernels::elementwise::Activation;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

/// The fields of a configuration (or of an object inside it). Records which of them were read, so that
/// unknown fields are noticed.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    pub(crate) path: &'a Path,
    json: &'a Value,
    /// Defaults of absent fields.
    defaults: &'a Value,
    /// The prefix of names in messages: `rope_scaling.` for the fields of that object.
    scope: String,
    log: Rc<RefCell<Log>>,
}

/// Which fields were read, and warnings about them.
#[derive(Default)]
struct Log {
    read: BTreeSet<String>,
    warnings: BTreeSet<String>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, json: &'a Value, defaults: &'a Value) -> Self {
        Self { path, json, defaults, scope: String::new(), log: Rc::default() }
    }

    pub(crate) fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::config(self.path, what))
    }

    /// Whether a field is present, without reading it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.json.get(name).is_some_and(|v| !v.is_null())
    }

    /// Whether a field is this string, without reading it.
    fn is(&self, name: &str, value: &str) -> bool {
        self.json.get(name).and_then(Value::as_str) == Some(value)
    }

    /// All fields.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.json.as_object().into_iter().flatten()
    }

    /// Whether a field has been read.
    pub(super) fn was_read(&self, name: &str) -> bool {
        self.log.borrow().read.contains(name)
    }

    /// Warnings for the user, one sentence each.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.log.borrow().warnings.iter().cloned().collect()
    }

    /// Marks an object and everything in it as read.
    fn ignore_object(&self, name: &str) {
        self.ignore(&[name]);
        for (inner, value) in self.json.get(name).and_then(Value::as_object).into_iter().flatten() {
            let name = format!("{name}.{inner}");
            if value.is_object() { self.ignore_object(&name) } else { self.ignore(&[&name]) }
        }
    }

    /// Marks fields as read that have no effect beside others.
    pub(super) fn ignore(&self, names: &[&str]) {
        self.log.borrow_mut().read.extend(names.iter().map(|name| format!("{}{name}", self.scope)));
    }

    /// The value of a field: its default if it is absent, nothing if it is `null`.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.ignore(&[name]);
        self.json.get(name).or_else(|| self.defaults.get(name)).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => {
                    let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
                    self.fail(format!("'{}{name}' is {value}, which is not {article} {what}", self.scope))
                }
            },
        }
    }

    fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.map_or_else(|| self.fail(format!("the field '{}{name}' is missing", self.scope)), Ok)
    }

    /// A count, or a list of equal counts: one for each layer, for each layer that has such a part, or for all.
    pub(crate) fn opt_usize(&self, name: &str) -> Result<Option<usize>> {
        let count = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
        match self.get(name).and_then(Value::as_array).map(Vec::as_slice) {
            Some([first, rest @ ..]) if rest.iter().all(|v| v == first) => match count(first) {
                Some(value) => Ok(Some(value)),
                None => self.fail(format!("'{name}' is a list of {first}, which is not a count")),
            },
            Some([_, ..]) => self.fail(format!(
                "'{name}' differs from layer to layer, which is not supported; it must be the same in all"
            )),
            _ => self.typed(name, "count", count),
        }
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

    pub(crate) fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "truth value", Value::as_bool)
    }

    pub(crate) fn bool_or(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.opt_bool(name)?.unwrap_or(default))
    }

    /// A truth value, or a number that is one unless it is 0.
    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "truth value", |v| v.as_bool().or_else(|| v.as_f64().map(|v| v != 0.0)))
    }

    pub(crate) fn opt_str(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "string", Value::as_str)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let object = self.typed(name, "object", |v| v.is_object().then_some(v))?;
        Ok(object.map(|json| Fields {
            json,
            defaults: &Value::Null,
            scope: format!("{}{name}.", self.scope),
            ..self.clone()
        }))
    }

    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(name, "list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A list of counts.
    pub(crate) fn counts(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let count = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
        self.typed(name, "list of counts", |v| v.as_array()?.iter().map(count).collect())
    }

    /// A list of numbers.
    pub(super) fn opt_floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.typed(name, "list of numbers", |v| {
            v.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
        })
    }

    /// A lower and an upper limit; Python's infinity is an object or a string.
    pub(crate) fn opt_limits(&self, name: &str) -> Result<Option<[f64; 2]>> {
        let limit = |v: &Value| {
            let text = v.as_str().or_else(|| v.get("__float__").and_then(Value::as_str));
            v.as_f64().or_else(|| text.filter(|t| *t == "Infinity").map(|_| f64::INFINITY))
        };
        self.typed(name, "pair of limits", |v| {
            let limits = v.as_array()?.iter().map(limit).collect::<Option<Vec<f64>>>()?;
            limits.try_into().ok()
        })
    }

    /// The activation named by a field.
    pub(crate) fn activation(&self, name: &str, default: &str) -> Result<Activation> {
        match self.opt_str(name)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::GeluErf),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::ReluSquared),
            other => self
                .fail(format!("the activation '{other}' is not supported (silu, gelu, relu and relu2 are)")),
        }
    }

    /// As many layers with full attention.
    pub(crate) fn plain_layers(&self, name: &str) -> Result<Vec<Layer>> {
        let count = self.usize(name)?;
        // Checked before anything of that size is allocated.
        if count > 1 << 14 {
            return self.fail(format!("'{name}' is {count}, more than any model has"));
        }
        Ok(vec![Layer::default(); count])
    }

    /// The layers. Those that are sliding by `layer_types` (or by `is_local`, if the field is absent) see
    /// `window` positions and use `local_rope`.
    pub(crate) fn layers(
        &self,
        count: usize,
        window: Option<usize>,
        local_rope: usize,
        is_local: impl Fn(usize) -> bool,
    ) -> Result<Vec<Layer>> {
        let types = self.strings("layer_types")?;
        if types.as_ref().is_some_and(|t| t.len() != count) {
            return self.fail(format!("'layer_types' does not name {count} layers"));
        }
        let mut layers = Vec::with_capacity(count);
        for l in 0..count {
            let local = match types.as_ref().map(|t| t[l]) {
                None => is_local(l),
                Some("sliding_attention") if window.is_none() => {
                    return self.fail("'layer_types' names sliding layers, but there is no 'sliding_window'");
                }
                Some("sliding_attention") => true,
                Some("full_attention") => false,
                Some(other) => return self.fail(format!("the layer type '{other}' is not supported")),
            };
            layers.push(if local && window.is_some() {
                Layer { window, rope: Some(local_rope), ..Layer::default() }
            } else {
                Layer::default()
            });
        }
        Ok(layers)
    }

    /// The rotary embedding described at `place`. transformers 5 stores it in `rope_parameters` (nested by the
    /// kind of layer if `place` names one), transformers 4 in `rope_scaling` and fields beside it. If both are
    /// present, `rope_scaling` wins, as in transformers.
    pub(crate) fn rope(&self, place: &RopePlace, head_dim: usize) -> Result<Rope> {
        let scaling =
            self.object("rope_scaling")?.filter(|s| s.json.as_object().is_some_and(|o| !o.is_empty()));
        let parameters = self.object("rope_parameters")?;
        let sources = match place.kind {
            None => {
                if scaling.is_some() && parameters.is_some() {
                    self.ignore_object("rope_parameters");
                    self.log.borrow_mut().warnings.insert(
                        "both 'rope_scaling' and 'rope_parameters' are set; only the first is used, as in transformers".into(),
                    );
                }
                scaling.or(parameters).into_iter().collect()
            }
            Some(kind) => {
                let nested = parameters.map(|p| p.object(kind)).transpose()?.flatten();
                // The old field is about the layers with full attention.
                let scaling = scaling.filter(|_| kind == FULL_ATTENTION);
                scaling.into_iter().chain(nested).collect()
            }
        };
        let rotary = Rotary { sources, top: self };
        self.ignore(place.theta.0);
        let theta = match rotary.number("rope_theta")? {
            Some(theta) => theta,
            None => self.first_of(place.theta.0, place.theta.1)?,
        };
        let dim = (head_dim as f64 * rotary.share(place)?) as usize;
        // Hunyuan says 'dynamic' where a fixed factor stretches the base.
        if self.is("model_type", "hunyuan_v1_dense")
            && rotary.kind()? == "dynamic"
            && let Some(alpha) = rotary.number("alpha")?.filter(|alpha| *alpha != 0.0)
        {
            rotary.ignore(&["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]);
            let stretch = alpha.powf(dim as f64 / (dim as f64 - 2.0));
            return Ok(Rope { dim, theta: theta * stretch, scaling: RopeScaling::None });
        }
        if rotary.kind()? == "proportional" {
            let share = rotary.number_or("partial_rotary_factor", 1.0)?;
            if !(0.0..=1.0).contains(&share) {
                return self.fail(format!("'partial_rotary_factor' is {share}; it must lie between 0 and 1"));
            }
            let pairs = (share * head_dim as f64 / 2.0) as usize;
            let scaling = RopeScaling::Proportional { pairs, factor: rotary.number_or("factor", 1.0)? };
            return Ok(Rope { dim: head_dim, theta, scaling });
        }
        Ok(Rope { dim, theta, scaling: rotary.scaling()? })
    }

    /// The first of some fields that is present.
    fn first_of(&self, names: &[&str], default: f64) -> Result<f64> {
        names
            .iter()
            .try_fold(None, |found, name| Ok(found.or(self.opt_f64(name)?)))
            .map(|v| v.unwrap_or(default))
    }
}

/// The name in transformers of layers with full attention.
pub(super) const FULL_ATTENTION: &str = "full_attention";

/// Where a configuration describes a rotary embedding, and the defaults.
pub(crate) struct RopePlace {
    /// The kind of layer, for models with several rotary embeddings.
    pub(super) kind: Option<&'static str>,
    /// Fields beside the objects with the base.
    pub(super) theta: (&'static [&'static str], f64),
    /// Fields beside the objects with the rotated share of a head; `None` for families that always rotate
    /// whole heads.
    pub(super) share: Option<(&'static [&'static str], f64)>,
}

impl RopePlace {
    /// As in most families.
    pub(super) const USUAL: Self = Self { kind: None, theta: (&["rope_theta"], 10_000.0), share: None };

    /// As in Phi-3.
    pub(super) const PARTIAL: Self = Self { share: Some((&["partial_rotary_factor"], 1.0)), ..Self::USUAL };
}

/// The objects that describe a rotary embedding; the first with a field takes precedence.
struct Rotary<'a> {
    sources: Vec<Fields<'a>>,
    top: &'a Fields<'a>,
}

impl Rotary<'_> {
    fn first<T>(&self, read: impl Fn(&Fields<'_>) -> Result<Option<T>>) -> Result<Option<T>> {
        // All are read, so that none is reported as unknown.
        self.sources.iter().map(read).try_fold(None, |found, value| Ok(found.or(value?)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.first(|s| s.opt_f64(name))
    }

    fn ignore(&self, names: &[&str]) {
        self.sources.iter().for_each(|source| source.ignore(names));
    }

    /// The rotated share of a head.
    fn share(&self, place: &RopePlace) -> Result<f64> {
        const INSIDE: &str = "partial_rotary_factor";
        let Some((names, default)) = place.share else {
            // The whole head is rotated anyway.
            let whole = |f: &&Fields<'_>| f.json.get(INSIDE).and_then(Value::as_f64) == Some(1.0);
            self.sources.iter().chain([self.top]).filter(whole).for_each(|f| f.ignore(&[INSIDE]));
            return Ok(1.0);
        };
        let share = match self.number(INSIDE)? {
            Some(share) => share,
            None => self.top.first_of(names, default)?,
        };
        self.top.ignore(names);
        Ok(share)
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.number(name)?.unwrap_or(default))
    }

    fn needed(&self, name: &str) -> Result<f64> {
        match self.number(name)? {
            Some(value) => Ok(value),
            None => self.top.fail(format!("the rotary scaling has no '{name}'")),
        }
    }

    fn factors(&self, name: &str) -> Result<Vec<f32>> {
        match self.first(|s| s.opt_floats(name))? {
            Some(values) => Ok(values),
            None => self.top.fail(format!("the rotary scaling has no '{name}'")),
        }
    }

    /// The name of the scaling.
    fn kind(&self) -> Result<String> {
        let text = |name: &str| self.first(|s| s.opt_str(name).map(|v| v.map(str::to_owned)));
        Ok(text("rope_type")?.or(text("type")?).unwrap_or_else(|| "default".into()))
    }

    fn scaling(&self) -> Result<RopeScaling> {
        self.ignore(&["mrope_section", "mrope_interleaved"]);
        let kind = self.kind()?;
        let context = self.top.opt_usize("max_position_embeddings")?.unwrap_or(2048) as f64;
        // transformers prefers the field beside the objects.
        let inside = self.number("original_max_position_embeddings")?;
        let original = self.top.opt_f64("original_max_position_embeddings")?.or(inside).unwrap_or(context);
        Ok(match kind.as_str() {
            // The three positions of a token of text are equal, so its parts rotate alike.
            "default" | "mrope" => RopeScaling::None,
            "linear" => RopeScaling::Linear(self.needed("factor")?),
            "dynamic" => RopeScaling::Dynamic { factor: self.needed("factor")?, original: context },
            "llama3" => RopeScaling::Llama3 {
                factor: self.needed("factor")?,
                low: self.number_or("low_freq_factor", 1.0)?,
                high: self.number_or("high_freq_factor", 4.0)?,
                original,
            },
            // The first Phi-3 files use other names for LongRoPE.
            "longrope" | "su" => self.long(context, original)?,
            "yarn" if self.top.is("model_type", "phi3") => self.long(context, original)?,
            "yarn" => self.yarn(original)?,
            other => {
                return self.top.fail(format!(
                    "the rotary scaling '{other}' is not supported (linear, dynamic, llama3, yarn and longrope are)"
                ));
            }
        })
    }

    fn yarn(&self, original: f64) -> Result<RopeScaling> {
        let factor = self.needed("factor")?;
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let (m, all) = (self.number_or("mscale", 0.0)?, self.number_or("mscale_all_dim", 0.0)?);
        let default = if m != 0.0 && all != 0.0 { scale(m) / scale(all) } else { scale(1.0) };
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: self.number_or("beta_fast", 32.0)?,
            beta_slow: self.number_or("beta_slow", 1.0)?,
            attention_factor: self.number_or("attention_factor", default)?,
            truncate: self.first(|s| s.opt_bool("truncate"))?.unwrap_or(true),
        })
    }

    fn long(&self, context: f64, original: f64) -> Result<RopeScaling> {
        let stretch = self.number_or("factor", context / original)?;
        let default = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
        Ok(RopeScaling::Long {
            short: self.factors("short_factor")?,
            long: self.factors("long_factor")?,
            original: original as usize,
            attention_factor: self.number_or("attention_factor", default)?,
        })
    }
}
