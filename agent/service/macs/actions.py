"""What a person, or a test, does to one Mac of the service."""

from __future__ import annotations

from agent.errors import CutShort, OperatorError, PeerError
from agent.lom.power import RequestRefused
from agent.lom.requests import PowerRequest
from agent.net.http.http1 import split_url
from agent.net.mac.faults.injection import MacOffline
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import lom_profile
from agent.service.errors import Conflict
from agent.service.macs.defaults import EnrollmentDefaults
from agent.service.macs.enrolling import Enrollments, StartEnrollment
from agent.service.macs.groups import MacHandle
from agent.service.macs.judge import ServerJudge
from agent.service.macs.records import Records
from agent.service.macs.views import mac_view
from agent.service.types import Enroll

_BUTTON = {"on": PowerRequest.ON, "off": PowerRequest.OFF, "reset": PowerRequest.RESET}


class Actions:
    """The actions. ``defaults`` has what a request to enroll does not name.

    ``authorities`` issue LOM profiles; None: those of a new CA.
    """

    def __init__(
        self,
        records: Records,
        enrollments: Enrollments,
        judge: ServerJudge,
        defaults: EnrollmentDefaults,
        authorities: Authorities | None,
    ) -> None:
        self._records = records
        self._enrollments = enrollments
        self._judge = judge
        self._defaults = defaults
        self._authorities = authorities

    async def enroll(self, handle: MacHandle, how: Enroll) -> None:
        """Enroll a Mac. Raises PeerError, Conflict where it cannot enroll now, OperatorError without a profile."""
        start = self._automated(how) if self._is_automated(how) else self._with_profile(how)
        self._check_on(handle)
        self._check_online(handle)
        if handle.udid not in self._enrollments:
            self._records.injected.discard(handle.udid)
        try:
            await self._enrollments.enroll(handle, start, how.timeout)
        except PeerError as error:
            self._judge.enroll_failed(handle, error)
            if isinstance(error, CutShort | MacOffline):
                raise Conflict(f"Expected the Mac to enroll, found that it could not: {error}.") from error
            if handle.udid in self._records.injected and not error.timed_out:
                raise Conflict(
                    f"Expected the Mac to enroll, found that it failed after the hit of a fault rule: {error}. GET "
                    "/v1/rules has the hits."
                ) from error
            raise

    def unenroll(self, handle: MacHandle) -> None:
        """Unenroll a Mac, as its user can. Raises Conflict."""
        self._check_enrolled(handle)
        handle.client.unenroll()

    def connect(self, handle: MacHandle) -> None:
        """Open a session now. Raises Conflict."""
        self._check_enrolled(handle)
        self._check_online(handle)
        handle.client.wake()

    def power(self, handle: MacHandle, action: str) -> None:
        """Press the power button, pull the plug, or cut or restore the mains. Raises Conflict."""
        client = handle.client
        if action == "pull_the_plug":
            client.pull_the_plug()
        elif action == "cut_mains":
            client.cut_mains()
        elif action == "restore_mains":
            client.restore_mains()
        else:
            try:
                client.press_power(_BUTTON[action])
            except RequestRefused as error:
                raise Conflict(f"Expected a Mac that can do this, found that it cannot: {error}.") from error

    def set_online(self, handle: MacHandle, online: bool) -> None:
        """Take a Mac off every network, or put it back."""
        client = handle.client
        if client.online == online:
            return
        if online:
            client.come_back()
        else:
            client.leave_network()
        state = "online" if online else "offline"
        self._records.events.add("network", f"{handle.mac.device_name} is {state}.", udid=handle.udid, status=state)

    def lom_profile(self, handle: MacHandle) -> bytes:
        """A LOM profile for this Mac, by the CAs of this service."""
        if self._authorities is None:
            self._authorities = Authorities()
        roles = {role: role in handle.mac.roles for role in ("device", "controller")}
        return lom_profile(self._authorities, handle.mac.dns_name, **roles)

    def _is_automated(self, how: Enroll) -> bool:
        return self._defaults.automated if how.automated is None else how.automated

    def _automated(self, how: Enroll) -> StartEnrollment:
        """As in Setup Assistant. Raises OperatorError."""
        url = how.url or self._defaults.automated_url()
        if how.profile is not None or not isinstance(url, str) or not url:
            raise OperatorError(
                "Expected the URL of an automated enrollment, found none. Give url, or start the service with --enroll "
                "URL or --lab."
            )
        split_url(url)
        authority = self._defaults.device_authority()
        if authority is None:
            raise OperatorError(
                "Expected a CA of the identities that sign MachineInfo, found none. Start the service with --device-ca "
                "FILE or --lab."
            )
        return lambda client: client.enroll_automatically(url, authority, awaiting=how.await_configuration)

    def _with_profile(self, how: Enroll) -> StartEnrollment:
        """With the profile, or from its URL. Raises OperatorError."""
        source = self._profile_source(how)
        if isinstance(source, str):
            split_url(source)
            return lambda client: client.enroll_at(source)

        async def fetch() -> bytes:
            return source

        return lambda client: client.enroll(fetch)

    def _profile_source(self, how: Enroll) -> str | bytes:
        """The URL of an enrollment profile, or the profile. Raises OperatorError."""
        if how.url is not None and how.profile is not None:
            raise OperatorError("Expected url or profile, found both. Give one of them.")
        source = how.url or how.profile or self._defaults.source()
        if not source:
            raise OperatorError(
                "Expected url or profile to enroll with, found neither, and the service was started without --enroll "
                "and without --lab. Give one of them."
            )
        return source

    def _check_on(self, handle: MacHandle) -> None:
        client = handle.client
        if not client.is_untouched and not client.device.running:
            state = mac_view(handle).power.replace("_", " ")
            raise Conflict(f"Expected a Mac that is on, found {state}. Turn it on, or wait until it is on.")

    def _check_online(self, handle: MacHandle) -> None:
        client = handle.client
        if not client.is_untouched and not client.online:
            raise Conflict("Expected a Mac that is on a network, found one that is offline. Put it back first.")

    def _check_enrolled(self, handle: MacHandle) -> None:
        if not handle.client.enrolled:
            raise Conflict("Expected a Mac that is enrolled, found one that is not. Enroll it first.")
        self._check_on(handle)
