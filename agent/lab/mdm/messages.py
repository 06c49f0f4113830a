"""What the lab asks of each message before it acts: certificate, signature, property list, keys. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes

from agent import plists
from agent.errors import PeerError
from agent.lab.defects import Defects
from agent.net.http.server import MAX_BODY_BYTES
from agent.pki.cms import CMSError, mdm_signature_signer
from agent.profiles.making import TOPIC

REQUIRED_KEYS = ("DeviceName", "Model", "ModelName")  # of Authenticate, beside Topic and UDID
OPTIONAL_KEYS = ("SerialNumber", "OSVersion", "BuildVersion", "ProductName")
_TOKEN_BYTES = 32
NOBODY = b""  # the fingerprint of a Mac without a certificate, which only a defect lets pass


class Refused(PeerError):
    """The lab rejects a message of a Mac; ``status`` is the HTTP status of the answer."""

    kind = "refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Message(msgspec.Struct, frozen=True):
    """A PUT request of a Mac."""

    body: bytes
    content_type: str
    """In lower case, without parameters."""
    fingerprint: bytes | None
    """SHA-256 of the TLS client certificate; None if there is none."""
    signature: str | None
    """The header Mdm-Signature; None if there is none."""
    connection: int
    """A number unique for each connection."""
    resumed: bool = False
    """Whether its TLS session was resumed."""


def plist_of(body: bytes) -> dict[str, Any]:
    """The property list in a body, which is a dictionary. Raises Refused."""
    try:
        return plists.load_dict(body, max_bytes=MAX_BODY_BYTES)
    except plists.PlistError as error:
        raise Refused(400, str(error)) from error


def check_topic(message: Mapping[str, Any]) -> None:
    """Check that a message has the lab's topic. Raises Refused."""
    topic = text_of(message, "Topic")
    if topic != TOPIC:
        raise Refused(400, f"Topic: expected {TOPIC}, found {topic[:80]!r}")


def check_authenticate(message: Mapping[str, Any], defects: Defects) -> None:
    """Check the keys of Authenticate beside Topic and UDID. Raises Refused."""
    for key in REQUIRED_KEYS:
        text_of(message, key)
    for key in OPTIONAL_KEYS:
        if key in message or "checkin-needs-optional" in defects:
            text_of(message, key)
    for key in message if "checkin-strict-keys" in defects else ():
        if key not in ("MessageType", "Topic", "UDID", *REQUIRED_KEYS, *OPTIONAL_KEYS):
            raise Refused(400, f"the key {key[:80]!r} is unknown")


def certificate_of(put: Message, defects: Defects) -> bytes:
    """SHA-256 of the TLS certificate, which must also be the signer of the Mdm-Signature. Raises Refused."""
    if put.fingerprint is None:
        if "identity-none-accepted" in defects:
            return NOBODY
        raise Refused(401, "the Mac presented no client certificate")
    if put.signature is None:
        if "identity-signature-optional" in defects:
            return put.fingerprint
        raise Refused(400, "the Mdm-Signature is missing, but the enrollment profile has SignMessage")
    try:
        signer = mdm_signature_signer(put.signature, put.body)
    except CMSError as error:
        if "identity-signature-unchecked" in defects:
            return put.fingerprint
        raise Refused(400, f"the Mdm-Signature is invalid: {error}") from error
    if "identity-by-signature" in defects:
        return signer.fingerprint(hashes.SHA256())
    if signer.fingerprint(hashes.SHA256()) != put.fingerprint and "identity-signer-unchecked" not in defects:
        raise Refused(403, "the Mdm-Signature has another signer than the TLS certificate")
    return put.fingerprint


def push_keys_of(message: Mapping[str, Any]) -> tuple[bytes, str]:
    """Token and PushMagic of a TokenUpdate. Raises Refused."""
    token = message.get("Token")
    if not isinstance(token, bytes) or len(token) != _TOKEN_BYTES:
        found = len(token) if isinstance(token, bytes) else plists.type_name(token)
        raise Refused(400, f"Token: expected {_TOKEN_BYTES} bytes of data, found {found}")
    return token, text_of(message, "PushMagic")


def text_of(message: Mapping[str, Any], key: str) -> str:
    """A string of a message that is not empty. Raises Refused."""
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{key}: expected a string, found {plists.type_name(value)}")
    return value
