//! Products with weights: the choice of tiles, and what happens around the kernels.

use super::source::{Entry, Stored, Unit, huge_stages};
use super::{Cuda, Memory};
use crate::device::{Format, Weights, word};
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
    /// Elements of the reduced dimension per step.
    step: usize,
    /// Cycles of a step at least, however small the tile.
    latency: f64,
    /// Multiply-adds per cycle of a busy multiprocessor.
    speed: f64,
}

/// Tiles of products in single precision, of `[rows, columns]`.
fn f32_tiles() -> [Tile; 3] {
    let tile = |forward, backward, [rows, columns]: [usize; 2], threads, resident, step, latency, speed| {
        Tile { forward, backward, rows, columns, threads, shared_bytes: 0, resident, step, latency, speed }
    };
    [
        tile("forward_large", "backward_large", [128, 128], 256, 2, 8, 1100.0, 85.0),
        tile("forward_medium", "backward_medium", [64, 64], 256, 3, 32, 1600.0, 60.0),
        tile("forward_small", "backward_small", [32, 32], 128, 4, 64, 2000.0, 35.0),
    ]
}

/// Tiles of products of bfloat16. The largest keep `stages` steps in shared memory.
fn bf16_tiles(huge_stages: usize) -> [Tile; 4] {
    let tile = |forward,
                backward,
                [rows, columns]: [usize; 2],
                threads,
                [step, stages]: [usize; 2],
                resident,
                latency,
                speed| Tile {
        forward,
        backward,
        rows,
        columns,
        threads,
        // Two bytes per element of either matrix.
        shared_bytes: stages * (rows + columns) * step * 2,
        resident,
        step,
        latency,
        speed,
    };
    [
        tile("forward_huge", "backward_huge", [128, 256], 256, [64, huge_stages], 1, 900.0, 1000.0),
        tile("forward_large", "backward_large", [128, 128], 256, [64, 3], 1, 800.0, 850.0),
        tile("forward_medium", "backward_medium", [64, 64], 128, [64, 4], 3, 600.0, 650.0),
        tile("forward_small", "backward_small", [32, 32], 128, [128, 5], 2, 700.0, 400.0),
    ]
}

impl Tile {
    /// An estimate of the cycles of a product of `rows` by `columns` elements.
    fn time(&self, rows: usize, columns: usize, reduced: usize, multiprocessors: usize) -> f64 {
        let tiles = rows.div_ceil(self.rows) * columns.div_ceil(self.columns);
        let each = tiles.div_ceil(multiprocessors);
        let rounds = each.div_ceil(self.resident);
        let together = each.div_ceil(rounds);
        let work = (together * self.rows * self.columns * self.step) as f64 / self.speed;
        (rounds * reduced.div_ceil(self.step)) as f64 * work.max(self.latency)
    }

    /// The best of `tiles`. All give the same bits, so the choice may depend on the height of the batch.
    fn best(tiles: impl IntoIterator<Item = Self>, [m, n, k]: [usize; 3], cuda: &Cuda) -> Self {
        let time = |tile: &Self| tile.time(m, n, k, cuda.multiprocessors);
        tiles
            .into_iter()
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

/// Every kernel of products.
pub(super) fn entries() -> Vec<Entry> {
    const FORMATS: [Stored; 5] = [Stored::F32, Stored::Bf16, Stored::F16, Stored::Int8, Stored::Int4];
    let both =
        |unit: Unit, tile: &Tile| [Direction::Forward, Direction::Backward].map(|d| tile.entry(unit, d));
    let mut entries = Vec::new();
    for stored in FORMATS {
        entries.extend(f32_tiles().iter().flat_map(|tile| both(Unit::ProductF32(stored), tile)));
    }
    entries.extend(bf16_tiles(3).iter().flat_map(|tile| both(Unit::ProductBf16, tile)));
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
    [word(columns), word(layer.k / columns), bias as u32]
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
        let tile = Tile::best(f32_tiles(), [m, columns, reduced], self);
        let (tiles_m, tiles_n) = (m.div_ceil(tile.rows), columns.div_ceil(tile.columns));
        let [block, blocks, nibble_bias] = quantisation(layer);
        let parameters = [
            word(m),
            word(columns),
            word(reduced),
            word(layer.stride),
            block,
            blocks,
            nibble_bias,
            word(tiles_m),
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
        let parameters = [word(m * stride / 2), word(stride / 2), word(reduced)];
        let entry = Entry::plain(Unit::ProductBf16, "round");
        self.launch_elements(entry, m * stride / 2, &[Some(left), Some(&rounded)], &parameters);

        let decoded = (layer.format != Format::Bf16).then(|| self.decode(layer));
        let weights = decoded.as_ref().unwrap_or(&layer.words);
        let tile = Tile::best(bf16_tiles(huge_stages(&self.architecture)), [m, columns, reduced], self);
        let (tiles_m, tiles_n) = (m.div_ceil(tile.rows), columns.div_ceil(tile.columns));
        let parameters = [m, columns, reduced, stride, layer.stride, tiles_m, tiles_n].map(word);
        let memories = [Some(&rounded), Some(weights), bias, Some(out)];
        let entry = tile.entry(Unit::ProductBf16, direction);
        self.launch_entry(entry, tiles_m * tiles_n, &memories, &parameters);
    }

    /// Weights of any other format as bfloat16, in rows of the same stride.
    fn decode(&self, layer: &Weights<Memory>) -> Memory {
        let quads = layer.n * layer.stride / 4;
        let decoded = self.scratch(2 * quads);
        let [block, blocks, bias] = quantisation(layer);
        let stride = word(layer.stride);
        let parameters = [word(quads), stride / 4, word(layer.k), stride, block, blocks, bias];
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
