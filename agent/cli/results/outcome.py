"""The outcome of a run: its results document, the files written, and the exit status."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console

from agent import __version__
from agent.cli.results.outputs import check_different, check_file, hold, make_folder, remove_old
from agent.errors import MisuseError, OperatorError
from agent.load.conductor.conductor import Conductor
from agent.load.conductor.facts import INTERRUPTED
from agent.measure.limits import parse_limit
from agent.measure.trace import TraceParts
from agent.net.mac.fleet.keys import parse_keys
from agent.push.counts import merge_push_counts
from agent.report.document import Document, RecordedOutcome
from agent.report.html import write_report
from agent.report.junit import write_junit
from agent.report.outcome import outcome
from agent.report.results import FILE_NAME, ResourceMeter, RunInfo, results, write_results
from agent.report.terminal import print_summary
from agent.scenario.types import Scenario
from agent.scenario.writing.redacted import as_document

REPORT_NAME = "report.html"
UNWRITTEN_STATUS = 2  # of a command that could not write a file: tell raises an OperatorError
NOT_OVER = "the run had not finished when this was written"


class Outputs(msgspec.Struct, frozen=True):
    """The files to write; None: not written."""

    out: str | None = None
    junit: str | None = None
    trace: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Outputs:
        """The files that the options name."""
        return cls(options["out"], options["junit"], options["trace"])

    def check(self) -> None:
        """Make the folders and check the files before the run, hold them against another run, and remove old ones.

        Without the latter a run that is killed, or that cannot start, would leave the verdict of the run before it.

        Raises OperatorError.
        """
        files = [] if self.junit is None else [("--junit", self.junit)]
        files += [] if self.trace is None else [("--trace", self.trace)]
        if self.out is not None:
            make_folder(self.out)
            for name in (FILE_NAME, REPORT_NAME):
                check_file(str(Path(self.out) / name))
                files.insert(0, (name, str(Path(self.out) / name)))
        check_different(files)
        if self.out is not None:
            hold(self.out, "folder")
        if self.trace is not None:
            hold(self.trace, "trace file", os.O_RDWR | os.O_CREAT)
        for what, path in files:
            if what != "--trace":  # it is emptied when it is opened
                remove_old(path)
        if self.junit is not None:
            check_file(self.junit)


class RunResults:
    """The outcome of one run; ``document`` is available after ``end``."""

    def __init__(self, scenario: Scenario, outputs: Outputs, started: datetime) -> None:
        self._ended: Document | None = None
        self._scenario = scenario
        self._outputs = outputs
        self._started = started
        self._began = time.monotonic()
        self._meter = ResourceMeter()
        self._limits = [parse_limit(text) for text in scenario.limits]
        self._signal: int | None = None
        self._written: list[Path] = []
        self._unwritten: list[OperatorError] = []

    def checkpoint(self, conductor: Conductor) -> None:
        """Write the results so far, in case the run is killed. Raises OperatorError."""
        if self._outputs.out is not None:
            write_results(self._outputs.out, self._document(conductor, NOT_OVER))

    def end(self, conductor: Conductor, signal_number: int | None, trace: TraceParts) -> None:
        """Write all files at the end of the run; ``tell`` raises the errors."""
        self._signal = signal_number
        because = conductor.incomplete_because or (None if signal_number is None else INTERRUPTED)
        self._ended = self._document(conductor, because)
        document, out, junit = self._ended, self._outputs.out, self._outputs.junit
        self._write(trace.join)
        if out is not None:
            self._write(lambda: write_report(Path(out) / REPORT_NAME, [document]))
            self._write(lambda: write_results(out, self._with_unwritten(document)))
        # The last two name the files that could not be written.
        if junit is not None and not self._write(
            lambda: write_junit(junit, document, [str(error) for error in self._unwritten])
        ):
            self._write_again(out, document)

    def _write(self, write: Callable[[], Path | None]) -> bool:
        """Write one file, or none; returns whether it could be written."""
        try:
            path = write()
        except OperatorError as error:
            self._unwritten.append(error)
            return False
        self._written += [] if path is None else [path]
        return True

    def _write_again(self, out: str | None, document: Document) -> None:
        """Write the results once more, if they are written: they say how the command ends."""
        if out is not None and Path(out) / FILE_NAME in self._written:
            self._written.remove(Path(out) / FILE_NAME)
            self._write(lambda: write_results(out, self._with_unwritten(document)))

    def _with_unwritten(self, document: Document) -> Document:
        """The document with the exit status of a command that could not write all files, where that is so."""
        if not self._unwritten or document.outcome is None:
            return document
        reasons = [*document.outcome.reasons, *map(str, self._unwritten)]
        return replace(document, outcome=RecordedOutcome(UNWRITTEN_STATUS, reasons))

    def tell(self, console: Console) -> None:
        """Print the summary and the written files. Raises OperatorError if a file could not be written."""
        print_summary(console, self.document)
        for path in self._written:
            console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
        if self._unwritten:
            raise OperatorError(" ".join(map(str, self._unwritten)))

    @property
    def document(self) -> Document:
        """The results of the run. Raises MisuseError before ``end``."""
        if self._ended is None:
            raise MisuseError("the run has not finished: it has no results yet")
        return self._ended

    @property
    def exit_status(self) -> int:
        """0 success, 1 failure, 2 a file could not be written, 128 plus the number of a signal that stopped it."""
        return UNWRITTEN_STATUS if self._unwritten else outcome(self.document).exit_status

    def _document(self, conductor: Conductor, because: str | None) -> Document:
        fleet = self._scenario.fleet
        metrics = conductor.metrics()
        info = RunInfo(
            __version__,
            fleet.seed,
            fleet.devices,
            self._started,
            conductor.worked + time.monotonic() - self._began,
            self._scenario.name,
            conductor.workers,
        )
        pool = parse_keys(self._scenario.server.keys)
        reused = sum(result.keys_reused for result in conductor.results)
        reuse = self._scenario.mdm_signature.reuse
        signatures = {
            "reuse_s": reuse,
            "made": sum(result.signatures_made for result in conductor.results),
            "reused": sum(result.signatures_reused for result in conductor.results),
        }
        counts = conductor.push_counts()
        generator = conductor.generator()
        return results(
            metrics,
            info,
            self._meter.read((facts["max_rss_kib"] for facts in generator), conductor.cpu_elsewhere_s),
            timeline=conductor.timeline,
            phases=conductor.phase_summaries(),
            generator=generator,
            embedded_lab=conductor.embedded_lab,
            limits=self._limits,
            push=merge_push_counts(counts) if counts else None,
            rules=conductor.rule_counts(),
            resumed=conductor.resumed,
            changes=conductor.changes_made,
            targets=conductor.targets,
            keys=None if pool is None else {"pool": pool, "reused": reused},
            signatures=signatures if reuse else None,
            scenario=as_document(self._scenario),
            incomplete_because=because,
            signal=self._signal,
        )
