"""What the checks of LOM share: the LOM profiles, identities and requests that the server composed. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from agent.conform.trace.bodies import certificates_of
from agent.conform.trace.evidence import DeliveredCommand, Evidence, SentProfile
from agent.conform.trace.records import MacRecord, NoteRecord
from agent.conform.verdicts.requirement import (
    Check,
    Finding,
    Level,
    Outcome,
    Requirement,
    Source,
    failed,
    not_tested,
    passed,
)
from agent.pki.certificates import CertificateError, read_certificates

GUIDE = "Apple Platform Deployment, Lights Out Management (LOM) device management payload settings"
PAYLOAD = "profiles/com.apple.lom.yaml"
SETUP = "commands/lom.setuprequest.yaml"
REQUEST = "commands/lom.devicerequest.yaml"
LOM = "com.apple.lom"
SETUP_TYPE = "LOMSetupRequest"
REQUEST_TYPE = "LOMDeviceRequest"
ACTIONS = ("PowerON", "PowerOFF", "Reset")
LISTS = ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList")
VERSION = "LOMProtocolVersion"
ITEM: Mapping[str, type] = {
    "DeviceRequestType": str,
    "DeviceRequestUUID": str,
    "DeviceDNSName": str,
    **dict.fromkeys(LISTS, list),
    VERSION: int,
}
NO_IDENTITY = "No Mac got a LOM identity with a LOM profile of the server."
UNKNOWN_DEVICE = (
    "The Device of an item is not known, by its DeviceDNSName or its addresses, or its LOM identity is not."
)
NEVER_SENT = "The server sent no {what} in order, either: that it sends none before shows nothing."
NO_ACTIONS = "The server composed no {what} itself: it has no LOM actions that lom-agent knows, or refused them."
CERTIFICATE_KEYS = ("DeviceCertificateUUID", "ControllerCertificateUUID")
CA_KEYS = ("DeviceCACertificateUUIDs", "ControllerCACertificateUUIDs")
NEW_ADDRESSES = "new addresses"
"""By which the record of an answer to LOMSetupRequest is found that a probe wrote (``message_type``)."""
EXAMPLE_ANSWER = "example answer"
"""The same of an answer to LOMDeviceRequest with the keys of the documented example."""
IDENTITY_STEP = "LOM identity"
"""Of the notes with the certificates of a LOM identity that a Mac has, and ``key``, that of the payload."""
PKCS12 = "com.apple.security.pkcs12"
IDENTITY_TYPES = (PKCS12, "com.apple.security.scep", "com.apple.security.acme")
CA_TYPES = ("com.apple.security.root", "com.apple.security.pem", "com.apple.security.pkcs1")


def by_server(evidence: Evidence, request_type: str, *, form: bool = False) -> list[DeliveredCommand]:
    """The commands of this type that the server composed itself, each as often as it was sent.

    With ``form`` also those of which it chose the form alone.
    """
    return [each for each in evidence.commands(request_type) if evidence.by_server(each.command_uuid, form=form)]


def lom_profiles(evidence: Evidence, udid: str | None = None) -> list[SentProfile]:
    """The profiles with a LOM payload that the server made."""
    return [
        each
        for each in evidence.profiles(udid)
        if each.command_uuid and each.of_type(LOM) and evidence.by_server(each.command_uuid)
    ]


def of_named(
    evidence: Evidence,
    keys: tuple[str, ...],
    judge: Callable[[SentProfile, str, Any, Mapping[str, Any] | None], Finding | None],
) -> Finding:
    """The first failure in what the LOM payloads name in ``keys``; passed if there is none, and something is named.

    ``judge`` gets the profile, the key, the UUID, and the payload that the profile has of it. It returns a finding
    that is no failure for what cannot be judged.
    """
    profiles = lom_profiles(evidence)
    judged: list[SentProfile] = []
    for profile in profiles:
        for payload in profile.of_type(LOM):
            for key, uuid in [(name, each) for name in keys for each in uuids_in(payload, name)]:
                found = judge(profile, key, uuid, profile.payload(uuid))
                if found is None:
                    judged.append(profile)
                elif found.outcome is Outcome.FAILED:
                    return found
    if judged:
        return passed(*judged)
    if profiles:
        return not_tested(f"No LOM profile of the server names a payload in {' or '.join(keys)}.", *profiles)
    return not_tested(NO_ACTIONS.format(what="LOM profile"))


def of_identities(evidence: Evidence, expected: str, judge: Callable[[x509.Certificate], str]) -> Finding:
    """The first LOM identity about which ``judge`` says something; passed if there is none."""
    judged: list[SentProfile] = []
    for profile in lom_profiles(evidence):
        for certificate in identities(evidence, profile):
            judged.append(profile)
            seen = judge(certificate)
            if seen:
                return failed(expected, seen, profile)
    return passed(*judged) if judged else not_tested(NO_IDENTITY)


def identities(
    evidence: Evidence, profile: SentProfile, keys: tuple[str, ...] = CERTIFICATE_KEYS
) -> Iterator[x509.Certificate]:
    """The own certificates of the LOM identities that a Mac has by the profile."""
    for chain in chains(evidence, profile, keys):
        yield chain[0]


def chains(evidence: Evidence, profile: SentProfile, keys: tuple[str, ...]) -> Iterator[tuple[x509.Certificate, ...]]:
    """The certificates of each LOM identity that a Mac has by the profile, its own first.

    A PKCS12 contains them; with a SCEP or ACME payload they are those that the Mac got.
    """
    for payload in profile.of_type(LOM):
        for key in keys:
            named = profile.payload(payload.get(key)) or {}
            if named.get("PayloadType") == PKCS12:
                chain = certificates_of(named.get("PayloadContent"))
            elif named.get("PayloadType") in IDENTITY_TYPES:
                chain = _issued_to(evidence, profile, key)
            else:
                continue
            if chain:
                yield chain


def _issued_to(evidence: Evidence, profile: SentProfile, key: str) -> tuple[x509.Certificate, ...]:
    for note in evidence.notes(IDENTITY_STEP, profile.udid):
        if note.number > profile.number and note.data["key"] == key:
            return tuple(read_certificates(str(note.data["certificates"]).encode()))
    return ()


def anchors(profile: SentProfile, key: str) -> list[x509.Certificate]:
    """The CA certificates of the profile that its LOM payload names in ``key``."""
    found: list[x509.Certificate] = []
    for payload in profile.of_type(LOM):
        for named in map(profile.payload, uuids_in(payload, key)):
            if named is not None and named.get("PayloadType") in CA_TYPES:
                found += certificates_of(named.get("PayloadContent"))
    return found


def uuids_in(payload: Mapping[str, Any], key: str) -> list[Any]:
    """The values of a key that names one payload or several."""
    value = payload.get(key, [])
    return value if isinstance(value, list) else [value]


def leads_to(chain: tuple[x509.Certificate, ...], trusted: list[x509.Certificate]) -> bool:
    """Whether the first certificate was issued by one of ``trusted``, directly or through the others of the chain."""
    certificate, others = chain[0], list(chain[1:])
    while True:
        if certificate in trusted or any(_issued(certificate, each) for each in trusted):
            return True
        issuer = next((each for each in others if _issued(certificate, each)), None)
        if issuer is None:
            return False
        others.remove(issuer)
        certificate = issuer


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it is that of a CA: by its Basic Constraints, or self-issued without them, as old roots are."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    return certificate.subject == certificate.issuer if constraints is None else bool(constraints.ca)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def common_name_of(certificate: x509.Certificate) -> str:
    """The first CommonName of the subject; empty if it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def extension_of(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def of_items(
    evidence: Evidence,
    judge: Callable[[Evidence, DeliveredCommand, Mapping[str, Any]], Finding | None],
    *,
    form: bool = False,
    known: Callable[[Evidence, DeliveredCommand, Mapping[str, Any]], bool] = lambda *_: True,
) -> Finding:
    """The first failure in an item of a LOMDeviceRequest that the server composed; passed if there is none.

    With ``form`` also of one of which it chose the form alone. An item that is not ``known`` cannot be judged: then
    the rest does not pass.
    """
    unknown: DeliveredCommand | None = None
    commands = first_of_each(by_server(evidence, REQUEST_TYPE, form=form))
    for command in commands:
        items = command.command.get("RequestList")
        if not isinstance(items, list) or not items:
            return failed("RequestList with at least one item", "none", command)
        for item in items:
            content = item if isinstance(item, dict) else {}
            if not known(evidence, command, content):
                unknown = unknown or command
                continue
            found = judge(evidence, command, content)
            if found is not None:
                return found
    if unknown is not None:
        return not_tested(UNKNOWN_DEVICE, unknown)
    return passed(*commands) if commands else not_tested(NO_ACTIONS.format(what=REQUEST_TYPE))


def first_of_each(commands: list[DeliveredCommand]) -> list[DeliveredCommand]:
    """Each command once, as it was sent first."""
    return list({each.command_uuid: each for each in reversed(commands)}.values())[::-1]


def device_names(evidence: Evidence, udid: str) -> set[str]:
    """The names in the Device identity of a Mac, in lower case."""
    found: set[str] = set()
    for profile in lom_profiles(evidence, udid):
        try:
            for certificate in identities(evidence, profile, CERTIFICATE_KEYS[:1]):
                alternative = extension_of(certificate, x509.SubjectAlternativeName)
                found.add(common_name_of(certificate).lower())
                if alternative is not None:
                    found.update(each.lower() for each in alternative.get_values_for_type(x509.DNSName))
        except CertificateError:
            continue
    return found - {""}


def addresses_in(values: Mapping[str, Any], key: str) -> Counter[str] | None:
    """The addresses of a list, each in its shortest form, in any order; None: the value is no list of strings."""
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        return None
    return Counter(map(_shortest, found))


def _shortest(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def answer_of(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last answer to LOMSetupRequest of the Device that an item is for; empty if it is not known."""
    mac = device_of(evidence, item)
    return {} if mac is None else evidence.answer(SETUP_TYPE, mac.udid, before=command.number)


def device_of(evidence: Evidence, item: Mapping[str, Any]) -> MacRecord | None:
    """The Device that an item is for, by its name; None if it is not known.

    Names are compared up to the first dot, so that a wrong domain does not hide the Device.
    """
    host = str(item.get("DeviceDNSName", "")).lower().partition(".")[0]
    for mac in evidence.macs:
        if host in {each.partition(".")[0] for each in device_names(evidence, mac.udid)}:
            return mac
    return None


def commands_of(evidence: Evidence, note: NoteRecord) -> list[DeliveredCommand]:
    """The LOMDeviceRequests that followed when one was queued: that with its CommandUUID, and those without a note.

    A server may ask each Device in a command of its own.
    """
    notes = [each for each in evidence.notes("queued", note.udid) if "devices" in each.data]
    others = {each.command_uuid for each in notes if each.number != note.number}
    end = min((each.number for each in notes if each.number > note.number), default=None)
    return [
        each
        for each in first_of_each(evidence.commands(REQUEST_TYPE, udid=note.udid))
        if (note.command_uuid and each.command_uuid == note.command_uuid)
        or (each.command_uuid not in others and note.number < each.number and (end is None or each.number < end))
    ]


def devices_without_name(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> list[MacRecord]:
    """The Devices that an item can be for, whatever its name: those whose answer has one of its addresses.

    If no answer has one, those that were asked for; if that is not known, those with a LOM identity.
    """
    wanted = all_addresses(item)
    answers = {mac.udid: evidence.answer(SETUP_TYPE, mac.udid, before=command.number) for mac in evidence.macs}
    found = [mac for mac in evidence.macs if wanted & all_addresses(answers[mac.udid])]
    if found:
        return found
    notes = [each for each in evidence.notes("queued", command.udid) if each.data.get("devices")]
    asked = [note for note in notes if command in commands_of(evidence, note)]
    if asked:
        return [mac for mac in evidence.macs if mac.udid in asked[-1].data["devices"]]
    return [mac for mac in evidence.macs if device_names(evidence, mac.udid)]


def all_addresses(values: Mapping[str, Any]) -> set[str]:
    """The addresses of both lists, each in its shortest form."""
    return {address for key in LISTS for address in addresses_in(values, key) or ()}


def must_of_lom(id_: str, says: str, source: Source, probes: tuple[str, ...], check: Check) -> Requirement:
    """A must of the profile ``lom``."""
    return Requirement(id_, Level.MUST, says, source, ("lom",), probes, check)


def should_of_lom(id_: str, says: str, source: Source, probes: tuple[str, ...], check: Check) -> Requirement:
    """A should of the profile ``lom``."""
    return Requirement(id_, Level.SHOULD, says, source, ("lom",), probes, check)
