#!/usr/bin/env python3
"""How the time of each probe grows with prompts and with tokens, beside the multiply-adds that it counts.

    pip install matplotlib
    cargo build --release
    python benches/growth.py --model model.gguf --out docs/src/images/growth.svg

Prompts of one length are measured 1, 2, 4 and 8 at a time, and one prompt of 40 to 310 tokens. Every point is
the shortest of --repeats runs. The dashed lines are what the multiply-adds say, through the first point.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PROBES = {"lens": "#0072b2", "skip": "#d55e00"}
WORDS = "the baker sold warm rolls in the morning and gave what was left to the children of the town "


def measure(args, rows, probe, folder):
    """Seconds and multiply-adds of one probe, with its clean runs."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    best = None
    for _ in range(args.repeats):
        command = [args.fathom, "measure", args.model, "--data", data, "--probes", probe, "--skip-modes", "future"]
        command += ["--positions", "4", "-o", folder / "out", "--resamples", "1"]
        subprocess.run([str(c) for c in command], check=True, capture_output=True)
        cost = json.loads((folder / "out/results.json").read_text())["cost"].values()
        tokens = json.loads((folder / "out/results.json").read_text())["data"]["tokens"]
        found = (sum(c["seconds"] for c in cost), sum(c["madds"] for c in cost), tokens)
        best = found if best is None or found[0] < best[0] else best
    return best


def draw(axis, title, unit, places, found):
    """Times and what the multiply-adds say, on logarithmic axes."""
    for probe, points in found.items():
        seconds, madds = [p[0] for p in points], [p[1] for p in points]
        axis.plot(places[probe], seconds, "o-", color=PROBES[probe], label=probe)
        counted = [seconds[0] * m / madds[0] for m in madds]
        axis.plot(places[probe], counted, "--", color=PROBES[probe], label=f"{probe}, as counted")
    axis.set(xscale="log", yscale="log", xlabel=unit, ylabel="seconds", title=title)
    axis.legend(fontsize=8)


def main():
    """Measures, draws and prints the table."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--fathom", default=str(here / "target/release/fathom"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=here / "docs/src/images/growth.svg")
    args = parser.parse_args()
    plt.rcParams.update({"svg.hashsalt": "fathom", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_prompts = {p: [measure(args, [WORDS * 5] * n, p, folder) for n in (1, 2, 4, 8)] for p in PROBES}
        by_tokens = {p: [measure(args, [WORDS * n], p, folder) for n in (2, 4, 8, 16)] for p in PROBES}
    draw(axes[0], "one length, more prompts", "prompts", {p: [1, 2, 4, 8] for p in PROBES}, by_prompts)
    tokens = {p: [found[2] for found in points] for p, points in by_tokens.items()}
    draw(axes[1], "one prompt, more tokens", "tokens", tokens, by_tokens)
    figure.savefig(args.out, metadata={"Date": None})
    for title, found in (("prompts", by_prompts), ("tokens", by_tokens)):
        for probe, points in found.items():
            steps = [f"{b[0] / a[0]:.2f} ({b[1] / a[1]:.2f})" for a, b in zip(points, points[1:])]
            print(f"doubling {title}, {probe}: time x " + ", ".join(steps) + "; multiply-adds in brackets")


if __name__ == "__main__":
    main()
