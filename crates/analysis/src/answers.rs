//! The answers to a study's questions: cells compared by every rule, and verdicts by the primary one.

use crate::cell::FinishedCell;
use crate::compare::{Difference, MOST_NONE, PairedRuns, Pairing, RunCurves};
use crate::curves::BootstrapOptions;
use crate::format;
use crate::study::{Cell, ComparedPair, Question, StudyDescription};
use fathom_depth::Rule;
use serde::Serialize;
use std::collections::BTreeMap;

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The question as a sentence.
    pub about: String,
    /// The rule that decides the verdicts.
    pub primary: Rule,
    /// Comparisons by the primary rule that were tested together, by Holm's method.
    pub tested: usize,
    /// Intervals among them that would exclude 0 by chance if nothing differed.
    pub expected_by_chance: f64,
    /// Intervals among them that exclude 0.
    pub exclude_zero: usize,
    /// The answer as a sentence.
    pub summary: String,
    /// All comparisons: by the primary rule, and by the other rules, which only describe.
    pub comparisons: Vec<CellComparison>,
}

/// The comparison of two cells by one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellComparison {
    /// The first of the pair: a model or, for difficulty, a data set.
    pub a: String,
    /// The second.
    pub b: String,
    /// What both share: the data set or, for difficulty, the model.
    pub on: String,
    /// The rule; `None` if a cell is missing.
    pub rule: Option<Rule>,
    /// Whether the answer depends on it: it is by the primary rule, or a cell is missing.
    pub primary: bool,
    /// The change of the depth ratio from the first to the second.
    pub change: Option<Difference>,
    /// The p-value of the change after Holm's correction.
    pub p_holm: Option<f64>,
    /// How the prompts were resampled.
    pub pairing: Option<Pairing>,
    /// The conclusion.
    pub verdict: Verdict,
    /// The comparison as a sentence.
    pub sentence: String,
}

/// The conclusion of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second uses more of its depth: the change is positive, and its p-value after Holm's
    /// correction is at most 5 %.
    More,
    /// The second uses less of its depth: as above, with a negative change.
    Less,
    /// The corrected p-value is above 5 %.
    NoEvidence,
    /// One of the two has no value or a value with a caution, or there are too few prompts for an
    /// interval.
    NoValue,
    /// One of the two was not measured.
    NotMeasured,
    /// The rule is not the primary one.
    NotTested,
}

impl Answer {
    /// The sentences of the comparisons by the primary rule, or of those by the other rules.
    pub fn sentences(&self, primary: bool) -> impl Iterator<Item = &str> {
        let chosen = self.comparisons.iter().filter(move |one| one.primary == primary);
        chosen.map(|one| one.sentence.as_str())
    }
}

impl Verdict {
    /// The name in CSV and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::More => "more",
            Self::Less => "less",
            Self::NoEvidence => "no_evidence",
            Self::NoValue => "no_value",
            Self::NotMeasured => "not_measured",
            Self::NotTested => "not_tested",
        }
    }
}

/// The finished cells of a study and the options of their comparisons.
pub(crate) struct FinishedCells<'a> {
    pub(crate) study: &'a StudyDescription,
    pub(crate) finished: &'a BTreeMap<Cell, FinishedCell>,
    /// The rules that at least one cell can feed.
    pub(crate) rules: &'a [Rule],
    pub(crate) options: &'a BootstrapOptions,
}

/// Two cells to compare, and their names.
#[derive(Clone, Copy)]
struct CellPair<'a> {
    question: Question,
    cells: [Cell; 2],
    a: &'a str,
    b: &'a str,
    on: &'a str,
}

impl CellPair<'_> {
    /// "from A to B on C".
    fn direction(&self) -> String {
        let joint = if self.question == Question::Difficulty { "in" } else { "on" };
        format!("from {} to {} {joint} {}", self.a, self.b, self.on)
    }

    fn comparison(&self, rule: Option<Rule>, verdict: Verdict, text: &str) -> CellComparison {
        let rule_name = rule.map_or(String::new(), |rule| format!("{}: ", rule.name()));
        CellComparison {
            a: self.a.to_owned(),
            b: self.b.to_owned(),
            on: self.on.to_owned(),
            rule,
            primary: true,
            change: None,
            p_holm: None,
            pairing: None,
            verdict,
            sentence: format!("{rule_name}{text}"),
        }
    }
}

impl<'a> FinishedCells<'a> {
    /// Compares all pairs of a question and gives the verdicts.
    pub(crate) fn answer(&self, question: Question) -> Answer {
        let primary = self.study.primary[&question];
        let pairs = self.study.pairs.iter().filter(|pair| pair.question == question);
        let pairs = pairs.flat_map(|pair| self.cell_pairs(*pair));
        let mut drafts: Vec<(CellPair<'a>, CellComparison)> = pairs
            .flat_map(|pair| self.compare(&pair, primary).into_iter().map(move |compared| (pair, compared)))
            .collect();
        set_verdicts(&mut drafts);
        let comparisons: Vec<CellComparison> = drafts.into_iter().map(|(_, compared)| compared).collect();
        let tested = || comparisons.iter().filter(|one| one.p_holm.is_some());
        let exclude_zero =
            tested().filter(|one| one.change.is_some_and(|change| change.excludes_zero)).count();
        let tested = tested().count();
        let mut answer = Answer {
            question,
            about: question.about().to_owned(),
            primary,
            tested,
            expected_by_chance: ERROR_RATE * tested as f64,
            exclude_zero,
            summary: String::new(),
            comparisons,
        };
        answer.summary = summary(&answer);
        answer
    }

    /// A pair of models on each data set, or a pair of data sets on each model.
    fn cell_pairs(&self, pair: ComparedPair) -> Vec<CellPair<'a>> {
        let (models, data) = (&self.study.models, &self.study.data);
        let ComparedPair { question, a, b } = pair;
        match question {
            Question::Difficulty => (0..models.len())
                .map(|model| CellPair {
                    question,
                    cells: [a, b].map(|data| Cell { model, data }),
                    a: &data[a].name,
                    b: &data[b].name,
                    on: &models[model].name,
                })
                .collect(),
            Question::Scale | Question::Training => (0..data.len())
                .map(|on| CellPair {
                    question,
                    cells: [a, b].map(|model| Cell { model, data: on }),
                    a: &models[a].name,
                    b: &models[b].name,
                    on: &data[on].name,
                })
                .collect(),
        }
    }

    fn compare(&self, pair: &CellPair<'_>, primary: Rule) -> Vec<CellComparison> {
        let missing: Vec<String> = pair
            .cells
            .iter()
            .filter(|cell| !self.finished.contains_key(cell))
            .map(|cell| self.study.title(*cell))
            .collect();
        let [Some(a), Some(b)] = pair.cells.map(|cell| self.finished.get(&cell)) else {
            let text = format!("{}: not measured ({} missing)", pair.direction(), missing.join(" and "));
            return vec![pair.comparison(None, Verdict::NotMeasured, &text)];
        };
        let (a, b) =
            (RunCurves { name: pair.a, curves: &a.curves }, RunCurves { name: pair.b, curves: &b.curves });
        // With the same prompts, what makes a prompt hard for both models cancels.
        let pairing = match a.curves.places_in(b.curves) {
            Ok(_) => Pairing::Paired,
            Err(_) => Pairing::Unpaired,
        };
        match PairedRuns::of(a, b, pairing, self.options) {
            Ok(runs) => {
                let by_rule = |rule: &Rule| {
                    let compared = self.by_rule(pair, &runs, *rule, pairing);
                    CellComparison { primary: *rule == primary, ..compared }
                };
                // A primary rule that no cell can feed is reported as missing.
                let missing = (!self.rules.contains(&primary)).then_some(&primary);
                self.rules.iter().chain(missing).map(by_rule).collect()
            }
            Err(error) => {
                let text = format!("{}: no interval, because {error}", pair.direction());
                vec![pair.comparison(None, Verdict::NoValue, &text)]
            }
        }
    }

    fn by_rule(
        &self,
        pair: &CellPair<'_>,
        runs: &PairedRuns<'_>,
        rule: Rule,
        pairing: Pairing,
    ) -> CellComparison {
        let direction = pair.direction();
        let Some(found) = runs.rule(rule, self.options) else {
            let text = format!("{direction}: not measured in both");
            return pair.comparison(Some(rule), Verdict::NotMeasured, &text);
        };
        let Some(change) = found.ratio else {
            let (name, depth) = if found.a.ratio.is_none() { (pair.a, &found.a) } else { (pair.b, &found.b) };
            let reason = depth.reason.as_deref().unwrap_or("the rule finds nothing");
            let text = format!("{direction}: no value for {name} ({reason})");
            return pair.comparison(Some(rule), Verdict::NoValue, &text);
        };
        let by = format::change(change.difference);
        let interval = format::interval(change.interval, format::change);
        let text = format!("ratio changes by {by} {interval} {direction}");
        let cautions: Vec<String> = [(pair.a, &found.a), (pair.b, &found.b)]
            .into_iter()
            .filter_map(|(name, depth)| Some(format!("in {name}, {}", depth.caution.as_ref()?)))
            .collect();
        let doubt = match change.none_share {
            share if share > MOST_NONE => {
                Some(format!("the rule finds nothing in {:.0} % of the resamples", 100.0 * share))
            }
            _ if change.p_value.is_none() => Some("there is no interval".to_owned()),
            _ => (!cautions.is_empty()).then(|| cautions.join(", and ")),
        };
        let (verdict, text) = match doubt {
            Some(doubt) => (Verdict::NoValue, format!("{text}: not judged, because {doubt}")),
            None => (Verdict::NotTested, text),
        };
        CellComparison {
            change: Some(change),
            pairing: Some(pairing),
            ..pair.comparison(Some(rule), verdict, &text)
        }
    }
}

/// Family-wise error rate: the share of studies without any difference in which some verdict claims one.
const ERROR_RATE: f64 = 0.05;

/// Sets the verdicts of the comparisons by the primary rule, corrected over all of a question.
fn set_verdicts(drafts: &mut [(CellPair<'_>, CellComparison)]) {
    let mut tested: Vec<&mut (CellPair<'_>, CellComparison)> = drafts
        .iter_mut()
        .filter(|(_, compared)| compared.primary && compared.verdict == Verdict::NotTested)
        .collect();
    let p_values: Vec<f64> =
        tested.iter().filter_map(|(_, compared)| compared.change.and_then(|change| change.p_value)).collect();
    for ((pair, compared), p) in tested.iter_mut().map(|draft| &mut **draft).zip(holm(&p_values)) {
        let rises = compared.change.is_some_and(|change| change.difference > 0.0);
        let (verdict, finding) = match (p <= ERROR_RATE, rises) {
            (false, _) => (Verdict::NoEvidence, "no evidence of change".to_owned()),
            (true, true) => (Verdict::More, finding(pair, "more")),
            (true, false) => (Verdict::Less, finding(pair, "less")),
        };
        compared.verdict = verdict;
        compared.p_holm = Some(p);
        compared.sentence += &format!(": {finding} (Holm-corrected {})", format::p_value(p));
    }
}

/// Holm-corrected p-values, to be compared with the family-wise error rate (S. Holm, "A simple
/// sequentially rejective multiple test procedure", 1979).
pub(crate) fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|i, j| p_values[*i].total_cmp(&p_values[*j]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (rank, i) in order.into_iter().enumerate() {
        let stricter = (p_values.len() - rank) as f64 * p_values[i];
        least = least.max(stricter).min(1.0);
        corrected[i] = least;
    }
    corrected
}

fn finding(pair: &CellPair<'_>, much: &str) -> String {
    match pair.question {
        Question::Difficulty => format!("{} uses {much} of its depth on {}", pair.on, pair.b),
        Question::Scale | Question::Training => format!("{} uses {much} of its depth", pair.b),
    }
}

/// Counts the verdicts of the comparisons by the primary rule.
fn summary(answer: &Answer) -> String {
    let Answer { question, primary, tested, exclude_zero, .. } = answer;
    let comparisons: Vec<&CellComparison> = answer.comparisons.iter().filter(|one| one.primary).collect();
    let count = |verdict| comparisons.iter().filter(|one| one.verdict == verdict).count();
    let all = comparisons.len();
    if all == 0 {
        return not_asked(*question);
    }
    let counts: Vec<String> = [
        (Verdict::More, "more"),
        (Verdict::Less, "less"),
        (Verdict::NoEvidence, "no evidence of change"),
        (Verdict::NoValue, "no value"),
        (Verdict::NotMeasured, "not measured"),
    ]
    .into_iter()
    .filter(|(verdict, _)| count(*verdict) > 0)
    .map(|(verdict, name)| format!("{name} in {}", count(verdict)))
    .collect();
    let verdict = overall(count(Verdict::More), count(Verdict::Less), count(Verdict::NoEvidence), all);
    let noun = if all == 1 { "comparison" } else { "comparisons" };
    let mut text = format!("{verdict}: of {all} {noun} by {primary}, {}", counts.join(", "));
    if *tested > 0 {
        let chance = format::count(answer.expected_by_chance);
        text += &format!(
            "; {exclude_zero} of {tested} intervals exclude 0, where {chance} would by chance if nothing differed"
        );
    }
    text += ".";
    let apart = comparisons.iter().filter(|one| one.pairing == Some(Pairing::Unpaired)).count();
    if apart > 0 && *question != Question::Difficulty {
        text += &format!(" In {apart} the prompts differ, and each side was resampled on its own.");
    }
    text
}

/// The summary of a question without comparisons.
fn not_asked(question: Question) -> String {
    let needs = match question {
        Question::Scale => "two models of one family and type with different sizes",
        Question::Training => "two models of one family and size with different types",
        Question::Difficulty => "two data sets of different difficulty",
    };
    format!("Not asked: the study has no {needs}, and declares no such pair.")
}

/// The overall verdict of `all` comparisons.
fn overall(more: usize, less: usize, unchanged: usize, all: usize) -> &'static str {
    match (more, less) {
        (0, 0) if unchanged == 0 => "Not known",
        (0, 0) => "No evidence",
        (_, 0) if more == all => "More",
        (0, _) if less == all => "Less",
        (_, 0) => "More in some comparisons",
        (0, _) => "Less in some comparisons",
        _ => "More in some comparisons and less in others",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 x 0.01, then 3 x 0.02, then 2 x 0.03, never falling.
    #[test]
    fn holm_by_hand() {
        assert_eq!(holm(&[0.02, 0.01, 0.03, 0.5]), [0.06, 0.04, 0.06, 0.5]);
        assert_eq!(holm(&[0.9, 0.6]), [1.0, 1.0]);
        assert_eq!(holm(&[0.04]), [0.04]);
        assert!(holm(&[]).is_empty());
    }
}
