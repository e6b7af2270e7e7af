//! The types of `fit.json`: a law fitted to a table, with everything that says how far to trust it.

use crate::folder::FIT;
use crate::{Error, Result, null, version};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;

/// The newest version of `fit.json` that this crate reads and the one it writes.
pub const FIT_SCHEMA_VERSION: u32 = 1;

/// A law that can be fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LawName {
    /// Loss by width, layers and data (arXiv 2602.05970).
    Depth,
    /// Loss with repeated data (arXiv 2305.16264).
    Repeat,
    /// Data efficiency of value-based reinforcement learning (arXiv 2508.14881).
    Rl,
    /// Ordinary least squares (arXiv 2505.13898).
    Regress,
    /// An expression of the user's own.
    Custom,
}

impl LawName {
    /// All laws.
    pub const ALL: [Self; 5] = [Self::Depth, Self::Repeat, Self::Rl, Self::Regress, Self::Custom];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Repeat => "repeat",
            Self::Rl => "rl",
            Self::Regress => "regress",
            Self::Custom => "custom",
        }
    }

    /// What it says, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Depth => "loss by width, layers and data",
            Self::Repeat => "loss with repeated data",
            Self::Rl => "data efficiency of value-based reinforcement learning",
            Self::Regress => "ordinary least squares",
            Self::Custom => "an expression of your own",
        }
    }

    /// The paper that it is from.
    pub fn source(self) -> Option<&'static str> {
        match self {
            Self::Depth => Some("arXiv 2602.05970"),
            Self::Repeat => Some("arXiv 2305.16264"),
            Self::Rl => Some("arXiv 2508.14881"),
            Self::Regress => Some("arXiv 2505.13898"),
            Self::Custom => None,
        }
    }
}

/// Values by name, in a fixed order; a JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Named<T> {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }
}

impl<T> FromIterator<(String, T)> for Named<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Everything in `fit.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitting {
    /// The version of the format, [`FIT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The law.
    pub law: LawName,
    /// The law as a formula.
    pub expression: String,
    /// The paper that the law is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What was read.
    pub data: FitData,
    /// The fit, if the table has one group of rows.
    #[serde(flatten)]
    pub fit: Option<Fitted>,
    /// A fit for each environment, if the table has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
    /// What should be known before the numbers are used.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The fit of one environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name in the column `env_name`.
    pub name: String,
    /// The fit.
    #[serde(flatten)]
    pub fit: Fitted,
}

/// The table that was fitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FitData {
    /// The file.
    pub file: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Rows of the table.
    pub rows: usize,
    /// The column of the file that each quantity was read from.
    pub columns: BTreeMap<String, String>,
    /// The column whose values are resampled together, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<String>,
}

/// One fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Rows that were fitted.
    pub rows: usize,
    /// Rows that were left out.
    pub dropped: usize,
    /// What was minimised, and how.
    pub objective: FitObjective,
    /// The parameters.
    pub parameters: Named<Parameter>,
    /// What the law takes from its source and does not fit.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub constants: Named<f64>,
    /// The share of the variance of the observed values that is explained.
    #[serde(deserialize_with = "null::number")]
    pub r2: f64,
    /// The optima from several starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Starts>,
    /// The law with the published parameters on the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// A simpler law on the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// The error on rows that were not fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heldout: Option<HeldOut>,
    /// Other choices of rows, units and objective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scan: Vec<ScanPoint>,
    /// The best objective at fixed values of a parameter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
    /// Rows with what the law says of them.
    #[serde(default)]
    pub points: Vec<FitPoint>,
    /// Predictions that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<Prediction>,
    /// The best allocation that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimal: Option<Optimal>,
    /// What only a linear regression has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Regression>,
}

/// The objective of a fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FitObjective {
    /// `squared-log`, `huber-log` or `squared`.
    pub residual: String,
    /// Where Huber's loss becomes linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// The factor before the sum; `mean` says whether it is a mean.
    pub factor: f64,
    /// Whether the sum over rows is divided by their number.
    pub mean: bool,
    /// Its value at the fit.
    #[serde(deserialize_with = "null::number")]
    pub value: f64,
    /// `converged` for the optimum, `published` for the source's own schedule.
    pub schedule: String,
    /// Whether the gradient vanishes, to the accuracy of the arithmetic.
    pub converged: bool,
    /// The largest cosine of the angle between the residuals and their derivative by a parameter; 0 at an optimum.
    #[serde(deserialize_with = "null::number")]
    pub slope: f64,
}

/// A fitted parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// The value.
    pub value: f64,
    /// The standard error, from the Jacobian; none if the data do not determine it.
    #[serde(default)]
    pub stderr: Option<f64>,
    /// The 95 % interval: of the bootstrap, or of Student's distribution for a linear regression.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
    /// The value divided by its standard error, of a linear regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<f64>,
    /// The two-sided p-value of 0, of a linear regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Whether the parameter is the logarithm's exponential: its standard error divided by it is that of the logarithm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
}

/// The optima from several starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    /// The number of starts.
    pub count: usize,
    /// Starts that ended within 1e-6 of the best objective.
    pub agreeing: usize,
    /// Starts that ended at an optimum.
    pub converged: usize,
    /// The objective that each start ended with; none if it failed.
    pub objectives: Vec<Option<f64>>,
    /// The smallest and largest value of each parameter over the agreeing starts.
    pub spread: Named<[f64; 2]>,
}

/// The published parameters on the same rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Where they stand.
    pub source: String,
    /// The parameters.
    pub parameters: Named<f64>,
    /// The objective.
    #[serde(deserialize_with = "null::number")]
    pub objective: f64,
    /// The share of the variance that is explained.
    #[serde(deserialize_with = "null::number")]
    pub r2: f64,
}

/// A simpler law on the same rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The law as a formula.
    pub expression: String,
    /// Its parameters.
    pub parameters: Named<f64>,
    /// The mean of its squared logarithmic residuals.
    #[serde(deserialize_with = "null::number")]
    pub objective: f64,
    /// The share of the variance that it explains.
    #[serde(deserialize_with = "null::number")]
    pub r2: f64,
    /// Its value for each fitted row.
    #[serde(deserialize_with = "null::numbers")]
    pub predicted: Vec<f64>,
}

/// The error on rows that were not fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// The share of the rows, or groups, that is held out each time.
    pub share: f64,
    /// How often it was repeated.
    pub repeats: usize,
    /// Repetitions whose fit did not converge; they are not counted.
    pub failed: usize,
    /// The root mean square of the residuals on held-out rows, the mean over repetitions.
    #[serde(deserialize_with = "null::number")]
    pub rms: f64,
    /// Its standard deviation over repetitions.
    #[serde(deserialize_with = "null::number")]
    pub deviation: f64,
    /// The same on the rows that were fitted.
    #[serde(deserialize_with = "null::number")]
    pub rms_fitted: f64,
}

/// The fit after another choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanPoint {
    /// What was varied: `drop`, `layers` or `objective`.
    pub choice: String,
    /// The value it had.
    pub value: String,
    /// Rows that were fitted.
    pub rows: usize,
    /// The parameters; none if the fit failed.
    pub parameters: Option<Named<f64>>,
    /// The objective.
    #[serde(default)]
    pub objective: Option<f64>,
    /// Whether the fit converged.
    pub converged: bool,
    /// Whether this is the choice of the fit itself.
    #[serde(default)]
    pub chosen: bool,
}

/// The best objective at fixed values of a parameter, all others being fitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The parameter.
    pub parameter: String,
    /// Its values, ascending.
    pub values: Vec<f64>,
    /// The objective at each; NaN if the fit failed.
    #[serde(deserialize_with = "null::numbers")]
    pub objectives: Vec<f64>,
}

/// A row and what the law says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FitPoint {
    /// The row of the file, from 1, its heading not counted.
    pub row: usize,
    /// What the row is called, if the table has a column of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The observed value.
    pub observed: f64,
    /// The value by the law.
    #[serde(deserialize_with = "null::number")]
    pub predicted: f64,
    /// Whether the row was left out of the fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// A prediction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The inputs, as they were given.
    pub inputs: Named<f64>,
    /// What was derived from them.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub derived: Named<f64>,
    /// The prediction.
    pub value: f64,
    /// Its standard error, from the Jacobian.
    #[serde(default)]
    pub stderr: Option<f64>,
    /// The 95 % bootstrap interval of the law's value; a new observation scatters more.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
}

/// The best allocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Optimal {
    /// What was given.
    pub inputs: Named<f64>,
    /// The allocation and what follows from it.
    pub values: Named<Parameter>,
    /// Neighbouring allocations.
    pub table: OptimalTable,
    /// What it means, in a sentence or two.
    pub note: String,
}

/// A table of allocations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OptimalTable {
    /// The headings.
    pub headings: Vec<String>,
    /// A row for each allocation.
    pub rows: Vec<Vec<f64>>,
    /// The row of the best one.
    #[serde(default)]
    pub best: Option<usize>,
}

/// What only a linear regression has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// The share of the variance explained, corrected for the number of terms.
    #[serde(deserialize_with = "null::number")]
    pub adjusted_r2: f64,
    /// Degrees of freedom of the residuals.
    pub freedom: usize,
    /// The standard deviation of the residuals.
    pub deviation: f64,
    /// The condition number of the terms, each scaled to unit length and the intercept included.
    pub condition: f64,
    /// The variance inflation factor of each term.
    pub vif: Named<f64>,
    /// The correlation of each pair of terms, in the order of `vif`.
    pub correlation: Vec<Vec<f64>>,
    /// For each term, what is left of the term and of the response after all other terms.
    pub partial: Vec<PartialResiduals>,
}

/// What is left of a term and of the response after a regression on all other terms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartialResiduals {
    /// The term.
    pub term: String,
    /// Of the term, in the order of the fitted rows.
    pub of_term: Vec<f64>,
    /// Of the response.
    pub of_response: Vec<f64>,
}

impl Fitting {
    /// Every fit, with the name of its environment if there are several.
    pub fn fits(&self) -> impl Iterator<Item = (Option<&str>, &Fitted)> {
        let named = self.environments.iter().map(|e| (Some(e.name.as_str()), &e.fit));
        self.fit.iter().map(|fit| (None, fit)).chain(named)
    }

    /// Reads `fit.json`.
    ///
    /// # Errors
    /// When the file cannot be read, was written by a later version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let fitting: Self = version::read(path, FIT_SCHEMA_VERSION)?;
        fitting.check()?;
        Ok(fitting)
    }

    /// Checks that there is a fit, and that lists which belong together have one length.
    fn check(&self) -> Result<()> {
        let wrong = |field: &str, problem: &str| {
            Err(Error::Inconsistent { file: FIT, field: field.to_owned(), problem: problem.to_owned() })
        };
        if self.fits().next().is_none() {
            return wrong("parameters", "are missing, and so are environments");
        }
        for (_, fit) in self.fits() {
            if fit.profiles.iter().any(|p| p.values.len() != p.objectives.len()) {
                return wrong("profiles", "have values without an objective");
            }
            if let Some(optimal) = &fit.optimal {
                let OptimalTable { headings, rows, best } = &optimal.table;
                if rows.iter().any(|row| row.len() != headings.len()) {
                    return wrong("optimal.table", "has rows of another length than its headings");
                }
                if best.is_some_and(|best| best >= rows.len()) {
                    return wrong("optimal.table.best", "names no row");
                }
            }
            if let Some(regression) = &fit.regression {
                let terms = regression.vif.0.len();
                let square = regression.correlation.len() == terms
                    && regression.correlation.iter().all(|row| row.len() == terms);
                if !square {
                    return wrong("regression.correlation", "is not a square of the terms");
                }
                if regression.partial.iter().any(|p| p.of_term.len() != p.of_response.len()) {
                    return wrong("regression.partial", "has pairs with one half");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_fit_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fit.json");
        let several = Fitting {
            fit: None,
            environments: vec![Environment { name: "run".to_owned(), fit: fixture::fitting().fit.unwrap() }],
            ..fixture::fitting()
        };
        for fitting in [fixture::fitting(), fixture::regression(), several] {
            let text = serde_json::to_string(&fitting).unwrap();
            std::fs::write(&path, &text).unwrap();
            let again = Fitting::read(&path).unwrap();
            // NaN is not equal to itself, so the text is compared.
            assert_eq!(serde_json::to_string(&again).unwrap(), text);
            assert_eq!(again.fits().count(), 1);
        }
    }

    #[test]
    fn parameters_are_an_object_in_their_order() {
        let value = serde_json::to_value(fixture::fitting()).unwrap();
        assert_eq!(value["law"], "depth");
        assert_eq!(value["parameters"]["a_m"]["value"], 0.945);
        let text = serde_json::to_string(&fixture::fitting()).unwrap();
        assert!(text.find("\"a_m\"").unwrap() < text.find("\"a_l\"").unwrap());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fit.json");
        let read = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(fixture::regression()).unwrap();
            change(&mut value);
            std::fs::write(&path, value.to_string()).unwrap();
            Fitting::read(&path).map(|_| ()).unwrap_err().to_string()
        };
        assert!(read(&|v| v["schema_version"] = 2.into()).contains('2'));
        assert!(read(&|v| v["parameters"] = 1.into()).contains("fit.json"));
        assert!(
            read(&|v| v["regression"]["correlation"] = serde_json::json!([[1.0], [1.0]])).contains("square")
        );
        assert!(
            read(&|v| v["regression"]["partial"][0]["of_term"] = serde_json::json!([1.0])).contains("half")
        );
    }
}
