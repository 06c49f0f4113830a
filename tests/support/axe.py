"""axe-core, the accessibility checks that a page of the tests runs: from the npm registry, by the npm command."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from debian import need, without

SECONDS = 60.0  # far beyond what the download takes
VERSION = "4.14.1"
_MOST_BYTES = 4 << 20


def axe_script(scratch: Path) -> str:
    """Its script. Without npm or the registry the test is skipped, see `debian`."""
    command = [need("npm", "npm"), "pack", f"axe-core@{VERSION}", "--silent", "--cache", str(scratch / "cache")]
    try:
        subprocess.run(command, cwd=scratch, capture_output=True, timeout=SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        without(f"needs axe-core of the npm registry: {error}")
    with tarfile.open(scratch / f"axe-core-{VERSION}.tgz") as package:
        script = package.extractfile("package/axe.min.js")
        assert script is not None
        return script.read(_MOST_BYTES).decode()
