"""Enrollment with a profile, and InstallProfile: obtain the identities first, then install the whole profile or
none.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509

from agent.device.facts.attestation import usable_by
from agent.device.facts.supported import payload_problem
from agent.device.installing.content_cache import install_content_cache
from agent.device.mac import Device, UnfinishedEnrollment
from agent.device.security.filevault import check_filevault, install_filevault, remove_filevault
from agent.device.steps import CheckIn, ObtainIdentity, Steps
from agent.errors import PeerError
from agent.mdm import checkin
from agent.pki.identity import Identity
from agent.pki.names import ascii_upper
from agent.pki.scep.errors import SCEPError
from agent.profiles.acme import ACME, ACMEPayload, acme_of
from agent.profiles.certificates import PKCS12, all_certificates, unpack_identity
from agent.profiles.enrollment import (
    BOOTSTRAP_CAPABILITY,
    MDM,
    Enrollment,
    check_per_user,
    check_update,
    enrollment_of,
    enrollment_terms_of,
)
from agent.profiles.errors import ProfileError, acme_failed, install_failed, malformed, payload_failed, scep_failed
from agent.profiles.profile import Payload, Profile, read_profile
from agent.profiles.scep import SCEP, SCEPPayload, scep_of
from agent.profiles.store import ProfileStore
from agent.profiles.variables import expand


def enrollment_steps(device: Device, blob: bytes) -> Steps[Profile]:
    """Enroll with a profile: obtain its identity, send the check-ins. Returns the profile.

    The profile is checked as far as possible before a key is generated or a SCEP server is contacted. Raises PeerError
    (PlistError, ProfileError, or the error of a check-in) and leaves the Mac unchanged. An enrolled Mac enrolls again,
    starting with Authenticate.
    """
    profile = expand(read_profile(blob, device.warn), device.profile_variables)
    store = ProfileStore()
    _check_payloads(profile, device)
    terms = enrollment_terms_of(profile)
    warning = check_per_user(terms, device.mac.os_version, device.per_user_connections)
    if warning:
        device.warn(warning)
    store.check(profile)
    identities = yield from _obtain_identities(device, profile)
    enrollment = enrollment_of(profile, identities)
    store.install(profile, identities)
    device.enrolling = UnfinishedEnrollment(enrollment, store)
    try:
        yield from resumed_enrollment_steps(device, device.enrolling)
    finally:
        device.enrolling = None
    return profile


def resumed_enrollment_steps(device: Device, unfinished: UnfinishedEnrollment) -> Steps[None]:
    """Send the check-ins that are left. Raises PeerError and leaves the Mac unchanged."""
    enrollment = unfinished.enrollment
    for message in _check_in_messages(device, enrollment)[unfinished.sent :]:
        answer: bytes | PeerError = yield CheckIn(message, enrollment)
        if isinstance(answer, PeerError):
            raise answer
        unfinished.sent += 1
    device.forget_enrollment()
    device.enrollment, device.profiles = enrollment, unfinished.profiles
    device.enrolling = None


def check_out_steps(udid: str, enrollment: Enrollment) -> Steps[None]:
    """Send CheckOut if the enrollment has CheckOutWhenRemoved. Raises PeerError."""
    if not enrollment.check_out_when_removed:
        return
    answer: bytes | PeerError = yield CheckIn(checkin.check_out(udid, enrollment.topic), enrollment)
    if isinstance(answer, PeerError):
        raise answer


def _check_in_messages(device: Device, enrollment: Enrollment) -> list[dict[str, Any]]:
    mac, awaiting = device.mac, device.settings.awaiting_configuration
    messages = [
        checkin.authenticate(device.announcement, enrollment.topic),
        checkin.token_update(mac.udid, enrollment.topic, device.push_token, device.push_magic, awaiting=awaiting),
    ]
    if device.supervised and BOOTSTRAP_CAPABILITY in enrollment.capabilities:
        messages.append(checkin.set_bootstrap_token(mac.udid, enrollment.topic, mac.bootstrap_token, awaiting=awaiting))
    return messages


def install_profile(device: Device, blob: bytes, source: str = "") -> Steps[Profile]:
    """Install a profile that the server sent, and return it. ``source`` is its Source in ProfileList.

    Raises PlistError or ProfileError and leaves the Mac unchanged.
    """
    profile = expand(read_profile(blob, device.warn), device.profile_variables)
    try:
        _check_payloads(profile, device)
        renews = profile.of_type(MDM) is not None
        if renews:
            _check_renewal(device, profile)
        if source and (renews or _is_enrollment(device, profile.identifier)):
            raise malformed("a declaration may not replace the enrollment profile")
        if device.profiles.check_owner(profile, source):
            device.profiles.take_over(profile.identifier, source)
            return profile
        device.profiles.check(profile)
        check_filevault(profile)
        identities = yield from _obtain_identities(device, profile)
        if renews:
            _check_renewal(device, profile)  # again: the enrollment may have been removed meanwhile
        enrollment = enrollment_of(profile, identities) if renews else None
        device.profiles.install(profile, identities, source)
        install_filevault(device, profile)
        install_content_cache(device, profile)
    except ProfileError as error:
        raise error.within(install_failed(profile.name)) from error
    if enrollment is not None:
        device.enrollment = enrollment
    return profile


def _check_payloads(profile: Profile, device: Device) -> None:
    """Check that each payload may be installed on the channel of this Mac. Raises ProfileError."""
    for payload in profile.payloads:
        problem = payload_problem(payload.payload_type, device.channel, supervised=device.supervised)
        if problem is not None:
            raise malformed(problem)


def remove_profile(device: Device, identifier: str) -> None:
    """Remove a profile other than that of the enrollment. Raises ProfileError if it is not installed."""
    removed = device.profiles.remove(identifier)
    remove_filevault(device, removed)


def _is_enrollment(device: Device, identifier: str) -> bool:
    return any(MDM in each.payload_types and each.identifier == identifier for each in device.profiles)


def _check_renewal(device: Device, profile: Profile) -> None:
    """Check that a profile with an MDM payload is an update of the enrollment profile. Raises ProfileError."""
    before = device.enrollment
    installed = next((other for other in device.profiles if MDM in other.payload_types), None)
    if before is None or installed is None or installed.identifier != profile.identifier:
        raise malformed(f"an {MDM} payload may only come in an update of the profile that the Mac enrolled with")
    check_update(before, enrollment_terms_of(profile))


def _obtain_identities(device: Device, profile: Profile) -> Steps[dict[str, Identity]]:
    """The identity of each PKCS12, SCEP and ACME payload. All payloads are read before the first request to a CA."""
    anchors = all_certificates(profile)
    read: list[tuple[Payload, Identity | SCEPPayload | ACMEPayload]] = []
    for payload in profile.payloads:
        if payload.payload_type == PKCS12:
            read.append((payload, unpack_identity(payload)))
        elif payload.payload_type == SCEP:
            read.append((payload, scep_of(payload)))
        elif payload.payload_type == ACME:
            read.append((payload, usable_by(device.mac, acme_of(payload))))
    identities: dict[str, Identity] = {}
    for payload, found in read:
        if not isinstance(found, Identity):
            found = yield from _identity_of_ca(payload, found, anchors)
        identities[ascii_upper(payload.uuid)] = found
    return identities


def _identity_of_ca(
    payload: Payload, asked: SCEPPayload | ACMEPayload, anchors: tuple[x509.Certificate, ...]
) -> Steps[Identity]:
    answer: Identity | PeerError = yield ObtainIdentity(asked, anchors)
    if isinstance(answer, Identity):
        return answer
    if isinstance(asked, ACMEPayload):
        raise acme_failed(answer).within(payload_failed(payload.name))
    raise scep_failed(answer, network=not isinstance(answer, SCEPError)).within(payload_failed(payload.name))
