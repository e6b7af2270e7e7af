//! Generated sets, against Python.

use fathom_data::{Options, PromptSet, Rng, load};

fn set(spec: &str, options: &Options) -> PromptSet {
    load(spec, options).unwrap()
}

fn python() -> Options {
    Options { rng: Rng::Python, ..Options::default() }
}

/// The hash is that of the rows that CPython 3.11 generates:
///
/// ```python
/// random.seed(seed)
/// for i in range(1, count + 1):
///     a = random.randint(10**(digits-1), 10**digits - 1)
///     b = random.randint(10**(digits-1), 10**digits - 1)
///     rows.append([f"{name}-{i}", f"Give the answer directly: {a} {op} {b} = {c}", c, None])
/// ```
#[track_caller]
fn check(spec: &str, id: &str, count: usize, first: &str, sha256: &str) {
    let set = set(spec, &python());
    assert_eq!(set.id, id);
    assert_eq!(set.prompts.len(), count);
    assert_eq!(set.prompts[0].text, first);
    assert_eq!(set.sha256, sha256);
}

#[test]
fn addition_as_in_python() {
    check(
        "addition",
        "addition-python",
        100,
        "Give the answer directly: 770487 + 216739 = 987226",
        "2e9a84c50f0ec025812e0ed0089bd1d066688e6a8f8b5fcea3464fb9e4f9cc15",
    );
}

#[test]
fn multiplication_as_in_python() {
    check(
        "multiplication",
        "multiplication-python",
        100,
        "Give the answer directly: 770487 * 216739 = 166994581893",
        "010f121148617f328444bdef60400b5a3d8983b09f1889e875c28cad8ec5a0c9",
    );
}

#[test]
fn parameters_as_in_python() {
    check(
        "addition:digits=4,count=50,seed=7",
        "addition-digits4-count50-seed7-python",
        50,
        "Give the answer directly: 6305 + 3471 = 9776",
        "d3e206d5b98d4770eb4d0ce673463e81da99c7e8d099c87edc840a8eefc449a9",
    );
    check(
        "multiplication:seed=1099511627776,count=20,digits=18",
        "multiplication-digits18-count20-seed1099511627776-python",
        20,
        "Give the answer directly: 507238427105828225 * 175706596837657771 = 89125137812051419390486152062386475",
        "3bfadeefbb5f77c62f51c2a1ba4bbba73406f0ec429264075ce198aabb314677",
    );
    check(
        "addition:digits=1,count=10",
        "addition-digits1-count10-python",
        10,
        "Give the answer directly: 2 + 1 = 3",
        "c87ed4300e7f425cee9b85e5e852a2b097e22e027573378fa0dd0e64ed9b8a11",
    );
}

/// The hash comes from the same Python lines over a ChaCha8 written after the definition of the cipher.
#[test]
fn native_sets_stay_as_they_are() {
    let addition = set("addition", &Options::default());
    assert_eq!(addition.id, "addition");
    assert_eq!(addition.source, "generated: addition, digits 6, count 100, seed 42, rng native");
    assert_eq!(addition, set("addition:digits=6,seed=42,count=100", &Options::default()));
    assert_eq!(addition.sha256, "82e81296e474569855772d95bffc1f323fd2f29a349c942202bb901a191399ab");
}

#[test]
fn every_result_is_right() {
    for (spec, apply) in
        [("addition:digits=9", (|a, b| a + b) as fn(u128, u128) -> u128), ("multiplication", |a, b| a * b)]
    {
        for prompt in set(spec, &Options::default()).prompts {
            let question = prompt.question().unwrap();
            let words: Vec<&str> = question.split_whitespace().collect();
            let operands: Vec<u128> = [words[4], words[6]].map(|w| w.parse().unwrap()).to_vec();
            assert!(question.starts_with("Give the answer directly: ") && question.ends_with(" = "));
            let answer = prompt.answer.as_deref().unwrap();
            assert_eq!(answer, apply(operands[0], operands[1]).to_string());
            let digits = words[4].len();
            assert_eq!(prompt.group.clone().unwrap(), format!("digits-{digits}"));
            assert_eq!(words[6].len(), digits);
        }
    }
}

#[test]
fn limit_gives_the_first_ones() {
    let all = set("addition", &python());
    let some = set("addition", &Options { limit: Some(7), ..python() });
    assert_eq!(some.prompts, all.prompts[..7]);
    assert_eq!(some.id, all.id);
    assert_ne!(some.sha256, all.sha256);
    let more = set("addition", &Options { limit: Some(1000), ..python() });
    assert_eq!(more, all);
}

#[test]
fn seed_of_the_spec_wins() {
    let options = Options { seed: 7, ..python() };
    assert_eq!(set("addition", &options), set("addition:seed=7", &python()));
    assert_ne!(set("addition:seed=42", &options).sha256, set("addition", &options).sha256);
}

#[test]
fn wrong_parameters() {
    #[track_caller]
    fn check(spec: &str, message: &str) {
        assert_eq!(load(spec, &Options::default()).unwrap_err().to_string(), message);
    }
    check("addition:digits=0", "`digits` of `addition` must be a whole number from 1 to 18, not `0`");
    check(
        "multiplication:digits=19",
        "`digits` of `multiplication` must be a whole number from 1 to 18, not `19`",
    );
    check(
        "addition:count=99999999999999999999",
        "`count` of `addition` must be a whole number from 1 to 1000000, not `99999999999999999999`",
    );
    check(
        "addition:seed=-1",
        "`seed` of `addition` must be a whole number from 0 to 18446744073709551615, not `-1`",
    );
    check("addition:size=3", "`addition` has no parameter `size`; it has digits, count, seed");
    check("addition:seed=1,seed=2", "`addition` is given `seed` twice; leave one of them out");
    for (spec, text) in [("addition:", ""), ("addition:seed", "seed"), ("addition:seed=1,", "")] {
        check(
            spec,
            &format!(
                "`{text}` is not a parameter of `addition`; write parameters as `addition:name=value,name=value`"
            ),
        );
    }
    check("plain:count=3", "`plain` has no parameter `count`; it has none, so write only `plain`");
}
