"""The installed command, run as a process, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("lom-agent"))
SECONDS = 120.0


def lom_agent(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``lom-agent`` with these arguments to its end."""
    return subprocess.run([COMMAND, *arguments], input=stdin, capture_output=True, timeout=SECONDS, check=False)


def python_with(patch: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a Python that first executes ``patch``: to make something go wrong for real."""
    program = f"import sys\n{patch}\nfrom agent.cli import main\nsys.argv[1:] = {list(arguments)!r}\nmain()\n"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=SECONDS, check=False)
