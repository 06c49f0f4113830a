"""The lab's certificates: one CA for TLS and MDM identities, and one for each LOM role.

With a CA of its own for each role, a Device's certificate can never pass for a Controller's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from cryptography import x509

from agent.pki.authority import CLIENT_USAGE, LOM_USAGE, SERVER_USAGE, Authority
from agent.pki.identity import Identity


class Authorities:
    """The CAs of one lab."""

    def __init__(self) -> None:
        self._mdm = Authority.create("lom-agent lab CA")
        self._lom_device = Authority.create("lom-agent lab LOM Device CA")
        self._lom_controller = Authority.create("lom-agent lab LOM Controller CA")

    @property
    def anchor(self) -> x509.Certificate:
        """The CA of the lab's own server certificate and of every MDM identity."""
        return self._mdm.certificate

    @property
    def lom_device_anchor(self) -> x509.Certificate:
        """The CA of every LOM Device identity."""
        return self._lom_device.certificate

    @property
    def lom_controller_anchor(self) -> x509.Certificate:
        """The CA of every LOM Controller identity."""
        return self._lom_controller.certificate

    def server_identity(self, names: Sequence[str]) -> Identity:
        """The lab's own identity, for these names and addresses."""
        return self._mdm.issue(names[0], SERVER_USAGE, names=names)

    def mdm_identity(self) -> Identity:
        """An MDM identity for a Mac that is not known yet."""
        return self._mdm.issue(f"mdm-{uuid.uuid4()}", CLIENT_USAGE)

    def lom_device_identity(self, dns_name: str) -> Identity:
        """A LOM Device identity: CommonName and dNSName are the same name."""
        return self._lom_device.issue(dns_name, LOM_USAGE, names=[dns_name])

    def lom_controller_identity(self, dns_name: str) -> Identity:
        """A LOM Controller identity: CommonName and dNSName are the same name."""
        return self._lom_controller.issue(dns_name, LOM_USAGE, names=[dns_name])
