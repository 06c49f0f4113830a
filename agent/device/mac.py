"""One simulated Mac: who it is, what is installed on it, whether it runs, and what it answers.

The Mac does no I/O. ``net`` brings it commands and LOM requests and carries out what it asks for; time comes in as
``now`` (seconds on the caller's clock).
"""

from __future__ import annotations

from collections.abc import Callable

from agent.fleet.population import Mac
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.network import LOMConfiguration
from agent.lom.power import Power, PowerEvent, PowerMachine, RequestRefused
from agent.lom.requests import Dialect, PowerRequest
from agent.mdm.access_rights import AccessRights
from agent.mdm.checkin import Announcement
from agent.mdm.session import Session
from agent.profiles.enrolment import Enrolment, enrolment_of
from agent.profiles.profile import parse_profile
from agent.profiles.store import ProfileStore


class Device:
    """One Mac. ``relaying`` is true while it carries out a LOMDeviceRequest as Controller."""

    __slots__ = ("_power_after_delivery", "dialect", "enrolment", "mac", "power", "profiles", "relaying", "session")

    def __init__(
        self,
        mac: Mac,
        *,
        boot_seconds: Callable[[], float],
        jitter: Callable[[], float],
        dialect: Dialect = Dialect.SCHEMA,
    ) -> None:
        self.mac = mac
        self.dialect = dialect
        self.power = PowerMachine(boot_seconds)
        self.profiles = ProfileStore()
        self.enrolment: Enrolment | None = None
        self.session = Session(mac.udid, jitter)
        self.relaying = False
        self._power_after_delivery: PowerRequest | None = None

    @property
    def running(self) -> bool:
        """Whether the Mac is up, so that it can talk to its server."""
        return self.power.state is Power.ON

    @property
    def lom(self) -> LOMConfiguration | None:
        """The LOM configuration in force, or None."""
        return self.profiles.lom

    @property
    def lom_addresses(self) -> tuple[str, ...]:
        """Its link-local addresses, primary first."""
        return self.mac.primary_ipv6 + self.mac.secondary_ipv6

    @property
    def announcement(self) -> Announcement:
        """What it says of itself when it enrols."""
        mac = self.mac
        return Announcement(
            udid=mac.udid,
            device_name=mac.device_name,
            model=mac.model,
            model_name=mac.model_name,
            os_version=mac.os_version,
            build_version=mac.build_version,
            serial_number=mac.serial_number,
        )

    def accept_enrolment(self, blob: bytes) -> Enrolment:
        """Take an enrolment profile. Raises PlistError or ProfileError, and then nothing has changed."""
        profile = parse_profile(blob)
        enrolment = enrolment_of(profile)
        self.profiles.install_enrolment(profile)
        self.enrolment = enrolment
        return enrolment

    def forget_enrolment(self) -> None:
        """The Mac is enrolled no more: its management and what that installed are gone."""
        self.enrolment = None
        self.profiles = ProfileStore()

    def allows(self, right: AccessRights) -> bool:
        """Whether the enrolment gives the server this right."""
        return self.enrolment is not None and right in self.enrolment.access_rights

    def receive_lom_request(self, request: LinkRequest, now: float) -> tuple[LinkAnswer, list[PowerEvent]]:
        """As LOM Device: do what a Controller asks; what to answer it, and what happened to the power.

        A Mac that is its own Controller answers its server first and goes down after that: see ``delivered``.
        """
        if request.version != self.mac.lom_protocol_version:
            spoken = self.mac.lom_protocol_version
            return LinkAnswer(
                request.uuid,
                f"LOMProtocolVersion {request.version} was asked for; this Device speaks {spoken}",
            ), []
        if self.relaying and request.request is not PowerRequest.ON:
            self._power_after_delivery = request.request
            return LinkAnswer(request.uuid), []
        try:
            events = self.power.receive(request.request, now)
        except RequestRefused as error:
            return LinkAnswer(request.uuid, str(error)), []
        return LinkAnswer(request.uuid), events

    def delivered(self, now: float) -> list[PowerEvent]:
        """The server has the result it was owed: carry out the power request that waited for that, if any."""
        request, self._power_after_delivery = self._power_after_delivery, None
        if request is None:
            return []
        return self.power.receive(request, now)

    def lose_power(self) -> None:
        """Whatever ran is gone."""
        self.session.power_lost()
        self.relaying = False
