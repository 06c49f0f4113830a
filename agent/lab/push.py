"""How the lab wakes its Macs: as any MDM server does, through APNs, with a push certificate of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from cryptography import x509
from twisted.internet.defer import Deferred, fail

from agent.errors import OperatorError
from agent.lab.core import Lab
from agent.net.apns.provider import APNsProvider, PushFailed
from agent.net.http.http1 import Origin, split_url
from agent.net.timing import Reactor
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.profiles.making import TOPIC


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


def provider_at(reactor: Reactor, url: str, anchors: Sequence[x509.Certificate], identity: Identity) -> APNsProvider:
    """A provider for the APNs at ``url``, which is looked up now. Raises OperatorError.

    Its certificate must be for the URL's host, and of one of ``anchors``; without any, of one of the system's.
    """
    origin, target = split_url(url)
    if target != "/":
        raise OperatorError(f"the URL of APNs should be https://HOST:PORT without a path, but is {url!r}")
    contexts = TLSContexts(system_anchors=not anchors)
    return APNsProvider(reactor, contexts, _address(origin), anchors, identity, server_name=origin.host)


def _address(origin: Origin) -> tuple[str, int]:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OperatorError(f"the host {origin.host} of APNs cannot be found: {error}") from error
    return str(found[0][4][0]), origin.port
