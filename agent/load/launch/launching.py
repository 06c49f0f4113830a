"""How the shards of a run start: as processes of this machine, or elsewhere, from where they join the run.

Either way they come to the conductor over the control link, and everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from importlib import import_module
from typing import Any, Protocol

from agent.load.control.joining import JoinFile
from agent.load.control.link import ControlServer
from agent.load.shard.running import run_shard
from agent.net.transport.addresses import address_text
from agent.scenario.types import Scenario

JOIN_SECONDS = 30.0  # in which workers of other machines join, unless the operator says otherwise


def import_for_shards(scenario: Scenario) -> None:
    """Import what the shards of a scenario would import each by itself, before they are forked."""
    import_module("agent.load.machine.turns")
    if scenario.server.adapter == "lab" and scenario.server.identity == "pkcs12":
        import_module("agent.pki.pfx")


class Launcher(Protocol):
    """Starts shards."""

    elsewhere: bool
    """Whether shards run on other machines: each has cores of its own, and sends its trace over the control link."""
    join_seconds: float | None
    """How long the conductor waits for shards to join; None: as long as for them to be ready."""

    def open(self, server: ControlServer, note: Callable[[str], None], /) -> None:
        """The control link listens. Raises OperatorError if the shards cannot start."""

    def launch(self, number: int, server: ControlServer, /) -> Future[Any] | None:
        """Start a shard; fires when it has ended. None where others start it, so that only its link tells its end."""

    def kill(self, number: int, /) -> None:
        """End a shard that is lost, as far as that is possible from here."""

    def too_few(self, missing: Sequence[int], shards: int, /) -> str:
        """The error for shards that have not joined within ``join_seconds``."""

    def close(self) -> None:
        """Nobody can join any more."""


class LocalLauncher:
    """Each shard is a call of ``executor``; ``kill`` ends the process of one."""

    elsewhere = False
    join_seconds: float | None = None

    def __init__(self, executor: Executor, kill: Callable[[int], None] = lambda _number: None) -> None:
        self._executor = executor
        self.kill = kill

    def open(self, _server: ControlServer, _note: Callable[[str], None]) -> None:
        """Do nothing."""

    def launch(self, number: int, server: ControlServer) -> Future[Any] | None:
        """Submit the shard's function, with an invitation of its own."""
        return self._executor.submit(run_shard, server.invite(number))

    def too_few(self, missing: Sequence[int], _shards: int) -> str:
        """Unused: there is no limit of its own."""
        return f"Expected every worker to join, found none of {', '.join(map(str, missing))}."

    def close(self) -> None:
        """Do nothing."""


class JoinLauncher:
    """Waits for shards that somebody starts with ``lom-agent worker`` and the join file, on any machine."""

    elsewhere = True

    def __init__(self, join_file: str, join_seconds: float = JOIN_SECONDS) -> None:
        self.join_seconds: float | None = join_seconds
        self._path = join_file
        self._file = JoinFile(join_file)
        self._connect = ""

    def open(self, server: ControlServer, note: Callable[[str], None]) -> None:
        """Write the join file."""
        invitation = server.invite()
        self._file.write(invitation)
        self._connect = address_text(invitation.host, invitation.port)
        workers = server.admission.shards
        note(
            f"Waiting for {workers} worker{'s' * (workers > 1)}: "
            f"lom-agent worker --connect {self._connect} --join-file {self._path}"
        )

    def launch(self, _number: int, _server: ControlServer) -> None:
        """Do nothing: others start it."""

    def kill(self, _number: int) -> None:
        """Do nothing: a shard without a link ends by itself."""

    def too_few(self, missing: Sequence[int], shards: int) -> str:
        """How to start the missing ones."""
        numbers = ", ".join(map(str, missing))
        return (
            f"Expected {shards} workers to join within {self.join_seconds:g} s, found {shards - len(missing)}; "
            f"missing: {numbers}. Start lom-agent worker --connect {self._connect} --join-file FILE for each, with a "
            "copy of the join file, ask for fewer workers (--workers), or wait longer (--join-timeout)."
        )

    def close(self) -> None:
        """Remove the join file."""
        self._file.remove()
