//! Upper confidence bounds on a risk, as p-values (Learn then Test, arXiv 2110.01052).

use statrs::distribution::{Binomial, DiscreteCDF};

/// The Hoeffding-Bentkus p-value of "the mean of the risk is above `epsilon`", for `n` independent risks from 0 to 1 whose
/// mean is `risk`.
pub fn p_value(risk: f64, n: usize, epsilon: f64) -> f64 {
    if n == 0 || risk.is_nan() || risk >= epsilon {
        return 1.0;
    }
    let count = n as f64;
    let hoeffding = (-count * divergence(risk, epsilon)).exp();
    let least = (count * risk).ceil() as u64;
    let bentkus = Binomial::new(epsilon, n as u64).map_or(1.0, |b| std::f64::consts::E * b.cdf(least));
    hoeffding.min(bentkus).min(1.0)
}

/// The Kullback-Leibler divergence between two coins, in nats.
fn divergence(a: f64, b: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    term(a, b) + term(1.0 - a, 1.0 - b)
}

/// The fewest texts with which a rule that changes nothing is certified.
pub fn fewest(epsilon: f64, delta: f64) -> usize {
    (delta.ln() / (1.0 - epsilon).ln()).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By SciPy: `min(exp(-n h1(r, e)), e * binom.cdf(ceil(n r), n, e))`, `h1` as `rel_entr(r, e) + rel_entr(1 - r, 1 - e)`.
    #[test]
    fn p_values_are_those_of_scipy() {
        for (risk, n, epsilon, expected) in [
            (0.0, 30, 0.1, 4.239115827521e-02),
            (0.02, 60, 0.1, 4.614560130905e-02),
            (0.05, 96, 0.1, 1.986795475534e-01),
            (0.09, 200, 0.1, 8.917397900787e-01),
            (0.013, 40, 0.05, 4.457595008800e-01),
            (0.19, 64, 0.2, 9.799468171811e-01),
            (0.4, 25, 0.5, 5.767599037356e-01),
            (0.001, 500, 0.01, 3.442059177082e-02),
        ] {
            let found = p_value(risk, n, epsilon);
            assert!((found - expected).abs() <= 1e-9 * expected, "{risk} {n} {epsilon}: {found} {expected}");
        }
        assert_eq!([p_value(0.1, 50, 0.1), p_value(f64::NAN, 50, 0.1), p_value(0.0, 0, 0.1)], [1.0; 3]);
    }

    #[test]
    fn fewer_texts_certify_nothing() {
        for (epsilon, delta) in [(0.1, 0.1), (0.05, 0.1), (0.02, 0.01)] {
            let n = fewest(epsilon, delta);
            assert!(p_value(0.0, n, epsilon) <= delta && p_value(0.0, n - 1, epsilon) > delta, "{n}");
        }
    }

    /// The share of draws from a population at the limit whose p-value is below delta is at most delta.
    #[test]
    fn a_risk_at_the_limit_is_seldom_certified() {
        let (n, epsilon, delta) = (60, 0.2, 0.1);
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        // Risks that are 0 or 1 are the worst case.
        let mut draw = || (0..n).filter(|_| uniform() < epsilon).count() as f64 / n as f64;
        let certified = (0..4000).filter(|_| p_value(draw(), n, epsilon) <= delta).count();
        assert!(certified > 40 && certified <= 400, "{certified}");
    }
}
