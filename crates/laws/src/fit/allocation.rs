//! One-dimensional searches for the best allocation.

/// The argument of the least value of a function that falls and then rises, between two ends.
pub(super) fn least(low: f64, high: f64, of: impl Fn(f64) -> f64) -> f64 {
    // The golden section.
    let ratio = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut a, mut b) = (low, high);
    let (mut c, mut d) = (b - ratio * (b - a), a + ratio * (b - a));
    let (mut at_c, mut at_d) = (of(c), of(d));
    // Near its least value a function does not tell arguments apart that differ by less than the root of its accuracy.
    while b - a > 1e-7 {
        if at_c <= at_d {
            (b, d, at_d) = (d, c, at_c);
            c = b - ratio * (b - a);
            at_c = of(c);
        } else {
            (a, c, at_c) = (c, d, at_d);
            d = a + ratio * (b - a);
            at_d = of(d);
        }
    }
    0.5 * (a + b)
}

/// Where a rising function reaches 0; `None` if it does not between the ends.
pub(super) fn root(low: f64, high: f64, of: impl Fn(f64) -> f64) -> Option<f64> {
    if of(low) > 0.0 || of(high) < 0.0 {
        return None;
    }
    let (mut a, mut b) = (low, high);
    while b - a > 1e-7 {
        let middle = 0.5 * (a + b);
        if of(middle) < 0.0 { a = middle } else { b = middle }
    }
    Some(0.5 * (a + b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn least_values_and_roots_are_found() {
        assert_relative_eq!(least(-3.0, 9.0, |x| (x - 1.25).powi(2)), 1.25, epsilon = 2e-7);
        assert_relative_eq!(root(0.0, 5.0, |x| x * x - 2.0).unwrap(), 2.0_f64.sqrt(), epsilon = 1e-7);
        assert_eq!(root(0.0, 1.0, |x| x - 2.0), None);
        assert_eq!(root(0.0, 1.0, |x| x + 2.0), None);
    }
}
