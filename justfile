# Common tasks; `just` lists them. Each is a script or a command that can be run without just.

default:
    @just --list

# Formatting, lints and API documentation
check:
    .ci/check

# The tests, as in CI
test:
    .ci/test

# What must pass on every commit
ci:
    .ci/run

# The documentation site
docs:
    cargo run --release -- generate reference > docs/src/reference/cli.md
    .ci/docs

# Look at snapshots that changed (cargo install cargo-insta)
snapshots:
    cargo insta test --release -p fathom-report -p fathom-cli --review

# Fuzz every reader of untrusted files, each for some seconds
fuzz seconds="60":
    .ci/fuzz {{ seconds }}

# Benchmarks of kernels and planner
bench:
    cargo bench -p fathom-kernels -p fathom-probes

# A release archive for this machine
package:
    .ci/package
