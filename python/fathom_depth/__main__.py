"""``python -m fathom_depth`` is the program ``fathom``."""

import os
import subprocess
import sys

from ._program import find_program

if __name__ == "__main__":
    command = [find_program(), *sys.argv[1:]]
    if os.name == "nt":
        sys.exit(subprocess.run(command).returncode)
    os.execv(command[0], command)
