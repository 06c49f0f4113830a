"""Plays the probes on a stage, one after another, each bounded; then the trace is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from agent.conform.probes import Probe
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.stage import PATIENCE_SECONDS, Stage
from agent.conform.trace.records import STOPPED
from agent.errors import LomAgentError
from agent.net.timing import OutOfTime, within

_log = Logger()
OnProgress = Callable[[int, int, Probe], object]


class Run:
    """The probes of one run. ``on_progress`` is called before each with its number, their number, and the probe."""

    def __init__(
        self, reactor: Any, stage: Stage, probes: Sequence[Probe], on_progress: OnProgress = lambda *_: None
    ) -> None:
        self._reactor = reactor
        self._stage = stage
        self._probes = probes
        self._on_progress = on_progress
        self._playing: Deferred[None] | None = None
        self.stopped = False

    async def play(self) -> None:
        """Play them. A probe that fails is recorded as stopped, and the next one is played."""
        stage = self._stage
        for number, probe in enumerate(self._probes, start=1):
            stage.begin(probe.name)
            if self.stopped:
                stage.recorder.ended("not run", STOPPED)
                continue
            self._on_progress(number, len(self._probes), probe)
            try:
                await self._played(probe)
            finally:
                stage.end()

    def stop(self) -> None:
        """End the probe that plays, and play no other."""
        self.stopped = True
        if self._playing is not None:
            self._playing.cancel()

    async def _played(self, probe: Probe) -> None:
        recorder = self._stage.recorder
        seconds = probe.seconds * max(1.0, self._stage.patience / PATIENCE_SECONDS)
        self._playing = Deferred.fromCoroutine(_play(probe, self._stage))
        if self.stopped:  # already, by its first step
            self._playing.cancel()
        try:
            await within(self._playing, seconds, self._reactor, self._stage.service.parts.stalls)
        except OutOfTime:
            recorder.ended("stopped", f"The probe {probe.name} did not end within {seconds:g} s.")
        except CannotProvoke as error:
            recorder.ended("not run", str(error))
        except LomAgentError as error:
            recorder.ended("stopped", f"The probe {probe.name} stopped: {error}")
        except CancelledError:
            recorder.ended("stopped", STOPPED)
        except Exception as error:  # noqa: BLE001 - a defect in one probe must not take the others with it
            _log.failure("the probe {probe} failed", probe=probe.name)
            recorder.ended("stopped", f"The probe {probe.name} failed ({type(error).__name__}: {error}).")
        else:
            recorder.ended("done")
        finally:
            self._playing = None


async def _play(probe: Probe, stage: Stage) -> None:
    await probe.play(stage)
