//! What `--version` says.

use std::env::consts::{ARCH, OS};
use std::sync::LazyLock;

/// The version; in releases with the commit, which `.ci/package` gives.
pub(super) const VERSION: &str = match option_env!("FATHOM_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The same with the platform, the kernels and the devices of this build.
pub(super) static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let environment = if cfg!(target_env = "musl") { " (static)" } else { "" };
    format!(
        "{VERSION}\nplatform: {OS} {ARCH}{environment}\nkernels:  {KERNELS}; {} on this processor\ndevices:  {}",
        fathom::instructions(),
        devices().join(", ")
    )
});

const KERNELS: &str = match cfg!(target_arch = "x86_64") {
    true => "portable, avx2, avx512, avx512_bf16, amx",
    false => "portable",
};

/// The kinds of devices that this build can look for; `fathom devices` lists those that are there.
fn devices() -> Vec<&'static str> {
    // A static program cannot load drivers.
    if cfg!(target_feature = "crt-static") && !cfg!(windows) {
        return vec!["cpu"];
    }
    let graphics: &[&str] = match OS {
        "macos" => &["metal"],
        "windows" => &["vulkan", "dx12", "cuda"],
        _ => &["vulkan", "cuda"],
    };
    [&["cpu"], graphics].concat()
}
