"""Renewed identities and bootstrap tokens in the lab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab_messages import AUTHORITIES, OTHER, UDID, authenticate, enroll, put, report, token_update

from agent import plists
from agent.lab.mdm.core import Lab, Refused
from agent.lab.stored.store import LabStore
from agent.mdm import checkin
from agent.pki.identity import Identity
from agent.profiles.certificates import unpack_identity
from agent.profiles.making import TOPIC, enrollment_profile, pkcs12_payload
from agent.profiles.profile import read_profile


def refused(call: Callable[[], Any], status: int) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.status == status


def renewal() -> tuple[dict[str, Any], Identity]:
    """An InstallProfile with the enrollment profile, and its new identity."""
    profile = enrollment_profile(AUTHORITIES, "https://lab.test", pkcs12_payload(AUTHORITIES))
    payload = read_profile(profile).of_type("com.apple.security.pkcs12")
    assert payload is not None
    return {"RequestType": "InstallProfile", "Payload": profile}, unpack_identity(payload)


def test_the_identity_of_a_queued_profile_replaces_the_one_before_also_after_a_restart(tmp_path: Path) -> None:
    store = LabStore(tmp_path)
    lab = Lab(state=store)
    old = enroll(lab)
    command, new = renewal()
    refused(lambda: report(lab, new, Status="Idle"), 403)
    uuid = lab.enqueue(UDID, command)
    assert report(lab, old, Status="Idle")
    store.close()

    store = LabStore(tmp_path)  # between the command and its result
    lab = Lab(state=store)
    assert report(lab, new, Status="Acknowledged", CommandUUID=uuid) == b""
    refused(lambda: report(lab, old, Status="Idle"), 403)
    store.close()

    store = LabStore(tmp_path)
    lab = Lab(state=store)
    assert report(lab, new, Status="Idle") == b""
    refused(lambda: report(lab, old, Status="Idle"), 403)
    store.close()


def test_no_other_identity_is_taken_for_a_renewal() -> None:
    lab = Lab()
    enroll(lab)
    other = enroll(lab, OTHER)
    command, new = renewal()
    lab.enqueue(UDID, {"RequestType": "InstallProfile", "Payload": b"no profile"})
    lab.enqueue(UDID, {"RequestType": "InstallProfile"})
    lab.enqueue(UDID, command)
    for identity in (other, AUTHORITIES.mdm_identity()):
        refused(lambda identity=identity: report(lab, identity, Status="Idle"), 403)  # type: ignore[misc]
    refused(lambda: report(lab, new, OTHER, Status="Idle"), 403)
    assert report(lab, new, Status="Idle")


def test_a_bootstrap_token_is_returned_until_it_is_removed() -> None:
    lab = Lab()
    identity = enroll(lab)

    def get(**keys: str) -> Any:
        return plists.load_dict(lab.check_in(put(identity, {"MessageType": "GetBootstrapToken", **keys})))

    assert get(UDID=UDID) == {}
    lab.check_in(put(identity, checkin.set_bootstrap_token(UDID, TOPIC, b"token")))
    assert get(UDID=UDID) == get() == {"BootstrapToken": b"token"}
    refused(lambda: lab.check_in(put(AUTHORITIES.mdm_identity(), {"MessageType": "GetBootstrapToken"})), 401)
    lab.check_in(put(identity, {"MessageType": "SetBootstrapToken", "UDID": UDID}))
    assert get(UDID=UDID) == {}


def test_authenticate_needs_only_the_keys_that_apple_requires() -> None:
    lab = Lab()
    identity = AUTHORITIES.mdm_identity()
    message = authenticate()
    for key in ("SerialNumber", "OSVersion", "BuildVersion"):
        del message[key]
    lab.check_in(put(identity, message))
    lab.check_in(put(identity, token_update()))
    assert lab.macs[UDID].enrolled
    del message["Model"]
    refused(lambda: lab.check_in(put(identity, message)), 400)
    refused(lambda: lab.check_in(put(identity, authenticate() | {"OSVersion": 15})), 400)
