//! Study descriptions: their meaning, and all of their errors at once.

use fathom_analysis::StudyDescription;
use fathom_analysis::study::{Cell, ComparedPair, Question};
use fathom_depth::Rule;
use fathom_results::Probe;
use proptest::prelude::*;

const FULL: &str = r#"
name = "depth of Qwen2.5"
out = "qwen study"
probes = ["lens", "contributions,lens"]
limit = 1_6
seed = 0x2a
qa = "qa"
options = { positions = 2, skip-modes = ["future", "local"] }

[[model]]
id = "Qwen/Qwen2.5-1.5B"
family = "Qwen2.5"
size = 1.5
tokens = 1.8e13
type = "base"

[[model]]
id = "Qwen/Qwen2.5-1.5B-Instruct"
family = "Qwen2.5"
size = 1.5
type = "instruct"

[[model]]
id = "models/small.gguf"
family = "Qwen2.5"
size = 0.5
type = "base"
dtype = "bf16"
revision = "main"

[[model]]
id = "Qwen/Qwen2.5-7B"
family = "Qwen2.5"
size = 7
type = "base"

[[data]]
id = "competition"
difficulty = "hard"
limit = 3

[[data]]
id = "rows/mine.jsonl"
name = "my rows: é/1"
difficulty = "easy"
"#;

fn parse(text: &str) -> StudyDescription {
    StudyDescription::parse(text, "STUDY.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn pairs(study: &StudyDescription, question: Question) -> Vec<(usize, usize)> {
    study.pairs.iter().filter(|pair| pair.question == question).map(|pair| (pair.a, pair.b)).collect()
}

#[test]
fn a_full_description() {
    let study = parse(FULL);
    assert_eq!(study.probes, [Probe::Contributions, Probe::Lens]);
    assert_eq!((study.limit, study.seed, study.qa.as_deref()), (Some(16), Some(42), Some("qa")));
    let names: Vec<&str> = study.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["Qwen2.5-1.5B", "Qwen2.5-1.5B-Instruct", "small", "Qwen2.5-7B"]);
    assert_eq!(study.models[3].size, Some(7.0));
    assert_eq!((study.models[0].tokens, study.models[1].tokens), (Some(1.8e13), None));
    assert_eq!(study.data[1].name, "my rows: é/1");
    assert_eq!(study.cells().count(), 8);
    assert_eq!(study.cells().nth(5), Some(Cell { model: 2, data: 1 }));
    // From small to large in turn; the smallest and the largest would repeat what the steps say.
    assert_eq!(pairs(&study, Question::Scale), [(2, 0), (0, 3)]);
    assert_eq!(pairs(&study, Question::Training), [(0, 1)]);
    assert_eq!(pairs(&study, Question::Difficulty), [(1, 0)]);
}

#[test]
fn a_cell_is_a_command_line() {
    let study = parse(FULL);
    assert_eq!(
        study.arguments(Cell { model: 2, data: 1 }),
        [
            "--data=rows/mine.jsonl",
            "--probes=contributions,lens",
            "--limit=16",
            "--seed=42",
            "--qa=qa",
            "--dtype=bf16",
            "--revision=main",
            "--positions=2",
            "--skip-modes=future,local",
            "--",
            "models/small.gguf",
        ]
    );
    assert!(study.arguments(Cell { model: 0, data: 0 }).contains(&"--limit=3".to_owned()));
}

#[test]
fn options_of_models_and_data_sets_replace_those_of_the_study() {
    let study = parse(
        r#"
            name = "proteins"
            options = { max-residues = 300, mask-ratio = 0.15 }
            model = [
                { id = "esm" },
                { id = "iglm", options = { prefix = "[HEAVY]", max-residues = 200 } },
            ]
            data = [{ id = "short" }, { id = "long", options = { max-residues = 900 } }]
        "#,
    );
    let options = |model, data| {
        let options = study.options(Cell { model, data }).into_iter();
        let own = ["max-residues", "mask-ratio", "prefix"];
        let own = options.filter(|(name, _)| own.contains(&name.as_str()));
        own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(options(0, 0), ["mask-ratio=0.15", "max-residues=300"]);
    assert_eq!(options(1, 0), ["mask-ratio=0.15", "max-residues=200", "prefix=[HEAVY]"]);
    assert_eq!(options(1, 1), ["mask-ratio=0.15", "max-residues=900", "prefix=[HEAVY]"]);
}

#[test]
fn a_minimal_description() {
    let study = parse("name = \"../x y\"\n[[model]]\nid = \"smollm2-135m\"\n[[data]]\nid = \"builtin\"");
    assert_eq!(study.out.to_str(), Some("fathom-out/study-.._x_y"));
    assert_eq!(study.probes, Probe::COMMON);
    assert!(study.pairs.is_empty());
    assert_eq!(study.title(Cell { model: 0, data: 0 }), "smollm2-135m on builtin");
    let hidden = FULL.replace("my rows: é/1", "..");
    assert!(parse(&hidden).folder(Cell { model: 0, data: 1 }).ends_with("_.."));
}

#[test]
fn every_question_has_one_primary_rule() {
    let primary = |text: &str| {
        let study = parse(&FULL.replacen("limit = 1_6", text, 1));
        Question::ALL.map(|question| study.primary[&question])
    };
    // Of the rules that contributions and lens feed; with all probes it is settling.
    assert_eq!(primary(""), [Rule::Kl; 3]);
    assert_eq!(primary("primary = \"overlap\""), [Rule::Overlap; 3]);
    let some = "primary = { scale = \"cosine\", difficulty = \"kl_last\" }";
    assert_eq!(primary(some), [Rule::Cosine, Rule::Kl, Rule::KlLast]);
    let least = parse("name = \"n\"\n[[model]]\nid = \"m\"\n[[data]]\nid = \"d\"");
    assert_eq!(least.primary[&Question::Scale], Rule::Settling);
    let error = |text: &str| {
        let text = FULL.replacen("limit = 1_6", text, 1);
        StudyDescription::parse(&text, "s").unwrap_err().to_string()
    };
    assert_eq!(
        error("primary = \"settling\""),
        "s, line 5: the primary rule settling needs the probe settling; add it to 'probes' or name another rule"
    );
    assert!(error("primary = \"klast\"").starts_with("s, line 5: there is no depth rule \"klast\""));
    assert!(error("primary = 3").contains("'primary' of the study must be a rule in quotes or a table"));
    assert!(error("primary = { size = \"kl\" }").contains("primary has no field 'size'"));
}

#[test]
fn declared_pairs_replace_derived_pairs_of_their_question() {
    let text = format!("{FULL}\n[[pair]]\nquestion = \"scale\"\na = \"Qwen2.5-7B\"\nb = \"small\"\n");
    let study = parse(&text);
    assert_eq!(pairs(&study, Question::Scale), [(3, 2)]);
    assert_eq!(pairs(&study, Question::Training), [(0, 1)]);
    assert_eq!(study.pairs[0], ComparedPair { question: Question::Scale, a: 3, b: 2 });
}

#[test]
fn equals_make_no_pair_and_the_base_model_comes_first() {
    let model = |name: &str, kind: &str| {
        format!("[[model]]\nid = \"{name}\"\nfamily = \"f\"\nsize = 1\ntype = \"{kind}\"\n")
    };
    let data =
        |name: &str, difficulty: &str| format!("[[data]]\nid = \"{name}\"\ndifficulty = {difficulty}\n");
    let text = [
        "name = \"n\"\n".to_owned(),
        model("i", "instruct"),
        model("b", "Base"),
        model("c", "Base"),
        model("m", "math"),
    ]
    .concat()
        + &[data("x", "2"), data("y", "-1.5"), data("z", "2.0")].concat();
    let study = parse(&text);
    assert_eq!(pairs(&study, Question::Scale), []);
    assert_eq!(pairs(&study, Question::Training), [(1, 0), (1, 3)]);
    // y is easier than x and z, which are equally hard; x comes next to y, and z last.
    assert_eq!(pairs(&study, Question::Difficulty), [(1, 0), (1, 2)]);
}

#[test]
fn all_errors_are_reported_with_their_lines() {
    let text = r#"nme = "x"
probes = "lens,skipp"
limit = 0
seed = -1
options = { positons = 3, sites = [1.5] }
[[model]]
id = "a/one"
sise = 3
size = "7B"
[[model]]
id = "b/one"
dtype = "f16"
[[model]]
name = "One"
id = "  "
[[data]]
id = "x"
difficulty = "hrad"
[[data]]
id = "y"
difficulty = "easy"
[[data]]
id = 3
difficulty = 2
[[pair]]
question = "scale"
a = "on"
b = "three"
[[pair]]
question = "difficulty"
a = "y"
b = "y"
[[pair]]
question = "size"
"#;
    let error = StudyDescription::parse(text, "STUDY.toml").unwrap_err().to_string();
    let expected = "\
STUDY.toml has 22 errors:
  line 1: the study has no field 'nme'; did you mean 'name'?
  line 2: 'skipp' is not a probe; did you mean 'skip'? The probes are contributions, lens, similarity, settling, angles, experts, skip, order, erasure, gradients; 'clean' selects those without edited runs, 'all' selects all but 'experts'
  line 3: 'limit' of the study must be a number of prompts from 1 up; leave it out for all
  line 4: 'seed' of the study must be a whole number from 0 up
  line 5: options has no field 'positons'; did you mean 'positions'?
  line 5: 'sites' of options must be a text, a number, true or false, or a list of texts
  line 8: model 1 has no field 'sise'; did you mean 'size'?
  line 9: 'size' of model 1 must be a number of billions of parameters, such as 0.5
  line 10: two models are called 'one'; give one of them another name
  line 12: 'dtype' of model 2 must be one of f32, bf16
  line 14: the models 'one' and 'One' would share a folder; give one of them another name
  line 15: 'id' of model 3 must be a text that is not empty
  line 18: 'difficulty' of data 1 must be a number or one of very easy, easy, medium, hard, very hard; did you mean 'hard'?
  line 23: 'id' of data 3 must be a text in quotes
  line 24: difficulties are given in words and in numbers, which have no common order; use either
  line 27: no model is called 'on'; did you mean 'one'?
  line 28: no model is called 'three'; there are one, one, One
  line 29: pair 2 compares 'y' with itself; name two
";
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (found, expected) = (lines(&error), lines(expected));
    for line in &expected {
        assert!(found.contains(line), "no {line:?} in\n{error}");
    }
    assert!(found.contains(&"  the study has no 'name'; add one".to_owned()), "{error}");
    assert!(error.contains("line 34: 'question' of pair 3 must be one of scale, training, difficulty"));
    assert!(error.contains("line 33: pair 3 has no 'a'; add one"));
    assert!(error.contains("line 33: pair 3 has no 'b'; add one"));
    assert_eq!(found.len(), 23, "{error}");
    let numbers: Vec<usize> =
        found.iter().filter_map(|l| l.strip_prefix("  line ")?.split(':').next()?.parse().ok()).collect();
    assert!(numbers.is_sorted(), "{error}");
}

#[test]
fn an_empty_description_has_three_errors() {
    let error = StudyDescription::parse("", "s.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "s.toml has 3 errors:\n  the study has no 'name'; add one\n  the study has no model; add [[model]] with an \
         id\n  the study has no data; add [[data]] with an id"
    );
    let error = StudyDescription::parse("name = \"x\"\nmodel = 3\n[[data]]\nid=\"y\"", "s.toml")
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 2: 'model' must be written as [[model]], once for each model"), "{error}");
}

#[test]
fn syntax_errors_name_their_lines() {
    let error = StudyDescription::parse("name = \"x\"\n\nlimit = = 3\n", "s.toml").unwrap_err();
    assert_eq!(error.problems[0].line, Some(3), "{error}");
    assert!(error.to_string().contains("this is not TOML"), "{error}");
    let error = StudyDescription::parse("name = \"x\"\nname = \"y\"\n", "s.toml").unwrap_err();
    assert_eq!(error.problems[0].line, Some(2), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = StudyDescription::parse(&text, "x");
    }

    #[test]
    fn edited_descriptions_never_panic(at in 0..FULL.len(), piece in "[\\[\\]={}\"a-z0-9.\n-]{0,6}", cut in 0..40usize) {
        let (Some(head), Some(tail)) = (FULL.get(..at), FULL.get((at + cut).min(FULL.len())..)) else { return Ok(()) };
        if let Err(error) = StudyDescription::parse(&format!("{head}{piece}{tail}"), "x") {
            prop_assert!(!error.problems.is_empty());
        }
    }
}

#[test]
fn difficulties_are_compared_within_a_series_and_data_sets_can_override_probes() {
    let study = parse(
        r#"
        name = "series"
        probes = "lens"
        [[model]]
        id = "m"
        [[data]]
        id = "plain"
        series = "text"
        difficulty = 1
        [[data]]
        id = "addition:digits=2"
        series = "sums"
        difficulty = 2
        probes = "skip,gradients"
        [[data]]
        id = "competition"
        series = "text"
        difficulty = 3
        [[data]]
        id = "addition:digits=8"
        series = "sums"
        difficulty = 8
        "#,
    );
    assert_eq!(pairs(&study, Question::Difficulty), [(0, 2), (1, 3)]);
    let probes = |data| study.arguments(Cell { model: 0, data })[1].clone();
    assert_eq!((probes(0), probes(1)), ("--probes=lens".into(), "--probes=skip,gradients".into()));
}
