"""The lab's certificates: one CA for TLS and MDM identities, one for SCEP, and one for each LOM role.

Each LOM role has a CA of its own, so that a Device's certificate is never accepted as a Controller's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, MutableMapping, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from agent.pki.identity import Identity, PrivateKey
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, SERVER_USAGE, Authority, Usage, make_key
from agent.pki.scep.csr import CertificateRequest

DEVICE_CA_NAME = "lom-agent test CA of devices"
StoredAuthorities = MutableMapping[str, Authority]


class Authorities:
    """The CAs of one lab. Those in ``kept`` are used again; new ones are added to it."""

    def __init__(self, kept: StoredAuthorities | None = None) -> None:
        self._kept: StoredAuthorities = {} if kept is None else kept
        self._mdm = self._of("mdm", lambda: Authority.create("lom-agent lab CA"))
        self._lom_device = self._of("lom device", lambda: Authority.create("lom-agent lab LOM Device CA"))
        self._lom_controller = self._of("lom controller", lambda: Authority.create("lom-agent lab LOM Controller CA"))
        self._scep = self._kept.get("scep")

    @property
    def anchor(self) -> x509.Certificate:
        """The CA of the lab's own server certificate and of every MDM identity."""
        return self._mdm.certificate

    @property
    def scep(self) -> Authority:
        """The CA that issues by SCEP. Its key is RSA, as SCEP requires, and is generated at the first use."""
        if self._scep is None:
            self._scep = self._of("scep", _scep_authority)
        return self._scep

    @property
    def mdm_anchors(self) -> tuple[x509.Certificate, ...]:
        """The CAs whose certificates a Mac may present."""
        return (self.anchor,) if self._scep is None else (self.anchor, self._scep.certificate)

    @property
    def device_authority(self) -> Authority:
        """The CA of the identities that Macs have from their factory, as Apple's; made at the first use."""
        return self._of("device", lambda: Authority.create(DEVICE_CA_NAME))

    @property
    def lom_device_authority(self) -> Authority:
        """The CA of every LOM Device identity, with its key."""
        return self._lom_device

    @property
    def lom_device_anchor(self) -> x509.Certificate:
        """The CA of every LOM Device identity."""
        return self._lom_device.certificate

    @property
    def lom_controller_anchor(self) -> x509.Certificate:
        """The CA of every LOM Controller identity."""
        return self._lom_controller.certificate

    def server_identity(self, names: Sequence[str], key: PrivateKey | None = None) -> Identity:
        """The lab's own identity, for these names and addresses; without a ``key`` with a new one."""
        return self._mdm.issue(names[0], SERVER_USAGE, names=names, key=key)

    def signer_identity(self) -> Identity:
        """The lab's identity for signing profiles."""
        return self._mdm.issue("lom-agent lab profiles", Usage())

    def mdm_identity(self, usage: Usage = CLIENT_USAGE, *, not_after: datetime | None = None) -> Identity:
        """A new MDM identity, for any Mac."""
        return self._mdm.issue(f"mdm-{uuid.uuid4()}", usage, not_after=not_after)

    def push_identity(self, topic: str) -> Identity:
        """The lab's push certificate: the UID of its subject is the topic, as in Apple's for MDM servers."""
        key = make_key()
        subject = [x509.NameAttribute(NameOID.USER_ID, topic), x509.NameAttribute(NameOID.COMMON_NAME, f"APSP:{topic}")]
        return Identity(self._mdm.certify(key.public_key(), x509.Name(subject), CLIENT_USAGE), key)

    def issue_for(self, request: CertificateRequest) -> x509.Certificate:
        """An MDM certificate for a SCEP request, with the request's subject and subjectAltName."""
        return self.scep.certify(request.public_key, request.subject, CLIENT_USAGE, request.subject_alternative_name)

    def _of(self, name: str, make: Callable[[], Authority]) -> Authority:
        authority = self._kept.get(name)
        if authority is None:
            authority = self._kept[name] = make()
        return authority

    def lom_device_identity(self, dns_name: str, usage: Usage = LOM_USAGE, *, named: bool = True) -> Identity:
        """A LOM Device identity: CommonName and dNSName are the same name; not ``named``: without dNSName."""
        return self._lom_device.issue(dns_name, usage, names=[dns_name] if named else [])

    def lom_controller_identity(self, dns_name: str, usage: Usage = LOM_USAGE, *, named: bool = True) -> Identity:
        """A LOM Controller identity: CommonName and dNSName are the same name; not ``named``: without dNSName."""
        return self._lom_controller.issue(dns_name, usage, names=[dns_name] if named else [])


def _scep_authority() -> Authority:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return Authority.create("lom-agent lab SCEP CA", key=key, decrypts=True)
