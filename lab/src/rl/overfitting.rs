//! TD overfitting (arXiv 2508.14881): does a larger batch raise the TD error on held-out transitions, and for which critics?

use super::Run;
use super::agent::Point;
use super::recipe::Recipe;
use crate::statistics::Mean;
use serde::Serialize;

/// TD errors of a setting: the geometric mean over seeds of the mean over the second half of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Errors {
    /// The environment.
    pub environment: String,
    /// The width of the critic.
    pub width: usize,
    /// Its number of blocks.
    pub depth: usize,
    /// Updates per environment step.
    pub updates: usize,
    /// The batch size.
    pub batch: usize,
    /// On transitions of the replay buffer.
    pub training: Option<Mean>,
    /// On transitions of held-out episodes.
    pub validation: Option<Mean>,
}

/// How the TD errors of a critic change with the batch size: the exponent of error against batch size, by least squares of
/// logarithms, the mean over updates per step; then the mean over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Slope {
    /// The environment.
    pub environment: String,
    /// The width of the critic.
    pub width: usize,
    /// Its number of blocks.
    pub depth: usize,
    /// Its number of weights.
    pub critic_parameters: usize,
    /// Of the error on transitions of the replay buffer.
    pub training: Option<Mean>,
    /// Of the error on transitions of held-out episodes.
    pub validation: Option<Mean>,
    /// The exponent on held-out transitions of each seed.
    pub of_seeds: Vec<Option<f64>>,
}

/// The errors of all settings, in the order of the runs.
pub fn errors(runs: &[Run]) -> Vec<Errors> {
    let same = |a: &Run, b: &Run| a.setting.is_like(&b.setting);
    let of = |group: &[Run]| {
        let setting = &group.first()?.setting;
        let mean = |of: fn(&Point) -> Option<f64>| {
            geometric(&group.iter().filter_map(|run| late(run, of)).collect::<Vec<_>>())
        };
        Some(Errors {
            environment: setting.environment.clone(),
            width: setting.width,
            depth: setting.depth,
            updates: setting.updates,
            batch: setting.batch,
            training: mean(training),
            validation: mean(validation),
        })
    };
    runs.chunk_by(same).filter_map(of).collect()
}

/// The geometric mean of positive values, whose interval is that of the mean of their logarithms.
fn geometric(values: &[f64]) -> Option<Mean> {
    let logarithms: Vec<f64> = values.iter().map(|value| value.ln()).collect();
    let mean = Mean::of(&logarithms).filter(|mean| mean.value.is_finite())?;
    Some(Mean { value: mean.value.exp(), interval: mean.interval.map(|ends| ends.map(f64::exp)) })
}

fn training(point: &Point) -> Option<f64> {
    Some(point.training_error)
}

fn validation(point: &Point) -> Option<f64> {
    point.validation_error
}

/// The mean over the second half of a run; none of one that was stopped.
fn late(run: &Run, of: fn(&Point) -> Option<f64>) -> Option<f64> {
    if run.diverged.is_some() {
        return None;
    }
    let half = &run.curve[run.curve.len() / 2..];
    let values: Vec<f64> = half.iter().filter_map(of).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    mean.is_finite().then_some(mean)
}

/// The slopes of every critic, where at least two batch sizes were tried.
pub fn slopes(recipe: &Recipe, runs: &[Run]) -> Vec<Slope> {
    let mut all = Vec::new();
    for (environment, task) in &recipe.environment {
        let grid = recipe.grid_of(task);
        if grid.batches.len() < 2 {
            continue;
        }
        for width in &grid.widths {
            for depth in &grid.depths {
                let of: Vec<&Run> = runs
                    .iter()
                    .filter(|run| run.setting.environment == *environment)
                    .filter(|run| run.setting.width == *width && run.setting.depth == *depth)
                    .collect();
                all.extend(slope(recipe, &grid.updates, &of));
            }
        }
    }
    all
}

fn slope(recipe: &Recipe, updates: &[usize], runs: &[&Run]) -> Option<Slope> {
    let first = runs.first()?;
    let of = |seed: u64, error: fn(&Point) -> Option<f64>| -> Option<f64> {
        let at = |updates: &usize| {
            let runs = runs.iter().filter(|run| run.setting.seed == seed && run.setting.updates == *updates);
            exponent(runs.filter_map(|run| Some((run.setting.batch as f64, late(run, error)?))))
        };
        let exponents: Option<Vec<f64>> = updates.iter().map(at).collect();
        exponents.map(|all| all.iter().sum::<f64>() / all.len() as f64)
    };
    let all = |error| -> Vec<Option<f64>> { recipe.seeds.iter().map(|seed| of(*seed, error)).collect() };
    let mean = |of: &[Option<f64>]| Mean::of(&of.iter().copied().flatten().collect::<Vec<_>>());
    let of_seeds = all(validation);
    Some(Slope {
        environment: first.setting.environment.clone(),
        width: first.setting.width,
        depth: first.setting.depth,
        critic_parameters: first.critic_parameters,
        training: mean(&all(training)),
        validation: mean(&of_seeds),
        of_seeds,
    })
}

/// The slope of ln y against ln x; none of fewer than two different x, or of values without a logarithm.
fn exponent(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let logarithms: Vec<(f64, f64)> = points.map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logarithms.len() as f64;
    let [x, y] = [0, 1].map(|i| logarithms.iter().map(|p| [p.0, p.1][i]).sum::<f64>() / count);
    let along: f64 = logarithms.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let across: f64 = logarithms.iter().map(|p| (p.0 - x).powi(2)).sum();
    let slope = along / across;
    slope.is_finite().then_some(slope)
}

/// What the smallest and the largest critic of an environment say of the claim, in words.
pub(super) fn sentence(of: &[&Slope]) -> Option<String> {
    let small = of.iter().min_by_key(|slope| slope.critic_parameters)?;
    let large = of.iter().max_by_key(|slope| slope.critic_parameters)?;
    let [found, other] = [small.validation?, large.validation?];
    let verdict = match found.interval {
        Some([low, _]) if low > 0.0 => {
            "A larger batch raises it for the smallest critic, as arXiv 2508.14881 says"
        }
        Some([_, high]) if high < 0.0 => {
            "A larger batch lowers it for the smallest critic, against what arXiv 2508.14881 says"
        }
        _ => {
            "These seeds do not tell whether a larger batch raises it for the smallest critic, as arXiv 2508.14881 says"
        }
    };
    let pairs = small.of_seeds.iter().zip(&large.of_seeds);
    let differences: Vec<f64> = pairs.filter_map(|(small, large)| Some((*small)? - (*large)?)).collect();
    let difference = Mean::of(&differences).map_or(String::new(), |mean| {
        format!("; the difference of the two, seed by seed, is {}", mean.text(2))
    });
    Some(format!(
        "In {} the validation TD error goes as batch^e with e = {} for the smallest critic ({} weights) and {} for the largest \
         ({}){difference}. {verdict}.",
        small.environment,
        found.text(2),
        small.critic_parameters,
        other.text(2),
        large.critic_parameters,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponent_is_a_slope_of_logarithms() {
        let power = |x: f64| (x, 3.0 * x.powf(-0.5));
        assert!((exponent([16.0, 64.0, 256.0].map(power).into_iter()).unwrap() + 0.5).abs() < 1e-12);
        assert_eq!(exponent([(2.0, 1.0)].into_iter()), None);
        assert_eq!(exponent([(2.0, 1.0), (4.0, 0.0)].into_iter()), None);
    }

    #[test]
    fn geometric_means_have_positive_intervals() {
        let mean = geometric(&[1.0, 10.0, 100.0]).unwrap();
        assert!((mean.value - 10.0).abs() < 1e-12);
        let [low, high] = mean.interval.unwrap();
        assert!(0.0 < low && low < 1.0 && (low * high - 100.0).abs() < 1e-9, "{low} {high}");
        assert_eq!(geometric(&[1.0, 0.0]), None);
    }

    #[test]
    fn the_claim_is_judged_by_the_interval_of_the_smallest_critic() {
        let slope = |critic_parameters: usize, of: [f64; 3]| Slope {
            environment: "pendulum".to_owned(),
            width: 8,
            depth: 1,
            critic_parameters,
            training: None,
            validation: Mean::of(&of),
            of_seeds: of.map(Some).to_vec(),
        };
        let large = slope(900, [0.0, 0.1, -0.1]);
        let judge = |of: [f64; 3]| sentence(&[&large, &slope(100, of)]).unwrap();
        assert!(judge([0.5, 0.6, 0.7]).contains("A larger batch raises it"));
        assert!(judge([-0.5, -0.6, -0.7]).contains("lowers it"));
        assert!(judge([0.5, -0.6, 0.7]).contains("do not tell"));
        assert!(judge([0.5, 0.6, 0.7]).contains("seed by seed, is 0.60"), "{}", judge([0.5, 0.6, 0.7]));
        assert_eq!(sentence(&[]), None);
    }
}
