"""Requirements of the set-up for LOM: the payload, its identities, LOMSetupRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.conform.reading.lom import (
    CA_KEYS,
    CERTIFICATE_KEYS,
    GUIDE,
    NEVER_SENT,
    NO_ACTIONS,
    PAYLOAD,
    SETUP,
    SETUP_TYPE,
    by_server,
    common_name_of,
    extension_of,
    lom_profiles,
    must_of_lom,
    of_identities,
    of_named,
)
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Finding, Source, failed, not_tested, passed


def profile_before_setup(evidence: Evidence) -> Finding:
    """No LOMSetupRequest reaches a Mac before it has acknowledged a LOM profile."""
    sent = by_server(evidence, SETUP_TYPE)
    for command in sent:
        installed = [each for each in lom_profiles(evidence, command.udid) if each.number < command.number]
        answers = [
            result
            for profile in installed
            for result in evidence.results(command_uuid=profile.command_uuid, udid=command.udid)
            if result.answer_status == "Acknowledged" and result.number <= command.number
        ]
        if not answers:
            return failed(
                "LOMSetupRequest only after the Mac has acknowledged its LOM profile",
                "LOMSetupRequest for a Mac that has acknowledged none",
                command,
                *installed,
            )
    asked = evidence.asked(SETUP_TYPE)
    if not asked:
        return not_tested(NO_ACTIONS.format(what=SETUP_TYPE))
    return passed(*asked, *sent) if sent else not_tested(NEVER_SENT.format(what=SETUP_TYPE), *asked)


def setup_to_the_letter(evidence: Evidence) -> Finding:
    """RequestType is LOMSetupRequest, in this spelling."""
    found = [each for each in evidence.commands() if each.request_type.lower() == SETUP_TYPE.lower()]
    found = [each for each in found if evidence.by_server(each.command_uuid, form=True)]
    if not found:
        return not_tested(NO_ACTIONS.format(what=SETUP_TYPE))
    for each in found:
        if each.request_type != SETUP_TYPE:
            return failed(f"RequestType {SETUP_TYPE}", f"RequestType {each.request_type[:80]}", each)
    return passed(*found)


def references_resolve(evidence: Evidence) -> Finding:
    """Each UUID in the LOM payload is the PayloadUUID of a payload of the same profile."""

    def judge(profile: SentProfile, key: str, uuid: Any, named: Mapping[str, Any] | None) -> Finding | None:
        if named is not None:
            return None
        return failed(f"{key} to name a payload of the profile", f"{str(uuid)[:80]}, which no payload has", profile)

    return of_named(evidence, (*CERTIFICATE_KEYS, *CA_KEYS), judge)


def key_usage(evidence: Evidence) -> Finding:
    """LOM identities have the three bits of Key Usage."""
    wanted = ("digital_signature", "key_encipherment", "data_encipherment")

    def judge(certificate: x509.Certificate) -> str:
        usage = extension_of(certificate, x509.KeyUsage)
        bits = [bit for bit in wanted if usage is not None and getattr(usage, bit)]
        return "" if len(bits) == len(wanted) else f"Key Usage {', '.join(map(_words, bits)) or 'without any of them'}"

    return of_identities(evidence, "Key Usage digital signature, key encipherment and data encipherment", judge)


def extended_key_usage(evidence: Evidence) -> Finding:
    """LOM identities have both Extended Key Usages."""
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}

    def judge(certificate: x509.Certificate) -> str:
        usage = extension_of(certificate, x509.ExtendedKeyUsage)
        found = [name for oid, name in wanted.items() if usage is not None and oid in usage]
        said = f"that of {', '.join(found)} authentication alone" if found else "neither"
        return "" if len(found) == len(wanted) else said

    return of_identities(evidence, "Extended Key Usage of server and of client authentication", judge)


def names(evidence: Evidence) -> Finding:
    """LOM identities have a CommonName and a dNSName."""

    def judge(certificate: x509.Certificate) -> str:
        if not common_name_of(certificate):
            return "a subject without a CommonName"
        alternative = extension_of(certificate, x509.SubjectAlternativeName)
        if alternative is None or not alternative.get_values_for_type(x509.DNSName):
            return "a SubjectAltName without a dNSName" if alternative is not None else "no SubjectAltName"
        return ""

    return of_identities(evidence, "a subject with a CommonName, and a SubjectAltName with a dNSName", judge)


def _words(bit: str) -> str:
    return bit.replace("_", " ")


REQUIREMENTS = (
    must_of_lom(
        "LOM-SETUP-01",
        "A server must install the LOM profile on a Mac before it sends LOMSetupRequest.",
        Source(SETUP, "notes"),
        ("lom-order",),
        profile_before_setup,
    ),
    must_of_lom(
        "LOM-SETUP-02",
        "RequestType must be LOMSetupRequest, in this spelling.",
        Source(SETUP, "requesttype"),
        ("lom-set-up",),
        setup_to_the_letter,
    ),
    must_of_lom(
        "LOM-SETUP-03",
        "Each UUID in a LOM payload must be the PayloadUUID of a payload of the same profile.",
        Source(PAYLOAD, "DeviceCertificateUUID, DeviceCACertificateUUIDs"),
        ("lom-set-up",),
        references_resolve,
    ),
    must_of_lom(
        "LOM-SETUP-04",
        "LOM identities must have the Key Usage digital signature, key encipherment and data encipherment.",
        Source(PAYLOAD, "DeviceCertificateUUID"),
        ("lom-set-up",),
        key_usage,
    ),
    must_of_lom(
        "LOM-SETUP-05",
        "LOM identities must have the Extended Key Usage of server and of client authentication.",
        Source(PAYLOAD, "DeviceCertificateUUID"),
        ("lom-set-up",),
        extended_key_usage,
    ),
    must_of_lom(
        "LOM-SETUP-06",
        "LOM identities must have a CommonName in the subject and a dNSName in SubjectAltName.",
        Source(GUIDE, "Certificates", "2026"),
        ("lom-set-up",),
        names,
    ),
)
