//! Curves of a finished run, point by point with intervals.

use crate::curves::{BootstrapOptions, Curve, PromptCurves};
use fathom_depth::Interval;
use serde::Serialize;

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// The curve.
    pub curve: Curve,
    /// The layer, from 0.
    pub layer: usize,
    /// The value on all prompts.
    pub value: f64,
    /// Its 95 % bootstrap interval over prompts; `None` with fewer than two prompts and for maxima over prompts.
    pub interval: Option<[f64; 2]>,
}

/// Every curve that was measured, layer by layer.
pub fn points(curves: &PromptCurves, options: &BootstrapOptions) -> Vec<CurvePoint> {
    Curve::ALL.into_iter().flat_map(|curve| of_curve(curves, curve, options)).collect()
}

fn of_curve(curves: &PromptCurves, curve: Curve, options: &BootstrapOptions) -> Vec<CurvePoint> {
    let Some(values) = curves.curve(curve, &curves.once()) else { return Vec::new() };
    let resampling = curves.resampling(options).ok();
    let resampled = resampling
        .filter(|_| !curve.is_largest())
        .map(|resampling| (resampling.correction(), resampling.each(|weights| curves.curve(curve, weights))));
    let interval = |layer: usize| {
        let (correction, resampled) = resampled.as_ref()?;
        let at_layer = resampled.iter().map(|values| values.as_ref()?.get(layer).copied());
        Interval::of(at_layer, *correction).ok().map(|interval| [interval.lo, interval.hi])
    };
    let point = |(layer, value)| CurvePoint { curve, layer, value, interval: interval(layer) };
    values.into_iter().enumerate().map(point).collect()
}
