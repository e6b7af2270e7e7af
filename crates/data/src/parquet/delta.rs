//! Lengths encoded as differences (`DELTA_BINARY_PACKED`): their number, sum and end. Needed because the library
//! reserves memory for as many as the file announces.

/// The sum of the encoded lengths and the offset of the byte after them. `None` if there are more than `most` or the
/// bytes are invalid.
pub(super) fn measure(bytes: &[u8], most: usize) -> Option<(u64, usize)> {
    let mut cursor = Cursor { bytes, at: 0 };
    let block = cursor.count()?;
    let parts = cursor.count()?;
    let mut left = cursor.count().filter(|count| *count <= most)?;
    let mut value = cursor.zigzag()? as i32;
    let each = block.checked_div(parts).filter(|each| *each > 0 && each % 32 == 0)?;
    if left == 0 {
        return Some((0, cursor.at));
    }
    let mut sum = value.max(0) as u64;
    left -= 1;
    while left > 0 {
        let least = cursor.zigzag()? as i32;
        let widths = cursor.take(parts)?;
        for width in widths {
            if left == 0 {
                break;
            }
            let width = usize::from(*width);
            let packed = cursor.take(each.checked_mul(width)? / 8)?;
            for place in 0..each.min(left) {
                value = value.wrapping_add(least).wrapping_add(unpack(packed, place * width, width)? as i32);
                sum = sum.saturating_add(value.max(0) as u64);
            }
            left -= each.min(left);
        }
    }
    Some((sum, cursor.at))
}

/// The number of `width` bits, at most 32, that starts at `bit`.
fn unpack(bytes: &[u8], bit: usize, width: usize) -> Option<u32> {
    if width > 32 {
        return None;
    }
    let part = bytes.get(bit / 8..(bit + width).div_ceil(8))?;
    let whole = part.iter().rev().fold(0u64, |whole, byte| whole << 8 | u64::from(*byte));
    Some((whole >> (bit % 8) & ((1 << width) - 1)) as u32)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn count(&mut self) -> Option<usize> {
        self.varint()?.try_into().ok()
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of the format's documentation, 1 to 5, and the second: 7, 5, 3, 1, 2, 3, 4, 5.
    #[test]
    fn examples_of_the_format() {
        let first = [0x80, 0x01, 4, 5, 2, 2, 0, 0, 0, 0];
        assert_eq!(measure(&first, 5), Some((15, 10)));
        assert_eq!(measure(&first, 4), None);
        // Differences of -2 three times and then 1, less their smallest: 0, 0, 0, 3, 3, 3, 3 in two bits.
        let packed = [0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0];
        let second = [&[0x80, 0x01, 4, 8, 14, 3, 2, 0, 0, 0][..], &packed, b"rest"].concat();
        assert_eq!(measure(&second, 8), Some((30, 18)));
        assert_eq!(measure(&second[..12], 8), None);
    }

    /// A few bytes that announce two billion lengths.
    #[test]
    fn more_lengths_than_values_are_refused() {
        assert_eq!(measure(&[0x80, 0x01, 4, 0xff, 0xff, 0xff, 0xff, 7, 0, 0, 0], 1 << 22), None);
        assert_eq!(measure(&[0x80, 0x01, 0, 5, 0], 9), None);
        assert_eq!(measure(&[], 9), None);
    }
}
