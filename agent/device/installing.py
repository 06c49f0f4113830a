"""A Mac takes a profile: the enrolment's, or one that its server sends. Identities come first, then all or nothing."""

from __future__ import annotations

from typing import Any

from cryptography import x509

from agent.device.mac import Device
from agent.device.steps import CheckIn, ObtainIdentity, Steps
from agent.errors import PeerError
from agent.mdm import checkin
from agent.pki.identity import Identity
from agent.pki.names import ascii_upper
from agent.pki.scep.errors import SCEPError
from agent.profiles.certificates import PKCS12, all_certificates, unpack_identity
from agent.profiles.enrolment import (
    BOOTSTRAP_CAPABILITY,
    MDM,
    Enrolment,
    check_update,
    enrolment_of,
    enrolment_terms_of,
)
from agent.profiles.errors import ProfileError, install_failed, malformed, payload_failed, scep_failed
from agent.profiles.profile import Payload, Profile, read_profile
from agent.profiles.scep import SCEP, SCEPPayload, scep_of
from agent.profiles.store import ProfileStore
from agent.profiles.variables import expand


def enrol(device: Device, blob: bytes) -> Steps[Profile]:
    """Enrol with a profile: obtain its identity, check in with it. Returns the profile.

    All of the profile that can be checked is, before a key is made or a SCEP server asked.
    Raises PeerError (PlistError, ProfileError, or what a check-in failed with); nothing has changed then. A Mac that is
    enrolled already enrols anew, from Authenticate on.
    """
    profile = expand(read_profile(blob, device.warn), device.profile_variables)
    store = ProfileStore()
    enrolment_terms_of(profile)
    store.check(profile)
    identities = yield from _obtain_identities(profile)
    enrolment = enrolment_of(profile, identities)
    store.install(profile, identities)
    for message in _check_in_messages(device, enrolment):
        answer: bytes | PeerError = yield CheckIn(message, enrolment)
        if isinstance(answer, PeerError):
            raise answer
    device.forget_enrolment()
    device.enrolment, device.profiles = enrolment, store
    return profile


def say_goodbye(udid: str, enrolment: Enrolment) -> Steps[None]:
    """Tell the server that the Mac has left its management, where the enrolment says so. Raises PeerError."""
    if not enrolment.check_out_when_removed:
        return
    answer: bytes | PeerError = yield CheckIn(checkin.check_out(udid, enrolment.topic), enrolment)
    if isinstance(answer, PeerError):
        raise answer


def _check_in_messages(device: Device, enrolment: Enrolment) -> list[dict[str, Any]]:
    mac = device.mac
    messages = [
        checkin.authenticate(device.announcement, enrolment.topic),
        checkin.token_update(mac.udid, enrolment.topic, mac.push_token, mac.push_magic),
    ]
    if BOOTSTRAP_CAPABILITY in enrolment.capabilities:
        messages.append(checkin.set_bootstrap_token(mac.udid, enrolment.topic, mac.bootstrap_token))
    return messages


def install_profile(device: Device, blob: bytes) -> Steps[None]:
    """Install a profile that the server sent. Raises PlistError or ProfileError; then nothing has changed."""
    profile = expand(read_profile(blob, device.warn), device.profile_variables)
    try:
        renews = profile.of_type(MDM) is not None
        if renews:
            _check_renewal(device, profile)
        device.profiles.check(profile)
        identities = yield from _obtain_identities(profile)
        if renews:
            _check_renewal(device, profile)  # again: what it renews may be gone meanwhile
        enrolment = enrolment_of(profile, identities) if renews else None
        device.profiles.install(profile, identities)
    except ProfileError as error:
        raise error.within(install_failed(profile.name)) from error
    if enrolment is not None:
        device.enrolment = enrolment


def _check_renewal(device: Device, profile: Profile) -> None:
    """The server may renew its own enrolment profile, and no more."""
    before = device.enrolment
    installed = next((other for other in device.profiles if MDM in other.payload_types), None)
    if before is None or installed is None or installed.identifier != profile.identifier:
        raise malformed(f"an {MDM} payload may only come in an update of the profile that the Mac enrolled with")
    check_update(before, enrolment_terms_of(profile))


def _obtain_identities(profile: Profile) -> Steps[dict[str, Identity]]:
    """The identity of each payload that has or asks for one. All are read before the first one is asked for."""
    anchors = all_certificates(profile)
    read: list[tuple[Payload, Identity | SCEPPayload]] = []
    for payload in profile.payloads:
        if payload.payload_type == PKCS12:
            read.append((payload, unpack_identity(payload)))
        elif payload.payload_type == SCEP:
            read.append((payload, scep_of(payload)))
    identities: dict[str, Identity] = {}
    for payload, found in read:
        if isinstance(found, SCEPPayload):
            found = yield from _enrol_by_scep(payload, found, anchors)
        identities[ascii_upper(payload.uuid)] = found
    return identities


def _enrol_by_scep(payload: Payload, asked: SCEPPayload, anchors: tuple[x509.Certificate, ...]) -> Steps[Identity]:
    answer: Identity | PeerError = yield ObtainIdentity(asked, anchors)
    if isinstance(answer, Identity):
        return answer
    raise scep_failed(str(answer), network=not isinstance(answer, SCEPError)).within(payload_failed(payload.name))
