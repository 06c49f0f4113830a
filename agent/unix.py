"""What only Unix has: modules of the standard library that are missing elsewhere, and what is said there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent.errors import OperatorError


def optional(name: str) -> Any:
    """A module of the standard library, None where this system has none of the name."""
    try:
        return import_module(name)
    except ImportError:
        return None


resource = optional("resource")
fcntl = optional("fcntl")


def check_unix() -> None:
    """Raises OperatorError on a system on which no fleet can be run."""
    if resource is None or fcntl is None:
        raise OperatorError(
            "Expected Linux or macOS, found a system without the limits and locks of Unix: simulated Macs (run, lab, "
            "lom-device, lom-request) are not supported here. Use Linux or macOS; the commands on files work."
        )
