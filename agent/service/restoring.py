"""How a service begins again with the Macs of its state file."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.errors import OperatorError, PeerError
from agent.fleet.population import DEFAULT_SEED
from agent.mdm.refusals import ServerRefused, is_temporary
from agent.mdm.timing import DEFAULT_TIMING
from agent.net.mac.client import MDMClient
from agent.net.timing import Clock, sleep
from agent.service.errors import Conflict
from agent.service.macs.enrolling import Enrollments
from agent.service.macs.groups import Group, MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.macs.views import power_state
from agent.service.macs.watcher import Watcher
from agent.state.fleet import FleetState, StoredGroup
from agent.state.restoring import RestoredMac, restore_group

ENROLLMENT_SECONDS = 600.0  # for one attempt to continue an enrollment; ours
_START = ("devices", "seed", "segment_size", "os", "model")
_log = Logger()


def settings_with(state: FleetState, settings: ServiceSettings) -> ServiceSettings:
    """The settings, with the Macs of the start as they are in the file. Raises OperatorError where others are asked."""
    asked = json.dumps([getattr(settings, name) for name in _START])
    kept = state.setting("start")
    if kept is None:
        state.set("start", asked)
        return settings
    start = state.reading(lambda: dict(zip(_START, json.loads(kept), strict=True)))
    if asked != kept and (settings.devices or settings.seed != DEFAULT_SEED):
        raise OperatorError(
            f"Expected the Macs of the state file {state.path} ({_shown(start)}), found others asked for "
            f"({_shown({name: getattr(settings, name) for name in _START})}). Leave these options out, or name another "
            "state file."
        )
    return replace(settings, **start)


def restore_macs(
    state: FleetState, make: Callable[[StoredGroup], tuple[Group, Watcher]], *, idle: bool
) -> list[tuple[MacHandle, RestoredMac]]:
    """Make the groups of the file, and their Macs as they were. Raises OperatorError.

    Returns the Macs that have something to do. ``idle``: the others become idle, to save memory.
    """
    found = []
    for stored in state.groups():
        group, watcher = make(stored)
        state.add_group(group, stored=True)

        def knows(client: MDMClient, watcher: Watcher = watcher) -> None:
            watcher.knows(client.index, power_state(client.device))

        macs = restore_group(state, group, idle=idle, each=knows)
        found += [(MacHandle(group, mac.index), mac) for mac in macs]
    return found


class Continuing:
    """Has restored Macs act again; those that were enrolling continue until their server accepts or refuses it.

    ``failed`` is told of an enrollment that the server refuses.
    """

    def __init__(
        self, clock: Clock, enrollments: Enrollments, failed: Callable[[MacHandle, PeerError], object]
    ) -> None:
        self._clock = clock
        self._enrollments = enrollments
        self._failed = failed
        self._running: set[Deferred[None]] = set()

    def begin(self, macs: list[tuple[MacHandle, RestoredMac]]) -> None:
        """Start the Macs, in a later turn of the reactor: a server in this process listens by then."""
        self._run(self._begin(macs))

    def close(self) -> None:
        """Stop."""
        for running in list(self._running):
            running.cancel()

    async def _begin(self, macs: list[tuple[MacHandle, RestoredMac]]) -> None:
        await sleep(self._clock, 0.0)
        for handle, mac in macs:
            if handle.removed:
                continue
            handle.client.carry_on(in_session=mac.in_session)
            if handle.client.device.enrolling is not None:
                self._run(self._enroll(handle))
            if handle.client.enrolled:
                handle.client.pushes.back()

    async def _enroll(self, handle: MacHandle) -> None:
        attempts = 0
        while not handle.removed and handle.client.device.enrolling is not None:
            client = handle.client
            try:
                if client.device.running:
                    await self._enrollments.resume(handle, ENROLLMENT_SECONDS)
            except Conflict:  # somebody enrolls it now
                pass
            except ServerRefused as error:
                if not is_temporary(error.status):
                    client.abandon_enrollment()
                    self._failed(handle, error)
                    return
            except PeerError as error:
                _log.info("{udid} has not enrolled yet: {error}", udid=handle.udid, error=error)
            await sleep(self._clock, DEFAULT_TIMING.back_off(attempts, 1.0))
            attempts += 1

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        running = Deferred.fromCoroutine(work)
        self._running.add(running)
        running.addBoth(self._ended, running)

    def _ended(self, result: object, running: Deferred[None]) -> None:
        self._running.discard(running)
        if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            _log.failure("a Mac of the state file could not continue", result)


def _shown(start: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in start.items() if value is not None)
