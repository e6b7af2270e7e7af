//! Checkpoints as people have them: each is read as transformers or llama.cpp read it, or refused or
//! warned of by name.

mod gguf;
mod hf_files;
mod hf_settings;
mod hf_weights;
#[path = "../support/mod.rs"]
mod support;
mod tokenizer_settings;

use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Config, Dtype};
use safetensors::tensor::Dtype as Stored;
use serde_json::json;
use std::path::Path;
use support::hf::{Folder, Tensor, Tensors};

/// The residual stream and logits of a text, the configuration, and the warnings.
struct Ran {
    resid: Vec<Vec<f32>>,
    logits: Vec<f32>,
    config: Config,
    warnings: Vec<String>,
}

fn run(path: &Path) -> Ran {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
    let warnings = checkpoint.warnings().map(str::to_owned).collect();
    let model = checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}")).model;
    let tokens: Vec<u32> = (0..80).map(|i| (i * 7 + 3) % 40).collect();
    let trace = model.run(&[&tokens]).unwrap().remove(0);
    let mut logits = Buffer::default();
    model.head(trace.resid.last().unwrap(), &mut logits);
    let resid = trace.resid.iter().map(|level| level.to_vec()).collect();
    Ran { resid, logits: logits.to_vec(), config: model.config().clone(), warnings }
}

/// Checks that both give the same bits.
#[track_caller]
fn same(one: &Ran, other: &Ran) {
    assert!(one.resid == other.resid, "the streams differ");
    assert!(one.logits == other.logits, "the logits differ");
}

/// Checks that opening fails with a one-line error that contains all of `says`.
#[track_caller]
fn refused(path: &Path, says: &[&str]) {
    let error = Checkpoint::open(path).map(|_| ()).expect_err("this must be refused").to_string();
    assert!(says.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    assert!(!error.contains("fetch the model again"), "{error}");
}

/// Checks that there is one warning, which contains all of `says`.
#[track_caller]
fn warned(ran: &Ran, says: &[&str]) {
    let [warning] = &ran.warnings[..] else { panic!("{:?}", ran.warnings) };
    assert!(says.iter().all(|part| warning.contains(part)), "{warning}");
}
