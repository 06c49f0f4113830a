"""The command, run as a process, as a user runs it; and within this process, where only its answer matters.

``lom_agent`` forks its processes from one that has the modules already; ``installed`` starts the installed command, for
what happens until they are imported. Each command has a test that starts the installed one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from forked import SECONDS, Forked
from twisted.internet import reactor

from agent.cli import main
from agent.cli.signals import ENDING, restore

COMMAND = str(Path(sys.executable).with_name("lom-agent"))


def lom_agent(*arguments: str, stdin: bytes = b"", patch: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run ``lom-agent`` with these arguments to its end; ``patch`` makes something go wrong in it, and in workers."""
    with Forked(*arguments, stdin=stdin, patch=patch) as process:
        output, errors = process.communicate()
        return subprocess.CompletedProcess(arguments, process.wait(), output, errors)


def installed(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the installed command with these arguments to its end."""
    return subprocess.run([COMMAND, *arguments], input=stdin, capture_output=True, timeout=SECONDS, check=False)


def lom_agent_here(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``lom-agent`` within this process, for a command that ends before it needs the reactor."""
    before = {number: signal.getsignal(number) for number in ENDING}
    with (
        CliRunner().isolation() as (output, errors, _),
        patch.object(sys, "argv", ["lom-agent", *arguments]),
        patch.object(reactor, "run", side_effect=AssertionError("the command needs the reactor: run it as a process")),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        finally:
            restore(before)
    assert isinstance(status, int)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def patched(folder: Path, patch: str) -> dict[str, str]:
    """An environment in which every process of ours first executes ``patch``, workers too."""
    (folder / "sitecustomize.py").write_text(patch)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def with_patch(folder: Path, patch: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in processes that first execute ``patch``, workers too: to make something go wrong for real."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, timeout=SECONDS, check=False, env=patched(folder, patch)
    )
