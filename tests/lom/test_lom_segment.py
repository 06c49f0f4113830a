"""A segment of Macs in memory, compared with a model: requests, time and payload changes in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

from examples import examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from agent.device.mac import Device
from agent.fleet.population import Population
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LIMITS, LinkAnswer, LinkRequest
from agent.lom.network import AddressBook, MemoryNetwork
from agent.lom.power import Power
from agent.lom.requests import PowerRequest, RelayItem
from agent.pki.issuing.authority import LOM_USAGE, Authority

MACS = list(Population("a segment", 4))  # 0 is Controller and Device; 3 is in another segment
ELSEWHERE = 3
BOOT = 7.0
KEPT = 4  # remembered requests; few, so that a test run exceeds the limit
UUIDS = ("a", "b", "c", "d", "e", "f")
DEVICES, CONTROLLERS, UNTRUSTED_CA = (Authority.create(name) for name in ("Devices", "Controllers", "Strangers"))
IDENTITIES = [DEVICES.issue(mac.dns_name, LOM_USAGE) for mac in MACS]
ASKERS = {name: CONTROLLERS.issue(name, LOM_USAGE) for name in ("first.lom.test", "second.lom.test")}
UNTRUSTED = UNTRUSTED_CA.issue("untrusted.lom.test", LOM_USAGE)


class Mac:
    """A Mac on the network in memory, with the clock of the state machine."""

    def __init__(self, index: int, clock: list[float]) -> None:
        limits = replace(LIMITS, repeats_kept=KEPT)
        self.device = Device(MACS[index], boot_seconds=lambda: BOOT, jitter=lambda: 0.0, limits=limits)
        self._clock = clock
        self.index = index
        self.segment = int(index == ELSEWHERE)
        self.lom_addresses = self.device.lom_addresses

    @property
    def lom(self) -> LOMConfiguration | None:
        return self.device.lom

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        return self.device.receive_lom_request(request, controller, self._clock[0])[0]


@dataclass
class Model:
    """The model of one Mac: its payload, its power state, and its remembered requests, oldest first."""

    set_up: bool = True
    state: Power = Power.ON
    ends: float = 0.0
    asked: dict[tuple[str, str], tuple[float, PowerRequest, bool]] = field(default_factory=dict)

    def at(self, now: float) -> Power:
        if self.state is Power.BOOTING and now >= self.ends:
            self.state = Power.ON
        return self.state

    def ask(self, controller: str, uuid: str, request: PowerRequest, now: float) -> bool:
        """Whether the Device answers with success."""
        self.asked = {key: known for key, known in self.asked.items() if now < known[0] + LIMITS.repeat_seconds}
        if (controller, uuid) in self.asked:
            _, before, done = self.asked[controller, uuid]
            return done and before is request
        done = self._carry_out(request, now)
        self.asked[controller, uuid] = now, request, done
        self.asked = dict(list(self.asked.items())[-KEPT:])
        return done

    def _carry_out(self, request: PowerRequest, now: float) -> bool:
        state = self.at(now)
        if request is PowerRequest.OFF:
            self.state = Power.OFF
        elif request is PowerRequest.RESET and state is Power.OFF:
            return False
        elif request is PowerRequest.RESET or state is Power.OFF:
            self.state, self.ends = Power.BOOTING, now + BOOT
        return True


class Segment(RuleBasedStateMachine):
    """The network, and the model of each Mac."""

    @initialize()
    def begin(self) -> None:
        self.clock = [1000.0]
        self.macs = [Mac(index, self.clock) for index in range(len(MACS))]
        self.models = [Model() for _ in MACS]
        book = AddressBook()
        for index, mac in enumerate(self.macs):
            book.add(mac)
            self.install(index)
        self.network = MemoryNetwork(book)

    def install(self, index: int) -> None:
        self.macs[index].device.profiles.lom = LOMConfiguration(
            device_identity=IDENTITIES[index], controller_anchors=(CONTROLLERS.certificate,)
        )
        self.models[index].set_up = True

    def relay(self, asker: str, index: int, uuid: str, request: PowerRequest, name: str) -> tuple[bool, str]:
        controller = Mac(0, self.clock)
        identity = ASKERS.get(asker, UNTRUSTED)
        controller.device.profiles.lom = LOMConfiguration(
            controller_identity=identity, device_anchors=(DEVICES.certificate,)
        )
        wanted = RelayItem(uuid, name, request, self.macs[index].lom_addresses, 1)
        outcome = self.network.relay(controller, wanted)
        assert outcome.uuid == uuid
        return outcome.success, outcome.error

    @rule(
        asker=st.sampled_from([*ASKERS, "untrusted.lom.test"]),
        index=st.integers(0, len(MACS) - 1),
        uuid=st.sampled_from(UUIDS),
        request=st.sampled_from(PowerRequest),
        named=st.integers(0, 9).map(bool),
    )
    def ask(self, asker: str, index: int, uuid: str, request: PowerRequest, named: bool) -> None:
        name = MACS[index].dns_name if named else "nobody.lom.test"
        success, error = self.relay(asker, index, uuid, request, name)
        if index == ELSEWHERE:
            assert not success
            assert "no Mac answers at this address in segment 0" in error
        elif not self.models[index].set_up:
            assert not success
            assert "not set up as a LOM Device" in error
        elif not named:
            assert not success
            assert f"expected a certificate with CommonName {name}, found {MACS[index].dns_name}" in error
        elif asker not in ASKERS:
            assert not success
            assert "the Device refused our certificate" in error
        else:
            assert success == self.models[index].ask(asker, uuid, request, self.clock[0]), error

    @rule(seconds=st.floats(0.0, 2 * BOOT) | st.just(LIMITS.repeat_seconds))
    def time_passes(self, seconds: float) -> None:
        self.clock[0] += seconds
        for mac in self.macs:
            mac.device.power.advance(self.clock[0])

    @rule(index=st.integers(0, len(MACS) - 1))
    def remove_payload(self, index: int) -> None:
        self.macs[index].device.profiles.lom = None
        self.models[index].set_up = False

    @rule(index=st.integers(0, len(MACS) - 1))
    def install_payload(self, index: int) -> None:
        self.install(index)

    @invariant()
    def every_mac_is_where_its_model_is(self) -> None:
        for mac, model in zip(self.macs, self.models, strict=True):
            assert mac.device.power.state is model.at(self.clock[0])


TestSegment = Segment.TestCase
TestSegment.settings = examples(25, explored=50)
