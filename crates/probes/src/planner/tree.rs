//! Prefix sharing: requests that agree on a prefix of positions share its run. The runs are the
//! paths of a tree from a root to a node.

use super::edit::{Edit, Request, Site};
use fathom_model::{Backend, Model};
use std::ops::Range;

/// Consecutive positions that go through the layers as one run.
pub(super) struct Node<'a, T> {
    /// The node that it continues, whose positions end where its own begin.
    pub(super) parent: Option<usize>,
    /// Positions.
    pub(super) positions: Range<usize>,
    /// The edits that act on some of its positions, in order of application.
    pub(super) edits: Vec<Acting<'a, T>>,
    /// The level of the stream at which it starts.
    pub(super) level: usize,
    /// The first layer that is not run.
    pub(super) until: usize,
}

/// The part of an edit that acts in a node. Its other positions are in other nodes, or belong to
/// a request that only shares a prefix.
pub(super) struct Acting<'a, T> {
    /// Positions of the node.
    pub(super) positions: Range<usize>,
    /// The edit.
    pub(super) edit: Edit<'a, T>,
}

/// Consecutive positions with the same edits.
struct Stretch<'r, 'a, T> {
    positions: Range<usize>,
    edits: Vec<&'r Edit<'a, T>>,
    children: Vec<usize>,
    until: usize,
}

impl<T> Node<'_, T> {
    /// Whether the MLP of the layer before the node must run again at a position: the attention output is
    /// edited, and no edit replaces the MLP output.
    pub(super) fn recomputes_mlp<B: Backend>(&self, model: &Model<B>, position: usize) -> bool {
        let here = || {
            let acting = self.edits.iter().filter(|e| e.positions.contains(&position)).map(|e| &e.edit);
            acting.filter(|e| e.level() == self.level)
        };
        let replaced = here().any(|e| matches!(e.site, Site::Mlp | Site::Layer) && e.replaces());
        here().any(|e| e.site == Site::Attn) && !model.config().parallel && !replaced
    }
}

/// The trees of requests that start at one level, and the node of the last position of each
/// request.
pub(super) struct Forest<'a, T> {
    pub(super) nodes: Vec<Node<'a, T>>,
    pub(super) leaves: Vec<Option<usize>>,
}

/// A run of its own for each request, all of which start at `level`: where an edit reaches positions before it, runs share
/// nothing but the layers below.
pub(super) fn apart<'a, T>(requests: &[(&Request<'a, T>, Range<usize>)], level: usize) -> Forest<'a, T> {
    let node = |(request, positions): &(&Request<'a, T>, Range<usize>)| {
        let acting = |edit: &Edit<'a, T>| Acting { positions: edit.positions.clone(), edit: edit.clone() };
        Node {
            parent: None,
            positions: positions.clone(),
            edits: request.edits.iter().map(acting).collect(),
            level,
            until: request.until,
        }
    };
    Forest { nodes: requests.iter().map(node).collect(), leaves: (0..requests.len()).map(Some).collect() }
}

/// Builds the trees of requests that start at `level`, each with the positions that it runs.
pub(super) fn build<'a, T>(requests: &[(&Request<'a, T>, Range<usize>)], level: usize) -> Forest<'a, T> {
    let mut stretches: Vec<Stretch<'_, 'a, T>> = Vec::new();
    let mut roots: Vec<usize> = Vec::new();
    let mut ends: Vec<Option<usize>> = Vec::with_capacity(requests.len());
    for (request, positions) in requests {
        let end = insert(request, positions, &mut stretches, &mut roots, &mut ends);
        ends.push(end);
    }
    let mut forest = Forest { nodes: Vec::new(), leaves: vec![None; requests.len()] };
    let mut place = vec![0; stretches.len()];
    for root in roots {
        flatten(root, None, level, &stretches, &mut forest.nodes, &mut place);
    }
    for (leaf, end) in forest.leaves.iter_mut().zip(ends) {
        *leaf = end.map(|stretch: usize| place[stretch]);
    }
    forest
}

/// Follows the stretches that agree with a request, splits the one where it diverges, and adds
/// the rest. Returns the stretch of its last position; `ends` holds those of earlier requests.
fn insert<'r, 'a, T>(
    request: &'r Request<'a, T>,
    whole: &Range<usize>,
    all: &mut Vec<Stretch<'r, 'a, T>>,
    roots: &mut Vec<usize>,
    ends: &mut [Option<usize>],
) -> Option<usize> {
    let mut at: Option<usize> = None;
    for (mut positions, edits) in stretches(request, whole) {
        while !positions.is_empty() {
            let siblings = at.map_or(&*roots, |a| &all[a].children);
            let agrees = |s: &&usize| {
                let s = &all[**s];
                s.positions.start == positions.start
                    && s.edits.len() == edits.len()
                    && s.edits.iter().zip(&edits).all(|(a, b)| a.same(b))
            };
            let next = match siblings.iter().find(agrees).copied() {
                Some(found) => {
                    if all[found].positions.end > positions.end {
                        let tail = split(found, positions.end, all);
                        ends.iter_mut().filter(|e| **e == Some(found)).for_each(|e| *e = Some(tail));
                    }
                    all[found].until = all[found].until.max(request.until);
                    found
                }
                None => {
                    let new = all.len();
                    all.push(Stretch {
                        positions: positions.clone(),
                        edits: edits.clone(),
                        children: vec![],
                        until: request.until,
                    });
                    match at {
                        Some(a) => all[a].children.push(new),
                        None => roots.push(new),
                    }
                    new
                }
            };
            positions.start = all[next].positions.end;
            at = Some(next);
        }
    }
    at
}

/// Splits a stretch in two and returns the second part, which gets the children.
fn split<T>(stretch: usize, at: usize, all: &mut Vec<Stretch<'_, '_, T>>) -> usize {
    let new = all.len();
    let tail = Stretch {
        positions: at..all[stretch].positions.end,
        edits: all[stretch].edits.clone(),
        children: std::mem::replace(&mut all[stretch].children, vec![new]),
        until: all[stretch].until,
    };
    all[stretch].positions.end = at;
    all.push(tail);
    new
}

/// The positions of a request, split where the set of edits changes.
fn stretches<'r, 'a, T>(
    request: &'r Request<'a, T>,
    whole: &Range<usize>,
) -> Vec<(Range<usize>, Vec<&'r Edit<'a, T>>)> {
    let mut cuts: Vec<usize> = vec![whole.start, whole.end];
    for edit in &request.edits {
        cuts.extend([edit.positions.start, edit.positions.end].map(|c| c.clamp(whole.start, whole.end)));
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|w| {
            let acts = |e: &&'r Edit<'a, T>| e.positions.start <= w[0] && w[1] <= e.positions.end;
            (w[0]..w[1], request.edits.iter().filter(acts).collect())
        })
        .collect()
}

/// Merges chains of stretches without branches and with equal `until` into one node each.
fn flatten<'a, T>(
    first: usize,
    parent: Option<usize>,
    level: usize,
    all: &[Stretch<'_, 'a, T>],
    nodes: &mut Vec<Node<'a, T>>,
    place: &mut [usize],
) {
    let index = nodes.len();
    let mut node = Node {
        parent,
        positions: all[first].positions.clone(),
        edits: vec![],
        level,
        until: all[first].until,
    };
    let mut at = first;
    loop {
        let stretch = &all[at];
        place[at] = index;
        node.positions.end = stretch.positions.end;
        // Stretches do not overlap, so every position keeps its edits in order.
        let acting =
            |edit: &&Edit<'a, T>| Acting { positions: stretch.positions.clone(), edit: (*edit).clone() };
        node.edits.extend(stretch.edits.iter().map(acting));
        match stretch.children[..] {
            [only] if all[only].until == stretch.until => at = only,
            _ => break,
        }
    }
    nodes.push(node);
    for child in &all[at].children {
        flatten(*child, Some(index), level, all, nodes, place);
    }
}
