"""The lab's pushes: through APNs, with a push certificate, as any MDM server sends them."""

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
    """Pushes to the Macs of a lab."""

    def __init__(self, lab: Lab, provider: APNsProvider) -> None:
        self._lab = lab
        self._provider = provider

    def push(self, udid: str) -> Deferred[str]:
        """Push to a Mac. Fires with the apns-id once APNs has accepted the push, or fails with PushFailed."""
        mac = self._lab.macs.get(udid)
        if mac is not None and not mac.enrolled and "checkin-early-push" in self._lab.defects:
            mac = self._lab.replaced.get(udid)
        if mac is None or not mac.enrolled:
            return fail(PushFailed("the Mac is not enrolled in the lab, or has not sent its push token yet"))
        return self._provider.push(mac.token, mac.push_magic, TOPIC)

    def close(self) -> None:
        """Close the connection to APNs; pending pushes are dropped."""
        self._provider.close()


def provider_at(reactor: Reactor, url: str, anchors: Sequence[x509.Certificate], identity: Identity) -> APNsProvider:
    """A provider for the APNs at ``url``; resolves its host now. Raises OperatorError.

    The certificate of APNs must be valid for the URL's host and issued by one of ``anchors``, or by a system anchor if
    ``anchors`` is empty.
    """
    origin, target = split_url(url)
    if target != "/":
        raise OperatorError(f"Expected https://HOST:PORT without a path as the URL of APNs, found {url!r}.")
    contexts = TLSContexts(system_anchors=not anchors)
    return APNsProvider(reactor, contexts, _address(origin), anchors, identity, server_name=origin.host)


def _address(origin: Origin) -> tuple[str, int]:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OperatorError(f"the host {origin.host} of APNs cannot be found: {error}") from error
    return str(found[0][4][0]), origin.port
