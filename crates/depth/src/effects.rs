//! Statistics of the effects of skipping layers: where the effect is centred, and how
//! many layers carry it.
//!
//! An effect `e` has one finite, non-negative value per skipped layer. The functions
//! return `None` for an effect without a positive total: one that is empty, zero
//! everywhere, or has a negative or non-finite value.

/// The effect of skipping layer s, averaged over the later layers:
/// `e_s = sum over l > s of E[s, l] / (L - 1 - s)`, from `E` \[L\]\[L\], skipped layer first.
///
/// The last layer has no later layer; its effect is zero. A row that is too short gives
/// `None`.
pub fn on_later_layers(layer_effect: &[Vec<f64>]) -> Option<Vec<f64>> {
    let layers = layer_effect.len();
    let mean = |(skipped, row): (usize, &Vec<f64>)| {
        let later = row.get(skipped + 1..layers)?;
        Some(if later.is_empty() { 0.0 } else { later.iter().sum::<f64>() / later.len() as f64 })
    };
    layer_effect.iter().enumerate().map(mean).collect()
}

/// The depth score, the layer at the effect's centre of gravity:
/// `sum of l e_l / sum of e_l` (arXiv 2505.13898).
pub fn depth_score(effect: &[f64]) -> Option<f64> {
    let shares = shares(effect)?;
    let centre: f64 = shares.iter().enumerate().map(|(layer, share)| layer as f64 * share).sum();
    // The shares sum to 1 up to rounding, which must not put the centre beyond the last layer.
    Some(centre.min((shares.len() - 1) as f64))
}

/// The effective number of layers: the exponential of the entropy of `e_l / sum of e`,
/// 1 if one layer carries everything, L if all carry the same.
pub fn effective_number(effect: &[f64]) -> Option<f64> {
    let shares = shares(effect)?;
    let entropy: f64 = shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
    // Equal shares have an entropy of ln L up to rounding.
    Some(entropy.exp().min(shares.len() as f64))
}

/// The smallest number of layers whose effects add up to at least `share` of the total.
pub fn min_layers_for_share(effect: &[f64], share: f64) -> Option<usize> {
    let mut shares = shares(effect)?;
    shares.sort_by(|a, b| b.total_cmp(a));
    // Nine equal tenths sum to slightly less than 0.9 in floating point; without the
    // tolerance, rounding would add a tenth layer.
    let enough = share * (1.0 - 1e-12);
    let mut carried = 0.0;
    let needed = shares.iter().take_while(|share| {
        let short = carried < enough;
        carried += *share;
        short
    });
    Some(needed.count())
}

/// The effect divided by its total.
fn shares(effect: &[f64]) -> Option<Vec<f64>> {
    if !effect.iter().all(|value| value.is_finite() && *value >= 0.0) {
        return None;
    }
    let largest = effect.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 {
        return None;
    }
    // Dividing by the largest first keeps the sum of huge values from overflowing.
    let scaled: Vec<f64> = effect.iter().map(|value| value / largest).collect();
    let total: f64 = scaled.iter().sum();
    Some(scaled.into_iter().map(|value| value / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn only_later_layers_count() {
        let effect = [vec![9.0, 1.0, 3.0], vec![9.0, 9.0, 5.0], vec![9.0, 9.0, 9.0]];
        assert_eq!(on_later_layers(&effect), Some(vec![2.0, 5.0, 0.0]));
        assert_eq!(on_later_layers(&[vec![0.0, 1.0], vec![0.0]]), None);
        assert_eq!(on_later_layers(&[]), Some(vec![]));
    }

    #[test]
    fn the_score_is_the_centre_of_gravity() {
        assert_relative_eq!(depth_score(&[1.0, 0.0, 3.0]).unwrap(), 1.5);
        assert_relative_eq!(depth_score(&[2.0; 9]).unwrap(), 4.0, max_relative = 1e-12);
        assert_relative_eq!(depth_score(&[f64::MAX; 5]).unwrap(), 2.0, max_relative = 1e-12);
        assert_relative_eq!(depth_score(&[0.0, 5e-324]).unwrap(), 1.0);
    }

    #[test]
    fn the_number_of_layers_runs_from_one_to_all() {
        assert_relative_eq!(effective_number(&[0.0, 7.0, 0.0]).unwrap(), 1.0);
        assert_relative_eq!(effective_number(&[0.2; 12]).unwrap(), 12.0, max_relative = 1e-12);
        // Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2.
        assert_relative_eq!(effective_number(&[2.0, 1.0, 1.0]).unwrap(), 8f64.sqrt(), max_relative = 1e-12);
    }

    #[test]
    fn the_strongest_layers_are_counted_first() {
        assert_eq!(min_layers_for_share(&[1.0, 6.0, 3.0], 0.6), Some(1));
        assert_eq!(min_layers_for_share(&[1.0, 6.0, 3.0], 0.61), Some(2));
        assert_eq!(min_layers_for_share(&[1.0, 6.0, 3.0], 0.9), Some(2));
        assert_eq!(min_layers_for_share(&[1.0, 6.0, 3.0], 1.0), Some(3));
        for layers in (10..=200).step_by(10) {
            assert_eq!(min_layers_for_share(&vec![0.1; layers], 0.9), Some(layers * 9 / 10));
        }
    }

    #[test]
    fn effects_without_a_total_have_no_statistic() {
        for effect in [&[][..], &[0.0, 0.0], &[1.0, f64::NAN], &[1.0, -1.0], &[f64::INFINITY]] {
            assert_eq!(
                (depth_score(effect), effective_number(effect), min_layers_for_share(effect, 0.9)),
                (None, None, None)
            );
        }
    }
}
