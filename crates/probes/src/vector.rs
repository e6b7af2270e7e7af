//! Norms and cosines from scalar products.

/// The smallest norm in a denominator, as in the papers' code.
pub(crate) const SMALLEST: f64 = 1e-6;

/// Cosine from a dot product and two norms; 0 if a vector is zero.
pub(crate) fn cosine(product: f64, a: f64, b: f64) -> f64 {
    product / (a * b).max(1e-30)
}
