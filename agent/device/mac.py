"""One simulated Mac: its identity, installed profiles, settings, session and power state. No I/O.

``net`` passes commands and LOM requests to it and performs the I/O that it requests. Time is passed in as ``now``
(seconds on the caller's clock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from agent.device.ddm.declared import Declared
from agent.device.installing.software_update import Update
from agent.device.names import local_host_name_of
from agent.device.steps import ChangePower, FollowUp
from agent.device.system import FACTORY, SystemState
from agent.fleet.chance import Chance
from agent.fleet.population import Mac
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LIMITS, LinkAnswer, LinkLimits, LinkRequest
from agent.lom.power import DEFAULT_CHOICES, Power, PowerChoices, PowerEvent, PowerMachine, RequestRefused
from agent.lom.recent_answers import AnswerRecord, RecentAnswers
from agent.lom.requests import Dialect, PowerRequest
from agent.mdm.access_rights import AccessRights
from agent.mdm.checkin import Announcement
from agent.mdm.session import REFUSED_RETRIES, Session, State
from agent.mdm.timing import DEFAULT_TIMING, Timing
from agent.pki.identity import Identity
from agent.profiles.enrollment import Enrollment
from agent.profiles.policy import PerUserConnections
from agent.profiles.store import ProfileStore

if TYPE_CHECKING:
    from agent.device.users.channel import UserDevice

_MAX_WARNING = 400  # characters of one warning
_MAX_WARNINGS = 20  # per profile or command; our limit, against hostile input


def at_once() -> float:
    """A duration of no time."""
    return 0.0


class UnfinishedEnrollment(msgspec.Struct):
    """What the Mac has once its server has accepted the check-ins, of which ``sent`` are answered."""

    enrollment: Enrollment
    profiles: ProfileStore
    sent: int = 0


class Attestation(msgspec.Struct, frozen=True):
    """The attestation of its properties that a Mac has cached (`agent.device.facts.attestation`)."""

    chain: tuple[bytes, ...]
    """Certificates in DER, the leaf first."""
    nonce: bytes
    """The freshness code; empty for an attestation without one."""
    at: float
    """When it was generated, in seconds since the epoch."""


class Settings(msgspec.Struct):
    """What the server can set on a Mac. Empty values mean the factory defaults."""

    device_name: str = ""
    host_name: str = ""
    organization_info: Mapping[str, Any] = msgspec.field(default_factory=dict)
    mdm_options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    awaiting_configuration: bool = False
    automated: bool = False
    """Whether the Mac was enrolled by Automated Device Enrollment."""


class Device:
    """One Mac. ``relaying`` is true while it carries out a LOMDeviceRequest as Controller.

    ``attestation`` is what it last attested to its server.
    ``mac`` has its properties, of which an update changes the release of macOS. ``update`` is the pending one, and
    ``update_seconds`` returns how long the next download or installation takes.
    ``chances`` are its generators of random numbers, always in the same order. ``enrolling`` is its enrollment in
    progress, from the moment in which it has its identity. ``synchronising`` are the tokens of the declarations that it
    updates now, from its command or empty; None otherwise.
    ``declared`` has its declarations and what it reported of its status. ``left_at`` is the time of
    unenrollment, in seconds since the epoch; None while the Mac is enrolled, and before its first enrollment.
    ``user`` is the Mac on its user channel; None where nobody is logged in.
    ``per_user_connections`` is whether it refuses an enrollment profile without that server capability.
    ``supervised_by_profile`` is whether an enrollment with a profile supervises it.
    """

    __slots__ = (
        "_deferred_requests",
        "_follow_ups",
        "_recent_answers",
        "_system",
        "_warnings",
        "attestation",
        "chances",
        "declared",
        "dialect",
        "enrolling",
        "enrollment",
        "left_at",
        "mac",
        "not_now",
        "per_user_connections",
        "power",
        "profiles",
        "relaying",
        "session",
        "settings",
        "supervised_by_profile",
        "synchronising",
        "update",
        "update_seconds",
        "user",
    )

    def __init__(
        self,
        mac: Mac,
        *,
        boot_seconds: Callable[[], float],
        jitter: Callable[[], float],
        shutdown_seconds: Callable[[], float] = lambda: 0.0,
        update_seconds: Callable[[], float] = at_once,
        power_choices: PowerChoices = DEFAULT_CHOICES,
        limits: LinkLimits = LIMITS,
        dialect: Dialect = Dialect.SCHEMA,
        timing: Timing = DEFAULT_TIMING,
        refused_retries: int = REFUSED_RETRIES,
        not_now: Callable[[], bool] | None = None,
        per_user_connections: PerUserConnections = "required",
        supervised_by_profile: bool = True,
        chances: tuple[Chance, ...] = (),
    ) -> None:
        self.chances = chances
        self.attestation: Attestation | None = None
        self.enrolling: UnfinishedEnrollment | None = None
        self.synchronising: bytes | None = None
        self.user: UserDevice | None = None
        self.mac = mac
        self.dialect = dialect
        self.not_now = not_now
        self.per_user_connections = per_user_connections
        self.supervised_by_profile = supervised_by_profile
        self.power = PowerMachine(boot_seconds, shutdown_seconds=shutdown_seconds, choices=power_choices)
        self.profiles = ProfileStore()
        self.settings = Settings()
        self._system: SystemState | None = None  # None: the factory state
        self.enrollment: Enrollment | None = None
        self.left_at: float | None = None
        self.session = Session(mac.udid, jitter, timing, refused_retries)
        self.relaying = False
        self.declared = Declared()
        self.update: Update | None = None
        self.update_seconds = update_seconds
        self._follow_ups: list[FollowUp] = []
        self._warnings: tuple[str, ...] = ()
        self._recent_answers = RecentAnswers(limits)
        # Controller and DeviceRequestUUID of answered LOM requests that take effect after the result is delivered.
        self._deferred_requests: tuple[tuple[str, str], ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether the Mac is on and has no open session, no deadline and no relay in progress."""
        return (
            self.running
            and self.session.state is State.CLOSED
            and self.session.deadline is None
            and self.power.deadline is None
            and not self.relaying
        )

    @property
    def channel(self) -> str:
        """The name of the channel that it stands for: ``device`` or ``user``."""
        return "device"

    @property
    def channels(self) -> tuple[Device, ...]:
        """The Mac on each channel that it has."""
        return (self,) if self.user is None else (self, self.user)

    @property
    def push_token(self) -> bytes:
        """The push token of its channel."""
        return self.mac.push_token

    @property
    def push_magic(self) -> str:
        """The PushMagic of its channel."""
        return self.mac.push_magic

    @property
    def channel_facts(self) -> Mapping[str, str]:
        """What a record says about its channel: nothing for the device channel."""
        return {}

    def check_in_facts(self, _message_type: str) -> Mapping[str, str]:
        """What the record of a check-in says about its channel."""
        return {}

    def check_in_keys(self, _message_type: str) -> Mapping[str, Any]:
        """The keys that its channel adds to a check-in message of this type."""
        return {}

    def addressed(self, report: bytes) -> bytes:
        """A report, with the keys that its channel adds."""
        return report

    @property
    def system(self) -> SystemState:
        """What commands changed beside profiles and settings."""
        return self._system or FACTORY

    @system.setter
    def system(self, state: SystemState) -> None:
        self._system = None if state == FACTORY else state

    @property
    def identities(self) -> Iterator[Identity]:
        """The identities of all installed profiles."""
        for profile in self.profiles:
            yield from profile.identities

    @property
    def supervised(self) -> bool:
        """Whether the Mac is supervised, as each one is that was enrolled by Automated Device Enrollment."""
        return self.settings.automated or self.supervised_by_profile

    @property
    def running(self) -> bool:
        """Whether the Mac is on, so that it can connect to its server."""
        return self.power.state is Power.ON

    @property
    def lom(self) -> LOMConfiguration | None:
        """The active LOM configuration, or None. None also during a power cut: then the LOM endpoint is off, too."""
        return None if self.power.cut else self.profiles.lom

    @property
    def lom_addresses(self) -> tuple[str, ...]:
        """Its link-local addresses, primary first."""
        return self.mac.primary_ipv6 + self.mac.secondary_ipv6

    @property
    def device_name(self) -> str:
        """The computer's name: from Settings, or the factory default."""
        return self.settings.device_name or self.mac.device_name

    @property
    def host_name(self) -> str:
        """The host name: from Settings, or the factory default."""
        return self.settings.host_name or self.mac.host_name

    @property
    def local_host_name(self) -> str:
        """The name for Bonjour: made from a computer name from Settings, or the factory default."""
        return local_host_name_of(self.settings.device_name) or self.mac.host_name

    @property
    def announcement(self) -> Announcement:
        """The device properties in Authenticate."""
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
        """The values of the profile variables on this Mac."""
        return {
            "HardwareUUID": self.mac.udid,
            "SerialNumber": self.mac.serial_number,
            "ComputerName": self.device_name,
            "HostName": self.host_name,
            "LocalHostName": self.local_host_name,
            "MACAddress": self.mac.macs[0],
            "EthernetMACAddress": self.mac.macs[0],
        }

    def forget_enrollment(self) -> None:
        """Remove the enrollment and everything that it installed."""
        self.enrollment = None
        self.profiles = ProfileStore()
        self.system = self.system.unenrolled()
        self.declared = Declared()
        self.synchronising = None
        if self.update is not None and not self.update.installing:
            self.update = None
        self.relaying = False
        self.session.forget()
        self.drop_follow_ups()
        if self.user is not None:
            self.user.forget_enrollment()

    def erase(self) -> None:
        """Reset the Mac to its factory state."""
        self.forget_enrollment()
        self.attestation = None
        self.settings = Settings()
        self.system = self.system.erased()

    def allows(self, right: AccessRights) -> bool:
        """Whether the enrollment grants this access right."""
        return self.enrollment is not None and right in self.enrollment.access_rights

    def receive_lom_request(
        self, request: LinkRequest, controller: str, now: float
    ) -> tuple[LinkAnswer, list[PowerEvent]]:
        """As LOM Device: carry out a request of the Controller with this CommonName.

        Returns the answer and the power events. A request that was answered recently gets the same answer and has no
        other effect, even if the Mac was reset since. A Mac that acts on itself as Controller delivers the result to
        its server first and changes its power afterwards.
        """
        repeated = self._recent_answers.repeated(controller, request, now)
        if repeated is not None:
            return repeated, []
        answer, events = self._carry_out(request, controller, now)
        self._recent_answers.keep(controller, request, answer, now)
        return answer, events

    def unacknowledged_lom_answers(self, controller: str, now: float) -> list[LinkAnswer]:
        """As LOM Device: the recent answers that this Controller has not acknowledged, oldest first."""
        return self._recent_answers.unacknowledged(controller, now)

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """As LOM Device: the Controller has acknowledged an answer, or its link has ended without that."""
        self._recent_answers.arrived(controller, uuid, acknowledged=acknowledged)

    def _carry_out(self, request: LinkRequest, controller: str, now: float) -> tuple[LinkAnswer, list[PowerEvent]]:
        own = self.relaying and self.lom is not None and self.lom.controller_name == controller
        if own and request.request is not PowerRequest.ON:
            self.after_delivery(ChangePower(request.request))
            self._deferred_requests += ((controller, request.uuid),)
            return LinkAnswer(request.uuid), []
        try:
            events = self.power.receive(request.request, now)
        except RequestRefused as error:
            return LinkAnswer(request.uuid, str(error)), []
        return LinkAnswer(request.uuid), events

    def warn(self, text: str) -> None:
        """Record a warning: the server sent something irregular that the Mac accepted."""
        shown = text[:_MAX_WARNING]
        if shown not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
            self._warnings += (shown,)

    def take_warnings(self) -> tuple[str, ...]:
        """The warnings since the last call."""
        taken, self._warnings = self._warnings, ()
        return taken

    def after_delivery(self, what: FollowUp) -> None:
        """Schedule an action for when the server has accepted the result of the current command."""
        self._follow_ups.append(what)

    def take_follow_ups(self) -> list[FollowUp]:
        """The actions that are due because the server accepted the result, in order."""
        self._deferred_requests = ()
        taken, self._follow_ups = self._follow_ups, []
        return taken

    @property
    def scheduled(self) -> tuple[list[FollowUp], tuple[tuple[str, str], ...], RecentAnswers]:
        """What the record of a Device has beside its public parts: see ``schedule``."""
        return self._follow_ups, self._deferred_requests, self._recent_answers

    def schedule(
        self,
        follow_ups: Iterable[FollowUp],
        deferred_requests: tuple[tuple[str, str], ...],
        answers: Iterable[AnswerRecord],
        now: float,
    ) -> None:
        """Continue with these actions, LOM requests that take effect with them, and recent answers."""
        self._follow_ups = list(follow_ups)
        self._deferred_requests = deferred_requests
        self._recent_answers.resume(answers, now)

    def lose_power(self) -> None:
        """End the session and the relay in progress, as a loss of power does."""
        self.session.power_lost()
        self.relaying = False
        if not self.session.owes_result:
            self.drop_follow_ups()

    def drop_follow_ups(self) -> None:
        """Cancel the scheduled actions; a LOM request that scheduled one counts as new when it is repeated."""
        self._follow_ups.clear()
        for controller, uuid in self._deferred_requests:
            self._recent_answers.forget(controller, uuid)
        self._deferred_requests = ()
