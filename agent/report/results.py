"""The results of a run as one JSON document, for CI jobs and other programs.

Numbers come from `agent.load.metrics`, facts on the run from whoever ran it, resources from the operating system; the
document goes to ``results.json`` in a directory of the operator's choice.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.errors import MisuseError, OperatorError
from agent.load.metrics import Metrics, OperationSummary
from agent.load.trace import rfc3339

SCHEMA = "lom-agent.results/1"
FILE_NAME = "results.json"

_DECIMALS = 3  # of seconds, of ms (so: microseconds) and of rates


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Which run it was: ``version`` of this program, the fleet's ``seed``, how many ``devices``, when it ``started``
    (aware) and how many seconds it took. Raises MisuseError where ``started`` has no time zone."""

    version: str
    seed: str | int
    devices: int
    started: datetime
    duration_s: float

    def __post_init__(self) -> None:
        if self.started.utcoffset() is None:
            raise MisuseError(f"Expected a start with a time zone; found {self.started.isoformat()}.")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run took: seconds of CPU (user and system) of this program and its finished children together, and the
    largest resident memory that any one of them had, in KiB."""

    cpu_s: float
    max_rss_kib: int


class ResourceMeter:
    """What this program and those of its children that ended have used since the meter was made.

    A process may have had children before it became this program: a shell that ran others first, and then this one.
    """

    def __init__(self) -> None:
        self._before = _usages()

    def read(self) -> Resources:
        """What was used until now. The peak of the children counts only where it rose since."""
        own, children = _usages()
        own_before, children_before = self._before
        peaks = [own.ru_maxrss]
        if children.ru_maxrss > children_before.ru_maxrss:
            peaks.append(children.ru_maxrss)
        return Resources(
            cpu_s=_cpu(own) + _cpu(children) - _cpu(own_before) - _cpu(children_before),
            max_rss_kib=resident_kib(max(peaks), sys.platform),
        )


def _usages() -> tuple[resource.struct_rusage, resource.struct_rusage]:
    return resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def resident_kib(ru_maxrss: int, platform: str) -> int:
    """``ru_maxrss`` of getrusage in KiB, given ``sys.platform``.

    Source: getrusage(2): "in kilobytes" on Linux and the BSDs, "in bytes" on macOS.
    """
    return ru_maxrss // 1024 if platform == "darwin" else ru_maxrss


def results(metrics: Metrics, run: RunInfo, resources: Resources) -> dict[str, Any]:
    """The document of schema ``lom-agent.results/1``: numbers, text, lists and dicts only, ready for JSON.

    Latencies are ms, rounded to the microsecond, and None where no exchange of the operation succeeded.
    """
    return {
        "schema": SCHEMA,
        "version": run.version,
        "seed": run.seed,
        "devices": run.devices,
        "started": rfc3339(run.started),
        "duration_s": round(run.duration_s, _DECIMALS),
        "operations": {name: _operation(metrics.summary(name)) for name in metrics.operations()},
        "errors": [
            {
                "operation": failure.operation,
                "kind": failure.kind,
                "count": failure.count,
                "example": failure.example,
            }
            for failure in metrics.failures()
        ],
        "resources": {
            "cpu_s": round(resources.cpu_s, _DECIMALS),
            "max_rss_kib": resources.max_rss_kib,
        },
    }


def write_results(directory: str | os.PathLike[str], document: Mapping[str, Any]) -> Path:
    """Write ``document`` to ``results.json`` in ``directory``, which is made where it is missing; return its path.

    Whoever reads the file finds the old document or the new one, never half of one. Raises OperatorError where the
    directory or the file cannot be written; no half-written file is left behind.
    """
    target = Path(directory) / FILE_NAME
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, text.encode())
    except (OSError, ValueError) as error:  # ValueError: a path with a null character in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OperatorError(
            f"The results cannot be written to {target}: {reason}. Name a directory that you may write to."
        ) from error
    return target


def _replace(target: Path, content: bytes) -> None:
    # In the same directory, because a file can be renamed over another only within one file system.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _operation(summary: OperationSummary) -> dict[str, Any]:
    return {
        "count": summary.count,
        "errors": summary.errors,
        "rate_per_s": round(summary.rate_per_s, _DECIMALS),
        "latency_ms": {
            "p50": _rounded(summary.p50),
            "p90": _rounded(summary.p90),
            "p99": _rounded(summary.p99),
            "p99_9": _rounded(summary.p99_9),
            "max": _rounded(summary.max),
            "mean": _rounded(summary.mean),
        },
    }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, _DECIMALS)
