"""A body as the trace keeps it: parsed, as JSON-able data, with secrets redacted. No I/O.

Data, dates and what a body contains are marked by a dictionary with one key that begins with ``$``, while a key of the
body itself that begins so has another ``$`` before it:

- ``{"$data": BASE64}``, ``{"$date": RFC3339}``;
- ``{"$profile": {…}, "$signers": [PEM…]}``: a configuration profile within a command;
- ``{"$certificates": [PEM…]}``: a PKCS12, of which only the certificates are kept, its own first; none if it cannot
  be read, and ``problem`` is then the kind of the error (``pkcs12_password``: the payload's Password is wrong); also a
  body that consists of certificates;
- ``{"$json": …}``: JSON within a property list;
- ``{"$redacted": "string"|"data"|…, "length": N}``: a secret. A push token, a PushMagic and a bootstrap
  token also have a ``fingerprint`` (the first 16 hex digits of its SHA-256), so that two of them can be compared.

Of a SCEP message ``messageType``, ``pkiStatus`` and ``failInfo`` are kept, by their names in RFC 8894.

``plain`` turns this back into values for a check.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agent import plists
from agent.measure.exchanges import has_secret
from agent.pki.certificates import CertificateError, read_certificate, read_certificates
from agent.pki.cms import CMSError, certificates_in, looks_signed, open_signed
from agent.pki.identity import IdentityError, load_pkcs12
from agent.pki.pem import certificate_pem
from agent.pki.pfx import PKCS12Error
from agent.pki.scep.errors import SCEPError
from agent.pki.scep.messages import open_message
from agent.pki.signatures import SHA1_ONLY

MOST_TEXT = 4096  # characters that are kept of a body that is not parsed
MOST_DATA = 64 * 1024  # bytes of data that are kept
UNVERIFIED = "its signature cannot be verified"  # how the problem of a signed profile begins
_DEPTH = 32
_DER = b"\x30"  # of a SEQUENCE
_PLIST_MARKS = ("<key>", "&lt;key&gt;", "bplist0")  # of a page that shows what a Mac sent
_PKCS12 = "com.apple.security.pkcs12"
_COMPARED = ("token", "pushmagic", "mdm", "bootstraptoken")  # random and long: a fingerprint discloses nothing

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
    digest: str = ""
    """Of the signature of a signed profile: ``sha256``; the weaker one where it has two."""
    problem: str = ""
    """Why a body that looks like a property list, JSON or a signed profile is none."""

    @property
    def dictionary(self) -> dict[str, Any]:
        """The plain value if it is a dictionary, else an empty one."""
        value = plain(self.value)
        return value if isinstance(value, dict) else {}


class Redacted(msgspec.Struct, frozen=True):
    """A secret in a plain value."""

    kind: str
    """The type of its value, as ``agent.plists.type_name`` says it."""
    length: int = 0
    fingerprint: str = ""
    """Of a push token, PushMagic or bootstrap token."""


class Certificates(msgspec.Struct, frozen=True):
    """A PKCS12 in a plain value."""

    pem: tuple[str, ...]
    """The certificates, its own first; none if it cannot be read."""
    problem: str = ""
    """The kind of the error if it cannot be read."""


def fingerprint(secret: bytes) -> str:
    """By which two push tokens, PushMagics or bootstrap tokens are compared."""
    return hashlib.sha256(secret).hexdigest()[:16]


def body_of(octets: bytes) -> Body:
    """A body, parsed and redacted."""
    if not octets:
        return Body()
    if looks_signed(octets):
        profile = _opened(octets)
        if not profile.problem:
            kept = _kept(profile.value, _DEPTH)
            return Body("plist", len(octets), kept, signers=profile.signers, digest=profile.digest)
        public = None if profile.problem.startswith(UNVERIFIED) else _public(octets)
        return Body("bytes", len(octets), public, problem="" if public else profile.problem)
    if octets[:1] == _DER:
        return Body("bytes", len(octets), _public(octets))
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
    if problem or any(each in text for each in _PLIST_MARKS):
        return Body("text", len(octets), problem=problem or "it contains a property list, which may hold a secret")
    return Body("text", len(octets), text[:MOST_TEXT])


class _Opened(msgspec.Struct, frozen=True):
    """A profile, signed or not. With a ``problem`` there is no ``value``."""

    value: Any = None
    signers: tuple[str, ...] = ()
    digest: str = ""
    problem: str = ""


def _opened(octets: bytes) -> _Opened:
    signers: tuple[str, ...] = ()
    digest = ""
    if looks_signed(octets):
        try:
            signed = open_signed(octets, legacy=SHA1_ONLY)
        except CMSError as error:
            return _Opened(problem=f"{UNVERIFIED}: {error}"[:200])
        octets = signed.content
        others = [each for each in signed.certificates if each != signed.signer]
        signers = tuple(certificate_pem(each).decode("ascii") for each in (signed.signer, *others))
        digest = "sha1" if signed.legacy else signed.digest
    try:
        return _Opened(plists.load(octets), signers, digest)
    except plists.PlistError as error:
        return _Opened(problem=str(error)[:200])


def _public(octets: bytes) -> Any:
    """What a body in DER says openly: the header of a SCEP message, or certificates; None where it is neither."""
    try:
        if looks_signed(octets):
            header = open_message(octets).header
            named = {"messageType": header.message_type, "pkiStatus": header.status, "failInfo": header.fail_info}
            return {key: each.name for key, each in named.items() if each is not None}
    except SCEPError:
        pass  # certificates alone have no header
    try:
        found = certificates_in(octets) if looks_signed(octets) else (read_certificate(octets),)
    except (CMSError, CertificateError):
        return None
    return {"$certificates": [certificate_pem(each).decode("ascii") for each in found]}


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
    return _encodable(value)


def _encodable(value: Any) -> Any:
    """A scalar as the file of a trace can have it, so that it is judged in a run as it is from the file.

    Without lone surrogates, which JSON allows by an escape and UTF-8 does not; a number that is none is None.
    """
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def _kept_mapping(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, each in value.items():
        name = _encodable(key)
        if name.startswith("$"):
            name = f"${name}"
        if name == "PayloadContent" and value.get("PayloadType") == _PKCS12:
            kept[name] = _certificates(each, value.get("Password"))
        elif has_secret(name, value) or name.lower() in _COMPARED:
            kept[name] = _redacted(name, each)
        elif name == "Payload" and isinstance(each, bytes):
            kept[name] = _kept_profile(each, depth)
        elif name == "Data" and isinstance(each, bytes):
            kept[name] = _kept_json(each, depth)
        else:
            kept[name] = _kept(each, depth - 1)
    return kept


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
    except (IdentityError, PKCS12Error, CertificateError) as error:
        return {"$certificates": [], "problem": error.kind}
    chain = (identity.certificate, *identity.chain)
    return {"$certificates": [certificate_pem(each).decode("ascii") for each in chain]}


def _kept_profile(octets: bytes, depth: int) -> Any:
    profile = _opened(octets)
    if profile.problem:
        return {"$redacted": "data", "length": len(octets)}
    return {"$profile": _kept(profile.value, depth - 1), "$signers": list(profile.signers)}


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
    return {name.removeprefix("$") if name.startswith("$$") else name: plain(each) for name, each in value.items()}


def _date(value: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(value["$date"]).removesuffix("Z"))


def _redacted_value(value: Mapping[str, Any]) -> Redacted:
    return Redacted(str(value["$redacted"]), value.get("length", 0), value.get("fingerprint", ""))


_MARKS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "$data": lambda value: b64decode(value["$data"]),
    "$date": _date,
    "$profile": lambda value: plain(value["$profile"]),
    "$certificates": lambda value: Certificates(tuple(value["$certificates"]), str(value.get("problem", ""))),
    "$json": lambda value: plain(value["$json"]),
    "$redacted": _redacted_value,
}


def certificates_of(value: Any) -> tuple[Any, ...]:
    """The certificates in a plain value: of a PKCS12, of PEM or DER data, or none. Raises CertificateError."""
    if isinstance(value, Certificates):
        return tuple(each for pem in value.pem for each in read_certificates(pem.encode()))
    return tuple(read_certificates(value)) if isinstance(value, bytes) else ()
