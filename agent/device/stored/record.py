"""A Device as bytes, to make it again in another process, also one of a later version of this program.

The bytes are the MessagePack form of ``DeviceRecord``, which holds values only: certificates and keys as DER, values of
the server as property lists. Certificates and identities are numbered, so that each is written once. Reading them runs
no code that they choose. What the seed and the settings of the fleet determine is not part of it.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from agent import plists
from agent.device.ddm.declared import Declared
from agent.device.mac import Attestation, Device, Settings, UnfinishedEnrollment
from agent.device.steps import (
    ChangePower,
    Erase,
    FollowUp,
    InstallApps,
    LeaveManagement,
    SynchroniseDeclarations,
    UpdateSoftware,
)
from agent.device.stored.types import (
    AccountRecord,
    ActivityRecord,
    AttestationRecord,
    DeviceRecord,
    EnrollmentRecord,
    FollowUpRecord,
    IdentityRecord,
    InstalledRecord,
    LOMRecord,
    Numbers,
    ProfileRecord,
    SettingsRecord,
    UnfinishedRecord,
)
from agent.device.users.channel import UserDevice
from agent.lom.endpoint import LOMConfiguration
from agent.lom.power import SystemRequest
from agent.lom.requests import PowerRequest
from agent.mdm.access_rights import AccessRights
from agent.pki.certificates import read_certificate
from agent.pki.identity import Identity
from agent.profiles.enrollment import Enrollment
from agent.profiles.store import InstalledProfile, ProfileStore

_encode = msgspec.msgpack.encode


def device_record(device: Device) -> bytes:
    """What is installed and set on a Device."""
    writer = _Writer()
    enrollment, installed = writer.enrollment(device.enrollment), writer.installed(device.profiles)
    unfinished, attested = device.enrolling, device.attestation
    return _encode(
        DeviceRecord(
            enrollment=enrollment,
            installed=installed,
            enrolling=None if unfinished is None else writer.unfinished(unfinished),
            settings=_settings_record(device.settings),
            system=device.system,
            declared=device.declared if device.declared.in_use else None,
            left_at=device.left_at,
            attestation=None
            if attested is None
            else AttestationRecord(chain=attested.chain, nonce=attested.nonce, at=attested.at),
            release=(device.mac.os_version, device.mac.build_version),
            user=None if device.user is None else _account_record(device.user, writer),
            certificates=tuple(writer.certificates),
            identities=tuple(writer.identities),
        )
    )


def activity_record(device: Device, now: float) -> ActivityRecord:
    """What a Device does at ``now``."""
    follow_ups, deferred, answers = device.scheduled
    user = device.user
    return ActivityRecord(
        session=device.session.record(now),
        power=device.power.record(now),
        answers=tuple(answers.records(now)),
        follow_ups=tuple(map(_follow_up_record, follow_ups)),
        deferred_requests=deferred,
        synchronising=device.synchronising,
        update=device.update,
        user_session=None if user is None else user.session.record(now),
        user_follow_ups=() if user is None else tuple(map(_follow_up_record, user.scheduled[0])),
        user_synchronising=None if user is None else user.synchronising,
        drawn=tuple(chance.count for chance in device.chances),
    )


def restore_device(device: Device, octets: bytes) -> None:
    """Install on a new Device what was recorded. Raises ValueError, PeerError or LookupError for another record."""
    record = msgspec.msgpack.decode(octets, type=DeviceRecord)
    reader = _Reader(record)
    device.enrollment = None if record.enrollment is None else reader.enrollment(record.enrollment)
    device.profiles = reader.installed(record.installed)
    unfinished = record.enrolling
    if unfinished is not None:
        enrollment, profiles = reader.enrollment(unfinished.enrollment), reader.installed(unfinished.installed)
        device.enrolling = UnfinishedEnrollment(enrollment, profiles, unfinished.sent)
    device.settings = _settings(record.settings)
    device.system = record.system
    device.declared = record.declared or Declared()
    device.left_at = record.left_at
    attested = record.attestation
    device.attestation = None if attested is None else Attestation(attested.chain, attested.nonce, attested.at)
    if record.release is not None:
        device.mac = device.mac.with_release(*record.release)
    _restore_account(device, record.user, reader)


def restore_activity(device: Device, record: ActivityRecord, now: float) -> None:
    """Have a new Device continue with what was recorded. Raises ValueError or LookupError."""
    device.session.resume(record.session, now)
    device.power.resume(record.power, now)
    device.schedule(map(_follow_up, record.follow_ups), record.deferred_requests, record.answers, now)
    device.synchronising = record.synchronising
    device.update = record.update
    if device.user is not None and record.user_session is not None:
        device.user.session.resume(record.user_session, now)
        device.user.synchronising = record.user_synchronising
        for what in map(_follow_up, record.user_follow_ups):
            device.user.after_delivery(what)
    for chance, count in zip(device.chances, record.drawn, strict=False):
        chance.count = count


def _account_record(user: UserDevice, writer: _Writer) -> AccountRecord:
    return AccountRecord(
        network=user.account.network,
        managed=user.managed,
        auth_token=user.auth_token,
        installed=writer.installed(user.profiles),
        declared=user.declared if user.declared.in_use else None,
    )


def _restore_account(device: Device, record: AccountRecord | None, reader: _Reader) -> None:
    """Restore the user channel of a Mac on which a user is logged in, by its settings."""
    user = device.user
    if user is None or record is None or record.network != user.account.network:
        return
    user.managed, user.auth_token = record.managed, record.auth_token
    user.profiles = reader.installed(record.installed)
    user.declared = record.declared or Declared()


class _Writer:
    """Numbers certificates and identities while it writes what refers to them."""

    def __init__(self) -> None:
        self.certificates: dict[bytes, int] = {}
        self.identities: list[IdentityRecord] = []
        self._numbers: dict[tuple[bytes, bytes], int] = {}

    def enrollment(self, enrollment: Enrollment | None) -> EnrollmentRecord | None:
        """The record of an enrollment; None for none."""
        return None if enrollment is None else self._enrollment(enrollment)

    def unfinished(self, unfinished: UnfinishedEnrollment) -> UnfinishedRecord:
        """The record of an enrollment in progress."""
        return UnfinishedRecord(
            enrollment=self._enrollment(unfinished.enrollment),
            installed=self.installed(unfinished.profiles),
            sent=unfinished.sent,
        )

    def installed(self, store: ProfileStore) -> InstalledRecord:
        """The record of the installed profiles."""
        lom = store.lom
        return InstalledRecord(
            profiles=tuple(map(self._profile, store)),
            lom=None
            if lom is None
            else LOMRecord(
                device_identity=self._maybe(lom.device_identity),
                controller_identity=self._maybe(lom.controller_identity),
                device_anchors=self._all(lom.device_anchors),
                controller_anchors=self._all(lom.controller_anchors),
            ),
        )

    def _enrollment(self, enrollment: Enrollment) -> EnrollmentRecord:
        values = structs.asdict(enrollment)
        values |= {name: self._all(values[name]) for name in ("anchors", "server_pins", "check_in_pins")}
        values |= {"identity": self._identity(enrollment.identity), "access_rights": int(enrollment.access_rights)}
        return EnrollmentRecord(**values)

    def _profile(self, profile: InstalledProfile) -> ProfileRecord:
        return ProfileRecord(
            identifier=profile.identifier,
            payload_types=tuple(sorted(profile.payload_types)),
            listed=marshal.loads(profile.packed),  # noqa: S302 - written by ProfileStore
            identities=tuple(map(self._identity, profile.identities)),
            certificates=self._all(profile.certificates),
            signers=self._all(profile.signers),
        )

    def _maybe(self, identity: Identity | None) -> int | None:
        return None if identity is None else self._identity(identity)

    def _identity(self, identity: Identity) -> int:
        certificate, key = identity.octets
        number = self._numbers.get((certificate, key))
        if number is None:
            number = self._numbers[certificate, key] = len(self.identities)
            chain = self._all(identity.chain)
            self.identities.append(IdentityRecord(certificate=self._number(certificate), key=key, chain=chain))
        return number

    def _all(self, certificates: Iterable[x509.Certificate]) -> Numbers:
        return tuple([self._number(each.public_bytes(Encoding.DER)) for each in certificates])

    def _number(self, certificate: bytes) -> int:
        return self.certificates.setdefault(certificate, len(self.certificates))


class _Reader:
    """Makes what a record refers to by number, each once."""

    def __init__(self, record: DeviceRecord) -> None:
        self._certificates = [read_certificate(octets) for octets in record.certificates]
        self._identities = [
            Identity.of_octets(record.certificates[each.certificate], each.key, self._all(each.chain))
            for each in record.identities
        ]

    def enrollment(self, record: EnrollmentRecord) -> Enrollment:
        """A recorded enrollment."""
        return Enrollment(
            identity=self._identities[record.identity],
            server_url=record.server_url,
            check_in_url=record.check_in_url,
            topic=record.topic,
            access_rights=AccessRights(record.access_rights),
            anchors=self._all(record.anchors),
            server_pins=self._all(record.server_pins),
            check_in_pins=self._all(record.check_in_pins),
            sign_message=record.sign_message,
            check_out_when_removed=record.check_out_when_removed,
            capabilities=record.capabilities,
            assigned_managed_apple_id=record.assigned_managed_apple_id,
            enrollment_mode=record.enrollment_mode,
        )

    def installed(self, record: InstalledRecord) -> ProfileStore:
        """Recorded profiles."""
        lom = record.lom
        configuration = None
        if lom is not None:
            configuration = LOMConfiguration(
                device_identity=self._maybe(lom.device_identity),
                controller_identity=self._maybe(lom.controller_identity),
                device_anchors=self._all(lom.device_anchors),
                controller_anchors=self._all(lom.controller_anchors),
            )
        return ProfileStore.of(map(self._profile, record.profiles), configuration)

    def _profile(self, record: ProfileRecord) -> InstalledProfile:
        return InstalledProfile(
            identifier=record.identifier,
            payload_types=frozenset(record.payload_types),
            identities=tuple([self._identities[number] for number in record.identities]),
            certificates=self._all(record.certificates),
            signers=self._all(record.signers),
            packed=marshal.dumps(record.listed),
        )

    def _maybe(self, number: int | None) -> Identity | None:
        return None if number is None else self._identities[number]

    def _all(self, numbers: Numbers) -> tuple[x509.Certificate, ...]:
        return tuple([self._certificates[number] for number in numbers])


def _settings_record(settings: Settings) -> SettingsRecord:
    return SettingsRecord(
        device_name=settings.device_name,
        host_name=settings.host_name,
        organization_info=_property_list(settings.organization_info),
        mdm_options=_property_list(settings.mdm_options),
        awaiting_configuration=settings.awaiting_configuration,
        automated=settings.automated,
    )


def _settings(record: SettingsRecord) -> Settings:
    return Settings(
        device_name=record.device_name,
        host_name=record.host_name,
        organization_info=plists.load_dict(record.organization_info) if record.organization_info else {},
        mdm_options=plists.load_dict(record.mdm_options) if record.mdm_options else {},
        awaiting_configuration=record.awaiting_configuration,
        automated=record.automated,
    )


def _property_list(value: Mapping[str, Any]) -> bytes:
    return plists.dump_binary(dict(value)) if value else b""


_REQUESTS = {request.value: request for request in (*PowerRequest, *SystemRequest)}


def _follow_up_record(what: FollowUp) -> FollowUpRecord:
    match what:
        case ChangePower(request):
            return FollowUpRecord(kind="power", request=request.value)
        case SynchroniseDeclarations(tokens):
            return FollowUpRecord(kind="declarations", tokens=tokens)
        case Erase():
            return FollowUpRecord(kind="erase")
        case InstallApps():
            return FollowUpRecord(kind="apps")
        case LeaveManagement():
            return FollowUpRecord(kind="leave")
        case UpdateSoftware(update):
            return FollowUpRecord(kind="update", update=update)


def _follow_up(record: FollowUpRecord) -> FollowUp:
    match record.kind:
        case "power":
            return ChangePower(_REQUESTS[record.request])
        case "declarations":
            return SynchroniseDeclarations(record.tokens)
        case "apps":
            return InstallApps()
        case "erase":
            return Erase()
        case "leave":
            return LeaveManagement()
        case "update" if record.update is not None:
            return UpdateSoftware(record.update)
    raise ValueError(f"the follow-up {record.kind!r}")
