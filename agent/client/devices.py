"""One Mac of a service, and the Macs of one segment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, Self, get_args
from uuid import uuid4

from agent.client.connection import Connection, path
from agent.client.errors import ClientError, UnexpectedStatus
from agent.client.rules import On, selector_of
from agent.client.text import exchange_text
from agent.service.types import (
    DEFAULT_TIMEOUT_SECONDS,
    Answer,
    Enroll,
    Event,
    EventKind,
    Exchange,
    Mac,
    MacDetail,
    MacState,
    Mains,
    Network,
    Power,
    PowerState,
    Role,
    Wait,
    WaitState,
)

_NOT_NOW = "NotNow"
_LOM_SETUP = ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList", "LOMProtocolVersion")


class MDMServer(Protocol):
    """What this client needs of the server under test, to queue commands in it."""

    def queue(self, udid: str, request_type: str, /, **keys: Any) -> str:
        """Queue a command with these keys for a Mac; returns its CommandUUID."""


class Device:
    """One Mac. Its properties are asked from the service each time they are read, but for those that never change."""

    def __init__(self, connection: Connection, mac: Mac) -> None:
        self._connection = connection
        self._mac = mac

    def __repr__(self) -> str:
        try:
            mac: Mac = self.detail
        except ClientError:  # it was removed, or the service has ended: it is still the Mac that it was
            return f"<Device {self.number} {self.model} {self.udid}>"
        return f"<Device {mac.number} {mac.model} macOS {mac.os_version} {mac.udid}: {mac.state}, power {mac.power}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.udid == self.udid

    def __hash__(self) -> int:
        return hash(self.udid)

    # What never changes.

    @property
    def udid(self) -> str:
        """Its UDID."""
        return self._mac.udid

    @property
    def number(self) -> int:
        """Its number in the service."""
        return self._mac.number

    @property
    def serial_number(self) -> str:
        """Its serial number."""
        return self._mac.serial_number

    @property
    def model(self) -> str:
        """Its model identifier."""
        return self._mac.model

    @property
    def segment(self) -> int:
        """The number of its segment."""
        return self._mac.segment

    @property
    def roles(self) -> list[Role]:
        """Its LOM roles: ``controller``, ``device`` or both."""
        return self._mac.roles

    # What changes.

    @property
    def detail(self) -> MacDetail:
        """Its current properties, profiles, pending result and last exchanges."""
        return self._connection.get(self._path(), MacDetail)

    @property
    def power(self) -> PowerState:
        """``on``, ``off``, ``booting``, ``shutting_down`` or ``no_mains``."""
        return self.detail.power

    @property
    def enrolled(self) -> bool:
        """Whether it is managed."""
        return self.detail.enrolled

    @property
    def os_version(self) -> str:
        """Its release of macOS."""
        return self.detail.os_version

    # With its server.

    def enroll(
        self,
        url: str | None = None,
        *,
        profile: bytes | None = None,
        automated: bool | None = None,
        await_configuration: bool = True,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Self:
        """Enroll with the profile at ``url``, or with ``profile``. Raises EnrollmentFailed with the exchanges.

        ``automated``: as in Setup Assistant, with its MachineInfo; the Mac then waits for DeviceConfigured with
        ``await_configuration``.
        """
        how = Enroll(
            url=url, profile=profile, automated=automated, await_configuration=await_configuration, timeout=timeout
        )
        self._connection.post(self._path("enroll"), Mac, how)
        return self

    def unenroll(self) -> Self:
        """Remove the enrollment profile, as the user of a Mac can."""
        self._connection.post(self._path("unenroll"), Mac)
        return self

    def connect(self) -> Self:
        """Open a session now, as after a push. Returns at once."""
        self._connection.post(self._path("connect"), Mac)
        return self

    def answers(self, command_uuid: str | None = None) -> list[Answer]:
        """What it answered to commands, or to this command, oldest first."""
        return self._connection.get(self._path("answers"), list[Answer], command_uuid=command_uuid)

    def wait_for(
        self, command_uuid: str, *, status: str | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> Answer:
        """Wait until the server has accepted this Mac's result of a command, and return it. NotNow is no result.

        With ``status``, wait for one with this status. Raises UnexpectedStatus for another result, and WaitTimedOut;
        the first shows the events of the command, the second the last exchanges of the Mac.
        """
        deadline = time.monotonic() + timeout
        after = 0
        while True:
            left = max(0.0, deadline - time.monotonic())
            event = self.wait_event("delivered", command_uuid=command_uuid, after=after, timeout=left)
            after = event.number
            if status in (None, event.status) and (status == _NOT_NOW or event.status != _NOT_NOW):
                return self._answered(command_uuid, event.status)
            if event.status != _NOT_NOW:
                raise UnexpectedStatus(self._unexpected(command_uuid, status, event))

    def wait_event(self, kind: EventKind, *, timeout: float = DEFAULT_TIMEOUT_SECONDS, **wanted: Any) -> Event:
        """Wait for an event of this Mac; ``wanted`` are other fields of Wait, such as ``after``."""
        return self._connection.post(path("wait"), Event, Wait(kind=kind, udid=self.udid, timeout=timeout, **wanted))

    def wait_until(
        self, state: MacState | PowerState | Literal["enrolled", "connected", "lom"], *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Self:  # fmt: skip
        """Wait for a state of power (``on``, ``off`` …), of the Mac (``idle`` …), ``enrolled`` or ``connected``."""
        if state in ("enrolled", "connected", "lom"):
            wanted: dict[str, Any] = {state: True}
        else:
            wanted = {"power" if state in get_args(PowerState) else "state": state}
        self._connection.post(self._path("wait"), Mac, WaitState(timeout=timeout, **wanted))
        return self

    def exchanges(self, *, text: str | None = None, kind: str | None = None, limit: int = 100) -> list[Exchange]:
        """Its last exchanges, oldest first."""
        return self._connection.get(path("exchanges"), list[Exchange], mac=self.udid, text=text, kind=kind, limit=limit)

    def clear_exchanges(self) -> None:
        """Forget them."""
        self._connection.delete(path("exchanges"), mac=self.udid)

    def conversation(self, text: str | None = None) -> str:
        """Its last exchanges, or those with this text, for people."""
        return "\n".join(exchange_text(exchange) for exchange in self.exchanges(text=text))

    # Power and network.

    def pull_the_plug(self) -> Self:
        """Pull its plug and put it back: the Mac is off at once, without a shutdown, and LOM can power it on."""
        return self._power("pull_the_plug")

    def cut_mains(self) -> Self:
        """Cut its mains: the Mac and its LOM Device are off at once, until ``restore_mains``."""
        return self._power("cut_mains")

    def restore_mains(self) -> Self:
        """Restore its mains; it boots if it ran before."""
        return self._power("restore_mains")

    def press_power(self, action: Literal["on", "off", "reset"] = "on") -> Self:
        """``on``, ``off`` (an orderly shutdown) or ``reset``."""
        return self._power(action)

    def go_offline(self) -> Self:
        """Cut it off from every network."""
        self._connection.post(self._path("network"), Mac, Network(online=False))
        return self

    def come_online(self) -> Self:
        """Reconnect it."""
        self._connection.post(self._path("network"), Mac, Network(online=True))
        return self

    def reset(self) -> Self:
        """Put it back into the state in which it was added."""
        self._connection.post(self._path("reset"), Mac)
        return self

    def remove(self) -> None:
        """Remove it from the service, without a CheckOut."""
        self._connection.delete(self._path())

    # Rules.

    def on(self, request_type: str) -> On:
        """Its commands of this RequestType, to add a rule."""
        return self._on("command", request_type)

    def on_check_in(self, message_type: str | None = None) -> On:
        """Its check-ins, or those of this MessageType."""
        return self._on("checkin", message_type)

    def on_connect(self) -> On:
        """Its new connections to the server."""
        return self._on("connect")

    def on_session(self) -> On:
        """Its sessions."""
        return self._on("session")

    def on_lom_request(self) -> On:
        """LOM requests to it."""
        return self._on("lom_link")

    def on_push(self) -> On:
        """Pushes to it."""
        return self._on("push")

    def on_scep(self) -> On:
        """Its SCEP requests."""
        return self._on("scep")

    def on_acme(self) -> On:
        """Its ACME requests."""
        return self._on("acme")

    def on_attestation(self) -> On:
        """Its attestations: for ACME and for DeviceInformation."""
        return self._on("attestation")

    def on_enroll(self) -> On:
        """Its requests for an enrollment profile."""
        return self._on("enroll")

    def _on(self, what: str, kind: str | None = None) -> On:
        return On(self._connection, what, kind, selector_of((self.udid,)))

    # LOM.

    @property
    def lom_profile(self) -> bytes:
        """A configuration profile with a ``com.apple.lom`` payload for it, by a CA of the service."""
        return self._connection.content(self._path("lom-profile"))

    def lom_item(self, action: Literal["PowerON", "PowerOFF", "Reset"]) -> dict[str, Any]:
        """The item of a LOMDeviceRequest's RequestList for it, made from its last answer to LOMSetupRequest."""
        setups = [
            one for one in self.answers() if (one.request_type, one.status) == ("LOMSetupRequest", "Acknowledged")
        ]
        if not setups:
            raise ClientError(
                f"Expected an answer of {self.udid} to LOMSetupRequest, found none. Call set_up_lom for the Mac first."
            )
        return {
            "DeviceRequestType": action,
            "DeviceRequestUUID": str(uuid4()).upper(),
            "DeviceDNSName": self.detail.dns_name,
            **{key: setups[-1].body[key] for key in _LOM_SETUP if key in setups[-1].body},
        }

    def set_up_lom(self, server: MDMServer, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Self:
        """Install its LOM profile and send LOMSetupRequest through the server, and wait for both results."""
        commands = (
            server.queue(self.udid, "InstallProfile", Payload=self.lom_profile),
            server.queue(self.udid, "LOMSetupRequest"),
        )
        for command_uuid in commands:
            self.wait_for(command_uuid, status="Acknowledged", timeout=timeout)
        return self

    def _answered(self, command_uuid: str, status: str) -> Answer:
        return next(answer for answer in reversed(self.answers(command_uuid)) if answer.status == status)

    def _unexpected(self, command_uuid: str, status: str | None, event: Event) -> str:
        answer = self._answered(command_uuid, event.status)
        why = f": {'; '.join(answer.errors)}" if answer.errors else ""
        return (
            f"Expected {status} for {answer.request_type} {command_uuid}, found {event.status}{why}.\n"
            f"{self.conversation(command_uuid)}"
        )

    def _power(self, action: Any) -> Self:
        self._connection.post(self._path("power"), Mac, Power(action=action))
        return self

    def _path(self, *more: str) -> str:
        return path("macs", self.udid, *more)


class Segment:
    """The Macs of one subnet: the LOM Controller and the Devices that it can reach."""

    def __init__(self, connection: Connection, macs: list[Device]) -> None:
        self._connection = connection
        self.macs = macs
        """All of them, by number."""

    def __repr__(self) -> str:
        return f"<Segment {self.number}: {len(self.macs)} Macs>"

    def __iter__(self) -> Iterator[Device]:
        return iter(self.macs)

    def __len__(self) -> int:
        return len(self.macs)

    @property
    def number(self) -> int:
        """Its number in the service."""
        return self.macs[0].segment

    @property
    def controller(self) -> Device:
        """The first LOM Controller, a Mac too. Raises ClientError if there is none."""
        for mac in self.macs:
            if "controller" in mac.roles:
                return mac
        raise ClientError(
            f"Expected a LOM Controller in segment {self.number}, found Devices only. Add one with roles."
        )

    @property
    def devices(self) -> list[Device]:
        """The other Macs."""
        controller = next((mac for mac in self.macs if "controller" in mac.roles), None)
        return [mac for mac in self.macs if mac is not controller]

    def enroll(
        self,
        url: str | None = None,
        *,
        profile: bytes | None = None,
        automated: bool | None = None,
        await_configuration: bool = True,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Self:
        """Enroll every Mac, one after another: see ``Device.enroll``."""
        return self._each(
            lambda mac: mac.enroll(
                url, profile=profile, automated=automated, await_configuration=await_configuration, timeout=timeout
            )
        )

    def set_up_lom(self, server: MDMServer, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Self:
        """Set up LOM on every Mac: see ``Device.set_up_lom``."""
        return self._each(lambda mac: mac.set_up_lom(server, timeout=timeout))

    def pull_the_plug(self) -> Self:
        """Pull the plugs of all its Macs and put them back: see ``Device.pull_the_plug``."""
        return self._each(lambda mac: mac.pull_the_plug())

    def cut_mains(self) -> Self:
        """Cut the mains of the whole segment."""
        self._connection.post(path("segments", self.number, "mains"), list[Mac], Mains(action="cut_mains"))
        return self

    def restore_mains(self) -> Self:
        """Restore the mains of the whole segment."""
        self._connection.post(path("segments", self.number, "mains"), list[Mac], Mains(action="restore_mains"))
        return self

    def _each(self, what: Callable[[Device], object]) -> Self:
        for mac in self.macs:
            what(mac)
        return self
