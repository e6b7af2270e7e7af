//! The name of this machine.

use serde::Serialize;

/// This machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor and number of cores, as a file may be called.
    pub name: String,
    /// The processor as it calls itself.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The operating system.
    pub system: &'static str,
}

/// Asks the system.
pub(super) fn describe() -> Machine {
    let mut system = sysinfo::System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    let processor = brand.filter(|b| !b.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    // What this process may use, which in a container is less than the machine has.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    Machine { name: name(&processor, cores), processor, cores, system: std::env::consts::OS }
}

/// Letters and digits in lower case, everything else a hyphen: safe on every file system.
fn name(processor: &str, cores: usize) -> String {
    const LONGEST: usize = 80;
    let mut name = String::new();
    for c in processor.chars().map(|c| c.to_ascii_lowercase()) {
        match c.is_ascii_alphanumeric() {
            true => name.push(c),
            false if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            false => {}
        }
        if name.len() >= LONGEST {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    let name = if name.is_empty() { "unknown" } else { name };
    format!("{name}-{cores}-core{}", if cores == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_for_files() {
        assert_eq!(name("Intel(R) Xeon(R) CPU @ 2.20GHz", 4), "intel-r-xeon-r-cpu-2-20ghz-4-cores");
        assert_eq!(name("AMD EPYC", 1), "amd-epyc-1-core");
        assert_eq!(name("../..\\\0 %", 2), "unknown-2-cores");
        assert!(name(&"é/x".repeat(1000), 64).len() < 100);
    }
}
