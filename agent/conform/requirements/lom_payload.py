"""Requirements of the LOM profile: its payload, whom it trusts, and the identities of different Macs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.conform.reading.lom import (
    CA_KEYS,
    CA_TYPES,
    CERTIFICATE_KEYS,
    GUIDE,
    IDENTITY_TYPES,
    LOM,
    NO_ACTIONS,
    NO_IDENTITY,
    PAYLOAD,
    REQUEST,
    anchors,
    chains,
    common_name_of,
    extension_of,
    identities,
    is_ca,
    leads_to,
    lom_profiles,
    must_of_lom,
    of_identities,
    of_named,
    should_of_lom,
)
from agent.conform.trace.bodies import certificates_of
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Check, Finding, Source, failed, not_tested, passed
from agent.pki.certificates import CertificateError

_TLS_CERTIFICATES = "Apple Support 103769, Requirements for trusted certificates in iOS 13 and macOS 10.15"
_RSA_BITS = 2048
_EC_BITS = 256
_WEAK_HASHES = ("md5", "sha1")
_NO_PAYLOAD = "The UUID names no payload of the profile."
_NO_PROFILE = NO_ACTIONS.format(what="LOM profile")
_DEVICE, _CONTROLLER = CERTIFICATE_KEYS
_DEVICE_CAS, _CONTROLLER_CAS = CA_KEYS
_PROBE = ("lom-set-up",)


def one_payload(evidence: Evidence) -> Finding:
    """A profile has one LOM payload."""
    profiles = lom_profiles(evidence)
    for profile in profiles:
        count = len(profile.of_type(LOM))
        if count > 1:
            return failed(f"one payload {LOM} in a profile", str(count), profile)
    return passed(*profiles) if profiles else not_tested(_NO_PROFILE)


def role_keys(role: str, keys: tuple[str, str]) -> Check:
    """The check that the LOM payload of a Mac with this role has the keys of the role."""

    def check(evidence: Evidence) -> Finding:
        judged = [each for each in lom_profiles(evidence) if role in evidence.mac(each.udid).roles]
        for profile in judged:
            for payload in profile.of_type(LOM):
                for key in keys:
                    if not payload.get(key):
                        return failed(f"{key} in the LOM payload of a {role.title()}", "a payload without it", profile)
        return passed(*judged) if judged else not_tested(_NO_PROFILE)

    return check


def identity_types(evidence: Evidence) -> Finding:
    """Identities are payloads that provide one. UUIDs that name no payload are not judged."""

    def judge(profile: SentProfile, key: str, _uuid: Any, named: Mapping[str, Any] | None) -> Finding | None:
        return not_tested(_NO_PAYLOAD) if named is None else _of_types(profile, key, named, IDENTITY_TYPES)

    return of_named(evidence, CERTIFICATE_KEYS, judge)


def ca_certificates(evidence: Evidence) -> Finding:
    """CAs are payloads that contain the certificate of one. UUIDs that name no payload are not judged."""

    def judge(profile: SentProfile, key: str, _uuid: Any, named: Mapping[str, Any] | None) -> Finding | None:
        if named is None:
            return not_tested(_NO_PAYLOAD)
        wrong = _of_types(profile, key, named, CA_TYPES)
        if wrong is not None:
            return wrong
        try:
            certificates = certificates_of(named.get("PayloadContent"))
        except CertificateError:
            certificates = ()
        if any(map(is_ca, certificates)):
            return None
        names = ", ".join(common_name_of(each) or "without a name" for each in certificates)[:200]
        seen = f"one with the certificate {names}, which is of no CA" if certificates else "one without a certificate"
        return failed(f"{key} to name a payload with the certificate of a CA", seen, profile)

    return of_named(evidence, CA_KEYS, judge)


def _of_types(profile: SentProfile, key: str, named: Mapping[str, Any], types: tuple[str, ...]) -> Finding | None:
    found = named.get("PayloadType")
    if found in types:
        return None
    seen = f"one of type {str(found)[:80]}"
    return failed(f"{key} to name a payload of type {', '.join(types)}", seen, profile)


def trusted(identity_key: str, cas_key: str, role: str) -> Check:
    """The check that the identities of ``identity_key`` lead to a CA of ``cas_key`` of each Mac with ``role``."""

    def check(evidence: Evidence) -> Finding:
        profiles = lom_profiles(evidence)
        peers = [(each, anchors(each, cas_key)) for each in profiles if role in evidence.mac(each.udid).roles]
        judged: list[SentProfile] = []
        for profile in profiles:
            segment = evidence.mac(profile.udid).segment
            for chain in chains(evidence, profile, (identity_key,)):
                for peer, trust in peers:
                    if not trust or evidence.mac(peer.udid).segment != segment:
                        continue
                    if not leads_to(chain, trust):
                        names = ", ".join(common_name_of(each) or "without a name" for each in trust)[:200]
                        seen = f"one that was issued by none of these: {names}"
                        return failed(
                            f"the identity of {identity_key} to lead to a CA of {cas_key}", seen, profile, peer
                        )
                    judged += (profile, peer)
        if judged:
            return passed(*judged)
        if not any(trust for _, trust in peers):
            return not_tested(f"No LOM profile of the server had a CA certificate in {cas_key}.")
        return not_tested(NO_IDENTITY)

    return check


def one_name(evidence: Evidence) -> Finding:
    """The CommonName of a LOM identity is one of its dNSNames."""

    def judge(certificate: x509.Certificate) -> str:
        name = common_name_of(certificate)
        alternative = extension_of(certificate, x509.SubjectAlternativeName)
        others = [] if alternative is None else alternative.get_values_for_type(x509.DNSName)
        if not name or not others or name.lower() in [each.lower() for each in others]:
            return ""
        return f"{name[:200]} and the dNSName {', '.join(others)[:200]}"

    return of_identities(evidence, "the CommonName as a dNSName of the same certificate", judge)


def own_identity(evidence: Evidence) -> Finding:
    """No two Macs have a Device identity with the same key, or with the same name."""
    owners: dict[bytes | str, SentProfile] = {}
    for profile in lom_profiles(evidence):
        for certificate in identities(evidence, profile, (_DEVICE,)):
            key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for what, value in (("key", key), ("name", common_name_of(certificate).lower())):
                owner = owners.setdefault(value, profile) if value else profile
                if owner.udid != profile.udid:
                    return failed(f"a Device identity with a {what} of its own", f"one {what} for two", owner, profile)
    macs = {each.udid for each in owners.values()}
    if len(macs) > 1:
        return passed(*owners.values())
    return not_tested(NO_IDENTITY if lom_profiles(evidence) else _NO_PROFILE)


def valid_now(evidence: Evidence) -> Finding:
    """LOM identities are within their dates when the Mac gets them."""
    judged: list[SentProfile] = []
    for profile in lom_profiles(evidence):
        at = datetime.fromtimestamp(profile.exchange.at, UTC)
        for certificate in identities(evidence, profile):
            judged.append(profile)
            first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not first <= at <= last:
                seen = f"one that is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}"
                return failed(f"an identity that is valid at {at:%Y-%m-%d %H:%M}", seen, profile)
    return passed(*judged) if judged else not_tested(NO_IDENTITY)


def strength(evidence: Evidence) -> Finding:
    """LOM identities have strong keys and signatures."""
    return of_identities(
        evidence,
        f"RSA keys of {_RSA_BITS} bits, EC keys of {_EC_BITS} bits, or more, and signatures of SHA-2",
        _weakness,
    )


def _weakness(certificate: x509.Certificate) -> str:
    try:
        key, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return ""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS:
        return f"an RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _EC_BITS:
        return f"an EC key of {key.key_size} bits"
    weak = algorithm is not None and algorithm.name in _WEAK_HASHES
    return f"a signature of {algorithm.name}" if algorithm is not None and weak else ""


def scope(evidence: Evidence) -> Finding:
    """A LOM profile is for the system."""
    profiles = lom_profiles(evidence)
    for profile in profiles:
        found = profile.content.get("PayloadScope", "System")
        if found != "System":
            return failed("PayloadScope System", str(found)[:80], profile)
    return passed(*profiles) if profiles else not_tested(_NO_PROFILE)


REQUIREMENTS = (
    must_of_lom(
        "LOM-SETUP-07",
        "A profile must have one com.apple.lom payload.",
        Source(PAYLOAD, "supportedOS macOS multiple"),
        _PROBE,
        one_payload,
    ),
    must_of_lom(
        "LOM-SETUP-08",
        "The LOM payload of a Device must have DeviceCertificateUUID and ControllerCACertificateUUIDs.",
        Source(GUIDE, "CA Certificate Trusts for Controller", "2026"),
        _PROBE,
        role_keys("device", (_DEVICE, _CONTROLLER_CAS)),
    ),
    must_of_lom(
        "LOM-SETUP-09",
        "The LOM payload of a Controller must have ControllerCertificateUUID and DeviceCACertificateUUIDs.",
        Source(GUIDE, "CA Certificate Trusts for a Device", "2026"),
        _PROBE,
        role_keys("controller", (_CONTROLLER, _DEVICE_CAS)),
    ),
    must_of_lom(
        "LOM-SETUP-10",
        "DeviceCertificateUUID and ControllerCertificateUUID must name payloads that provide an identity.",
        Source(PAYLOAD, "DeviceCertificateUUID, ControllerCertificateUUID"),
        _PROBE,
        identity_types,
    ),
    must_of_lom(
        "LOM-SETUP-11",
        "DeviceCACertificateUUIDs and ControllerCACertificateUUIDs must name payloads that contain a CA certificate.",
        Source(PAYLOAD, "DeviceCACertificateUUIDs, ControllerCACertificateUUIDs"),
        _PROBE,
        ca_certificates,
    ),
    must_of_lom(
        "LOM-SETUP-12",
        "Device identities must lead to a CA in DeviceCACertificateUUIDs of the Controller of their segment.",
        Source(PAYLOAD, "DeviceCACertificateUUIDs"),
        _PROBE,
        trusted(_DEVICE, _DEVICE_CAS, "controller"),
    ),
    must_of_lom(
        "LOM-SETUP-13",
        "Controller identities must lead to a CA in ControllerCACertificateUUIDs of the Devices of their segment.",
        Source(PAYLOAD, "ControllerCACertificateUUIDs"),
        _PROBE,
        trusted(_CONTROLLER, _CONTROLLER_CAS, "device"),
    ),
    should_of_lom(
        "LOM-SETUP-14",
        "The CommonName of a LOM identity should also be its dNSName: DeviceDNSName is both.",
        Source(REQUEST, "DeviceDNSName; notes"),
        _PROBE,
        one_name,
    ),
    should_of_lom(
        "LOM-SETUP-15",
        "Each Mac should have a Device identity with a key and a name of its own.",
        Source(REQUEST, "DeviceDNSName"),
        _PROBE,
        own_identity,
    ),
    must_of_lom(
        "LOM-SETUP-16",
        "LOM identities must be within their dates.",
        Source("RFC 5280", "6.1.3 (a) (2)", "2008-05"),
        _PROBE,
        valid_now,
    ),
    should_of_lom(
        "LOM-SETUP-17",
        "LOM identities should have RSA keys of 2048 bits, EC keys of 256 bits, or more, and signatures of SHA-2.",
        Source(_TLS_CERTIFICATES, "RSA and SHA-2; EC: Apple support article 126655, as quoted by vendors", "2019-11"),
        _PROBE,
        strength,
    ),
    must_of_lom(
        "LOM-SETUP-18",
        "PayloadScope of a LOM profile, if it is present, must be System: LOM has no user channel.",
        Source(PAYLOAD, "supportedOS macOS userchannel"),
        _PROBE,
        scope,
    ),
)
