"""One simulated Mac: who it is, what is installed on it, whether it runs.

The Mac does no I/O. ``net`` brings it commands and LOM requests and carries out what it asks for; time comes in as
``now`` (seconds on the caller's clock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.device.steps import Afterwards, ChangePower
from agent.fleet.population import Mac
from agent.lom.answered import Answered
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LIMITS, LinkAnswer, LinkLimits, LinkRequest
from agent.lom.power import DEFAULT_CHOICES, Power, PowerChoices, PowerEvent, PowerMachine, RequestRefused
from agent.lom.requests import Dialect, PowerRequest
from agent.mdm.access_rights import AccessRights
from agent.mdm.checkin import Announcement
from agent.mdm.session import DEFAULT_TIMING, REFUSED_RETRIES, Session, State, Timing
from agent.pki.identity import Identity
from agent.profiles.enrolment import Enrolment
from agent.profiles.store import ProfileStore

_MAX_WARNING = 400  # characters of one
_MAX_WARNINGS = 20  # of one profile or command; ours, so that a hostile one costs little


@dataclass(slots=True)
class Settings:
    """What a server can set on a Mac and ask for again. Empty means: as it came from the factory."""

    device_name: str = ""
    host_name: str = ""
    organization_info: Mapping[str, Any] = field(default_factory=dict)
    mdm_options: Mapping[str, Any] = field(default_factory=dict)
    awaiting_configuration: bool = False


class Device:
    """One Mac. ``relaying`` is true while it carries out a LOMDeviceRequest as Controller.

    ``declarations`` maps the identifier of each declaration it holds to its ServerToken. ``left_at`` is when it left
    its management, in seconds since the epoch; None while managed, and before it ever was.
    """

    __slots__ = (
        "_afterwards",
        "_answered",
        "_promised",
        "_warnings",
        "declarations",
        "declarations_token",
        "dialect",
        "enrolment",
        "left_at",
        "mac",
        "not_now",
        "power",
        "profiles",
        "relaying",
        "session",
        "settings",
    )

    def __init__(
        self,
        mac: Mac,
        *,
        boot_seconds: Callable[[], float],
        jitter: Callable[[], float],
        shutdown_seconds: Callable[[], float] = lambda: 0.0,
        power_choices: PowerChoices = DEFAULT_CHOICES,
        limits: LinkLimits = LIMITS,
        dialect: Dialect = Dialect.SCHEMA,
        timing: Timing = DEFAULT_TIMING,
        refused_retries: int = REFUSED_RETRIES,
        not_now: Callable[[], bool] | None = None,
    ) -> None:
        self.mac = mac
        self.dialect = dialect
        self.not_now = not_now
        self.power = PowerMachine(boot_seconds, shutdown_seconds=shutdown_seconds, choices=power_choices)
        self.profiles = ProfileStore()
        self.settings = Settings()
        self.enrolment: Enrolment | None = None
        self.left_at: float | None = None
        self.session = Session(mac.udid, jitter, timing, refused_retries)
        self.relaying = False
        self.declarations: dict[str, str] = {}
        self.declarations_token = ""
        self._afterwards: list[Afterwards] = []
        self._warnings: tuple[str, ...] = ()
        self._answered = Answered(limits)
        self._promised: tuple[tuple[str, str], ...] = ()  # Controller and DeviceRequestUUID: done after the delivery

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way: it runs, and there is no session and nothing to be done later."""
        return (
            self.running
            and self.session.state is State.CLOSED
            and self.session.deadline is None
            and self.power.deadline is None
            and not self.relaying
        )

    @property
    def identities(self) -> Iterator[Identity]:
        """Every identity that it has."""
        for profile in self.profiles:
            yield from profile.identities

    @property
    def running(self) -> bool:
        """Whether the Mac is up, so that it can talk to its server."""
        return self.power.state is Power.ON

    @property
    def lom(self) -> LOMConfiguration | None:
        """The LOM configuration in force, or None. Without mains power nothing of the Mac answers."""
        return None if self.power.cut else self.profiles.lom

    @property
    def lom_addresses(self) -> tuple[str, ...]:
        """Its link-local addresses, primary first."""
        return self.mac.primary_ipv6 + self.mac.secondary_ipv6

    @property
    def device_name(self) -> str:
        """The computer's name, as set or as it came."""
        return self.settings.device_name or self.mac.device_name

    @property
    def host_name(self) -> str:
        """The host name, as set or as it came."""
        return self.settings.host_name or self.mac.host_name

    @property
    def announcement(self) -> Announcement:
        """What it says of itself when it enrols."""
        mac = self.mac
        return Announcement(
            udid=mac.udid,
            device_name=self.device_name,
            model=mac.model,
            model_name=mac.model_name,
            os_version=mac.os_version,
            build_version=mac.build_version,
            serial_number=mac.serial_number,
        )

    @property
    def profile_variables(self) -> Mapping[str, str]:
        """What the variables of a profile stand for on this Mac."""
        return {
            "HardwareUUID": self.mac.udid,
            "SerialNumber": self.mac.serial_number,
            "ComputerName": self.device_name,
            "HostName": self.host_name,
            "LocalHostName": self.host_name,
            "MACAddress": self.mac.macs[0],
            "EthernetMACAddress": self.mac.macs[0],
        }

    def forget_enrolment(self) -> None:
        """The Mac is enrolled no more: its management and what that installed are gone."""
        self.enrolment = None
        self.profiles = ProfileStore()
        self.declarations = {}
        self.declarations_token = ""
        self.relaying = False
        self.session.forget()
        self.forget_afterwards()

    def erase(self) -> None:
        """The Mac is as it came from the factory."""
        self.forget_enrolment()
        self.settings = Settings()

    def allows(self, right: AccessRights) -> bool:
        """Whether the enrolment gives the server this right."""
        return self.enrolment is not None and right in self.enrolment.access_rights

    def receive_lom_request(
        self, request: LinkRequest, controller: str, now: float
    ) -> tuple[LinkAnswer, list[PowerEvent]]:
        """As LOM Device: do what the Controller of this name asks; the answer, and what happened to the power.

        A request that was answered lately is answered again and has no other effect, also where the Mac was reset
        since. A Mac that is its own Controller answers its server first and goes down after that.
        """
        spoken = self.mac.lom_protocol_version
        if request.version != spoken:
            error = f"LOMProtocolVersion {request.version} was asked for; this Device speaks {spoken}"
            return LinkAnswer(request.uuid, error), []
        repeated = self._answered.repeated(controller, request, now)
        if repeated is not None:
            return repeated, []
        answer, events = self._carry_out(request, controller, now)
        self._answered.keep(controller, request, answer, now)
        return answer, events

    def _carry_out(self, request: LinkRequest, controller: str, now: float) -> tuple[LinkAnswer, list[PowerEvent]]:
        own = self.relaying and self.lom is not None and self.lom.controller_name == controller
        if own and request.request is not PowerRequest.ON:
            self.after_delivery(ChangePower(request.request))
            self._promised += ((controller, request.uuid),)
            return LinkAnswer(request.uuid), []
        try:
            events = self.power.receive(request.request, now)
        except RequestRefused as error:
            return LinkAnswer(request.uuid, str(error)), []
        return LinkAnswer(request.uuid), events

    def warn(self, text: str) -> None:
        """The server sent something odd that the Mac took: a person should read of it."""
        shown = text[:_MAX_WARNING]
        if shown not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
            self._warnings += (shown,)

    def take_warnings(self) -> tuple[str, ...]:
        """What a person should read since this was asked last."""
        taken, self._warnings = self._warnings, ()
        return taken

    def after_delivery(self, what: Afterwards) -> None:
        """Do this once the server has taken the result in hand."""
        self._afterwards.append(what)

    def take_afterwards(self) -> list[Afterwards]:
        """The server took the result: what is to be done now, in order."""
        self._promised = ()
        taken, self._afterwards = self._afterwards, []
        return taken

    def lose_power(self) -> None:
        """Whatever ran is gone."""
        self.session.power_lost()
        self.relaying = False
        if not self.session.owes_result:
            self.forget_afterwards()

    def forget_afterwards(self) -> None:
        """Nothing comes of what was to be done later; a LOM request that asked for it is new when it comes again."""
        self._afterwards.clear()
        for controller, uuid in self._promised:
            self._answered.forget(controller, uuid)
        self._promised = ()
