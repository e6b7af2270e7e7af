//! `fathom devices` and `--device`. What runs on GPUs is tested in the crates `fathom-gpu` and `fathom`.

use crate::support::{Place, fail, fathom, finish, fixture, json, succeed};
use assert_cmd::Command;

/// The program where no driver of Vulkan is found.
fn without_gpus() -> Command {
    let mut command = fathom();
    command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

#[test]
fn the_processor_is_the_first_device() {
    let list = succeed(without_gpus().arg("devices"));
    let first = list.lines().next().unwrap();
    assert!(first.starts_with("cpu ") && first.contains("processor"), "{list}");
}

#[test]
fn unknown_devices_are_wrong_usage() {
    for device in ["tpu", "gpu:", "gpu:one", "cpu:0", "cuda:-1", ""] {
        let done = finish(fathom().args(["measure", "m", &format!("--device={device}")]));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains("cpu, auto, gpu, gpu:N, cuda or cuda:N"), "{}", done.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_that_is_not_there_is_an_error_with_a_way_out() {
    let place = Place::new();
    for (device, needs) in [("gpu", "Vulkan"), ("gpu:3", "Vulkan"), ("cuda", "NVIDIA"), ("cuda:1", "NVIDIA")]
    {
        let mut measure = without_gpus();
        measure.arg("measure").arg(fixture("llama3")).args(["--device", device, "-o"]).arg(place.out());
        fail(&mut measure, &[&format!("device '{device}' was not found"), needs, "use the device cpu"]);
        let mut bench = without_gpus();
        fail(bench.args(["bench", "--quick", "--device", device]), &["was not found"]);
    }
}

/// Where there is no GPU, the best device is the processor.
#[cfg(target_os = "linux")]
#[test]
fn auto_is_the_processor_where_there_is_no_gpu() {
    let place = Place::new();
    let mut measure = without_gpus();
    measure.arg("measure").arg(fixture("llama3")).args(["--limit", "1", "--probes", "similarity"]);
    succeed(measure.args(["--device", "auto", "-o"]).arg(place.out()));
    let run = json(&place.at("out/run.json"));
    assert_eq!(run["device"], "cpu");
}
