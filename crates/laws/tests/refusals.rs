//! What cannot be fitted is refused by name.

use fathom_laws::custom::Description;
use fathom_laws::regress::Formula;
use fathom_laws::{Choice, Effort, Loss, Options, Response, Schedule, Table, fit};
use fathom_results::Named;

fn message(choice: &Choice, csv: &str, options: &Options<'_>) -> String {
    let table = Table::from_csv(csv.as_bytes()).unwrap();
    fit(choice, &table, options).expect_err("it is refused").to_string()
}

const DEPTH: Choice = Choice::Depth { less_two: false };
const HEAD: &str = "d_model,n_layers,num_tokens,loss\n";

/// A table of the depth law with `rows` rows, made by `row`.
fn depth(rows: usize, row: impl Fn(usize) -> String) -> String {
    HEAD.to_owned() + &(0..rows).map(|i| row(i) + "\n").collect::<String>()
}

fn usual(index: usize) -> String {
    format!("{},{},{},{}", 256 << (index % 4), 4 + index, 1e9 * (1 + index) as f64, 4.0 - 0.1 * index as f64)
}

#[test]
fn tables_that_do_not_determine_the_depth_law() {
    let options = Options::default();
    let few = message(&DEPTH, &depth(7, usual), &options);
    assert!(
        few.contains("too few rows (7) for the 7 parameters 'c_m', 'c_l'") && few.contains("at least 8"),
        "{few}"
    );
    let constant = message(
        &DEPTH,
        &depth(12, |i| format!("512,{},{},{}", 4 + i, 1e9 * (1 + i) as f64, 4.0 - 0.1 * i as f64)),
        &options,
    );
    assert!(constant.contains("column 'd_model' is 512 in all 12 rows"), "{constant}");
    let flat = message(
        &DEPTH,
        &depth(12, |i| format!("{},{},{},3", 256 << (i % 4), 4 + i, 1e9 * (1 + i) as f64)),
        &options,
    );
    assert!(flat.contains("observed value is 3 in all 12"), "{flat}");
    let dropped =
        message(&DEPTH, &depth(12, usual), &Options { drop_highest: Some(6), ..Options::default() });
    assert!(dropped.contains("too few rows (6)"), "{dropped}");
    let all = message(&DEPTH, &depth(12, usual), &Options { drop_highest: Some(50), ..Options::default() });
    assert!(all.contains("too few rows (0)"), "{all}");
}

#[test]
fn values_that_cannot_be_used() {
    let with = |row: &str| depth(12, |i| if i == 4 { row.to_owned() } else { usual(i) });
    let options = Options::default();
    for (row, expected) in [
        ("512,8,1e9,0", "row 5, column 'loss': 0 has no logarithm"),
        ("512,8,1e9,-2", "row 5, column 'loss': -2 has no logarithm"),
        ("512,8,1e9,nan", "row 5, column 'loss': 'nan' is not a finite number"),
        ("512,8,inf,3", "row 5, column 'num_tokens': 'inf' is not a finite number"),
        ("512,0,1e9,3", "row 5, column 'n_layers': 0 has no logarithm"),
        ("512,eight,1e9,3", "row 5, column 'n_layers': 'eight' is not a finite number"),
        (",8,1e9,3", "row 5, column 'd_model': an empty cell is not a finite number"),
    ] {
        let found = message(&DEPTH, &with(row), &options);
        assert!(found.contains(expected), "{found}");
    }
    let shallow = message(&Choice::Depth { less_two: true }, &with("512,2,1e9,3"), &options);
    assert!(shallow.contains("row 5") && shallow.contains("more than two"), "{shallow}");
}

#[test]
fn columns_and_options_by_name() {
    let missing = message(&DEPTH, "d_model,depth,tokens,loss\n1,2,3,4\n", &Options::default());
    assert!(missing.contains("no column 'n_layers' or 'layers' for n_layers; the table has 'd_model', 'depth', 'tokens' and 'loss'"), "{missing}");
    let columns = [("layers".to_owned(), "depth".to_owned())].into();
    let unknown = message(&DEPTH, &depth(12, usual), &Options { columns, ..Options::default() });
    assert!(
        unknown.contains("the law has no 'layers'; it reads 'd_model', 'n_layers', 'num_tokens' and 'loss'"),
        "{unknown}"
    );
    let groups =
        message(&DEPTH, &depth(12, usual), &Options { groups: Some("run".to_owned()), ..Options::default() });
    assert!(groups.contains("no column 'run' of groups"), "{groups}");
    let published = Options { schedule: Schedule::Published, ..Options::default() };
    assert!(message(&Choice::Repeat, "a\n1\n", &published).contains("does not say how"));
    let both = Options { objective: Some(Loss::Squared), ..published };
    assert!(message(&DEPTH, &depth(12, usual), &both).contains("leave out --objective"));
    let starts = Options { effort: Effort { starts: 0, ..Effort::default() }, ..Options::default() };
    assert!(message(&DEPTH, &depth(12, usual), &starts).contains("starts"));
    let named = |name: &str, value: f64| Named(vec![(name.to_owned(), value)]);
    let quick = Effort { starts: 1, resamples: 0, heldout: 0, profile: 0, ..Effort::default() };
    let at = Options { at: vec![named("depth", 3.0)], effort: quick, ..Options::default() };
    assert!(message(&DEPTH, &depth(30, usual), &at).contains("'depth' is not an input; there are 'params'"));
    let optimal = Options { optimal: Some(named("a", 1.0)), ..Options::default() };
    let custom = Description::parse("response='y'\nexpression='a*x'\n[parameters]\na={start=1}\n").unwrap();
    assert!(
        message(&Choice::Custom(custom), "x,y\n1,2\n", &optimal).contains("does not say what is optimal")
    );
}

#[test]
fn environments_are_fitted_one_by_one() {
    let row = |i: usize| {
        let (updates, size) = ([1.0, 2.0, 4.0][i % 3], [1e6, 4e6, 2e7, 8e7][i / 3 % 4]);
        let steps = 1e5 * (1.0 + 1.0 / updates + 1e6 / size);
        (updates, size, steps)
    };
    let mut csv = "env_name,utd,critic_params,time_to_threshold\n".to_owned();
    for (name, factor) in [("run", 1.0), ("jump", 3.0)] {
        for (updates, size, steps) in (0..12).map(row) {
            csv += &format!("{name},{updates},{size},{}\n", factor * steps);
        }
    }
    let effort = Effort { resamples: 0, heldout: 0, profile: 0, ..Effort::default() };
    let table = Table::from_csv(csv.as_bytes()).unwrap();
    let outcome =
        fit(&Choice::Rl(Response::Steps), &table, &Options { effort, ..Options::default() }).unwrap();
    let found: Vec<_> = outcome
        .fits
        .iter()
        .map(|(name, f)| (name.clone().unwrap(), f.rows, f.parameters.get("d_min").unwrap().value))
        .collect();
    assert_eq!((found[0].0.as_str(), found[0].1, found[1].0.as_str()), ("run", 12, "jump"));
    assert!((found[0].2 / 1e5 - 1.0).abs() < 1e-6 && (found[1].2 / 3e5 - 1.0).abs() < 1e-6);
    let few = message(&Choice::Rl(Response::Steps), &(csv + "hop,1,1e6,5\n"), &Options::default());
    assert!(few.contains("hop: too few rows (1)"), "{few}");
}

#[test]
fn laws_and_formulas_that_are_none() {
    let description = |text: &str| {
        let found =
            Description::parse(text).and_then(|d| fathom_laws::custom::CustomLaw::new(&d).map(|_| ()));
        found.unwrap_err().to_string()
    };
    let with = |expression: &str, parameters: &str| {
        description(&format!("response = 'y'\nexpression = '{expression}'\n[parameters]\n{parameters}\n"))
    };
    assert!(
        with("a * x", "b = { start = 1 }")
            .contains("'b' does not occur in the expression 'a * x', which has 'a' and 'x'")
    );
    assert!(with("a * x", "a = { start = 1, min = 2 }").contains("unknown field `min`"));
    assert!(with("a * x", "a = { start = -1, log = true }").contains("must be positive"));
    assert!(with("a * x", "a = { start = 1, low = 3, high = 2 }").contains("low less than high"));
    assert!(with("-a^x", "a = { start = 1 }").contains("write -(x^2)"));
    assert!(description("response = 'y'\n").contains("missing field"));
    for (formula, expected) in [
        ("score", "RESPONSE ~ TERM"),
        ("y ~ a + a", "occurs twice"),
        ("y ~ a + 1", "has no column"),
        ("y ~ a +", "empty"),
        ("y ~ log(a)", "no function 'log'"),
    ] {
        let error = Formula::parse(formula).unwrap_err().to_string();
        assert!(error.contains(expected), "{formula}: {error}");
    }
    let regress = |formula: &str, csv: &str| {
        message(&Choice::Regress(Formula::parse(formula).unwrap()), csv, &Options::default())
    };
    let rows = "y,a,b,c\n1,1,2,5\n2,2,4,5\n4,3,6,5\n3,4,8,5\n7,5,10,5\n";
    assert!(regress("y ~ a + b", rows).contains("linearly dependent"));
    assert!(regress("y ~ a + c", rows).contains("'c' is 5 in all 5 rows"));
    assert!(regress("y ~ a + d", rows).contains("no column 'd'; the table has 'y', 'a', 'b' and 'c'"));
    assert!(regress("y ~ ln(z)", "y,z\n1,1\n2,0\n3,4\n").contains("row 2, column 'ln(z)'"));
    assert!(regress("y ~ a", "y,a\n1,2\n2,3\n").contains("too few rows (2)"));
}

/// Where no value of a parameter matters, the fit says so.
#[test]
fn what_the_rows_do_not_determine_is_said() {
    let description = Description::parse(
        "response = 'y'\nexpression = '(a + b) * x'\n[parameters]\na = { start = 1 }\nb = { start = 2 }\n",
    )
    .unwrap();
    let csv: String = "x,y\n".to_owned()
        + &(1..9).map(|x| format!("{x},{}\n", 3.0 * f64::from(x) + 0.1)).collect::<String>();
    let effort = Effort { resamples: 0, heldout: 0, ..Effort::default() };
    let table = Table::from_csv(csv.as_bytes()).unwrap();
    let outcome =
        fit(&Choice::Custom(description), &table, &Options { effort, ..Options::default() }).unwrap();
    assert!(
        outcome.warnings.iter().any(|w| w.contains("do not determine 'a' and 'b'")),
        "{:?}",
        outcome.warnings
    );
}
