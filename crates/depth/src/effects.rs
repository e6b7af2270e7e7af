//! What the effects of skipping layers say: where they sit and how many layers
//! carry them.
//!
//! An effect `e` has one value per skipped layer, finite and not negative. The
//! functions that need a total give `None` where there is none: on an empty effect,
//! one that is zero everywhere, and one with a value that is negative or no number.

/// The effect of skipping layer s on a later layer, as a mean over the later layers:
/// `e_s = sum over l > s of E[s, l] / (L - 1 - s)`, from `E` \[L\]\[L\], skipped layer first.
///
/// The last layer has no later layer; its effect is zero. A row that is too short is
/// `None`, since its mean would be one over fewer layers than it claims.
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
/// 1 where one layer carries everything, L where all carry the same.
pub fn effective_number(effect: &[f64]) -> Option<f64> {
    let shares = shares(effect)?;
    let entropy: f64 = shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
    // Equal shares have an entropy of ln L up to rounding.
    Some(entropy.exp().min(shares.len() as f64))
}

/// The smallest number of layers whose effects add up to at least `share` of the total.
pub fn carriers(effect: &[f64], share: f64) -> Option<usize> {
    let mut shares = shares(effect)?;
    shares.sort_by(|a, b| b.total_cmp(a));
    // Nine equal tenths sum to a little less than 0.9 in floating point, and a
    // tenth layer would then be counted for rounding's sake.
    let enough = share * (1.0 - 1e-12);
    let mut carried = 0.0;
    let needed = shares.iter().take_while(|share| {
        let go_on = carried < enough;
        carried += *share;
        go_on
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
    fn later_layers_alone_count() {
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
    fn carriers_are_the_strongest_layers() {
        assert_eq!(carriers(&[1.0, 6.0, 3.0], 0.6), Some(1));
        assert_eq!(carriers(&[1.0, 6.0, 3.0], 0.61), Some(2));
        assert_eq!(carriers(&[1.0, 6.0, 3.0], 0.9), Some(2));
        assert_eq!(carriers(&[1.0, 6.0, 3.0], 1.0), Some(3));
        for layers in (10..=200).step_by(10) {
            assert_eq!(carriers(&vec![0.1; layers], 0.9), Some(layers * 9 / 10));
        }
    }

    #[test]
    fn nothing_from_nothing() {
        for effect in [&[][..], &[0.0, 0.0], &[1.0, f64::NAN], &[1.0, -1.0], &[f64::INFINITY]] {
            assert_eq!(
                (depth_score(effect), effective_number(effect), carriers(effect, 0.9)),
                (None, None, None)
            );
        }
    }
}
