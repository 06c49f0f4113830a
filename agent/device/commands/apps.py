"""The commands for apps. Source: apple-schema commands/application.*.yaml, managed.application.*.yaml."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.device.commands.reading import (
    FORMAT_ERROR,
    MAX_TEXT,
    CommandRefused,
    flag,
    https_url,
    is_list_of,
    one_of,
    optional,
    packed,
    refusal,
    required,
    text,
    texts,
)
from agent.device.facts.applications import app_item, installed_applications
from agent.device.facts.extensions import EXTENSIONS
from agent.device.facts.supported import USER_CHANNEL
from agent.device.installing.manifest import ManifestMalformed, package_of
from agent.device.mac import Device
from agent.device.steps import InstallApps
from agent.device.system import FAILED, INSTALLED, MANAGED, QUEUED, App
from agent.errors import PeerError
from agent.mdm.commands import Command
from agent.mdm.results import (
    APP_ALREADY_INSTALLED,
    APP_NOT_MANAGED,
    APP_NOT_REMOVABLE,
    INVALID_APP_MANIFEST,
    MALFORMED_REQUEST,
    Result,
    Status,
    acknowledged,
)
from agent.pki.certificates import CertificateError, read_certificate

_MAX_APPS = 250  # that commands have installed; ours
_MAX_PINS = 10  # ours
_STORE_SIZE = 50_000_000  # bytes of an app of the App Store; nothing is downloaded
_STORE_VERSION = "1.0"
_PROGRAM = "com.apple.cloudvpp"


def install_application(device: Device, command: Command) -> Result:
    """Queue an app of the App Store, or of a manifest."""
    store_id = optional(device, command, "iTunesStoreID", int)
    identifier = optional(device, command, "Identifier", str)
    url = optional(device, command, "ManifestURL", str)
    if sum(value is not None for value in (store_id, identifier, url)) != 1:
        return FORMAT_ERROR
    options = optional(device, command, "Options", dict) or {}
    one_of(options.get("PurchaseMethod"), (0, 1))
    common = _common(device, command, flags=(1, 4, 5))
    if url is not None:
        app = replace(common, manifest_url=https_url(url, "ManifestURL"))
    else:
        if identifier is not None and (not 0 < len(identifier) <= MAX_TEXT):
            return FORMAT_ERROR
        # The bundle identifier of an app that is named by its number alone is our choice.
        name = identifier or f"app.{store_id}"
        app = replace(
            common, identifier=name, name=name, version=_STORE_VERSION, size=_STORE_SIZE, store_id=store_id or 0
        )
    _queue(device, command, app)
    answer = {"State": QUEUED}
    return acknowledged(answer if identifier is None else {**answer, "Identifier": identifier})


def install_enterprise_application(device: Device, command: Command) -> Result:
    """Queue an app of a manifest."""
    manifest = optional(device, command, "Manifest", dict)
    url = optional(device, command, "ManifestURL", str)
    if (manifest is None) == (url is None):
        return FORMAT_ERROR
    pins = _pins(command)
    flag(device, command, "PinningRevocationCheckRequired")
    common = _common(device, command, flags=(1,))
    if url is not None:
        app = replace(common, manifest_url=https_url(url, "ManifestURL"), pins=pins)
    else:
        app = _of_manifest(common, manifest or {})
    _queue(device, command, app)
    return acknowledged()


def _of_manifest(common: App, manifest: dict[str, Any]) -> App:
    try:
        package = package_of(manifest)
    except ManifestMalformed as error:
        raise refusal(INVALID_APP_MANIFEST, str(error)) from error
    https_url(package.url, "url of the manifest")
    return replace(common, identifier=package.identifier, manifest=packed(manifest))


def _pins(command: Command) -> tuple[bytes, ...]:
    found = command.body.get("ManifestURLPinningCerts", [])
    if not is_list_of(found, bytes) or len(found) > _MAX_PINS:
        raise CommandRefused(FORMAT_ERROR)
    try:
        for octets in found:
            read_certificate(octets)
    except CertificateError as error:
        raise refusal(MALFORMED_REQUEST, f"ManifestURLPinningCerts: {error}") from error
    return tuple(found)


def _common(device: Device, command: Command, *, flags: tuple[int, ...]) -> App:
    """What both commands have: is the app managed, and how?"""
    managed = flag(device, command, "InstallAsManaged")
    management_flags = optional(device, command, "ManagementFlags", int)
    one_of(management_flags, (0, *flags))
    one_of(optional(device, command, "ChangeManagementState", str), ("Managed",))
    if flag(device, command, "iOSApp") and not device.mac.apple_silicon:
        raise refusal(INVALID_APP_MANIFEST, "iOSApp: only a Mac with Apple silicon runs apps of iOS")
    configuration = optional(device, command, "Configuration", dict)
    return App(identifier="", managed=managed, flags=management_flags or 0, configuration=packed(configuration))


def _check_not_declared(device: Device, identifier: str, code: int) -> None:
    """Raise CommandRefused for an app that a declaration manages."""
    app = device.system.app(identifier)
    if app is not None and app.declared:
        raise refusal(code, f"a declaration manages the app {identifier[:200]}")


def _queue(device: Device, command: Command, app: App) -> None:
    """Have the app installed once the server has accepted the answer; then it replaces one of its identifier."""
    if app.identifier and installed_applications(device.mac, [app.identifier]):
        raise refusal(APP_ALREADY_INSTALLED, f"the app {app.identifier[:200]} is part of macOS")
    _check_not_declared(device, app.identifier, APP_ALREADY_INSTALLED)
    if len(device.system.apps) >= _MAX_APPS:
        raise refusal(MALFORMED_REQUEST, f"{command.request_type}: there are {_MAX_APPS} apps already")
    waiting = [each for each in device.system.apps if each.status == QUEUED and each.identifier == app.identifier != ""]
    apps = [each for each in device.system.apps if each not in waiting]
    device.system = replace(device.system, apps=(*apps, app))
    device.after_delivery(InstallApps())


def remove_application(device: Device, command: Command) -> Result:
    """Remove a managed app."""
    identifier = text(device, command, "Identifier")
    _check_not_declared(device, identifier, APP_NOT_REMOVABLE)
    app = device.system.managed_app(identifier)
    if app is None:
        raise refusal(APP_NOT_MANAGED, f"the app {identifier[:200]} is not managed")
    device.system = device.system.without_app(app)
    return acknowledged()


def installed_application_list(device: Device, command: Command) -> Result:
    """The apps of macOS, and those that commands have installed."""
    identifiers = texts(command, "Identifiers")
    managed_only = flag(device, command, "ManagedAppsOnly")
    listed = [] if managed_only else installed_applications(device.mac, identifiers)
    statuses = (MANAGED,) if managed_only else (MANAGED, INSTALLED)
    added = [app for app in device.system.apps if app.status in statuses and not (managed_only and app.declared)]
    listed += [
        app_item(device.mac.os_version, app.identifier, app.name, (app.version, app.version), app.size)
        for app in added
        if identifiers is None or app.identifier in identifiers
    ]
    return acknowledged({"InstalledApplicationList": listed})


def managed_application_list(device: Device, command: Command) -> Result:
    """The managed apps and those that are to be. A failure is reported once."""
    identifiers = texts(command, "Identifiers")
    listed = [
        app
        for app in device.system.apps
        if app.managed
        and app.identifier
        and not app.declared
        and (identifiers is None or app.identifier in identifiers)
    ]
    answer = {app.identifier: _managed_item(app, command.channel) for app in listed}
    for app in listed:
        if app.status == FAILED:
            device.system = device.system.without_app(app)
    return acknowledged({"ManagedApplicationList": answer})


def _managed_item(app: App, channel: str) -> dict[str, Any]:
    item = {
        "Status": app.status,
        "ManagementFlags": app.flags,
        "HasConfiguration": bool(app.configuration),
        "ExternalVersionIdentifier": app.store_id,
    }
    if channel == USER_CHANNEL:
        item["HasFeedback"] = False  # no app runs (docs/modelled.md)
    return item


def managed_application_configuration(device: Device, command: Command) -> Result:
    """The configurations of managed apps."""
    items = []
    for app in _asked_for(device, command):
        item: dict[str, Any] = {"Identifier": app.identifier}
        if app.configuration:
            item["Configuration"] = plists.load_dict(app.configuration)
        items.append(item)
    return acknowledged({"ApplicationConfigurations": items})


def managed_application_feedback(device: Device, command: Command) -> Result:
    """The feedback of managed apps. They have none: no app runs (docs/modelled.md)."""
    flag(device, command, "DeleteFeedback")
    items = [{"Identifier": app.identifier} for app in _asked_for(device, command)]
    return acknowledged({"ManagedApplicationFeedback": items})


def _asked_for(device: Device, command: Command) -> list[App]:
    identifiers = texts(command, "Identifiers")
    if identifiers is None:
        raise CommandRefused(FORMAT_ERROR)
    managed = [app for app in device.system.apps if app.status == MANAGED and not app.declared]
    return [app for app in managed if app.identifier in identifiers]


def active_extensions(device: Device, command: Command) -> Result:
    """The extensions of macOS that are in use."""
    points = texts(command, "FilterExtensionPoints")
    found = [
        {**extension.listed, "Path": extension.path, "Version": device.mac.os_version, "UserElection": "Default"}
        for extension in EXTENSIONS
        if points is None or extension.point in points
    ]
    return acknowledged({"Extensions": found})


def extension_mappings(_device: Device, _command: Command) -> Result:
    """The extensions of macOS."""
    return acknowledged({"Extensions": [extension.listed for extension in EXTENSIONS]})


def invite_to_program(device: Device, command: Command) -> Result:
    """Invite the user to the Volume Purchase Program, after Setup Assistant. Nobody answers."""
    if device.settings.awaiting_configuration:
        return Result(Status.NOT_NOW)
    program, url = required(device, command, "ProgramID", str), required(device, command, "InvitationURL", str)
    if program != _PROGRAM:
        return acknowledged({"InvitationResult": "InvalidProgramID"})
    try:
        https_url(url, "InvitationURL")
    except PeerError:
        return acknowledged({"InvitationResult": "InvalidInvitationURL"})
    return acknowledged({"InvitationResult": "Acknowledged"})
