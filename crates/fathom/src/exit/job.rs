//! Fitting the maps of linear heads, and reading heads text by text.

use crate::observer::counted;
use crate::texts::Texts;
use crate::{Error, Exit, Observer, Result, Unit};
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_probes::TokenizedPrompt;
use fathom_results::{ExitCosts, ExitHead, ExitLine, ExitMap, ExitSample, Folder, HeadValues, Work};
use fathom_surgery::exit::{HeadFit, HeadReading, HeadReadings, PackedMap, macs, pack, read};
use fathom_surgery::least_squares::Fit;
use std::collections::BTreeMap;

/// The stages.
pub(super) const FIT: &str = "fit";
pub(super) const MEASURE: &str = "measure";

/// A loaded model, the texts, and what is to be measured.
pub(super) struct Job<'a, B: Backend> {
    pub(super) e: &'a Exit,
    pub(super) loaded: &'a Loaded<B>,
    /// Fitting, calibration, held out.
    pub(super) texts: &'a [Texts; 3],
    /// Bytes of working memory beside the weights.
    pub(super) memory: u64,
    pub(super) observer: &'a dyn Observer,
}

/// What is finished.
#[derive(Default)]
pub(super) struct Known {
    pub(super) maps: Vec<Option<ExitMap>>,
    pub(super) fit: Work,
    pub(super) samples: BTreeMap<String, ExitSample>,
}

impl Known {
    pub(super) fn add(&mut self, line: ExitLine) {
        match line {
            ExitLine::Maps { maps, work } => (self.maps, self.fit) = (maps, work),
            ExitLine::Text(sample) => {
                self.samples.insert(sample.id.clone(), sample);
            }
        }
    }
}

impl<'a, B: Backend> Job<'a, B> {
    pub(super) fn model(&self) -> &'a Model<B> {
        &self.loaded.model
    }

    pub(super) fn depth(&self) -> usize {
        self.model().config().depth()
    }

    fn has(&self, head: ExitHead) -> bool {
        self.e.heads.contains(&head)
    }

    /// Levels whose maps are fitted at a time.
    fn levels_at_once(&self) -> usize {
        let d = self.model().config().hidden;
        // The two Gram matrices of each level; what solving one takes is small beside them.
        let most = self.memory / 2 / Fit::bytes(d, d).max(1);
        let depth = self.depth().max(1);
        depth.div_ceil(depth.div_ceil(most.clamp(1, depth as u64) as usize))
    }

    /// Multiply-adds of fitting all maps.
    pub(super) fn fit_macs(&self) -> u64 {
        if !self.has(ExitHead::Linear) {
            return 0;
        }
        let passes = self.depth().div_ceil(self.levels_at_once()) as u64;
        let forward: u64 =
            self.texts[0].prompts.iter().map(|p| self.model().layers_macs(p.tokens.len())).sum();
        let d = self.model().config().hidden;
        let sums = HeadFit::macs_per_token(d) * self.texts[0].about.tokens;
        passes * forward + self.depth() as u64 * (sums + HeadFit::macs_of_solving(d))
    }

    /// Multiply-adds of measuring a text.
    pub(super) fn text_macs(&self, prompt: &TokenizedPrompt) -> u64 {
        let maps = if self.has(ExitHead::Linear) { self.depth() } else { 0 };
        self.model().layers_macs(prompt.tokens.len()) + macs(self.model(), prompt.tokens.len(), maps)
    }

    /// Fits the maps and measures the texts that are not known yet.
    pub(super) fn carry_out(&self, folder: &Folder, known: &mut Known) -> Result<()> {
        let all = || self.texts.iter().flat_map(|texts| &texts.prompts);
        let open: Vec<&TokenizedPrompt> = all().filter(|p| !known.samples.contains_key(&p.id)).collect();
        let there = all().count() - open.len();
        if there > 0 {
            self.observer.note(&format!(
                "{there} of {} texts are there already (--overwrite measures them anew)",
                all().count()
            ));
        }
        if open.is_empty() {
            return Ok(());
        }
        // The maps themselves are not kept: fitting them again gives the same bits.
        let (maps, line) = self.maps()?;
        if known.maps.is_empty() {
            folder.append_sample(&line)?;
            known.add(line);
        }
        let total = open.iter().map(|prompt| self.text_macs(prompt)).sum();
        let running = counted(self.observer, "measuring", Unit::MultiplyAdds, total);
        for prompt in open {
            if self.observer.is_cancelled() {
                return Err(interrupted("measuring"));
            }
            self.observer.detail(&prompt.id);
            let traces = self.model().run(&[&prompt.tokens])?;
            running.advance(self.model().layers_macs(prompt.tokens.len()));
            for trace in &traces {
                let readings =
                    read(self.model(), trace, &maps, self.memory / 2, &|macs| running.advance(macs));
                let line = ExitLine::Text(self.sample(prompt, readings));
                folder.append_sample(&line)?;
                known.add(line);
            }
        }
        Ok(())
    }

    /// The maps of the linear heads, by level.
    fn maps(&self) -> Result<(Vec<Option<PackedMap<B>>>, ExitLine)> {
        let (model, mut packed, mut about) = (self.model(), Vec::new(), Vec::new());
        let work = Work::plain(self.texts[0].prompts.len() as u64, self.fit_macs());
        if !self.has(ExitHead::Linear) {
            return Ok((packed, ExitLine::Maps { maps: about, work }));
        }
        let running = counted(self.observer, "fitting linear heads", Unit::MultiplyAdds, self.fit_macs());
        let d = model.config().hidden;
        let levels: Vec<usize> = (0..self.depth()).collect();
        for group in levels.chunks(self.levels_at_once()) {
            let mut fit = HeadFit::new(group, d);
            for prompt in &self.texts[0].prompts {
                if self.observer.is_cancelled() {
                    return Err(interrupted("fitting linear heads"));
                }
                model.run(&[&prompt.tokens])?.iter().for_each(|trace| fit.add(model.backend(), trace));
                let sums = HeadFit::macs_per_token(d) * ((prompt.tokens.len() - 1) * group.len()) as u64;
                running.advance(model.layers_macs(prompt.tokens.len()) + sums);
            }
            for (level, fitted) in group.iter().zip(fit.solve()) {
                running.advance(HeadFit::macs_of_solving(d));
                if fitted.is_none() {
                    self.observer.warn(&format!(
                        "no map from level {level}: its activations are not finite or vanish, so the level has no linear \
                         head"
                    ));
                }
                about.push(fitted.as_ref().map(|f| ExitMap { penalty: f.penalty, error: f.error }));
                packed.push(fitted.map(|fitted| pack(model, &fitted)).transpose()?);
            }
        }
        Ok((packed, ExitLine::Maps { maps: about, work }))
    }

    fn sample(&self, prompt: &TokenizedPrompt, readings: HeadReadings) -> ExitSample {
        let tokens = readings.nll.len();
        let heads = [(ExitHead::Lens, &readings.lens), (ExitHead::Linear, &readings.linear)];
        let heads = heads.into_iter().filter(|(head, _)| self.has(*head));
        ExitSample {
            id: prompt.id.clone(),
            nll: readings.nll.iter().map(|x| rounded(*x)).collect(),
            heads: heads.map(|(head, levels)| (head, values(levels, tokens))).collect(),
            work: Work::plain(1, self.text_macs(prompt)),
        }
    }

    /// What layers and heads cost a token, averaged over the held-out texts.
    pub(super) fn costs(&self) -> ExitCosts {
        let (model, config) = (self.model(), self.model().config());
        let texts = &self.texts[2].prompts;
        let tokens: usize = texts.iter().map(|p| p.tokens.len() - 1).sum();
        let layer = |l: usize| {
            let positions = texts.iter().flat_map(|p| 0..p.tokens.len() - 1);
            let attention: u64 =
                positions.map(|position| model.attention_macs(l, position, position + 1)).sum();
            let products: u64 = model.sublayer_sizes(l).iter().map(|size| size.macs).sum();
            products as f64 + attention as f64 / tokens.max(1) as f64
        };
        let key_values = |l: usize| (2 * config.kv_width(l) * config.hidden) as f64;
        ExitCosts {
            layers: (0..config.depth()).map(layer).collect(),
            key_values: (0..config.depth()).map(key_values).collect(),
            head: model.head_macs_per_row() as f64,
            map: config.hidden.pow(2) as f64,
        }
    }
}

fn interrupted(doing: &str) -> Error {
    Error::Cancelled(format!(
        "interrupted while {doing}; the texts that were finished are kept, and the same command goes on"
    ))
}

/// Four significant digits, which is what is stored and calculated with.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A head's readings by level; a level without a head is never sure and never right.
fn values(levels: &[Vec<HeadReading>], tokens: usize) -> HeadValues {
    let missing = HeadReading {
        prob: f64::NAN,
        margin: f64::NAN,
        entropy: f64::NAN,
        agrees: false,
        nll: f64::NAN,
        acceptance: 0.0,
    };
    let row = |readings: &Vec<HeadReading>| match readings.is_empty() {
        true => vec![missing; tokens],
        false => readings.clone(),
    };
    let rows: Vec<Vec<HeadReading>> = levels.iter().map(row).collect();
    let matrix = |of: fn(&HeadReading) -> f64| {
        rows.iter().map(|row| row.iter().map(|r| rounded(of(r))).collect()).collect()
    };
    let agrees = |row: &Vec<HeadReading>| row.iter().map(|r| if r.agrees { '1' } else { '0' }).collect();
    HeadValues {
        prob: matrix(|r| r.prob),
        margin: matrix(|r| r.margin),
        entropy: matrix(|r| r.entropy),
        agrees: rows.iter().map(agrees).collect(),
        nll: matrix(|r| r.nll),
        acceptance: matrix(|r| r.acceptance),
    }
}
