"""The answer of one Mac to one command, computed without a server, for inspection and for checks by the schema."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from agent.device.commands import carry_out
from agent.device.facts.attestation import attest_device
from agent.device.facts.supported import DEVICE_CHANNEL
from agent.device.mac import Device
from agent.device.steps import AttestProperties, CommandSteps, ObtainIdentity, ReadDate, RelayItems
from agent.device.users.channel import Account, UserDevice
from agent.errors import OperatorError, PeerError
from agent.fleet.population import Mac, Population
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.network import AddressBook, MemoryNetwork
from agent.lom.requests import Dialect
from agent.mdm.access_rights import ALL_RIGHTS
from agent.mdm.commands import CommandMalformed, parse_command
from agent.mdm.results import Result, Status
from agent.mdm.session import Session
from agent.mdm.values import Warn, ignore_warning
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, Authority
from agent.profiles.acme import ACMEPayload
from agent.profiles.enrollment import TOPIC_PREFIX, Enrollment


class NoNetwork(PeerError):
    """The command needs a network, and there is none."""

    kind = "network"


class OfflineMac:
    """An enrolled Mac, set up for both LOM roles, on a network in memory. Its boots take no time.

    A supervised one was enrolled by Automated Device Enrollment, another one with a profile.
    """

    def __init__(
        self, mac: Mac, devices: Authority, controllers: Authority, dialect: Dialect, *, supervised: bool = True
    ) -> None:
        self.device = Device(
            mac,
            boot_seconds=lambda: 0.0,
            jitter=lambda: 0.0,
            dialect=dialect,
            supervised_by_profile=supervised,
        )
        name = mac.dns_name
        self.device.profiles.lom = LOMConfiguration(
            device_identity=devices.issue(name, LOM_USAGE, names=[name]),
            controller_identity=controllers.issue(name, LOM_USAGE, names=[name]),
            device_anchors=(devices.certificate,),
            controller_anchors=(controllers.certificate,),
        )
        self.device.enrollment = Enrollment(
            server_url="https://mdm.invalid/mdm",
            check_in_url="https://mdm.invalid/checkin",
            topic=f"{TOPIC_PREFIX}External.example",
            access_rights=ALL_RIGHTS,
            identity=devices.issue("mdm identity", CLIENT_USAGE),
            anchors=(),
        )
        self.device.settings.automated = supervised

    @property
    def index(self) -> int:
        """The Mac's index in the fleet."""
        return self.device.mac.index

    @property
    def segment(self) -> int:
        """The number of its subnet."""
        return self.device.mac.segment

    @property
    def lom_addresses(self) -> tuple[str, ...]:
        """Its link-local addresses, primary first."""
        return self.device.lom_addresses

    @property
    def lom(self) -> LOMConfiguration | None:
        """Its LOM configuration."""
        return self.device.lom

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Carry out and answer a Controller's request."""
        answer, _events = self.device.receive_lom_request(request, controller, 0.0)
        return answer

    def unacknowledged_lom_answers(self, controller: str) -> list[LinkAnswer]:
        """The answers that the Controller has not acknowledged."""
        return self.device.unacknowledged_lom_answers(controller, 0.0)

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """The Controller has acknowledged an answer, or its link has ended without that."""
        self.device.lom_answer_arrived(uuid, controller, acknowledged=acknowledged)


def answer_command(
    population: Population,
    index: int,
    octets: bytes,
    dialect: Dialect,
    warn: Warn = ignore_warning,
    channel: str = DEVICE_CHANNEL,
    *,
    supervised: bool = True,
) -> bytes:
    """The XML plist that Mac ``index`` would PUT for the command in ``octets``. The Macs of its segment are reachable.

    ``warn`` is called for each irregularity of the command that a Mac accepts. Raises PlistError and CommandDropped if
    a Mac could not answer at all, OperatorError for an index outside the fleet.
    """
    if not 0 <= index < len(population):
        raise OperatorError(f"Expected the index of a Mac from 0 to {len(population) - 1}, found {index}.")
    macs = [population[number] for number in population.segment(population[index].segment)]
    return answer_among(macs, index, octets, dialect, warn, channel, supervised=supervised)


def answer_among(
    macs: list[Mac],
    index: int,
    octets: bytes,
    dialect: Dialect,
    warn: Warn = ignore_warning,
    channel: str = DEVICE_CHANNEL,
    *,
    supervised: bool = True,
) -> bytes:
    """Like ``answer_command``, for a given list of the Macs of one segment."""
    devices, controllers = Authority.create("LOM Devices"), Authority.create("LOM Controllers")
    book = AddressBook()
    macs_by_index = {mac.index: OfflineMac(mac, devices, controllers, dialect, supervised=supervised) for mac in macs}
    for endpoint in macs_by_index.values():
        book.add(endpoint)
    chosen = macs_by_index[index]
    device = chosen.device if channel == DEVICE_CHANNEL else _with_user(chosen.device)
    try:
        command = replace(parse_command(octets), channel=channel)
    except CommandMalformed as error:
        return device.addressed(Result(Status.COMMAND_FORMAT_ERROR).body(device.mac.udid, error.command_uuid))
    outcome = carry_out(device, command)
    result = outcome if isinstance(outcome, Result) else _run(outcome, chosen, MemoryNetwork(book))
    for text in device.take_warnings():
        warn(text)
    return device.addressed(result.body(device.mac.udid, command.uuid))


def _with_user(device: Device) -> UserDevice:
    """The Mac on the user channel of a local user, who has logged in."""
    device.user = UserDevice(device, Account.of(device.mac, network=False), Session(device.mac.udid, lambda: 0.0))
    device.user.managed = True
    return device.user


def _attested(device: Device, nonce: bytes | None) -> tuple[bytes, ...]:
    date = datetime.now(UTC)
    return attest_device(device, nonce, date.timestamp(), date)


def _run(steps: CommandSteps, controller: OfflineMac, network: MemoryNetwork) -> Result:
    answer: object = None
    try:
        while True:
            match steps.send(answer):
                case RelayItems(items):
                    answer = [network.relay(controller, item) for item in items]
                case AttestProperties(nonce):
                    answer = _attested(controller.device, nonce)
                case ReadDate():
                    answer = 0.0  # no answer of a Mac that has done nothing before shows it
                case ObtainIdentity(payload, _):
                    url = payload.directory_url if isinstance(payload, ACMEPayload) else payload.url
                    answer = NoNetwork(f"there is no network here to reach {url}")
                case need:
                    answer = NoNetwork(f"there is no server here for {type(need).__name__}")
    except StopIteration as end:
        result: Result = end.value
        return result
