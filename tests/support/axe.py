"""axe-core, the accessibility checks that a page of the tests runs: from the npm registry, by the npm command."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from debian import need, without

SECONDS = 60.0  # far beyond what the download takes
VERSION = "4.14.1"
_MOST_BYTES = 4 << 20


def axe_script(kept: Path) -> str:
    """Its script, which stays in the folder ``kept``. Without npm or the registry the test is skipped, see `debian`."""
    package = kept / f"axe-core-{VERSION}.tgz"
    if not package.exists():
        with TemporaryDirectory(dir=kept) as scratch:
            _fetch(Path(scratch))
            (Path(scratch) / package.name).replace(package)
    with tarfile.open(package) as opened:
        script = opened.extractfile("package/axe.min.js")
        assert script is not None
        return script.read(_MOST_BYTES).decode()


def _fetch(scratch: Path) -> None:
    command = [need("npm", "npm"), "pack", f"axe-core@{VERSION}", "--silent", "--cache", str(scratch / "cache")]
    try:
        subprocess.run(command, cwd=scratch, capture_output=True, timeout=SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        without(f"needs axe-core of the npm registry: {error}")
