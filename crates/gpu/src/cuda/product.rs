//! Products with weights: the choice of tiles, and what happens around the kernels.

use super::source::{Entry, Stored, Unit};
use super::{Cuda, Memory};
use crate::device::{Format, Weights};
use fathom_kernels::Dtype;

/// A kernel of products for tiles of one shape.
struct Tile {
    forward: &'static str,
    backward: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
    shared_bytes: usize,
    /// Groups that a multiprocessor runs at a time.
    resident: usize,
    /// Elements computed in a unit of time by a busy multiprocessor, compared with other tiles.
    speed: f64,
}

const F32_TILES: [Tile; 3] = [
    Tile {
        forward: "forward_large",
        backward: "backward_large",
        rows: 128,
        columns: 128,
        threads: 256,
        shared_bytes: 0,
        resident: 2,
        speed: 1.0,
    },
    Tile {
        forward: "forward_medium",
        backward: "backward_medium",
        rows: 64,
        columns: 64,
        threads: 256,
        shared_bytes: 0,
        resident: 3,
        speed: 0.6,
    },
    Tile {
        forward: "forward_small",
        backward: "backward_small",
        rows: 32,
        columns: 32,
        threads: 128,
        shared_bytes: 0,
        resident: 4,
        speed: 0.3,
    },
];

/// Bytes of `stages` pairs of tiles, 64 steps deep, of two bytes per element.
const fn stages(rows: usize, columns: usize, stages: usize) -> usize {
    stages * (rows + columns) * 64 * 2
}

const BF16_TILES: [Tile; 4] = [
    Tile {
        forward: "forward_huge",
        backward: "backward_huge",
        rows: 128,
        columns: 256,
        threads: 256,
        shared_bytes: stages(128, 256, 3),
        resident: 1,
        speed: 1.0,
    },
    Tile {
        forward: "forward_large",
        backward: "backward_large",
        rows: 128,
        columns: 128,
        threads: 256,
        shared_bytes: stages(128, 128, 3),
        resident: 1,
        speed: 0.8,
    },
    Tile {
        forward: "forward_medium",
        backward: "backward_medium",
        rows: 64,
        columns: 64,
        threads: 128,
        shared_bytes: stages(64, 64, 4),
        resident: 3,
        speed: 0.5,
    },
    Tile {
        forward: "forward_small",
        backward: "backward_small",
        rows: 32,
        columns: 64,
        threads: 128,
        shared_bytes: stages(32, 64, 5),
        resident: 3,
        speed: 0.3,
    },
];

impl Tile {
    /// An estimate of the time of a product of `rows` by `columns` elements.
    fn time(&self, rows: usize, columns: usize, multiprocessors: usize) -> f64 {
        let tiles = rows.div_ceil(self.rows) * columns.div_ceil(self.columns);
        let rounds = tiles.div_ceil(multiprocessors * self.resident);
        (rounds * self.resident * self.rows * self.columns) as f64 / self.speed
    }

    /// The best of `tiles`. All give the same bits, so the choice may depend on the height of the batch.
    fn best<'a>(tiles: &'a [Self], rows: usize, columns: usize, cuda: &Cuda) -> &'a Self {
        let time = |tile: &Self| tile.time(rows, columns, cuda.multiprocessors);
        tiles
            .iter()
            .filter(|tile| tile.shared_bytes <= cuda.shared_bytes)
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .expect("the smallest tiles fit every device")
    }

    fn entry(&self, unit: Unit, direction: Direction) -> Entry {
        let name = match direction {
            Direction::Forward => self.forward,
            Direction::Backward => self.backward,
        };
        Entry { unit, name, threads: self.threads, shared_bytes: self.shared_bytes }
    }
}

/// Whether a product takes the weights transposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `y = x W^T + b`.
    Forward,
    /// `dx = dy W`.
    Backward,
}

/// Every kernel of products with weights of a format.
pub(super) fn entries() -> Vec<Entry> {
    let formats = [Stored::F32, Stored::Bf16, Stored::F16, Stored::Int8, Stored::Int4];
    let units = formats.map(|stored| (Unit::ProductF32(stored), &F32_TILES[..]));
    let mut entries: Vec<Entry> = units
        .into_iter()
        .chain([(Unit::ProductBf16, &BF16_TILES[..])])
        .flat_map(|(unit, tiles)| {
            let both = |tile: &Tile| [Direction::Forward, Direction::Backward].map(|d| tile.entry(unit, d));
            tiles.iter().flat_map(both).collect::<Vec<_>>()
        })
        .collect();
    entries.push(Entry::plain(Unit::ProductBf16, "round"));
    entries.extend([Stored::F32, Stored::F16, Stored::Int8, Stored::Int4].map(decoder));
    entries
}

/// The kernel that decodes weights to bfloat16.
fn decoder(stored: Stored) -> Entry {
    let name = match stored {
        Stored::F32 => "decode_f32",
        Stored::Bf16 => unreachable!("these weights are bfloat16 already"),
        Stored::F16 => "decode_f16",
        Stored::Int8 => "decode_int8",
        Stored::Int4 => "decode_int4",
    };
    Entry::plain(Unit::ProductBf16, name)
}

/// Columns per block, blocks per row and bias of nibbles, as the kernels take them.
fn quantisation(layer: &Weights<Memory>) -> [u32; 3] {
    let columns = layer.format.columns().unwrap_or(4);
    let bias = match layer.format {
        Format::Int4 { bias, .. } => bias,
        _ => 0,
    };
    [columns as u32, (layer.k / columns) as u32, bias as u32]
}

impl Cuda {
    /// Multiplies `left [m, _]` by the weights.
    pub(super) fn product(
        &self,
        direction: Direction,
        layer: &Weights<Memory>,
        left: &Memory,
        m: usize,
        out: &Memory,
    ) {
        if m == 0 || layer.n == 0 || layer.k == 0 {
            return;
        }
        match layer.dtype {
            Dtype::F32 => self.product_f32(direction, layer, left, m, out),
            Dtype::Bf16 => self.product_bf16(direction, layer, left, m, out),
        }
    }

    fn product_f32(
        &self,
        direction: Direction,
        layer: &Weights<Memory>,
        left: &Memory,
        m: usize,
        out: &Memory,
    ) {
        let (columns, reduced, bias) = shape(direction, layer);
        let tile = Tile::best(&F32_TILES, m, columns, self);
        let (tiles_m, tiles_n) = (m.div_ceil(tile.rows), columns.div_ceil(tile.columns));
        let [block, blocks, nibble_bias] = quantisation(layer);
        let parameters = [
            m as u32,
            columns as u32,
            reduced as u32,
            layer.stride as u32,
            block,
            blocks,
            nibble_bias,
            tiles_m as u32,
        ];
        let memories = [Some(left), Some(&layer.words), layer.scales.as_ref(), bias, Some(out)];
        let entry = tile.entry(Unit::ProductF32(layer.format.into()), direction);
        self.launch_entry(entry, tiles_m * tiles_n, &memories, &parameters);
    }

    fn product_bf16(
        &self,
        direction: Direction,
        layer: &Weights<Memory>,
        left: &Memory,
        m: usize,
        out: &Memory,
    ) {
        let (columns, reduced, bias) = shape(direction, layer);
        let stride = reduced.next_multiple_of(8);
        let rounded = self.scratch(m * stride / 2);
        let parameters = [(m * stride / 2) as u32, (stride / 2) as u32, reduced as u32];
        let entry = Entry::plain(Unit::ProductBf16, "round");
        self.launch_elements(entry, m * stride / 2, &[Some(left), Some(&rounded)], &parameters);

        let decoded = (layer.format != Format::Bf16).then(|| self.decode(layer));
        let weights = decoded.as_ref().unwrap_or(&layer.words);
        let tile = Tile::best(&BF16_TILES, m, columns, self);
        let (tiles_m, tiles_n) = (m.div_ceil(tile.rows), columns.div_ceil(tile.columns));
        let parameters =
            [m, columns, reduced, stride, layer.stride, tiles_m, tiles_n].map(|word| word as u32);
        let memories = [Some(&rounded), Some(weights), bias, Some(out)];
        let entry = tile.entry(Unit::ProductBf16, direction);
        self.launch_entry(entry, tiles_m * tiles_n, &memories, &parameters);
    }

    /// Weights of any other format as bfloat16, in rows of the same stride.
    fn decode(&self, layer: &Weights<Memory>) -> Memory {
        let quads = layer.n * layer.stride / 4;
        let decoded = self.scratch(2 * quads);
        let [block, blocks, bias] = quantisation(layer);
        let stride = layer.stride as u32;
        let parameters = [quads as u32, stride / 4, layer.k as u32, stride, block, blocks, bias];
        let memories = [Some(&layer.words), layer.scales.as_ref(), Some(&decoded)];
        self.launch_elements(decoder(layer.format.into()), quads, &memories, &parameters);
        decoded
    }
}

/// Columns of the result, the reduced length and the bias.
fn shape(direction: Direction, layer: &Weights<Memory>) -> (usize, usize, Option<&Memory>) {
    match direction {
        Direction::Forward => (layer.n, layer.k, layer.bias.as_ref()),
        Direction::Backward => (layer.k, layer.n, None),
    }
}
