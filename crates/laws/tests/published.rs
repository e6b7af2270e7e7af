//! Fits of the data behind the published laws, which cannot be part of the project.
//!
//! `FATHOM_LAWS_DATA=FOLDER cargo test --release -p fathom-laws --test published -- --ignored --nocapture`, where the folder
//! holds `chinchilla_runs.csv`, `repeated_data_runs.json`, `rl_*.csv` and `rl_simbav2_curves.zip`; `docs/src/fit.md` says
//! where they come from.

#![expect(clippy::print_stdout, reason = "the numbers are printed for the person who runs it")]

use approx::assert_relative_eq;
use fathom_laws::curves::{Array, Curve, Pattern, Thresholds, from_zip, times};
use fathom_laws::{Choice, Effort, Options, Outcome, Response, Schedule, Table, fit};
use fathom_results::{Fitted, Named};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn bytes(name: &str) -> Vec<u8> {
    let folder = std::env::var("FATHOM_LAWS_DATA").expect("FATHOM_LAWS_DATA names the folder with the data");
    std::fs::read(PathBuf::from(folder).join(name)).expect(name)
}

/// Numbers only: no intervals, held-out error or profiles.
fn quick<'a>() -> Options<'a> {
    Options {
        effort: Effort { resamples: 0, heldout: 0, profile: 0, ..Effort::default() },
        ..Options::default()
    }
}

fn run(choice: &Choice, table: &Table, options: &Options<'_>) -> Fitted {
    let Outcome { fits, .. } = fit(choice, table, options).unwrap();
    fits.into_iter().next().unwrap().1
}

fn value(fitted: &Fitted, name: &str) -> f64 {
    fitted.parameters.get(name).unwrap().value
}

/// Equal to as many digits as are printed.
fn assert_printed(found: f64, printed: &str) {
    let decimals = printed.split_once('.').map_or(0, |(_, digits)| digits.len());
    assert!(
        (found - printed.parse::<f64>().unwrap()).abs() <= 0.5001 * 10_f64.powi(-(decimals as i32)),
        "{found} {printed}"
    );
}

fn chinchilla() -> Table {
    Table::from_csv(&bytes("chinchilla_runs.csv")).unwrap()
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn depth_converges_to_the_known_optima_and_scan() {
    let options = Options { drop_highest: Some(40), ..quick() };
    let fitted = run(&Choice::Depth { less_two: false }, &chinchilla(), &options);
    println!("{:?} {:?}", fitted.parameters, fitted.objective);
    assert_eq!((fitted.rows, fitted.objective.converged), (203, true));
    for (name, printed) in [("a_m", "0.945"), ("a_l", "1.325"), ("a_d", "0.2991"), ("l0", "1.7536")] {
        assert_printed(value(&fitted, name), printed);
    }
    assert_printed(fitted.objective.value, "0.00302737");
    assert_printed(fitted.parameters.get("a_l").unwrap().stderr.unwrap(), "0.270");

    let less_two = run(&Choice::Depth { less_two: true }, &chinchilla(), &options);
    println!("l - 2: {:?} {:?}", less_two.parameters, less_two.objective);
    assert_printed(value(&less_two, "a_l"), "1.0975");
    assert_printed(less_two.parameters.get("a_l").unwrap().stderr.unwrap(), "0.243");
    assert_printed(less_two.objective.value, "0.00306051");

    let printed = ["1.20", ".951", "1.044", "1.276", "1.325", "1.469", "1.658", "1.870", "1.870"];
    let drops = ["1", "10", "20", "30", "40", "50", "60", "80", "100"];
    for (drop, printed) in drops.into_iter().zip(printed) {
        let point = fitted.scan.iter().find(|p| p.choice == "drop" && p.value == drop).unwrap();
        let a_l = *point.parameters.as_ref().unwrap().get("a_l").unwrap();
        println!("drop {drop}: a_l {a_l} objective {:?}", point.objective);
        assert_printed(a_l, printed);
        match drop {
            "1" => assert_printed(point.objective.unwrap(), "0.0290064"),
            "10" => assert_printed(point.objective.unwrap(), "0.00408143"),
            "100" => assert_printed(point.objective.unwrap(), "0.00285526"),
            _ => {}
        }
    }
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn depth_by_the_published_schedule_is_what_was_published() {
    let options = Options { schedule: Schedule::Published, ..quick() };
    let table = chinchilla();
    let published = [
        (
            false,
            vec![
                ("c_m", 333.381),
                ("c_l", 1284.368),
                ("c_d", 8.48674),
                ("a_m", 0.976914),
                ("a_l", 1.201390),
                ("a_d", 0.299096),
                ("l0", 1.750327),
            ],
        ),
        (true, vec![("a_l", 1.06609), ("a_m", 0.95992), ("l0", 1.74421)]),
    ];
    for (less_two, expected) in published {
        let fitted = run(&Choice::Depth { less_two }, &table, &options);
        assert_eq!(fitted.rows, 203);
        for (name, expected) in expected {
            println!(
                "{name}: {} published {expected}, relative {:.1e}",
                value(&fitted, name),
                value(&fitted, name) / expected - 1.0
            );
            assert_relative_eq!(value(&fitted, name), expected, max_relative = 1e-3);
        }
        if !less_two {
            for (name, printed) in [("a_m", 0.0833), ("a_l", 0.2685), ("a_d", 0.0139), ("l0", 0.0256)] {
                let error = fitted.parameters.get(name).unwrap().stderr.unwrap();
                println!("standard error of {name}: {error}, published {printed}");
                assert_relative_eq!(error, printed, max_relative = 0.01);
            }
        }
    }
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn repeated_data_has_a_better_optimum_than_the_published_one() {
    let table = Table::from_json(&bytes("repeated_data_runs.json")).unwrap();
    let started = std::time::Instant::now();
    let fitted = run(&Choice::Repeat, &table, &quick());
    println!("{:?}", started.elapsed());
    let published = fitted.published.as_ref().unwrap();
    println!("published: objective {} r2 {}", published.objective, published.r2);
    assert_relative_eq!(published.r2, 0.7722046084968408, epsilon = 1e-12);
    assert_relative_eq!(published.objective, 0.015825936570763588, max_relative = 1e-6);
    println!("{:?} {:?} r2 {} {:?}", fitted.parameters, fitted.objective, fitted.r2, fitted.starts);
    assert!(fitted.objective.converged && fitted.objective.value <= 0.0158074);
    assert!(fitted.r2 >= 0.787);
    let starts = fitted.starts.unwrap();
    assert_eq!(starts.agreeing, starts.count);
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn reinforcement_learning_meets_the_published_columns() {
    let expected = [
        ("rl_dmc_last_threshold_250522.csv", [1.26059, 1.01039, 633198.0, 0.890187, 371870.0], 0.011381),
        (
            "rl_dog_humanoid_last_threshold_250522.csv",
            [0.892123, 0.77277, 667698.0, 1.26718, 539065.0],
            0.00499559,
        ),
    ];
    for (file, parameters, objective) in expected {
        let table = Table::from_csv(&bytes(file)).unwrap();
        let fitted = run(&Choice::Rl(Response::Steps), &table, &quick());
        for (name, printed) in ["a", "alpha", "b", "beta", "d_min"].into_iter().zip(parameters) {
            assert_relative_eq!(value(&fitted, name), printed, max_relative = 5e-6);
        }
        assert_relative_eq!(fitted.objective.value, objective, max_relative = 5e-6);
        let power = table.numbers("time_sum_powerlaw").unwrap();
        let worst =
            fitted.points.iter().zip(&power).map(|(p, y)| (p.predicted / y - 1.0).abs()).fold(0.0, f64::max);
        let linear = table.numbers("time_loglinear").unwrap();
        let baseline = fitted.baseline.unwrap().predicted;
        let worst_linear = baseline.iter().zip(&linear).map(|(p, y)| (p / y - 1.0).abs()).fold(0.0, f64::max);
        println!(
            "{file}: power law within {worst:.1e}, log-linear within {worst_linear:.1e}, {:?}",
            fitted.parameters
        );
        assert!(worst < 1e-6 && worst_linear < 1e-12);
    }
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn all_published_times_to_threshold_follow_from_the_curves() {
    let pattern =
        Pattern::parse("w{critic_width}/utd_{utd}/{env_name}/avg_return/bs_{batch_size}.npy").unwrap();
    let members = from_zip(&bytes("rl_simbav2_curves.zip"), &pattern).unwrap();
    let curve =
        |(path, bytes): &(String, Vec<u8>)| Curve::of(path, &Array::from_npy(bytes).unwrap()).unwrap();
    let curves: Vec<Curve> = members.iter().map(curve).collect();
    let thresholds =
        Thresholds::parse("h1-crawl-v0=788.8871690886515,h1-stand-v0=657.0001967485866").unwrap();
    let found = times(&curves, &pattern, &thresholds, &BTreeMap::new()).unwrap().table;
    let published = Table::from_csv(&bytes("rl_simba_250823.csv")).unwrap();
    let key = |table: &Table, time: &str, row: usize| {
        let number = |name: &str| table.numbers(name).unwrap()[row];
        (
            table.text("env_name").unwrap()[row].clone(),
            number("utd") as u64,
            number("critic_width") as u64,
            number(time),
        )
    };
    let mut ours: Vec<_> = (0..found.rows()).map(|row| key(&found, "time_to_threshold", row)).collect();
    let mut theirs: Vec<_> =
        (0..published.rows()).map(|row| key(&published, "time_to_threshold", row)).collect();
    ours.sort_by(|a, b| a.partial_cmp(b).unwrap());
    theirs.sort_by(|a, b| a.partial_cmp(b).unwrap());
    // The curves have a larger network too, which the published table leaves out.
    ours.retain(|(_, _, width, _)| *width <= 1024);
    println!("{} of {}", ours.iter().zip(&theirs).filter(|(a, b)| a == b).count(), theirs.len());
    assert_eq!((ours.len(), &ours), (32, &theirs));
}

#[test]
#[ignore = "needs the data: see the top of the file"]
fn whole_fits_say_what_is_optimal() {
    let options = Options {
        drop_highest: Some(40),
        at: vec![Named(vec![("params".into(), 7e9), ("tokens".into(), 2e12), ("layers".into(), 32.0)])],
        optimal: Some(Named(vec![("params".into(), 7e9), ("tokens".into(), 2e12)])),
        ..Options::default()
    };
    let started = std::time::Instant::now();
    let fitted = run(&Choice::Depth { less_two: false }, &chinchilla(), &options);
    println!(
        "depth {:?} {:?} {:?} {:?}",
        started.elapsed(),
        fitted.predictions,
        fitted.optimal,
        fitted.heldout
    );
    let table = Table::from_json(&bytes("repeated_data_runs.json")).unwrap();
    let optimal = Some(Named(vec![("params".into(), 2.8e9), ("unique".into(), 5e10)]));
    let started = std::time::Instant::now();
    let fitted = run(&Choice::Repeat, &table, &Options { optimal, ..Options::default() });
    println!(
        "repeat {:?} {:?} {:?} {:?}",
        started.elapsed(),
        fitted.parameters,
        fitted.optimal,
        fitted.heldout
    );
    for given in [("delta", 1e10), ("budget", 5e16)] {
        let table = Table::from_csv(&bytes("rl_dmc_last_threshold_250522.csv")).unwrap();
        let optimal = Some(Named(vec![(given.0.into(), given.1)]));
        let started = std::time::Instant::now();
        let fitted = run(&Choice::Rl(Response::Steps), &table, &Options { optimal, ..Options::default() });
        println!("rl {:?} {:?} {:?}", started.elapsed(), fitted.optimal, fitted.heldout);
    }
}
