"""The task of one shard on a Dask cluster: it starts ``lom-agent worker`` there and waits for its end.

Imports nothing of this program, so that a Dask worker stays small. The join secret is made here: the conductor gets its
digest through the scheduler, so that the scheduler never has a secret, and the shard reads it from standard input.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from importlib import import_module
from typing import Any

TOPIC = "lom-agent join {run}"
MOST_ERROR_BYTES = 2000


def run_worker(join: dict[str, Any]) -> None:
    """Run the shard of a join file without its secret, in a child process. Raises RuntimeError if it fails."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    worker = import_module("distributed").get_worker()
    worker.log_event(TOPIC.format(run=join["run"]), {"shard": join["shard"], "digest": digest})
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", "agent", "worker", "--join-file", "-"],
            input=json.dumps({**join, "secret": secret}).encode(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        if done.returncode:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - MOST_ERROR_BYTES))
            text = errors.read().decode("utf-8", "replace").strip()
            raise RuntimeError(text or f"lom-agent worker ended with status {done.returncode}")
