//! Scripts that run the cells of a study on a cluster. They are printed, never submitted.

use super::{PlannedCell, Study, plan::ranges};
use crate::{Observer, Result};
use fathom_analysis::study::JobKind;
use fathom_results::folder;
use std::fmt;
use std::str::FromStr;

/// What runs the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// An array job of Slurm.
    Slurm,
    /// An indexed job of Kubernetes.
    Kubernetes,
    /// A workflow of Snakemake.
    Snakemake,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Slurm, Self::Kubernetes, Self::Snakemake];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::Kubernetes => "k8s",
            Self::Snakemake => "snakemake",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheduler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|one| one.name() == text)
            .ok_or_else(|| format!("unknown scheduler '{text}'; give one of {names}"))
    }
}

/// Processors of a task, unless the user changes the script.
const CPUS: usize = 8;

/// What is asked for beyond an estimate: times of other machines, and files in the page cache.
const TIME_MARGIN: f64 = 2.0;
const MEMORY_MARGIN: f64 = 1.25;

/// Asked for where nothing was estimated.
const HOURS: u64 = 12;
const GIBIBYTES: u64 = 32;

/// What every task asks for.
struct Request {
    /// The cells that are still to be measured.
    cells: String,
    /// Those and all others.
    count: usize,
    minutes: u64,
    gibibytes: u64,
    is_estimated: bool,
}

impl Request {
    fn of(plan: &[PlannedCell]) -> Self {
        let estimates: Vec<_> = plan.iter().filter_map(|cell| cell.estimate).collect();
        let seconds = estimates.iter().map(|estimate| estimate.seconds).fold(0.0, f64::max);
        let bytes = estimates.iter().map(|estimate| estimate.bytes).max().unwrap_or(0);
        let is_estimated = !estimates.is_empty();
        let unless = |is, value, default| if is { value } else { default };
        let missing = ranges(plan);
        Self {
            cells: if missing.is_empty() { format!("1-{}", plan.len()) } else { missing },
            count: plan.len(),
            minutes: unless(is_estimated, (TIME_MARGIN * seconds / 60.0).ceil() as u64 + 5, 60 * HOURS),
            gibibytes: unless(
                is_estimated,
                (MEMORY_MARGIN * bytes as f64 / (1_u64 << 30) as f64).ceil() as u64 + 1,
                GIBIBYTES,
            ),
            is_estimated,
        }
    }

    /// Where the numbers come from.
    fn remark(&self) -> &'static str {
        match self.is_estimated {
            true => "time and memory are estimates of this machine, with a margin",
            false => "time and memory are guesses; `--estimate` counts and times the cells",
        }
    }
}

impl Study {
    /// A script that measures the unfinished cells of a plan and then makes the tables.
    ///
    /// # Errors
    /// None known.
    pub fn script(
        &self,
        scheduler: Scheduler,
        plan: &[PlannedCell],
        observer: &dyn Observer,
    ) -> Result<String> {
        if ranges(plan).is_empty() {
            observer.warn("all cells are finished; the script would measure none of them again");
        }
        let request = Request::of(plan);
        Ok(match scheduler {
            Scheduler::Slurm => self.slurm(&request),
            Scheduler::Kubernetes => self.kubernetes(&request),
            Scheduler::Snakemake => self.snakemake(&request, plan),
        })
    }

    fn slurm(&self, request: &Request) -> String {
        let (name, file) = (label(&self.description.name), quoted(&self.file));
        let Request { cells, minutes, gibibytes, .. } = request;
        format!(
            r#"#!/bin/bash
# Save as study.sbatch, then submit the cells, and the tables after them:
#   job=$(sbatch --parsable study.sbatch)
#   sbatch --dependency=afterany:$job --wrap={tables}
# Cells that failed or were stopped go on where they ended:
#   sbatch --array="$(fathom study {file} --missing)" study.sbatch
# {remark}.
#SBATCH --job-name={name}
#SBATCH --array={cells}
#SBATCH --cpus-per-task={CPUS}
#SBATCH --mem={gibibytes}G
#SBATCH --time={hours}:{rest:02}:00
#SBATCH --output={name}-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# The models must be where all nodes see them:
#   export HF_HOME=/shared/huggingface HF_HUB_OFFLINE=1
exec fathom study {file} --cell "$SLURM_ARRAY_TASK_ID" --threads "$SLURM_CPUS_PER_TASK"
"#,
            tables = quoted(&format!("fathom study {file} --tables-only")),
            remark = request.remark(),
            hours = minutes / 60,
            rest = minutes % 60,
        )
    }

    fn kubernetes(&self, request: &Request) -> String {
        let name = label(&self.description.name).to_lowercase().replace(['_', '.'], "-");
        let Request { count, gibibytes, .. } = request;
        let file = quoted(&self.file);
        // A string of JSON is one of YAML, and Kubernetes replaces variables in it unless the dollar is doubled.
        let argument = serde_json::Value::from(self.file.replace("$(", "$$(")).to_string();
        format!(
            r#"# An indexed job: one pod a cell. Cells that are finished end at once, so the same job may be applied again.
# Image and volume are yours. Results, models and the description lie on a volume that all pods share:
# {remark}.
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {count}
  backoffLimitPerIndex: 3
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: fathom
          image: fathom
          workingDir: /shared
          env:
            - {{name: HF_HOME, value: /shared/huggingface}}
            - {{name: HF_HUB_OFFLINE, value: "1"}}
          command: [fathom, study, {argument}]
          args: [--cell-index, $(JOB_COMPLETION_INDEX), --threads, "{CPUS}"]
          resources:
            requests: {{cpu: "{CPUS}", memory: {gibibytes}Gi}}
            limits: {{memory: {gibibytes}Gi}}
          volumeMounts:
            - {{name: shared, mountPath: /shared}}
      volumes:
        - name: shared
          persistentVolumeClaim: {{claimName: shared}}
# Afterwards: fathom study {file} --tables-only
"#,
            remark = request.remark(),
        )
    }

    fn snakemake(&self, request: &Request, plan: &[PlannedCell]) -> String {
        let file = python(&self.file);
        let folders: Vec<String> = plan
            .iter()
            .map(|cell| {
                let file = cell.folder.join(result_file(cell.kind));
                format!("    {}: {},\n", cell.cell, python(&file.display().to_string()))
            })
            .collect();
        let tables = python(&self.description.out.join("study.json").display().to_string());
        let Request { minutes, gibibytes, .. } = request;
        format!(
            r#"# Save as Snakefile; `snakemake --cores all` here, or with the executor of your cluster.
# {remark}.
STUDY = {file}
CELLS = {{
{folders}}}

rule tables:
    input: CELLS.values()
    output: {tables}
    shell: "fathom study {{STUDY:q}} --tables-only"

for number, file in CELLS.items():
    rule:
        name: f"cell_{{number}}"
        output: file
        params: cell=number
        threads: {CPUS}
        resources: mem_mb={megabytes}, runtime={minutes}
        shell: "fathom study {{STUDY:q}} --cell {{params.cell}} --threads {{threads}}"
"#,
            remark = request.remark(),
            folders = folders.concat(),
            megabytes = 1024 * gibibytes,
        )
    }
}

/// The file that a finished cell has.
fn result_file(kind: &str) -> &'static str {
    let job = JobKind::ALL.into_iter().find(|known| known.name() == kind);
    job.map_or(folder::RESULTS, super::jobs::result_file)
}

/// A name for jobs: letters, digits and dashes.
fn label(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().map(keep).take(40).collect();
    format!("fathom-{}", name.trim_matches('-'))
}

/// An argument as one would type it in a shell.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A string as Python reads it.
fn python(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '\\' => "\\\\".to_owned(),
            '"' => "\\\"".to_owned(),
            c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}
