"""The lab's pushes: through APNs, with a push certificate, as any MDM server sends them."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

from cryptography import x509
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from agent.errors import OperatorError
from agent.lab.defects import Defects
from agent.lab.mdm.core import Lab
from agent.lab.stored.state import EnrolledMac
from agent.net.apns.provider import BROKEN, APNsProvider, PushFailed
from agent.net.http.http1 import Origin, split_url
from agent.net.timing import Reactor
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.profiles.making import TOPIC
from agent.push.requests import MAX_PAYLOAD_BYTES, new_apns_id

_SPOILED = "CertificateList"  # defects of the form of a push are in those for this command
_STORM = 10  # pushes


class LabPush:
    """Pushes to the Macs of a lab. After 410 nothing is pushed to a token until the next TokenUpdate."""

    def __init__(self, lab: Lab, provider: APNsProvider) -> None:
        self._lab = lab
        self._provider = provider
        self._invalid = {410} | _never_repeated(lab.defects)
        provider.temporary -= self._invalid

    def push(self, udid: str) -> Deferred[str]:
        """Push to a Mac. Fires with the apns-id once APNs has accepted the push, or fails with PushFailed."""
        mac = self._lab.macs.get(udid)
        if mac is not None and not mac.enrolled and "checkin-early-push" in self._lab.defects:
            mac = self._lab.replaced.get(udid)
        if mac is None or not mac.enrolled:
            return fail(PushFailed("the Mac is not enrolled in the lab, or has not sent its push token yet"))
        defects = self._lab.defects
        if mac.unregistered and "push-410-again" not in defects:
            text = "APNs has said that the push token is no longer valid; the lab pushes again after a TokenUpdate"
            return fail(PushFailed(text, 410, "Unregistered"))
        if any(each.request_type == _SPOILED for each in mac.queue.values()):
            pushed = _spoiled(self._provider, mac, defects)
        else:
            pushed = self._provider.push(mac.token, mac.push_magic, TOPIC)
        return pushed.addErrback(self._failed, mac, mac.token)

    def _failed(self, failure: Failure, mac: EnrolledMac, token: bytes) -> Failure:
        if isinstance(failure.value, PushFailed) and failure.value.status in self._invalid and mac.token == token:
            mac.unregistered = True
        return failure

    def close(self) -> None:
        """Close the connection to APNs; pending pushes are dropped."""
        self._provider.close()


# Defects.


def _never_repeated(defects: Defects) -> frozenset[int]:
    """The statuses after which a defect never pushes to the token again."""
    wanted = {"push-429-dropped": 429, "push-503-dropped": 503, "push-broken-dropped": BROKEN}
    return frozenset(status for name, status in wanted.items() if name in defects)


def _spoiled(provider: APNsProvider, mac: EnrolledMac, defects: Defects) -> Deferred[str]:
    """Push with the lab's defects."""
    if "push-never" in defects:
        return succeed("")
    payload = {"mdm": mac.push_magic}
    headers = {"apns-topic": TOPIC, "apns-push-type": "mdm", "apns-id": new_apns_id()}
    if "push-extra-key" in defects:
        payload["reason"] = _SPOILED
    if "push-topic-other" in defects:
        headers["apns-topic"] = f"{TOPIC}.other"
    if "push-no-topic" in defects:
        del headers["apns-topic"]
    if "push-type-alert" in defects:
        headers["apns-push-type"] = "alert"
    if "push-priority-7" in defects:
        headers["apns-priority"] = "7"
    if "push-expires-at-once" in defects:
        headers["apns-expiration"] = "0"
    if "push-id-invalid" in defects:
        headers["apns-id"] = "1"
    body = json.dumps(payload).encode()
    if "push-payload-long" in defects:
        body = body.ljust(MAX_PAYLOAD_BYTES + 1)
    for _ in range(_STORM - 1 if "push-storm" in defects else 0):
        provider.send(mac.token, body, {**headers, "apns-id": new_apns_id()}).addErrback(lambda _failure: None)
    return provider.send(mac.token, body, headers)


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
