"""What commands change on a Mac beside its profiles and settings: apps, users, passwords.

A SystemState is a value: a command replaces it by another one. It is written to the Mac's record as it is, so a field
that is added needs a default. Property lists, such as the configuration of an app, are kept as bytes.
"""

from __future__ import annotations

from enum import IntFlag

from msgspec import Struct
from msgspec.structs import replace


class ManagementFlags(IntFlag):
    """ManagementFlags of an app. Source: apple-schema commands/application.install.yaml."""

    REMOVE_WITH_ENROLLMENT = 1
    NO_BACKUP = 4


MAX_PROPERTY_LIST = 64 * 1024  # bytes of a configuration or manifest that the Mac keeps; ours

QUEUED = "Queued"
MANAGED = "Managed"
FAILED = "Failed"
INSTALLED = "Installed"  # an app that is not managed; no answer has this word


class App(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """An app that a command has installed, or that waits to be installed."""

    identifier: str
    """Empty until its manifest is read."""
    status: str = QUEUED
    """``Queued``, ``Managed``, ``Installed`` (not managed) or ``Failed``."""
    name: str = ""
    version: str = ""
    size: int = 0
    managed: bool = False
    declared: bool = False
    """Whether a declaration manages it; commands then leave it alone."""
    removable: bool = False
    """Whether it is removed with the declaration that installed it as a package."""
    flags: int = 0
    configuration: bytes = b""
    """A property list, or empty."""
    store_id: int = 0
    manifest: bytes = b""
    """The manifest of the command, as a property list; or empty."""
    manifest_url: str = ""
    pins: tuple[bytes, ...] = ()
    """The certificates to which the connection to ``manifest_url`` is pinned, as DER."""


class User(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A local account."""

    name: str
    full_name: str
    uid: int
    guid: str
    administrator: bool = False
    logged_in: bool = False
    mobile: bool = False
    """Of a directory service."""
    secure_token: bool = False
    hidden: bool = False
    automatic: bool = False
    """Made by AccountConfiguration."""


class FileVault(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """FileVault, which is on."""

    rotations: int = 0
    """How often the personal recovery key was rotated. The seed determines each key."""
    personal: bool = True
    institutional: bool = False


class FirmwarePassword(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The firmware password of a Mac with an Intel processor. Times are seconds since the epoch."""

    password: str = ""
    option_roms: bool = False
    pending: str | None = None
    """The password that is set by the next boot; empty to clear it."""
    pending_option_roms: bool = False
    set_at: float | None = None
    verified_at: float | None = None


class LogCollection(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A session of enhanced log collection."""

    token: str
    status: str
    at: float
    """When it was started, in seconds since the epoch."""


class ProvisioningProfile(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """An installed provisioning profile."""

    uuid: str
    name: str
    expires: float | None = None
    """In seconds since the epoch."""


class SystemState(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """What commands change. The defaults are the factory state."""

    erasures: int = 0
    """How often the Mac was erased. The seed and this number determine what a Mac makes anew after an erasure."""
    apps: tuple[App, ...] = ()
    users: tuple[User, ...] | None = None
    """None: the account that Setup Assistant made."""
    account_configuration: bytes = b""
    """AccountConfiguration for Setup Assistant, as a property list."""
    provisioning: tuple[ProvisioningProfile, ...] = ()
    filevault: FileVault | None = None
    escrow: bytes = b""
    """The certificate to which the personal recovery key is encrypted for the server, as DER."""
    escrow_profile: str = ""
    """The identifier of the profile with that certificate."""
    recovery_lock: str = ""
    firmware: FirmwarePassword = FirmwarePassword()
    activation_lock_cleared: bool = False
    remote_desktop: bool = False
    content_caching: bool = False
    bluetooth: bool = True
    scanned_at: float | None = None
    """When a command had the Mac look for updates last, in seconds since the epoch."""
    log_collection: LogCollection | None = None

    def app(self, identifier: str) -> App | None:
        """The app with this identifier, or None."""
        return next((app for app in self.apps if app.identifier == identifier), None)

    def managed_app(self, identifier: str) -> App | None:
        """The app with this identifier that commands manage, or None."""
        app = self.app(identifier)
        return app if app is not None and app.status == MANAGED and not app.declared else None

    def with_app(self, app: App, instead_of: App | None = None) -> SystemState:
        """The same with ``app`` in the place of another version of it, and of ``instead_of``."""
        others = [each for each in self.apps if each.identifier != app.identifier and each != instead_of]
        return replace(self, apps=(*others, app))

    def without_app(self, app: App) -> SystemState:
        """The same without this app."""
        return replace(self, apps=tuple(each for each in self.apps if each != app))

    def unenrolled(self) -> SystemState:
        """What is left when the enrollment is removed.

        Source: commands/application.install.yaml, ManagementFlags; commands/passcode.recovery.set.yaml.
        """
        kept = [replace(app, managed=False, declared=False, status=INSTALLED) for app in self.apps if _stays(app)]
        return replace(
            self,
            apps=tuple(kept),
            recovery_lock="",
            account_configuration=b"",
            provisioning=(),
            escrow=b"",
            escrow_profile="",
            log_collection=None,
        )

    def erased(self) -> SystemState:
        """The factory state, with the firmware password as it is."""
        return SystemState(erasures=self.erasures + 1, firmware=self.firmware)


FACTORY = SystemState()


def _stays(app: App) -> bool:
    if app.status not in (MANAGED, INSTALLED):
        return False
    return not (app.removable or (app.managed and ManagementFlags.REMOVE_WITH_ENROLLMENT & app.flags))
