"""The state of a run in a file: its scenario, and how far the conductor has come. Each worker has a file beside it.

It is written once a second. What the Macs did is in the files of the workers (`agent.load.shard.state`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.errors import OperatorError
from agent.faults.decisions import RuleRecord
from agent.measure.summaries import Resumption
from agent.measure.timeline import TimeLine
from agent.measure.trace import rfc3339_of
from agent.scenario.reading import placed
from agent.scenario.types import Scenario
from agent.scenario.writing.redacted import differences, secrets_in
from agent.sqlite_file import FileFormat, SQLiteFile, Statement

MOST_NAMED = 5  # keys of scenarios that differ
MEASURED_SECONDS = 5  # between two writings of what the conductor's process measured of itself

Value = TypeVar("Value")

_FORMAT = FileFormat(
    what="the state of a run",
    in_use="Expected the state of a run that no other process uses, found {path} in use. End the lom-agent that uses "
    "it, or name another file.",
    application=0x6C6F6D72,  # "lomr"
    version=1,
    tables="""
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE phases (phase INTEGER PRIMARY KEY, started_s REAL NOT NULL, finished_s REAL);
CREATE TABLE seconds (second INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE resumptions (number INTEGER PRIMARY KEY, record BLOB NOT NULL)
""",
)


class RunState:
    """An open file. Raises OperatorError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SQLiteFile(path, _FORMAT)
        self._settings: dict[str, str] = {}
        self._dirty: set[int] = set()  # seconds of the time line that are not in the file as they are now
        self.resumes = False
        """Whether it goes on with the run of an earlier process."""
        self._resumed = 0.0
        try:
            self._settings = dict(self._file.rows("SELECT name, value FROM settings"))
            rows = self._file.rows("SELECT phase, started_s, finished_s FROM phases")
            self._phases: dict[int, tuple[float, float | None]] = {phase: (begun, over) for phase, begun, over in rows}
        except BaseException:
            self._file.close()
            raise

    # A new run, or one that goes on.

    def begin(self, scenario: Scenario, workers: int, now: float) -> None:
        """Begin a run in a new file. Raises OperatorError if the file has a run, or the scenario has secrets."""
        scenario = placed(scenario, Path.cwd())
        if "scenario" in self._settings:
            self._refuse(scenario)
        secrets = secrets_in(scenario)
        if secrets:
            raise OperatorError(
                f"Expected a scenario without secrets for --state, because the file keeps it; found one in "
                f"{_listed(secrets)}. Give it as {{env:NAME}} or in a file that the scenario names."
            )
        kept = msgspec.json.encode(scenario).decode()
        self._write({"scenario": kept, "workers": str(workers), "run": uuid.uuid4().hex, "started": repr(now)})

    def resume(self, now: float) -> None:
        """Go on with the run of the file. Raises OperatorError if it has none, or one that has finished."""
        if "scenario" not in self._settings:
            raise OperatorError(
                f"Expected the state of a run in {self.path}, found none. Start one with: lom-agent run SCENARIO.toml "
                "--state FILE."
            )
        if self.finished:
            raise OperatorError(
                f"Expected a run that has not finished in {self.path}, found one that finished at "
                f"{self._date('wall')}. There is nothing to go on with: start a new run with another state file."
            )
        self.resumes, self._resumed = True, now

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def scenario(self) -> Scenario:
        """The scenario. Raises OperatorError."""
        return self._read("scenario", lambda text: msgspec.json.decode(text, type=Scenario))

    @property
    def workers(self) -> int:
        """The number of workers."""
        return self._read("workers", int)

    @property
    def run(self) -> str:
        """The name of the run, which is in each of its files."""
        return self._settings["run"]

    @property
    def started(self) -> float:
        """The date of its start."""
        return self._read("started", float)

    @property
    def elapsed(self) -> float:
        """Seconds that earlier processes ran the phases."""
        return self._read("elapsed", float, "0")

    @property
    def worked(self) -> float:
        """Seconds that earlier processes ran."""
        return self._read("worked", float, "0")

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return "finished" in self._settings

    @property
    def resumptions(self) -> list[Resumption]:
        """How often the run was resumed, in order."""
        rows = self._file.rows("SELECT record FROM resumptions ORDER BY number")
        decode = msgspec.msgpack.Decoder(Resumption).decode
        return self._file.reading(lambda: [decode(record) for (record,) in rows])

    def worker_file(self, number: int) -> str:
        """The file of a worker."""
        return f"{self.path}-w{number}"

    def knows_worker(self, number: int) -> bool:
        """Whether the worker was ready in an earlier process, so that its file has to be there."""
        return f"worker {number}" in self._settings

    def worker_ready(self, number: int) -> None:
        """The worker has its file."""
        self._write({f"worker {number}": "ready"})

    # Values that go on.

    def number(self, name: str) -> int:
        """A kept number; 0 if there is none."""
        return self._read(name, int, "0")

    def gateway_rules(self) -> list[RuleRecord]:
        """The rules with what they did to the gateway; none if it had none. Raises OperatorError."""
        return self._read("gateway rules", lambda text: msgspec.json.decode(text, type=list[RuleRecord]), "[]")

    def facts(self, name: str) -> dict[str, Any] | None:
        """Kept plain data."""
        return self._read(name, lambda text: dict(json.loads(text))) if name in self._settings else None

    def restore_timeline(self, timeline: TimeLine) -> None:
        """Add the seconds of earlier processes. Raises OperatorError."""
        for second, record in self._file.rows("SELECT second, record FROM seconds ORDER BY second"):
            self._file.reading(partial(timeline.restore, second, record))

    def phase_started(self, phase: int, elapsed: float) -> float:
        """A phase starts, or goes on; when it started."""
        started, _ = self._phases.setdefault(phase, (elapsed, None))
        self._file.write([self._phase(phase)], durable=False)
        return started

    def phase_finished(self, phase: int, finished_s: float) -> float:
        """A phase has finished; when it first had."""
        started, finished = self._phases.get(phase, (finished_s, None))
        if finished is None:
            finished = finished_s
            self._phases[phase] = started, finished
            self._file.write([self._phase(phase)], durable=False)
        return finished

    # Every second.

    def begun(self, lost: int, measured: float) -> None:
        """The run goes on; so far ``lost`` operations were lost, and now the measurements from ``measured`` on."""
        stopped = self._date("wall") if "wall" in self._settings else rfc3339_of(self.started)
        unmeasured = max(0.0, self.elapsed - measured)
        lost -= sum(each.lost for each in self.resumptions)
        told = Resumption(self.elapsed, stopped, rfc3339_of(self._resumed), max(0, lost), unmeasured)
        record = msgspec.msgpack.encode(told)
        self._file.write([("INSERT INTO resumptions (record) VALUES (?)", (record,))], durable=False)

    def dirty(self, second: int) -> None:
        """A second of the time line changed."""
        self._dirty.add(second)

    def save(self, timeline: TimeLine, complete: int, wall: float, worked: float, more: dict[str, Any]) -> None:
        """Keep the time line up to second ``complete``, which is the last that all workers reported. Raises NotWritten.

        ``wall`` is the date, ``worked`` the seconds that this process and the earlier ones ran.
        """
        values = {"elapsed": repr(float(complete + 1)), "wall": repr(wall), "worked": repr(worked)}
        values |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in more.items()}
        done = [second for second in self._dirty if second <= complete]
        self._dirty.difference_update(done)
        self._write(values, list(self._seconds(timeline, done)))

    def finish(self, wall: float) -> None:
        """The run has finished."""
        self._write({"finished": "yes", "wall": repr(wall)})

    # The file.

    def _refuse(self, scenario: Scenario) -> None:
        before, after = (msgspec.json.decode(msgspec.json.encode(each)) for each in (self.scenario, scenario))
        different = differences(before, after)
        if different:
            raise OperatorError(
                f"Expected a state file without a run, or of this scenario, found that of another scenario in "
                f"{self.path}, which differs in {_listed(different)}. Name another state file."
            )
        if self.finished:
            raise OperatorError(
                f"Expected a state file without a run, found that of a run that has finished in {self.path}. Name "
                "another state file."
            )
        raise OperatorError(
            f"Expected a state file without a run, found that of a run that has not finished in {self.path}. Go on "
            f"with it (lom-agent run --resume {self.path}), or name another state file."
        )

    def _seconds(self, timeline: TimeLine, seconds: list[int]) -> Iterator[Statement]:
        for second in seconds:
            packed = timeline.packed(second)
            if packed is not None:
                yield "INSERT OR REPLACE INTO seconds VALUES (?, ?)", (second, packed)

    def _phase(self, phase: int) -> Statement:
        return "INSERT OR REPLACE INTO phases VALUES (?, ?, ?)", (phase, *self._phases[phase])

    def _write(self, values: dict[str, str], more: list[Statement] | None = None) -> None:
        changed = {name: value for name, value in values.items() if self._settings.get(name) != value}
        statement = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
        durable = more is None
        self._file.write([*((statement, pair) for pair in changed.items()), *(more or ())], durable=durable)
        self._settings |= changed

    def _read(self, name: str, read: Callable[[str], Value], default: str = "") -> Value:
        return self._file.reading(lambda: read(self._settings.get(name, default)))

    def _date(self, name: str) -> str:
        return rfc3339_of(self._read(name, float))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
