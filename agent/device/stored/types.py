"""The stored form of a Device: what each record holds. A field that an older record lacks has a default.

Certificates and identities are there once; the rest names them by number.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from agent.device.ddm.declared import Declared
from agent.device.installing.software_update import Update
from agent.device.system import FACTORY, SystemState
from agent.lom.power import PowerRecord
from agent.lom.recent_answers import AnswerRecord
from agent.mdm.session import SessionRecord

Numbers = tuple[int, ...]  # of certificates or identities


class _Record(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The base of the records."""


class IdentityRecord(_Record, frozen=True):
    """An identity: its certificates by number, its key in DER."""

    certificate: int
    key: bytes
    chain: Numbers = ()


class EnrollmentRecord(_Record, frozen=True):
    """An Enrollment."""

    identity: int
    server_url: str
    check_in_url: str
    topic: str
    access_rights: int
    anchors: Numbers = ()
    server_pins: Numbers = ()
    check_in_pins: Numbers = ()
    sign_message: bool = False
    check_out_when_removed: bool = False
    capabilities: tuple[str, ...] = ()
    assigned_managed_apple_id: str = ""
    enrollment_mode: str = ""


class ProfileRecord(_Record, frozen=True):
    """An installed profile."""

    identifier: str
    payload_types: tuple[str, ...]
    listed: dict[str, Any]
    """Its item of ProfileList without the signers."""
    identities: Numbers = ()
    certificates: Numbers = ()
    signers: Numbers = ()


class LOMRecord(_Record, frozen=True):
    """A LOMConfiguration."""

    device_identity: int | None = None
    controller_identity: int | None = None
    device_anchors: Numbers = ()
    controller_anchors: Numbers = ()


class InstalledRecord(_Record, frozen=True):
    """A ProfileStore."""

    profiles: tuple[ProfileRecord, ...] = ()
    lom: LOMRecord | None = None


class UnfinishedRecord(_Record, frozen=True):
    """An enrollment in progress."""

    enrollment: EnrollmentRecord
    installed: InstalledRecord
    sent: int = 0


class SettingsRecord(_Record, frozen=True):
    """What the server has set; the dictionaries as property lists."""

    device_name: str = ""
    host_name: str = ""
    organization_info: bytes = b""
    mdm_options: bytes = b""
    awaiting_configuration: bool = False
    automated: bool = False


class FollowUpRecord(_Record, frozen=True):
    """What is due when the server has accepted the undelivered result."""

    kind: str
    request: str = ""
    tokens: bytes = b""
    update: Update | None = None


class AttestationRecord(_Record, frozen=True):
    """The cached attestation of the Mac's properties."""

    chain: tuple[bytes, ...]
    at: float
    nonce: bytes = b""


class AccountRecord(_Record, frozen=True):
    """The logged-in user, and what the server installed on the user channel."""

    network: bool = False
    managed: bool | None = None
    auth_token: str = ""
    installed: InstalledRecord = InstalledRecord()
    declared: Declared | None = None


class DeviceRecord(_Record, frozen=True):
    """What changes rarely: the enrollment and what is installed and set."""

    certificates: tuple[bytes, ...] = ()
    identities: tuple[IdentityRecord, ...] = ()
    enrollment: EnrollmentRecord | None = None
    installed: InstalledRecord = InstalledRecord()
    enrolling: UnfinishedRecord | None = None
    settings: SettingsRecord = SettingsRecord()
    system: SystemState = FACTORY
    declarations: bytes = b""
    """Of records of before ``declared``, without what the declarations say: they are fetched again."""
    declarations_token: str = ""
    """As ``declarations``."""
    declared: Declared | None = None
    left_at: float | None = None
    attestation: AttestationRecord | None = None
    release: tuple[str, str] | None = None
    """Version and build of macOS; None in records of before updates."""
    user: AccountRecord | None = None
    """None where nobody is logged in."""


class ActivityRecord(_Record, frozen=True):
    """What changes with each command: the session, the power, and what is due."""

    session: SessionRecord = SessionRecord()
    power: PowerRecord = PowerRecord()
    answers: tuple[AnswerRecord, ...] = ()
    follow_ups: tuple[FollowUpRecord, ...] = ()
    deferred_requests: tuple[tuple[str, str], ...] = ()
    synchronising: bytes | None = None
    update: Update | None = None
    user_session: SessionRecord | None = None
    user_follow_ups: tuple[FollowUpRecord, ...] = ()
    """As ``follow_ups``, of the user channel."""
    user_synchronising: bytes | None = None
    """As ``synchronising``, of the user channel."""
    drawn: tuple[int, ...] = ()
    """How many numbers each of ``Device.chances`` has drawn."""
