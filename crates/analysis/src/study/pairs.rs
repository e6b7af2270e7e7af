//! The pairs that follow from a study's models and data where the description declares none.

use super::description::{ComparedPair, Question, StudyData, StudyModel};
use std::collections::HashMap;

/// The pairs of a question: neighbours in size or difficulty, or the base model with each other type.
pub(super) fn derived(models: &[StudyModel], data: &[StudyData], question: Question) -> Vec<ComparedPair> {
    let pair = |(a, b): (usize, usize)| ComparedPair { question, a, b };
    let pairs = match question {
        Question::Scale => {
            let key = |model: &StudyModel| Some(format!("{:?}", (model.family.as_ref()?, &model.kind)));
            let groups = grouped(models, |model| model.size.and(key(model)));
            groups.iter().flat_map(|group| steps(group, |i| models[i].size.unwrap_or_default())).collect()
        }
        Question::Training => {
            let key = |model: &StudyModel| Some(format!("{:?}", (model.family.as_ref()?, model.size?)));
            let groups = grouped(models, |model| model.kind.as_ref().and(key(model)));
            groups.iter().flat_map(|group| from_base(models, group)).collect()
        }
        Question::Difficulty => {
            let groups = series(data);
            let order = |i: usize| data[i].difficulty.as_ref().map_or(0.0, |difficulty| difficulty.order);
            groups.iter().flat_map(|group| steps(group, order)).collect::<Vec<_>>()
        }
    };
    pairs.into_iter().map(pair).collect()
}

/// The data sets with a difficulty, grouped by series.
pub(crate) fn series(data: &[StudyData]) -> Vec<Vec<usize>> {
    grouped(data, |data| data.difficulty.as_ref().map(|_| data.series.clone().unwrap_or_default()))
}

/// Groups indices by key, in the order in which keys first occur. Items without a key are left out.
pub(crate) fn grouped<T>(all: &[T], key: impl Fn(&T) -> Option<String>) -> Vec<Vec<usize>> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let Some(key) = key(one) else { continue };
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Pairs each member with all of the next level. Equals make no pair, and neither do the first and the last:
/// their difference is the sum of the steps in between, and would be counted twice.
fn steps(group: &[usize], order: impl Fn(usize) -> f64) -> Vec<(usize, usize)> {
    let mut sorted = group.to_vec();
    sorted.sort_by(|i, j| order(*i).total_cmp(&order(*j)));
    let levels: Vec<&[usize]> = sorted.chunk_by(|i, j| order(*i) == order(*j)).collect();
    let two = |levels: &[&[usize]]| -> Vec<(usize, usize)> {
        levels[0].iter().flat_map(|a| levels[1].iter().map(|b| (*a, *b))).collect()
    };
    levels.windows(2).flat_map(two).collect()
}

/// Pairs the base model, or the first if there is none, with each model of another type.
fn from_base(models: &[StudyModel], group: &[usize]) -> Vec<(usize, usize)> {
    let is_base =
        |i: &&usize| models[**i].kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("base"));
    let Some(&first) = group.iter().find(is_base).or(group.first()) else { return Vec::new() };
    let other = |i: &&usize| models[**i].kind != models[first].kind;
    group.iter().filter(other).map(|i| (first, *i)).collect()
}
