"""Finds and runs the program ``fathom``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Iterable, List, Optional, Union

Argument = Union[str, "os.PathLike[str]"]


class FathomError(RuntimeError):
    """The program failed. The text is its own sentence; ``code`` is its exit code and ``stderr`` all that it said."""

    def __init__(self, message: str, code: int, stderr: str) -> None:
        super().__init__(message)
        self.code = code
        self.stderr = stderr


def find_program() -> str:
    """The path of the program: that of the variable ``FATHOM``, of this environment, or of ``PATH``, in this order."""
    name = "fathom.exe" if os.name == "nt" else "fathom"
    own = os.environ.get("FATHOM")
    if own:
        if not Path(own).is_file():
            raise FileNotFoundError(f"FATHOM is {own!r}, which is not a file; unset it or give the path of the program")
        return own
    user = "nt_user" if os.name == "nt" else "posix_user"
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", user), str(Path(sys.executable).parent)]
    for folder in folders:
        candidate = Path(folder) / name
        if candidate.is_file():
            return str(candidate)
    found = shutil.which(name)
    if found is None:
        looked = ", ".join(dict.fromkeys(folders))
        raise FileNotFoundError(
            f"the program {name!r} is neither in {looked} nor on PATH; install it with `pip install fathom-depth`, "
            "or set FATHOM to its path"
        )
    return found


def options(named: "dict[str, object]") -> List[str]:
    """Command-line options from keyword arguments: ``max_tokens=400`` is ``--max-tokens=400``, ``True`` a flag, a list is
    joined by commas, a dictionary is given once for each item, and ``None`` and ``False`` are left out."""
    found: List[str] = []
    for name, value in named.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append(flag)
        elif isinstance(value, dict):
            found.extend(f"{flag}={key}={item}" for key, item in value.items())
        elif isinstance(value, (list, tuple)):
            found.append(f"{flag}={','.join(str(item) for item in value)}")
        else:
            found.append(f"{flag}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
    return found


def run_program(arguments: Iterable[Argument], *, quiet: bool = False, cwd: Optional[Argument] = None) -> str:
    """Runs the program and returns what it prints. Notes and warnings go to ``sys.stderr`` unless ``quiet``.

    Raises :class:`FathomError` with the program's own sentence if it fails. An interrupt is passed on: the program keeps
    what it has measured, and ``KeyboardInterrupt`` follows.
    """
    command = [find_program(), *(os.fspath(argument) for argument in arguments)]
    said: List[str] = []
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=cwd)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                text = line.decode("utf-8", "replace")
                said.append(text)
                if not quiet and not text.startswith("error: "):
                    sys.stderr.write(text)
                    sys.stderr.flush()
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
            process.wait()
            raise
        printed.seek(0)
        output = printed.read().decode("utf-8")
    if code != 0:
        stderr = "".join(said)
        raise FathomError(_sentence(said) or f"fathom ended with exit code {code}", code, stderr)
    return output


def _sentence(said: List[str]) -> str:
    """What the program says after ``error: ``, with the lines that follow."""
    for index in range(len(said) - 1, -1, -1):
        if said[index].startswith("error: "):
            return "".join([said[index][len("error: ") :], *said[index + 1 :]]).strip()
    return "".join(said).strip()
