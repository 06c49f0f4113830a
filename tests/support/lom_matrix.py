"""Chains of certificates with one property each that is right, wrong or odd, and what a LOM peer has to make of them.

Each case is presented twice, by a Device to a Controller and by a Controller to a Device. ``OWN`` is the Extended Key
Usage of the end that presents (serverAuth, clientAuth), ``OTHER`` the other one. ``rfc`` is set if RFC 5280 has
another verdict than OpenSSL, which every network follows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from odd_certificates import UNREADABLE, edited, signed_by_sha1
from rsa_keys import rsa_key

from agent.pki.identity import Identity, PrivateKey

NAME = "mac-k.lom.test"
NOW = datetime.now(UTC)
OWN, OTHER, ANY = "own", "other", ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
BOTH = (OWN, OTHER)
CODE = ExtendedKeyUsageOID.CODE_SIGNING
SIGN, ENCIPHER, DATA, AGREE = "digital_signature", "key_encipherment", "data_encipherment", "key_agreement"
CERTS, CRLS, NO_DENIAL = "key_cert_sign", "crl_sign", "content_commitment"
LOM = (SIGN, ENCIPHER, DATA)
ACCEPTED, REFUSED = "accepted", "refused"
_UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
_ALL_USAGES = (SIGN, NO_DENIAL, ENCIPHER, DATA, AGREE, CERTS, CRLS)

Extension = tuple[x509.ExtensionType, bool]


@dataclass(frozen=True)
class Certificate:
    """One certificate of a chain. ``None`` leaves an extension out; ``days`` are its dates from now."""

    names: Sequence[str] = (NAME,)
    alternative: Sequence[x509.GeneralName] | None = None
    alternative_critical: bool = False
    days: tuple[int, int] = (-1, 30)
    ca: bool | None = False
    path_length: int | None = None
    constraints_critical: bool = True
    extended: Sequence[Any] | None = None
    extended_critical: bool = False
    usage: Sequence[str] | None = None
    usage_critical: bool = True
    more: Sequence[Extension] = ()
    sha1: bool = False
    key: str = "P-256"
    odd: str = ""  # what tests/odd_certificates.py makes of it
    self_issued: bool = False  # has its issuer's name, but not its key


LEAF = Certificate(extended=(OWN,), usage=LOM)
CA = Certificate(("Intermediate",), ca=True, usage=(CERTS, CRLS))
ROOT = Certificate(("Root",), days=(-2, 40), ca=True, usage=(CERTS, CRLS))


@dataclass(frozen=True)
class Case:
    """A chain from the leaf up to its root, and the verdict.

    ``shown`` are the numbers of the certificates that are sent after the leaf, ``anchors`` those that are trusted;
    without them everything between leaf and root, and the root. ``of_controllers`` is the verdict where only a
    Device's name is expected.
    """

    verdict: str
    chain: tuple[Certificate, ...]
    shown: Sequence[int] | None = None
    anchors: Sequence[int] | None = None
    of_controllers: str = ""
    rfc: str = ""
    forged: int | None = None  # the certificate whose signature is another's


@dataclass(frozen=True)
class Built:
    """What is presented, and what is trusted."""

    identity: Identity
    anchors: tuple[x509.Certificate, ...]


def build(case: Case, role: ExtendedKeyUsageOID) -> Built:
    """The certificates of ``case`` for one role, ``role`` being its Extended Key Usage."""
    made: list[tuple[x509.Certificate, PrivateKey]] = []
    for number in reversed(range(len(case.chain))):
        spec = case.chain[number]
        issuer = made[-1] if made else None
        made.append(_make(spec, issuer, role, forged=number == case.forged))
    made.reverse()
    certificates = [certificate for certificate, _ in made]
    shown = range(1, len(made) - 1) if case.shown is None else case.shown
    anchors = [len(made) - 1] if case.anchors is None else case.anchors
    identity = Identity(certificates[0], made[0][1], tuple(certificates[number] for number in shown))
    return Built(identity, tuple(certificates[number] for number in anchors))


_serial = iter(range(1000, 10**9))


def _key(kind: str) -> PrivateKey:
    if kind == "P-256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa_key(int(kind.removeprefix("RSA-")))


def _make(
    spec: Certificate, issuer: tuple[x509.Certificate, PrivateKey] | None, role: Any, *, forged: bool
) -> tuple[x509.Certificate, PrivateKey]:
    key = _key(spec.key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in spec.names])
    if spec.self_issued and issuer is not None:
        subject = issuer[0].subject
    issuer_name, issuer_key = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    signer = _key("P-256") if forged else issuer_key
    builder = x509.CertificateBuilder(issuer_name, subject, key.public_key(), next(_serial))
    builder = builder.not_valid_before(NOW + timedelta(days=spec.days[0]))
    builder = builder.not_valid_after(NOW + timedelta(days=spec.days[1]))
    for extension, critical in _extensions(spec, role):
        builder = builder.add_extension(extension, critical)
    if spec.self_issued and issuer is not None:  # or OpenSSL takes it for self-signed
        own, others = key.public_key(), issuer_key.public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(others), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    if spec.sha1:
        certificate = x509.load_der_x509_certificate(signed_by_sha1(certificate, signer))
    if spec.odd:
        certificate = x509.load_der_x509_certificate(edited(certificate, signer, UNREADABLE[spec.odd]))
    return certificate, key


def _extensions(spec: Certificate, role: Any) -> list[Extension]:
    found: list[Extension] = list(spec.more)
    if spec.ca is not None:
        found.append((x509.BasicConstraints(spec.ca, spec.path_length), spec.constraints_critical))
    if spec.usage is not None:
        flags = {usage: usage in spec.usage for usage in _ALL_USAGES}
        found.append((x509.KeyUsage(**flags, encipher_only=False, decipher_only=False), spec.usage_critical))
    if spec.extended is not None:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        other = next(use for use in uses if use != role)
        oids = [{OWN: role, OTHER: other}.get(use, use) for use in spec.extended]
        found.append((x509.ExtendedKeyUsage(oids), spec.extended_critical))
    if spec.alternative is not None:
        found.append((x509.SubjectAlternativeName(spec.alternative), spec.alternative_critical))
    return found


# The table


def dns(*names: str) -> list[x509.GeneralName]:
    """dNSNames."""
    return [x509.DNSName(name) for name in names]


def _directory(name: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))


def _permitted(*names: x509.GeneralName, critical: bool = True) -> tuple[Extension]:
    return ((x509.NameConstraints(list(names), None), critical),)


def _excluded(*names: x509.GeneralName, critical: bool = True) -> tuple[Extension]:
    return ((x509.NameConstraints(None, list(names)), critical),)


def _unknown(critical: bool) -> tuple[Extension]:
    return ((x509.UnrecognizedExtension(_UNKNOWN, b"\x05\x00"), critical),)


def leaf(verdict: str, **changes: Any) -> Case:
    """A leaf under its root."""
    own = {key: changes.pop(key) for key in ("of_controllers", "rfc", "anchors", "forged") if key in changes}
    return Case(verdict, (replace(LEAF, **changes), ROOT), **own)


def ca(verdict: str, *, above: Certificate = ROOT, below: Certificate = LEAF, **changes: Any) -> Case:
    """A good leaf under an intermediate."""
    own = {key: changes.pop(key) for key in ("of_controllers", "rfc", "anchors", "forged", "shown") if key in changes}
    return Case(verdict, (below, replace(CA, **changes), above), **own)


def root(verdict: str, **changes: Any) -> Case:
    """A good leaf and a good intermediate under a root."""
    own = {key: changes.pop(key) for key in ("rfc",) if key in changes}
    return Case(verdict, (LEAF, CA, replace(ROOT, **changes)), **own)


NAMED = replace(LEAF, alternative=dns(NAME))
UPPER = replace(CA, names=("Upper",))
_ANCHOR = "an anchor is a name and a key; its extensions and dates are not judged (6.1.1)"
_NO_ANY = "anyExtendedKeyUsage allows every use (4.2.1.12)"

COMMON_NAMES = {
    "good": leaf(ACCEPTED),
    "upper case": leaf(ACCEPTED, names=(NAME.upper(),)),
    "KELVIN SIGN for k": leaf(REFUSED, names=(NAME.replace("k", "\u212a"),), of_controllers=ACCEPTED),
    "another name": leaf(REFUSED, names=("mac-l.lom.test",), of_controllers=ACCEPTED),
    "a longer name": leaf(REFUSED, names=(NAME + ".test",), of_controllers=ACCEPTED),
    "a wildcard": leaf(REFUSED, names=("*.lom.test",), of_controllers=ACCEPTED),
    "a blank at its end": leaf(REFUSED, names=(NAME + " ",)),
    "a blank before it": leaf(REFUSED, names=(" " + NAME,)),
    "NUL after it": leaf(REFUSED, names=(NAME + "\0",)),
    "NUL in it": leaf(REFUSED, names=(NAME + "\0.evil.test",)),
    "a control character": leaf(REFUSED, names=("mac\x07.lom.test",)),
    "none": leaf(REFUSED, names=()),
    "two": leaf(REFUSED, names=(NAME, "other")),
    "twice the same": leaf(REFUSED, names=(NAME, NAME)),
}
ALTERNATIVE_NAMES = {
    "the same": leaf(ACCEPTED, alternative=dns(NAME)),
    "upper case": leaf(ACCEPTED, alternative=dns(NAME.upper())),
    "critical": leaf(ACCEPTED, alternative=dns(NAME), alternative_critical=True),
    "among others": leaf(ACCEPTED, alternative=dns("a.test", NAME)),
    "another": leaf(REFUSED, alternative=dns("mac-l.lom.test")),
    "a wildcard": leaf(REFUSED, alternative=dns("*.lom.test")),
    "NUL after it": leaf(REFUSED, alternative=dns(NAME + "\0")),
    "a blank at its end": leaf(REFUSED, alternative=dns(NAME + " ")),
    "one of two is no name": leaf(REFUSED, alternative=dns(NAME, "\t")),
    "an address": leaf(REFUSED, alternative=[x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]),
    "an e-mail address only": leaf(ACCEPTED, alternative=[x509.RFC822Name("root@lom.test")]),
    "a directory name only": leaf(ACCEPTED, alternative=[_directory("other")]),
    "unreadable": leaf(REFUSED, odd="x400Address"),
}
BASIC_CONSTRAINTS = {
    "leaf without": leaf(ACCEPTED, ca=None),
    "leaf not critical": leaf(ACCEPTED, constraints_critical=False),
    "leaf is a CA": leaf(ACCEPTED, ca=True, usage=(*LOM, CERTS)),
    "intermediate": ca(ACCEPTED),
    "intermediate not critical": ca(ACCEPTED, constraints_critical=False),
    "intermediate is no CA": ca(REFUSED, ca=False),
    "intermediate without, but keyCertSign": ca(REFUSED, ca=None),
    "intermediate without it and Key Usage": ca(REFUSED, ca=None, usage=None),
    "issued by a leaf": ca(REFUSED, ca=False, usage=LOM, extended=BOTH),
    "root is no CA": root(REFUSED, ca=False, rfc=f"accepted: {_ANCHOR}"),
    "root without, but keyCertSign": root(ACCEPTED, ca=None),
}
DATES = {
    "leaf expired": leaf(REFUSED, days=(-3, -1)),
    "leaf not yet valid": leaf(REFUSED, days=(1, 3)),
    "intermediate expired": ca(REFUSED, days=(-3, -1)),
    "intermediate not yet valid": ca(REFUSED, days=(1, 3)),
    "root expired": root(REFUSED, days=(-3, -1), rfc=f"accepted: {_ANCHOR}"),
    "root not yet valid": root(REFUSED, days=(1, 3), rfc=f"accepted: {_ANCHOR}"),
    "leaf outlives its CA": leaf(ACCEPTED, days=(-1, 90)),
    "leaf older than its CA": leaf(ACCEPTED, days=(-90, 30)),
}
EXTENDED_KEY_USAGE = {
    "leaf both": leaf(ACCEPTED, extended=BOTH),
    "leaf critical": leaf(ACCEPTED, extended=(OWN,), extended_critical=True),
    "leaf the other": leaf(REFUSED, extended=(OTHER,)),
    "leaf none": leaf(REFUSED, extended=None),
    "leaf any": leaf(REFUSED, extended=(ANY,), rfc=f"accepted: {_NO_ANY}"),
    "leaf own and any": leaf(ACCEPTED, extended=(OWN, ANY)),
    "leaf the other and any": leaf(REFUSED, extended=(OTHER, ANY), rfc=f"accepted: {_NO_ANY}"),
    "leaf code signing": leaf(REFUSED, extended=(CODE,)),
    "leaf own and code signing": leaf(ACCEPTED, extended=(OWN, CODE)),
    "leaf unreadable": leaf(REFUSED, odd="extendedKeyUsage of empty OIDs"),
    "intermediate own": ca(ACCEPTED, extended=(OWN,)),
    "intermediate both": ca(ACCEPTED, extended=BOTH),
    "intermediate the other": ca(REFUSED, extended=(OTHER,)),
    "intermediate the other, critical": ca(REFUSED, extended=(OTHER,), extended_critical=True),
    "intermediate own, critical": ca(ACCEPTED, extended=(OWN,), extended_critical=True),
    "intermediate any": ca(REFUSED, extended=(ANY,), rfc=f"accepted: {_NO_ANY}"),
    "intermediate own and any": ca(ACCEPTED, extended=(OWN, ANY)),
    "intermediate code signing": ca(REFUSED, extended=(CODE,)),
    "upper of two the other": Case(REFUSED, (LEAF, CA, replace(UPPER, extended=(OTHER,)), ROOT)),
    "upper of two own": Case(ACCEPTED, (LEAF, CA, replace(UPPER, extended=(OWN,)), ROOT)),
    "root own": root(ACCEPTED, extended=(OWN,)),
    "root the other": root(REFUSED, extended=(OTHER,), rfc=f"accepted: {_ANCHOR}"),
    "root code signing": root(REFUSED, extended=(CODE,), rfc=f"accepted: {_ANCHOR}"),
    "anchored intermediate the other": ca(REFUSED, extended=(OTHER,), anchors=[1], rfc=f"accepted: {_ANCHOR}"),
}
KEY_USAGE = {
    "leaf not critical": leaf(ACCEPTED, usage_critical=False),
    "leaf none": leaf(REFUSED, usage=None),
    "leaf without digitalSignature": leaf(REFUSED, usage=(ENCIPHER, DATA)),
    "leaf without keyEncipherment": leaf(REFUSED, usage=(SIGN, DATA)),
    "leaf without dataEncipherment": leaf(REFUSED, usage=(SIGN, ENCIPHER)),
    "leaf keyAgreement only": leaf(REFUSED, usage=(AGREE,)),
    "leaf nonRepudiation only": leaf(REFUSED, usage=(NO_DENIAL,)),
    "leaf more": leaf(ACCEPTED, usage=(*LOM, NO_DENIAL, AGREE)),
    "leaf keyCertSign, no CA": leaf(ACCEPTED, usage=(*LOM, CERTS)),
    "leaf unreadable": leaf(REFUSED, odd="keyUsage of another type"),
    "intermediate none": ca(ACCEPTED, usage=None),
    "intermediate keyCertSign only": ca(ACCEPTED, usage=(CERTS,)),
    "intermediate not critical": ca(ACCEPTED, usage_critical=False),
    "intermediate without keyCertSign": ca(REFUSED, usage=(SIGN, CRLS)),
    "intermediate cRLSign only": ca(REFUSED, usage=(CRLS,)),
    "root none": root(ACCEPTED, usage=None),
    "root without keyCertSign": root(REFUSED, usage=(SIGN,), rfc=f"accepted: {_ANCHOR}"),
}
PATH_LENGTH = {
    "intermediate 0": ca(ACCEPTED, path_length=0),
    "root 1 above one": root(ACCEPTED, path_length=1),
    "root 0 above one": root(REFUSED, path_length=0, rfc=f"accepted: {_ANCHOR}"),
    "root 0 above none": Case(ACCEPTED, (LEAF, replace(ROOT, path_length=0))),
    "upper 0 above one": Case(REFUSED, (LEAF, CA, replace(UPPER, path_length=0), ROOT)),
    "upper 1 above one": Case(ACCEPTED, (LEAF, CA, replace(UPPER, path_length=1), ROOT)),
    "lower longer than upper": Case(ACCEPTED, (LEAF, replace(CA, path_length=5), replace(UPPER, path_length=1), ROOT)),
    "upper 0 above a self-issued one": Case(
        ACCEPTED, (LEAF, replace(CA, self_issued=True), replace(UPPER, path_length=0), ROOT)
    ),
}
NAME_CONSTRAINTS = {
    "permitted": ca(ACCEPTED, below=NAMED, more=_permitted(*dns("lom.test"))),
    "permitted, not critical": ca(ACCEPTED, below=NAMED, more=_permitted(*dns("lom.test"), critical=False)),
    "others permitted": ca(REFUSED, below=NAMED, more=_permitted(*dns("other.test"))),
    "others permitted, not critical": ca(REFUSED, below=NAMED, more=_permitted(*dns("other.test"), critical=False)),
    "excluded": ca(REFUSED, below=NAMED, more=_excluded(*dns("lom.test"))),
    "others excluded": ca(ACCEPTED, below=NAMED, more=_excluded(*dns("other.test"))),
    "permitted without subjectAltName": ca(ACCEPTED, more=_permitted(*dns("lom.test"))),
    "others permitted without subjectAltName": ca(
        REFUSED, more=_permitted(*dns("other.test")), rfc="accepted: a CommonName is no dNSName (4.2.1.10)"
    ),
    "excluded without subjectAltName": ca(
        REFUSED, more=_excluded(*dns("lom.test")), rfc="accepted: a CommonName is no dNSName (4.2.1.10)"
    ),
    "e-mail addresses only": ca(ACCEPTED, below=NAMED, more=_permitted(x509.RFC822Name("lom.test"))),
    "its subject permitted": ca(ACCEPTED, below=NAMED, more=_permitted(_directory(NAME))),
    "its subject not permitted": ca(REFUSED, below=NAMED, more=_permitted(_directory("other"))),
    "its subject excluded": ca(REFUSED, below=NAMED, more=_excluded(_directory(NAME))),
    "of a root": Case(
        REFUSED, (NAMED, CA, replace(ROOT, more=_permitted(*dns("other.test")))), rfc=f"accepted: {_ANCHOR}"
    ),
    "of the upper of two": Case(REFUSED, (NAMED, CA, replace(UPPER, more=_excluded(*dns("lom.test"))), ROOT)),
    "of a kind that is not judged": ca(
        ACCEPTED, below=NAMED, more=_permitted(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))
    ),
}
UNKNOWN_EXTENSIONS = {
    "leaf critical": leaf(REFUSED, more=_unknown(True)),
    "leaf": leaf(ACCEPTED, more=_unknown(False)),
    "intermediate critical": ca(REFUSED, more=_unknown(True)),
    "intermediate": ca(ACCEPTED, more=_unknown(False)),
    "root critical": root(REFUSED, more=_unknown(True), rfc=f"accepted: {_ANCHOR}"),
    "root": root(ACCEPTED, more=_unknown(False)),
}
CHAINS = {
    "not shown": ca(REFUSED, shown=[]),
    "shown with the root": ca(ACCEPTED, shown=[1, 2]),
    "shown with strangers": ca(ACCEPTED, shown=[1, 1, 0]),
    "two, in the wrong order": Case(ACCEPTED, (LEAF, CA, UPPER, ROOT), shown=[2, 1]),
    "two, one of them not shown": Case(REFUSED, (LEAF, CA, UPPER, ROOT), shown=[2]),
    "an intermediate as anchor": ca(ACCEPTED, anchors=[1], shown=[]),
    "itself as anchor": leaf(ACCEPTED, anchors=[0]),
    "no anchor": leaf(REFUSED, anchors=[]),
    "a forged leaf": leaf(REFUSED, forged=0),
    "a forged intermediate": ca(REFUSED, forged=1),
    "self-signed": Case(REFUSED, (replace(LEAF, ca=True),), anchors=[]),
    "self-signed and trusted": Case(ACCEPTED, (LEAF,), anchors=[0]),
}
STRENGTH = {
    "RSA": leaf(ACCEPTED, key="RSA-2048"),
    "leaf of 1024 bits": leaf(REFUSED, key="RSA-1024", rfc="accepted: says nothing of strength"),
    "intermediate of 1024 bits": ca(REFUSED, key="RSA-1024", rfc="accepted: says nothing of strength"),
    "root of 1024 bits": root(REFUSED, key="RSA-1024", rfc="accepted: says nothing of strength"),
    "leaf by SHA-1": leaf(REFUSED, sha1=True, rfc="accepted: says nothing of strength"),
    "intermediate by SHA-1": ca(REFUSED, sha1=True, rfc="accepted: says nothing of strength"),
    "root by SHA-1": root(ACCEPTED, sha1=True),
}
TABLES = {
    "CN": COMMON_NAMES,
    "SAN": ALTERNATIVE_NAMES,
    "CA": BASIC_CONSTRAINTS,
    "dates": DATES,
    "EKU": EXTENDED_KEY_USAGE,
    "KU": KEY_USAGE,
    "pathlen": PATH_LENGTH,
    "name constraints": NAME_CONSTRAINTS,
    "unknown extension": UNKNOWN_EXTENSIONS,
    "chain": CHAINS,
    "strength": STRENGTH,
}
CASES = {f"{table}: {name}": case for table, cases in TABLES.items() for name, case in cases.items()}
