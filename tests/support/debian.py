"""Commands that come in Debian packages: a test that needs one is skipped without it, with the reason.

Where LOM_AGENT_REQUIRE_TOOLS is set (the project's own CI installs the packages), such a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need(command: str, package: str) -> str:
    """The path of ``command``; without it the test is skipped, or fails where the tools are required."""
    path = shutil.which(command)
    if path is None:
        without(f"needs the command {command} (Debian package {package})")
    return path


def without(reason: str) -> NoReturn:
    """Skip the test for this reason, or fail it where the tools are required."""
    if os.environ.get("LOM_AGENT_REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)
