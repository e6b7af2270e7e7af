//! Transposition of matrices of 32-bit words: floats, or pairs of 16-bit numbers.

use crate::Isa;

/// Transposes a matrix: `to[j * to_stride + i] = from[i * from_stride + j]` for `i < rows`,
/// `j < columns`. Strides are in words.
///
/// # Panics
/// When a slice is shorter than its matrix.
pub(crate) fn transpose(
    isa: Isa,
    from: &[u32],
    from_stride: usize,
    to: &mut [u32],
    to_stride: usize,
    rows: usize,
    columns: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let holds = |len: usize, count: usize, stride: usize, width: usize| {
        stride >= width && crate::checked_area(count - 1, stride).saturating_add(width) <= len
    };
    assert!(holds(from.len(), rows, from_stride, columns) && holds(to.len(), columns, to_stride, rows));
    let mut whole = 0..0;
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && isa.is_available() {
        whole = 0..columns / 16 * 16;
        for i in (0..rows / 16 * 16).step_by(16) {
            for j in whole.clone().step_by(16) {
                // SAFETY: the processor has AVX-512, and both matrices hold 16 more rows and columns.
                unsafe {
                    let from = from.as_ptr().add(i * from_stride + j);
                    block(from, from_stride, to.as_mut_ptr().add(j * to_stride + i), to_stride);
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 && isa.is_available() {
        // SAFETY: the processor has AVX2, and the matrices hold what was checked.
        return unsafe { transpose_avx2(from, from_stride, to, to_stride, rows, columns) };
    }
    let _ = isa;
    let done = if whole.is_empty() { 0 } else { rows / 16 * 16 };
    for i in 0..rows {
        let first = if i < done { whole.end } else { 0 };
        for j in first..columns {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
    }
}

/// [`transpose`] in blocks of 8 rows and columns.
///
/// # Safety
/// AVX2 must be available, and the slices must hold the matrices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_avx2(
    from: &[u32],
    from_stride: usize,
    to: &mut [u32],
    to_stride: usize,
    rows: usize,
    columns: usize,
) {
    let whole = columns / 8 * 8;
    for i in (0..rows / 8 * 8).step_by(8) {
        for j in (0..whole).step_by(8) {
            // SAFETY: the caller's guarantee; both matrices hold 8 more rows and columns.
            unsafe {
                let from = from.as_ptr().add(i * from_stride + j);
                block_avx2(
                    from.cast(),
                    from_stride,
                    to.as_mut_ptr().add(j * to_stride + i).cast(),
                    to_stride,
                );
            }
        }
    }
    for i in 0..rows {
        let first = if i < rows / 8 * 8 { whole } else { 0 };
        for j in first..columns {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
    }
}

/// Transposes 8 rows of 8 words.
///
/// # Safety
/// AVX2 must be available, and `from` and `to` valid for 8 rows of 8 words, a stride apart.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_avx2(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller guarantees the rows.
    let rows: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.add(i * from_stride)) });
    // Pairs of rows, then fours, then the halves of the registers.
    let pairs: [__m256; 8] = std::array::from_fn(|i| {
        let [a, b] = [rows[i / 2 * 2], rows[i / 2 * 2 + 1]];
        if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
    });
    let fours: [__m256; 8] = std::array::from_fn(|i| {
        let [a, b] = [pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]];
        if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
    });
    for i in 0..4 {
        let [a, b] = [fours[i], fours[i + 4]];
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to.add(i * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((i + 4) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

/// Words per row for [`transpose_narrow`].
const NARROW: usize = 8;

/// Transposes two matrices of 16 rows and 8 columns side by side: `to[j * 32 + i]` is column j of row i
/// of the first for `i < 16`, and of row `i - 16` of the second otherwise.
///
/// # Panics
/// When the lengths do not fit.
pub(crate) fn transpose_narrow(isa: Isa, from: [&[u32]; 2], to: &mut [u32]) {
    assert!(from.iter().all(|from| from.len() == 16 * NARROW) && to.len() == 32 * NARROW);
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && isa.is_available() {
        // SAFETY: the processor has AVX-512, and the lengths were checked.
        return unsafe { narrow(from, to) };
    }
    for (half, from) in from.iter().enumerate() {
        transpose(isa, from, NARROW, &mut to[half * 16..], 32, 16, NARROW);
    }
}

/// # Safety
/// AVX-512 must be available, and the slices as long as [`transpose_narrow`] requires.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn narrow(from: [&[u32]; 2], to: &mut [u32]) {
    use std::arch::x86_64::*;
    let mut rows = [_mm512_setzero_ps(); 16];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: there are 16 rows of 8 words on either side.
        let [first, second] =
            from.map(|from| unsafe { _mm256_loadu_si256(from.as_ptr().add(i * NARROW).cast()) });
        *row = _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second));
    }
    for (i, row) in transpose_registers(rows).into_iter().enumerate() {
        // SAFETY: there are 8 rows of two registers each.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(i % NARROW * 32 + i / NARROW * 16).cast(), row) };
    }
}

/// # Safety
/// AVX-512 must be available, `from` readable and `to` writable for 16 rows of 16 words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn block(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::*;
    let mut rows = [_mm512_setzero_ps(); 16];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller guarantees 16 readable rows.
        *row = unsafe { _mm512_loadu_ps(from.add(i * from_stride).cast()) };
    }
    for (i, row) in transpose_registers(rows).into_iter().enumerate() {
        // SAFETY: the caller guarantees 16 writable rows.
        unsafe { _mm512_storeu_ps(to.add(i * to_stride).cast(), row) };
    }
}

/// Transposes 16 rows of 16 words in registers: interleaves pairs of rows, then pairs of pairs, then
/// permutes the quarters of the registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_registers(r: [std::arch::x86_64::__m512; 16]) -> [std::arch::x86_64::__m512; 16] {
    use std::arch::x86_64::*;
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // Quarter q of u[4 g + c] holds column 4 q + c of rows 4 g to 4 g + 3.
    let mut u = t;
    let pair = |a: __m512, b: __m512| {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        [_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b))]
    };
    for g in (0..16).step_by(4) {
        [u[g], u[g + 1]] = pair(t[g], t[g + 2]);
        [u[g + 2], u[g + 3]] = pair(t[g + 1], t[g + 3]);
    }
    let mut out = u;
    for c in 0..4 {
        let even = |a, b| _mm512_shuffle_f32x4::<0x88>(a, b);
        let odd = |a, b| _mm512_shuffle_f32x4::<0xdd>(a, b);
        let (low, high) = ([u[c], u[c + 4]], [u[c + 8], u[c + 12]]);
        let (a, b) = (even(low[0], low[1]), even(high[0], high[1]));
        (out[c], out[c + 8]) = (even(a, b), odd(a, b));
        let (a, b) = (odd(low[0], low[1]), odd(high[0], high[1]));
        (out[c + 4], out[c + 12]) = (even(a, b), odd(a, b));
    }
    out
}

/// Words per row of 32 16-bit numbers.
const ROW: usize = 16;

/// Interleaves pairs of rows of 32 16-bit numbers: `to[2 * i] = even[i]`, `to[2 * i + 1] = odd[i]`, in
/// memory order.
///
/// # Panics
/// When the slices differ in length.
pub(crate) fn interleave(isa: Isa, from: &[u32], to: &mut [u32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && isa.is_available() {
        // SAFETY: the processor has AVX-512.
        return unsafe { interleave_avx512(from, to) };
    }
    let _ = isa;
    for (pair, to) in from.chunks_exact(2 * ROW).zip(to.chunks_exact_mut(2 * ROW)) {
        let (even, odd) = pair.split_at(ROW);
        for ((to, even), odd) in to.chunks_exact_mut(2).zip(even).zip(odd) {
            let ([a, b, c, d], [e, f, g, h]) = (even.to_ne_bytes(), odd.to_ne_bytes());
            to[0] = u32::from_ne_bytes([a, b, e, f]);
            to[1] = u32::from_ne_bytes([c, d, g, h]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave_avx512(from: &[u32], to: &mut [u32]) {
    use std::arch::x86_64::*;
    // Indices into the second row start at 32.
    let mut places = [0i16; 64];
    places.iter_mut().enumerate().for_each(|(i, place)| *place = (i / 2 + i % 2 * 32) as i16);
    // SAFETY: there are 64 indices, 32 per register.
    let [low, high] = [0, 32].map(|i| unsafe { _mm512_loadu_si512(places.as_ptr().add(i).cast()) });
    for (pair, to) in from.chunks_exact(2 * ROW).zip(to.chunks_exact_mut(2 * ROW)) {
        // SAFETY: both the pair of rows and the result are two registers long.
        unsafe {
            let even = _mm512_loadu_si512(pair.as_ptr().cast());
            let odd = _mm512_loadu_si512(pair.as_ptr().add(ROW).cast());
            let made = [low, high].map(|places| _mm512_permutex2var_epi16(even, places, odd));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), made[0]);
            _mm512_storeu_si512(to.as_mut_ptr().add(ROW).cast(), made[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn narrow_matrices_are_transposed_side_by_side() {
        let from: Vec<u32> = (0..256).collect();
        for isa in Isa::available() {
            let mut to = vec![u32::MAX; 256];
            transpose_narrow(isa, [&from[..128], &from[128..]], &mut to);
            for (at, found) in to.iter().enumerate() {
                let (j, i) = (at / 32, at % 32);
                assert_eq!(*found as usize, i * NARROW + j, "{isa:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_element_is_transposed(rows in 0usize..50, columns in 0usize..50, more in 0usize..3) {
            let (from_stride, to_stride) = (columns + more, rows + 2 * more);
            let from: Vec<u32> = (0..(rows * from_stride) as u32).collect();
            for isa in Isa::available() {
                let mut to = vec![u32::MAX; columns * to_stride];
                transpose(isa, &from, from_stride, &mut to, to_stride, rows, columns);
                for (at, &found) in to.iter().enumerate() {
                    let (j, i) = (at / to_stride, at % to_stride);
                    let expected = if i < rows { from[i * from_stride + j] } else { u32::MAX };
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
