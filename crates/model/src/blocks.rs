//! ggml's block formats: small integers with one scale, and in some formats one offset, per 16 or 32 of
//! them.
//!
//! The K formats have blocks of 256 numbers, whose sub-blocks have small scales of their own; the effective
//! scale is the product of both. Every weight is `value * scale + offset`. In formats with offsets, values
//! and scales are so short that their product is exact and only the sum is rounded.

use fathom_kernels::QuantBlocks;
use half::f16;

/// A block format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

/// The supported tensor types of GGUF files.
pub const GGML_TYPES: &str =
    "F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS and MXFP4";

/// ggml's name of a type number.
pub(crate) fn ggml_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return format!("ggml's type {kind}"),
    };
    name.to_owned()
}

/// The values of IQ4_NL and IQ4_XS, indexed by four bits.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of the 4-bit floats of MXFP4.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Numbers per block of the formats without a K.
const SMALL: usize = 32;

/// Numbers per block of the K formats.
const LARGE: usize = 256;

impl Format {
    /// The format of ggml's type number.
    pub(crate) fn from_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            20 => Self::Iq4Nl,
            23 => Self::Iq4Xs,
            39 => Self::Mxfp4,
            _ => return None,
        })
    }

    /// Numbers per block.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl | Self::Mxfp4 => {
                SMALL
            }
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => LARGE,
        }
    }

    /// Bytes per block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Iq4Nl => 18,
            Self::Iq4Xs => 136,
            Self::Mxfp4 => 17,
        }
    }

    /// Numbers that share a scale.
    pub(crate) fn numbers_per_scale(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// When `to` does not have one value per number and one scale and offset per
    /// [`Self::numbers_per_scale`] numbers.
    pub(crate) fn read(self, blocks: &[u8], to: QuantBlocks<'_>) {
        let numbers = blocks.len() / self.bytes() * self.numbers();
        assert_eq!([to.values.len(), to.scales.len()], [numbers, numbers / self.numbers_per_scale()]);
        assert_eq!(to.scales.len(), to.offsets.len());
        let scales = self.numbers() / self.numbers_per_scale();
        let values = to.values.chunks_exact_mut(self.numbers());
        let scales = to.scales.chunks_exact_mut(scales).zip(to.offsets.chunks_exact_mut(scales));
        for ((block, values), (scales, offsets)) in blocks.chunks_exact(self.bytes()).zip(values).zip(scales)
        {
            offsets.fill(0.0);
            let to = QuantBlocks { values, scales, offsets };
            match self {
                Self::Q4_0 => small(block, 2, None, -8, to),
                Self::Q4_1 => small(block, 4, None, 0, to),
                Self::Q5_0 => small(block, 6, Some(2), -16, to),
                Self::Q5_1 => small(block, 8, Some(4), 0, to),
                Self::Q8_0 => q8_0(block, to),
                Self::Q2K => q2_k(block, to),
                Self::Q3K => q3_k(block, to),
                Self::Q4K => q4_k_or_q5_k(block, None, 16, to),
                Self::Q5K => q4_k_or_q5_k(block, Some(16), 48, to),
                Self::Q6K => q6_k(block, to),
                Self::Iq4Nl => {
                    to.scales[0] = float(block, 0);
                    chosen(&IQ4, &block[2..], to.values);
                }
                Self::Iq4Xs => iq4_xs(block, to),
                Self::Mxfp4 => {
                    to.scales[0] = half_power_of_two(block[0]);
                    chosen(&E2M1, &block[1..], to.values);
                }
            }
        }
    }
}

/// The half-precision float at an offset of a block.
fn float(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Blocks of 32 numbers of 4 bits, the first 16 in the lower nibbles of the bytes from `low` on; optionally a
/// fifth bit each from `high` on; a scale, and an offset in the formats that have one.
fn small(block: &[u8], low: usize, high: Option<usize>, zero: i8, to: QuantBlocks<'_>) {
    to.scales[0] = float(block, 0);
    if zero == 0 {
        to.offsets[0] = float(block, 2);
    }
    let (first, second) = to.values.split_at_mut(SMALL / 2);
    for ((byte, first), second) in block[low..].iter().zip(first).zip(second) {
        (*first, *second) = ((byte & 15) as i8 + zero, (byte >> 4) as i8 + zero);
    }
    if let Some(high) = high {
        for (i, value) in to.values.iter_mut().enumerate() {
            *value += (block[high + i / 8] >> (i % 8) & 1) as i8 * 16;
        }
    }
}

fn q8_0(block: &[u8], to: QuantBlocks<'_>) {
    to.scales[0] = float(block, 0);
    to.values.iter_mut().zip(&block[2..]).for_each(|(value, byte)| *value = *byte as i8);
}

/// Two bits of number `i`: each half of a block has 32 bytes, whose lowest bits are its first numbers.
fn two_bits(bytes: &[u8], i: usize) -> i8 {
    (bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) as i8
}

fn q2_k(block: &[u8], to: QuantBlocks<'_>) {
    let (small, bits) = (&block[..16], &block[16..80]);
    let (scale, offset) = (float(block, 80), float(block, 82));
    for (i, byte) in small.iter().enumerate() {
        to.scales[i] = scale * f32::from(byte & 15);
        to.offsets[i] = -(offset * f32::from(byte >> 4));
    }
    to.values.iter_mut().enumerate().for_each(|(i, value)| *value = two_bits(bits, i));
}

fn q3_k(block: &[u8], to: QuantBlocks<'_>) {
    let (high, bits, small) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = float(block, 108);
    for (i, to) in to.scales.iter_mut().enumerate() {
        // Four bits in the first eight bytes, two more in the last four.
        let low = small[i % 8] >> (i / 8 * 4) & 15;
        let six = low | (small[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
        *to = scale * (f32::from(six) - 32.0);
    }
    for (i, value) in to.values.iter_mut().enumerate() {
        *value = two_bits(bits, i) + (high[i % 32] >> (i / 32) & 1) as i8 * 4 - 4;
    }
}

/// 4 bits a number from `low` on, 32 numbers in the lower and the next 32 in the upper halves of 32
/// bytes, and a fifth bit of each from `high` on; scales and offsets of 6 bits.
fn q4_k_or_q5_k(block: &[u8], high: Option<usize>, low: usize, to: QuantBlocks<'_>) {
    let (scale, offset, small) = (float(block, 0), float(block, 2), &block[4..16]);
    for i in 0..8 {
        let [s, o] = match i {
            0..4 => [small[i] & 63, small[i + 4] & 63],
            // The upper bits are left over from the first four.
            _ => [small[i + 4] & 15 | small[i - 4] >> 6 << 4, small[i + 4] >> 4 | small[i] >> 6 << 4],
        };
        to.scales[i] = scale * f32::from(s);
        to.offsets[i] = -(offset * f32::from(o));
    }
    for (i, value) in to.values.iter_mut().enumerate() {
        let four = block[low + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
        let fifth = high.map_or(0, |high| block[high + i % 32] >> (i / 32) & 1);
        *value = (four | fifth << 4) as i8;
    }
}

fn q6_k(block: &[u8], to: QuantBlocks<'_>) {
    let (low, high, small) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = float(block, 208);
    to.scales.iter_mut().zip(small).for_each(|(to, small)| *to = scale * f32::from(*small as i8));
    for (i, value) in to.values.iter_mut().enumerate() {
        let four = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        *value = (four as i8 | two_bits(high, i) << 4) - 32;
    }
}

/// 32 values selected by 4 bits each, the first 16 by lower nibbles.
fn chosen(values: &[i8; 16], bytes: &[u8], to: &mut [i8]) {
    let (first, second) = to.split_at_mut(SMALL / 2);
    for ((byte, first), second) in bytes.iter().zip(first).zip(second) {
        (*first, *second) = (values[usize::from(byte & 15)], values[usize::from(byte >> 4)]);
    }
}

/// A scale, eight more of 6 bits, two of them in the upper and four in the lower bytes, and 4 bits a
/// number.
fn iq4_xs(block: &[u8], to: QuantBlocks<'_>) {
    let (scale, high) = (float(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for (i, values) in to.values.chunks_exact_mut(SMALL).enumerate() {
        let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
        let six = low | ((high >> (2 * i)) as u8 & 3) << 4;
        to.scales[i] = scale * (f32::from(six) - 32.0);
        chosen(&IQ4, &block[8 + i * SMALL / 2..], values);
    }
}

/// Twice the 4-bit float of four bits.
pub(crate) fn twice_e2m1(bits: u8) -> i8 {
    E2M1[usize::from(bits & 15)]
}

/// Half the power of two of a biased 8-bit exponent.
pub(crate) fn half_power_of_two(exponent: u8) -> f32 {
    match exponent {
        // Below the smallest normal number.
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::CpuStorage;
    use candle_core::quantized::GgmlDType;
    use proptest::prelude::*;

    const ALL: [(Format, GgmlDType, &[usize]); 10] = [
        (Format::Q4_0, GgmlDType::Q4_0, &[0]),
        (Format::Q4_1, GgmlDType::Q4_1, &[0, 2]),
        (Format::Q5_0, GgmlDType::Q5_0, &[0]),
        (Format::Q5_1, GgmlDType::Q5_1, &[0, 2]),
        (Format::Q8_0, GgmlDType::Q8_0, &[0]),
        (Format::Q2K, GgmlDType::Q2K, &[80, 82]),
        (Format::Q3K, GgmlDType::Q3K, &[108]),
        (Format::Q4K, GgmlDType::Q4K, &[0, 2]),
        (Format::Q5K, GgmlDType::Q5K, &[0, 2]),
        (Format::Q6K, GgmlDType::Q6K, &[208]),
    ];

    fn weights(format: Format, bytes: &[u8]) -> Vec<f32> {
        let numbers = bytes.len() / format.bytes() * format.numbers();
        let scales = numbers / format.numbers_per_scale();
        let (mut values, mut s, mut o) = (vec![0; numbers], vec![0.0; scales], vec![0.0; scales]);
        format.read(bytes, QuantBlocks { values: &mut values, scales: &mut s, offsets: &mut o });
        let scale = |i: usize| i / format.numbers_per_scale();
        let fused = |(i, value): (usize, &i8)| f32::from(*value).mul_add(s[scale(i)], o[scale(i)]);
        for (i, value) in values.iter().enumerate() {
            let twice_rounded = f32::from(*value) * s[scale(i)] + o[scale(i)];
            assert_eq!(fused((i, value)), twice_rounded, "{format:?}: the product must be exact");
        }
        values.iter().enumerate().map(fused).collect()
    }

    proptest! {
        /// Every bit of a block may be anything, but for scales that are not finite, which a
        /// checkpoint is refused for.
        #[test]
        fn weights_are_those_that_another_library_reads(bytes in proptest::collection::vec(any::<u8>(), 2 * 210)) {
            for (format, other, floats) in ALL {
                prop_assert_eq!((format.bytes(), format.numbers()), (other.type_size(), other.block_size()));
                let mut bytes = bytes[..2 * format.bytes()].to_vec();
                for block in bytes.chunks_exact_mut(format.bytes()) {
                    for at in floats.iter().filter(|at| !float(block, **at).is_finite()).collect::<Vec<_>>() {
                        block[at + 1] &= 0x3f;
                    }
                }
                let expected = other.from_data(bytes[..].into()).dequantize(2 * format.numbers()).unwrap();
                let CpuStorage::F32(expected) = expected else { panic!("{expected:?}") };
                prop_assert_eq!(weights(format, &bytes), expected, "{:?}", format);
            }
        }
    }
}
