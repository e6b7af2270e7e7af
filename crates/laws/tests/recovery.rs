//! Parameters of made-up data are found again, and lie in their intervals as often as the intervals say.

#![expect(clippy::print_stdout, reason = "shows how often intervals covered")]

mod common;

use approx::assert_relative_eq;
use common::Random;
use fathom_laws::custom::Description;
use fathom_laws::depth::DepthLaw;
use fathom_laws::regress::Formula;
use fathom_laws::repeat::RepeatLaw;
use fathom_laws::rl::{BatchLaw, StepsLaw};
use fathom_laws::{Choice, Effort, Law, Options, Response, Rows, Table, fit};
use fathom_results::{Fitted, Named};

fn quick<'a>(resamples: usize) -> Options<'a> {
    let effort = Effort { starts: 8, resamples, heldout: 0, profile: 0, ..Effort::default() };
    Options { effort, ..Options::default() }
}

fn only(choice: &Choice, table: &Table, options: &Options<'_>) -> Fitted {
    fit(choice, table, options).unwrap().fits.remove(0).1
}

/// A table of these rows, the last column of which is the law's value times `e^noise`.
fn made_up(
    law: &dyn Law,
    values: &[f64],
    names: &[&str],
    inputs: impl IntoIterator<Item = Vec<f64>>,
    mut noise: impl FnMut() -> f64,
) -> Table {
    let free = law.to_free(values);
    let mut columns = vec![Vec::new(); names.len()];
    for mut row in inputs {
        row.push(law.value(&row, &free) * noise().exp());
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    let named: Vec<(&str, &[f64])> = names.iter().copied().zip(columns.iter().map(Vec::as_slice)).collect();
    Table::from_numbers(&named).unwrap()
}

/// Every combination of the values of each column.
fn grid(columns: &[&[f64]]) -> Vec<Vec<f64>> {
    columns.iter().fold(vec![Vec::new()], |rows, column| {
        rows.iter().flat_map(|row| column.iter().map(|value| [row.as_slice(), &[*value]].concat())).collect()
    })
}

fn depth_table(values: &[f64; 7], noise: impl FnMut() -> f64) -> Table {
    let inputs =
        grid(&[&[512.0, 1024.0, 2048.0, 4096.0], &[4.0, 8.0, 16.0, 32.0, 64.0], &[3e8, 3e9, 3e10, 3e11]]);
    made_up(&DepthLaw::new(0.0), values, &["d_model", "n_layers", "num_tokens", "loss"], inputs, noise)
}

fn repeat_table(values: &[f64; 2], noise: impl FnMut() -> f64) -> Table {
    let runs = grid(&[&[1e8, 1e9, 1e10], &[1e9, 1e10], &[1.0, 3.0, 10.0, 40.0]]);
    let inputs = runs.into_iter().map(|run| vec![run[0], run[2] * run[1], run[1]]);
    made_up(&RepeatLaw::default(), values, &["N", "T", "U", "L"], inputs, noise)
}

const SETTINGS: [&[f64]; 2] = [&[1.0, 2.0, 4.0, 8.0, 16.0], &[5e5, 2e6, 8e6, 3e7]];

fn steps_table(values: &[f64; 5], noise: impl FnMut() -> f64) -> Table {
    // The law's starts depend on the rows, its values do not.
    let law = StepsLaw::new(&Rows::new(&[&[1.0], &[1e6]], &[1e5]));
    made_up(&law, values, &["utd", "critic_params", "time"], grid(&SETTINGS), noise)
}

fn batch_table(values: &[f64; 4], noise: impl FnMut() -> f64) -> Table {
    let law = BatchLaw::new(&Rows::new(&[&[1.0], &[1e6]], &[256.0]));
    made_up(&law, values, &["utd", "critic_params", "batch_size"], grid(&SETTINGS), noise)
}

/// How many of `runs` tables have the true value of each parameter in its interval.
fn covered<const N: usize>(
    runs: u64,
    choice: &Choice,
    truth: [f64; N],
    resamples: usize,
    table: impl Fn(&mut Random) -> Table,
) -> [usize; N] {
    let mut covered = [0_usize; N];
    for seed in 0..runs {
        let fitted = only(choice, &table(&mut Random::new(seed)), &quick(resamples));
        for (index, ((_, found), truth)) in fitted.parameters.iter().zip(truth).enumerate() {
            let [low, high] = found.interval.unwrap();
            covered[index] += usize::from(low <= truth && truth <= high);
        }
    }
    println!("{covered:?} of {runs}");
    covered
}

const DEPTH: [f64; 7] = [250.0, 900.0, 9.0, 0.95, 1.2, 0.3, 1.7];

#[test]
fn exact_data_give_the_parameters_back() {
    let fitted = only(&Choice::Depth { less_two: false }, &depth_table(&DEPTH, || 0.0), &quick(0));
    for ((_, found), truth) in fitted.parameters.iter().zip(DEPTH) {
        assert_relative_eq!(found.value, truth, max_relative = 1e-6);
    }
    assert!(fitted.objective.converged && fitted.r2 > 1.0 - 1e-12);

    let table = repeat_table(&[12.0, 4.0], || 0.0);
    let fitted = only(&Choice::Repeat, &table, &quick(0));
    for ((_, found), truth) in fitted.parameters.iter().zip([12.0, 4.0]) {
        assert_relative_eq!(found.value, truth, max_relative = 1e-5);
    }
}

#[test]
fn intervals_of_the_depth_law_cover_the_truth() {
    let (runs, mut covered, mut by_errors) = (40, [0_usize; 7], [0_usize; 7]);
    for seed in 0..runs {
        let mut random = Random::new(seed);
        let table = depth_table(&DEPTH, || 0.004 * random.normal());
        let fitted = only(&Choice::Depth { less_two: false }, &table, &quick(200));
        for (index, ((_, found), truth)) in fitted.parameters.iter().zip(DEPTH).enumerate() {
            let [low, high] = found.interval.unwrap();
            covered[index] += usize::from(low <= truth && truth <= high);
            let error = found.stderr.unwrap();
            // The logarithm is what is distributed normally.
            let (distance, error) = match found.log {
                true => ((found.value / truth).ln(), error / found.value),
                false => (found.value - truth, error),
            };
            by_errors[index] += usize::from(distance.abs() <= 1.99 * error);
        }
    }
    // 38 are expected; a binomial number is below 33 once in 300.
    println!("{covered:?} {by_errors:?}");
    assert!(covered.iter().chain(&by_errors).all(|count| *count >= 33), "{covered:?} {by_errors:?}");
}

#[test]
fn intervals_of_a_law_of_ones_own_cover_the_truth() {
    let description = Description::parse(
        "response = 'y'\nexpression = 'c / x ^ a + l0'\n[parameters]\nc = { start = 1, log = true }\n\
         a = { start = 0.3 }\nl0 = { start = 1 }\n",
    )
    .unwrap();
    // In alphabetical order, as expressions have them.
    let covered = covered(100, &Choice::Custom(description), [0.4, 5.0, 1.5], 300, |random| {
        let x: Vec<f64> = (0..40).map(|i| (0.2 * f64::from(i)).exp()).collect();
        let y: Vec<f64> =
            x.iter().map(|x| (5.0 / x.powf(0.4) + 1.5) * (0.02 * random.normal()).exp()).collect();
        Table::from_numbers(&[("x", &x), ("y", &y)]).unwrap()
    });
    assert!(covered.iter().all(|count| *count >= 88), "{covered:?}");
}

/// 95 are expected with intervals of the bootstrap for many rows, a little less for the 20 and 24 rows here.
#[test]
fn intervals_of_repeated_data_and_of_data_efficiency_cover_the_truth() {
    let repeat = [12.0, 4.0];
    let found =
        covered(100, &Choice::Repeat, repeat, 200, |random| repeat_table(&repeat, || 0.01 * random.normal()));
    assert!(found.iter().all(|count| (84..=100).contains(count)), "{found:?}");
    let steps = [1.2, 0.9, 6e5, 0.8, 4e5];
    let found = covered(60, &Choice::Rl(Response::Steps), steps, 200, |random| {
        steps_table(&steps, || 0.03 * random.normal())
    });
    assert!(found.iter().all(|count| (48..=60).contains(count)), "{found:?}");
    let batch = [700.0, 0.4, 2e6, 0.7];
    let found = covered(60, &Choice::Rl(Response::Batch), batch, 200, |random| {
        batch_table(&batch, || 0.03 * random.normal())
    });
    assert!(found.iter().all(|count| (48..=60).contains(count)), "{found:?}");
}

#[test]
fn intervals_of_a_regression_cover_the_truth() {
    let formula = Formula::parse("y ~ a + ln(b)").unwrap();
    let covered = covered(200, &Choice::Regress(formula), [1.0, 2.0, -0.5], 0, |random| {
        let a: Vec<f64> = (0..12).map(|_| random.uniform()).collect();
        let b: Vec<f64> = a.iter().map(|a| (a + 0.5 * random.normal()).exp()).collect();
        let y: Vec<f64> =
            a.iter().zip(&b).map(|(a, b)| 1.0 + 2.0 * a - 0.5 * b.ln() + 0.3 * random.normal()).collect();
        Table::from_numbers(&[("a", &a), ("b", &b), ("y", &y)]).unwrap()
    });
    // 190 are expected, with a standard deviation of 3.
    assert!(covered.iter().all(|count| (179..=199).contains(count)), "{covered:?}");
}

#[test]
fn groups_are_resampled_together() {
    // Noise that the rows of a group share makes intervals over rows too narrow.
    let mut random = Random::new(5);
    let (mut x, mut y, mut group) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..12 {
        let (at, shared) = ((0.5 * f64::from(index)).exp(), 0.05 * random.normal());
        for _ in 0..10 {
            x.push(at);
            y.push((3.0 / at.powf(0.5) + 1.0) * (shared + 0.001 * random.normal()).exp());
            group.push(f64::from(index));
        }
    }
    let table = Table::from_numbers(&[("x", &x), ("y", &y), ("g", &group)]).unwrap();
    let description = Description::parse(
        "response = 'y'\nexpression = 'c / x ^ 0.5 + l0'\n[parameters]\nc = { start = 1 }\nl0 = { start = 1 }\n",
    )
    .unwrap();
    let width = |groups: Option<String>| {
        let fitted = only(&Choice::Custom(description.clone()), &table, &Options { groups, ..quick(300) });
        let [low, high] = fitted.parameters.get("c").unwrap().interval.unwrap();
        high - low
    };
    assert!(width(Some("g".to_owned())) > 2.0 * width(None));
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let mut random = Random::new(9);
    let table = depth_table(&DEPTH, || 0.01 * random.normal());
    let at =
        Named(vec![("params".to_owned(), 1e9), ("tokens".to_owned(), 1e11), ("layers".to_owned(), 24.0)]);
    let optimal = Some(Named(vec![("params".to_owned(), 1e9), ("tokens".to_owned(), 1e11)]));
    let effort = Effort { starts: 4, resamples: 40, heldout: 6, profile: 7, seed: 3, ..Effort::default() };
    let options = Options { at: vec![at], optimal, effort, ..Options::default() };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| only(&Choice::Depth { less_two: false }, &table, &options))
    };
    let one = with(1);
    assert_eq!(one, with(3));
    let heldout = one.heldout.unwrap();
    assert_eq!((heldout.repeats, heldout.failed), (6, 0));
    assert!(heldout.rms > 0.005 && heldout.rms < 0.02 && heldout.rms >= 0.8 * heldout.rms_fitted);
    // The least of a profile is the optimum.
    for profile in &one.profiles {
        let least = profile.objectives.iter().copied().fold(f64::INFINITY, f64::min);
        assert_relative_eq!(least, one.objective.value, max_relative = 1e-9);
        assert!(profile.objectives[0] > least && profile.objectives[6] > least);
    }
    let prediction = &one.predictions[0];
    let [low, high] = prediction.interval.unwrap();
    assert!(low < prediction.value && prediction.value < high);
}

/// The best number of layers is a closed form without an offset.
#[test]
fn the_best_depth_is_that_of_the_formula() {
    let given = Named(vec![("params".to_owned(), 3e9), ("tokens".to_owned(), 1e11)]);
    let options = Options { optimal: Some(given), ..quick(0) };
    let fitted = only(&Choice::Depth { less_two: false }, &depth_table(&DEPTH, || 0.0), &options);
    let [c_m, c_l, _, a_m, a_l, ..] = DEPTH;
    // c_m (12 l / P)^(a_m/2) + c_l (100 l)^-a_l is least where its derivative by ln l is 0.
    let width = c_m * (12.0_f64 / 3e9).powf(a_m / 2.0) * a_m / 2.0;
    let depth = c_l * 100.0_f64.powf(-a_l) * a_l;
    let expected = (depth / width).powf(1.0 / (a_l + a_m / 2.0));
    let found = fitted.optimal.unwrap();
    assert_relative_eq!(found.values.get("layers").unwrap().value, expected, max_relative = 1e-4);
}

/// At the optimum no neighbour is cheaper, and a budget is spent.
#[test]
fn the_best_updates_and_size_are_a_minimum() {
    let truth = [1.2, 0.9, 6e5, 0.8, 4e5];
    let steps = |updates: f64, size: f64| {
        truth[4] * (1.0 + (truth[0] / updates).powf(truth[1]) + (truth[2] / size).powf(truth[3]))
    };
    let table = steps_table(&truth, || 0.0);
    let with = |name: &str, value: f64| {
        let options = Options { optimal: Some(Named(vec![(name.to_owned(), value)])), ..quick(0) };
        let fitted = only(&Choice::Rl(Response::Steps), &table, &options);
        for ((_, found), truth) in fitted.parameters.iter().zip(truth) {
            assert_relative_eq!(found.value, truth, max_relative = 1e-6);
        }
        let values = fitted.optimal.unwrap().values;
        ["utd", "critic_params", "steps", "compute"].map(|name| values.get(name).unwrap().value)
    };
    let delta = 1e10;
    let cost = |updates: f64, size: f64| steps(updates, size) * (2560.0 * updates * size + delta);
    let [updates, size, ..] = with("delta", delta);
    let least = cost(updates, size);
    for (more, larger) in [(1.02, 1.0), (0.98, 1.0), (1.0, 1.02), (1.0, 0.98), (1.02, 0.98), (0.98, 1.02)] {
        assert!(cost(updates * more, size * larger) > least);
    }
    let budget = 4e16;
    let [updates, size, needed, compute] = with("budget", budget);
    assert_relative_eq!(compute, budget, max_relative = 1e-4);
    // Along the settings that spend the budget, nothing needs fewer steps.
    for more in [0.9, 1.1] {
        let spent = |size: f64| 2560.0 * updates * more * size * steps(updates * more, size);
        let (mut low, mut high) = (size * 0.1, size * 10.0);
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if spent(middle) < budget { low = middle } else { high = middle }
        }
        assert!(steps(updates * more, low) > needed);
    }
}

/// Derivatives of the laws against central differences.
#[test]
fn gradients_are_those_of_differences() {
    let rows = Rows::new(&[&[1.0, 4.0, 9.0], &[1e6, 3e6, 2e7]], &[3e5, 2e5, 1e5]);
    let (depth, repeat, steps) = (DepthLaw::new(2.0), RepeatLaw::default(), StepsLaw::new(&rows));
    let batch = BatchLaw::new(&rows);
    let cases: [(&dyn Law, Vec<f64>); 5] = [
        (&depth, vec![1024.0, 24.0, 3e10]),
        (&repeat, vec![2e9, 3e11, 1e10]),
        (&repeat, vec![2e10, 3e11, 1e9]),
        (&steps, vec![2.0, 4e6]),
        (&batch, vec![2.0, 4e6]),
    ];
    for (law, row) in cases {
        let starts: Vec<f64> = law.parameters().iter().map(|p| p.start * 1.1).collect();
        let free = law.to_free(&starts);
        let mut gradient = vec![0.0; free.len()];
        law.predict(&row, &free, &mut gradient);
        for index in 0..free.len() {
            let at = |h: f64| {
                let mut moved = free.clone();
                moved[index] += h;
                law.value(&row, &moved)
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert_relative_eq!(gradient[index], numeric, max_relative = 1e-5, epsilon = 1e-9 * at(0.0));
        }
    }
}
