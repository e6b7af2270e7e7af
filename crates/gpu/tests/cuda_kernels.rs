//! Compiles every CUDA kernel for several architectures. This needs NVRTC, but no device.

#![allow(clippy::print_stderr, reason = "tests report what they skip and find")]

use fathom_gpu::{CompiledUnit, compile_for};

#[test]
fn kernels_compile_and_fit_their_registers() {
    let required =
        std::env::var("FATHOM_TEST_REQUIRE").is_ok_and(|v| v.split(',').any(|n| n == "1" || n == "nvrtc"));
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        let units = match compile_for(architecture) {
            Ok(units) => units,
            Err(error) if error.is_missing() && !required => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{architecture}: {error}"),
        };
        for unit in units {
            assert!(unit.missing.is_empty(), "{architecture}, {}: no {:?}", unit.name, unit.missing);
            check_spills(architecture, &unit);
        }
    }
}

/// Reads the report of the assembler: three lines per kernel, of which the second counts spills and the third
/// registers.
fn check_spills(architecture: &str, unit: &CompiledUnit) {
    let (mut kernel, mut spills) = ("", "");
    let mut seen = 0;
    for line in unit.log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or(rest);
        } else if line.contains("bytes spill stores") {
            spills = line.trim();
        } else if let Some((_, used)) = line.split_once("Used ") {
            eprintln!("{architecture} {:<20} {kernel:<28} {used}", unit.name);
            let bytes = spilled(spills).unwrap_or_else(|| panic!("no spills in {spills:?}"));
            // Attention keeps numbers in registers that it needs once per tile; a few may be spilled.
            let limit = if unit.name.starts_with("Attention") { 64 } else { 0 };
            assert!(bytes <= limit, "{architecture}, {kernel}: {spills}");
            seen += 1;
        }
    }
    assert!(seen > 0, "{}: no report in {}", unit.name, unit.log);
}

/// The bytes that a kernel stores because it has too few registers.
fn spilled(report: &str) -> Option<usize> {
    let (before, _) = report.split_once(" bytes spill stores")?;
    before.rsplit(' ').next()?.parse().ok()
}
