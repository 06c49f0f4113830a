"""The SCEP payload. Source: apple-schema profiles/com.apple.security.scep.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from agent.mdm.waits import bounded_wait
from agent.pki.scep.csr import alternative_names, subject_name
from agent.pki.scep.errors import SCEPError
from agent.profiles.errors import malformed
from agent.profiles.profile import Payload
from agent.profiles.urls import checked_url

SCEP = "com.apple.security.scep"
KEY_SIZES = (1024, 2048, 4096)
DEFAULT_KEY_SIZE = 1024
DEFAULT_RETRIES = 3
DEFAULT_RETRY_DELAY_SECONDS = 10
MAX_COMMON_NAME = 64  # characters (RFC 5280, appendix A, ub-common-name)
_MAX_RETRIES = 1000


class SCEPPayload(msgspec.Struct, frozen=True):
    """The settings of a SCEP payload."""

    payload_name: str
    url: str
    ca_name: str
    """Name; empty if there is none."""
    subject: Any
    """Subject, in the payload's form."""
    subject_alt_name: Mapping[str, Any] | None
    """SubjectAltName, in the payload's form."""
    challenge: str | None
    key_size: int
    """Bits: one of KEY_SIZES."""
    key_usage: int
    ca_fingerprint: bytes | None
    retries: int
    """At most 1000, so that polling a CA that never decides ends."""
    retry_delay: float
    """Seconds, from 1 to an hour."""


def scep_of(payload: Payload) -> SCEPPayload:
    """Read a SCEP payload. Raises ProfileError.

    Without a Subject the PayloadIdentifier is the CommonName, as on a Mac. A Keysize of 0, as in Apple's example, means
    the default.
    """
    content = replace(payload, content=payload.require("PayloadContent", dict))
    key_type = content.get("Key Type", str) or "RSA"
    if key_type != "RSA":
        raise malformed(f"Key Type of the payload “{payload.name}”: expected RSA, found {key_type[:80]}")
    key_size = _integer(content, "Keysize", DEFAULT_KEY_SIZE) or DEFAULT_KEY_SIZE
    if key_size not in KEY_SIZES:
        raise malformed(f"Keysize of the payload “{payload.name}”: expected one of {KEY_SIZES}, found {key_size}")
    subject = content.get("Subject", list) or [[["CN", payload.identifier[:MAX_COMMON_NAME]]]]
    subject_alt_name = content.get("SubjectAltName", dict)
    try:
        subject_name(subject)
        alternative_names(subject_alt_name)
    except SCEPError as error:
        raise malformed(f"the payload “{payload.name}”: {error}") from error
    return SCEPPayload(
        payload_name=payload.name,
        url=checked_url(payload, content.require("URL", str), "URL", ("http", "https")),
        ca_name=content.get("Name", str) or "",
        subject=subject,
        subject_alt_name=subject_alt_name,
        challenge=content.get("Challenge", str),
        key_size=key_size,
        key_usage=_integer(content, "Key Usage", 0),
        ca_fingerprint=content.get("CAFingerprint", bytes),
        retries=min(_MAX_RETRIES, max(0, _integer(content, "Retries", DEFAULT_RETRIES))),
        retry_delay=bounded_wait(_integer(content, "RetryDelay", DEFAULT_RETRY_DELAY_SECONDS)),
    )


def _integer(content: Payload, key: str, default: int) -> int:
    value = content.get(key, int)
    return default if value is None else value
