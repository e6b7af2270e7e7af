"""Measures how much of a language model's depth does useful work.

The package runs the program ``fathom`` and reads its results folders. It needs nothing but the standard library; NumPy, pandas
and polars are used where they are installed.

>>> import fathom_depth as fathom
>>> run = fathom.measure("smollm2-135m", limit=8, out="out")    # doctest: +SKIP
>>> run.depth                                                   # doctest: +SKIP
>>> run.to_pandas()                                             # doctest: +SKIP
"""

from ._program import FathomError, find_program, run_program
from ._commands import compare, fit, measure, merge, prune, study, table
from ._results import Run, Study, load

__all__ = [
    "FathomError",
    "Run",
    "Study",
    "compare",
    "find_program",
    "fit",
    "load",
    "measure",
    "merge",
    "prune",
    "run_program",
    "study",
    "table",
]
