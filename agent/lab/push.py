"""How the lab wakes its Macs: as any MDM server does, through APNs, with a push certificate of its own."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail

from agent.lab.core import Lab
from agent.lab.profiles import TOPIC
from agent.net.apns_provider import APNsProvider, PushFailed


class LabPush:
    """Pushes to the Macs that a lab knows."""

    def __init__(self, lab: Lab, provider: APNsProvider) -> None:
        self._lab = lab
        self._provider = provider

    def push(self, udid: str) -> Deferred[str]:
        """Wake a Mac: the apns-id once APNs has accepted it, PushFailed where it does not."""
        mac = self._lab.macs.get(udid)
        if mac is None or not mac.enrolled:
            return fail(PushFailed("the lab has no such Mac, or not yet its token to push to"))
        return self._provider.push(mac.token, mac.push_magic, TOPIC)

    def close(self) -> None:
        """Hang up; what was not answered is forgotten."""
        self._provider.close()
