//! The linear lens: the texts that it is fitted to, fitting, and what that takes.

use crate::error::invalid;
use crate::estimate::{ProbeEstimate, speed_of_sums};
use crate::job::{Job, read};
use crate::observer::counted;
use crate::prompts::OpenSet;
use crate::texts::Texts;
use crate::tokenise::PromptTokenizer;
use crate::{Error, Measurement, Observer, PromptSpec, Result, Unit};
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_probes::{Costs, LensMaps};
use fathom_surgery::exit::{HeadFit, pack};
use fathom_surgery::least_squares::Fit;
use std::collections::HashSet;
use std::slice::Chunks;

/// Texts of the built-in set that a linear lens is fitted to.
const TEXTS: usize = 256;

/// What the fit is called among the probes of an estimate.
const FIT: &str = "lens fit";

/// The texts that a linear lens is fitted to, none of which is measured.
pub(super) fn texts<B: Backend>(
    m: &Measurement,
    loaded: &Loaded<B>,
    job: &Job,
    observer: &dyn Observer,
) -> Result<Texts> {
    let id = m.lens_data.as_deref().unwrap_or(Measurement::LENS_DATA);
    let spec: PromptSpec = m.options.data.of(id, None).first_of(Measurement::LENS_DATA, TEXTS);
    let open = OpenSet::open(&spec, observer)?;
    let random = m.options.data.rng.seeded(m.options.data.seed);
    let (config, limit) = (loaded.model.config(), spec.limit);
    let tokenizer = PromptTokenizer::new(&loaded.tokenizer, config, open.rest.source(), random, 0)?
        .leaving_out(Some(open.max_tokens.unwrap_or(config.context)))
        .sequences(m.options.sequences.clone(), m.options.data.seed);
    let (set, mut prompts, _) = read(open, tokenizer, limit, observer)?;
    prompts.retain(|p| p.tokens.len() > 1);
    let measured: HashSet<_> = job.prompts.iter().filter_map(|p| p.text_sha256.as_ref()).collect();
    let common =
        |p: &&fathom_probes::TokenizedPrompt| p.text_sha256.as_ref().is_some_and(|t| measured.contains(t));
    if let Some(first) = prompts.iter().find(common) {
        invalid!(
            "'{}' of {id} is measured too, so the linear lens would be fitted to what it reads; give other texts with \
             --lens-data",
            first.id
        );
    }
    let texts = Texts::new(&set, set.id.clone(), prompts);
    let (tokens, width) = (texts.about.tokens, config.hidden as u64);
    if tokens < 2 * width {
        observer.warn(&format!(
            "the linear lens of width {width} is fitted to {tokens} tokens, which is too few; give more texts with \
             --lens-data, so that there are {} or more",
            2 * width
        ));
    }
    if texts.prompts.is_empty() {
        invalid!("{id} has no text that a linear lens could be fitted to; give others with --lens-data");
    }
    Ok(texts)
}

/// The fit of the maps of all levels but the last, as many at a time as fit half of the memory.
pub(super) struct LinearFit<'a, B: Backend> {
    model: &'a Model<B>,
    texts: &'a Texts,
    levels: Vec<usize>,
    at_once: usize,
}

impl<'a, B: Backend> LinearFit<'a, B> {
    pub(super) fn new(model: &'a Model<B>, texts: &'a Texts, memory: u64) -> Self {
        let (d, depth) = (model.config().hidden, model.config().depth());
        let at_once = (memory / 2 / Fit::bytes(d, d).max(1)).clamp(1, depth.max(1) as u64) as usize;
        Self { model, texts, levels: (0..depth).collect(), at_once }
    }

    fn width(&self) -> usize {
        self.model.config().hidden
    }

    /// Levels that are fitted at a time. Each group runs the model once over all texts.
    fn groups(&self) -> Chunks<'_, usize> {
        self.levels.chunks(self.at_once)
    }

    /// Multiply-adds of the sums of a text of that many tokens, the first of which is left out.
    fn of_sums(&self, tokens: usize, levels: usize) -> u64 {
        HeadFit::macs_per_token(self.width()) * (tokens.saturating_sub(1) * levels) as u64
    }

    /// Multiply-adds of the clean runs, and of sums and solutions.
    fn macs(&self) -> [u64; 2] {
        let lengths = || self.texts.prompts.iter().map(|p| p.tokens.len());
        let passes = self.groups().len() as u64;
        let forward: u64 = lengths().map(|tokens| self.model.layers_macs(tokens)).sum();
        let sums: u64 = lengths().map(|tokens| self.of_sums(tokens, self.levels.len())).sum();
        let solving = self.levels.len() as u64 * HeadFit::macs_of_solving(self.width());
        [passes * forward, sums + solving]
    }

    /// Bytes of the sums, of a clean run, and of the maps in f32.
    fn bytes(&self) -> u64 {
        let d = self.width();
        let longest = self.texts.prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
        self.at_once as u64 * Fit::bytes(d, d)
            + (longest * (self.model.trace_bytes_per_token() + self.model.row_bytes())) as u64
            + (4 * self.levels.len() * d * d) as u64
    }

    /// What fitting will take. Its time follows from that of clean runs in `costs` and from that of sums.
    pub(super) fn estimate(&self, costs: &Costs) -> ProbeEstimate {
        let [forward, sums] = self.macs();
        let clean = costs.get("forward").filter(|c| c.work.macs > 0 && c.resources.seconds > 0.0);
        let seconds = clean.map(|c| {
            let of_runs = forward as f64 * c.resources.seconds / c.work.macs as f64;
            of_runs + sums as f64 / speed_of_sums()
        });
        ProbeEstimate {
            probe: FIT.to_owned(),
            edits: 0,
            runs: (self.groups().len() * self.texts.prompts.len()) as u64,
            macs: forward + sums,
            macs_naive: forward + sums,
            bytes: self.bytes(),
            seconds,
        }
    }

    /// Fits the maps.
    pub(super) fn maps(&self, observer: &dyn Observer) -> Result<LensMaps<B>> {
        let (model, d) = (self.model, self.width());
        let running = counted(observer, "fitting the lens", Unit::MultiplyAdds, self.macs().iter().sum());
        let mut maps = Vec::new();
        for group in self.groups() {
            let mut fit = HeadFit::new(group, d);
            for prompt in &self.texts.prompts {
                if observer.is_cancelled() {
                    return Err(Error::Cancelled(
                        "interrupted while fitting the lens; the same command fits it again".to_owned(),
                    ));
                }
                model.run(&[&prompt.tokens])?.iter().for_each(|trace| fit.add(model.backend(), trace));
                let tokens = prompt.tokens.len();
                running.advance(model.layers_macs(tokens) + self.of_sums(tokens, group.len()));
            }
            for (level, fitted) in group.iter().zip(fit.solve()) {
                running.advance(HeadFit::macs_of_solving(d));
                let Some(fitted) = fitted else {
                    invalid!(
                        "no linear lens at level {level}: its activations are not finite or vanish; use --lens logit"
                    );
                };
                maps.push(Some(pack(model, &fitted)?));
            }
        }
        Ok(LensMaps::new(maps))
    }
}
