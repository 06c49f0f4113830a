"""The two forms of ``lom-agent serve``: all Macs in this process, or in worker processes behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import click

from agent.errors import OperatorError
from agent.load.machine.limits import cores
from agent.net.lom.networks import INTERFACE, parse_network
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.device_ca import device_ca_pem
from agent.pki.pem import certificate_pem
from agent.service.api.control import APIServer, ControlServer
from agent.service.fleet import FleetService
from agent.service.macs.parts import ServiceSettings
from agent.service.starting import enroll_start
from agent.service.types import ServiceInfo

if TYPE_CHECKING:
    from agent.service.embedded import PushedService
    from agent.service.workers.front import Front
    from agent.state.fleet import FleetState

MACS_A_PROCESS = 10_000  # up to so many are in one process unless --workers says otherwise; ours


class Form(Protocol):
    """What the command does with its Macs."""

    @property
    def service(self) -> PushedService: ...
    def server(self, host: str, port: int, token: str) -> APIServer:
        """The control API."""

    async def open(self) -> None:
        """Make the Macs. Raises OperatorError."""

    async def info(self) -> ServiceInfo:
        """The service."""

    def enroll_start(self, stopped: Callable[[], bool]) -> None:
        """Begin to enroll the Macs of the start."""

    async def close(self) -> None:
        """Stop the Macs."""

    def lost(self) -> str:
        """What was lost, for the exit status; empty: nothing."""


class OneProcess:
    """All Macs in this process."""

    def __init__(
        self,
        reactor: Any,
        settings: ServiceSettings,
        authorities: Authorities | None,
        warn: Callable[[str], None],
        state: FleetState | None,
    ) -> None:
        self.service = FleetService(reactor, settings, authorities, warn, state)
        self._reactor = reactor
        self._warn = warn

    def server(self, host: str, port: int, token: str) -> APIServer:
        """The control API."""
        return ControlServer(self._reactor, self.service, host, port, token=token)

    async def open(self) -> None:
        """Make the Macs."""
        self.service.open()

    async def info(self) -> ServiceInfo:
        """The service."""
        return self.service.info()

    def enroll_start(self, stopped: Callable[[], bool]) -> None:
        """Begin to enroll the Macs of the start."""
        enroll_start(self.service, stopped, self._warn)

    async def close(self) -> None:
        """Stop the Macs."""
        self.service.close()

    def lost(self) -> str:
        """Nothing."""
        return ""


class Workers:
    """The Macs in ``workers`` processes; ``options`` are those of the command."""

    def __init__(
        self,
        reactor: Any,
        settings: ServiceSettings,
        authorities: Authorities | None,
        warn: Callable[[str], None],
        state: FleetState | None,
        workers: int,
        options: Mapping[str, Any],
    ) -> None:
        from agent.service.workers.front import Front  # only where it is asked for: a fast start

        self.service: Front = Front(reactor, settings, warn, state)
        self._reactor = reactor
        self._authorities = authorities
        self._workers = workers
        self._options = options
        self._server: Any = None

    def server(self, host: str, port: int, token: str) -> APIServer:
        """The control API."""
        from agent.service.workers.requests import FrontServer

        server = FrontServer(self._reactor, self.service, self._authorities, host, port, token=token)
        self._server = server
        return server

    async def open(self) -> None:
        """Start the workers, and make the Macs."""
        from agent.service.workers.messages import Start

        anchor, device_ca, file = b"", b"", self._options["state"]
        if self._options["lab"] and self._authorities is not None:
            anchor = certificate_pem(self._authorities.anchor)
            device_ca = device_ca_pem(self._authorities.device_authority)
        await self.service.open(
            [
                Start(
                    number, dict(self._options), anchor, None if file is None else f"{file}.worker-{number}", device_ca
                )
                for number in range(1, self._workers + 1)
            ]
        )

    async def info(self) -> ServiceInfo:
        """The service."""
        info: ServiceInfo = await self._server.api.info()
        return info

    def enroll_start(self, stopped: Callable[[], bool]) -> None:
        """Have each worker begin to enroll its Macs of the start; it stops when it is closed."""
        del stopped
        self.service.enroll_start()

    async def close(self) -> None:
        """End the workers."""
        await self.service.close()

    def lost(self) -> str:
        """The workers that have ended by themselves."""
        return " ".join(self.service.lost_text(worker) for worker in self.service.pool.workers if worker.lost)


def workers_of(options: Mapping[str, Any], state: FleetState | None) -> int:
    """The number of processes for the Macs. Raises OperatorError and UsageError.

    A state file that is in use already says it; otherwise it is ``--workers``, or follows from ``--devices``.
    """
    asked: int | None = options["workers"]
    in_file = None if state is None else state.setting("workers")
    if state is not None and (in_file is not None or state.numbers().macs is not None):
        kept = state.reading(lambda: int(in_file or "1"))
        if asked not in (None, kept):
            raise OperatorError(
                f"Expected --workers {kept}, by which the state file {state.path} is divided, found {asked}. Leave "
                "--workers out, or name another state file."
            )
        return kept
    if parse_network(options["lom_network"]).kind == INTERFACE:
        if asked not in (None, 1):
            raise click.UsageError(
                "--workers above 1 does not go with a LOM network on interfaces: their addresses belong to one process"
            )
        return 1
    if asked is not None:
        return asked
    devices: int = options["devices"]
    segments = -(-devices // (options["segment_size"] or devices or 1))
    return max(1, min(-(-devices // MACS_A_PROCESS), segments, cores()))
