//! Chunked attention (Llama 4): texts are cut into chunks whose positions do not see those of other chunks. It is causal
//! attention over every chunk as a text of its own, so no device has to know of it.

use fathom_kernels::backend::{Run, Span};
use std::ops::Range;

/// The parts of runs that lie in one chunk each, `chunk` positions long; nothing if all runs lie in their text's first.
pub(crate) fn cut(runs: &[Run], chunk: usize) -> Option<Vec<Run>> {
    let is_cut = runs.iter().any(|run| run.first + run.rows.len() > chunk);
    is_cut.then(|| runs.iter().flat_map(|run| parts(run, chunk)).collect())
}

fn parts(run: &Run, chunk: usize) -> Vec<Run> {
    let (mut position, end) = (run.first, run.first + run.rows.len());
    let row = |position: usize| run.rows.start + position - run.first;
    let mut all = Vec::new();
    while position < end {
        let start = position / chunk * chunk;
        let next = end.min(start + chunk);
        all.push(Run {
            rows: row(position)..row(next),
            first: position - start,
            length: next - start,
            past: part_of(&run.past, start..position),
        });
        position = next;
    }
    all
}

/// Where some of the positions before a run are.
fn part_of(past: &[Span], wanted: Range<usize>) -> Vec<Span> {
    let mut first = 0;
    let mut parts = Vec::new();
    for span in past {
        let (Span::Cache(range) | Span::Rows(range)) = span;
        let held = wanted.start.max(first)..wanted.end.min(first + range.len());
        if !held.is_empty() {
            let part = range.start + held.start - first..range.start + held.end - first;
            parts.push(match span {
                Span::Cache(_) => Span::Cache(part),
                Span::Rows(_) => Span::Rows(part),
            });
        }
        first += range.len();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_where_chunks_begin() {
        let past = vec![Span::Cache(10..13), Span::Rows(4..7)];
        let runs = [
            Run { rows: 0..9, first: 0, length: 9, past: vec![] },
            Run { rows: 9..14, first: 6, length: 20, past },
        ];
        let run = |rows, first, length, past| Run { rows, first, length, past };
        assert_eq!(cut(&runs, 12), None);
        assert_eq!(
            cut(&runs, 4).unwrap(),
            [
                run(0..4, 0, 4, vec![]),
                run(4..8, 0, 4, vec![]),
                run(8..9, 0, 1, vec![]),
                run(9..11, 2, 4, vec![Span::Rows(5..7)]),
                run(11..14, 0, 3, vec![]),
            ]
        );
        assert_eq!(part_of(&runs[1].past, 2..6), [Span::Cache(12..13), Span::Rows(4..7)]);
        assert_eq!(part_of(&runs[1].past, 0..0), []);
    }
}
