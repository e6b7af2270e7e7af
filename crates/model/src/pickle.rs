//! The state dictionary in a PyTorch file: the few pickle operations that `torch.save` writes. None of them
//! runs code.
//!
//! The file is untrusted, and a general pickle reader can easily be made to use up all memory or stack: a
//! few bytes can fetch a value from the memo a million times or nest it a million deep. Here every operation
//! creates at most one node of fixed size that refers to others by index. Nothing is copied or walked
//! recursively, and memory is a fixed multiple of the size of the pickle, which is limited.

use std::collections::HashMap;

/// Maximum size of a pickle: enough for the names and shapes of some 25,000 tensors.
const MAX_BYTES: usize = 4 << 20;

/// Maximum number of axes of a tensor.
const MAX_AXES: usize = 8;

/// A tensor of the dictionary.
#[derive(Debug, PartialEq)]
pub(crate) struct Stored<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// The PyTorch class of its storage: `FloatStorage`, ...
    pub(crate) class: &'a str,
    /// The name of its storage in the archive.
    pub(crate) storage: &'a str,
    /// The index of its first element in the storage.
    pub(crate) offset: usize,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// The stride of each axis, in elements.
    pub(crate) strides: Vec<usize>,
}

/// Reads the tensors of a state dictionary.
///
/// # Errors
/// Describes what is wrong with the pickle.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Stored<'_>>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("its pickle of {} bytes is longer than the {MAX_BYTES} allowed", bytes.len()));
    }
    let mut reader = Reader { bytes, ..Reader::default() };
    let root = loop {
        match reader.step() {
            Some(None) => {}
            Some(Some(root)) => break root,
            None => {
                let at = bytes.len() - reader.bytes.len();
                return Err(format!("its pickle is damaged or of an unknown kind, near byte {at}"));
            }
        }
    };
    if !matches!(reader.node(root), Node::Dict) {
        return Err("it does not hold a state dictionary".into());
    }
    let items = reader.items.iter().filter(|item| item.0 == root);
    Ok(items.filter_map(|(_, name, value)| reader.tensor(*name, *value)).collect())
}

/// A value. It refers to others by their index among the nodes, which is always lower than its own.
#[derive(Clone, Copy)]
enum Node<'a> {
    /// Anything that tensors do not consist of: `None`, floats, lists, ...
    Other,
    Int(i64),
    Text(&'a str),
    /// Module and name, separated by a line break.
    Global(&'a str),
    /// Start and end among the parts.
    Tuple(u32, u32),
    Dict,
    Persistent(u32),
    /// Callable and arguments.
    Call(u32, u32),
}

#[derive(Default)]
struct Reader<'a> {
    /// The rest of the pickle.
    bytes: &'a [u8],
    nodes: Vec<Node<'a>>,
    /// The parts of all tuples.
    parts: Vec<u32>,
    /// Dictionary, key and value of all items.
    items: Vec<(u32, u32, u32)>,
    stack: Vec<u32>,
    /// Stack heights.
    marks: Vec<usize>,
    memo: HashMap<u32, u32>,
}

impl<'a> Reader<'a> {
    /// Executes one operation. Returns the root node at the end, and `None` if the pickle is damaged.
    fn step(&mut self) -> Option<Option<u32>> {
        let [op] = self.take()?;
        match op {
            b'.' => return Some(Some(self.pop()?)),
            0x80 => {
                self.take::<1>()?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 | b']' => self.push(Node::Other),
            b'G' => {
                self.take::<8>()?;
                self.push(Node::Other);
            }
            b'}' => self.push(Node::Dict),
            b'K' => {
                let [value] = self.take()?;
                self.push(Node::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Node::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Node::Int(value.into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let len = self.u32()?;
                let text = self.text(len as usize)?;
                self.push(Node::Text(text));
            }
            b'c' => {
                let mut ends = self.bytes.iter().enumerate().filter(|b| *b.1 == b'\n').map(|b| b.0);
                let len = ends.nth(1)?;
                let global = self.text(len)?;
                self.take::<1>()?;
                self.push(Node::Global(global));
            }
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b't' => {
                let count = self.count()?;
                self.tuple(count)?;
            }
            b'q' | b'h' => {
                let [id] = self.take()?;
                self.remember(op == b'q', id.into())?;
            }
            b'r' | b'j' => {
                let id = self.u32()?;
                self.remember(op == b'r', id)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.push(match self.node(callable) {
                    Node::Global("collections\nOrderedDict" | "collections\ndefaultdict") => Node::Dict,
                    _ => Node::Call(callable, args),
                });
            }
            // Tensors use neither the state of an object nor the members of a list.
            b'b' | b'a' => {
                self.pop()?;
            }
            b'e' => {
                let count = self.count()?;
                self.stack.truncate(self.stack.len() - count);
            }
            b's' => self.set(2)?,
            b'u' => {
                let count = self.count()?;
                self.set(count)?;
            }
            _ => return None,
        }
        Some(None)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take()?))
    }

    fn text(&mut self, len: usize) -> Option<&'a str> {
        let (text, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        std::str::from_utf8(text).ok()
    }

    /// An integer of up to eight bytes.
    fn long(&mut self) -> Option<()> {
        let [len] = self.take()?;
        let (digits, rest) = self.bytes.split_at_checked(len.into())?;
        self.bytes = rest;
        let sign = if digits.last().is_some_and(|d| *d > 127) { 0xff } else { 0 };
        let mut raw = [sign; 8];
        raw.get_mut(..digits.len())?.copy_from_slice(digits);
        self.push(Node::Int(i64::from_le_bytes(raw)));
        Some(())
    }

    /// Indices fit into `u32` because the pickle's size is limited.
    fn push(&mut self, node: Node<'a>) {
        self.stack.push(self.nodes.len() as u32);
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Option<u32> {
        self.stack.pop()
    }

    /// Pops the last mark and returns the number of values above it.
    fn count(&mut self) -> Option<usize> {
        self.stack.len().checked_sub(self.marks.pop()?)
    }

    fn tuple(&mut self, count: usize) -> Option<()> {
        let (start, first) = (self.parts.len() as u32, self.stack.len().checked_sub(count)?);
        self.parts.extend(self.stack.drain(first..));
        self.push(Node::Tuple(start, self.parts.len() as u32));
        Some(())
    }

    /// Adds the last `count` values, alternating keys and values, to the dictionary below them.
    fn set(&mut self, count: usize) -> Option<()> {
        let first = self.stack.len().checked_sub(count)?;
        let below = *self.stack.get(first.checked_sub(1)?)?;
        let (pairs, []) = self.stack[first..].as_chunks::<2>() else { return None };
        self.items.extend(pairs.iter().map(|[key, value]| (below, *key, *value)));
        self.stack.truncate(first);
        Some(())
    }

    fn remember(&mut self, put: bool, id: u32) -> Option<()> {
        if put {
            self.memo.insert(id, *self.stack.last()?);
        } else {
            self.stack.push(*self.memo.get(&id)?);
        }
        Some(())
    }

    fn node(&self, place: u32) -> Node<'a> {
        self.nodes[place as usize]
    }

    fn parts(&self, place: u32) -> Option<&[u32]> {
        let Node::Tuple(start, end) = self.node(place) else { return None };
        Some(&self.parts[start as usize..end as usize])
    }

    fn number(&self, place: u32) -> Option<usize> {
        let Node::Int(value) = self.node(place) else { return None };
        usize::try_from(value).ok()
    }

    fn numbers(&self, place: u32) -> Option<Vec<usize>> {
        let parts = self.parts(place).filter(|parts| parts.len() <= MAX_AXES)?;
        parts.iter().map(|part| self.number(*part)).collect()
    }

    /// The tensor that an item of the dictionary describes, if any.
    fn tensor(&self, name: u32, value: u32) -> Option<Stored<'a>> {
        let (Node::Text(name), Node::Call(mut callable, mut args)) = (self.node(name), self.node(value))
        else {
            return None;
        };
        // Parameters and tensor subclasses wrap the call that rebuilds the tensor.
        match (self.node(callable), self.parts(args)?) {
            (Node::Global("torch._utils\n_rebuild_parameter"), [tensor, ..]) => {
                let Node::Call(inner, of) = self.node(*tensor) else { return None };
                (callable, args) = (inner, of);
            }
            (Node::Global("torch._tensor\n_rebuild_from_type_v2"), [inner, _, of, ..]) => {
                (callable, args) = (*inner, *of);
            }
            _ => {}
        }
        let Node::Global("torch._utils\n_rebuild_tensor_v2") = self.node(callable) else { return None };
        let [storage, offset, shape, strides, ..] = self.parts(args)? else { return None };
        let Node::Persistent(storage) = self.node(*storage) else { return None };
        let [_, class, storage, ..] = self.parts(storage)? else { return None };
        let (Node::Global(class), Node::Text(storage)) = (self.node(*class), self.node(*storage)) else {
            return None;
        };
        Some(Stored {
            name,
            class: class.strip_prefix("torch\n")?,
            storage,
            offset: self.number(*offset)?,
            shape: self.numbers(*shape)?,
            strides: self.numbers(*strides)?,
        })
    }
}

impl Stored<'_> {
    /// Whether the elements are contiguous, slowest axis first.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut step = Some(1usize);
        let axes = self.shape.iter().zip(&self.strides).rev();
        let in_order = axes.fold(true, |so_far, (len, stride)| {
            let fits = *len == 1 || Some(*stride) == step;
            step = step.and_then(|s| s.checked_mul(*len));
            so_far && fits
        });
        in_order && self.shape.len() == self.strides.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `{'w': _rebuild_tensor_v2(('storage', FloatStorage, '0', 'cpu', 9), 2, (3,), (1,))}`,
    /// as written by `torch.save`, without the last two arguments, which are not used.
    const SMALL: &[u8] = b"\x80\x02}q\x00X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n\
        ((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x09tQ\
        K\x02K\x03\x85K\x01\x85tRs.";

    #[test]
    fn a_small_dictionary_is_read() {
        let [w] = &read(SMALL).unwrap()[..] else { panic!() };
        assert_eq!((w.name, w.class, w.storage, w.offset), ("w", "FloatStorage", "0", 2));
        assert_eq!((&w.shape[..], &w.strides[..], w.is_contiguous()), (&[3][..], &[1][..], true));
    }

    /// With a recursive destructor, a million nested tuples would overflow the stack.
    #[test]
    fn nesting_does_not_use_up_the_stack() {
        let mut nested = b"N".to_vec();
        nested.resize(MAX_BYTES - 1, 0x85);
        nested.push(b'.');
        assert!(read(&nested).unwrap_err().contains("not hold a state dictionary"));
    }

    /// Each round fetches the last value twice, which would double its size if it were copied.
    #[test]
    fn doubling_through_the_memo_does_not_use_up_memory() {
        let pickle = [b"N".as_slice(), &b"q\0h\0\x86".repeat(1000), b"."].concat();
        assert!(read(&pickle).unwrap_err().contains("not hold a state dictionary"));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        assert!(read(b"X\xff\xff\xff\xffabc").unwrap_err().contains("near byte 5"));
    }

    /// Calls with fewer arguments than they need.
    #[test]
    fn calls_without_arguments_are_not_tensors() {
        for call in ["torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter"] {
            let pickle = format!("}}X\x01\0\0\0wc{call}\n)Rs.");
            assert_eq!(read(pickle.as_bytes()), Ok(vec![]));
        }
        assert_eq!(read(b"}X\x01\0\0\0wctorch._tensor\n_rebuild_from_type_v2\nN\x85Rs."), Ok(vec![]));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for len in 0..SMALL.len() {
            assert!(read(&SMALL[..len]).is_err());
        }
        assert!(read(&vec![b'N'; MAX_BYTES + 1]).unwrap_err().contains("longer"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(prop::sample::select(
            b".(N)]}KMJX\x8aGctqhrjQR\x81bae su\x80\x85\x86\x87\x88\0\x01\x02\n".to_vec()), 0..200)) {
            let _ = read(&noise);
        }

        #[test]
        fn damage_never_panics(edits in prop::collection::vec((0..SMALL.len(), any::<u8>()), 1..6)) {
            let mut bytes = SMALL.to_vec();
            for (at, byte) in edits {
                bytes[at] = byte;
            }
            let _ = read(&bytes);
        }
    }
}
