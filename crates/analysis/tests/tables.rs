//! A small study in every format, and properties of its answers.
//!
//! `UPDATE_GOLDEN=1` rewrites the golden files; review them before committing.

mod common;

use common::{samples, seen, with_threads};
use fathom_analysis::answers::Verdict;
use fathom_analysis::study::Cell;
use fathom_analysis::{BootstrapOptions, FinishedCell, StudyDescription, Tables};
use fathom_depth::Rule;
use fathom_results::Sample;
use std::collections::BTreeMap;
use std::path::Path;

const STUDY: &str = r#"
name = "a small study, 100 % made up"
primary = { scale = "kl", training = "overlap", difficulty = "kl" }
[[model]]
id = "org/x_small"
family = "X & Y"
size = 0.5
type = "base"
[[model]]
id = "org/x_large"
family = "X & Y"
size = 1.5
type = "base"
[[model]]
id = "org/x_chat"
name = 'chat "1|5"'
family = "X & Y"
size = 1.5
type = "instruct"
[[data]]
id = "word-problems"
name = "words"
difficulty = "easy"
[[data]]
id = "competition"
difficulty = "hard"
"#;

fn options() -> BootstrapOptions {
    BootstrapOptions { resamples: 1000, ..BootstrapOptions::seeded(1) }
}

/// Prompts whose KL falls from 8 to 2 at one layer and whose overlap rises to 0.5 at another. All are
/// alike, so that the rules find these layers in every resample.
fn steps(prompts: usize, layers: usize, kl: usize, overlap: usize) -> Vec<Sample> {
    let kl: Vec<f64> = (0..=layers).map(|l| if l < kl { 8.0 } else { 2.0 }).collect();
    let overlap: Vec<f64> = (0..=layers).map(|l| if l < overlap { 0.0 } else { 0.5 }).collect();
    (0..prompts).map(|i| seen(&format!("p{i}"), 3, &kl, &overlap)).collect()
}

fn finished(samples: &[Sample], layers: usize) -> FinishedCell {
    FinishedCell::of(samples, layers, &options()).unwrap()
}

/// The small model on both sets, the large one on both, the chat model on one.
fn small() -> Tables {
    let study = StudyDescription::parse(STUDY, "STUDY.toml").unwrap();
    let cell = |model, data| Cell { model, data };
    let mut cells = BTreeMap::new();
    cells.insert(cell(0, 0), finished(&steps(40, 8, 3, 5), 8));
    cells.insert(cell(0, 1), finished(&steps(30, 8, 4, 5), 8));
    cells.insert(cell(1, 0), finished(&steps(40, 16, 5, 11), 16));
    cells.insert(cell(1, 1), finished(&steps(30, 16, 9, 99), 16));
    cells.insert(cell(2, 0), finished(&steps(4, 16, 5, 10), 16));
    Tables::of(&study, &cells, &options())
}

#[track_caller]
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(found == expected, "{name} is now\n{found}");
}

#[test]
fn every_format_of_a_small_study() {
    let tables = small();
    golden("study.md", &tables.markdown());
    golden("study.tex", &tables.latex());
    golden("study.csv", &tables.csv().unwrap());
    golden("answers.csv", &tables.answers_csv().unwrap());
    golden("study.json", &(tables.json().unwrap() + "\n"));
}

/// Values and ratios of the golden files, computed by hand.
#[test]
fn the_answers_of_a_small_study() {
    let tables = small();
    let answer = |question: usize, i: usize| &tables.answers[question].comparisons[i];
    let verdicts = |question: usize| -> Vec<Verdict> {
        tables.answers[question].comparisons.iter().map(|one| one.verdict).collect()
    };
    use Verdict::{Less, More, NoEvidence, NoValue, NotMeasured, NotTested};
    // 8 layers, KL at layer 3: (3 + 1) / 8; 16 layers, at layer 5: (5 + 1) / 16.
    let scale = answer(0, 0);
    assert_eq!((scale.rule, scale.verdict), (Some(Rule::Kl), Less));
    assert_eq!(scale.change.unwrap().interval, Some([6.0 / 16.0 - 4.0 / 8.0; 2]));
    // Of two tested together the smaller p-value counts twice: all 1000 resamples lie on one side.
    let p = scale.change.unwrap().p_value.unwrap();
    assert_eq!((scale.p_holm, tables.answers[0].tested), (Some(2.0 * p), 2));
    // The overlap is at layer 5 of 8 and at layer 11 of 16: both use 3/4.
    let overlap = answer(0, 2);
    assert_eq!((overlap.rule, overlap.primary), (Some(Rule::Overlap), false));
    assert_eq!(overlap.change.unwrap().difference, 0.0);
    // The large model's overlap never rises on the hard data; rules that are not primary are not tested.
    assert_eq!(verdicts(0), [Less, NotTested, NotTested, NoEvidence, NotTested, NoValue]);
    // The chat model was not measured on the hard data.
    assert_eq!(verdicts(1), [NotTested, NotTested, Less, NotMeasured]);
    let difficulty = answer(2, 0);
    assert_eq!(difficulty.verdict, More);
    assert!(
        difficulty.sentence.starts_with(
            "kl: ratio changes by 0.125 [0.125, 0.125] from words to competition in x_small: x_small uses more of its \
             depth on competition (Holm-corrected p = 0.00"
        ),
        "{}",
        difficulty.sentence
    );
    assert_eq!(
        tables.answers[0].summary,
        "Less in some comparisons: of 2 comparisons by kl, less in 1, no evidence of change in 1; 1 of 2 intervals \
         exclude 0, where 0.1 would by chance if nothing differed."
    );
}

/// A depth with a caution is shown but decides nothing.
#[test]
fn a_value_with_a_caution_is_not_judged() {
    let study = StudyDescription::parse(STUDY, "STUDY.toml").unwrap();
    let mut bent = steps(40, 8, 3, 5);
    for sample in &mut bent {
        sample.lens.as_mut().unwrap().kl_lens_final[0] = 1.0;
    }
    let straight = steps(40, 8, 3, 5);
    let cell = |cell: Cell| (cell, finished(if cell.model == 0 { &bent } else { &straight }, 8));
    let cells: BTreeMap<Cell, FinishedCell> = study.cells().map(cell).collect();
    let tables = Tables::of(&study, &cells, &options());
    let one = &tables.answers[0].comparisons[0];
    assert_eq!((one.verdict, one.primary, one.p_holm), (Verdict::NoValue, true, None));
    assert!(one.sentence.ends_with(
        "not judged, because in x_small, the KL curve rises after layer 0 and is at 0.5 of its maximum or above as \
         late as layer 2"
    ));
    assert!(tables.markdown().contains("| 0* (0.12) [0, 0]"));
    assert!(tables.caption().contains("* The curve turns back later"));
}

/// A CSV reader gets back the texts as written, including quotes and bars.
#[test]
fn csv_round_trips() {
    let tables = small();
    let text = tables.csv().unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let chat: Vec<_> = records.iter().filter(|record| &record[0] == "chat \"1|5\"").collect();
    // Three rules on one data set, and a line for the missing one.
    assert_eq!(chat.len(), 4);
    assert_eq!((&chat[3][10], &chat[3][16]), ("", "not measured"));
    assert_eq!((&chat[0][10], &chat[0][12], &chat[0][13]), ("kl", "5", "0.375"));
    assert_eq!(records.len(), 3 * 5 + 1);
}

/// The same samples under two names differ by no rule.
#[test]
fn a_model_compared_with_itself_shows_no_change() {
    let study = StudyDescription::parse(STUDY, "STUDY.toml").unwrap();
    let cells: BTreeMap<Cell, FinishedCell> =
        study.cells().map(|cell| (cell, finished(&samples(6, 7, 3), 7))).collect();
    let tables = Tables::of(&study, &cells, &options());
    let causal: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| *rule != Rule::Top1).collect();
    assert_eq!(tables.rules, causal);
    for answer in &tables.answers {
        assert!(answer.summary.starts_with("No evidence: of "), "{}", answer.summary);
        for one in &answer.comparisons {
            assert_eq!(one.change.unwrap().interval, Some([0.0, 0.0]), "{}", one.sentence);
        }
    }
    // Two models of a scale on two data sets, as many of a training, three models on two data sets.
    let counts: Vec<usize> = tables.answers.iter().map(|answer| answer.comparisons.len()).collect();
    assert_eq!(counts, [2 * 9, 2 * 9, 3 * 9]);
}

/// Noisy cells: a verdict needs a small corrected p-value, has the sign of the change, and is never given
/// if the interval contains 0.
#[test]
fn a_verdict_follows_from_its_corrected_p_value() {
    // Both directions, so that there is a rise for every fall.
    let pair = |a, b| format!("[[pair]]\nquestion = \"scale\"\na = \"{a}\"\nb = \"{b}\"\n");
    let text = [STUDY, &pair("x_small", "x_large"), &pair("x_large", "x_small")].concat();
    let text = text.replacen("scale = \"kl\"", "scale = \"settling\"", 1);
    let study = StudyDescription::parse(&text, "STUDY.toml").unwrap();
    let cell = |cell: Cell| {
        let mut samples = samples(8, 7, 1 + cell.model + 5 * cell.data);
        // Tokens of the large model settle later on the easy data.
        let later = if (cell.model, cell.data) == (1, 0) { 3 } else { 0 };
        let layers = samples.iter_mut().flat_map(|sample| &mut sample.settling.as_mut().unwrap().layers);
        layers.for_each(|layer| *layer = (*layer + later).min(7));
        (cell, finished(&samples, 7))
    };
    let tables = Tables::of(&study, &study.cells().map(cell).collect(), &options());
    let mut seen = BTreeMap::new();
    for one in tables.answers.iter().flat_map(|answer| &answer.comparisons) {
        let Some(change) = one.change else { continue };
        let expected = match one.p_holm {
            None => Verdict::NotTested,
            Some(p) if p > 0.05 => Verdict::NoEvidence,
            Some(_) if change.difference > 0.0 => Verdict::More,
            Some(_) => Verdict::Less,
        };
        assert!(one.p_holm >= change.p_value.filter(|_| one.p_holm.is_some()));
        if one.verdict == Verdict::NoValue {
            assert!(one.p_holm.is_none() && one.sentence.contains("not judged, because"));
            continue;
        }
        assert_eq!((one.verdict, one.primary), (expected, one.p_holm.is_some()));
        assert!(change.excludes_zero || matches!(expected, Verdict::NoEvidence | Verdict::NotTested));
        *seen.entry(expected.name()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn an_unfinished_study_is_not_measured() {
    let study = StudyDescription::parse(STUDY, "STUDY.toml").unwrap();
    let tables = Tables::of(&study, &BTreeMap::new(), &options());
    assert!(tables.rules.is_empty());
    assert!(tables.answers.iter().all(|answer| answer.summary.starts_with("Not known: of ")));
    assert!(tables.markdown().contains("not measured (x_small on words and x_large on words missing)"));
    let one =
        StudyDescription::parse("name = \"n\"\n[[model]]\nid = \"m\"\n[[data]]\nid = \"d\"", "s").unwrap();
    let tables = Tables::of(&one, &BTreeMap::new(), &options());
    assert!(tables.answers.iter().all(|answer| answer.summary.starts_with("Not asked: ")));
}

#[test]
fn results_do_not_depend_on_threads() {
    let study = StudyDescription::parse(STUDY, "STUDY.toml").unwrap();
    let tables = |threads| {
        with_threads(threads, || {
            let cell = |cell: Cell| (cell, finished(&samples(5 + cell.data, 7, cell.model), 7));
            Tables::of(&study, &study.cells().map(cell).collect(), &options())
        })
    };
    assert_eq!(tables(1), tables(3));
}
