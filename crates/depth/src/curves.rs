//! The curves that depth rules read, and checks on them.

/// The curves of one model on one set of prompts; `None` for curves of probes that
/// were not run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Curves<'a> {
    /// L, the number of layers.
    pub layers: usize,
    /// Mean cosines of the contributions of attention, MLP and the whole layer with the
    /// residual stream, in this order, \[L\] each; NaN where a layer lacks the part.
    pub cosine: Option<[&'a [f64]; 3]>,
    /// Mean of KL(lens || output) in nats at each layer's input, \[L\], or \[L+1\] if the
    /// last value compares the output with itself, which no rule reads.
    pub kl_lens_final: Option<&'a [f64]>,
    /// Mean top-5 overlap of lens and output at each layer's input, \[L\] or \[L+1\].
    pub overlap: Option<&'a [f64]>,
    /// Share of tokens whose likeliest token is that of the output at each layer's input, \[L\] or \[L+1\].
    pub top1: Option<&'a [f64]>,
    /// Effect of skipping one layer on another, \[L\]\[L\], skipped layer first; only
    /// the entries of later layers are read.
    pub layer_effect: Option<&'a [Vec<f64>]>,
    /// Effect of skipping a layer on the output, \[L\].
    pub output_effect: Option<&'a [f64]>,
    /// Mean settle layer of the tokens, 0 (settled before the first layer) to L
    /// (settled by the last).
    pub settle_mean: Option<f64>,
}

/// The first L values of a curve, if all of them are finite. `name` is used in error
/// messages.
pub(crate) fn checked<'a>(curve: &'a [f64], layers: usize, name: &str) -> Result<&'a [f64], String> {
    if layers == 0 {
        return Err("the model has no layers".to_owned());
    }
    if curve.len() != layers && curve.len().checked_sub(1) != Some(layers) {
        return Err(format!("the {name} curve has {} values for {layers} layers", curve.len()));
    }
    let curve = &curve[..layers];
    match curve.iter().position(|value| !value.is_finite()) {
        Some(layer) => Err(format!("the {name} curve is {} at layer {layer}", curve[layer])),
        None => Ok(curve),
    }
}

/// As [`checked`], for a part that not every layer has; its value is NaN where it is missing.
pub(crate) fn checked_where_present<'a>(
    curve: &'a [f64],
    layers: usize,
    name: &str,
) -> Result<&'a [f64], String> {
    let finite: Vec<f64> = curve.iter().map(|value| if value.is_nan() { 0.0 } else { *value }).collect();
    checked(&finite, layers, name)?;
    Ok(&curve[..layers])
}

/// As [`checked`], for effects, which have exactly L values, none of them negative.
pub(crate) fn checked_effect<'a>(effect: &'a [f64], layers: usize, name: &str) -> Result<&'a [f64], String> {
    if effect.len() != layers {
        return Err(format!("the {name} has {} values for {layers} layers", effect.len()));
    }
    let effect = checked(effect, layers, name)?;
    match effect.iter().position(|value| *value < 0.0) {
        Some(layer) => Err(format!("the {name} is negative ({}) at layer {layer}", effect[layer])),
        None => Ok(effect),
    }
}
