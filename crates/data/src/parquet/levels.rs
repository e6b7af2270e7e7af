//! Small numbers in runs and packed bits: levels, and places in dictionaries.

use super::Fault;

/// Reads numbers one by one, so that a run of a billion takes no memory.
#[derive(Debug)]
pub(super) struct Levels {
    at: usize,
    end: usize,
    width: u32,
    run: Run,
}

#[derive(Debug)]
enum Run {
    Repeated {
        value: u32,
        left: u64,
    },
    /// `bit` counts from the first bit of the byte at `Levels::at`.
    Packed {
        bit: u64,
        left: u64,
    },
}

impl Levels {
    /// Numbers of `width` bits each in the bytes from `at` to `end`.
    pub(super) fn new(at: usize, end: usize, width: u32) -> Result<Self, Fault> {
        if width > 32 {
            return Err(Fault::damaged("numbers in a page are wider than 32 bits"));
        }
        Ok(Self { at, end, width, run: Run::Repeated { value: 0, left: 0 } })
    }

    /// Numbers from 0 to `most`.
    pub(super) fn up_to(most: u32, at: usize, end: usize) -> Result<Self, Fault> {
        Self::new(at, end, u32::BITS - most.leading_zeros())
    }

    pub(super) fn next(&mut self, page: &[u8]) -> Result<u32, Fault> {
        if self.width == 0 {
            return Ok(0);
        }
        loop {
            match &mut self.run {
                Run::Repeated { value, left } if *left > 0 => {
                    *left -= 1;
                    return Ok(*value);
                }
                Run::Packed { bit, left } if *left > 0 => {
                    *left -= 1;
                    let value = unpack(&page[self.at..self.end], *bit, self.width)?;
                    *bit += u64::from(self.width);
                    if *left == 0 {
                        let bytes = usize::try_from(*bit / 8).unwrap_or(usize::MAX);
                        self.at = self.at.saturating_add(bytes).min(self.end);
                    }
                    return Ok(value);
                }
                _ => self.run = self.start(page)?,
            }
        }
    }

    fn start(&mut self, page: &[u8]) -> Result<Run, Fault> {
        let mut header = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte(page)?;
            header |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        if header & 1 == 1 {
            return Ok(Run::Packed { bit: 0, left: (header >> 1) * 8 });
        }
        let mut value = 0;
        for byte in 0..self.width.div_ceil(8) {
            value |= u32::from(self.byte(page)?) << (8 * byte);
        }
        Ok(Run::Repeated { value, left: header >> 1 })
    }

    fn byte(&mut self, page: &[u8]) -> Result<u8, Fault> {
        if self.at >= self.end {
            return Err(Fault::damaged("a page holds fewer values than it says"));
        }
        self.at += 1;
        Ok(page[self.at - 1])
    }
}

/// The number whose lowest bit is the given one, counted from the lowest bit of the first byte.
fn unpack(bytes: &[u8], bit: u64, width: u32) -> Result<u32, Fault> {
    let short = Fault::damaged("a page holds fewer values than it says");
    let Ok(first) = usize::try_from(bit / 8) else { return Err(short) };
    let shift = (bit % 8) as u32;
    let count = (shift + width).div_ceil(8) as usize;
    let Some(part) = first.checked_add(count).and_then(|last| bytes.get(first..last)) else {
        return Err(short);
    };
    let whole = part.iter().rev().fold(0u64, |whole, byte| whole << 8 | u64::from(*byte));
    Ok((whole >> shift & ((1 << width) - 1)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: &[u8], width: u32, count: usize) -> Result<Vec<u32>, Fault> {
        let mut levels = Levels::new(0, page.len(), width)?;
        (0..count).map(|_| levels.next(page)).collect()
    }

    /// The packed bytes are the example of the format's documentation: 0 to 7 in three bits each.
    #[test]
    fn packed_and_repeated() {
        let packed = [0x03, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(read(&packed, 3, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        let mixed = [&[0x06, 0x05][..], &packed, &[0x04, 0x01]].concat();
        assert_eq!(read(&mixed, 3, 13).unwrap(), [5, 5, 5, 0, 1, 2, 3, 4, 5, 6, 7, 1, 1]);
        assert!(read(&mixed, 3, 14).is_err());
        assert_eq!(read(&[0x02, 0x34, 0x12], 13, 1).unwrap(), [0x1234]);
        assert_eq!(read(&[], 0, 3).unwrap(), [0; 3]);
        assert!(read(&[0x03, 0xff], 3, 4).is_err());
        assert!(read(&[], 33, 0).is_err());
    }
}
