//! Specs: names, limits and the catalogue.

use std::collections::HashSet;

use fathom_data::{DEFAULT, DataError, Options, catalogue, load};

#[track_caller]
fn message(spec: &str) -> String {
    load(spec, &Options::default()).unwrap_err().to_string()
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    assert_eq!(
        message("adition:digits=3"),
        "there is no prompt set `adition` (did you mean `addition`?); there are builtin, plain, word-problems, \
         competition, qa, prose, proteins, addition, multiplication, gsm8k, hellaswag, aime24, math, mquake, and a path \
         to a .jsonl, .parquet, .txt or .fasta file works too"
    );
    assert!(message("mult").contains("did you mean `multiplication`?"));
    assert!(message("Plain").contains("did you mean `plain`?"));
    assert!(message("word_problem").contains("did you mean `word-problems`?"));
    assert!(!message("zzz").contains("did you mean"));
    assert!(!message("").contains("did you mean"));
}

#[test]
fn the_catalogue_matches_the_sets() {
    assert!(catalogue().iter().any(|entry| entry.id == DEFAULT));
    for entry in catalogue().iter().filter(|entry| !entry.parameters.contains(&"file")) {
        let set = load(entry.id, &Options::default()).unwrap();
        assert_eq!(set.id, entry.id);
        assert_eq!(set.prompts.len(), entry.count, "{}", entry.id);
        let has = |field: &str| entry.fields.contains(&field);
        assert!(has("text") && !entry.about.is_empty());
        assert_eq!(has("answer"), set.prompts.iter().any(|p| p.answer.is_some()), "{}", entry.id);
        assert_eq!(has("group"), set.prompts.iter().all(|p| p.group.is_some()), "{}", entry.id);
        assert_eq!(has("positions"), set.prompts.iter().any(|p| p.positions.is_some()));
        let ids: HashSet<_> = set.prompts.iter().map(|p| &p.id).collect();
        assert_eq!(ids.len(), set.prompts.len(), "{}", entry.id);
    }
}

#[test]
fn a_limit_takes_all_difficulties_equally() {
    let groups = |limit| -> Vec<String> {
        let options = Options { limit: Some(limit), ..Options::default() };
        let set = load("builtin", &options).unwrap();
        set.prompts.into_iter().map(|p| p.group.unwrap()).collect()
    };
    assert_eq!(groups(4), ["plain", "word-problems", "competition", "plain"]);
    let nine = groups(9);
    for group in ["plain", "word-problems", "competition"] {
        assert_eq!(nine.iter().filter(|g| *g == group).count(), 3);
    }
}

#[test]
fn the_default_set_consists_of_three_parts() {
    let all = load("builtin", &Options::default()).unwrap().prompts;
    let mut parts = Vec::new();
    for name in ["plain", "word-problems", "competition"] {
        let part = load(name, &Options::default()).unwrap().prompts;
        let kept: Vec<_> = all.iter().filter(|p| p.group.as_deref() == Some(name)).cloned().collect();
        assert_eq!(part, kept);
        parts.extend(part);
    }
    assert_eq!(parts.len(), all.len());
}

#[test]
fn a_limit_of_zero_is_an_error() {
    let options = Options { limit: Some(0), ..Options::default() };
    for spec in ["builtin", "addition", "some.jsonl"] {
        assert!(matches!(load(spec, &options), Err(DataError::ZeroLimit)));
    }
}
