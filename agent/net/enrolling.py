"""A Mac enrols with a profile, for the first time or anew, and the run hears how that went."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.device.installing import enrol
from agent.device.mac import Device
from agent.errors import PeerError
from agent.net.awake import Awake
from agent.net.errands import KeyWait
from agent.net.surroundings import Moment, Surroundings
from agent.profiles.profile import Profile

ENROLLED_ANEW = "the Mac enrolled anew"

FetchProfile = Callable[[], Awaitable[bytes]]


async def enroll(mac: Awake, around: Surroundings, fetch: FetchProfile, since: Moment) -> None:
    """Enrol with the profile that ``fetch`` gives. Raises PeerError; the Mac is then managed as before.

    ``since`` is what its time is counted from; the wait for an RSA key is left out, for that is none of the server's.
    """
    device, pushes = mac.device, mac.pushes
    index, facts = device.mac.index, {"udid": device.mac.udid}
    with around.begin("enroll", index, since, facts) as record:
        pushes.enrolling = True
        key_wait = KeyWait()
        try:
            profile = await mac.errands.drive(enrol(device, await fetch()), key_wait)
        except PeerError:
            pushes.enrolling = False
            pushes.back()
            raise
        finally:
            record.key_wait = key_wait.seconds
            pushes.enrolling = False
            around.warn_each(device.take_warnings())
        mac.sessions.end(ENROLLED_ANEW)
        _judge_signer(device, profile, around)
        mac.lom.look()
    pushes.enrolled()


def _judge_signer(device: Device, profile: Profile, around: Surroundings) -> None:
    anchors = () if device.enrolment is None else device.enrolment.anchors
    if profile.signers and not around.trusts(profile.signers, anchors):
        around.warn(f"the enrolment profile “{profile.name}” is signed by someone who is not trusted")
