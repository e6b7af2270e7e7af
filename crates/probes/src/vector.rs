//! Products of vectors in `f64`.

/// Number of partial sums, so that the loop can be vectorised; fixed, so that results are the same on
/// every machine.
const LANES: usize = 8;

/// `a . b`, summed in `f64`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The smallest norm in a denominator, as in the papers' code.
pub(crate) const SMALLEST: f64 = 1e-6;

/// Cosine from a dot product and two norms; 0 if a vector is zero.
pub(crate) fn cosine(product: f64, a: f64, b: f64) -> f64 {
    product / (a * b).max(1e-30)
}
