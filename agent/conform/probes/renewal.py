"""The probe of renewals: the server updates its enrollment profile on a Mac, with a new identity."""

from __future__ import annotations

from agent.conform.probes.probe import Probe
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import Stage


async def renewal(stage: Stage) -> None:
    """A Mac gets an update of its enrollment profile, and a command afterwards."""
    mac = await stage.enrolled()
    before = mac_enrollment(mac).identity.fingerprint
    queued = await stage.renew(mac)
    await stage.event(mac, "answered", after=queued.after, request_type="InstallProfile")
    await stage.idle(mac)
    after = mac_enrollment(mac).identity.fingerprint
    stage.recorder.note("renewed", udid=mac.udid, before=before.hex(), after=after.hex())
    await stage.deliver(mac)


PROBES = (Probe("renewal", "Has the server update its enrollment profile, with a new identity.", renewal),)
