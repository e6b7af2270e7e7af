//! Fitting and measuring maps, a group of source levels at a time.

use super::read::Levels;
use crate::observer::counted;
use crate::texts::Texts;
use crate::{Error, LayerMap, Observer, Result, Unit};
use fathom_results::{Folder, MapLine, Work};
use fathom_surgery::maps::{LevelMap, Mapped, NotFitted, Projections, SourceFit, Spread};
use std::collections::BTreeMap;
use std::ops::Range;

/// The stages.
pub(super) const FIT: &str = "fit";
pub(super) const MEASURE: &str = "measure";

/// Two models, the texts, and what is to be mapped.
pub(super) struct Job<'a> {
    pub(super) m: &'a LayerMap,
    pub(super) source: &'a dyn Levels,
    pub(super) target: &'a dyn Levels,
    pub(super) fit: &'a Texts,
    pub(super) heldout: &'a Texts,
    /// Bytes of working memory beside the weights.
    pub(super) memory: u64,
    pub(super) observer: &'a dyn Observer,
}

/// The finished source levels.
pub(super) type Known = BTreeMap<usize, MapLine>;

impl Job<'_> {
    pub(super) fn mapped(&self) -> Mapped {
        if self.m.differences { Mapped::Differences } else { Mapped::Levels }
    }

    /// Levels of the source and of the target.
    pub(super) fn levels(&self) -> [usize; 2] {
        let more = usize::from(!self.m.differences);
        [self.source.depth() + more, self.target.depth() + more]
    }

    /// Source levels whose sums fit into the memory at a time.
    pub(super) fn at_once(&self) -> usize {
        let bytes = SourceFit::bytes(self.source.width(), self.target.width(), self.levels()[1]);
        let levels = self.levels()[0];
        let most = (self.memory / 4 * 3 / bytes.max(1)).clamp(1, levels as u64) as usize;
        // Groups of about one size.
        levels.div_ceil(levels.div_ceil(most))
    }

    /// Multiply-adds of both models over some texts.
    pub(super) fn forward(&self, texts: &Texts) -> u64 {
        let of_text = |tokens: usize| self.source.macs(tokens) + self.target.macs(tokens);
        texts.prompts.iter().map(|p| of_text(p.tokens.len())).sum()
    }

    /// Multiply-adds of fitting the maps of one source level, and of applying them.
    pub(super) fn of_level(&self) -> [u64; 2] {
        let (k, d, levels) = (self.source.width(), self.target.width(), self.levels()[1]);
        let adding = SourceFit::macs_per_token(k, d, levels) * self.fit.about.tokens;
        let applying = (k * d * levels) as u64 * self.heldout.about.tokens;
        [adding + SourceFit::macs_of_solving(k, d, levels), applying]
    }

    /// Fits and measures what is not known yet. Every group of levels is kept as soon as it is done.
    pub(super) fn carry_out(&self, folder: &Folder, known: &mut Known) -> Result<()> {
        let open: Vec<usize> = (0..self.levels()[0]).filter(|level| !known.contains_key(level)).collect();
        if open.len() < self.levels()[0] {
            self.observer.note(&format!(
                "{} of {} source levels are there already (--overwrite fits them anew)",
                known.len(),
                self.levels()[0]
            ));
        }
        for group in open.chunks(self.at_once()) {
            let maps = self.fit(group)?;
            for line in self.measure(group, maps)? {
                folder.append_sample(&line)?;
                known.insert(line.source, line);
            }
        }
        Ok(())
    }

    fn interrupted(&self, doing: &str) -> Error {
        Error::Cancelled(format!(
            "interrupted while {doing}; the source levels that were finished are kept, and the same command goes on"
        ))
    }

    /// The maps of some source levels.
    fn fit(&self, group: &[usize]) -> Result<Vec<Result<Vec<LevelMap>, NotFitted>>> {
        let (k, d, [sources, levels]) = (self.source.width(), self.target.width(), self.levels());
        let total = self.forward(self.fit) + group.len() as u64 * self.of_level()[0];
        let task = format!("fitting levels {} of {}", span(group), sources - 1);
        let running = counted(self.observer, &task, Unit::MultiplyAdds, total);
        let projections = Projections::new(d);
        let mut fits: Vec<SourceFit> = group.iter().map(|_| SourceFit::new(k, d, levels)).collect();
        for prompt in &self.fit.prompts {
            if self.observer.is_cancelled() {
                return Err(self.interrupted("fitting"));
            }
            let tokens = &prompt.tokens;
            let source = self.source.rows(tokens, self.mapped())?;
            let targets = projections.targets(&self.target.rows(tokens, self.mapped())?);
            running.advance(self.source.macs(tokens.len()) + self.target.macs(tokens.len()));
            for (fit, level) in fits.iter_mut().zip(group) {
                fit.add(&source[*level], &targets);
                running.advance((tokens.len() - 1) as u64 * SourceFit::macs_per_token(k, d, levels));
            }
        }
        let solve = |fit: SourceFit| {
            if self.observer.is_cancelled() {
                return Err(self.interrupted("fitting"));
            }
            let solved = fit.solve();
            running.advance(SourceFit::macs_of_solving(k, d, levels));
            Ok(solved)
        };
        fits.into_iter().map(solve).collect()
    }

    /// The errors of the maps on the held-out texts.
    fn measure(&self, group: &[usize], maps: Vec<Result<Vec<LevelMap>, NotFitted>>) -> Result<Vec<MapLine>> {
        let (d, targets) = (self.target.width(), self.levels()[1]);
        let [of_fit, of_measure] = self.of_level();
        let forward = self.forward(self.heldout);
        let total = forward + group.len() as u64 * of_measure;
        let running = counted(self.observer, "measuring", Unit::MultiplyAdds, total);
        let mut spread = Spread::new(targets, d);
        let mut lines: Vec<MapLine> = Vec::new();
        for ((i, source), maps) in group.iter().enumerate().zip(&maps) {
            let shared = |texts: &Texts| if i == 0 { self.forward(texts) } else { 0 };
            let text_count = self.heldout.prompts.len() as u64;
            if let Err(why) = maps {
                self.observer.warn(&format!("no map from level {source}: {why}"));
            }
            let maps = maps.as_ref().map_or(&[][..], Vec::as_slice);
            lines.push(MapLine {
                source: *source,
                penalty: maps.iter().map(|map| map.penalty).collect(),
                relative: vec![Vec::new(); maps.len()],
                r2: Vec::new(),
                mse: vec![0.0; maps.len()],
                fit: Work::plain(self.fit.prompts.len() as u64, shared(self.fit) + of_fit),
                measure: Work::plain(text_count, shared(self.heldout) + of_measure),
            });
        }
        for prompt in &self.heldout.prompts {
            if self.observer.is_cancelled() {
                return Err(self.interrupted("measuring"));
            }
            let source = self.source.rows(&prompt.tokens, self.mapped())?;
            let target = self.target.rows(&prompt.tokens, self.mapped())?;
            spread.add(&target);
            running.advance(self.source.macs(prompt.tokens.len()) + self.target.macs(prompt.tokens.len()));
            for (line, maps) in lines.iter_mut().zip(&maps) {
                for (l, map) in maps.iter().flatten().enumerate() {
                    let errors = map.errors(&source[line.source], &target[l]);
                    line.relative[l].push(errors.relative);
                    line.mse[l] += errors.squared;
                }
                running.advance(of_measure / self.heldout.prompts.len() as u64);
            }
        }
        let elements = spread.tokens() * d as f64;
        for line in &mut lines {
            line.r2 = line.mse.iter().zip(spread.totals()).map(|(sum, total)| 1.0 - sum / total).collect();
            line.mse.iter_mut().for_each(|sum| *sum /= elements);
        }
        Ok(lines)
    }
}

/// `3..9`, the levels of a group.
fn span(group: &[usize]) -> String {
    let Range { start, end } = group.first().copied().unwrap_or(0)..group.last().copied().unwrap_or(0);
    if start == end { start.to_string() } else { format!("{start} to {end}") }
}
