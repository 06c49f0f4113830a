"""Installs the apps that commands have queued: the manifest is fetched, then the package, whose hash is checked.

The server has its answer before, so that it sees a failure only in ManagedApplicationList.
Source: apple-schema commands/application.install.enterprise.yaml.
"""

from __future__ import annotations

from cryptography import x509
from msgspec.structs import replace

from agent import plists
from agent.device.installing.manifest import ManifestMalformed, package_of
from agent.device.mac import Device
from agent.device.steps import Download, Steps
from agent.device.system import FAILED, INSTALLED, MANAGED, QUEUED, App, SystemState
from agent.errors import CutShort, PeerError
from agent.pki.certificates import read_certificate


def queued_app(device: Device) -> App | None:
    """The next app that waits to be installed, or None."""
    return next((app for app in device.system.apps if app.status == QUEUED), None)


def install_queued_apps(device: Device) -> Steps[list[str]]:
    """Install the apps that wait, in order. Returns why some could not be installed. Raises CutShort."""
    failures = []
    while (app := queued_app(device)) is not None:
        try:
            installed: App | None = yield from _install(device, app)
        except CutShort:  # the Mac went down or offline: it tries again
            raise
        except PeerError as error:
            installed = None
            name = app.identifier or app.manifest_url or "of a manifest"
            failures.append(f"the app {name[:200]} is not installed: {error}")
        present = device.system.app(app.identifier if installed is None else installed.identifier)
        if present is not None and present.declared:  # which became known with the manifest
            device.system = device.system.without_app(app)
            failures.append(f"the app {present.identifier[:200]} is not installed: a declaration manages it")
            continue
        if app not in device.system.apps:  # removed meanwhile, with the enrollment or by a command
            continue
        device.system = _failed(device.system, app) if installed is None else device.system.with_app(installed, app)
    return failures


def _failed(state: SystemState, app: App) -> SystemState:
    """The state after a failure, which a managed app shows; an older version of the app stays."""
    state = state.without_app(app)
    if not app.managed or not app.identifier or state.app(app.identifier) is not None:
        return state
    return state.with_app(replace(_done(app), status=FAILED))


def _install(device: Device, app: App) -> Steps[App]:
    if not app.manifest and not app.manifest_url:  # from the App Store, whose downloads are not modelled
        return _done(app)
    anchors = () if device.enrollment is None else device.enrollment.anchors
    manifest = app.manifest
    if app.manifest_url:
        manifest = yield from _download(app.manifest_url, anchors, tuple(map(read_certificate, app.pins)))
    package = package_of(plists.load_dict(manifest, what="manifest"))
    octets = yield from _download(package.url, anchors)
    package.check(octets)
    if app.identifier and app.identifier != package.identifier:
        raise ManifestMalformed(f"expected the app {app.identifier[:200]}, found {package.identifier[:200]}")
    named = replace(app, identifier=package.identifier, name=package.title, version=package.version, size=len(octets))
    return _done(named)


def _done(app: App) -> App:
    status = MANAGED if app.managed else INSTALLED
    return replace(app, status=status, manifest=b"", manifest_url="", pins=())


def _download(url: str, anchors: tuple[x509.Certificate, ...], pins: tuple[x509.Certificate, ...] = ()) -> Steps[bytes]:
    answer: bytes | PeerError = yield Download(url, anchors, pins)
    if isinstance(answer, PeerError):
        raise answer
    return answer
