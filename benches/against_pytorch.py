#!/usr/bin/env python3
"""Times the probes of Fathom against the same probes in PyTorch with plain hooks.

    pip install torch transformers accelerate gguf
    cargo build --release
    python benches/against_pytorch.py --model model.gguf --prompts 4 --pairs 2

Both get the same model, the same token ids and the same positions, on all threads. PyTorch does what
the scripts of the papers do: it runs the model once for every edit, with hooks that edit and read. It
is spared what is easily spared: gradients of weights, logits that nobody reads, tokens after the last
prediction; --batch lets it run several edits at once, which those scripts do not.

What is timed. Every measurement is a process of its own, PyTorch and Fathom in turn, and the median
over --repeats counts. Seconds are those of the probe with its clean runs; loading the model is left
out on both sides, and on PyTorch's side a warm-up as well. The seconds of whole processes, with
start, loading and writing of results, stand beside them. Peak memory is that of the process. Weights
are multiplied in the type named, on both sides. PyTorch keeps them in it, for which GGUF files are
dequantised beforehand; Fathom keeps them as the file has them, about.

What is compared. `difference` is |a - b| / |b| over all numbers that both sides give (a: Fathom, b:
PyTorch), so that nobody times two different things. For gradients the completeness errors are
reported as well: how far the attributions of a layer are from adding up to the change of the target.
Fathom's lens and contributions compute more than is asked of PyTorch here (Jensen-Shannon
divergences, entropies, values by token).

Needs transformers 4.56 or later. Models: Llama, SmolLM2, Mistral, Qwen2, Qwen3, Gemma 2 and 3, OLMo 2,
Phi-3, as a folder, a .gguf file or a Hugging Face id.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OF_PROMPTS = ["contributions", "lens", "skip"]
OF_PAIRS = ["erasure", "gradients"]
PROBES = OF_PROMPTS + OF_PAIRS
SMALLEST = 1e-6


# The model in PyTorch.


class Decoder:
    """A causal language model of transformers, with names for what the probes need of it."""

    def __init__(self, folder, dtype, attention, device):
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention
        ).eval().to(device)
        # Weights are constants, so no gradient of theirs is ever computed.
        model.requires_grad_(False)
        self.body, self.head = model.model, model.lm_head
        self.layers, self.norm = self.body.layers, self.body.norm
        self.softcap = getattr(model.config, "final_logit_softcapping", None)

    def sublayers(self, layer):
        """The modules whose outputs a layer adds to the stream: attention and MLP, or their norms."""
        if hasattr(layer, "post_feedforward_layernorm"):
            return layer.post_attention_layernorm, layer.post_feedforward_layernorm
        return layer.self_attn, layer.mlp

    def run(self, ids):
        """The normalised stream that enters the head, [batch, tokens, width]."""
        return self.body(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, normed):
        """Logits of normalised rows, in float32."""
        logits = self.head(normed).float()
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def clean(self, ids):
        """A run with the stream at every level, [L + 1][tokens, width], and what sublayers add."""
        stream, attn, mlp = [], [], []

        def keep(into):
            return lambda _module, _args, output: into.append(tensor(output)[0])

        hooks = [layer.register_forward_pre_hook(enters(stream), with_kwargs=True) for layer in self.layers]
        hooks.append(self.layers[-1].register_forward_hook(keep(stream)))
        for layer in self.layers:
            for module, into in zip(self.sublayers(layer), (attn, mlp)):
                hooks.append(module.register_forward_hook(keep(into)))
        with removing(hooks):
            normed = self.run(ids)[0]
        return stream, attn, mlp, normed


def enters(into):
    """A hook that keeps the stream which enters a layer."""

    def hook(_module, args, kwargs):
        into.append((args[0] if args else kwargs["hidden_states"])[0])

    return hook


def tensor(output):
    """The first output of a module: some return tuples."""
    return output[0] if isinstance(output, tuple) else output


def with_tensor(output, new):
    """The output of a module with its first tensor replaced."""
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextlib.contextmanager
def removing(hooks):
    """Removes the hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def chunks(items, size):
    """Parts of a list, each of at most `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]


# The probes in PyTorch. Each takes one prompt or pair and gives plain lists.


def contributions(decoder, ids, _job):
    """Relative norms of what attention, MLP and layer add, and cosines with the stream; means over tokens."""
    import torch

    stream, attn, mlp, _ = decoder.clean(ids)
    result = {"relative_norm": {}, "cosine": {}}
    for part in ("attn", "mlp", "layer"):
        norms, cosines = [], []
        for h, a, m in zip(stream, attn, mlp):
            h, a, m = h.float(), a.float(), m.float()
            added, onto = {"attn": (a, h), "mlp": (m, h + a), "layer": (a + m, h)}[part]
            norms.append((added.norm(dim=-1) / onto.norm(dim=-1).clamp_min(SMALLEST)).mean().item())
            cosines.append(torch.nn.functional.cosine_similarity(added, onto, dim=-1).mean().item())
        result["relative_norm"][part] = {"mean": norms}
        result["cosine"][part] = {"mean": cosines}
    return result


def lens(decoder, ids, _job):
    """KL of each level's prediction from the output, both ways, and the overlap of the five likeliest tokens."""
    stream, _, _, normed = decoder.clean(ids)
    final = decoder.logits(normed).log_softmax(-1)
    best = final.topk(5).indices
    result = {"kl_lens_final": [], "kl_final_lens": [], "overlap": []}
    for h in stream:
        here = decoder.logits(decoder.norm(h)).log_softmax(-1)
        gap = here - final
        result["kl_lens_final"].append((here.exp() * gap).sum(-1).mean().item())
        result["kl_final_lens"].append((final.exp() * -gap).sum(-1).mean().item())
        common = (here.topk(5).indices[:, :, None] == best[:, None, :]).sum((1, 2))
        result["overlap"].append((common / 5).mean().item())
    return result


def skip(decoder, ids, job):
    """Effects of bypassing each layer at positions 1 to t - 1 on later layers and the output from t on."""
    import torch

    stream, attn, mlp, normed = decoder.clean(ids)
    added = [(a + m).float() for a, m in zip(attn, mlp)]
    sizes = [d.norm(dim=-1).clamp_min(SMALLEST) for d in added]
    clean = decoder.logits(normed).softmax(-1)
    depth, place = len(added), torch.arange(ids.shape[1], device=ids.device)
    effects = [[0.0] * depth for _ in range(depth)]
    outputs = [0.0] * depth
    for s in range(depth):
        for some in chunks(job["positions"], job["batch"]):
            t = torch.tensor(some, device=ids.device)[:, None]
            bypassed, read = (place >= 1) & (place < t), place >= t

            def bypass(_module, args, kwargs, output, bypassed=bypassed):
                before = args[0] if args else kwargs["hidden_states"]
                return with_tensor(output, torch.where(bypassed[..., None], before, tensor(output)))

            def compare(l, s=s, read=read):
                def hook(_module, args, kwargs, output):
                    before = args[0] if args else kwargs["hidden_states"]
                    gap = added[l] - (tensor(output) - before).float()
                    worst = (gap.norm(dim=-1) / sizes[l])[read].max().item()
                    effects[s][l] = max(effects[s][l], worst)

                return hook

            hooks = [decoder.layers[s].register_forward_hook(bypass, with_kwargs=True)]
            for l in range(s + 1, depth):
                hooks.append(decoder.layers[l].register_forward_hook(compare(l), with_kwargs=True))
            with removing(hooks):
                edited = decoder.run(ids.expand(len(some), -1))
            for row, of in zip(edited, read):
                gap = decoder.logits(row[of]).softmax(-1) - clean[of]
                outputs[s] = max(outputs[s], gap.norm(dim=-1).max().item())
    return {"layer_effect": effects, "output_effect": outputs}


def mean_stream(decoder, prompts):
    """The mean of the stream over all tokens of some prompts, [L + 1][width]."""
    sums, tokens = None, 0
    for ids in prompts:
        stream = decoder.clean(ids)[0]
        these = [h.double().sum(0) for h in stream]
        sums = these if sums is None else [a + b for a, b in zip(sums, these)]
        tokens += ids.shape[1]
    return [(s / tokens).to(stream[0].dtype) for s in sums]


def erasure(decoder, ids, job):
    """What the answer loses when the stream of one token at one level is replaced by the mean one."""
    import torch

    tokens, answer = ids.shape[1], job["answer"]
    read = slice(tokens - answer - 1, tokens - 1)
    stream, _, _, normed = decoder.clean(ids)
    clean = decoder.logits(normed[read]).softmax(-1)
    effect = [[0.0] * tokens for _ in range(len(stream))]
    for level, mean in enumerate(job["means"]):
        # The last level is not followed by a layer but by the norm.
        following = decoder.layers[level] if level < len(decoder.layers) else decoder.norm
        for some in chunks(range(tokens - 1), job["batch"]):

            def erase(_module, args, kwargs, some=some, mean=mean):
                h = (args[0] if args else kwargs["hidden_states"]).clone()
                rows = torch.arange(len(some), device=h.device)
                h[rows, torch.tensor(some, device=h.device)] = mean
                return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": h})

            with removing([following.register_forward_pre_hook(erase, with_kwargs=True)]):
                edited = decoder.run(ids.expand(len(some), -1))
            gap = (decoder.logits(edited[:, read]).softmax(-1) - clean).norm(dim=-1)
            for t, worst in zip(some, gap.max(dim=-1).values.tolist()):
                effect[level][t] = worst
    return effect


def gradients(decoder, ids, job):
    """Integrated gradients of the answer's probability at every layer's output, from the mean of the positions."""
    import torch

    tokens, answer, steps = ids.shape[1], job["answer"], job["steps"]
    read, truth = slice(tokens - answer - 1, tokens - 1), ids[0, tokens - answer :]

    def target(normed):
        """The summed probability of the answer's tokens, for each row of a batch."""
        chances = decoder.logits(normed[:, read]).softmax(-1)
        return chances.gather(-1, truth.expand(len(normed), -1)[..., None]).sum((1, 2))

    with torch.no_grad():
        stream, _, _, normed = decoder.clean(ids)
        at_values = target(normed[None]).item()
    result = {"attribution": [], "completeness_error": []}
    for layer, x in zip(decoder.layers, stream[1:]):
        x = x.float()
        base = x.mean(0, keepdim=True)
        total, at_base = torch.zeros_like(x, dtype=torch.float64), None
        for some in chunks(range(steps), job["batch"]):
            shares = torch.tensor([k / steps for k in some], device=x.device)[:, None, None]
            point = (base + shares * (x - base)).to(stream[0].dtype).requires_grad_()
            replace = layer.register_forward_hook(lambda _m, _a, output, new=point: with_tensor(output, new))
            with removing([replace]):
                values = target(decoder.run(ids.expand(len(some), -1)))
            at_base = values[0].item() if at_base is None else at_base
            total += torch.autograd.grad(values.sum(), point)[0].double().sum(0)
        attribution = ((x - base).double() * total / steps).sum(-1)
        change = at_values - at_base
        error = abs(attribution.sum().item() - change) / max(abs(change), SMALLEST)
        result["attribution"].append(attribution.tolist())
        result["completeness_error"].append(error)
    return result


RUN = {run.__name__: run for run in (contributions, lens, skip, erasure, gradients)}


# A process that measures one probe in PyTorch.


def work(job):
    """Loads the model, measures one probe and gives times, memory and results."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    decoder = Decoder(job["folder"], job["dtype"], job["attention"], job["device"])
    loaded_bytes = peak_bytes()
    probe = RUN[job["probe"]]
    # Gradients need tensors that autograd may save; everything else is spared the bookkeeping.
    mode = torch.inference_mode if job["probe"] != "gradients" else contextlib.nullcontext
    as_ids = lambda tokens: torch.tensor([tokens], device=job["device"])  # noqa: E731
    with mode():
        warm_up(decoder, as_ids(job["texts"][0]["tokens"]), job["probe"])
        started = time.perf_counter()
        if job["probe"] == "erasure":
            job["means"] = mean_stream(decoder, [as_ids(tokens) for tokens in job["baseline"]])
        results = [probe(decoder, as_ids(text["tokens"]), {**job, **text}) for text in job["texts"]]
        seconds = time.perf_counter() - started
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "loaded_bytes": loaded_bytes,
        "versions": versions,
        "results": results,
    }


def warm_up(decoder, ids, probe):
    """One run forward, and one back where the probe goes back: the first ones wake threads and caches."""
    import torch

    if probe != "gradients":
        decoder.logits(decoder.run(ids)[0, -1:])
        return
    embedded = decoder.body.embed_tokens(ids).detach().requires_grad_()
    out = decoder.body(inputs_embeds=embedded, use_cache=False).last_hidden_state
    torch.autograd.grad(decoder.logits(out[0, -1:]).sum(), embedded)


def peak_bytes():
    """Peak resident memory of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def prepare(job):
    """Saves a model in one type, so that dequantising takes no part in times and memory."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = Path(job["model"])
    where = {"pretrained_model_name_or_path": job["model"]}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, job["dtype"]))
    modules = [hasattr(model, "model"), hasattr(model, "lm_head")]
    if not all(modules) or not all(hasattr(model.model, name) for name in ("layers", "norm", "embed_tokens")):
        sys.exit(f"error: {type(model).__name__} has none of the layouts this script knows; see --help")
    # What was dequantised is an ordinary model, which transformers would refuse to save as such.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(job["folder"])
    return {}


# The process that runs the others.


def run_worker(kind, job, folder):
    """Runs this script as a worker and gives what it wrote, with the seconds of the whole process."""
    task, answer = folder / "job.json", folder / "answer.json"
    task.write_text(json.dumps({**job, "kind": kind, "answer_file": str(answer)}))
    answer.unlink(missing_ok=True)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--worker", task], stdout=subprocess.PIPE)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"error: PyTorch failed at {kind} {job.get('probe', '')}; its own words stand above")
    return {**json.loads(answer.read_text()), "process_seconds": seconds}


def run_fathom(args, probe, dtype, folder, repeat):
    """Measures one probe with Fathom and gives seconds, memory and samples."""
    # A folder of its own for every repeat: in one that has results Fathom would have nothing left to measure.
    out = folder / f"fathom-{probe}-{dtype}-{repeat}"
    command = [args.fathom, "measure", args.model, "--probes", probe, "--dtype", dtype, "-o", out]
    command += ["--data", folder / "prompts.jsonl", "--qa", folder / "pairs.jsonl"]
    command += ["--skip-modes", "future", "--quadrature", args.quadrature, "--threads", str(args.threads), "--device", args.device]
    started = time.perf_counter()
    call(command)
    seconds = time.perf_counter() - started
    cost = json.loads((out / "results.json").read_text())["resources"]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return {
        "seconds": sum(c["seconds"] for c in cost.values()),
        "peak_bytes": max(c["peak_bytes"] for c in cost.values()),
        "process_seconds": seconds,
        "samples": samples,
    }


def call(command):
    """Runs a command quietly and gives its output; its errors end this script."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"error: cannot run {command[0]} ({error}); build it with cargo, or name it with --fathom")
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(str(c) for c in command)}\n{done.stderr.strip()}")
    return done.stdout


def alternate(args, folder):
    """Every probe in every type, PyTorch and Fathom in turn, as often as asked."""
    runs = []
    for repeat in range(args.repeats):
        for dtype in args.dtype:
            for probe in args.probes:
                note(f"{repeat + 1}/{args.repeats} {probe} {dtype}: Fathom")
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                fathom = run_fathom(args, probe, dtype, folder, repeat)
                note(f"{repeat + 1}/{args.repeats} {probe} {dtype}: PyTorch (Fathom {fathom['seconds']:.2f} s)")
                torch = run_worker("work", torch_job(args, probe, dtype, fathom["samples"], folder), folder)
                note(f"{repeat + 1}/{args.repeats} {probe} {dtype}: done (PyTorch {torch['seconds']:.2f} s)")
                runs.append({"probe": probe, "dtype": dtype, "load": load, "fathom": fathom, "torch": torch})
    return runs


def torch_job(args, probe, dtype, samples, folder):
    """What PyTorch is to do: the tokens and positions that Fathom used."""
    texts = []
    for sample in samples:
        text = {"tokens": sample["tokens"]}
        if probe == "skip":
            text["positions"] = sample["skip"]["positions"]
        if probe in OF_PAIRS:
            text["answer"] = sample["asked"]["answer_tokens"]
        texts.append(text)
    return {
        "probe": probe,
        "texts": texts,
        "baseline": args.baseline if probe == "erasure" else [],
        "folder": str(folder / f"model-{dtype}"),
        "dtype": TORCH_NAMES[dtype],
        "threads": args.threads,
        "attention": args.attention,
        "device": "cuda" if args.device.startswith("cuda") else "cpu",
        "steps": args.steps,
        "batch": args.batch,
    }


TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16"}


def baseline_tokens(args, folder):
    """The token ids of the prompts, as Fathom makes them."""
    out = folder / "tokens"
    command = [args.fathom, "measure", args.model, "--data", folder / "prompts.jsonl"]
    call([*command, "--probes", "similarity", "-o", out])
    return [json.loads(line)["tokens"] for line in (out / "samples.jsonl").read_text().splitlines()]


# What comes out.


def shared_numbers(probe, sample, result):
    """The numbers that both sides give for one prompt or pair, in the same order."""
    if probe == "contributions":
        paths = [(q, p, "mean") for q in ("relative_norm", "cosine") for p in ("attn", "mlp", "layer")]
        return [number for path in paths for number in pairs_at(sample["contributions"], result, path)]
    if probe == "lens":
        return [number for name in result for number in pairs_at(sample["lens"], result, (name,))]
    if probe == "skip":
        ours = sample["skip"]["effects"]["future"]["layer"]
        return [number for name in result for number in pairs_at(ours, result, (name,))]
    if probe == "erasure":
        return pairs_at(sample, {"erasure": result}, ("erasure",))
    return pairs_at(sample["gradients"][0], result, ("attribution",))


def pairs_at(ours, theirs, path):
    """The numbers below the same path on both sides, two by two."""
    for name in path:
        ours, theirs = ours[name], theirs[name]
    ours, theirs = flat(ours), flat(theirs)
    if len(ours) != len(theirs):
        sys.exit(f"error: {'.'.join(path)} has {len(ours)} numbers in Fathom and {len(theirs)} in PyTorch")
    return list(zip(ours, theirs))


def flat(values):
    """All numbers of nested lists."""
    return [x for v in values for x in flat(v)] if isinstance(values, list) else [values]


def difference(run):
    """|a - b| / |b| over all numbers that both sides give."""
    fathom, torch = run["fathom"]["samples"], run["torch"]["results"]
    both = [n for s, r in zip(fathom, torch) for n in shared_numbers(run["probe"], s, r)]
    gap = math.sqrt(sum((a - b) ** 2 for a, b in both))
    return gap / max(math.sqrt(sum(b * b for _, b in both)), 1e-300)


def completeness(run):
    """The completeness errors of every layer and pair on both sides: median and nine tenths."""
    if run["probe"] != "gradients":
        return None
    fathom = [e for s in run["fathom"]["samples"] for e in s["gradients"][0]["completeness_error"]]
    torch = [e for r in run["torch"]["results"] for e in r["completeness_error"]]
    nodes = [n for s in run["fathom"]["samples"] for n in s["gradients"][0]["nodes"]]

    def of(errors):
        errors = sorted(errors)
        return {"median": statistics.median(errors), "nine_tenths": errors[int(0.9 * (len(errors) - 1))]}

    return {"fathom": of(fathom), "torch": of(torch), "fathom_mean_nodes": statistics.mean(nodes)}


def summarise(runs):
    """One row for each probe and type: medians over repeats, ratio, peak memory."""
    rows = []
    for probe, dtype in dict.fromkeys((run["probe"], run["dtype"]) for run in runs):
        mine = [run for run in runs if (run["probe"], run["dtype"]) == (probe, dtype)]
        row = {"probe": probe, "dtype": dtype, "repeats": len(mine)}
        row["texts"] = len(mine[0]["torch"]["results"])
        row["tokens"] = sum(len(s["tokens"]) for s in mine[0]["fathom"]["samples"])
        for side in ("torch", "fathom"):
            of = [run[side] for run in mine]
            row[side] = {
                "seconds": statistics.median(o["seconds"] for o in of),
                "all_seconds": [o["seconds"] for o in of],
                "process_seconds": statistics.median(o["process_seconds"] for o in of),
                "peak_bytes": max(o["peak_bytes"] for o in of),
            }
        row["torch"]["loaded_bytes"] = max(run["torch"]["loaded_bytes"] for run in mine)
        row["ratio"] = row["torch"]["seconds"] / row["fathom"]["seconds"]
        row["process_ratio"] = row["torch"]["process_seconds"] / row["fathom"]["process_seconds"]
        row["load_before"] = [run["load"] for run in mine]
        row["difference"] = difference(mine[0])
        row["completeness_error"] = completeness(mine[0])
        rows.append(row)
    return rows


def table(rows, args):
    """The rows in Markdown."""
    lines = [
        "| probe | type | work | PyTorch | Fathom | ratio | processes | ratio | peak PyTorch | peak Fathom | difference |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        torch, fathom = row["torch"], row["fathom"]
        unit = "pairs" if row["probe"] in OF_PAIRS else "prompts"
        cells = [
            row["probe"],
            row["dtype"],
            f"{row['texts']} {unit}, {row['tokens']} tokens",
            f"{torch['seconds']:.2f} s",
            f"{fathom['seconds']:.2f} s",
            f"**{row['ratio']:.1f}**",
            f"{torch['process_seconds']:.1f} / {fathom['process_seconds']:.1f} s",
            f"{row['process_ratio']:.1f}",
            f"{torch['peak_bytes'] / 1e9:.2f} GB",
            f"{fathom['peak_bytes'] / 1e9:.2f} GB",
            f"{row['difference']:.1e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Medians of {args.repeats}; ratio is PyTorch / Fathom; PyTorch runs {args.batch} edit(s) at once."]
    for row in rows:
        errors = row["completeness_error"]
        if errors:
            median = [f"{100 * errors[side]['median']:.2g} %" for side in ("torch", "fathom")]
            nine = [f"{100 * errors[side]['nine_tenths']:.2g} %" for side in ("torch", "fathom")]
            lines.append(
                f"Gradients in {row['dtype']}: completeness error in the median {median[0]} with PyTorch"
                f" ({args.steps} steps) and {median[1]} with Fathom ({args.quadrature},"
                f" {errors['fathom_mean_nodes']:.0f} nodes in the mean); nine tenths are below {nine[0]} and {nine[1]}."
            )
    return "\n".join(lines)


def write_json(args, runs, rows):
    """Everything but the results themselves."""
    model = re.sub(r"[^a-z0-9.]+", "-", Path(args.model).stem.lower()).strip("-.") or "model"
    path = args.out or Path(__file__).resolve().parent / "results" / f"against_pytorch-{model}.json"
    report = {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": Path(args.model).name,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "fathom": call([args.fathom, "--version"]).split()[-1],
            "python": platform.python_version(),
            **runs[0]["torch"]["versions"],
        },
        "settings": {
            name: getattr(args, name)
            for name in ("prompts", "pairs", "steps", "quadrature", "batch", "device", "threads", "attention", "repeats")
        },
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    note(f"written to {path}")


def processor():
    """The name of the processor, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def note(text):
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def threads():
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listed(known):
    """Reads a list with commas of known words."""

    def read(text):
        words = [word.strip() for word in text.split(",")]
        wrong = [word for word in words if word not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"'{wrong[0]}' is none of {', '.join(known)}")
        return list(dict.fromkeys(words))

    return read


def positive(text):
    """Reads a number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 1")
    return int(text)


def arguments():
    """The command line."""
    here = Path(__file__).resolve().parent.parent
    about, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a folder, a .gguf file or a Hugging Face id")
    parser.add_argument("--probes", type=listed(PROBES), default=PROBES, help=f"default: {','.join(PROBES)}")
    parser.add_argument("--data", default="builtin", help="prompts, as for fathom measure (default: builtin)")
    parser.add_argument("--qa", default="qa", help="question-answer pairs, as for fathom measure (default: qa)")
    parser.add_argument("--prompts", type=positive, default=4, help="number of prompts (default: 4)")
    parser.add_argument("--pairs", type=positive, default=2, help="number of pairs (default: 2)")
    parser.add_argument("--repeats", type=positive, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--dtype", type=listed(["f32", "bf16"]), default=["f32", "bf16"], help="default: f32,bf16")
    parser.add_argument("--steps", type=positive, default=256, help="PyTorch's steps of gradients (default: 256)")
    parser.add_argument("--quadrature", default="adaptive", help="Fathom's rule for gradients (default: adaptive)")
    parser.add_argument("--batch", type=positive, default=1, help="edits that PyTorch runs at once (default: 1)")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="PyTorch's (default: sdpa)")
    parser.add_argument("--device", default="cpu", help="of both: cpu, or cuda (default: cpu)")
    parser.add_argument("--threads", type=positive, default=threads(), help="of both (default: all)")
    parser.add_argument("--fathom", default=str(here / "target/release/fathom"), help="the program to time")
    parser.add_argument("--out", type=Path, help="JSON file (default: benches/results/against_pytorch-MODEL.json)")
    return parser.parse_args()


def main():
    if sys.argv[1:2] == ["--worker"]:
        job = json.loads(Path(sys.argv[2]).read_text())
        answer = prepare(job) if job["kind"] == "prepare" else work(job)
        Path(job["answer_file"]).write_text(json.dumps(answer))
        return
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="against-pytorch-") as name:
        folder = Path(name)
        for file, data, count in (("prompts", args.data, args.prompts), ("pairs", args.qa, args.pairs)):
            rows = call([args.fathom, "data", data, "--json", "--limit", str(count)])
            (folder / f"{file}.jsonl").write_text(rows)
        args.baseline = baseline_tokens(args, folder) if "erasure" in args.probes else []
        for dtype in args.dtype:
            note(f"preparing the weights in {dtype} for PyTorch")
            job = {"model": args.model, "dtype": TORCH_NAMES[dtype], "folder": str(folder / f"model-{dtype}")}
            run_worker("prepare", job, folder)
        runs = alternate(args, folder)
    rows = summarise(runs)
    print(table(rows, args))
    write_json(args, runs, rows)


if __name__ == "__main__":
    main()
