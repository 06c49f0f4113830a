"""What only Unix has: modules of the standard library that are missing elsewhere, and what is said there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent.errors import OperatorError

resource: Any = None
fcntl: Any = None
try:
    resource, fcntl = import_module("resource"), import_module("fcntl")
except ImportError:  # both are there, or none
    resource, fcntl = None, None


def check_unix() -> None:
    """Raises OperatorError on a system on which no fleet can be run."""
    if resource is None or fcntl is None:
        raise OperatorError(
            "Expected Linux or macOS, found a system without the limits and locks of Unix: simulated Macs (run, lab, "
            "lom-device, lom-request) are not supported here. Use Linux or macOS; the commands on files work."
        )
