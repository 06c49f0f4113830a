"""The status items of one Mac, and the StatusReports that say what changed of those that its server subscribed to.

Source: apple-schema declarative/status/*.yaml, declarative/protocol/statusreport.yaml.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.json import decode

from agent.device.ddm.apps import app_items
from agent.device.ddm.configured import ACCOUNTS, account_items, unresolved_groups
from agent.device.ddm.declared import KINDS, PLURALS, Declared, as_json
from agent.device.ddm.validation import enrollment_type, is_supported, known_types
from agent.device.derived import made_by_macos
from agent.device.facts.information import QUERIES, security_information
from agent.device.installing.updates import rfc_3339, update_status
from agent.device.mac import Device
from agent.fleet.derivation import uuid_text
from agent.mdm.facts import message, of_kind

CAPABILITIES, DECLARATIONS = "management.client-capabilities", "management.declarations"
IMPLICIT = (CAPABILITIES, DECLARATIONS)
"""What is reported without a subscription."""
PROTOCOL_VERSIONS = ("1.0.0",)
_RELEASES = 64  # with their channels, of which the capabilities are kept
_ERROR = b"error"  # stands for the value of a status item that was reported as an error
_DIGEST_BYTES = 12


class NoStatus(KeyError):
    """The Mac does not have this status item."""


@lru_cache(_RELEASES)
def supported_items(release: str, channel: str, *, supervised: bool = True) -> frozenset[str]:
    """The status items that a Mac with this release has on the channel.

    Without supervision a Mac has none of the schema; it reports those without subscription all the same (our choice),
    because its server learns from them why it refuses each declaration.
    """
    return frozenset(
        name
        for name, found in of_kind("status").items()
        if name in found.request  # without the StatusReason, which is a part of others
        and (is_supported(found.fact, release, channel, supervised=supervised or name in IMPLICIT))
    )


@lru_cache(_RELEASES)
def capabilities(release: str, channel: str, *, supervised: bool = True) -> Mapping[str, Any]:
    """The value of ``management.client-capabilities`` on the channel."""
    types = known_types(release, channel, supervised=supervised)
    items = supported_items(release, channel, supervised=supervised)
    return {
        "supported-versions": list(PROTOCOL_VERSIONS),
        "supported-features": {},
        "supported-payloads": {
            "declarations": {PLURALS[kind]: types.get(kind, []) for kind in KINDS},
            "status-items": sorted(items & {*_VALUES, _TEST_ERROR}),
        },
    }


def status_value(device: Device, name: str) -> Any:
    """The value of a status item. Raises NoStatus."""
    supported = supported_items(device.mac.os_version, device.channel, supervised=device.supervised)
    if name not in _VALUES or name not in supported:
        raise NoStatus(name)
    value = _VALUES[name](device)
    if value is None:  # such as the model number of a Mac with an Intel processor
        raise NoStatus(name)
    return value


class Report(msgspec.Struct, frozen=True):
    """A StatusReport. ``reported`` is what the Mac stores once the server has accepted it."""

    body: Mapping[str, Any]
    reported: dict[str, bytes]


def report(device: Device, subscribed: Iterable[str], *, full: bool) -> Report | None:
    """What changed since the last report, or everything if it is ``full``; None if nothing did."""
    declared = device.declared
    items: dict[str, Any] = {}
    errors: list[dict[str, Any]] = []
    reported: dict[str, bytes] = {}
    for name in sorted({*subscribed, *IMPLICIT}):
        before = b"" if full else declared.reported.get(name, b"")
        try:
            value = status_value(device, name)
        except NoStatus:
            reported[name] = _ERROR
            if before != _ERROR:
                errors.append(_error(name))
            continue
        reported[name] = stored = _stored(name, value)
        if stored != before:
            _place(items, name, value if not before else _changes(name, before, value))
    if not items and not errors:
        return None
    body: dict[str, Any] = {"StatusItems": items, "Errors": errors}
    if full and _knows_full_report(device.mac.os_version):
        body["FullReport"] = True
    return Report(body, reported)


def _stored(name: str, value: Any) -> bytes:
    """What tells later whether a value has changed; of an array all of it, because its changes are reported."""
    octets = as_json(value)
    return octets if _has_items(name, value) else hashlib.sha256(octets).digest()[:_DIGEST_BYTES]


def _has_items(name: str, value: Any) -> bool:
    return isinstance(value, list) and not name.startswith("test.")


def _changes(name: str, before: bytes, value: Any) -> Any:
    """The items of an array that are new or changed, and the removed ones; any other value as a whole."""
    if not _has_items(name, value) or before == _ERROR:
        return value
    old = {item["identifier"]: item for item in decode(before)}
    new = {item["identifier"]: item for item in value}
    removed = [{"identifier": identifier, "_removed": True} for identifier in old if identifier not in new]
    return [item for identifier, item in new.items() if old.get(identifier) != item] + removed


def _place(items: dict[str, Any], name: str, value: Any) -> None:
    """Put a value in its place: each part of the name is a key of the dictionary before it."""
    *above, last = name.split(".")
    for part in above:
        items = items.setdefault(part, {})
    items[last] = value


def _error(name: str) -> dict[str, Any]:
    description = f"Cannot report status on “{name[:200]}” because value is not supported."
    return {"StatusItem": name, "Reasons": [{"Code": "Error.UnsupportedStatusValue", "Description": description}]}


def _knows_full_report(release: str) -> bool:
    return message("protocol", "StatusReport").request["FullReport"].fact.is_in(release)


# The values.


def _declarations(device: Device) -> dict[str, list[dict[str, Any]]]:
    declared: Declared = device.declared
    return {plural: [each.reported for each in declared.of(kind)] for kind, plural in PLURALS.items()}


def _certificates(device: Device) -> list[dict[str, Any]]:
    """Each certificate once, by its fingerprint."""
    found: dict[str, dict[str, Any]] = {}
    for profile in device.profiles:
        shown = [(each, False) for each in profile.certificates]
        shown += [(each.certificate, True) for each in profile.identities]
        for certificate, is_identity in shown:
            octets = certificate.public_bytes(Encoding.DER)
            identifier = hashlib.sha256(octets).hexdigest()
            found[identifier] = {
                "identifier": identifier,
                "subject-summary": _summary(certificate),
                "is-identity": is_identity,
                "data": base64.b64encode(octets).decode(),
            }
    return list(found.values())


def _summary(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def _content_cache(device: Device) -> dict[str, Any]:
    on = device.system.content_caching
    guid = uuid_text(made_by_macos(device, "content cache")[:16], 4)
    return {"server-guid": guid, "activated": on, "active": on, "cache-status": "OK", "version": device.mac.os_version}


def _of_update(name: str) -> Callable[[Device], Any]:
    return lambda device: update_status(device)[name]


def _log_collection(device: Device) -> tuple[str, str, str]:
    """Status, token and date of the last session of enhanced log collection."""
    session = device.system.log_collection
    return ("none", "", "") if session is None else (session.status, session.token, rfc_3339(session.at))


_TEST_ERROR = "test.error-value"
_VALUES: Mapping[str, Callable[[Device], Any]] = {
    **{f"account.list.{kind}": partial(account_items, kind=kind) for kind in ACCOUNTS},
    "app.managed.list": lambda device: app_items(device, "app.managed.list"),
    "content-cache.info": lambda _: {"cache-status": "OK", "cache-used": 0},
    "content-cache.parents": lambda _: [],
    "content-cache.peers": lambda _: [],
    "content-cache.status": _content_cache,
    "device.identifier.serial-number": lambda device: device.mac.serial_number,
    "device.identifier.udid": lambda device: device.mac.udid,
    "device.model.family": lambda _: "Mac",
    "device.model.identifier": lambda device: device.mac.model,
    "device.model.marketing-name": lambda device: device.mac.model_name,
    "device.model.number": lambda device: QUERIES["ModelNumber"](device),
    "device.operating-system.build-version": lambda device: device.mac.build_version,
    "device.operating-system.family": lambda _: "macOS",
    "device.operating-system.marketing-name": lambda device: f"macOS {device.mac.os_version}",
    "device.operating-system.supplemental.build-version": lambda device: device.mac.build_version,
    "device.operating-system.supplemental.extra-version": lambda _: "",
    "device.operating-system.version": lambda device: device.mac.os_version,
    "device.power.battery-health": lambda _: "unsupported",
    "diskmanagement.filevault.enabled": lambda device: security_information(device)["FDE_Enabled"],
    "enhanced-logging.applecare-token": lambda device: _log_collection(device)[1],
    "enhanced-logging.status": lambda device: _log_collection(device)[0],
    "enhanced-logging.timestamp": lambda device: _log_collection(device)[2],
    CAPABILITIES: lambda device: capabilities(device.mac.os_version, device.channel, supervised=device.supervised),
    DECLARATIONS: _declarations,
    "mdm.enrollment-type": lambda device: enrollment_type(supervised=device.supervised),
    "mdm.is-awaiting-configuration": lambda device: device.settings.awaiting_configuration,
    "mdm.push-magic": lambda device: device.push_magic,
    "mdm.push-token": lambda device: base64.b64encode(device.push_token).decode(),
    "migration-assistant.report": lambda _: {},
    "migration-assistant.state": lambda _: "waiting",
    "package.list": lambda device: app_items(device, "package.list"),
    "screensharing.connection.group.unresolved-connection": unresolved_groups,
    "security.certificate.list": _certificates,
    "security.lockdown-mode": lambda _: False,
    "services.background-task": lambda _: [],
    "softwareupdate.beta-enrollment": lambda _: "",
    "softwareupdate.device-id": lambda device: QUERIES["SoftwareUpdateDeviceID"](device),
    "softwareupdate.failure-reason": _of_update("softwareupdate.failure-reason"),
    "softwareupdate.install-reason": _of_update("softwareupdate.install-reason"),
    "softwareupdate.install-state": _of_update("softwareupdate.install-state"),
    "softwareupdate.pending-version": _of_update("softwareupdate.pending-version"),
    "test.array-value": lambda _: [],
    "test.boolean-value": lambda _: True,
    "test.dictionary-value": lambda _: {"key1": "test"},
    "test.integer-value": lambda _: 1,
    "test.real-value": lambda _: 1.5,
    "test.string-value": lambda _: "test",
}
