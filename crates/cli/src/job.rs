//! What one measurement is about: prompts, pairs and settings; and carrying it out.

use crate::args::{Measure, ModeArg};
use crate::prompts::Data;
use crate::settings::{self, settings};
use crate::texts::{Remarks, Tokeniser};
use crate::{dry_run, interrupt, output, progress, prompts, texts};
use anyhow::{Result, bail};
use fathom_data::PromptSet;
use fathom_model::source::Loaded;
use fathom_probes::{Costs, Pair, Probe, Sample, Settings, Text, Watch};
use fathom_report::Folder;
use indicatif::ProgressBar;
use std::collections::{BTreeMap, HashMap};

/// What is to be measured, as tokens.
pub(crate) struct Job {
    pub(crate) settings: Settings,
    /// The set, without the prompts that are too long or beyond the limit.
    pub(crate) set: PromptSet,
    pub(crate) texts: Vec<Text>,
    pub(crate) remarks: Remarks,
    pub(crate) pairs: Vec<Pair>,
    /// SHA-256 of the pairs.
    pub(crate) qa: Option<String>,
    /// Id and SHA-256 of `--baseline-data`, and its prompts.
    pub(crate) baseline: Option<(String, String, Vec<Text>)>,
}

impl Job {
    pub(crate) fn new(args: &Measure, data: Data, loaded: &Loaded) -> Result<Self> {
        let (tokenizer, config) = (&loaded.tokenizer, loaded.model.config());
        let tokeniser = |source: &str| {
            let random = args.prompts.rng.seeded(args.prompts.seed);
            Tokeniser::new(tokenizer, config, source, random, args.causal.positions.into())
        };
        let tokeniser_of_data = tokeniser(data.rest.source())?.leaving_out(data.max_tokens);
        let (set, texts, remarks) = measured(data, tokeniser_of_data, args.prompts.limit)?;
        warn_of_short(args, &texts)?;
        let qa = match args.probes.0.iter().any(|p| p.needs_pairs()) {
            true => {
                let options = prompts::options(&args.prompts, args.prompts.limit);
                Some(prompts::with_hub(&args.qa, &options, None)?)
            }
            false => None,
        };
        qa.iter().for_each(prompts::note_unread);
        let pairs = match &qa {
            Some(set) => texts::pairs(set, tokenizer, config)?,
            None => Vec::new(),
        };
        let qa = qa.map(|set| set.sha256);
        let baseline =
            match args.causal.baseline_data.as_ref().filter(|_| args.probes.0.contains(&Probe::Erasure)) {
                Some(spec) => {
                    let set = prompts::with_hub(spec, &prompts::options(&args.prompts, None), None)?;
                    prompts::note_unread(&set);
                    let tokeniser = tokeniser(&set.source)?.leaving_out(args.prompts.max_tokens);
                    let texts = texts::tokenise(&set, tokeniser)?;
                    Some((set.id, set.sha256, texts))
                }
                None => None,
            };
        let mut job = Self { settings: settings(args), set, texts, remarks, pairs, qa, baseline };
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let texts = job.texts.iter().chain(job.baseline());
        job.settings.longest_text = longest(&mut texts.map(|t| t.tokens.len()));
        job.settings.longest_pair = longest(&mut job.pairs.iter().map(|p| p.tokens.len()));
        let all = [&job.texts[..], job.baseline()].concat();
        settings::check_memory(&loaded.model, &all, &job.pairs, &job.settings)?;
        Ok(job)
    }

    /// Prompts whose mean residuals erase.
    pub(crate) fn baseline(&self) -> &[Text] {
        self.baseline.as_ref().map_or(&self.texts, |(_, _, texts)| texts)
    }

    /// The probes that a prompt or pair still lacks.
    pub(crate) fn missing(&self, sample: Option<&Sample>, pair: bool) -> Vec<Probe> {
        let asked = self.settings.probes.iter().filter(|p| p.needs_pairs() == pair);
        asked.filter(|p| !sample.is_some_and(|s| s.has(**p))).copied().collect()
    }

    /// Measures what is missing, with a bar, keeping each prompt as soon as it is done.
    pub(crate) fn measure(
        &self,
        loaded: &Loaded,
        done: &HashMap<String, Sample>,
        folder: &Folder,
    ) -> Result<Costs> {
        let texts = by_missing(&self.texts, |t| self.missing(done.get(&t.id), false));
        let pairs = by_missing(&self.pairs, |p| self.missing(done.get(&p.id), true));
        let open: usize = texts.iter().map(|(_, t)| t.len()).sum();
        let asked: usize = pairs.iter().map(|(_, p)| p.len()).sum();
        for (open, all, what, pair) in
            [(open, self.texts.len(), "prompts", false), (asked, self.pairs.len(), "pairs", true)]
        {
            if open < all && !self.missing(None, pair).is_empty() {
                output::note(&format!(
                    "{} of {all} {what} are there already (--overwrite measures them anew)",
                    all - open
                ));
            }
        }
        let model = &loaded.model;
        let mut macs = 0;
        for (probes, texts) in &texts {
            let plans =
                dry_run::plans(model, texts, &[], &[], &settings::only(&self.settings, probes.clone()))?;
            macs += plans.values().map(|p| p.work.macs).sum::<u64>();
        }
        for (probes, pairs) in &pairs {
            let settings = settings::only(&self.settings, probes.clone());
            let plans = dry_run::plans(model, &[], self.baseline(), pairs, &settings)?;
            macs += plans.values().map(|p| p.work.macs).sum::<u64>();
        }
        let bar = progress::work("measuring", macs);
        let result = self.measure_open(loaded, &texts, &pairs, folder, &bar);
        bar.finish_and_clear();
        result
    }

    fn measure_open(
        &self,
        loaded: &Loaded,
        texts: &[(Vec<Probe>, Vec<Text>)],
        pairs: &[(Vec<Probe>, Vec<Pair>)],
        folder: &Folder,
        bar: &ProgressBar,
    ) -> Result<Costs> {
        let done = |macs| bar.inc(macs);
        let warn = |what: &str| bar.suspend(|| output::note(&format!("warning: {what}")));
        let watch = Watch { stop: &interrupt::stopped, done: &done, warn: &warn };
        let mut keep = |sample: Sample| {
            folder.append_sample(&sample)?;
            bar.set_message(format!("({})", sample.id));
            Ok::<_, fathom_report::Error>(())
        };
        let mut costs = Costs::new();
        for (probes, texts) in texts {
            let settings = settings::only(&self.settings, probes.clone());
            fathom_probes::add(
                &mut costs,
                fathom_probes::measure(&loaded.model, texts, &settings, watch, &mut keep)?,
            );
        }
        for (probes, pairs) in pairs {
            let settings = settings::only(&self.settings, probes.clone());
            let more = fathom_probes::measure_pairs(
                &loaded.model,
                self.baseline(),
                pairs,
                &settings,
                watch,
                &mut keep,
            )?;
            fathom_probes::add(&mut costs, more);
        }
        Ok(costs)
    }
}

/// What lacks probes, put together by the probes that it lacks.
fn by_missing<T: Clone>(all: &[T], missing: impl Fn(&T) -> Vec<Probe>) -> Vec<(Vec<Probe>, Vec<T>)> {
    let mut groups: BTreeMap<Vec<Probe>, Vec<T>> = BTreeMap::new();
    for one in all {
        let probes = missing(one);
        if !probes.is_empty() {
            groups.entry(probes).or_default().push(one.clone());
        }
    }
    groups.into_iter().collect()
}

/// Says how many prompts are too short for the skip probe's positions.
fn warn_of_short(args: &Measure, texts: &[Text]) -> Result<()> {
    let positions = args.causal.skip_modes.iter().any(|m| *m != ModeArg::Current);
    if !args.probes.0.contains(&Probe::Skip) || !positions {
        return Ok(());
    }
    match texts.iter().filter(|t| t.positions.is_empty()).count() {
        0 => Ok(()),
        all if all == texts.len() => {
            bail!("no prompt has the 13 tokens that the skip probe needs for a position; use longer prompts")
        }
        short => {
            output::note(&format!(
                "warning: {short} of {} prompts are too short for the positions of skip and count only where all positions are skipped",
                texts.len()
            ));
            Ok(())
        }
    }
}

/// The prompts that are measured, and their texts: what is not too long, up to the limit. No more is read
/// than that takes.
fn measured(
    data: Data,
    mut tokeniser: Tokeniser<'_>,
    limit: Option<usize>,
) -> Result<(PromptSet, Vec<Text>, Remarks)> {
    let Data { first, mut rest, .. } = data;
    let (mut prompts, mut texts) = (Vec::new(), Vec::new());
    let mut all = first.into_iter().map(Ok).chain(rest.by_ref());
    while limit.is_none_or(|limit| texts.len() < limit)
        && let Some(prompt) = all.next().transpose()?
    {
        if let Some(text) = tokeniser.text(&prompt)? {
            prompts.push(prompt);
            texts.push(text);
        }
    }
    drop(all);
    let set = rest.set(prompts);
    prompts::note_unread(&set);
    Ok((set, texts, tokeniser.finish()?))
}
