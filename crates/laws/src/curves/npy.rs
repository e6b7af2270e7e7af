//! Arrays of numbers in NumPy's format: version 1 to 3, little- or big-endian floats and integers.

use crate::error::{Error, Result};

/// A two-dimensional array of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The numbers, row by row.
    pub values: Vec<f64>,
}

/// The longest header that is read. NumPy's own limit is 10,000.
const HEADER: usize = 65_536;

impl Array {
    /// Reads the bytes of a `.npy` file.
    ///
    /// # Errors
    /// [`Error::Table`] says what is not supported or contradicts the length of the file.
    pub fn from_npy(bytes: &[u8]) -> Result<Self> {
        let (header, data) = split(bytes)?;
        let descr = value_of(header, "descr")?.trim_matches(['\'', '"']);
        let is_fortran = match value_of(header, "fortran_order")? {
            "True" => true,
            "False" => false,
            other => return fail(format!("fortran_order is {other}")),
        };
        let shape = shape_of(value_of(header, "shape")?)?;
        let width: usize = match descr.get(2..) {
            Some("1") => 1,
            Some("2") => 2,
            Some("4") => 4,
            Some("8") => 8,
            _ => return unsupported(descr),
        };
        let count = shape[0].checked_mul(shape[1]).filter(|n| n.checked_mul(width) == Some(data.len()));
        if count.is_none() {
            return fail(format!(
                "the shape {} x {} of '{descr}' does not fit {} bytes",
                shape[0],
                shape[1],
                data.len()
            ));
        }
        let read = reader(descr)?;
        let stored: Vec<f64> = data.chunks_exact(width).map(read).collect();
        let [rows, columns] = shape;
        let values = match is_fortran {
            false => stored,
            true => (0..rows)
                .flat_map(|row| (0..columns).map(move |c| c * rows + row))
                .map(|i| stored[i])
                .collect(),
        };
        Ok(Self { shape, values })
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.shape[1]..(row + 1) * self.shape[1]]
    }
}

fn fail<T>(problem: String) -> Result<T> {
    Err(Error::Table(format!("not a NumPy array that can be read: {problem}")))
}

fn unsupported<T>(descr: &str) -> Result<T> {
    let clean: String = descr.chars().filter(|c| !c.is_control()).take(20).collect();
    fail(format!("elements of type '{clean}'; save it as float64"))
}

/// The header and the data.
fn split(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let rest = match bytes.strip_prefix(b"\x93NUMPY") {
        Some(rest) if rest.len() >= 4 => rest,
        _ => return fail("it does not begin with \\x93NUMPY".to_owned()),
    };
    let (length, start) = match rest[0] {
        1 => (usize::from(u16::from_le_bytes([rest[2], rest[3]])), 4),
        2 | 3 if rest.len() >= 6 => (u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize, 6),
        version => return fail(format!("version {version} of the format")),
    };
    let end = start + length.min(HEADER + 1);
    let header = rest.get(start..end).filter(|_| length <= HEADER);
    match header.map(std::str::from_utf8) {
        Some(Ok(header)) => Ok((header, &rest[end..])),
        _ => fail("its header is cut off or not text".to_owned()),
    }
}

/// The value of a key of the header, a Python dictionary of three keys.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let found = [format!("'{key}':"), format!("\"{key}\":")]
        .iter()
        .find_map(|quoted| header.split_once(quoted.as_str()).map(|(_, rest)| rest.trim_start()));
    let Some(rest) = found else { return fail(format!("its header has no {key}")) };
    let end = match rest.starts_with('(') {
        true => rest.find(')').map(|end| end + 1),
        false => rest.find([',', '}']),
    };
    match end {
        Some(end) => Ok(rest[..end].trim()),
        None => fail(format!("the {key} of its header does not end")),
    }
}

fn shape_of(text: &str) -> Result<[usize; 2]> {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let numbers: std::result::Result<Vec<usize>, _> =
        inner.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse).collect();
    match numbers.as_deref() {
        Ok([rows, columns]) => Ok([*rows, *columns]),
        Ok(other) => fail(format!("it has {} dimensions; a curve has two: steps and seeds", other.len())),
        Err(_) => fail("its shape is not a list of numbers".to_owned()),
    }
}

/// What turns the bytes of an element into a number.
fn reader(descr: &str) -> Result<fn(&[u8]) -> f64> {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("the chunk has the width of the type")
    }
    Ok(match descr {
        "<f8" | "=f8" => |b| f64::from_le_bytes(array(b)),
        ">f8" => |b| f64::from_be_bytes(array(b)),
        "<f4" | "=f4" => |b| f64::from(f32::from_le_bytes(array(b))),
        ">f4" => |b| f64::from(f32::from_be_bytes(array(b))),
        "<i8" => |b| i64::from_le_bytes(array(b)) as f64,
        "<i4" => |b| f64::from(i32::from_le_bytes(array(b))),
        "<i2" => |b| f64::from(i16::from_le_bytes(array(b))),
        "|i1" => |b| f64::from(i8::from_le_bytes(array(b))),
        "<u8" => |b| u64::from_le_bytes(array(b)) as f64,
        "<u4" => |b| f64::from(u32::from_le_bytes(array(b))),
        "<u2" => |b| f64::from(u16::from_le_bytes(array(b))),
        "|u1" => |b| f64::from(b[0]),
        other => return unsupported(other),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that `numpy.save` writes.
    pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn both_orders_and_several_types_are_read() {
        let doubles: Vec<u8> =
            [1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let rows = Array::from_npy(&npy("<f8", false, "(2, 3)", &doubles)).unwrap();
        assert_eq!((rows.shape, rows.row(1)), ([2, 3], [4.0, 5.0, 6.0].as_slice()));
        let columns = Array::from_npy(&npy("<f8", true, "(2, 3)", &doubles)).unwrap();
        assert_eq!(columns.values, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        let singles: Vec<u8> = [0.5_f32, -2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
        assert_eq!(Array::from_npy(&npy(">f4", false, "(1, 2)", &singles)).unwrap().values, [0.5, -2.0]);
        let integers: Vec<u8> = [7_i32, -9].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(Array::from_npy(&npy("<i4", false, "(2, 1)", &integers)).unwrap().values, [7.0, -9.0]);
    }

    #[test]
    fn what_is_not_such_an_array_is_refused() {
        let cases = [
            (npy("<f8", false, "(2, 3)", &[0; 40]), "does not fit 40 bytes"),
            (npy("<f8", false, "(99999999999, 99999999999)", &[0; 8]), "does not fit"),
            (npy("<f8", false, "(2,)", &[0; 16]), "1 dimensions"),
            (npy("|O", false, "(1, 1)", &[0; 8]), "save it as float64"),
            (npy("<c8", false, "(1, 1)", &[0; 8]), "save it as float64"),
            (b"PK\x03\x04....".to_vec(), "does not begin"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "cut off"),
            (b"\x93NUMPY\x09\x00\x01\x00 ".to_vec(), "version 9"),
        ];
        for (bytes, expected) in cases {
            let error = Array::from_npy(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_do_not_panic(at in 0..90_usize, byte: u8, cut in 0..100_usize) {
            let mut bytes = npy("<f8", true, "(2, 3)", &[0; 48]);
            let index = at % bytes.len();
            bytes[index] = byte;
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            let _ = Array::from_npy(&bytes);
        }
    }
}
