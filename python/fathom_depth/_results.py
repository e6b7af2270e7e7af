"""Finished runs and studies, from their folders."""

from __future__ import annotations

import base64
import html
import json
import os
import webbrowser
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

from ._program import Argument, options, run_program

Json = Dict[str, Any]


def load(folder: Argument) -> "Union[Run, Study]":
    """The run or the study in a folder."""
    path = Path(folder)
    if (path / "study.json").is_file():
        return Study(path)
    return Run(path)


class _Folder:
    """A results folder."""

    _file = ""

    def __init__(self, folder: Argument) -> None:
        self.folder = Path(folder)
        if not (self.folder / self._file).is_file():
            raise FileNotFoundError(f"{self.folder} has no {self._file}; give the folder of a finished {self._kind()}")

    @classmethod
    def _kind(cls) -> str:
        return cls.__name__.lower()

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    def _json(self, name: str) -> Json:
        content: Json = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content

    def table(self, **more: Any) -> List[Json]:
        """Curves and depths, one number with its 95 % interval a row, by the program: ``model``, ``data``, ``quantity``,
        ``layer``, ``value``, ``lo``, ``hi``. Options are those of ``fathom table``."""
        rows: List[Json] = json.loads(run_program(["table", *options(more), "--json", "--", self.folder], quiet=True))
        return rows

    def to_pandas(self, **more: Any) -> Any:
        """:meth:`table` as a pandas data frame."""
        import pandas  # type: ignore[import-untyped, unused-ignore]

        frame = pandas.DataFrame(self.table(**more))
        return frame.astype({"layer": "Int64"}) if "layer" in frame else frame

    def to_polars(self, **more: Any) -> Any:
        """:meth:`table` as a polars data frame."""
        import polars

        kinds = {"model": polars.String, "data": polars.String, "quantity": polars.String, "layer": polars.Int64}
        kinds.update({name: polars.Float64 for name in ("value", "lo", "hi")})
        return polars.DataFrame(self.table(**more), schema=kinds)


class Run(_Folder):
    """A finished measurement."""

    _file = "results.json"

    @property
    def results(self) -> Json:
        """What is in ``results.json``."""
        return self._json("results.json")

    @property
    def run(self) -> Json:
        """What is in ``run.json``: how it was measured."""
        return self._json("run.json")

    @property
    def layers(self) -> int:
        """The number of layers of the model."""
        return int(self.results["model"]["layers"])

    @property
    def depth(self) -> Dict[str, Json]:
        """The effective depth by each rule."""
        return {row["rule"]: row for row in self.results["depth"]}

    def depths(self, **more: Any) -> Dict[str, Json]:
        """The effective depth by each rule with other options, such as ``threshold={"kl": 0.4}``, by ``fathom depth``."""
        printed = run_program(["depth", *options(more), "--json", "--", self.folder], quiet=True)
        found = json.loads(printed)
        rows = found[0] if isinstance(found, list) else found
        return {row["rule"]: row for row in rows["depth"]}

    @property
    def curves(self) -> Dict[str, Any]:
        """Every curve over layers, by its place in ``results.json`` such as ``contributions.cosine.layer``; NumPy arrays
        where NumPy is installed."""
        layers = self.layers
        found = dict(_arrays(self.results["probes"], ()))
        return {name: _array(values) for name, values in found.items() if len(values) in (layers, layers + 1)}

    @property
    def samples(self) -> List[Json]:
        """The samples, one for each prompt and pair. Lines of one prompt, which a resumed run may have, are put together."""
        together: Dict[str, Json] = {}
        with open(self.folder / "samples.jsonl", encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    sample = json.loads(line)
                    together.setdefault(sample["id"], {}).update(sample)
        return list(together.values())

    def show(self) -> Any:
        """The whole report: in a notebook below the cell, otherwise in the browser."""
        return _show(self.folder / "report.html")

    def _repr_html_(self) -> str:
        """The depth gauge, the depths, and one figure."""
        results = self.results
        title = f"{results['model']['id']} on {results['data']['id']}"
        rows = [(str(row["rule"]), *_depth_cells(row, self.layers)) for row in results["depth"]]
        table = _html_table(("rule", "layers used", f"of {self.layers}", "95 % interval"), rows)
        pictures = [_picture(self.folder / "plots" / name) for name in ("depth_gauge.svg", *_figures(self.folder))]
        gauge, figure = (pictures + ["", ""])[:2]
        return f"<div><p><b>{html.escape(title)}</b></p>{gauge}{table}{figure}</div>"


class Study(_Folder):
    """A finished study."""

    _file = "study.json"

    @property
    def study(self) -> Json:
        """What is in ``study.json``: tables, comparisons and answers."""
        return self._json("study.json")

    @property
    def runs(self) -> Dict[str, Run]:
        """The finished cells by their folders, ``MODEL/DATA``."""
        found = sorted(self.folder.glob("*/*/results.json"))
        return {path.parent.relative_to(self.folder).as_posix(): Run(path.parent) for path in found}

    @property
    def answers(self) -> List[str]:
        """The answers in words."""
        return [answer["summary"] for answer in self.study["answers"]]

    def show(self) -> Any:
        """The whole page: in a notebook below the cell, otherwise in the browser."""
        return _show(self.folder / "study.html")

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{html.escape(answer)}</p>" for answer in self.answers)
        runs = "".join(f"<li>{html.escape(name)}</li>" for name in self.runs)
        return f"<div><p><b>{html.escape(self.study['name'])}</b></p>{paragraphs}<ul>{runs}</ul></div>"


def _arrays(value: Any, path: "tuple[str, ...]") -> "Iterator[tuple[str, List[Optional[float]]]]":
    """The arrays of numbers in nested objects."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _arrays(item, (*path, name))
    elif isinstance(value, list) and value and all(item is None or isinstance(item, (int, float)) for item in value):
        yield ".".join(path), value


def _array(values: List[Optional[float]]) -> Any:
    numbers = [float("nan") if value is None else float(value) for value in values]
    try:
        import numpy
    except ImportError:
        return numbers
    return numpy.array(numbers)


def _depth_cells(row: Json, layers: int) -> "tuple[str, str, str]":
    used, interval = row.get("layers_used"), row.get("interval")
    if used is None:
        return "-", row.get("reason") or "-", "-"
    # The interval is that of the rule's value; layers used differ from it by a constant.
    shift = used - row["value"] if row.get("value") is not None else 0
    ends = "-" if not interval else " to ".join(f"{end + shift:.3g}" for end in interval)
    return f"{used:.3g}", f"{used / layers:.0%}", ends


def _html_table(heading: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> str:
    def line(cells: "Sequence[str]", tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(heading, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _figures(folder: Path) -> List[str]:
    """The figures of a run, the contributions first."""
    names = sorted(path.name for path in (folder / "plots").glob("*.svg") if path.name != "depth_gauge.svg")
    return sorted(names, key=lambda name: not name.startswith("contributions"))


def _picture(path: Path) -> str:
    """A figure as an image, so that no script in it could run."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img style="max-width:100%" alt="{html.escape(path.stem)}" src="data:image/svg+xml;base64,{data}"/></p>'


def _show(page: Path) -> Any:
    if not page.is_file():
        raise FileNotFoundError(f"{page} is not there; `fathom report {page.parent}` draws it")
    if not _in_notebook():
        webbrowser.open(page.resolve().as_uri())
        return None
    from IPython.display import HTML  # type: ignore[import-not-found, unused-ignore]

    document = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe sandbox="allow-scripts" style="width:100%;height:800px;border:0" srcdoc="{document}"></iframe>'
    return HTML(frame)  # type: ignore[no-untyped-call, unused-ignore]


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    return shell is not None and "IPKernelApp" in shell.config
