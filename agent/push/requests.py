"""A provider's request, ``POST /3/device/<token>``: its validation header by header.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs"; PushPolicy
says where servers in use deviate from Apple's page.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable

import msgspec

from agent.push.reasons import PushRefused, Reason

MAX_PAYLOAD_BYTES = 4096  # Apple, "Generating a remote notification": of every type but VoIP
MAX_COLLAPSE_ID_BYTES = 64
DEFAULT_STORAGE_SECONDS = 24 * 3600.0  # undocumented: storage of a push without apns-expiration
LONGEST_STORAGE_SECONDS = 30 * 24 * 3600.0  # Apple: "up to 30 days"
MDM_TOPIC_PREFIX = "com.apple.mgmt."
MDM_PUSH_TYPE = "mdm"
PRIORITIES = (10, 5, 1)
PUSH_TYPES = (
    "alert", "background", "complication", "controls", "fileprovider", "liveactivity", "location", "mdm",
    "pushtotalk", "voip", "widgets",
)  # fmt: skip

_PATH = "/3/device"
_HEX_TOKEN = re.compile(r"[0-9A-Fa-f]{64}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SECONDS = re.compile(r"[0-9]{1,15}")
_TOPIC = re.compile(r"[0-9A-Za-z._-]{1,256}")
_KNOWN_HEADERS = {
    ":method", ":path", "authorization", "apns-collapse-id", "apns-expiration", "apns-id", "apns-priority",
    "apns-push-type", "apns-topic",
}  # fmt: skip


class Provider(msgspec.Struct, frozen=True):
    """The sender of pushes, known by its TLS client certificate."""

    topic: str = ""
    """The UID of the certificate's subject; empty if it has none."""
    certified: bool = False
    """Whether it presented a certificate."""
    fault: str = ""
    """Why its certificate is not accepted; empty if it is."""


NOBODY = Provider()


class PushPolicy(msgspec.Struct, frozen=True):
    """What the gateway accepts and stores."""

    strict: bool = False
    """Refuse a push without a topic or without the push type ``mdm``, as Apple's page says; some servers omit both."""
    default_storage: float = DEFAULT_STORAGE_SECONDS
    """Seconds that a push without ``apns-expiration`` is stored."""
    longest_storage: float = LONGEST_STORAGE_SECONDS
    """Seconds that any push is stored at most."""


class PushRequest(msgspec.Struct, frozen=True):
    """A valid request."""

    token: bytes
    """32 bytes."""
    topic: str
    push_magic: str
    """Empty if the payload has none; such a push reaches the Mac, too."""
    apns_id: str
    priority: int
    expires: float
    """Seconds since the epoch."""
    storable: bool
    """Whether the push is stored for a Mac that is offline; otherwise it is tried once."""


def judge_request(
    fields: Iterable[tuple[str, str]],
    body: bytes,
    provider: Provider,
    policy: PushPolicy,
    now: float,
    ahead: float = 0.0,
) -> PushRequest:
    """Validate one request, whose header fields have lower-case names. ``now`` is in seconds since the epoch.

    ``ahead`` is by how many seconds the clock of the provider's dates is ahead of ``now``.

    Raises PushRefused for the first fault, in this order: message id, method, path, certificate, token, payload, the
    other headers.
    """
    fields = list(fields)
    try:
        headers = _single(fields)
    except PushRefused as refused:
        refused.apns_id = apns_id_of(fields) or new_apns_id()
        raise
    apns_id = headers.get("apns-id")
    if apns_id is None:
        apns_id = new_apns_id()
    elif _UUID.fullmatch(apns_id) is None:
        raise PushRefused(Reason.BAD_MESSAGE_ID, apns_id=new_apns_id())
    try:
        return _judge(headers, body, provider, policy, now, ahead, apns_id)
    except PushRefused as refused:
        refused.apns_id = apns_id
        raise


def new_apns_id() -> str:
    """An id for a request without ``apns-id``. Source: Apple, "Sending notification requests to APNs"."""
    return str(uuid.uuid4()).upper()


def token_of(fields: Iterable[tuple[str, str]]) -> bytes | None:
    """The token in a request's path, or None. Nothing else is validated."""
    path = next((value for name, value in fields if name == ":path"), "")
    prefix, _, digits = path.rpartition("/")
    return bytes.fromhex(digits) if prefix == _PATH and _HEX_TOKEN.fullmatch(digits) is not None else None


def apns_id_of(fields: Iterable[tuple[str, str]]) -> str:
    """The valid ``apns-id`` of a request, or an empty text."""
    found = (value for name, value in fields if name == "apns-id")
    return next((value for value in found if _UUID.fullmatch(value) is not None), "")


def _judge(
    headers: dict[str, str],
    body: bytes,
    provider: Provider,
    policy: PushPolicy,
    now: float,
    ahead: float,
    apns_id: str,
) -> PushRequest:
    if headers.get(":method") != "POST":
        raise PushRefused(Reason.METHOD_NOT_ALLOWED)
    digits = _token_digits(headers.get(":path", ""))
    _check_provider(headers, provider)
    if _HEX_TOKEN.fullmatch(digits) is None:
        raise PushRefused(Reason.BAD_DEVICE_TOKEN)
    push_magic = _push_magic(body)
    topic = _topic(headers.get("apns-topic"), provider, policy)
    _check_push_type(headers.get("apns-push-type"), policy)
    if len(headers.get("apns-collapse-id", "").encode()) > MAX_COLLAPSE_ID_BYTES:
        raise PushRefused(Reason.BAD_COLLAPSE_ID)
    expires, storable = _expiration(headers.get("apns-expiration"), policy, now, ahead)
    return PushRequest(
        bytes.fromhex(digits),
        topic,
        push_magic,
        apns_id,
        _priority(headers.get("apns-priority")),
        expires,
        storable,
    )


def _single(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The header fields that are read. Raises PushRefused for one that occurs twice."""
    headers: dict[str, str] = {}
    for name, value in fields:
        if name in _KNOWN_HEADERS:
            if name in headers:
                raise PushRefused(Reason.DUPLICATE_HEADERS)
            headers[name] = value
    return headers


def _token_digits(path: str) -> str:
    if path in (_PATH, _PATH + "/"):
        raise PushRefused(Reason.MISSING_DEVICE_TOKEN)
    prefix, _, digits = path.rpartition("/")
    if prefix != _PATH:
        raise PushRefused(Reason.BAD_PATH)
    return digits


def _check_provider(headers: dict[str, str], provider: Provider) -> None:
    """MDM requires a certificate. The reason for a JWT with an MDM topic is undocumented: InvalidProviderToken here.

    Source: Apple, "Setting up push notifications for your MDM customers".
    """
    if "authorization" in headers:
        raise PushRefused(Reason.INVALID_PROVIDER_TOKEN)
    if not provider.certified:
        raise PushRefused(Reason.MISSING_PROVIDER_TOKEN)
    if provider.fault or not provider.topic:
        raise PushRefused(Reason.BAD_CERTIFICATE)
    if not provider.topic.startswith(MDM_TOPIC_PREFIX):
        raise PushRefused(Reason.FORBIDDEN)  # an app's certificate: no Mac here has an app's topic


def _push_magic(body: bytes) -> str:
    if len(body) > MAX_PAYLOAD_BYTES:
        raise PushRefused(Reason.PAYLOAD_TOO_LARGE)
    try:
        payload = json.loads(body) if body else None
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict) or not payload:
        raise PushRefused(Reason.PAYLOAD_EMPTY)  # also for what is not a dictionary: Apple's table has no other reason
    magic = payload.get("mdm")
    return magic if isinstance(magic, str) else ""


def _topic(value: str | None, provider: Provider, policy: PushPolicy) -> str:
    if value is None:
        if policy.strict:
            raise PushRefused(Reason.MISSING_TOPIC)
        return provider.topic
    if _TOPIC.fullmatch(value) is None:
        raise PushRefused(Reason.BAD_TOPIC)
    if value != provider.topic:
        raise PushRefused(Reason.TOPIC_DISALLOWED)
    return provider.topic


def _check_push_type(value: str | None, policy: PushPolicy) -> None:
    allowed = (MDM_PUSH_TYPE,) if policy.strict else (None, *PUSH_TYPES)
    if value not in allowed:
        raise PushRefused(Reason.INVALID_PUSH_TYPE)


def _priority(value: str | None) -> int:
    if value is None:
        return PRIORITIES[0]
    if value not in ("10", "5", "1"):
        raise PushRefused(Reason.BAD_PRIORITY)
    return int(value)


def _expiration(value: str | None, policy: PushPolicy, now: float, ahead: float) -> tuple[float, bool]:
    """When the notification expires, and whether it may be stored until then; 0 forbids storage."""
    if value is None:
        return now + policy.default_storage, True
    if _SECONDS.fullmatch(value) is None:
        raise PushRefused(Reason.BAD_EXPIRATION_DATE)
    seconds = float(value)
    if seconds == 0.0:
        return now + policy.longest_storage, False
    return min(seconds - ahead, now + policy.longest_storage), True
