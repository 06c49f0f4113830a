"""A body as the trace keeps it: parsed, as JSON-able data, with secrets redacted. No I/O.

Data, dates and what a body contains are marked by a dictionary with one key that begins with ``$``:

- ``{"$data": BASE64}``, ``{"$date": RFC3339}``;
- ``{"$profile": {…}, "$signers": [PEM…]}``: a configuration profile within a command;
- ``{"$certificates": [PEM…]}``: a PKCS12, of which only the certificates are kept, its own first; none if it cannot
  be read;
- ``{"$json": …}``: JSON within a property list;
- ``{"$redacted": "string"|"data"|…, "length": N}``: a secret. A push token and a PushMagic also have a ``fingerprint``
  (the first 16 hex digits of its SHA-256), so that two of them can be compared.

``plain`` turns this back into values for a check.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from agent import plists
from agent.measure.exchanges import SECRET_PAYLOADS, is_secret
from agent.pki.certificates import CertificateError, read_certificates
from agent.pki.cms import CMSError, looks_signed, open_signed
from agent.pki.identity import IdentityError, load_pkcs12
from agent.pki.pem import certificate_pem
from agent.pki.pfx import PKCS12Error
from agent.pki.signatures import SHA1_ONLY

MOST_TEXT = 4096  # characters that are kept of a body that is not parsed
MOST_DATA = 64 * 1024  # bytes of data that are kept
_DEPTH = 32
_PKCS12 = "com.apple.security.pkcs12"
_COMPARED = ("token", "pushmagic", "mdm")  # random and long: a fingerprint discloses nothing

Form = Literal["empty", "plist", "json", "text", "bytes"]


class Body(Struct, frozen=True, omit_defaults=True):
    """One body."""

    form: Form = "empty"
    length: int = 0
    """In bytes."""
    value: Any = None
    """The parsed value; of a text its beginning."""
    binary: bool = False
    """Whether a property list is a binary one."""
    signers: tuple[str, ...] = ()
    """In PEM, of a signed profile: the signer's certificate first."""
    problem: str = ""
    """Why a body that looks like a property list or JSON is none."""

    @property
    def dictionary(self) -> dict[str, Any]:
        """The plain value if it is a dictionary, else an empty one."""
        value = plain(self.value)
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Redacted:
    """A secret in a plain value."""

    kind: str
    """The type of its value, as ``agent.plists.type_name`` says it."""
    length: int = 0
    fingerprint: str = ""
    """Of a push token or PushMagic."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """A PKCS12 in a plain value."""

    pem: tuple[str, ...]
    """The certificates, its own first; none if it cannot be read."""


def fingerprint(secret: bytes) -> str:
    """By which two push tokens or PushMagics are compared."""
    return hashlib.sha256(secret).hexdigest()[:16]


def body_of(octets: bytes) -> Body:
    """A body, parsed and redacted."""
    if not octets:
        return Body()
    if looks_signed(octets):
        profile, signers = _opened(octets)
        if profile is not None:
            return Body("plist", len(octets), _kept(profile, _DEPTH), signers=signers)
        return Body("bytes", len(octets))
    start = octets[:64].lstrip()
    if start.startswith((b"{", b"[")):
        try:
            return Body("json", len(octets), _kept(json.loads(octets), _DEPTH))
        except (ValueError, RecursionError) as error:
            return Body("bytes", len(octets), problem=f"it is not JSON: {error}"[:200])
    try:
        value = plists.load(octets)
    except plists.PlistError as error:
        return _unparsed(octets, str(error)[:200] if start.startswith((b"<?xml", b"<plist", b"bplist")) else "")
    return Body("plist", len(octets), _kept(value, _DEPTH), binary=octets.startswith(b"bplist"))


def _unparsed(octets: bytes, problem: str) -> Body:
    """A body that is neither: its text where it can hold no secret, which that of a property list can."""
    try:
        text = octets[: 4 * MOST_TEXT].decode("utf-8", "ignore" if len(octets) > 4 * MOST_TEXT else "strict")
    except UnicodeDecodeError:
        return Body("bytes", len(octets), problem=problem)
    if problem:
        return Body("text", len(octets), problem=problem)
    return Body("text", len(octets), text[:MOST_TEXT])


def _opened(octets: bytes) -> tuple[Any, tuple[str, ...]]:
    """The value of a profile, signed or not, and its signers in PEM; None if it is no property list."""
    signers: tuple[str, ...] = ()
    if looks_signed(octets):
        try:
            signed = open_signed(octets, legacy=SHA1_ONLY)
        except CMSError:
            return None, ()
        octets = signed.content
        others = [each for each in signed.certificates if each != signed.signer]
        signers = tuple(certificate_pem(each).decode("ascii") for each in (signed.signer, *others))
    try:
        return plists.load(octets), signers
    except plists.PlistError:
        return None, signers


# Redaction.


def _kept(value: Any, depth: int) -> Any:
    if depth <= 0 and isinstance(value, Mapping | list):
        return "…"
    if isinstance(value, Mapping):
        return _kept_mapping(value, depth)
    if isinstance(value, list):
        return [_kept(each, depth - 1) for each in value]
    if isinstance(value, bytes):
        return {"$data": b64encode(value[:MOST_DATA]).decode("ascii")}
    if isinstance(value, datetime):
        return {"$date": f"{value.isoformat()}Z"}
    return value


def _kept_mapping(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, each in value.items():
        if name == "PayloadContent" and value.get("PayloadType") == _PKCS12:
            kept[name] = _certificates(each, value.get("Password"))
        elif is_secret(name) or name.lower() in _COMPARED or _holds_key(name, value):
            kept[name] = _redacted(name, each)
        elif name == "Payload" and isinstance(each, bytes):
            kept[name] = _kept_profile(each, depth)
        elif name == "Data" and isinstance(each, bytes):
            kept[name] = _kept_json(each, depth)
        else:
            kept[name] = _kept(each, depth - 1)
    return kept


def _holds_key(name: str, value: Mapping[str, Any]) -> bool:
    return name == "PayloadContent" and value.get("PayloadType") in SECRET_PAYLOADS


def _redacted(name: str, value: Any) -> Any:
    """A secret. A dictionary or an array that has such a name is none, but what it contains may be."""
    if isinstance(value, Mapping | list):
        return _kept(value, _DEPTH)
    kept: dict[str, Any] = {"$redacted": plists.type_name(value)}
    if isinstance(value, str | bytes):
        octets = value.encode() if isinstance(value, str) else value
        kept["length"] = len(octets)
        if name.lower() in _COMPARED:
            kept["fingerprint"] = fingerprint(octets)
    return kept


def _certificates(content: Any, password: Any) -> Any:
    """The certificates of a PKCS12, without its key."""
    if not isinstance(content, bytes):
        return _redacted("PayloadContent", content)
    try:
        identity = load_pkcs12(content, password if isinstance(password, str) else None)
    except (IdentityError, PKCS12Error, CertificateError):
        return {"$certificates": []}
    chain = (identity.certificate, *identity.chain)
    return {"$certificates": [certificate_pem(each).decode("ascii") for each in chain]}


def _kept_profile(octets: bytes, depth: int) -> Any:
    value, signers = _opened(octets)
    if value is None:
        return {"$redacted": "data", "length": len(octets)}
    return {"$profile": _kept(value, depth - 1), "$signers": list(signers)}


def _kept_json(octets: bytes, depth: int) -> Any:
    try:
        return {"$json": _kept(json.loads(octets), depth - 1)}
    except (ValueError, RecursionError):
        return {"$redacted": "data", "length": len(octets)}


# Back to values.


def plain(value: Any) -> Any:
    """The values of a body: data as bytes, dates as datetime, a profile or JSON in its place, secrets as Redacted."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    for mark, read in _MARKS.items():
        if mark in value:
            return read(value)
    return {name: plain(each) for name, each in value.items()}


def _date(value: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(value["$date"]).removesuffix("Z"))


def _redacted_value(value: Mapping[str, Any]) -> Redacted:
    return Redacted(str(value["$redacted"]), value.get("length", 0), value.get("fingerprint", ""))


_MARKS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "$data": lambda value: b64decode(value["$data"]),
    "$date": _date,
    "$profile": lambda value: plain(value["$profile"]),
    "$certificates": lambda value: Certificates(tuple(value["$certificates"])),
    "$json": lambda value: plain(value["$json"]),
    "$redacted": _redacted_value,
}


def certificates_of(value: Any) -> tuple[Any, ...]:
    """The certificates in a plain value: of a PKCS12, of PEM or DER data, or none. Raises CertificateError."""
    if isinstance(value, Certificates):
        return tuple(each for pem in value.pem for each in read_certificates(pem.encode()))
    return tuple(read_certificates(value)) if isinstance(value, bytes) else ()
