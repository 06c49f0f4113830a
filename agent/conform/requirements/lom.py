"""Requirements of LOM: the payload and its identities, LOMSetupRequest, LOMDeviceRequest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.conform.bodies import certificates_of
from agent.conform.evidence import DeliveredCommand, Evidence, SentProfile
from agent.conform.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed
from agent.pki.certificates import CertificateError

_GUIDE = "Apple Platform Deployment, Use lights-out management on Mac computers"
_PAYLOAD = "profiles/com.apple.lom.yaml"
_SETUP = "commands/lom.setuprequest.yaml"
_REQUEST = "commands/lom.devicerequest.yaml"
_LOM = "com.apple.lom"
_SETUP_TYPE = "LOMSetupRequest"
_REQUEST_TYPE = "LOMDeviceRequest"
_ACTIONS = ("PowerON", "PowerOFF", "Reset")
_LISTS = ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList")
_VERSION = "LOMProtocolVersion"
_ITEM: Mapping[str, type] = {
    "DeviceRequestType": str,
    "DeviceRequestUUID": str,
    "DeviceDNSName": str,
    **dict.fromkeys(_LISTS, list),
    _VERSION: int,
}
_NO_ACTIONS = "The server composed no {what} itself: it has no LOM actions that lom-agent knows, or refused them."
_CERTIFICATE_KEYS = ("DeviceCertificateUUID", "ControllerCertificateUUID")
_CA_KEYS = ("DeviceCACertificateUUIDs", "ControllerCACertificateUUIDs")


# LOM-SETUP


def profile_before_setup(evidence: Evidence) -> Finding:
    """No LOMSetupRequest reaches a Mac before it has acknowledged a LOM profile."""
    for command in _by_server(evidence, _SETUP_TYPE):
        installed = [each for each in _lom_profiles(evidence, command.udid) if each.number < command.number]
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
    asked = [*evidence.notes("refused"), *evidence.notes("queued")]
    if not any(each.request_type == _SETUP_TYPE for each in asked):
        return not_tested(_NO_ACTIONS.format(what=_SETUP_TYPE))
    return passed(*[each for each in asked if each.request_type == _SETUP_TYPE])


def setup_to_the_letter(evidence: Evidence) -> Finding:
    """RequestType is LOMSetupRequest, in this spelling."""
    found = [each for each in evidence.commands() if each.request_type.lower() == _SETUP_TYPE.lower()]
    found = [each for each in found if evidence.by_server(each.command_uuid)]
    if not found:
        return not_tested(_NO_ACTIONS.format(what=_SETUP_TYPE))
    for each in found:
        if each.request_type != _SETUP_TYPE:
            return failed(f"RequestType {_SETUP_TYPE}", f"RequestType {each.request_type[:80]}", each)
    return passed(*found)


def references_resolve(evidence: Evidence) -> Finding:
    """Each UUID in the LOM payload is the PayloadUUID of a payload of the same profile."""

    def judge(profile: SentProfile, payload: Mapping[str, Any]) -> Finding | None:
        uuids = [(key, payload[key]) for key in _CERTIFICATE_KEYS if key in payload]
        for key in _CA_KEYS:
            value = payload.get(key, [])
            uuids += [(key, each) for each in value] if isinstance(value, list) else [(key, value)]
        for key, uuid in uuids:
            if profile.payload(uuid) is None:
                return failed(
                    f"{key} to name a payload of the profile", f"{str(uuid)[:80]}, which no payload has", profile
                )
        return None

    return _of_payloads(evidence, judge)


def key_usage(evidence: Evidence) -> Finding:
    """LOM identities have the three bits of Key Usage."""
    wanted = ("digital_signature", "key_encipherment", "data_encipherment")

    def judge(certificate: x509.Certificate) -> str:
        usage = _extension(certificate, x509.KeyUsage)
        bits = [bit for bit in wanted if usage is not None and getattr(usage, bit)]
        return "" if len(bits) == len(wanted) else f"Key Usage {', '.join(map(_words, bits)) or 'without any of them'}"

    return _of_identities(evidence, "Key Usage digital signature, key encipherment and data encipherment", judge)


def extended_key_usage(evidence: Evidence) -> Finding:
    """LOM identities have both Extended Key Usages."""
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}

    def judge(certificate: x509.Certificate) -> str:
        usage = _extension(certificate, x509.ExtendedKeyUsage)
        found = [name for oid, name in wanted.items() if usage is not None and oid in usage]
        said = f"that of {', '.join(found)} authentication alone" if found else "neither"
        return "" if len(found) == len(wanted) else said

    return _of_identities(evidence, "Extended Key Usage of server and of client authentication", judge)


def names(evidence: Evidence) -> Finding:
    """LOM identities have a CommonName and a dNSName."""

    def judge(certificate: x509.Certificate) -> str:
        if not _common_name(certificate):
            return "a subject without a CommonName"
        alternative = _extension(certificate, x509.SubjectAlternativeName)
        if alternative is None or not alternative.get_values_for_type(x509.DNSName):
            return "a SubjectAltName without a dNSName" if alternative is not None else "no SubjectAltName"
        return ""

    return _of_identities(evidence, "a subject with a CommonName, and a SubjectAltName with a dNSName", judge)


# LOM-DEVICE


def item_keys(evidence: Evidence) -> Finding:
    """Each item has every required key, with a value of its type."""

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        for key, kind in _ITEM.items():
            value = item.get(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                seen = f"{key} with a {type(value).__name__}" if key in item else f"an item without {key}"
                return failed(f"{key} in each item, of its type", seen, command)
        return None

    return _of_items(evidence, judge)


def action_spelling(evidence: Evidence) -> Finding:
    """DeviceRequestType is one of Apple's three words."""

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        action = item.get("DeviceRequestType")
        if action in _ACTIONS:
            return None
        return failed(f"DeviceRequestType {', '.join(_ACTIONS)}", str(action)[:80], command)

    return _of_items(evidence, judge)


def addresses(evidence: Evidence) -> Finding:
    """The address lists are those of the Device's answer."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        answer = _answer_of(evidence, command, item)
        for key in _LISTS:
            if answer and item.get(key) != answer.get(key):
                return failed(f"{key} {answer.get(key)}, as the Device answered", f"{item.get(key)}", command)
        return None

    return _of_items(evidence, judge)


def protocol_version(evidence: Evidence) -> Finding:
    """LOMProtocolVersion is that of the Device's answer."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        answer = _answer_of(evidence, command, item)
        if not answer or item.get(_VERSION) == answer.get(_VERSION):
            return None
        return failed(f"{_VERSION} {answer.get(_VERSION)}, as the Device answered", str(item.get(_VERSION)), command)

    return _of_items(evidence, judge)


def dns_name(evidence: Evidence) -> Finding:
    """DeviceDNSName is the CommonName or a dNSName of the identity of a Device of the segment."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        name = item.get("DeviceDNSName")
        known = {each for mac in evidence.macs for each in _device_names(evidence, mac.udid)}
        if not known or (isinstance(name, str) and name.lower() in known):
            return None
        return failed(f"DeviceDNSName of {', '.join(sorted(known))}", str(name)[:200], command)

    return _of_items(evidence, judge)


def unique_uuids(evidence: Evidence) -> Finding:
    """No two items have the same DeviceRequestUUID."""
    seen: dict[str, DeliveredCommand] = {}

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        uuid = str(item.get("DeviceRequestUUID")).upper()
        if uuid in seen:
            return failed("a new DeviceRequestUUID for each item", f"{uuid[:80]} again", seen[uuid], command)
        seen[uuid] = command
        return None

    return _of_items(evidence, judge)


def setup_before_request(evidence: Evidence) -> Finding:
    """No LOMDeviceRequest is sent for a Device that has not answered LOMSetupRequest."""
    for command in _by_server(evidence, _REQUEST_TYPE):
        controller = evidence.mac(command.udid)
        answered = [
            result
            for mac in evidence.macs
            if mac.segment == controller.segment and mac.udid != controller.udid
            for result in evidence.results(_SETUP_TYPE, udid=mac.udid)
            if result.answer_status == "Acknowledged" and result.number < command.number
        ]
        if not answered:
            return failed(
                "LOMDeviceRequest only after the Device has answered LOMSetupRequest",
                "LOMDeviceRequest for a Device that has not",
                command,
            )
    asked = [*evidence.notes("refused"), *evidence.notes("queued")]
    asked = [each for each in asked if each.request_type == _REQUEST_TYPE]
    return passed(*asked) if asked else not_tested(_NO_ACTIONS.format(what=_REQUEST_TYPE))


def partial_success(evidence: Evidence) -> Finding:
    """A LOMDeviceRequest of which an item failed is over: it is not sent again."""
    for result in evidence.results(_REQUEST_TYPE):
        items = result.request.dictionary.get("ResponseList")
        if not isinstance(items, list) or all(each.get("DeviceRequestSuccess") is not False for each in items):
            continue
        if result.status != 200:
            return failed("the result to be answered with 200", f"{result.status or result.error}", result)
        again = evidence.commands(command_uuid=result.command_uuid, after=result.number - 1)
        if again:
            return failed("no command again after its result was accepted", "the same command again", result, *again)
        return passed(result)
    return not_tested("No LOMDeviceRequest had an item that failed.")


# Parts.


def _by_server(evidence: Evidence, request_type: str) -> list[DeliveredCommand]:
    return [each for each in evidence.commands(request_type) if evidence.by_server(each.command_uuid)]


def _lom_profiles(evidence: Evidence, udid: str | None = None) -> list[SentProfile]:
    """The profiles with a LOM payload that the server made."""
    return [
        each
        for each in evidence.profiles(udid)
        if each.command_uuid and each.of_type(_LOM) and evidence.by_server(each.command_uuid)
    ]


def _of_payloads(evidence: Evidence, judge: Callable[[SentProfile, Mapping[str, Any]], Finding | None]) -> Finding:
    """The first failure in a LOM payload; passed if there is none."""
    profiles = _lom_profiles(evidence)
    for profile in profiles:
        for payload in profile.of_type(_LOM):
            found = judge(profile, payload)
            if found is not None:
                return found
    return passed(*profiles) if profiles else not_tested(_NO_ACTIONS.format(what="LOM profile"))


def _of_identities(evidence: Evidence, expected: str, judge: Callable[[x509.Certificate], str]) -> Finding:
    """The first LOM identity about which ``judge`` says something; passed if there is none."""
    judged: list[SentProfile] = []
    for profile in _lom_profiles(evidence):
        for certificate in _identities(profile):
            judged.append(profile)
            seen = judge(certificate)
            if seen:
                return failed(expected, seen, profile)
    return passed(*judged) if judged else not_tested("No LOM profile of the server had an identity as a PKCS12.")


def _identities(profile: SentProfile, keys: tuple[str, ...] = _CERTIFICATE_KEYS) -> Iterator[x509.Certificate]:
    """The own certificates of the LOM identities that come with the profile."""
    for payload in profile.of_type(_LOM):
        for key in keys:
            named = profile.payload(payload.get(key))
            if named is not None and named.get("PayloadType") == "com.apple.security.pkcs12":
                yield from certificates_of(named.get("PayloadContent"))[:1]


def _common_name(certificate: x509.Certificate) -> str:
    """The first CommonName of the subject; empty if it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _words(bit: str) -> str:
    return bit.replace("_", " ")


def _of_items(
    evidence: Evidence, judge: Callable[[Evidence, DeliveredCommand, Mapping[str, Any]], Finding | None]
) -> Finding:
    """The first failure in an item of a LOMDeviceRequest that the server composed; passed if there is none."""
    commands = _first_of_each(_by_server(evidence, _REQUEST_TYPE))
    for command in commands:
        items = command.command.get("RequestList")
        if not isinstance(items, list) or not items:
            return failed("RequestList with at least one item", "none", command)
        for item in items:
            found = judge(evidence, command, item if isinstance(item, dict) else {})
            if found is not None:
                return found
    return passed(*commands) if commands else not_tested(_NO_ACTIONS.format(what=_REQUEST_TYPE))


def _first_of_each(commands: list[DeliveredCommand]) -> list[DeliveredCommand]:
    """Each command once, as it was sent first."""
    return list({each.command_uuid: each for each in reversed(commands)}.values())[::-1]


def _device_names(evidence: Evidence, udid: str) -> set[str]:
    """The names in the Device identity of a Mac, in lower case."""
    found: set[str] = set()
    for profile in _lom_profiles(evidence, udid):
        try:
            for certificate in _identities(profile, _CERTIFICATE_KEYS[:1]):
                alternative = _extension(certificate, x509.SubjectAlternativeName)
                found.add(_common_name(certificate).lower())
                if alternative is not None:
                    found.update(each.lower() for each in alternative.get_values_for_type(x509.DNSName))
        except CertificateError:
            continue
    return found - {""}


def _answer_of(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last answer to LOMSetupRequest of the Device that an item is for; empty if it is not known.

    The Device is known by its name, else by an address; names are compared up to the first dot, so that a wrong domain
    does not hide the Device.
    """
    host = str(item.get("DeviceDNSName", "")).lower().partition(".")[0]
    for mac in evidence.macs:
        if host in {each.partition(".")[0] for each in _device_names(evidence, mac.udid)}:
            return evidence.answer(_SETUP_TYPE, mac.udid, before=command.number)
    return {}


def _must(id_: str, says: str, source: Source, probes: tuple[str, ...], check: Any) -> Requirement:
    return Requirement(id_, Level.MUST, says, source, ("lom",), probes, check)


_ITEMS = "RequestList"
REQUIREMENTS = (
    _must(
        "LOM-SETUP-01",
        "A server must install the LOM profile on a Mac before it sends LOMSetupRequest.",
        Source(_SETUP, "description"),
        ("lom-order",),
        profile_before_setup,
    ),
    _must(
        "LOM-SETUP-02",
        "RequestType must be LOMSetupRequest, in this spelling.",
        Source(_SETUP, "RequestType"),
        ("lom-set-up",),
        setup_to_the_letter,
    ),
    _must(
        "LOM-SETUP-03",
        "Each UUID in a LOM payload must be the PayloadUUID of a payload of the same profile.",
        Source(_PAYLOAD, "DeviceCertificateUUID, DeviceCACertificateUUIDs"),
        ("lom-set-up",),
        references_resolve,
    ),
    _must(
        "LOM-SETUP-04",
        "LOM identities must have the Key Usage digital signature, key encipherment and data encipherment.",
        Source(_PAYLOAD, "DeviceCertificateUUID"),
        ("lom-set-up",),
        key_usage,
    ),
    _must(
        "LOM-SETUP-05",
        "LOM identities must have the Extended Key Usage of server and of client authentication.",
        Source(_PAYLOAD, "DeviceCertificateUUID"),
        ("lom-set-up",),
        extended_key_usage,
    ),
    _must(
        "LOM-SETUP-06",
        "LOM identities must have a CommonName in the subject and a dNSName in SubjectAltName.",
        Source(_GUIDE, "", "2026"),
        ("lom-set-up",),
        names,
    ),
    _must(
        "LOM-DEVICE-01",
        "Each item of RequestList must have DeviceRequestType, DeviceRequestUUID, DeviceDNSName, both address lists "
        "and LOMProtocolVersion, each of its type.",
        Source(_REQUEST, _ITEMS),
        ("lom-requests",),
        item_keys,
    ),
    _must(
        "LOM-DEVICE-02",
        "DeviceRequestType must be PowerON, PowerOFF or Reset, in this spelling.",
        Source(_REQUEST, "DeviceRequestType"),
        ("lom-requests",),
        action_spelling,
    ),
    _must(
        "LOM-DEVICE-03",
        "PrimaryIPv6AddressList and SecondaryIPv6AddressList must be those of the Device's answer to LOMSetupRequest.",
        Source(_REQUEST, "PrimaryIPv6AddressList, SecondaryIPv6AddressList"),
        ("lom-requests",),
        addresses,
    ),
    _must(
        "LOM-DEVICE-04",
        "LOMProtocolVersion must be the one that the Device answered to LOMSetupRequest.",
        Source(_REQUEST, _VERSION),
        ("lom-requests",),
        protocol_version,
    ),
    _must(
        "LOM-DEVICE-05",
        "DeviceDNSName must be the CommonName or a dNSName of the Device's LOM identity.",
        Source(_REQUEST, "DeviceDNSName"),
        ("lom-requests",),
        dns_name,
    ),
    _must(
        "LOM-DEVICE-06",
        "Each item must have a DeviceRequestUUID of its own.",
        Source(_REQUEST, "DeviceRequestUUID"),
        ("lom-requests",),
        unique_uuids,
    ),
    _must(
        "LOM-DEVICE-07",
        "A server must not send LOMDeviceRequest for a Device before that has answered LOMSetupRequest.",
        Source(_REQUEST, "PrimaryIPv6AddressList"),
        ("lom-order",),
        setup_before_request,
    ),
    _must(
        "LOM-DEVICE-08",
        "A server must accept a result in which items failed, and not send the request again.",
        Source(_REQUEST, "ResponseList"),
        ("lom-partial",),
        partial_success,
    ),
)
