//! Curves of a set of prompts, pooled from the curve of each prompt.
//!
//! A bootstrap resample is a weight per prompt, the number of times it was drawn. These
//! functions compute the curve of a resample without running the model.

/// One prompt's mean curve and the number of tokens it is a mean over.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The number of tokens; 1 for every prompt gives a mean over prompts.
    pub tokens: f64,
    /// The mean curve of the prompt.
    pub curve: &'a [f64],
}

/// The token-weighted mean curve: `sum of w_i n_i c_i / sum of w_i n_i`.
///
/// `None` if the curves differ in length, the numbers of weights and prompts differ, or
/// all weights are 0. NaN propagates.
pub fn mean(samples: &[Sample<'_>], weights: &[u32]) -> Option<Vec<f64>> {
    let (mut sum, mut total) = (zeros(samples.iter().map(|sample| sample.curve), weights)?, 0.0);
    for (sample, &weight) in samples.iter().zip(weights).filter(|(_, weight)| **weight > 0) {
        let weight = f64::from(weight) * sample.tokens;
        total += weight;
        for (sum, value) in sum.iter_mut().zip(sample.curve) {
            *sum += weight * value;
        }
    }
    // Not `total <= 0`: a NaN total must not pass either.
    if !(total > 0.0 && total.is_finite()) {
        return None;
    }
    sum.iter_mut().for_each(|sum| *sum /= total);
    Some(sum)
}

/// The maximum over the prompts with weight, value by value.
///
/// `None` as for [`mean`]. NaN propagates.
pub fn max(curves: &[&[f64]], weights: &[u32]) -> Option<Vec<f64>> {
    let mut drawn = curves.iter().zip(weights).filter(|(_, weight)| **weight > 0).map(|(curve, _)| *curve);
    zeros(curves.iter().copied(), weights)?;
    let mut top = drawn.next()?.to_vec();
    for curve in drawn {
        for (top, &value) in top.iter_mut().zip(curve) {
            if value > *top || value.is_nan() {
                *top = value;
            }
        }
    }
    Some(top)
}

/// A curve of zeros, if all curves have the same length and there is one weight for each.
fn zeros<'a>(mut curves: impl ExactSizeIterator<Item = &'a [f64]>, weights: &[u32]) -> Option<Vec<f64>> {
    if curves.len() != weights.len() {
        return None;
    }
    let length = curves.next()?.len();
    curves.all(|curve| curve.len() == length).then(|| vec![0.0; length])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVES: [&[f64]; 3] = [&[1.0, 8.0], &[4.0, 2.0], &[7.0, 0.0]];

    #[test]
    fn a_weight_is_a_repetition() {
        let sample = |i: usize| Sample { tokens: [3.0, 1.0, 2.0][i], curve: CURVES[i] };
        let samples = [sample(0), sample(1), sample(2)];
        assert_eq!(mean(&samples, &[1, 1, 0]), Some(vec![1.75, 6.5]));
        assert_eq!(mean(&samples, &[0, 2, 1]), mean(&[sample(1), sample(1), sample(2)], &[1, 1, 1]));
        assert_eq!(max(&CURVES, &[0, 2, 1]), Some(vec![7.0, 2.0]));
    }

    #[test]
    fn no_mean_without_weight_or_equal_lengths() {
        let samples = CURVES.map(|curve| Sample { tokens: 1.0, curve });
        assert_eq!(mean(&samples, &[1, 1]), None);
        assert_eq!(mean(&samples, &[0, 0, 0]), None);
        assert_eq!(mean(&[], &[]), None);
        assert_eq!(mean(&[samples[0], Sample { tokens: 1.0, curve: &[1.0] }], &[1, 1]), None);
        assert_eq!(mean(&CURVES.map(|curve| Sample { tokens: f64::NAN, curve }), &[1, 1, 1]), None);
        assert_eq!(max(&CURVES, &[0, 0, 0]), None);
        assert_eq!(max(&CURVES, &[1]), None);
        assert_eq!(max(&[], &[]), None);
    }

    #[test]
    fn nan_propagates() {
        for order in [[0, 1], [1, 0]] {
            let curves: [&[f64]; 2] = order.map(|i| [&[1.0][..], &[f64::NAN]][i]);
            assert!(max(&curves, &[1, 1]).unwrap()[0].is_nan());
            assert!(mean(&curves.map(|curve| Sample { tokens: 1.0, curve }), &[1, 1]).unwrap()[0].is_nan());
        }
        // A prompt that was not drawn does not spoil the resample.
        assert_eq!(max(&[&[1.0], &[f64::NAN]], &[1, 0]), Some(vec![1.0]));
        let samples = [Sample { tokens: 1.0, curve: &[1.0] }, Sample { tokens: 1.0, curve: &[f64::NAN] }];
        assert_eq!(mean(&samples, &[2, 0]), Some(vec![1.0]));
    }
}
