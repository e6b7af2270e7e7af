//! Isotonic regression, and the step at which a learning curve reaches a threshold.

/// The non-decreasing values nearest to `values` in squared distance: neighbours that decrease are replaced by their mean.
pub fn isotonic(values: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for &value in values {
        let mut block = (value, 1_usize);
        while let Some(&(mean, count)) = blocks.last() {
            if mean < block.0 {
                break;
            }
            blocks.pop();
            let both = (count + block.1) as f64;
            block = ((mean * count as f64 + block.0 * block.1 as f64) / both, count + block.1);
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count)).collect()
}

/// The first step at which the isotonic regression of a curve is at or above a threshold.
pub fn first_reached(steps: &[f64], returns: &[f64], threshold: f64) -> Option<f64> {
    isotonic(returns).iter().position(|value| *value >= threshold).map(|index| steps[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_that_decrease_become_their_mean() {
        assert_eq!(isotonic(&[1.0, 3.0, 2.0, 4.0, 4.0]), [1.0, 2.5, 2.5, 4.0, 4.0]);
        assert_eq!(isotonic(&[3.0, 2.0, 1.0]), [2.0; 3]);
        assert!(isotonic(&[]).is_empty());
        assert_eq!(first_reached(&[0.0, 10.0, 20.0, 30.0], &[0.0, 5.0, 3.0, 9.0], 4.0), Some(10.0));
        assert_eq!(first_reached(&[0.0, 10.0], &[0.0, 5.0], 6.0), None);
    }

    proptest! {
        /// `max over a <= i of min over b >= i of mean(a..=b)`, the closed form of Barlow et al. (1972).
        #[test]
        fn equals_the_max_min_formula(values in proptest::collection::vec(-10.0..10.0_f64, 1..20)) {
            let mean = |a: usize, b: usize| values[a..=b].iter().sum::<f64>() / (b - a + 1) as f64;
            let n = values.len();
            for (index, found) in isotonic(&values).into_iter().enumerate() {
                let low = |a: usize| (index..n).map(|b| mean(a, b)).fold(f64::INFINITY, f64::min);
                let expected = (0..=index).map(low).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }
    }
}
