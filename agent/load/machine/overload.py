"""Measures whether the load generator is overloaded: event loop lag, share of a core, wait for a CPU.

Lag is weighted by time. If the loop stalls for 7 s, what is due at the start of the stall waits 7 s, and what is due at
its end does not wait. So a stall counts as one sample per LOOK_SECONDS, with a lag that falls from the length of the
stall to zero, as HdrHistogram corrects for coordinated omission. A single sample per stall would hide the worst moment
of a run among thousands of good ones.

Everything is measured for the whole run and for each phase: an overload in one phase does not affect the others.

In a loop with short turns (`agent.load.machine.turns`) timers are on time although events wait, so that the lag is
measured by them: from the due time of a look until everything that was ready then has been handled.

While the run is paused only what is bad counts: a lag over LAG_BOUND_MS, a second of more than BUSY_SHARE of a core.
The idle time of a pause is neither in the percentiles nor in the time to which the busy seconds are compared, so a
pause makes no phase look better than it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from agent.load.machine.cpu_waits import CPUWaits, cpu_waits
from agent.measure.latencies import Latencies
from agent.measure.pauses import Pauses
from agent.measure.timeline import BUSY_SHARE, LAG_BOUND_MS
from agent.net.timing import TICK_SECONDS, Clock, DelayedCall, after_pending, until_tick

LOOK_SECONDS = TICK_SECONDS
ROW_SECONDS = 1.0  # the shortest time over which a share of a core is measured


class Span(msgspec.Struct, kw_only=True):
    """What one process measured of itself during one phase."""

    phase: int
    """Its number in the scenario."""
    elapsed_s: float = 0.0
    """Its duration by this process's clock, with pauses."""
    paused_s: float = 0.0
    """The part of it in which the run was paused."""
    cpu_s: float = 0.0
    """CPU time of the event loop's thread."""
    busy_s: float = 0.0
    """The sum of the seconds in which that thread took more than BUSY_SHARE of a core."""
    lagging_s: float = 0.0
    """The time in which the loop's lag was over LAG_BOUND_MS."""
    p50_ms: float = 0.0
    """Half of the time the lag was below this; so for the other percentiles."""
    p99_ms: float = 0.0
    max_ms: float = 0.0
    queued_s: float | None = None
    """As `agent.load.machine.cpu_waits.CPUWaits` has it; so for the next two."""
    stolen_s: float | None = None
    pressed_s: float | None = None

    def plus(self, other: Span) -> Span:
        """The phase in two processes, one after the other; of a percentile the higher one."""
        return Span(
            phase=self.phase,
            elapsed_s=self.elapsed_s + other.elapsed_s,
            paused_s=self.paused_s + other.paused_s,
            cpu_s=self.cpu_s + other.cpu_s,
            busy_s=self.busy_s + other.busy_s,
            lagging_s=self.lagging_s + other.lagging_s,
            p50_ms=max(self.p50_ms, other.p50_ms),
            p99_ms=max(self.p99_ms, other.p99_ms),
            max_ms=max(self.max_ms, other.max_ms),
            queued_s=_sum(self.queued_s, other.queued_s),
            stolen_s=_sum(self.stolen_s, other.stolen_s),
            pressed_s=_sum(self.pressed_s, other.pressed_s),
        )


class LoopMonitor:
    """Measures one reactor, in the reactor's thread.

    ``lag`` is the event loop's over the whole run; ``cpu_by_second`` has the share of a core in each second of the run,
    by this process's clock. ``pauses`` are those of the run on ``clock``.
    """

    def __init__(
        self, clock: Clock, cpu: Callable[[], float] = time.thread_time, waits: Callable[[], CPUWaits] = cpu_waits
    ) -> None:
        self.lag = Latencies()
        self.cpu_by_second: list[float] = []
        self.pauses = Pauses()
        self._paused = False
        self._clock = clock
        self._cpu = cpu
        self._waits = waits
        self._worst = 0.0
        self._due = 0.0
        self._timer: DelayedCall | None = None
        self._open: dict[int, _OpenSpan] = {}
        self._over: list[Span] = []
        self._cpu_before = 0.0
        self._cpu_began = cpu()
        self._asked = self._row = (clock.seconds(), self._cpu_began)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this thread since this monitor was created, and those of earlier processes."""
        return self._cpu_before + self._cpu() - self._cpu_began

    @property
    def spans(self) -> list[Span]:
        """The finished phases, and those in progress until now."""
        phases: dict[int, Span] = {}
        for span in (*self._over, *(span.measured(*self._now(), self._waits()) for span in self._open.values())):
            before = phases.get(span.phase)
            phases[span.phase] = span if before is None else before.plus(span)
        return list(phases.values())

    def continue_from(self, lag: str, cpu_s: float, cpu_by_second: list[float], spans: list[Span]) -> None:
        """Begin with what an earlier process of the run measured; ``lag`` is encoded. Raises OperatorError."""
        self.lag = Latencies.of(lag)
        self._cpu_before = cpu_s
        self.cpu_by_second += cpu_by_second
        self._over += spans

    def begin(self) -> None:
        """Start measuring. Making the Macs comes before it, as it puts no load on the server."""
        self._asked = self._row = self._now()
        self._look_again(self._clock.seconds())

    def enter(self, phase: int) -> None:
        """A phase starts."""
        self._observe()
        self._open[phase] = _OpenSpan(phase, *self._now(), self._waits(), self.pauses)

    def leave(self, phase: int) -> None:
        """A phase has finished; a second call does nothing."""
        if phase in self._open:
            self._observe()
            self._over.append(self._open.pop(phase).measured(*self._now(), self._waits()))

    def second(self) -> tuple[float, float]:
        """The longest lag (ms) and the share of a core since the last call."""
        worst, self._worst = self._worst, 0.0
        (before, cpu_before), self._asked = self._asked, self._now()
        now, cpu = self._asked
        return worst * 1000.0, (cpu - cpu_before) / (now - before) if now > before else 0.0

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is None:
            return
        self._observe()
        for phase in list(self._open):
            self.leave(phase)
        self._end_row(self._now())
        if self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _now(self) -> tuple[float, float]:
        return self._clock.seconds(), self._cpu()

    def _look(self) -> None:
        if hasattr(self._clock, "after_pending"):
            self._timer = after_pending(self._clock, self._looked)
        else:
            self._looked()

    def _looked(self) -> None:
        now = self._clock.seconds()
        self._count(max(0.0, now - self._due))
        if now - self._row[0] >= ROW_SECONDS - LOOK_SECONDS / 2 or self.pauses.covers(now) != self._paused:
            self._end_row((now, self._cpu()))
            self._paused = self.pauses.covers(now)
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        wait = until_tick(now, LOOK_SECONDS)
        self._due = now + wait
        self._timer = self._clock.callLater(wait, self._look)

    def _observe(self) -> None:
        """Count a stall that is not counted yet, so that it belongs to the phase in which it happened."""
        if self._timer is not None and self._timer.active() and self._clock.seconds() > self._due:
            self._timer.cancel()
            self._looked()

    def _count(self, lag: float) -> None:
        self._worst = max(self._worst, lag)
        if lag <= LAG_BOUND_MS / 1000.0 and self.pauses.covers(self._due):
            return
        self.lag.record_stall(lag, LOOK_SECONDS)
        for span in self._open.values():
            span.lag.record_stall(lag, LOOK_SECONDS)

    def _end_row(self, moment: tuple[float, float]) -> None:
        elapsed, cpu = moment[0] - self._row[0], moment[1] - self._row[1]
        if elapsed <= 0.0:
            return
        self._row = moment
        share = min(1.0, cpu / elapsed)
        if share > BUSY_SHARE or not self._paused:
            self.cpu_by_second += [round(share, 4)] * round(elapsed)  # a row that took 7 s counts as 7 seconds
        for span in self._open.values():
            span.row(*moment)


class _OpenSpan:
    """A phase in progress."""

    def __init__(self, phase: int, now: float, cpu: float, waits: CPUWaits, pauses: Pauses) -> None:
        self.lag = Latencies()
        self._pauses = pauses
        self._phase = phase
        self._began, self._cpu_began, self._waits_began = now, cpu, waits
        self._row = now, cpu
        self._busy = 0.0

    def row(self, now: float, cpu: float) -> None:
        """A second has passed."""
        before, cpu_before = self._row
        self._row = now, cpu
        if cpu - cpu_before > BUSY_SHARE * (now - before):
            self._busy += now - before

    def measured(self, now: float, cpu: float, waits: CPUWaits) -> Span:
        """The phase until now."""
        summary, began = self.lag.summary(), self._waits_began
        rest, cpu_of_rest = now - self._row[0], cpu - self._row[1]
        return Span(
            phase=self._phase,
            elapsed_s=now - self._began,
            paused_s=self._pauses.within(self._began, now),
            cpu_s=cpu - self._cpu_began,
            busy_s=self._busy + (rest if cpu_of_rest > BUSY_SHARE * rest else 0.0),
            lagging_s=self.lag.count_over(LAG_BOUND_MS / 1000.0) * LOOK_SECONDS,
            p50_ms=summary.p50 or 0.0,
            p99_ms=summary.p99 or 0.0,
            max_ms=summary.max or 0.0,
            queued_s=_since(began.queued, waits.queued),
            stolen_s=_since(began.stolen, waits.stolen),
            pressed_s=_since(began.pressed, waits.pressed),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _since(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(0.0, now - before)
