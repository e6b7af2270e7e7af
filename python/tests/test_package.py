"""The package over a real run of a small fixture model."""

import math
import os
import subprocess
import sys
from pathlib import Path

import fathom_depth as fathom
import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
PROMPTS = '{"text": "The capital of France is Paris, and the capital of Italy is Rome."}\n' * 1 + (
    '{"text": "Seven times eight is fifty-six, and two and two is four."}\n'
    '{"text": "Once upon a time there was a king who had three sons."}\n'
)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "own.jsonl"
    path.write_text(PROMPTS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run(prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "llama3"
    return fathom.measure(FIXTURES / "llama3", prompts, probes=["contributions", "lens"], resamples=200, out=out, quiet=True)


def test_a_run_is_measured_and_loaded(run):
    assert run.layers == run.results["model"]["layers"]
    assert run.run["status"] == "complete"
    assert set(run.depth) == {"cosine", "kl", "overlap"} | set(run.depth)
    cosine = run.curves["contributions.cosine.layer.mean"]
    assert len(cosine) == run.layers and all(math.isfinite(value) for value in cosine)
    assert len(run.samples) == 3 and all("lens" in sample for sample in run.samples)
    again = fathom.load(run.folder)
    assert isinstance(again, fathom.Run) and again.results == run.results


def test_a_repeated_call_measures_nothing(run, prompts, capfd):
    before = (run.folder / "samples.jsonl").stat().st_mtime_ns
    fathom.measure(FIXTURES / "llama3", prompts, probes="contributions,lens", resamples=200, out=run.folder)
    assert (run.folder / "samples.jsonl").stat().st_mtime_ns == before
    assert "there already" in capfd.readouterr().err


def test_tables_and_data_frames(run):
    rows = fathom.table(run, resamples=200)
    assert {row["quantity"] for row in rows} >= {"cosine_layer", "kl_lens_final", "depth_kl"}
    pandas = pytest.importorskip("pandas")
    frame = run.to_pandas(resamples=200)
    assert isinstance(frame, pandas.DataFrame)
    cosine = frame[frame.quantity == "cosine_layer"].sort_values("layer")
    assert list(cosine.layer) == list(range(run.layers))
    assert list(cosine.value) == pytest.approx(list(run.curves["contributions.cosine.layer.mean"]))


def test_polars(run):
    polars = pytest.importorskip("polars")
    frame = run.to_polars(resamples=200)
    assert frame.filter(polars.col("quantity") == "depth_kl").height == 1


def test_thresholds_are_swept(run):
    values = [run.depths(threshold={"kl": share}, resamples=200)["kl"]["value"] for share in (0.05, 0.5, 0.95)]
    found = [value for value in values if value is not None]
    assert found == sorted(found, reverse=True)


def test_two_runs_are_compared(run, prompts, tmp_path):
    other = fathom.measure(FIXTURES / "llama2", prompts, probes="contributions,lens", out=tmp_path / "b", quiet=True)
    found = fathom.compare(run, other, resamples=200)
    assert found["pairing"] == "paired" and found["curves"]
    several = fathom.compare(run, other, run.folder, resamples=200)
    assert several["comparisons"][0] == found and len(several["rules"][0]["p_holm"]) == 2


def test_samples_are_read_by_pandas_polars_and_duckdb(run, prompts, tmp_path):
    probes = "contributions,lens,similarity,settling,skip,erasure,gradients"
    own = tmp_path / "pairs.jsonl"
    own.write_text('{"question": "The capital of France is", "answer": " Paris"}\n', encoding="utf-8")
    full = fathom.measure(
        FIXTURES / "llama3", prompts, probes=probes, qa=own, out=tmp_path / "full", parquet=True, resamples=200, quiet=True
    )
    file, samples = full.folder / "samples.parquet", list(full.samples)
    assert len(samples) == 4 and file.is_file()

    def check(column):
        """``column`` gives the values of a column as lists; what they hold must be what the lines hold."""
        for name in ("id", "tokens", "pieces", "settling.layers"):
            assert column(name) == [at(sample, name) for sample in samples], name
        for name in ("lens.kl_lens_final", "skip.effects.future.layer.layer_effect", "erasure"):
            assert column(name) == [at(sample, name) for sample in samples], name
        attribution = column("gradients.resid.attribution")
        assert attribution[:3] == [None] * 3
        assert attribution[3] == samples[3]["gradients"][0]["attribution"]

    pandas, polars, duckdb = (pytest.importorskip(name) for name in ("pandas", "polars", "duckdb"))
    frame = pandas.read_parquet(file)
    check(lambda name: [plain(value) for value in frame[name]])
    table = polars.read_parquet(file)
    check(lambda name: table[name].to_list())
    check(lambda name: [row[0] for row in duckdb.sql(f"select \"{name}\" from '{file}'").fetchall()])


def at(sample, path):
    """The value at a path of a sample; ``None`` where there is none."""
    for name in path.split("."):
        sample = sample.get(name) if sample is not None else None
    return sample


def plain(value):
    """Lists for NumPy's arrays, and ``None`` for what pandas makes of a missing value."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def test_shards_are_merged(prompts, tmp_path):
    whole = fathom.measure(FIXTURES / "gpt2", prompts, out=tmp_path / "whole", quiet=True)
    parts = [
        fathom.measure(FIXTURES / "gpt2", prompts, shard=f"{i}/2", out=tmp_path / str(i), quiet=True) for i in (1, 2)
    ]
    merged = fathom.merge(*parts, out=tmp_path / "merged", quiet=True)
    assert merged.results["probes"] == whole.results["probes"]


def test_a_study_is_run_and_loaded(prompts, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        f"name = 'two'\nout = '{tmp_path.as_posix()}/study'\nprobes = 'contributions,lens'\n"
        f"[[model]]\nid = '{(FIXTURES / 'llama2').as_posix()}'\n[[model]]\nid = '{(FIXTURES / 'llama3').as_posix()}'\n"
        f"[[data]]\nid = '{prompts.as_posix()}'\n",
        encoding="utf-8",
    )
    study = fathom.study(file, resamples=200, quiet=True)
    assert set(study.runs) == {"llama2/own", "llama3/own"}
    assert isinstance(fathom.load(study.folder), fathom.Study)
    assert {row["model"] for row in study.table(resamples=200)} == {"llama2", "llama3"}
    assert "llama2/own" in study._repr_html_()


def test_notebooks_get_a_gauge_a_table_and_a_figure(run):
    page = run._repr_html_()
    assert page.count("<img") == 2 and "<table>" in page and "cosine" in page and "<script" not in page


def test_failures_are_the_programs_own_sentences(run, prompts, tmp_path):
    with pytest.raises(fathom.FathomError) as unknown:
        fathom.measure(FIXTURES / "llama3", prompts, depht=3, out=tmp_path, quiet=True)
    assert "--depht" in str(unknown.value) and unknown.value.code == 2
    with pytest.raises(fathom.FathomError) as missing:
        fathom.measure(tmp_path / "nothing", out=tmp_path / "x", quiet=True)
    assert "nothing" in str(missing.value) and missing.value.code == 1
    assert not str(missing.value).startswith("error")
    with pytest.raises(FileNotFoundError, match="results.json"):
        fathom.load(tmp_path)


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FATHOM", str(tmp_path / "fathom"))
    with pytest.raises(FileNotFoundError, match="FATHOM is"):
        fathom.find_program()
    monkeypatch.delenv("FATHOM")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="pip install fathom-depth"):
        fathom.find_program()


def test_the_module_is_the_program():
    package = str(Path(fathom.__file__).parents[1])
    command = [sys.executable, "-m", "fathom_depth", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": package})
    assert printed.stdout.startswith("fathom ")
