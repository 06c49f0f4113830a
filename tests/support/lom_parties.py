"""The two ends of a LOM link, for tests: Macs with set answers, and valid and invalid certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkLimits, LinkRequest
from agent.lom.network import AddressBook
from agent.lom.recent_answers import RecentAnswers
from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.timing import Reactor
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE, Authority

DEVICE_CA = Authority.create("Test LOM Device CA")
CONTROLLER_CA = Authority.create("Test LOM Controller CA")
STRANGE_CA = Authority.create("Somebody else's CA")

NAME = "device.lom.test"
CONTROLLER_NAME = "controller.lom.test"
ADDRESS = "fe80::94f6:d6ff:fef3:c05b"
ADDRESS_2 = "fe80::94f6:d6ff:fef3:c1a4"
NOWHERE = "fe80::1"
QUICK = LinkLimits(linger_seconds=0.05, attempt_delay_seconds=None)  # one address at a time, also on a busy machine
NOW = datetime.now(UTC)
YESTERDAY, TOMORROW = NOW - timedelta(days=1), NOW + timedelta(days=1)

DEVICE_IDENTITY = DEVICE_CA.issue(NAME, LOM_USAGE, names=[NAME])
CONTROLLER_IDENTITY = CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE, names=[CONTROLLER_NAME])


@dataclass
class Party:
    """A Mac on a LOM network; ``asked`` is every request that reached it, with the Controller's name."""

    index: int
    lom: LOMConfiguration | None
    lom_addresses: Sequence[str] = ()
    segment: int = 0
    answer: Callable[[LinkRequest], LinkAnswer] = lambda request: LinkAnswer(request.uuid)
    asked: list[tuple[LinkRequest, str]] = field(default_factory=list)
    recent: RecentAnswers = field(default_factory=RecentAnswers)

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Note it and answer it; each time anew, unlike a Mac."""
        self.asked.append((request, controller))
        answer = self.answer(request)
        self.recent.keep(controller, request, answer, 0.0)
        return answer

    def unacknowledged_lom_answers(self, controller: str) -> list[LinkAnswer]:
        """As a Mac."""
        return self.recent.unacknowledged(controller, 0.0)

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """As a Mac."""
        self.recent.arrived(controller, uuid, acknowledged=acknowledged)


def device(
    identity: Identity | None = DEVICE_IDENTITY, *, index: int = 1, addresses: Sequence[str] = (ADDRESS,)
) -> Party:
    """A Mac that is a LOM Device and trusts the Controllers' CA."""
    lom = LOMConfiguration(device_identity=identity, controller_anchors=(CONTROLLER_CA.certificate,))
    return Party(index, lom, addresses)


def controller(identity: Identity | None = CONTROLLER_IDENTITY, *, segment: int = 0) -> Party:
    """A Mac that is a LOM Controller and trusts the Devices' CA."""
    lom = LOMConfiguration(controller_identity=identity, device_anchors=(DEVICE_CA.certificate,))
    return Party(0, lom, (), segment)


def item(
    *addresses: str, name: str = NAME, request: PowerRequest = PowerRequest.RESET, uuid: str = "0001"
) -> RelayItem:
    """An item of a RequestList; without addresses, for ADDRESS."""
    return RelayItem(uuid, name, request, addresses or (ADDRESS,), 1)


class Sockets:
    """A LoopbackNetwork with ``parties`` on it, and every record that it leaves, for ``with``.

    Its limits are ``QUICK`` by default.
    """

    def __init__(
        self, reactor: Reactor, *parties: Party, wall_clock: Callable[[], float] = time.time, **options: object
    ) -> None:
        self.records: list[Exchange] = []
        options.setdefault("limits", QUICK)
        self.network = LoopbackNetwork(
            reactor,
            AddressBook(),
            TLSContexts(),
            Operations(reactor, self.records.append, wall_clock=wall_clock),
            **options,
        )
        for party in parties:
            self.network.add(party, NAME)

    def __enter__(self) -> Sockets:
        self.network.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.network.close()

    async def relay(self, controller: Party, *items: RelayItem) -> list[RelayOutcome]:
        """What came of the items."""
        return await self.network.relay(controller, items)

    @property
    def kinds(self) -> list[str | None]:
        """The kinds of failures, None for a success, in the order of the links' ends."""
        return [record.failure.kind if record.failure else None for record in self.records]
