//! The comparison of several runs with one.

use crate::Error;
use crate::answers::holm;
use crate::compare::{Comparison, Pairing, RunCurves, Side, compare};
use crate::curves::BootstrapOptions;
use fathom_depth::Rule;
use serde::Serialize;

/// Several runs, each compared with the same one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BaselineComparison {
    /// The run that the others are compared with.
    pub baseline: Side,
    /// A comparison for each of the others; their A is the baseline.
    pub comparisons: Vec<Comparison>,
    /// The p-values of each rule that any of them has, corrected for their number.
    pub rules: Vec<CorrectedRule>,
}

/// A rule's p-values over the compared runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CorrectedRule {
    /// The rule.
    pub rule: Rule,
    /// For each comparison the p-value of the difference of the ratios, corrected by Holm's method over the
    /// comparisons that have one.
    pub p_holm: Vec<Option<f64>>,
}

/// Compares several runs with one.
///
/// # Errors
/// As [`compare()`], for each of them.
pub fn compare_with_baseline(
    baseline: RunCurves<'_>,
    others: &[RunCurves<'_>],
    pairing: Pairing,
    options: &BootstrapOptions,
) -> Result<BaselineComparison, Error> {
    let comparisons: Vec<Comparison> =
        others.iter().map(|other| compare(baseline, *other, pairing, options)).collect::<Result<_, _>>()?;
    let rules = Rule::ALL.into_iter().filter_map(|rule| corrected(rule, &comparisons)).collect();
    let (name, layers, prompts) =
        (baseline.name.to_owned(), baseline.curves.layers(), baseline.curves.prompts());
    Ok(BaselineComparison { baseline: Side { name, layers, prompts }, comparisons, rules })
}

/// `None` if no comparison has the rule.
fn corrected(rule: Rule, comparisons: &[Comparison]) -> Option<CorrectedRule> {
    let found = |comparison: &Comparison| comparison.rules.iter().any(|row| row.rule == rule);
    comparisons.iter().any(found).then(|| {
        let p_value = |comparison: &Comparison| comparison.ratio(rule)?.p_value;
        let p_values: Vec<Option<f64>> = comparisons.iter().map(p_value).collect();
        let mut corrected = holm(&p_values.iter().flatten().copied().collect::<Vec<_>>()).into_iter();
        CorrectedRule { rule, p_holm: p_values.iter().map(|p| p.and(corrected.next())).collect() }
    })
}
