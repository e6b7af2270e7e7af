//! The lens that the residual stream is read with: the logit lens, or maps to the last level before it.

mod linear;
mod tuned;

use crate::error::invalid;
use crate::estimate::ProbeEstimate;
use crate::job::Job;
use crate::objective::refuse_masked;
use crate::texts::Texts;
use crate::{Measurement, Observer, Result};
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_probes::{Costs, LensMaps, LevelMap, Probe};
use fathom_results::LensInfo;
use linear::LinearFit;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How the stream at a level is read by the probes lens and settling.
///
/// Its name is `logit`, `linear`, or the path of a checkpoint of the tuned-lens project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lens {
    /// By the final norm and the unembedding (the logit lens).
    #[default]
    Logit,
    /// After the affine map of least squared error to the last level, fitted to other texts than it reads
    /// (arXiv 2303.09435).
    Linear,
    /// After the maps of a tuned lens (arXiv 2303.08112): a folder with `config.json` and `params.pt`.
    Tuned(PathBuf),
}

impl FromStr for Lens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "logit" => Ok(Self::Logit),
            "linear" => Ok(Self::Linear),
            "" => Err("give logit, linear, or the folder of a tuned lens".to_owned()),
            path => Ok(Self::Tuned(path.into())),
        }
    }
}

impl fmt::Display for Lens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logit => f.write_str("logit"),
            Self::Linear => f.write_str("linear"),
            Self::Tuned(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Weights `[d, d]`, of a linear layer, and bias `[d]` by level.
type Affine = (Vec<f64>, Vec<f64>);

/// A lens whose texts or files have been read.
pub(crate) enum OpenLens {
    Logit,
    Linear(Texts),
    Tuned(LensInfo, Vec<Affine>),
}

impl OpenLens {
    /// Reads what the lens of a measurement is made of.
    pub(crate) fn open<B: Backend>(
        m: &Measurement,
        loaded: &Loaded<B>,
        job: &Job,
        observer: &dyn Observer,
    ) -> Result<Self> {
        if m.lens != Lens::Logit {
            refuse_masked(loaded.model.config(), "a lens with maps")?;
        }
        match &m.lens {
            Lens::Logit => Ok(Self::Logit),
            Lens::Linear => Ok(Self::Linear(linear::texts(m, loaded, job, observer)?)),
            Lens::Tuned(path) => {
                let (info, maps) = tuned::read(path, &loaded.model, observer)?;
                Ok(Self::Tuned(info, maps))
            }
        }
    }

    /// What results say of it; none of the logit lens.
    pub(crate) fn info(&self) -> Option<LensInfo> {
        match self {
            Self::Logit => None,
            Self::Linear(texts) => Some(LensInfo::Linear { fit: texts.about.clone() }),
            Self::Tuned(info, _) => Some(info.clone()),
        }
    }

    /// What fitting will take, if anything is fitted; `costs` has the time of clean runs.
    pub(crate) fn estimate<B: Backend>(
        &self,
        model: &Model<B>,
        memory: u64,
        costs: &Costs,
    ) -> Option<ProbeEstimate> {
        match self {
            Self::Linear(texts) => Some(LinearFit::new(model, texts, memory).estimate(costs)),
            Self::Logit | Self::Tuned(..) => None,
        }
    }

    /// The maps on the model's device.
    pub(crate) fn maps<B: Backend>(
        self,
        model: &Model<B>,
        memory: u64,
        observer: &dyn Observer,
    ) -> Result<LensMaps<B>> {
        match self {
            Self::Logit => Ok(LensMaps::none()),
            Self::Linear(texts) => LinearFit::new(model, &texts, memory).maps(observer),
            Self::Tuned(_, maps) => {
                let pack = |(weights, bias): Affine| Ok(Some(LevelMap::pack(model, &weights, &bias)?));
                Ok(LensMaps::new(maps.into_iter().map(pack).collect::<Result<_>>()?))
            }
        }
    }
}

/// Whether the lens has maps and a probe reads it.
pub(crate) fn check(m: &Measurement) -> Result<()> {
    let read = m.probes.iter().any(|p| matches!(p, Probe::Lens | Probe::Settling));
    if m.lens != Lens::Logit && !read {
        invalid!("--lens {} is for the probes lens and settling; add one of them to --probes", m.lens);
    }
    if m.lens != Lens::Linear && m.lens_data.is_some() {
        invalid!("--lens-data is for --lens linear, which is fitted to it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lenses_are_read_and_written_alike() {
        for name in ["logit", "linear", "some/folder"] {
            assert_eq!(name.parse::<Lens>().unwrap().to_string(), name);
        }
        assert!("".parse::<Lens>().is_err());
    }
}
