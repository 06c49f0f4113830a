"""The profiles on a Mac: installed atomically, replaced, removed, and listed as Apple documents it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from profile_parts import (
    IDENTITY,
    LOM_PACKED,
    OTHER_ROOT,
    PASSWORD,
    ROOT,
    codes,
    identities_of,
    lom,
    mdm,
    payload,
    pkcs12,
    profile,
    profile_dict,
    root,
)

from agent.pki.cms_signing import sign_attached
from agent.plists import dump_xml, load
from agent.profiles.errors import ProfileError
from agent.profiles.profile import Profile, read_profile
from agent.profiles.store import ProfileStore

# Source: apple-schema commands/profile.list.yaml, responsekeys: ProfileListItem and PayloadContentItem on macOS.
ITEM_REQUIRED = {"PayloadUUID": str, "PayloadIdentifier": str}
ITEM = ITEM_REQUIRED | {
    "PayloadVersion": int,
    "PayloadDisplayName": str,
    "PayloadOrganization": str,
    "PayloadDescription": str,
    "PayloadRemovalDisallowed": bool,
    "HasRemovalPasscode": bool,
    "IsEncrypted": bool,
    "SignerCertificates": list,
    "Source": str,
    "PayloadContent": list,
}
PAYLOAD_REQUIRED = {"PayloadType": str, "PayloadVersion": int, "PayloadIdentifier": str, "PayloadUUID": str}
PAYLOAD = PAYLOAD_REQUIRED | {"PayloadDisplayName": str, "PayloadDescription": str, "PayloadOrganization": str}


def install(store: ProfileStore, *payloads: dict[str, Any], **keys: Any) -> Profile:
    found = profile(*payloads, **keys)
    store.install(found, identities_of(found))
    return found


def seen(store: ProfileStore) -> list[Any]:
    return [item.listed for item in store]


LOM_PROFILE = (pkcs12(blob=LOM_PACKED), root(), lom())


def test_installed_profiles_are_in_order() -> None:
    store = ProfileStore()
    install(store, root(), PayloadIdentifier="b")
    install(store, pkcs12(), mdm(), PayloadIdentifier="a")
    assert [item.identifier for item in store] == ["b", "a"]
    assert "a" in store
    assert "c" not in store
    first, second = store
    assert first.certificates == (ROOT.certificate,)
    assert second.payload_types == {"com.apple.security.pkcs12", "com.apple.mdm"}
    assert [identity.certificate for identity in second.identities] == [IDENTITY.certificate]


def test_profile_with_the_same_identifier_replaces_the_old_one() -> None:
    store = ProfileStore()
    for identifier in ("a", "b"):
        install(store, root(), PayloadIdentifier=identifier)
    install(store, root("OTHER", OTHER_ROOT), PayloadIdentifier="a", PayloadUUID="NEW")
    assert [item.listed["PayloadUUID"] for item in store] == ["NEW", "PROFILE"]
    assert next(iter(store)).certificates == (OTHER_ROOT.certificate,)


@pytest.mark.parametrize(
    "bad",
    [
        [root("A"), root("B", PayloadContent=b"no certificate")],
        [root(), lom(DeviceCertificateUUID="NOWHERE")],
        [root(), lom(DeviceCertificateUUID=None, ControllerCertificateUUID=None)],
        [*LOM_PROFILE, lom("SECOND")],
    ],
)
@pytest.mark.parametrize("identifier", ["com.example.profile", "another"])
def test_a_profile_with_one_bad_payload_changes_nothing(bad: list[dict[str, Any]], identifier: str) -> None:
    store = ProfileStore()
    install(store, *LOM_PROFILE)
    before, configured = seen(store), store.lom
    with pytest.raises(ProfileError):
        install(store, *bad, PayloadIdentifier=identifier)
    assert seen(store) == before
    assert store.lom is configured is not None


def test_a_profile_is_removed_once() -> None:
    store = ProfileStore()
    install(store, root())
    assert store.remove("com.example.profile").identifier == "com.example.profile"
    assert seen(store) == []
    with pytest.raises(ProfileError, match=r"com\.example\.profile is not installed") as caught:
        store.remove("com.example.profile")
    assert codes(caught.value) == [("MCMDMErrorDomain", 12075)]


def test_lom_role_is_set_and_removed_with_its_profile() -> None:
    store = ProfileStore()
    assert store.lom is None
    install(store, *LOM_PROFILE)
    assert store.lom is not None
    install(store, root(), PayloadIdentifier="other")
    store.remove("other")
    assert store.lom is not None
    install(store, *LOM_PROFILE[:2], lom(ControllerCertificateUUID=None))
    assert store.lom.controller_identity is None
    install(store, root())
    assert store.lom is None
    install(store, *LOM_PROFILE)
    store.remove("com.example.profile")
    assert store.lom is None


@pytest.mark.parametrize("payloads", [LOM_PROFILE, (pkcs12(), root(), mdm())])
def test_second_unique_payload_is_refused(payloads: tuple[dict[str, Any], ...]) -> None:
    store = ProfileStore()
    install(store, *payloads, PayloadIdentifier="first")
    before, configured = seen(store), store.lom
    with pytest.raises(ProfileError, match=r"installed already, by .*first.*; a Mac has one") as caught:
        install(store, *payloads, PayloadIdentifier="second")
    assert codes(caught.value) == [("MCProfileErrorDomain", 1000)]
    assert seen(store) == before
    assert store.lom is configured
    install(store, *payloads, PayloadIdentifier="first")


def check_keys(found: dict[str, Any], required: dict[str, type], known: dict[str, type]) -> None:
    assert set(required) <= set(found) <= set(known)
    for key, value in found.items():
        assert type(value) is known[key], key


def test_a_profile_is_listed_with_apples_keys() -> None:
    store = ProfileStore()
    texts = {"PayloadOrganization": "Example", "PayloadDescription": "An example", "PayloadDisplayName": "Name"}
    install(store, root(**texts), pkcs12(), PayloadIdentifier="a", PayloadRemovalDisallowed=True, **texts)
    install(store, PayloadIdentifier="b", PayloadDisplayName=None)
    listed = load(dump_xml(seen(store)))
    assert [item["PayloadIdentifier"] for item in listed] == ["a", "b"]
    for item in listed:
        check_keys(item, ITEM_REQUIRED, ITEM)
        for content in item["PayloadContent"]:
            check_keys(content, PAYLOAD_REQUIRED, PAYLOAD)
    assert [content["PayloadUUID"] for content in listed[0]["PayloadContent"]] == ["ROOT", "IDENTITY"]
    assert [item["PayloadDescription"] for item in (listed[0], listed[0]["PayloadContent"][0])] == ["An example"] * 2


def test_the_signer_of_a_profile_is_listed() -> None:
    store = ProfileStore()
    found = read_profile(sign_attached(dump_xml(profile_dict(root())), IDENTITY.certificate, IDENTITY.key))
    store.install(found, {})
    (item,) = seen(store)
    check_keys(item, ITEM_REQUIRED, ITEM)
    assert item["SignerCertificates"][0] == IDENTITY.certificate.public_bytes(Encoding.DER)


def test_neither_a_key_nor_a_password_is_listed() -> None:
    store = ProfileStore()
    install(store, pkcs12(), payload("com.example.wifi", "WIFI", Password=PASSWORD, Secret=b"secret"))
    written = dump_xml(seen(store))
    assert PASSWORD.encode() not in written
    assert b"<data>" not in written


def test_macs_with_the_same_profile_share_what_is_equal() -> None:
    stores = [ProfileStore(), ProfileStore()]
    for store in stores:
        install(store, *LOM_PROFILE)
    (one,), (other,) = stores
    assert one.packed is other.packed
    assert one.identifier is other.identifier
