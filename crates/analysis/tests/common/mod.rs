//! Made-up samples: spread out, and the same on every machine.
#![allow(dead_code)]

use fathom_results::{
    AnglesSample, ContributionsSample, LensCurves, Parts, PerToken, Rule, Sample, SettlingSample, Similarity,
    SkipEffects, SkipMode, SkipPart, SkipSample,
};

/// A number from 0 to 1 that follows no simple law of its arguments.
pub(crate) fn noise(a: usize, b: usize, c: usize) -> f64 {
    let x = ((a * 7919 + b * 104_729 + c * 1_299_709 + 17) as f64 * 0.618_033_988_75).sin() * 43_758.545_3;
    x - x.floor()
}

/// One prompt with an id and as many tokens.
pub(crate) fn prompt(id: &str, tokens: usize) -> Sample {
    let pieces = (0..tokens).map(|t| format!(" {id}word{t}")).collect();
    Sample { id: id.to_owned(), tokens: (0..tokens as u32).collect(), pieces, ..Sample::default() }
}

/// A prompt with the lens's curves alone, whose other curves repeat them.
pub(crate) fn seen(id: &str, tokens: usize, kl: &[f64], overlap: &[f64]) -> Sample {
    let (kl, overlap) = (kl.to_vec(), overlap.to_vec());
    let lens = LensCurves {
        kl_final_lens: kl.clone(),
        jsd_bits: kl.clone(),
        top1_agreement: overlap.clone(),
        entropy: kl.clone(),
        nll: kl.clone(),
        kl_over_ln_vocab: Vec::new(),
        kl_lens_final: kl,
        overlap,
    };
    Sample { lens: Some(lens), ..prompt(id, tokens) }
}

fn per_token(layers: usize, tokens: usize, value: impl Fn(usize, usize) -> f64) -> PerToken {
    let tokens: Vec<Vec<f64>> = (0..layers).map(|l| (0..tokens).map(|t| value(l, t)).collect()).collect();
    let mean = tokens.iter().map(|row| row.iter().sum::<f64>() / row.len() as f64).collect();
    PerToken { mean, tokens }
}

/// The number of rules of causal models: `top1` is for masked ones.
pub(crate) const CAUSAL_RULES: usize = Rule::ALL.len() - 1;

/// `count` prompts of a model with `layers` layers, every probe measured; the fourth of every five is
/// too short for positions of skip.
pub(crate) fn samples(count: usize, layers: usize, salt: usize) -> Vec<Sample> {
    (0..count).map(|i| sample(i, layers, salt)).collect()
}

fn sample(i: usize, layers: usize, salt: usize) -> Sample {
    let tokens = 3 + (i * 5) % 7;
    let at = |l: usize, what: usize| noise(i + 100 * salt, l, what);
    let parts = |what: usize, low: f64| Parts {
        attn: per_token(layers, tokens, |l, t| low + at(l, what) + noise(i, l, t + what)),
        mlp: per_token(layers, tokens, |l, t| low + at(l, what + 1) + noise(i, l, t + what)),
        layer: per_token(layers, tokens, |l, t| {
            low + at(l, what + 2) + 2.0 * l as f64 / layers as f64 - 0.02 * t as f64
        }),
    };
    let level = |what: usize, slope: f64| -> Vec<f64> {
        (0..=layers).map(|l| slope * (0.9 - l as f64 / layers as f64).max(0.0) + 0.4 * at(l, what)).collect()
    };
    let rising = |what: usize| -> Vec<f64> {
        level(what, 1.0).iter().map(|value| (1.0 - value).clamp(0.0, 1.0)).collect()
    };
    let effect = |what: usize| SkipEffects {
        layer_effect: (0..layers)
            .map(|s| (0..layers).map(|l| if l > s { at(s, what + l) } else { 0.0 }).collect())
            .collect(),
        output_effect: Some((0..layers).map(|s| at(s, what + 500)).collect()),
    };
    let current = [(SkipMode::Current, [(SkipPart::Layer, effect(900))].into())];
    let future = [(SkipMode::Future, [(SkipPart::Layer, effect(1000))].into())];
    let long = i % 5 != 3;
    Sample {
        contributions: Some(ContributionsSample { relative_norm: parts(10, 0.2), cosine: parts(20, -1.2) }),
        lens: Some(LensCurves {
            kl_lens_final: level(30, 9.0),
            kl_final_lens: level(31, 11.0),
            jsd_bits: level(32, 1.0),
            overlap: rising(33),
            top1_agreement: rising(34),
            entropy: level(35, 5.0),
            nll: level(36, 7.0),
            kl_over_ln_vocab: Vec::new(),
        }),
        similarity: Some(Similarity {
            block_influence: (0..layers).map(|l| at(l, 40)).collect(),
            ..Similarity::default()
        }),
        angles: Some(AnglesSample {
            step: (0..layers).map(|l| at(l, 50)).collect(),
            products: (0..layers).map(|l| vec![0.0; layers - l]).collect(),
            ..AnglesSample::default()
        }),
        settling: Some(SettlingSample {
            layers: (0..tokens).map(|t| (noise(i, t, salt) * (layers + 1) as f64) as usize).collect(),
        }),
        skip: Some(SkipSample {
            positions: if long { vec![8] } else { vec![] },
            effects: current.into_iter().chain(future.into_iter().filter(|_| long)).collect(),
        }),
        ..prompt(&format!("p{i}"), tokens)
    }
}

/// What `work` gives with this many threads.
pub(crate) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
