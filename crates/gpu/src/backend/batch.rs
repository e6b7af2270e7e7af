//! Runs in the form that kernels read.

use super::upload;
use crate::device::{Device, TILE_ROWS, word};
use fathom_kernels::backend::{Run, Span};
use fathom_kernels::elementwise::Rotation;

/// Runs with their rotary tables, ready for attention.
pub struct Batch<M> {
    pub(crate) rows: usize,
    /// Tiles of [`Kernel::Attention`](crate::Kernel::Attention), and their number.
    pub(crate) tiles: (M, usize),
    pub(crate) segments: M,
    /// Tiles of the backward kernels, and their number; only where all runs are whole texts.
    pub(crate) texts: Option<(M, usize)>,
    pub(crate) tables: Vec<Table<M>>,
    /// One past the last position of the cache that the runs refer to.
    pub(crate) cache_rows: usize,
}

/// A rotary table and the entry of each row.
pub(crate) struct Table<M> {
    pub(crate) cos: M,
    pub(crate) sin: M,
    pub(crate) places: M,
    pub(crate) half: usize,
}

const BATCH: u32 = 0;
const CACHE: u32 = 1;

pub(crate) fn batch<D: Device>(device: &D, runs: &[Run], rotations: &[Rotation]) -> Batch<D::Memory> {
    let rows = check(runs);
    let (mut tiles, mut segments) = (Vec::new(), Vec::new());
    for run in runs {
        let first_segment = segments.len() / 3;
        push_segments(run, &mut segments);
        let end = segments.len() / 3;
        for start in run.rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(run.rows.end - start);
            let position = run.first + start - run.rows.start;
            tiles.extend([start, count, position, first_segment, end, run.first + run.rows.len()].map(word));
        }
    }
    let whole = runs.iter().all(|r| r.first == 0);
    let texts = whole.then(|| {
        let tiles = text_tiles(runs);
        (upload(device, &tiles), tiles.len() / 4)
    });
    Batch {
        rows,
        tiles: (upload(device, &tiles), tiles.len() / 6),
        segments: upload(device, &segments),
        texts,
        tables: rotations.iter().map(|r| table(device, rows, r)).collect(),
        cache_rows: cache_rows(runs),
    }
}

/// Checks that runs follow each other and that their pasts cover the positions before them; returns the
/// number of rows.
fn check(runs: &[Run]) -> usize {
    let mut rows = 0;
    for run in runs {
        assert!(run.rows.start == rows && run.rows.end >= rows, "runs must follow each other");
        rows = run.rows.end;
        let past: usize = run.past.iter().map(span_len).sum();
        assert_eq!(past, run.first, "the past must cover a run's earlier positions");
    }
    let end = |span: &Span| match span {
        Span::Rows(r) => r.end,
        Span::Cache(_) => 0,
    };
    assert!(runs.iter().flat_map(|r| &r.past).all(|span| end(span) <= rows), "a run lacks keys or values");
    rows
}

fn span_len(span: &Span) -> usize {
    match span {
        Span::Cache(r) | Span::Rows(r) => r.len(),
    }
}

fn cache_rows(runs: &[Run]) -> usize {
    let end = |span: &Span| match span {
        Span::Cache(r) if !r.is_empty() => r.end,
        _ => 0,
    };
    runs.iter().flat_map(|r| &r.past).map(end).max().unwrap_or(0)
}

fn push_segments(run: &Run, segments: &mut Vec<u32>) {
    let mut position = 0;
    for span in run.past.iter().filter(|span| span_len(span) > 0) {
        let (source, rows) = match span {
            Span::Cache(rows) => (CACHE, rows),
            Span::Rows(rows) => (BATCH, rows),
        };
        segments.extend([word(position), source, word(rows.start)]);
        position += rows.len();
    }
    segments.extend([word(position), BATCH, word(run.rows.start)]);
}

fn text_tiles(runs: &[Run]) -> Vec<u32> {
    let mut tiles = Vec::new();
    for run in runs {
        for start in run.rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(run.rows.end - start);
            tiles.extend([start, count, run.rows.start, run.rows.end].map(word));
        }
    }
    tiles
}

fn table<D: Device>(device: &D, rows: usize, rotation: &Rotation) -> Table<D::Memory> {
    let Rotation { cos, sin, half, places } = rotation;
    assert_eq!(places.len(), rows, "each row needs a place in the tables");
    let end = places.iter().max().map_or(0, |last| last + 1);
    assert!(end * half <= cos.len().min(sin.len()), "a place lies outside the tables");
    Table {
        cos: upload(device, bytemuck::cast_slice(cos)),
        sin: upload(device, bytemuck::cast_slice(sin)),
        places: upload(device, &places.iter().map(|p| word(*p)).collect::<Vec<_>>()),
        half: *half,
    }
}
