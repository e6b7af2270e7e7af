//! Random numbers that are the same on every machine and in every version.
//!
//! Both generators are streams of 32-bit words. Draws are made from the words as in CPython's `random` module, so
//! [`Rng::Python`] gives exactly the numbers of CPython.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rand_mt::Mt;

use crate::DataError;

/// A random number generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rng {
    /// ChaCha with 8 rounds; the key is the seed in little-endian order, padded with zeros.
    #[default]
    Native,
    /// The Mersenne Twister MT19937, seeded as CPython's `random.seed` does with an integer.
    Python,
}

impl Rng {
    /// Starts a stream of draws.
    pub fn seeded(self, seed: u64) -> Random {
        Random {
            words: match self {
                Self::Native => Words::Native(Box::new(native(seed))),
                Self::Python => Words::Python(Box::new(python(seed))),
            },
        }
    }
}

impl fmt::Display for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Python => "python",
        })
    }
}

impl FromStr for Rng {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "native" => Ok(Self::Native),
            "python" => Ok(Self::Python),
            _ => Err(DataError::UnknownRng { name: name.to_owned() }),
        }
    }
}

/// A stream of draws, with the operations of CPython's `random.Random`.
#[derive(Debug, Clone)]
pub struct Random {
    words: Words,
}

#[derive(Debug, Clone)]
enum Words {
    Native(Box<ChaCha8Rng>),
    Python(Box<Mt>),
}

impl Random {
    /// The stream of `random.Random(seed)` in CPython.
    pub fn python(seed: u64) -> Self {
        Rng::Python.seeded(seed)
    }

    /// The stream of Fathom's own generator.
    pub fn native(seed: u64) -> Self {
        Rng::Native.seeded(seed)
    }

    /// A number of `bits` random bits.
    ///
    /// # Panics
    /// If `bits` is more than 64.
    pub fn getrandbits(&mut self, bits: u32) -> u64 {
        assert!(bits <= 64, "getrandbits draws at most 64 bits, not {bits}");
        self.wide_bits(bits) as u64
    }

    /// A number from 0 up to, but not including, `bound`; 0 if `bound` is 0.
    pub fn randbelow(&mut self, bound: u64) -> u64 {
        self.wide_below(bound.into()) as u64
    }

    /// A number from `low` to `high`, both included.
    ///
    /// # Panics
    /// If `low` is greater than `high`.
    pub fn randint(&mut self, low: i64, high: i64) -> i64 {
        assert!(low <= high, "randint needs low <= high, not {low} and {high}");
        let width = i128::from(high) - i128::from(low) + 1;
        (i128::from(low) + self.wide_below(width as u128) as i128) as i64
    }

    /// A number from 0 up to, but not including, 1, with 53 random bits.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.word() >> 5);
        let low = f64::from(self.word() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// Shuffles the items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.randbelow(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }

    fn word(&mut self) -> u32 {
        match &mut self.words {
            Words::Native(rng) => rng.next_u32(),
            Words::Python(rng) => rng.next_u32(),
        }
    }

    /// Fills a number from its low end, a word at a time. The last word contributes its upper bits.
    fn wide_bits(&mut self, bits: u32) -> u128 {
        let mut value = 0;
        for start in (0..bits).step_by(32) {
            let missing = (bits - start).min(32);
            value |= u128::from(self.word() >> (32 - missing)) << start;
        }
        value
    }

    /// Draws again until the number is small enough. The number of bits is that of `bound` and not
    /// of `bound - 1`, as in CPython: otherwise a bound of 2^n would draw a different number.
    fn wide_below(&mut self, bound: u128) -> u128 {
        if bound == 0 {
            return 0;
        }
        let bits = u128::BITS - bound.leading_zeros();
        loop {
            let value = self.wide_bits(bits);
            if value < bound {
                return value;
            }
        }
    }
}

fn native(seed: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// CPython's key is the seed cut into 32-bit words, lowest first, without leading zeros.
fn python(seed: u64) -> Mt {
    let low = seed as u32;
    match (seed >> 32) as u32 {
        0 => Mt::new_with_key([low]),
        high => Mt::new_with_key([low, high]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From CPython 3.11: for each seed three times `getrandbits(32)`, then `getrandbits` of 1, 33,
    /// 53, 64 and 0 bits, then `random()`.
    #[test]
    fn python_stream() {
        #[rustfmt::skip]
        let goldens: [(u64, [u64; 8], f64); 8] = [
            (0, [3626764237, 1654615998, 3255389356, 1, 1806341205, 8696133065399866, 8963783824838420066, 0], 0.4049341374504143),
            (1, [577090037, 2444712010, 3639700191, 1, 3280387012, 1062116443042876, 14037279428536751483, 0], 0.4494910647887381),
            (42, [2746317213, 478163327, 107420369, 1, 1181241943, 1256845828445918, 1890702223848595625, 0], 0.6766994874229113),
            (0xffff_ffff, [2728839433, 2661025012, 872737089, 0, 6903586996, 5431799145887495, 17738468367075643398, 0], 0.3811162164237829),
            (1 << 32, [485306839, 1508871100, 1794561286, 1, 71624475, 7891146040264457, 14062563923815490048, 0], 0.33151119826617415),
            ((1 << 32) + 1, [991850117, 2151679444, 2200792185, 1, 6075586351, 2416963174739436, 4588904402092198942, 0], 0.6859959008046673),
            (0x0123_4567_89ab_cdef, [3851240871, 1496727489, 1688815724, 0, 8000708917, 6698453301863091, 13665224716143194999, 0], 0.18454389134382376),
            (u64::MAX, [93740670, 1068495656, 1452108352, 1, 910393425, 855843595150787, 16617046528768934132, 0], 0.3710442168116028),
        ];
        for (seed, words, real) in goldens {
            let mut random = Random::python(seed);
            let drawn = [32, 32, 32, 1, 33, 53, 64, 0].map(|bits| random.getrandbits(bits));
            assert_eq!(drawn, words, "seed {seed}");
            assert_eq!(random.random(), real, "seed {seed}");
        }
    }

    #[test]
    fn python_randbelow() {
        let mut random = Random::python(7);
        let bounds = [1, 2, 3, 10, 1 << 31, 1 << 32, (1 << 32) + 1, 10u64.pow(18), 1 << 63, u64::MAX];
        let wanted = [
            0,
            0,
            1,
            0,
            311111475,
            404285457,
            2503055453,
            585033575357898132,
            691672907343361484,
            7999350999753991002,
        ];
        assert_eq!(bounds.map(|bound| random.randbelow(bound)), wanted);
        assert_eq!(random.randbelow(0), 0);
    }

    #[test]
    fn python_randint() {
        let mut random = Random::python(42);
        let low_high = (100_000, 999_999);
        let drawn: [i64; 8] = std::array::from_fn(|_| random.randint(low_high.0, low_high.1));
        let wanted = [770487, 216739, 126225, 877572, 388389, 356787, 334053, 246316];
        assert_eq!(drawn, wanted);

        let mut random = Random::python(9);
        let ranges = [
            (-5, 5),
            (0, 0),
            (i64::MIN, i64::MAX),
            (i64::MIN, i64::MIN + 1),
            (10i64.pow(17), 10i64.pow(18) - 1),
        ];
        let wanted = [2, 0, -6667770931565106180, -9223372036854775808, 679668269692911670];
        assert_eq!(ranges.map(|(low, high)| random.randint(low, high)), wanted);
    }

    #[test]
    fn python_shuffle() {
        let mut positions: Vec<usize> = (8..145).step_by(8).collect();
        Random::python(123).shuffle(&mut positions);
        let wanted = [64, 80, 32, 120, 96, 88, 128, 48, 136, 112, 8, 144, 40, 56, 104, 24, 72, 16];
        assert_eq!(positions, wanted);
        Random::python(1).shuffle::<u8>(&mut []);
    }

    /// The words come from a reference ChaCha8 in Python: the first three of the stream, and the first two of its
    /// fifth block.
    #[test]
    fn native_stream() {
        let goldens = [
            (42, [428845191, 1495741553, 379451179], [3552052999, 230250512]),
            ((1 << 40) + 3, [2863647535, 676929996, 2288143067], [3585035769, 951417853]),
        ];
        for (seed, start, fifth) in goldens {
            let mut random = Random::native(seed);
            let words: Vec<u64> = (0..66).map(|_| random.getrandbits(32)).collect();
            assert_eq!(words[..3], start, "seed {seed}");
            assert_eq!(words[64..], fifth, "seed {seed}");
        }
    }

    #[test]
    fn native_draws_are_uniform() {
        let mut random = Random::native(1);
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[random.randbelow(6) as usize] += 1;
        }
        // Five standard deviations are 456.
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn names_of_generators() {
        for rng in [Rng::Native, Rng::Python] {
            assert_eq!(rng.to_string().parse::<Rng>().unwrap(), rng);
        }
        assert!("numpy".parse::<Rng>().unwrap_err().to_string().contains("`native` or `python`"));
    }
}
