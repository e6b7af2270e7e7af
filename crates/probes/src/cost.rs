//! The cost of probes: counted work, time and memory.

use fathom_results::{Resources, Work};
use std::collections::BTreeMap;
use std::time::Instant;

/// The cost of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Counted work.
    pub work: Work,
    /// Time and memory.
    pub resources: Resources,
}

/// Costs by the name of a probe; `forward` is the clean run that all probes share.
pub type Costs = BTreeMap<String, Cost>;

/// Adds the costs of one run to those of another.
pub fn add(costs: &mut Costs, more: Costs) {
    for (name, cost) in more {
        let sum = costs.entry(name).or_default();
        sum.work += cost.work;
        sum.resources.seconds += cost.resources.seconds;
        sum.resources.peak_bytes = sum.resources.peak_bytes.max(cost.resources.peak_bytes);
    }
}

/// Adds work done since `start` to the costs of a probe.
pub(crate) fn spend(costs: &mut Costs, name: &str, work: Work, start: Instant) {
    let resources = Resources { seconds: start.elapsed().as_secs_f64(), peak_bytes: peak_bytes() };
    let now = Cost { work, resources };
    add(costs, Costs::from([(name.to_owned(), now)]));
}

/// Peak resident memory of this process in bytes; 0 if the system does not report it.
pub fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
