"""An MDM server that answers correctly, except for the answers that a test queues first."""

from __future__ import annotations

import contextlib
import plistlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from servers import HOST, Request, Talk, TLSServer, answer, serving, until
from stack import Stack

from agent.errors import PeerError
from agent.mdm.timing import Timing
from agent.measure.records import Exchange
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.pki.identity import Identity
from agent.profiles.making import enrollment_profile, pkcs12_payload

QUICK = FleetBehaviour(timing=Timing(retry_first=0.02, retry_longest=0.05))
NEVER = FleetBehaviour(timing=Timing(retry_first=3600.0, retry_longest=3600.0))  # it looks again only when it is woken

Act = Callable[[Talk], None]


def reply(octets: bytes) -> Act:
    """Answer with these bytes."""
    return lambda talk: talk.send(octets)


@dataclass
class ScriptedMDM:
    """The server and its Macs.

    ``strange`` has by MessageType, Status or "profile" what is done instead of answering, for the Mac ``victim``
    alone. ``taken`` is every result that came, by Mac and CommandUUID: how often, and what it says.
    """

    running: Stack
    server: TLSServer | None = None
    victim: str = ""
    strange: dict[str, deque[Act]] = field(default_factory=dict)
    commands: dict[str, deque[bytes]] = field(default_factory=dict)
    taken: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def macs(self) -> list[MDMClient]:
        """The fleet: the Mac that gets the queued answers, and another one."""
        return list(self.running.fleet)

    @property
    def url(self) -> str:
        """Where the enrollment profile is."""
        assert self.server is not None
        return f"{self.server.url}/enroll"

    def instead(self, of: str, *acts: Act) -> None:
        """Do these, one after another, before anything is answered as it should be."""
        self.strange.setdefault(of, deque()).extend(acts)

    def profile(self) -> dict[str, Any]:
        """A new enrollment profile for this server."""
        assert self.server is not None
        authorities = self.running.server.authorities
        profile = enrollment_profile(authorities, self.server.url, pkcs12_payload(authorities))
        decoded: dict[str, Any] = plistlib.loads(profile)
        return decoded

    def enqueue(self, client: MDMClient, command_uuid: str, command: object = None) -> None:
        """Queue a command, by default ProfileList."""
        body = {"CommandUUID": command_uuid, "Command": command or {"RequestType": "ProfileList"}}
        self.commands.setdefault(udid(client), deque()).append(plistlib.dumps(body))

    def serve(self, talk: Talk) -> None:
        """The script of every connection."""
        while True:
            request = talk.read_request()
            message = {} if request.method == "GET" else plistlib.loads(request.body)
            what = str(message.get("MessageType") or message.get("Status") or "profile")
            who = str(message.get("UDID", self.victim))
            self.seen.append((who, what))
            acts = self.strange.get(what) if who == self.victim else None
            if acts:
                acts.popleft()(talk)
            else:
                talk.send(answer(200, self._body(request, message)))

    def _body(self, request: Request, message: dict[str, Any]) -> bytes:
        if request.target == "/enroll":
            return plistlib.dumps(self.profile())
        if request.target == "/checkin":
            return b""
        queue = self.commands.get(message["UDID"], deque())
        if "CommandUUID" in message:
            self.take(message)
        return queue[0] if queue else b""

    def take(self, message: dict[str, Any]) -> None:
        """A result came: its command is done."""
        queue = self.commands.get(message["UDID"], deque())
        self.taken.setdefault((message["UDID"], message["CommandUUID"]), []).append(message)
        if queue and plistlib.loads(queue[0]).get("CommandUUID") == message["CommandUUID"]:
            queue.popleft()

    def records(self, operation: str, client: MDMClient) -> list[Exchange]:
        """What was recorded of one Mac."""
        return [
            exchange
            for exchange in self.running.exchanges
            if exchange.operation == operation and exchange.device == client.index
        ]

    def endings(self, operation: str, client: MDMClient) -> list[str]:
        """How each exchange of one Mac ended: "good", or the kind of its failure."""
        return ["good" if record.failure is None else record.failure.kind for record in self.records(operation, client)]

    async def enroll_all(self) -> None:
        """Enroll every Mac."""
        for client in self.macs:
            await client.enroll_at(self.url)

    async def check_all_work(self) -> None:
        """Every Mac carries a command out, and nothing of an earlier one is left; its session has ended then."""
        for client in self.macs:
            command_uuid = f"check {client.index} {len(self.taken)}"
            ended = self.endings("command", client).count("good")
            self.enqueue(client, command_uuid)
            client.wake()
            await until(lambda: self.endings("command", client).count("good") == ended + 1)  # noqa: B023
            (result,) = self.taken[udid(client), command_uuid]
            assert result["Status"] == "Acknowledged"
        await until(lambda: all(client.open_session is None for client in self.macs))


def udid(client: MDMClient) -> str:
    """A Mac's UDID."""
    return client.device.mac.udid


def failure(record: Exchange) -> tuple[str, str]:
    """Kind and text of a record's failure."""
    assert record.failure is not None
    return record.failure.kind, record.failure.message


@contextlib.contextmanager
def scripted_mdm(behaviour: FleetBehaviour = QUICK, identity: Identity | None = None) -> Iterator[ScriptedMDM]:
    """A scripted server and two Macs, the first of which is its victim; ``identity`` is the server's."""
    mdm = ScriptedMDM(Stack(2, behaviour=behaviour))
    mdm.victim = udid(mdm.macs[0])
    authorities = mdm.running.server.authorities
    identity = identity or authorities.server_identity([HOST])
    with serving(mdm.serve, identity=identity, client_anchors=authorities.mdm_anchors) as mdm.server:
        yield mdm


@asynccontextmanager
async def closing(mdm: ScriptedMDM) -> AsyncIterator[None]:
    """Close the Macs at the end of a scenario."""
    try:
        yield
    finally:
        mdm.running.fleet.close()
        mdm.running.keys.close()


async def fails_to_enroll(mdm: ScriptedMDM) -> tuple[PeerError, Exchange]:
    """The first Mac fails to enroll: with what error, and what was recorded of it."""
    victim = mdm.macs[0]
    try:
        await victim.enroll_at(mdm.url)
    except PeerError as error:
        return error, mdm.records("enroll", victim)[-1]
    raise AssertionError("the Mac has enrolled")
