"""The state of one shard in a file: its Macs, as a service keeps them, and how far the shard has come.

How many operations were taken from the schedule is in the same transaction as what they changed on the Macs; the
measurements are written every few seconds, with all of them up to one moment. What was taken after that moment is lost
for the results: it counts as cut short. So no operation is carried out twice, and none counts that was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import OperatorError
from agent.load.phases.progress import Earlier
from agent.load.phases.run import operation_of
from agent.load.shard.plan import ShardPlan, ShardResult, decode_result, encode
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.snapshots import checked
from agent.net.timing import Clock, sleep
from agent.pki.issuing.authorities import StoredAuthorities
from agent.scenario.types import EnrollPhase, LOMSetupPhase, Scenario
from agent.sqlite_file import FileFormat, InUse, NotWritten, Statement
from agent.state.authorities import AUTHORITIES_TABLE
from agent.state.fleet import TABLES, FleetState

OPEN_TRIES = 100
OPEN_AGAIN_SECONDS = 0.1
LOST = "the run's process ended before the end of this was saved"

_FORMAT = FileFormat(
    what="the state of a run's worker",
    in_use="Expected the state of a worker that no other process uses, found {path} in use. Wait until the run that "
    "uses it has ended.",
    application=0x6C6F6D77,  # "lomw"
    version=1,
    tables=f"""{TABLES}{AUTHORITIES_TABLE}
CREATE TABLE results (number INTEGER PRIMARY KEY, record BLOB NOT NULL, measured REAL NOT NULL, date REAL NOT NULL);
CREATE TABLE loads (second INTEGER PRIMARY KEY, cpu REAL NOT NULL);
CREATE TABLE saved (phase INTEGER PRIMARY KEY, reached INTEGER NOT NULL);
CREATE TABLE phases (phase INTEGER PRIMARY KEY, reached INTEGER NOT NULL, elapsed REAL NOT NULL);
CREATE TABLE begun (phase INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (phase, place)) WITHOUT ROWID;
CREATE TABLE setups (place INTEGER PRIMARY KEY, record BLOB NOT NULL)
""",
)


class ShardState:
    """An open file of run ``run``. Raises OperatorError if it cannot be opened, or is of another run."""

    def __init__(self, path: Path, clock: Clock, run: str, scenario: Scenario) -> None:
        self.fleet = FleetState(path, clock, _FORMAT)
        try:
            self._check_run(path, run)
            self._scenario = scenario
            self._loads = 0  # seconds of CPU shares in the file
            self._moved: dict[int, tuple[int, float]] = {}  # phases that have come further since the last transaction
            self.measured: float | None = None
            """Up to which second of the run measurements are in the file; None without any."""
            self.date = 0.0
            """The date of that second."""
            self.result = self._read_result()
            self.earlier = self._read_phases()
            """What they did of each phase, by its number."""
        except BaseException:
            self.fleet.close()
            raise
        self.fleet.more = self._progress

    # What earlier processes did.

    @property
    def authorities(self) -> StoredAuthorities:
        """The CAs of the LOM profiles."""
        return self.fleet.authorities()

    @property
    def lost(self) -> int:
        """How many operations all processes so far have lost: they started, and their end was not saved."""
        unsaved = sum(each.reached - self._saved.get(number, 0) for number, each in self.earlier.items())
        if self.result is None:
            return unsaved
        found, _ = checked(self.result.metrics)
        open_ = sum(operation["open"] for operation in found["operations"].values())
        return unsaved + open_ + sum(cut["count"] for cut in found["cuts"] if cut["reason"] == LOST)

    def setups(self) -> dict[int, Mapping[str, Any]]:
        """The answers to LOMSetupRequest, by the Mac's index. Raises OperatorError."""
        rows = self.fleet.rows("SELECT place, record FROM setups")
        decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        return self.fleet.reading(lambda: {place: decode(record) for place, record in rows})

    def continue_metrics(self, metrics: Metrics, started: float) -> None:
        """Begin with their metrics, as if the run had started at this date and never stood still.

        Raises OperatorError.
        """
        if self.result is not None and self.measured is not None:
            metrics.continue_from(self.result.metrics, LOST, started - (self.date - self.measured))
        for number, earlier in self.earlier.items():
            phase = self._scenario.phases[number]
            unsaved = earlier.reached - self._saved.get(number, 0)
            metrics.cut_short(operation_of(phase), LOST, unsaved)

    # What changes.

    def kept(self, phase: int) -> KeptPhase:
        """What a phase tells of its progress."""
        return KeptPhase(self, phase, again=isinstance(self._scenario.phases[phase], EnrollPhase | LOMSetupPhase))

    def moved(self, phase: int, reached: int, elapsed: float) -> None:
        """A phase has come this far."""
        self._moved[phase] = reached, elapsed
        self.fleet.soon()

    def set_up(self, index: int, answer: Mapping[str, Any]) -> None:
        """A Mac answered LOMSetupRequest."""
        record = msgspec.msgpack.encode(dict(answer))
        self.fleet.execute("INSERT OR REPLACE INTO setups VALUES (?, ?)", index, record)

    def save(self, result: ShardResult, reached: Mapping[int, int], measured: float, date: float) -> None:
        """Keep what was measured up to second ``measured`` of the run, at this date."""
        for second in range(self._loads, len(result.cpu_by_second)):
            self.fleet.execute("INSERT OR REPLACE INTO loads VALUES (?, ?)", second, result.cpu_by_second[second])
        self._loads = len(result.cpu_by_second)
        record = encode(msgspec.structs.replace(result, cpu_by_second=[]))
        self.fleet.execute("INSERT OR REPLACE INTO results VALUES (0, ?, ?, ?)", record, measured, date)
        for phase, count in reached.items():
            self.fleet.execute("INSERT OR REPLACE INTO saved VALUES (?, ?)", phase, count)

    def close(self) -> None:
        """Write what is not written yet, and close the file. Nothing is written after that."""
        self.fleet.close()

    # The file.

    def _check_run(self, path: Path, run: str) -> None:
        found = self.fleet.setting("run")
        if found is None:
            self.fleet.set("run", run)
        elif found != run:
            raise OperatorError(
                f"Expected the state of a worker of this run in {path}, found that of another run. Put the file of "
                "this run back, or start the run anew with another state file."
            )

    def _read_result(self) -> ShardResult | None:
        rows = self.fleet.rows("SELECT record, measured, date FROM results")
        if not rows:
            return None
        record, self.measured, self.date = rows[0]
        loads = self.fleet.rows("SELECT cpu FROM loads ORDER BY second")
        self._loads = len(loads)
        return msgspec.structs.replace(decode_result(record), cpu_by_second=[cpu for (cpu,) in loads])

    def _read_phases(self) -> dict[int, Earlier]:
        rows = self.fleet.rows("SELECT phase, reached, elapsed FROM phases ORDER BY phase")
        self._saved: dict[int, int] = dict(self.fleet.rows("SELECT phase, reached FROM saved"))
        states = {} if self.result is None else self.result.phases
        earlier = {number: self._phase(number, states, reached, elapsed) for number, reached, elapsed in rows}
        for number in states:  # also those of which nothing was taken
            earlier.setdefault(number, self._phase(number, states, self._saved.get(number, 0), 0.0))
        if any(not 0 <= number < len(self._scenario.phases) for number in earlier):
            raise OperatorError("Expected the phases of the scenario in the state of a worker, found others.")
        return earlier

    def _phase(self, number: int, states: Mapping[int, PhaseState], reached: int, elapsed: float) -> Earlier:
        state = PhaseState(finished=True).plus(states.get(number, PhaseState()))
        state.started += reached - self._saved.get(number, 0)
        state.cut_short = state.started - state.done
        state.planned = max(state.planned, state.started + state.dropped)
        rows = self.fleet.rows("SELECT place FROM begun WHERE phase = ? ORDER BY place", number)
        return Earlier(state, reached, elapsed, tuple(place for (place,) in rows))

    def _progress(self) -> Iterator[Statement]:
        moved, self._moved = self._moved, {}
        for phase, progress in moved.items():
            yield "INSERT OR REPLACE INTO phases VALUES (?, ?, ?)", (phase, *progress)


async def open_state(clock: Clock, plan: ShardPlan, failed: Callable[[NotWritten], object]) -> ShardState:
    """The state of a shard; ``failed`` is told when it cannot be written. Raises OperatorError.

    A process of the run before that was not killed with the others may use it for a moment.
    """
    path = Path(plan.state or "")
    if plan.known and not path.exists():
        raise OperatorError(
            f"Expected the state of worker {plan.shard} in {path}, found no such file. Put it back: the files of a run "
            "belong together."
        )
    for left in range(OPEN_TRIES, 0, -1):
        try:
            state = ShardState(path, clock, plan.run, plan.scenario)
        except InUse:
            if left == 1:
                raise
            await sleep(clock, OPEN_AGAIN_SECONDS)
        else:
            state.fleet.on_failure = failed
            return state
    raise AssertionError(OPEN_TRIES)


class KeptPhase:
    """Writes the progress of one phase (`agent.load.phases.progress.Kept`).

    ``again``: what is in progress, too, so that a later process begins it again.
    """

    def __init__(self, state: ShardState, phase: int, *, again: bool) -> None:
        self._phase = phase
        self._execute = state.fleet.execute if again else None
        self._state = state

    def reached(self, count: int, elapsed: float) -> None:
        """Write it with the next transaction."""
        self._state.moved(self._phase, count, elapsed)

    def begun(self, place: int) -> None:
        """Write that it is in progress."""
        if self._execute is not None:
            self._execute("INSERT OR REPLACE INTO begun VALUES (?, ?)", self._phase, place)

    def ended(self, place: int) -> None:
        """Write that it is not."""
        if self._execute is not None:
            self._execute("DELETE FROM begun WHERE phase = ? AND place = ?", self._phase, place)
