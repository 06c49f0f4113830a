"""What each request of `agent.service.api.run_routes` does with the conductor of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import to_builtins

from agent.load.conductor.changes import CannotChange, NoSuchPhase
from agent.load.conductor.conductor import Conductor
from agent.measure.live import LiveView
from agent.report.results import counted
from agent.service.errors import Conflict, NotFound
from agent.service.run_types import ChangeRate, RunPhase, RunState
from agent.service.types import Results


class RunAPI:
    """One method a route. ``stop`` ends the run."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def live(self) -> LiveView:
        """The run at this moment, for Prometheus."""
        return self._conductor.view()

    def run(self) -> RunState:
        conductor = self._conductor
        began = conductor.has_begun
        return RunState(
            name=conductor.scenario.name,
            began=began,
            elapsed_s=conductor.elapsed,
            paused=began and conductor.changes.time.is_paused,
            phases=[
                RunPhase(
                    name=phase.name,
                    kind=phase.kind,
                    state="planned" if phase.started_s is None else "ended" if phase.ended.called else "running",
                    planned=state.planned,
                    started=state.started,
                    done=state.done,
                    failed=state.failed,
                    late=state.late,
                    dropped=state.dropped,
                    rate=conductor.changes.rate(number) if began else None,
                    factor=conductor.changes.factor(number) if began else 1.0,
                )
                for number, phase in enumerate(conductor.phases)
                for state in (phase.state,)
            ],
            changes=conductor.changes_made,
        )

    async def pause(self) -> RunState:
        with _refusals():
            await self._conductor.changes.pause()
        return self.run()

    async def resume(self) -> RunState:
        with _refusals():
            await self._conductor.changes.resume()
        return self.run()

    async def rate(self, body: ChangeRate) -> RunState:
        with _refusals():
            await self._conductor.changes.change_rate(body.phase, rate=body.rate, factor=body.factor)
        return self.run()

    def stop(self) -> None:
        self._conductor.interrupt()

    def results(self) -> Results:
        numbers = counted(self._conductor.metrics())
        return Results(
            seconds=self._conductor.elapsed,
            operations=to_builtins(numbers["operations"]),
            errors=to_builtins(numbers["errors"]),
            cut_short=to_builtins(numbers["cut_short"]),
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """What the run refuses, as the API says it."""
    try:
        yield
    except CannotChange as error:
        raise Conflict(str(error)) from error
    except NoSuchPhase as error:
        raise NotFound(str(error)) from error
