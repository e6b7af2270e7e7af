//! The built-in prompts: their form and their correctness.
//!
//! Every numeric answer is computed by another method than in its solution, mostly by exhaustive search, and
//! every equation in a worked answer is evaluated.

use fathom_data::{Options, Prompt, load};

fn prompts(spec: &str) -> Vec<Prompt> {
    load(spec, &Options::default()).unwrap().prompts
}

#[test]
fn enough_prompts_of_fitting_length() {
    for spec in ["plain", "word-problems", "competition"] {
        let prompts = prompts(spec);
        assert!(prompts.len() >= 14, "{spec}");
        for prompt in prompts {
            let words = prompt.text.split_whitespace().count();
            assert!((40..=130).contains(&words), "{} has {words} words", prompt.id);
            // On average, a token of a common tokenizer has two to six characters of such text.
            assert!((240..=640).contains(&prompt.text.len()), "{}", prompt.text.len());
            assert!(prompt.text.is_ascii(), "{}", prompt.id);
            assert_eq!(prompt.group.as_deref(), Some(spec));
            assert_eq!(prompt.answer.is_some(), spec != "plain", "{}", prompt.id);
        }
    }
    assert!(prompts("qa").len() >= 8);
    assert_eq!(prompts("qa")[0].text, "5 + 7 + 5 + 3 + 1 + 7 = 28");
}

#[test]
fn prose_is_long_varied_and_clean() {
    let prompts = prompts("prose");
    assert_eq!(prompts.len(), 564);
    let characters: usize = prompts.iter().map(|prompt| prompt.text.chars().count()).sum();
    assert_eq!(characters, 357_139);
    let distinct: std::collections::HashSet<&str> =
        prompts.iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(distinct.len(), prompts.len());
    for (prompt, number) in prompts.iter().zip(1..) {
        assert_eq!(prompt.id, format!("prose-{number:04}"));
        assert!((300..=900).contains(&prompt.text.chars().count()), "{}", prompt.id);
        assert!(prompt.answer.is_none());
        assert!(!prompt.text.contains("  ") && prompt.text.trim() == prompt.text, "{}", prompt.id);
        let lines = prompt.text.replace("\n\n", "");
        assert!(!lines.contains(['\n', '\r', '\t', '\u{a0}', '{']), "{}", prompt.id);
        assert!(!prompt.text.to_lowercase().contains("gutenberg"), "{}", prompt.id);
    }
}

/// Any first part of the set has all works, as a limit and a split by hash need.
#[test]
fn prose_alternates_its_works() {
    let prompts = prompts("prose");
    for part in prompts.chunks_exact(40) {
        for (work, least) in [("moby-dick", 5), ("addresses", 5), ("jargon-file", 3)] {
            let count = part.iter().filter(|prompt| prompt.group.as_deref() == Some(work)).count();
            assert!(count >= least, "{work}: {count} of the 40 from {}", part[0].id);
        }
    }
}

#[test]
fn answers_are_the_end_of_the_text() {
    for spec in ["word-problems", "competition", "qa"] {
        for prompt in prompts(spec) {
            assert!(prompt.question().is_some_and(|q| q.len() > 5), "{}", prompt.id);
        }
    }
}

/// Every worked answer has equations `a * b + ... = c`, and all of them hold.
#[test]
fn worked_equations_hold() {
    for prompt in prompts("word-problems") {
        let rationale = prompt.text.split("\n\n").nth(1).unwrap();
        let mut equations = 0;
        for part in rationale.split_inclusive(" = ").collect::<Vec<_>>().windows(2) {
            let [left, right] = part else { unreachable!() };
            let left = arithmetic_tail(left.trim_end_matches(" = "));
            let right: String = right.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let right: f64 = right.trim_end_matches('.').parse().unwrap();
            assert!(left.contains(' '), "{}: {left}", prompt.id);
            assert_eq!(evaluate(left), right, "{}: {left}", prompt.id);
            equations += 1;
        }
        assert!(equations >= 2, "{}", prompt.id);
        assert!(rationale.contains(&format!("\nThe final answer is {}", prompt.answer.unwrap())));
    }
}

fn arithmetic_tail(text: &str) -> &str {
    let start = text.rfind(|c: char| !"0123456789.+-*/() ".contains(c)).map_or(0, |at| at + 1);
    text[start..].trim_start_matches(['.', ' ', '\n'])
}

/// Sums of products of numbers and brackets, by recursive descent.
fn evaluate(text: &str) -> f64 {
    fn sum(t: &mut std::iter::Peekable<std::str::Chars>) -> f64 {
        let mut value = product(t);
        while let Some(sign) = t.next_if(|c| "+-".contains(*c)) {
            let next = product(t);
            value += if sign == '+' { next } else { -next };
        }
        value
    }
    fn product(t: &mut std::iter::Peekable<std::str::Chars>) -> f64 {
        let mut value = atom(t);
        while let Some(sign) = t.next_if(|c| "*/".contains(*c)) {
            let next = atom(t);
            value = if sign == '*' { value * next } else { value / next };
        }
        value
    }
    fn atom(t: &mut std::iter::Peekable<std::str::Chars>) -> f64 {
        if t.next_if_eq(&'(').is_some() {
            let value = sum(t);
            assert_eq!(t.next(), Some(')'));
            return value;
        }
        let mut digits = String::new();
        while let Some(digit) = t.next_if(|c| c.is_ascii_digit() || *c == '.') {
            digits.push(digit);
        }
        digits.parse().unwrap()
    }
    let text = text.replace(' ', "");
    let mut rest = text.chars().peekable();
    let value = sum(&mut rest);
    assert_eq!(rest.next(), None, "{text}");
    value
}

#[test]
fn the_evaluator_evaluates() {
    assert_eq!(evaluate("14 + 3 * (8 - 5) / 2 - 1"), 17.5);
    assert_eq!(arithmetic_tail("cars.\nThey carry 48 * 35"), "48 * 35");
}

/// The unique number that satisfies the conditions of a problem.
#[track_caller]
fn only(range: std::ops::Range<i64>, holds: impl Fn(i64) -> bool) -> i64 {
    let found: Vec<i64> = range.filter(|n| holds(*n)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[track_caller]
fn check_all(spec: &str, prefix: &str, answers: &[(&str, i64)], shown: fn(i64) -> String) {
    let prompts = prompts(spec);
    assert_eq!(prompts.len(), answers.len(), "every prompt of {spec} needs a check here");
    for (prompt, (id, answer)) in prompts.iter().zip(answers) {
        assert_eq!(prompt.id, format!("{prefix}-{id}"));
        assert_eq!(prompt.answer.as_deref(), Some(shown(*answer).as_str()), "{id}");
    }
}

#[test]
fn word_problems_are_right() {
    let answers = [
        ("seedlings", only(0..100, |n| n * 15 + 57 == 18 * 24)),
        ("ferry", (0..7).map(|day| if day < 5 { 6 * 35 } else { 9 * 35 }).sum()),
        ("library", [4, 7, 9].iter().flat_map(|days| vec![15; *days]).sum::<i64>() / 2),
        ("paint", only(0..50, |n| 12 * n == 2 * (5 * 3 + 5 * 3 + 6 * 5))),
        ("siblings", only(0..100, |n| n % 3 == 0 && (n + 6) + (n / 3 + 6) == 40)),
        ("train", only(0..999, |n| (n - 20) * 28 * 80 == 84 * 60 * 40 + 60 * 60 * 28)),
        ("rolls", only(0..240, |n| 3 * n == 240 - 3 * 30)),
        ("phone", [8, 11].iter().map(|used| 14 + (5..*used).map(|_| 3).sum::<i64>()).sum()),
        ("coat", only(0..100, |n| 4 * (100 - n + 10) == 3 * 120)),
        ("pool", (0..).take_while(|n| (60 + n) * 25 + 60 * 35 < 5400).count() as i64),
        ("theatre", (0..14 * 20).filter(|n| n * 100 < 85 * 280).map(|n| if n < 50 { 7 } else { 12 }).sum()),
        ("tricycles", only(0..24, |n| 3 * n + 2 * (23 - n) == 55)),
        ("hikers", only(0..50, |n| 4 * 100 * n == 3 * 450 + 2 * 725)),
        ("savings", (0..6).map(|week| 8 + 3 * week).sum()),
        ("booklets", only(0..999, |n| 18 * n + 12 * n == 25 * 48)),
        ("eggs", only(0..999, |n| 6 * n + 29 == 7 * 7 * 11)),
    ];
    check_all("word-problems", "word", &answers, |n| n.to_string());
}

#[test]
fn competition_answers_are_right() {
    let answers = [
        ("power", (0..2026).fold(1, |power, _| power * 3 % 100)),
        ("six-or-fifteen", (1..=1000).filter(|n| (n % 6 == 0) != (n % 15 == 0)).count() as i64),
        ("coins", coins()),
        ("fourth-powers", fourth_powers()),
        ("centres", centres()),
        ("sparse-subsets", (0..1 << 10).filter(|set| set & (set >> 1) == 0).count() as i64),
        ("unit-fractions", unit_fractions()),
        ("square-values", (1..100_000).filter(|n| is_square(n * n + 10 * n + 88)).sum()),
        ("even-product", even_product()),
        ("crease", crease()),
        ("factorial", factorial()),
        ("seating", seating()),
        ("cubic", cubic()),
        ("recursion", (1..2026).fold(2, |a, _| (3 * a + 11) % 13)),
        ("lattice-points", lattice_points()),
        ("grid-paths", grid_paths(6, 4)),
    ];
    check_all("competition", "competition", &answers, |n| format!("\\boxed{{{n}}}"));
}

fn coins() -> i64 {
    let boxes = (0..256).map(|n| [n % 4, n / 4 % 4, n / 16 % 4, n / 64].map(|digit| digit + 1));
    boxes.filter(|content| content.iter().sum::<i64>() == 10).count() as i64
}

fn fourth_powers() -> i64 {
    let root = 29f64.sqrt();
    let sum = ((7.0 + root) / 2.0).powi(4) + ((7.0 - root) / 2.0).powi(4);
    as_integer(sum)
}

fn as_integer(value: f64) -> i64 {
    assert!((value - value.round()).abs() < 1e-9, "{value}");
    value.round() as i64
}

/// Numerator plus denominator of a value as a reduced fraction.
fn fraction_sum(value: f64) -> i64 {
    let denominator =
        (1..1000).find(|n| (value * f64::from(*n) - (value * f64::from(*n)).round()).abs() < 1e-9).unwrap();
    as_integer(value * f64::from(denominator)) + i64::from(denominator)
}

/// The side of length 14 lies on the axis, from 0; the third corner is (5, 12). The incentre is the
/// mean of the corners weighted by the opposite sides; the circumcentre is halfway along the side,
/// equidistant from the corner at 0 and the third.
fn centres() -> i64 {
    let inner = ((15.0 * 0.0 + 13.0 * 14.0 + 14.0 * 5.0) / 42.0, 14.0 * 12.0 / 42.0);
    // 49 + y^2 = 4 + (12 - y)^2
    let outer = (7.0, (4.0 + 144.0 - 49.0) / 24.0);
    let (dx, dy): (f64, f64) = (inner.0 - outer.0, inner.1 - outer.1);
    fraction_sum(dx * dx + dy * dy)
}

fn unit_fractions() -> i64 {
    let partners = |a: i64| (1..=1000).filter(|b| 12 * (a + b) == a * b).count() as i64;
    (1..=1000).map(partners).sum()
}

fn is_square(n: i64) -> bool {
    let root = (n as f64).sqrt().round() as i64;
    root * root == n
}

fn even_product() -> i64 {
    let pairs = || (1..10).flat_map(|a| (1..10).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let even = pairs().filter(|(a, b)| a * b % 2 == 0).count();
    fraction_sum(even as f64 / pairs().count() as f64)
}

/// The points of the two long edges that are equidistant from (0, 0) and (12, 9).
fn crease() -> i64 {
    // x^2 + y^2 = (12 - x)^2 + (9 - y)^2, that is 24 x + 18 y = 225.
    let at = |y: f64| (225.0 - 18.0 * y) / 24.0;
    let (low, high) = (at(0.0), at(9.0));
    assert!((0.0..=12.0).contains(&low) && (0.0..=12.0).contains(&high));
    fraction_sum((low - high).hypot(9.0))
}

fn factorial() -> i64 {
    let exponent = |prime: i64| -> i64 {
        let of = |mut n: i64| {
            let mut exponent = 0;
            while n % prime == 0 {
                n /= prime;
                exponent += 1;
            }
            exponent
        };
        (1..=100).map(of).sum()
    };
    (exponent(2) / 2).min(exponent(3))
}

fn seating() -> i64 {
    let rows = (0..5i32.pow(5)).map(|n| [1, 5, 25, 125, 625].map(|power| n / power % 5));
    let fits = |row: &[i32; 5]| {
        let seat = |person| row.iter().position(|other| *other == person);
        let seats: Option<Vec<usize>> = (0..5).map(seat).collect();
        seats.is_some_and(|s| s[1].abs_diff(s[0]) > 1 && s[1].abs_diff(s[2]) > 1)
    };
    rows.filter(fits).count() as i64
}

/// One root is real and found by bisection; the other two are those of the remaining quadratic.
fn cubic() -> i64 {
    let f = |x: f64| x * x * x - 5.0 * x * x + 2.0 * x + 1.0;
    let root = |mut low: f64, mut high: f64| {
        assert!(f(low) * f(high) < 0.0);
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if f(low) * f(middle) <= 0.0 { high = middle } else { low = middle }
        }
        low
    };
    let roots = [root(-1.0, 0.0), root(0.0, 2.0), root(2.0, 10.0)];
    as_integer(roots.iter().map(|r| r * r + 1.0).product())
}

fn lattice_points() -> i64 {
    let inside = |x: i64| (1..15).filter(|y| 15 * x + 20 * y < 300).count() as i64;
    (1..20).map(inside).sum()
}

fn grid_paths(x: i64, y: i64) -> i64 {
    match (x, y) {
        (3, 2) => 0,
        (0, 0) => 1,
        _ => {
            let left = if x > 0 { grid_paths(x - 1, y) } else { 0 };
            let below = if y > 0 { grid_paths(x, y - 1) } else { 0 };
            left + below
        }
    }
}

#[test]
fn question_answers_are_right() {
    let answers: Vec<(String, String)> =
        prompts("qa").into_iter().map(|p| (p.id, p.answer.unwrap())).collect();
    let x = 4;
    let computed = [
        ("qa-sum", 5 + 7 + 5 + 3 + 1 + 7),
        ("qa-product", 12 * 11 - 32),
        ("qa-half", 86 / 2 + 9),
        ("qa-code", x * (x + 3)),
        ("qa-triples", 54 * 54 / 18),
    ];
    for (id, value) in computed {
        assert!(answers.contains(&(id.to_owned(), value.to_string())), "{id}");
    }
}
