"""The configurations that install apps and packages, and their items of ``app.managed.list`` and ``package.list``.

Source: apple-schema declarative/status/app.managed.list.yaml, package.list.yaml; Apple's pages of the configurations.
An app of the App Store is there at once, because its downloads are not modelled. One that is named by its composed
identifier has to be installed in another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.json import decode
from msgspec.structs import replace

from agent import plists
from agent.device.ddm.declared import Declaration, as_json, reason
from agent.device.installing.manifest import Package, package_of
from agent.device.installing.updates import rfc_3339
from agent.device.mac import Device
from agent.device.steps import Download, Steps
from agent.device.system import INSTALLED, MANAGED, App
from agent.errors import CutShort, PeerError

MANAGED_APP, PACKAGE = "com.apple.configuration.app.managed", "com.apple.configuration.package"
MANAGED_STATE, WAITING_STATE = "managed", "not-present"
_VALID = {"state": "valid"}  # of the configuration of an app or its extension
LISTS = {"app.managed.list": MANAGED_APP, "package.list": PACKAGE}
"""The status items that show these configurations."""


def app_items(device: Device, status_item: str) -> list[dict[str, Any]]:
    """The value of one of LISTS: an item for each configuration that is in effect, of an app or package one."""
    found: dict[str, dict[str, Any]] = {}
    for each in device.declared.of("configuration"):
        if each.type == LISTS[status_item] and each.applied and each.item:
            item = decode(each.item)
            found[item["identifier"]] = item
    return list(found.values())


def install_declared(device: Device, configuration: Declaration, now: float) -> Steps[None]:
    """Install the app or the package of a configuration. A failure is in its status item only. Raises CutShort."""
    if configuration.type == MANAGED_APP:
        item = _managed_app(device, configuration.payload)
    else:
        item = yield from _package(device, configuration, now)
    configuration.item = as_json({**item, "declaration-identifier": configuration.identifier})


def remove_declared(device: Device, configuration: Declaration) -> None:
    """Remove the app that a configuration managed, or the package with ``Remove``, unless another one has it."""
    if not configuration.item:
        return
    app = device.system.app(decode(configuration.item)["identifier"])
    configuration.item = b""
    if app is None:
        return
    if configuration.type == MANAGED_APP:
        gone = app.declared and not _is_managed(device, app.identifier)
    else:
        others = app_items(device, "package.list")
        gone = app.removable and app.identifier not in [item["identifier"] for item in others]
    if gone:
        device.system = device.system.without_app(app)


def _is_managed(device: Device, identifier: str) -> bool:
    """Whether a configuration, on either channel, manages this app."""
    items = [
        decode(each.item)
        for channel in device.channels
        for each in channel.declared.of("configuration")
        if each.type == MANAGED_APP and each.item
    ]
    return any(item["identifier"] == identifier and item["state"] == MANAGED_STATE for item in items)


def takes_over(device: Device, configuration: Declaration) -> bool:
    """Whether an app is installed now that a configuration in effect waits for, to manage it."""
    if configuration.type != MANAGED_APP or not configuration.applied or not configuration.item:
        return False
    item = decode(configuration.item)
    return item["state"] == WAITING_STATE and device.system.app(item["identifier"]) is not None


def take_over_apps(device: Device, wanted: Iterable[Declaration]) -> None:
    """Manage the apps that configurations of ``wanted`` wait for, and which are installed now."""
    for each in wanted:
        if takes_over(device, each):
            item = _managed_app(device, each.payload)
            each.item = as_json({**item, "declaration-identifier": each.identifier})


def _managed_app(device: Device, payload: Mapping[str, Any]) -> dict[str, Any]:
    composed = payload.get("AppComposedIdentifier", "")
    named = payload.get("BundleID") or composed.partition(" (")[0]
    identifier = named or f"app.{payload.get('AppStoreID', '')}"  # as for InstallApplication
    item: dict[str, Any] = {"identifier": identifier, "state": "optional"}
    if _is_required(payload):
        app = device.system.app(identifier) if composed else App(identifier=identifier)
        item["state"] = WAITING_STATE if app is None else MANAGED_STATE
        if app is not None:
            device.system = device.system.with_app(replace(app, status=MANAGED, managed=True, declared=True))
    states: dict[str, Any] = {"app-config-state": _VALID} if "AppConfig" in payload else {}
    if payload.get("ExtensionConfigs"):
        states["extension-config-state"] = dict.fromkeys(payload["ExtensionConfigs"], _VALID)
    return {**item, "config-state": states} if states else item


def _package(device: Device, configuration: Declaration, now: float) -> Steps[dict[str, Any]]:
    payload = configuration.payload
    item: dict[str, Any] = {"identifier": configuration.identifier}  # until the manifest is known; our choice
    try:
        manifest = yield from _download(device, payload["ManifestURL"])
        package = package_of(plists.load_dict(manifest, what="manifest"))
        item = {"identifier": package.identifier, "name": package.title, "version": package.version}
        if not _is_required(payload):
            return {**item, "state": "optional"}
        before = device.system.app(package.identifier)
        if before is not None and before.version == package.version and _has_installed(configuration, before):
            return {**item, "state": "installed"}
        octets = yield from _download(device, package.url)
        package.check(octets)
    except CutShort:
        raise
    except PeerError as error:
        why = reason("Error.DownloadFailed", str(error)[:500], Timestamp=rfc_3339(now))
        return {**item, "state": "failed", "reasons": [why]}
    removable = payload.get("UninstallBehavior", {}).get("Remove", False)
    device.system = device.system.with_app(_app(package, len(octets), removable=removable))
    return {**item, "state": "installed"}


def _has_installed(configuration: Declaration, app: App) -> bool:
    """Whether the configuration, before it changed, installed this app as its package."""
    before = decode(configuration.item) if configuration.item else {}
    return (before.get("identifier"), before.get("state")) == (app.identifier, "installed")


def _app(package: Package, size: int, *, removable: bool) -> App:
    return App(
        identifier=package.identifier,
        status=INSTALLED,
        name=package.title,
        version=package.version,
        size=size,
        removable=removable,
    )


def _is_required(payload: Mapping[str, Any]) -> bool:
    behavior: Mapping[str, str] = payload.get("InstallBehavior", {})
    return behavior.get("Install") == "Required"  # Apple: optional by default


def _download(device: Device, url: str) -> Steps[bytes]:
    enrollment = device.enrollment
    answer: bytes | PeerError = yield Download(url, () if enrollment is None else enrollment.anchors)
    if isinstance(answer, PeerError):
        raise answer
    return answer
