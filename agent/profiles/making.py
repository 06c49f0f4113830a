"""The lab's profiles: enrollment, and LOM. Source: apple-schema profiles/*.yaml."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from agent import plists
from agent.mdm.access_rights import ALL_RIGHTS
from agent.pki.identity import Identity, dump_pkcs12
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import LOM_USAGE, Usage

TOPIC = "com.apple.mgmt.External.lom-agent-lab"
ENROLLMENT_IDENTIFIER = "test.lom-agent.lab.enrollment.profiles"
LOM_IDENTIFIER = "test.lom-agent.lab.lom.actions"
_ORGANIZATION = "lom-agent lab"
CHALLENGE = "challenge-of-the-template"  # in what ``ProfileTemplate`` is given


def enrollment_profile(authorities: Authorities, base_url: str, identity: dict[str, Any]) -> bytes:
    """An enrollment profile with the payload ``identity`` (PKCS12, SCEP or ACME)."""
    anchor = _certificate_payload(authorities.anchor, "Lab CA", f"{ENROLLMENT_IDENTIFIER}.ca")
    mdm = _payload(
        "com.apple.mdm",
        "MDM",
        f"{ENROLLMENT_IDENTIFIER}.mdm",
        ServerURL=f"{base_url}/mdm",
        CheckInURL=f"{base_url}/checkin",
        Topic=TOPIC,
        AccessRights=int(ALL_RIGHTS),
        IdentityCertificateUUID=identity["PayloadUUID"],
        CheckOutWhenRemoved=True,
        SignMessage=True,
        ServerCapabilities=["com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken"],
    )
    return _profile("lom-agent lab enrollment", ENROLLMENT_IDENTIFIER, [anchor, identity, mdm])


class ProfileTemplate:
    """Makes profiles that differ in their PayloadUUIDs and a challenge. ``written`` has the challenge CHALLENGE."""

    def __init__(self, written: bytes) -> None:
        self._parts = written.decode().split(">")
        self._variable: list[tuple[int, str, str]] = []  # of a part: its number, its text, and the tag after it
        for number, part in enumerate(self._parts):
            text, mark, tag = part.partition("<")
            if text == CHALLENGE or _is_uuid(text):
                self._variable.append((number, text, mark + tag))

    def make(self, challenge: str) -> bytes:
        """A profile with this challenge, which needs no escaping in XML."""
        new = {CHALLENGE: challenge}
        parts = self._parts.copy()
        for number, text, tag in self._variable:
            if text not in new:
                new[text] = _new_uuid()
            parts[number] = new[text] + tag
        return ">".join(parts).encode()


def platform_sso_profile() -> bytes:
    """A profile that would set up the SSO extension for Platform SSO."""
    identifier = "test.lom-agent.lab.sso"
    keys = {"ExtensionIdentifier": "test.lom.sso", "Type": "Redirect", "URLs": ["https://lom.test/"]}
    payload = _payload("com.apple.extensiblesso", "Platform SSO", f"{identifier}.extension", **keys)
    return _profile("Platform SSO", identifier, [payload])


def pkcs12_payload(authorities: Authorities, identity: Identity | None = None) -> dict[str, Any]:
    """A PKCS12 payload with this MDM identity, by default with a new one."""
    identity = identity or authorities.mdm_identity()
    return _identity_payload(identity, "MDM identity", f"{ENROLLMENT_IDENTIFIER}.identity")


def scep_payload(authorities: Authorities, url: str, challenge: str) -> dict[str, Any]:
    """A SCEP payload for the MDM identity."""
    return _payload(
        "com.apple.security.scep",
        "MDM identity",
        f"{ENROLLMENT_IDENTIFIER}.identity",
        PayloadContent={
            "URL": url,
            "Name": "lom-agent lab",
            "Subject": [[["O", _ORGANIZATION]], [["CN", "%SerialNumber%"]]],
            "SubjectAltName": {
                "dNSName": "%HostName%.lom.test",
                "uniformResourceIdentifier": "urn:uuid:%HardwareUUID%",
            },
            "Challenge": challenge,
            "Keysize": 2048,
            "Key Type": "RSA",
            "Key Usage": 5,
            "CAFingerprint": authorities.scep.certificate.fingerprint(hashes.SHA256()),
            "Retries": 3,
            "RetryDelay": 10,
        },
    )


def acme_payload(url: str, client_identifier: str) -> dict[str, Any]:
    """An ACME payload for the MDM identity, with a hardware-bound P-384 key and its attestation."""
    return _payload(
        "com.apple.security.acme",
        "MDM identity",
        f"{ENROLLMENT_IDENTIFIER}.identity",
        DirectoryURL=url,
        ClientIdentifier=client_identifier,
        KeyType="ECSECPrimeRandom",
        KeySize=384,
        HardwareBound=True,
        Attest=True,
        Subject=[[["O", _ORGANIZATION]], [["CN", "%SerialNumber%"]]],
        SubjectAltName={"dNSName": "%HostName%.lom.test", "uniformResourceIdentifier": "urn:uuid:%HardwareUUID%"},
        UsageFlags=5,
        ExtendedKeyUsage=["1.3.6.1.5.5.7.3.2"],
    )


def lom_profile(
    authorities: Authorities,
    dns_name: str,
    usage: Usage = LOM_USAGE,
    /,
    *,
    device: bool,
    controller: bool,
    named: bool = True,
) -> bytes:
    """The LOM profile of one Mac: an identity for each role, and both CAs. ``usage``, ``named``: of the identities."""
    device_ca = _certificate_payload(authorities.lom_device_anchor, "LOM Device CA", f"{LOM_IDENTIFIER}.device-ca")
    controller_ca = _certificate_payload(
        authorities.lom_controller_anchor, "LOM Controller CA", f"{LOM_IDENTIFIER}.controller-ca"
    )
    payloads = [device_ca, controller_ca]
    keys: dict[str, Any] = {
        "DeviceCACertificateUUIDs": [device_ca["PayloadUUID"]],
        "ControllerCACertificateUUIDs": [controller_ca["PayloadUUID"]],
    }
    if device:
        identity = authorities.lom_device_identity(dns_name, usage, named=named)
        payloads.append(_identity_payload(identity, "LOM Device identity", f"{LOM_IDENTIFIER}.device"))
        keys["DeviceCertificateUUID"] = payloads[-1]["PayloadUUID"]
    if controller:
        identity = authorities.lom_controller_identity(dns_name, usage, named=named)
        payloads.append(_identity_payload(identity, "LOM Controller identity", f"{LOM_IDENTIFIER}.controller"))
        keys["ControllerCertificateUUID"] = payloads[-1]["PayloadUUID"]
    payloads.append(_payload("com.apple.lom", "Lights-out management", f"{LOM_IDENTIFIER}.lom", **keys))
    return _profile("Lights-out management", LOM_IDENTIFIER, payloads)


def _profile(name: str, identifier: str, payloads: list[dict[str, Any]]) -> bytes:
    return plists.dump_xml(
        {
            **_payload("Configuration", name, identifier),
            "PayloadOrganization": _ORGANIZATION,
            "PayloadScope": "System",
            "PayloadContent": payloads,
        }
    )


def _new_uuid() -> str:
    return str(uuid.uuid4()).upper()


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)).upper() == text
    except ValueError:
        return False


def _payload(payload_type: str, name: str, identifier: str, **keys: Any) -> dict[str, Any]:
    return {
        "PayloadType": payload_type,
        "PayloadVersion": 1,
        "PayloadUUID": _new_uuid(),
        "PayloadIdentifier": identifier,
        "PayloadDisplayName": name,
        **keys,
    }


def _identity_payload(identity: Identity, name: str, identifier: str) -> dict[str, Any]:
    password = secrets.token_urlsafe(12)
    return _payload(
        "com.apple.security.pkcs12",
        name,
        identifier,
        Password=password,
        PayloadContent=dump_pkcs12(identity, password, name),
    )


def _certificate_payload(certificate: x509.Certificate, name: str, identifier: str) -> dict[str, Any]:
    der = certificate.public_bytes(Encoding.DER)
    return _payload("com.apple.security.root", name, identifier, PayloadContent=der)
