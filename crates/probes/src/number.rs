//! Rounding, medians and weighted sums.

/// Rounds to five significant digits, enough for a value of one token.
pub(crate) fn short(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(4 - x.abs().log10().floor() as i32);
    // Very small numbers overflow the scale and count as zero.
    if scale.is_finite() { (x * scale).round() / scale } else { 0.0 }
}

/// The median; the mean of the middle two for an even number of values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, high, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if !even {
        return *high;
    }
    let low = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    0.5 * (low + *high)
}

/// Adds `weight * row` to `sum`, which grows to the length of the row.
pub(crate) fn add_weighted(sum: &mut Vec<f64>, row: &[f64], weight: f64) {
    sum.resize(sum.len().max(row.len()), 0.0);
    sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_digits_remain() {
        assert_eq!(short(0.123_456_789), 0.12346);
        assert_eq!(short(-98_765.432), -98_765.0);
        assert_eq!(short(1.0), 1.0);
        assert_eq!(short(0.0), 0.0);
        assert_eq!(short(1e-320), 0.0);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut [7.0]), 7.0);
        assert_eq!(median(&mut [1.0, 9.0]), 5.0);
        assert!(median(&mut []).is_nan());
    }
}
