"""The commands of the program as functions. Further options are keyword arguments, with ``_`` for ``-``."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Sequence, Union

from ._program import Argument, options, run_program
from ._results import Run, Study

Json = Dict[str, Any]


def measure(
    model: Argument = "smollm2-135m",
    data: Optional[Argument] = None,
    *,
    probes: Union[str, Sequence[str], None] = None,
    limit: Optional[int] = None,
    out: Optional[Argument] = None,
    quiet: bool = False,
    **more: Any,
) -> Run:
    """Runs probes on a model: ``fathom measure``. Continues what the folder has, so a repeated call costs nothing.

    ``model`` is a folder, a file, a Hugging Face id or a short name; ``data`` a prompt set or a file; ``probes`` names such as
    ``["contributions", "lens"]``, or ``"all"``. Without ``out`` the folder is one under ``fathom-out``.
    """
    given = {"data": data, "probes": probes, "limit": limit, "out": out, **more}
    printed = run_program(["measure", *options(given), "--", model], quiet=quiet)
    return Run(_folder(printed))


def prune(model: Argument = "smollm2-135m", *, out: Optional[Argument] = None, quiet: bool = False, **more: Any) -> Json:
    """Finds layers that can go: ``fathom prune``. Returns what is in ``prune.json``."""
    return _json(["prune", *options({"out": out, **more}), "--json", "--", model], quiet)


def fit(law: str, file: Argument, *, out: Optional[Argument] = None, quiet: bool = False, **more: Any) -> Json:
    """Fits a law to a table: ``fathom fit``. Returns what is in ``fit.json``."""
    return _json(["fit", law, *options({"out": out, **more}), "--json", "--", file], quiet)


def study(file: Argument, *, quiet: bool = False, **more: Any) -> Study:
    """Measures models on data sets as a file describes: ``fathom study``. Returns the finished study."""
    return Study(_folder(run_program(["study", *options(more), "--", file], quiet=quiet)))


def compare(
    a: Union[Argument, Run], *others: Union[Argument, Run], quiet: bool = False, **more: Any
) -> Json:
    """Compares finished runs with the first, with intervals: ``fathom compare``.

    With one other run the result has ``rules`` and ``curves``; with several, ``comparisons`` has one such a run, and
    ``rules`` the p-values corrected for their number.
    """
    return _json(["compare", *options(more), "--json", "--", *map(_path, (a, *others))], quiet)


def table(*runs: Union[Argument, Run, Study], quiet: bool = False, **more: Any) -> List[Json]:
    """Curves and depths of finished runs and studies, one number with its interval a row: ``fathom table``."""
    printed = run_program(["table", *options(more), "--json", "--", *map(_path, runs)], quiet=quiet)
    rows: List[Json] = json.loads(printed)
    return rows


def merge(*shards: Union[Argument, Run], out: Argument, quiet: bool = False, **more: Any) -> Run:
    """Puts the shards of a measurement together: ``fathom merge``."""
    run_program(["merge", *options({"out": out, **more}), "--", *map(_path, shards)], quiet=quiet)
    return Run(out)


def _json(arguments: Sequence[Argument], quiet: bool) -> Json:
    content: Json = json.loads(run_program(arguments, quiet=quiet))
    return content


def _path(run: Union[Argument, Run, Study]) -> str:
    return os.fspath(run)


def _folder(printed: str) -> str:
    """The results folder, which the program prints last."""
    for line in reversed(printed.splitlines()):
        name, _, value = line.partition(":")
        if name == "results":
            return value.strip()
        if name == "report":
            report = value.strip()
            if report.endswith("study.html"):
                return os.path.dirname(report)
    raise RuntimeError("the program did not say where its results are; is it of another version than this package?")
