"""Modules of the standard library that only Unix has, and the error on other systems."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent.errors import OperatorError

resource: Any = None
fcntl: Any = None
try:
    resource, fcntl = import_module("resource"), import_module("fcntl")
except ImportError:  # either both are missing or none
    resource, fcntl = None, None


def check_unix() -> None:
    """Raises OperatorError on a system that cannot run simulated Macs."""
    if resource is None or fcntl is None:
        raise OperatorError(
            "Expected Linux or macOS, found a system without the limits and locks of Unix: simulated Macs (run, lab, "
            "lom-device, lom-request) are not supported here. Use Linux or macOS; the commands on files work."
        )
