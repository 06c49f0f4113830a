"""The command table: for each command its access right and the function that carries it out.

To add a command, add a row and a function. A function returns the result, or steps (a generator) that return it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent.device import attestation
from agent.device.applications import installed_applications
from agent.device.attestation import can_attest
from agent.device.information import device_information, security_information
from agent.device.installing import install_profile
from agent.device.mac import Device
from agent.device.settings import apply_settings
from agent.device.steps import (
    AttestProperties,
    ChangePower,
    Erase,
    LeaveManagement,
    RelayItems,
    Steps,
    SynchroniseDeclarations,
)
from agent.device.supported import command_problem
from agent.errors import PeerError
from agent.lom.power import SystemRequest
from agent.lom.requests import (
    RelayItem,
    RelayOutcome,
    RequestListMalformed,
    parse_request_list,
    request_answer,
    setup_answer,
)
from agent.mdm.access_rights import AccessRights
from agent.mdm.commands import Command
from agent.mdm.results import (
    IDENTIFIER_MISSING,
    INVALID_REQUEST_TYPE,
    NOT_AUTHORIZED,
    ChainedError,
    Domain,
    Result,
    Status,
    acknowledged,
    failed,
)
from agent.mdm.values import WrongType, converted
from agent.plists import PlistError, type_name
from agent.profiles.enrollment import MDM
from agent.profiles.errors import ProfileError, malformed

ItemT = TypeVar("ItemT")

PIN_CHARACTERS = 6  # PIN of DeviceLock and EraseDevice. Source: apple-schema commands/device.lock.yaml, PIN

CommandSteps = Steps[Result]
_FORMAT_ERROR = Result(Status.COMMAND_FORMAT_ERROR)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the command table."""

    right: AccessRights | None
    """The access right that the command needs; None if it needs none."""
    carry_out: Callable[[Device, Command], Result | CommandSteps]
    may_wait: bool = True
    """Whether the Mac may answer NotNow."""


def carry_out(device: Device, command: Command) -> Result | CommandSteps:
    """The result of a command, or the steps that return it."""
    problem = command_problem(command.request_type, device.mac.os_version, command.channel)
    if problem is not None:
        return _mdm_error(INVALID_REQUEST_TYPE, problem)
    rule = COMMANDS.get(command.request_type)
    if rule is None:
        return _mdm_error(INVALID_REQUEST_TYPE, f"the request type {command.request_type[:200]} is not supported")
    if rule.right is not None and not device.allows(rule.right):
        return _mdm_error(
            NOT_AUTHORIZED,
            f"{command.request_type} needs the access right {int(rule.right)}, which the enrollment does not give",
        )
    if rule.may_wait and device.not_now is not None and device.not_now():
        return Result(Status.NOT_NOW)
    return rule.carry_out(device, command)


# Lights-out management.


def _lom_setup_request(device: Device, _command: Command) -> Result:
    lom = device.lom
    if lom is None or lom.device_identity is None:
        return _mdm_error(INVALID_REQUEST_TYPE, "LOMSetupRequest: this Mac is not set up as a LOM Device")
    mac = device.mac
    return acknowledged(setup_answer(device.dialect, mac.primary_ipv6, mac.secondary_ipv6, mac.lom_protocol_version))


def _lom_device_request(device: Device, command: Command) -> Result | CommandSteps:
    lom = device.lom
    if lom is None or lom.controller_identity is None:
        return _mdm_error(INVALID_REQUEST_TYPE, "LOMDeviceRequest: this Mac is not set up as a LOM Controller")
    try:
        parsed = parse_request_list(command.body, device.warn)
    except RequestListMalformed:
        return _FORMAT_ERROR
    return _relay(device, parsed)


def _relay(device: Device, parsed: list[RelayItem | RelayOutcome]) -> CommandSteps:
    device.relaying = True
    outcomes = iter((yield RelayItems(tuple(item for item in parsed if isinstance(item, RelayItem)))))
    device.relaying = False
    answered = [item if isinstance(item, RelayOutcome) else next(outcomes) for item in parsed]
    return acknowledged(request_answer(device.dialect, answered))


# Profiles and certificates.


def _install_profile(device: Device, command: Command) -> Result | CommandSteps:
    payload = command.body.get("Payload")
    if not isinstance(payload, bytes):
        return _FORMAT_ERROR
    return _install(device, payload)


def _install(device: Device, payload: bytes) -> CommandSteps:
    try:
        yield from install_profile(device, payload)
    except PlistError as error:
        return failed(*malformed(str(error)).chain)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def _remove_profile(device: Device, command: Command) -> Result:
    identifier = command.body.get("Identifier")
    if not isinstance(identifier, str):  # the only required key for which the answer of a real Mac is known
        found = type_name(identifier)
        reason = f"RemoveProfile: expected a string for Identifier, found {found}"
        return failed(ChainedError(Domain.MDM_CLIENT, IDENTIFIER_MISSING, reason))
    if any(MDM in profile.payload_types and profile.identifier == identifier for profile in device.profiles):
        # The server ends its own management: the Mac delivers its answer first, then removes the enrollment.
        device.after_delivery(LeaveManagement())
        return acknowledged()
    try:
        device.profiles.remove(identifier)
    except ProfileError as error:
        return failed(*error.chain)
    return acknowledged()


def _profile_list(device: Device, _command: Command) -> Result:
    return acknowledged({"ProfileList": [profile.listed for profile in device.profiles]})


def _certificate_list(device: Device, _command: Command) -> Result:
    """Source: apple-schema commands/certificate.list.yaml."""
    certificates = [
        (certificate, is_identity)
        for profile in device.profiles
        for certificate, is_identity in (
            *((certificate, False) for certificate in profile.certificates),
            *((identity.certificate, True) for identity in profile.identities),
        )
    ]
    return acknowledged(
        {
            "CertificateList": [
                {
                    "CommonName": _common_name(certificate),
                    "IsIdentity": is_identity,
                    "Data": certificate.public_bytes(Encoding.DER),
                }
                for certificate, is_identity in certificates
            ]
        }
    )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


# Device information and settings.


def _device_information(device: Device, command: Command) -> Result | CommandSteps:
    queries = command.body.get("Queries")
    if not _is_list_of(queries, str):
        return _FORMAT_ERROR
    if can_attest(device.mac) and (attestation.QUERY in queries or attestation.NONCE in command.body):
        nonce = command.body.get(attestation.NONCE)
        if not attestation.is_valid(nonce) or attestation.QUERY not in queries:
            return _FORMAT_ERROR
        return _attested_information(device, queries, nonce, command.channel)
    return acknowledged({"QueryResponses": device_information(device, queries, command.channel)})


def _attested_information(device: Device, queries: list[str], nonce: bytes | None, channel: str) -> CommandSteps:
    chain: tuple[bytes, ...] | PeerError = yield AttestProperties(nonce)
    attested = {} if isinstance(chain, PeerError) else {attestation.QUERY: list(chain)}
    return acknowledged({"QueryResponses": device_information(device, queries, channel) | attested})


def _security_info(device: Device, command: Command) -> Result:
    return acknowledged({"SecurityInfo": security_information(device, command.channel)})


def _installed_application_list(device: Device, command: Command) -> Result:
    identifiers = command.body.get("Identifiers")
    managed_only = _flag(device, command, "ManagedAppsOnly")
    if identifiers is not None and not _is_list_of(identifiers, str):
        return _FORMAT_ERROR
    # The Mac has no managed apps: no command of the table installs one.
    listed = [] if managed_only else installed_applications(device.mac, identifiers)
    return acknowledged({"InstalledApplicationList": listed})


def _settings(device: Device, command: Command) -> Result:
    items = command.body.get("Settings")
    if not _is_list_of(items, dict):
        return _FORMAT_ERROR
    return acknowledged({"Settings": apply_settings(device, items, command.channel)})


def _device_configured(device: Device, _command: Command) -> Result:
    device.settings.awaiting_configuration = False
    return acknowledged()


# Power, lock, erase.


def _restart_device(device: Device, command: Command) -> Result:
    if not _flag(device, command, "NotifyUser"):  # with it, the user decides; a simulated Mac has no user
        device.after_delivery(ChangePower(SystemRequest.RESTART))
    return acknowledged()


def _shut_down_device(device: Device, _command: Command) -> Result:
    device.after_delivery(ChangePower(SystemRequest.SHUT_DOWN))
    return acknowledged()


def _device_lock(device: Device, command: Command) -> Result:
    """Restart the Mac. The PIN counts as entered at once (our choice)."""
    pin = command.body.get("PIN")
    if pin is not None and (not isinstance(pin, str) or len(pin) != PIN_CHARACTERS):
        return _FORMAT_ERROR
    device.after_delivery(ChangePower(SystemRequest.RESTART))
    shows_text = "Message" in command.body or "PhoneNumber" in command.body
    return acknowledged({"MessageResult": "Success"} if shows_text else {})


def _erase_device(device: Device, command: Command) -> Result:
    pin = command.body.get("PIN")
    if pin is not None and (not isinstance(pin, str) or len(pin) != PIN_CHARACTERS):
        return _FORMAT_ERROR
    device.after_delivery(Erase())
    return acknowledged()


def _declarative_management(device: Device, command: Command) -> Result:
    tokens = command.body.get("Data", b"")
    if not isinstance(tokens, bytes):
        return _FORMAT_ERROR
    device.after_delivery(SynchroniseDeclarations(tokens))
    return acknowledged()


def _is_list_of(value: object, kind: type[ItemT]) -> TypeGuard[list[ItemT]]:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _flag(device: Device, command: Command, key: str) -> bool:
    """An optional boolean, converted from numbers; false if it is absent or of another type (our choice)."""
    try:
        return converted(command.body.get(key, False), bool, f"{key} of {command.request_type}", device.warn)
    except WrongType:
        return False


def _mdm_error(code: int, description: str) -> Result:
    return failed(ChainedError(Domain.MDM, code, description))


COMMANDS: Mapping[str, Rule] = {
    "CertificateList": Rule(AccessRights.INSPECT_PROFILES, _certificate_list),
    "DeclarativeManagement": Rule(None, _declarative_management),
    "DeviceConfigured": Rule(None, _device_configured),
    "DeviceInformation": Rule(None, _device_information),  # each key has its own right
    "DeviceLock": Rule(AccessRights.LOCK_DEVICE, _device_lock, may_wait=False),
    "EraseDevice": Rule(AccessRights.ERASE_DEVICE, _erase_device, may_wait=False),
    "InstallProfile": Rule(AccessRights.INSTALL_PROFILES, _install_profile),
    "InstalledApplicationList": Rule(AccessRights.INSPECT_APPLICATIONS, _installed_application_list),
    "LOMDeviceRequest": Rule(AccessRights.LOCK_DEVICE, _lom_device_request),
    "LOMSetupRequest": Rule(AccessRights.LOCK_DEVICE, _lom_setup_request),
    "ProfileList": Rule(AccessRights.INSPECT_PROFILES, _profile_list),
    "RemoveProfile": Rule(AccessRights.INSTALL_PROFILES, _remove_profile),
    "RestartDevice": Rule(AccessRights.LOCK_DEVICE, _restart_device),
    "SecurityInfo": Rule(AccessRights.SECURITY, _security_info),
    "Settings": Rule(AccessRights.SETTINGS, _settings),
    "ShutDownDevice": Rule(AccessRights.LOCK_DEVICE, _shut_down_device),
}
