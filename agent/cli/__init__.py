"""The command ``lom-agent``: parses the arguments, installs the reactor, turns the outcome into an exit status.

Exit status: 0 success; 1 an operation failed or a limit failed; 2 wrong usage or input; 130 stopped by Ctrl-C, 143
by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import atexit
import sys

from agent.cli import signals


def main() -> None:
    """Run the command line; each of our errors is one line on standard error."""
    signals.handle(signals.end_at_once)
    atexit.register(signals.ignore)
    with signals.importing():
        from agent.cli.commands import run_command_line

    try:
        signals.handle(signals.end_in_order)
        sys.exit(run_command_line())
    except SystemExit as ended:
        signals.keep(ended.code if isinstance(ended.code, int) else ended.code is not None)
        raise
    except BaseException:  # a defect: the interpreter prints it, and ends with 1
        signals.keep(1)
        raise
