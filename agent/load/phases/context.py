"""What every phase of one shard uses: the Macs, the server's API, metrics, and the answers to LOMSetupRequest."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.load.phases.pace import NotPossible
from agent.load.phases.phase_time import PausedTime
from agent.load.phases.waits import CommandChanged, MacWaits, ResultMissing
from agent.mdm.commands import Command
from agent.mdm.refusals import ResultRefused
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment, Operation
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.fleet.macs import Fleet
from agent.net.mac.sessions.commands import CurrentCommand
from agent.net.timing import OutOfTime, within
from agent.pki.issuing.authorities import Authorities, StoredAuthorities
from agent.push.reasons import OwnCause, RefusedByOwnGateway
from agent.servers.server import PushNotSent, Server

NOT_ENROLLED = "the Mac was not enrolled"
NO_USER = "the Mac has no logged-in user whom the server manages"
NOT_RUNNING = "the Mac was off or booting"
OFFLINE = "a fault rule kept the Mac offline"
NO_SERVER = "the scenario's server has no way to queue a command"


class Unanswered(PeerError):
    """The server's API did not answer within the phase's time."""

    kind = "server_timeout"
    timed_out = True


OwnRefusal = Callable[[int, float], Awaitable[OwnCause | None]]
"""Why a Mac, by its index, may lack a push since a date by a fault of our gateway; None if it does not."""

Enroll = Callable[[MDMClient, Moment, float], Awaitable[None]]
"""Enrolls a Mac that is due at a moment, and polls a SCEP CA that answers PENDING for so many seconds at most."""


class PhaseContext(msgspec.Struct):
    """The Macs of a shard, and what its phases share."""

    environment: Environment
    fleet: Fleet
    metrics: Metrics
    mac_waits: MacWaits
    enroll: Enroll
    """Enrolls one Mac."""
    time: PausedTime
    """Stands still while the run is paused."""
    controlled: bool = False
    """Whether somebody may change the rate of a phase until its end."""
    server: Server | None = None
    """The server's API; None if the scenario has no API to queue a command."""
    own_refusal: OwnRefusal | None = None
    """Whether a push is missing by a fault of our push gateway; None if there is no gateway."""
    longest_boot: float = 0.0
    """Seconds that a shutdown and a boot take at most."""
    retries: int = 0
    """Further attempts of an enrollment that failed."""
    setups: dict[int, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    """The answers to LOMSetupRequest, by the Mac's index."""
    on_setup: Callable[[int, Mapping[str, Any]], object] = lambda _index, _answer: None
    """Called with each answer to LOMSetupRequest."""
    kept_authorities: StoredAuthorities | None = None
    """The CAs of earlier processes of the run; None: they end with the process."""
    _authorities: Authorities | None = None

    @property
    def authorities(self) -> Authorities:
        """The CAs of the LOM profiles, made when first needed.

        Each shard may have its own, because a Controller and its Devices are always in one shard.
        """
        if self._authorities is None:
            self._authorities = Authorities(self.kept_authorities)
        return self._authorities

    def mac(self, index: int) -> MDMClient:
        """The Mac ``index``, with this shard's watcher."""
        client = self.fleet[index]
        client.observer = self.mac_waits
        return client

    async def answer(self, request: Deferred[None], seconds: float) -> None:
        """Wait up to ``seconds`` for the server's API to answer a request. Raises PeerError."""
        try:
            await within(request, seconds, self.environment.reactor, self.mac_waits.stalls)
        except OutOfTime:
            raise Unanswered(f"the server's API did not answer within {seconds:g} s") from None

    async def push_failed(self, client: MDMClient, due: Moment, error: PushNotSent) -> PeerError:
        """Record a push that APNs refused, according to the server, and return the failure.

        The command before it was queued.
        """
        failure = await self.cause(client, due, error)
        self.environment.begin("push", client.index, due, {"udid": client.device.mac.udid}).end(failure)
        return failure

    async def cause(self, client: MDMClient, since: Moment, error: PeerError) -> PeerError:
        """The cause of an operation's failure that a missing push can have: our own gateway, or else ``error``.

        A gateway that was blocked when a time limit expired says so with its answer: the limit was over too early.
        """
        if self.own_refusal is None:
            return error
        stalled = self.mac_waits.stalls.elsewhere
        cause = await self.own_refusal(client.index, since.wall)
        if cause is None and error.timed_out and self.mac_waits.stalls.elsewhere > stalled:
            cause = OwnCause.OVERLOADED
        return error if cause is None else RefusedByOwnGateway(cause)

    async def command(
        self, client: MDMClient, command: Mapping[str, Any], due: Moment, seconds: float, channel: str = "device"
    ) -> CurrentCommand:
        """Have the server queue a command and push; return it when the server has accepted its result.

        Records the operations ``enqueue`` (the request to the server's API) and ``delivery`` (everything), both from
        ``due``. Raises PeerError, also if the command failed on the Mac, and NotPossible if the Mac is not enrolled.
        """
        if self.server is None:
            raise NotPossible(NO_SERVER)
        if client.device.enrollment is None:
            raise NotPossible(NOT_ENROLLED)
        name = client.device.mac.udid if channel == "device" else client.user_name
        if not name:
            raise NotPossible(NO_USER)
        command_uuid = str(uuid.uuid4()).upper()
        facts = {"request_type": str(command.get("RequestType", ""))[:200], "command_uuid": command_uuid}
        if channel != "device":
            facts["channel"] = channel
        with self.environment.begin("delivery", client.index, due, facts) as delivery:
            waiting = Deferred.fromCoroutine(self._delivered(client, command_uuid, command, due, delivery, seconds))
            request = self.server.enqueue(name, command_uuid, command)
            try:
                await self._queue(self.server, client, name, request, due, delivery, seconds)
                return await waiting
            finally:
                waiting.addErrback(lambda _: None)
                waiting.cancel()

    async def _delivered(
        self,
        client: MDMClient,
        command_uuid: str,
        command: Mapping[str, Any],
        due: Moment,
        delivery: Operation,
        seconds: float,
    ) -> CurrentCommand:
        """The command with its result, which ends ``delivery`` even if the API has not answered yet."""
        try:
            work = await self.mac_waits.result(command_uuid, seconds + self.longest_boot)
        except ResultMissing as error:
            self.mac_waits.overdue(client, seconds)
            raise await self.cause(client, due, error) from None
        except ResultRefused as failure:
            delivery.end(failure)
            raise
        wrong = _changed(command, work.command) or work.failure
        delivery.end(wrong)
        if wrong is not None:
            raise wrong
        return work

    async def _queue(
        self,
        server: Server,
        client: MDMClient,
        name: str,
        request: Deferred[None],
        due: Moment,
        delivery: Operation,
        seconds: float,
    ) -> None:
        """Wait for the request to queue a command for ``name``, and for the push after it. Raises PeerError.

        If only the push fails, ``enqueue`` has succeeded, and the failure is recorded for the operation ``push``.
        """
        with self.environment.begin("enqueue", client.index, due, delivery.facts) as enqueue:
            try:
                await self.answer(request, seconds)
            except PushNotSent as error:
                enqueue.end()
                raise await self.push_failed(client, due, error) from None
            except PeerError as error:
                if delivery.open or not isinstance(error, Unanswered):  # else the server had queued it: the Mac got it
                    raise await self.cause(client, due, error) from None
        if self.own_refusal is None:
            client.wake()  # without a gateway the Mac opens a session by itself
        elif not server.pushes_on_enqueue:
            try:
                await self.answer(server.push(name), seconds)
            except PushNotSent as error:
                raise await self.push_failed(client, due, error) from None
            except PeerError as error:
                raise await self.cause(client, due, error) from None


def _changed(queued: Mapping[str, Any], delivered: Command) -> CommandChanged | None:
    """The failure of a server that delivers another command than was queued; None where it is of the same type."""
    expected, found = queued.get("RequestType"), delivered.request_type
    if not found or found == expected:  # without a type it is malformed, which is its failure
        return None
    return CommandChanged(
        f"Expected the server to deliver the command {expected} that was queued, found {found} under its CommandUUID. "
        "Check how the server stores commands."
    )
