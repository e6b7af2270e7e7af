//! What one measurement is about, as tokens; and carrying it out.

use crate::error::invalid;
use crate::objective::{self, Masking};
use crate::observer::counted;
use crate::prompts::{OpenSet, warn_of_unread};
use crate::tokenise::{self, PromptTokenizer, Remarks};
use crate::{Measurement, Observer, Result, Shard, Unit, memory};
use fathom_data::PromptSet;
use fathom_model::source::Loaded;
use fathom_model::{Backend, Model};
use fathom_probes::{Costs, LensMaps, Plans, ProbeOptions, TokenizedPair, TokenizedPrompt};
use fathom_results::{Folder, Probe, Sample, SkipMode};
use std::collections::{BTreeMap, HashMap};

/// What is to be measured, as tokens.
pub(crate) struct Job {
    pub(crate) options: ProbeOptions,
    /// How texts are masked; `None` for a causal model.
    pub(crate) masking: Option<Masking>,
    /// The set, without the prompts that are too long or beyond the limit.
    pub(crate) set: PromptSet,
    pub(crate) prompts: Vec<TokenizedPrompt>,
    pub(crate) remarks: Remarks,
    pub(crate) pairs: Vec<TokenizedPair>,
    /// SHA-256 of the pairs.
    pub(crate) qa_sha256: Option<String>,
    /// The prompts of [`Measurement::baseline_data`].
    pub(crate) baseline_set: Option<BaselineSet>,
    /// All prompts, where [`prompts`](Self::prompts) are those of a shard and their mean erases.
    whole: Option<Vec<TokenizedPrompt>>,
}

/// Prompts whose mean residuals erase, where they are not those of the measurement.
pub(crate) struct BaselineSet {
    pub(crate) id: String,
    pub(crate) sha256: String,
    prompts: Vec<TokenizedPrompt>,
}

/// Refuses parts of layers that some layer does not have.
fn check_parts(m: &Measurement, config: &fathom_model::Config) -> Result<()> {
    let skip = m.probes.contains(&Probe::Skip);
    for part in m.skip.parts.iter().filter(|_| skip) {
        if let Some(what) = crate::sublayers::lacking(config, *part) {
            invalid!("--skip-parts: {what}");
        }
    }
    let gradients = m.probes.contains(&Probe::Gradients);
    for site in m.gradients.sites.iter().filter(|_| gradients) {
        if let Some(what) = crate::sublayers::lacking_at(config, *site) {
            invalid!("--sites: {what}");
        }
    }
    Ok(())
}

impl Job {
    pub(crate) fn new<B: Backend>(
        m: &Measurement,
        data: OpenSet,
        loaded: &Loaded<B>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let (tokenizer, config) = (&loaded.tokenizer, loaded.model.config());
        let new_tokenizer = |source: &str| {
            let random = m.options.data.rng.seeded(m.options.data.seed);
            PromptTokenizer::new(tokenizer, config, source, random, m.positions)
        };
        if m.probes.contains(&Probe::Experts) && config.experts().is_none() {
            invalid!(
                "the probe 'experts' is about mixtures of experts, and this model has none; leave it out"
            );
        }
        let masking = m.masks.of(loaded)?;
        let mut options = m.probe_options(&loaded.model);
        check_parts(m, config)?;
        if let Some(masking) = &masking {
            options.skip = objective::check_probes(masking, &m.probes, &m.skip, m.modes_chosen)?;
            if m.qa != crate::measurement::QA {
                invalid!("--qa is about causal models; the question of a masked text is what its masks hide");
            }
        } else if options.skip.modes.contains(&SkipMode::Others) {
            invalid!("--skip-modes: 'others' is about masked models; use future, current and local");
        }
        let new_tokenizer = |source: &str| {
            let tokenizer = new_tokenizer(source)?.masking(masking.clone());
            Ok::<_, crate::Error>(tokenizer.sequences(m.options.sequences.clone(), m.options.data.seed))
        };
        let data_tokenizer = new_tokenizer(data.rest.source())?.leaving_out(data.max_tokens);
        let (set, prompts, remarks) = read(data, data_tokenizer, m.options.data.limit, observer)?;
        if masking.is_none() {
            warn_of_short(m, &prompts, observer)?;
        }
        let needs_pairs = m.probes.iter().any(|p| p.needs_pairs());
        let qa = match needs_pairs && masking.is_none() {
            true => Some(m.options.data.of(&m.qa, m.options.data.limit).load(observer)?),
            false => None,
        };
        if let Some(set) = &qa {
            warn_of_unread(set, observer);
            m.options.sequences.remark_on_questions("question-answer pairs", observer);
        }
        let pairs = match &qa {
            Some(set) => tokenise::pairs(set, tokenizer, config, observer)?,
            None if needs_pairs => Masking::pairs(&prompts, tokenizer),
            None => Vec::new(),
        };
        let baseline_set = match m.baseline_data.as_ref().filter(|_| m.probes.contains(&Probe::Erasure)) {
            Some(spec) => {
                let set = m.options.data.of(spec, None).load(observer)?;
                warn_of_unread(&set, observer);
                let tokenizer = new_tokenizer(&set.source)?.leaving_out(m.options.data.max_tokens);
                let prompts = tokenise::tokenise(&set, tokenizer, observer)?;
                Some(BaselineSet { id: set.id, sha256: set.sha256, prompts })
            }
            None => None,
        };
        let qa_sha256 = qa.map(|set| set.sha256);
        let mut job =
            Self { options, masking, set, prompts, remarks, pairs, qa_sha256, baseline_set, whole: None };
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let texts = job.prompts.iter().chain(job.baseline());
        job.options.longest_text = longest(&mut texts.map(|t| t.tokens.len()));
        job.options.longest_pair = longest(&mut job.pairs.iter().map(|p| p.tokens.len()));
        let all = [&job.prompts[..], job.baseline()].concat();
        memory::check(&loaded.model, &all, &job.pairs, &job.options)?;
        match m.shard {
            Some(shard) => job.only_shard(shard),
            None => Ok(job),
        }
    }

    /// Keeps the prompts and pairs of a shard. What is computed from all prompts, positions and the mean that erases, is
    /// that of the whole.
    fn only_shard(mut self, shard: Shard) -> Result<Self> {
        let prompts = shard.of(&self.prompts);
        self.pairs = shard.of(&self.pairs);
        let [of_prompts, of_pairs] = [false, true].map(|pair| !self.missing(None, pair).is_empty());
        let has_prompts = of_prompts && !prompts.is_empty();
        let has_pairs = of_pairs && !self.pairs.is_empty();
        if !has_prompts && !has_pairs {
            invalid!("nothing is left for shard {shard}; use fewer shards");
        }
        let whole = std::mem::replace(&mut self.prompts, prompts);
        let erases = self.options.probes.contains(&Probe::Erasure) && self.baseline_set.is_none();
        self.whole = erases.then_some(whole);
        Ok(self)
    }

    /// Prompts whose mean residuals erase.
    pub(crate) fn baseline(&self) -> &[TokenizedPrompt] {
        let whole = self.whole.as_deref().unwrap_or(&self.prompts);
        self.baseline_set.as_ref().map_or(whole, |set| &set.prompts)
    }

    /// Tokens of all prompts.
    pub(crate) fn tokens(&self) -> usize {
        self.prompts.iter().map(|t| t.tokens.len()).sum()
    }

    /// The probes that a prompt or pair still lacks.
    pub(crate) fn missing(&self, sample: Option<&Sample>, pair: bool) -> Vec<Probe> {
        let wanted = self.options.probes.iter().filter(|p| p.needs_pairs() == pair);
        wanted.filter(|p| !sample.is_some_and(|s| s.has(**p))).copied().collect()
    }

    /// Whether a prompt lacks what the lens reads.
    pub(crate) fn needs_lens(&self, done: &HashMap<String, Sample>) -> bool {
        let reads = |probe: &Probe| matches!(probe, Probe::Lens | Probe::Settling);
        self.prompts.iter().any(|t| self.missing(done.get(&t.id), false).iter().any(reads))
    }

    /// The plans of all prompts and pairs.
    pub(crate) fn plans<B: Backend>(&self, model: &Model<B>) -> Result<Plans> {
        plans(model, &self.prompts, self.baseline(), &self.pairs, &self.options)
    }

    /// Measures what is missing, keeping each prompt as soon as it is done.
    pub(crate) fn measure<B: Backend>(
        &self,
        loaded: &Loaded<B>,
        lens: &LensMaps<B>,
        done: &HashMap<String, Sample>,
        folder: &Folder,
        observer: &dyn Observer,
    ) -> Result<Costs> {
        let prompts = by_missing(&self.prompts, |t| self.missing(done.get(&t.id), false));
        let pairs = by_missing(&self.pairs, |p| self.missing(done.get(&p.id), true));
        let open = prompts.iter().map(|(_, t)| t.len()).sum();
        let open_pairs = pairs.iter().map(|(_, p)| p.len()).sum();
        for (open, all, what, pair) in
            [(open, self.prompts.len(), "prompts", false), (open_pairs, self.pairs.len(), "pairs", true)]
        {
            let open: usize = open;
            if open < all && !self.missing(None, pair).is_empty() {
                observer.note(&format!(
                    "{} of {all} {what} are there already (--overwrite measures them anew)",
                    all - open
                ));
            }
        }
        let mut macs = 0;
        let work = |plans: Plans| plans.values().map(|p| p.work.macs).sum::<u64>();
        for (probes, prompts) in &prompts {
            macs += work(plans(&loaded.model, prompts, &[], &[], &self.only(probes))?);
        }
        for (probes, pairs) in &pairs {
            macs += work(plans(&loaded.model, &[], self.baseline(), pairs, &self.only(probes))?);
        }
        let _measuring = counted(observer, "measuring", Unit::MultiplyAdds, macs);
        self.measure_open(loaded, lens, &prompts, &pairs, folder, observer)
    }

    fn measure_open<B: Backend>(
        &self,
        loaded: &Loaded<B>,
        lens: &LensMaps<B>,
        prompts: &[(Vec<Probe>, Vec<TokenizedPrompt>)],
        pairs: &[(Vec<Probe>, Vec<TokenizedPair>)],
        folder: &Folder,
        observer: &dyn Observer,
    ) -> Result<Costs> {
        let callbacks = fathom_probes::Observer {
            is_cancelled: &|| observer.is_cancelled(),
            on_progress: &|macs| observer.advance(macs),
            on_warning: &|what| observer.warn(what),
        };
        let mut keep = |sample: Sample| {
            folder.append_sample(&sample)?;
            observer.detail(&sample.id);
            Ok::<_, fathom_results::Error>(())
        };
        let mut costs = Costs::new();
        for (probes, prompts) in prompts {
            let (model, options) = (&loaded.model, self.only(probes));
            let more = fathom_probes::measure_through(model, lens, prompts, &options, callbacks, &mut keep)?;
            fathom_probes::add(&mut costs, more);
        }
        for (probes, pairs) in pairs {
            let options = self.only(probes);
            let (model, baseline) = (&loaded.model, self.baseline());
            let more = fathom_probes::measure_pairs(model, baseline, pairs, &options, callbacks, &mut keep)?;
            fathom_probes::add(&mut costs, more);
        }
        Ok(costs)
    }

    /// The options for some of the probes.
    fn only(&self, probes: &[Probe]) -> ProbeOptions {
        ProbeOptions { probes: probes.to_vec(), ..self.options.clone() }
    }
}

/// The plans of prompts and pairs together.
pub(crate) fn plans<B: Backend>(
    model: &Model<B>,
    prompts: &[TokenizedPrompt],
    baseline: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
) -> Result<Plans> {
    let mut plans = match prompts {
        [] => Plans::new(),
        prompts => fathom_probes::plan(model, prompts, options)?,
    };
    fathom_probes::join(&mut plans, fathom_probes::plan_pairs(model, baseline, pairs, options)?);
    Ok(plans)
}

/// Groups what lacks probes by the probes that it lacks.
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

/// Warns of prompts that are too short for the skip probe's positions.
fn warn_of_short(m: &Measurement, prompts: &[TokenizedPrompt], observer: &dyn Observer) -> Result<()> {
    let positions = m.skip.modes.iter().any(|mode| *mode != SkipMode::Current);
    if !m.probes.contains(&Probe::Skip) || !positions {
        return Ok(());
    }
    match prompts.iter().filter(|t| t.positions.is_empty()).count() {
        0 => {}
        all if all == prompts.len() => {
            invalid!("skip needs prompts of at least 13 tokens, and none has that many; use longer prompts")
        }
        short => observer.warn(&format!(
            "{short} of {} prompts are too short for the positions of skip and count only where all positions are \
             skipped",
            prompts.len()
        )),
    }
    Ok(())
}

/// The prompts that are measured: those that are not too long, up to the limit. No more is read than that takes.
pub(crate) fn read(
    data: OpenSet,
    mut tokenizer: PromptTokenizer<'_>,
    limit: Option<usize>,
    observer: &dyn Observer,
) -> Result<(PromptSet, Vec<TokenizedPrompt>, Remarks)> {
    let OpenSet { first, mut rest, .. } = data;
    let (mut prompts, mut tokenized) = (Vec::new(), Vec::new());
    let mut all = first.into_iter().map(Ok).chain(rest.by_ref());
    while limit.is_none_or(|limit| prompts.len() < limit)
        && let Some(prompt) = all.next().transpose()?
    {
        let some = tokenizer.texts(&prompt)?;
        if !some.is_empty() {
            prompts.push(prompt);
            tokenized.extend(some);
        }
    }
    drop(all);
    let set = rest.set(prompts);
    warn_of_unread(&set, observer);
    Ok((set, tokenized, tokenizer.finish(observer)?))
}
