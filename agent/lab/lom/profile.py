"""The LOM profile with the lab's defects: the correct one is made first, and then spoiled. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent import plists
from agent.lab.defects import Defects
from agent.pki.identity import PrivateKey, dump_pkcs12
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import LOM_USAGE

_DAY = timedelta(days=1)
_SHARED_KEY = 0xC0DE  # the private value of a P-256 key that everybody knows
_WEAK_BITS = 1024


def spoiled_profile(profile: bytes, dns_name: str, authorities: Authorities, defects: Defects) -> bytes:
    """The LOM profile of the Mac with this name, with these defects."""
    if not defects:
        return profile
    content = plists.load_dict(profile)
    payloads: list[dict[str, Any]] = content["PayloadContent"]
    lom = payloads[-1]
    _spoil_references(lom, defects)
    if "lom-two-payloads" in defects:
        payloads.append({**lom, "PayloadUUID": str(uuid.uuid4()).upper(), "PayloadIdentifier": "second"})
    if "lom-scope-user" in defects:
        content["PayloadScope"] = "User"
    device = next((each for each in payloads if each["PayloadUUID"] == lom.get("DeviceCertificateUUID")), None)
    if device is not None and "Password" in device:
        _spoil_identity(device, dns_name, authorities, defects)
    return plists.dump_xml(content)


def _spoil_references(lom: dict[str, Any], defects: Defects) -> None:
    device_cas, controller_cas = lom["DeviceCACertificateUUIDs"], lom["ControllerCACertificateUUIDs"]
    if "lom-profile-reference" in defects:
        device_cas.append(str(uuid.uuid4()).upper())
    if "lom-ca-type" in defects:
        device_cas.append(lom["DeviceCertificateUUID"])
    if "lom-device-ca-other" in defects:
        lom["DeviceCACertificateUUIDs"] = list(controller_cas)
    if "lom-controller-ca-other" in defects:
        lom["ControllerCACertificateUUIDs"] = list(device_cas)
    if "lom-no-device-ca" in defects:
        del lom["DeviceCACertificateUUIDs"]
    if "lom-no-controller-ca" in defects:
        del lom["ControllerCACertificateUUIDs"]
    if "lom-identity-type" in defects:
        lom["DeviceCertificateUUID"] = device_cas[0]


def _spoil_identity(payload: dict[str, Any], dns_name: str, authorities: Authorities, defects: Defects) -> None:
    """Put another Device identity into a PKCS12 payload."""
    names: Sequence[str] = [dns_name]
    key: PrivateKey | None = None
    not_before = not_after = None
    if "lom-names-differ" in defects:
        names = [f"other-{dns_name}"]
    elif "lom-key-shared" in defects:
        key = ec.derive_private_key(_SHARED_KEY, ec.SECP256R1())
    elif "lom-identity-weak" in defects:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_WEAK_BITS)
    elif "lom-identity-expired" in defects:
        not_before, not_after = datetime.now(UTC) - 2 * _DAY, datetime.now(UTC) - _DAY
    else:
        return
    identity = authorities.lom_device_authority.issue(
        dns_name, LOM_USAGE, names=names, key=key, not_before=not_before, not_after=not_after
    )
    payload["PayloadContent"] = dump_pkcs12(identity, payload["Password"], "LOM Device identity")
