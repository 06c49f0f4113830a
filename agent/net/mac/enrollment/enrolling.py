"""One enrollment of an active Mac: its record, and what it changes in the Mac."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.device.mac import Device
from agent.device.steps import CheckIn, Done, ReturnT, Steps, advance
from agent.errors import CutShort, PeerError
from agent.measure.operations import Moment
from agent.net.mac.active import ActiveMac
from agent.net.mac.faults.injection import MacOffline
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.sessions.background import IdentityWaits
from agent.profiles.profile import Profile

ENROLLED_AGAIN = "the Mac enrolled again"
ENROLLS_AGAIN = "the Mac enrolls again"

BeginEnrollment = Callable[[], Awaitable[Steps[Profile | None]]]


async def enroll(
    mac: ActiveMac,
    environment: Environment,
    begin: BeginEnrollment,
    due: Moment | None,
    *,
    offline: bool,
    polling_limit: float,
    cut_short: str | None = None,
) -> None:
    """Carry out the steps that ``begin`` returns, as one operation. Raises PeerError.

    ``due`` is when it was to start, from which its time counts; None is now. ``polling_limit``: the seconds for which a
    CA that answers PENDING is polled. ``cut_short`` is the reason for which its record is cut short although it
    succeeds.
    """
    device, pushes = mac.device, mac.pushes
    index = device.mac.index
    with environment.begin("enroll", index, due, {"udid": device.mac.udid}) as operation:
        if offline:
            raise MacOffline("the Mac is offline")
        pushes.enrolling = True
        waits = IdentityWaits(polling_limit=polling_limit)
        before = _Before(mac)
        try:
            profile = await mac.background.drive(before.suspended_by(await begin()), waits)
        except PeerError:
            pushes.enrolling = False
            pushes.back()
            before.carry_on()
            raise
        finally:
            operation.key_wait = waits.key
            pushes.enrolling = False
            environment.changed(index)
            environment.warn_each(device.take_warnings())
        mac.sessions.end(ENROLLED_AGAIN)
        if profile is not None:
            _check_signer(device, profile, environment)
        mac.lom.update()
        if cut_short is not None:
            operation.end(CutShort(cut_short))


class _Before:
    """The enrollment that a Mac has while it enrolls again.

    The server may refuse its sessions from the first check-in of the new enrollment on. So the Mac ends the open one
    before that, and opens the next with the new enrollment, or with this one where the new one fails.
    """

    def __init__(self, mac: ActiveMac) -> None:
        self._mac = mac
        self._interrupted = False
        self._suspended = False

    def suspended_by(self, steps: Steps[ReturnT]) -> Steps[ReturnT]:
        """The steps of the new enrollment, which end the session before their first check-in."""
        need = advance(steps, None)
        while not isinstance(need, Done):
            if isinstance(need, CheckIn) and not self._suspended and self._mac.device.enrollment is not None:
                self._suspended = True
                self._interrupted = self._mac.suspend(ENROLLS_AGAIN)
            answer = yield need
            need = advance(steps, answer)
        return need.value

    def carry_on(self) -> None:
        """The new enrollment failed: open sessions in place of those that were ended."""
        if self._interrupted:
            self._mac.sessions.wake(None)
        user = self._mac.user
        if user is not None and self._suspended:
            user.pushes.back()
            user.carry_on()


def _check_signer(device: Device, profile: Profile, environment: Environment) -> None:
    anchors = () if device.enrollment is None else device.enrollment.anchors
    if profile.signers and not environment.trusts(profile.signers, anchors):
        environment.warn(f"the signer of the enrollment profile “{profile.name}” is not trusted")
