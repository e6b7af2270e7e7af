//! Numbers that JSON cannot hold: NaN and infinities are written as `null` and read back as NaN.

use serde::{Deserialize, Deserializer};

pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Two ends; nothing unless both are numbers.
pub(crate) fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 2]>, D::Error> {
    match Option::<[Option<f64>; 2]>::deserialize(deserializer)? {
        Some([Some(low), Some(high)]) => Ok(Some([low, high])),
        _ => Ok(None),
    }
}

pub(crate) fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    Ok(nan_for_null(Vec::deserialize(deserializer)?))
}

pub(crate) fn some_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f64>>, D::Error> {
    Ok(Option::<Vec<Option<f64>>>::deserialize(deserializer)?.map(nan_for_null))
}

pub(crate) fn matrix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<f64>>, D::Error> {
    Ok(Vec::deserialize(deserializer)?.into_iter().map(nan_for_null).collect())
}

fn nan_for_null(values: Vec<Option<f64>>) -> Vec<f64> {
    values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect()
}
