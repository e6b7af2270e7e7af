//! How often calibrated thresholds fail to keep their limit: divides the texts of a finished `fathom exit` anew, again and
//! again, calibrates on one half and measures on the other.
//!
//! The texts that the linear heads were fitted to choose the rule in every split, and no split calibrates or measures on
//! them.
//!
//!     cargo run --release -p fathom --example exit_splits -- OUT [SPLITS [EPSILON]]

#![allow(clippy::print_stdout, clippy::print_stderr)]

use fathom::results::{ExitLine, ExitSample, Exiting, Folder, folder};
use fathom_analysis::exit::{ExitOptions, ExitTexts};
use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("give the folder that `fathom exit` wrote")?;
    let splits: usize = arguments.next().map_or(Ok(20), |count| count.parse())?;
    let epsilon: Option<f64> = arguments.next().map(|epsilon| epsilon.parse()).transpose()?;
    let results = Exiting::read(&std::path::Path::new(&out).join(folder::EXIT))?;
    let mut samples: Vec<ExitSample> = Vec::new();
    for line in Folder::open(&out)?.samples::<ExitLine>()? {
        if let ExitLine::Text(sample) = line {
            samples.push(sample);
        }
    }
    // They are measured in this order: fitting, calibration, held out.
    let (fit, rest) = samples.split_at(results.fit.texts);
    let epsilon = epsilon.unwrap_or(results.epsilon);
    let options = ExitOptions { epsilon, delta: results.delta, resamples: 100, seed: 1 };
    println!(
        "epsilon {epsilon}, delta {}; {} texts to calibrate and {} to measure on",
        results.delta,
        rest.len() / 2,
        rest.len() - rest.len() / 2
    );
    println!("split  threshold   risk calibrated   risk held out   saved   head, confidence and levels");
    let (mut certified, mut exceeded) = (0, 0);
    for split in 1..=splits {
        let mut rest: Vec<&ExitSample> = rest.iter().collect();
        rest.sort_by_key(|sample| draw(split, sample));
        let (calibration, heldout) = rest.split_at(rest.len() / 2);
        let texts = ExitTexts {
            fit: fit.iter().collect(),
            calibration: calibration.to_vec(),
            heldout: heldout.to_vec(),
            costs: &results.costs,
        };
        let analysis = texts.analyse(&[], &options)?;
        let chosen = analysis
            .choice
            .rule
            .and_then(|i| Some((&analysis.rules[i], analysis.rules[i].measured.as_ref()?)));
        let Some((rule, measured)) = chosen else {
            println!("{split:>5}  none certified");
            continue;
        };
        let risk = measured.risk_heldout.value;
        certified += 1;
        exceeded += usize::from(risk > epsilon);
        println!(
            "{split:>5} {:>10.4} {:>17.4} {risk:>15.4} {:>5.1} %   {} {} at {:?}",
            rule.threshold.unwrap_or(f64::NAN),
            measured.risk_calibration,
            100.0 * measured.net_saving.value,
            rule.head.name(),
            rule.confidence.name(),
            rule.levels
        );
    }
    println!("{exceeded} of {certified} certified splits exceed epsilon; delta is {}", results.delta);
    Ok(())
}

/// A hash that orders texts anew for every split.
fn draw(split: usize, sample: &ExitSample) -> [u8; 32] {
    Sha256::digest(format!("{split} {}", sample.id)).into()
}
