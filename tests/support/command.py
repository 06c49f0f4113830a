"""The installed command, run as a process, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("lom-agent"))
SECONDS = 120.0


def lom_agent(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``lom-agent`` with these arguments to its end."""
    return subprocess.run([COMMAND, *arguments], input=stdin, capture_output=True, timeout=SECONDS, check=False)


def patched(folder: Path, patch: str) -> dict[str, str]:
    """An environment in which every process of ours first executes ``patch``, workers too."""
    (folder / "sitecustomize.py").write_text(patch)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def with_patch(folder: Path, patch: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in processes that first execute ``patch``, workers too: to make something go wrong for real."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, timeout=SECONDS, check=False, env=patched(folder, patch)
    )
