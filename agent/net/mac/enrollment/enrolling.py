"""One enrollment of an active Mac: its record, and what it changes in the Mac."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.device.mac import Device
from agent.device.steps import Steps
from agent.errors import CutShort, PeerError
from agent.measure.operations import Moment
from agent.net.mac.active import ActiveMac
from agent.net.mac.background import IdentityWaits
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.injection import MacOffline
from agent.profiles.profile import Profile

ENROLLED_AGAIN = "the Mac enrolled again"

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
        try:
            profile = await mac.background.drive(await begin(), waits)
        except PeerError:
            pushes.enrolling = False
            pushes.back()
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


def _check_signer(device: Device, profile: Profile, environment: Environment) -> None:
    anchors = () if device.enrollment is None else device.enrollment.anchors
    if profile.signers and not environment.trusts(profile.signers, anchors):
        environment.warn(f"the signer of the enrollment profile “{profile.name}” is not trusted")
