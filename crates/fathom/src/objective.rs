//! What a model is asked to predict, and the masks that are drawn for it.

use crate::Result;
use crate::error::invalid;
use fathom_data::{Random, Rng};
use fathom_model::Backend;
use fathom_model::source::Loaded;
use fathom_model::tokenizer::Tokenizer;
use fathom_probes::{Masked, SkipOptions, Targets, TokenizedPair, TokenizedPrompt};
use fathom_results::{Objective, ObjectiveInfo, Probe, QaPair, SkipMode};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The share of a text that is masked, unless set otherwise.
const RATIO: f64 = 0.15;

/// The shares of the diffusion objective, unless set otherwise.
const DIFFUSION: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];

/// Draws of skip's mode `others` per text.
const DRAWS: usize = 4;

/// How masks are chosen, as asked for; what is absent follows from the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct MaskOptions {
    pub(crate) objective: Option<Objective>,
    pub(crate) ratios: Vec<f64>,
    pub(crate) seed: Option<u64>,
    pub(crate) each: bool,
}

/// How the texts of one measurement are masked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Masking {
    objective: Objective,
    /// Nothing is masked where the model predicts nothing.
    mask: Option<u32>,
    ratios: Vec<f64>,
    seed: u64,
    each: bool,
    block: Option<String>,
    /// What a token is called.
    unit: &'static str,
}

impl MaskOptions {
    /// Refuses options that no model can take.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(wrong) = self.ratios.iter().find(|ratio| !(**ratio > 0.0 && **ratio < 1.0)) {
            invalid!(
                "--mask-ratio: {wrong} is not a share of a text that can be masked; give a number between 0 and 1"
            );
        }
        let objective = self.objective;
        if self.each && (!self.ratios.is_empty() || objective == Some(Objective::Diffusion)) {
            invalid!(
                "--mask each masks one position at a time and takes no ratio; leave out the other options of masks"
            );
        }
        if objective == Some(Objective::Causal) && *self != (Self { objective, ..Self::default() }) {
            invalid!("the objective 'causal' has no masks; leave out the options of masks");
        }
        if self.ratios.len() > 1 && objective != Some(Objective::Diffusion) {
            invalid!("--mask-ratio: several ratios need --objective diffusion");
        }
        Ok(())
    }

    /// What is masked for a model; `None` for a causal one.
    pub(crate) fn of<B: Backend>(&self, loaded: &Loaded<B>) -> Result<Option<Masking>> {
        let config = loaded.model.config();
        if config.is_causal() {
            if self.objective.is_some_and(|objective| objective != Objective::Causal) || self.is_set() {
                invalid!(
                    "{} is a causal model, which predicts the next token and has no masks; leave out --objective and the options of masks",
                    config.architecture
                );
            }
            return Ok(None);
        }
        let objective = self.objective.unwrap_or(Objective::Masked);
        if objective == Objective::Causal {
            invalid!(
                "{} sees both sides of a token and cannot be asked for the next one; use --objective masked",
                config.architecture
            );
        }
        let mask = match loaded.tokenizer.mask() {
            Some(mask) => Some(mask),
            None if !config.has_head() => None,
            None => invalid!("the tokenizer has no mask token, which a masked objective needs"),
        };
        if !config.has_head() && (self.objective.is_some() || self.is_set()) {
            invalid!(
                "{} has no language-model head, so nothing is masked; leave out --objective and the options of masks",
                config.architecture
            );
        }
        let usual: &[f64] = if objective == Objective::Diffusion { &DIFFUSION } else { &[RATIO] };
        Ok(Some(Masking {
            objective,
            mask: mask.filter(|_| config.has_head()),
            ratios: match () {
                () if self.each || !config.has_head() => Vec::new(),
                () if self.ratios.is_empty() => usual.to_vec(),
                () => self.ratios.clone(),
            },
            seed: self.seed.unwrap_or(0),
            each: self.each && config.has_head(),
            unit: if loaded.tokenizer.has_symbols() { "residue" } else { "token" },
            block: loaded.model.is_post_norm().then(|| "post-norm".to_owned()),
        }))
    }

    fn is_set(&self) -> bool {
        !self.ratios.is_empty() || self.each || self.seed.is_some()
    }
}

/// Refuses probes and modes that a masked model does not have, and returns the options of skip.
pub(crate) fn check_probes(
    masking: &Masking,
    probes: &[Probe],
    skip: &SkipOptions,
    modes_chosen: bool,
) -> Result<SkipOptions> {
    if let Some(probe) =
        probes.iter().find(|probe| matches!(probe, Probe::Angles | Probe::Order | Probe::Experts))
    {
        invalid!("the probe '{}' is defined for causal models alone; leave it out", probe.name());
    }
    let needs_head = |probe: &&Probe| !matches!(probe, Probe::Contributions | Probe::Similarity);
    if let (None, Some(probe)) = (masking.mask, probes.iter().find(needs_head)) {
        invalid!(
            "the probe '{}' reads what the model predicts, and its weights have no language-model head; \
             use --probes contributions,similarity",
            probe.name()
        );
    }
    let edits = |probe: &&Probe| matches!(probe, Probe::Skip | Probe::Erasure | Probe::Gradients);
    if let (true, Some(probe)) = (masking.each, probes.iter().find(edits)) {
        invalid!(
            "the probe '{}' needs all masks in one run; use --mask-ratio in the place of --mask each",
            probe.name()
        );
    }
    if !modes_chosen {
        return Ok(SkipOptions { modes: vec![SkipMode::Current, SkipMode::Others], ..skip.clone() });
    }
    if let Some(mode) = skip.modes.iter().find(|mode| matches!(mode, SkipMode::Future | SkipMode::Local)) {
        invalid!(
            "--skip-modes: '{}' needs a causal order, which a masked model does not have; use current and others",
            mode.name()
        );
    }
    Ok(skip.clone())
}

impl Masking {
    /// One text with each share of it masked.
    pub(crate) fn apply(&self, text: TokenizedPrompt, tokenizer: &Tokenizer) -> Result<Vec<TokenizedPrompt>> {
        let own: Vec<usize> =
            (0..text.tokens.len()).filter(|i| !tokenizer.is_special(text.tokens[*i])).collect();
        if own.is_empty() {
            invalid!("prompt '{}' has no tokens but special ones; leave it out", text.id);
        }
        let text = TokenizedPrompt { positions: Vec::new(), ..text };
        let Some(mask) = self.mask else {
            return Ok(vec![TokenizedPrompt { masked: Some(Masked { own, ..Masked::default() }), ..text }]);
        };
        if self.each {
            let targets =
                Targets { tokens: own.iter().map(|i| text.tokens[*i]).collect(), positions: own.clone() };
            let masked = Masked { targets, own, one_at_a_time: Some(mask), ..Masked::default() };
            return Ok(vec![TokenizedPrompt { masked: Some(masked), ..text }]);
        }
        Ok(self.ratios.iter().map(|ratio| self.at_ratio(*ratio, mask, &own, &text, tokenizer)).collect())
    }

    fn at_ratio(
        &self,
        ratio: f64,
        mask: u32,
        own: &[usize],
        text: &TokenizedPrompt,
        tokenizer: &Tokenizer,
    ) -> TokenizedPrompt {
        let mut random = self.random(&text.id, ratio);
        let mut some = |count: usize| {
            let mut all = own.to_vec();
            random.shuffle(&mut all);
            all.truncate(count);
            all.sort_unstable();
            all
        };
        let count = ((ratio * own.len() as f64).round() as usize).clamp(1, own.len());
        let positions = some(count);
        let halves =
            if own.len() < 2 { Vec::new() } else { (0..DRAWS).map(|_| some(own.len() / 2)).collect() };
        let mut masked = text.clone();
        for position in &positions {
            masked.tokens[*position] = mask;
            masked.pieces[*position] = tokenizer.piece(mask);
        }
        let tokens = positions.iter().map(|position| text.tokens[*position]).collect();
        let targets = Targets { positions, tokens };
        let own = own.to_vec();
        masked.masked = Some(Masked { targets, own, halves, ratio: Some(ratio), one_at_a_time: None });
        if self.ratios.len() > 1 {
            masked.id = format!("{}/{ratio}", text.id);
            masked.group = Some(format!("{ratio} masked"));
        }
        masked
    }

    /// What draws for a text and a ratio, whatever other texts there are.
    fn random(&self, id: &str, ratio: f64) -> Random {
        let hash = Sha256::digest(format!("{}/{ratio}/{id}", self.seed));
        let seed = hash.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
        Rng::default().seeded(seed)
    }

    /// Masked texts as what erasure and gradients ask about.
    pub(crate) fn pairs(prompts: &[TokenizedPrompt], tokenizer: &Tokenizer) -> Vec<TokenizedPair> {
        let pair = |prompt: &TokenizedPrompt| {
            let masked = prompt.masked.as_ref()?;
            let pieces = |of: &[u32]| of.iter().map(|token| tokenizer.piece(*token)).collect::<String>();
            Some(TokenizedPair {
                id: format!("qa/{}", prompt.id),
                group: prompt.group.clone(),
                qa: QaPair {
                    question: prompt.pieces.concat(),
                    answer: pieces(&masked.targets.tokens),
                    answer_tokens: masked.targets.tokens.len(),
                },
                tokens: prompt.tokens.clone(),
                pieces: prompt.pieces.clone(),
                masked: Some(masked.clone()),
            })
        };
        prompts.iter().filter_map(pair).collect()
    }

    /// What results say; `unknown` tokens are not in the vocabulary.
    pub(crate) fn info(&self, unknown: u64) -> ObjectiveInfo {
        ObjectiveInfo {
            one_at_a_time: self.each,
            unit: self.unit.to_owned(),
            objective: self.objective,
            mask_ratios: self.ratios.clone(),
            mask_seed: self.seed,
            block: self.block.clone(),
            unknown,
        }
    }

    /// What `run.json` says, by which a run may be continued.
    pub(crate) fn record(&self) -> Value {
        json!({"objective": self.objective, "ratios": self.ratios, "seed": self.seed, "each": self.each})
    }
}

/// Refuses a model whose layers read more than the stream for a command that takes layers apart.
pub(crate) fn refuse_side_inputs(config: &fathom_model::Config, what: &str) -> Result<()> {
    if config.has_side_inputs() {
        invalid!(
            "{what} is not supported for models such as Gemma 4 E2B and E4B, whose layers read the keys of other layers or \
             have embeddings in a tensor of all layers; `fathom measure` measures them, skips and orders of layers included"
        );
    }
    Ok(())
}

/// Refuses a masked model for a command that needs a causal one.
pub(crate) fn refuse_masked(config: &fathom_model::Config, what: &str) -> Result<()> {
    if !config.is_causal() {
        invalid!(
            "{what} needs a causal model, and {} sees both sides of a token; `fathom measure` measures it",
            config.architecture
        );
    }
    Ok(())
}
