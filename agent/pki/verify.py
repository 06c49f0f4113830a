"""Verification of peers by chain, validity, usages and name of their certificates; any doubt refuses the peer.

An MDM server is identified by the host name or IP address in its subjectAltName; the other end of a LOM link by the
CommonName of its certificate (seed page "LOM Device Request Command"). Twisted's host name check does not check the
CommonName, and accepts every certificate without a subjectAltName. So both use ``PeerCheck``, a verify callback for one
connection: a peer is identified only when OpenSSL has verified the whole chain *and* the judge has returned its name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from typing import ClassVar, TypeVar

import service_identity
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from agent.errors import PeerError
from agent.pki.certificates import UNREADABLE, CertificateError, for_openssl, from_openssl
from agent.pki.names import fault_of_name, same_name
from agent.pki.purpose import Purpose, set_purpose, weakness

_KNOWN_SERVERS = 256  # cached pairs of a certificate and a host that it names
Judge = Callable[[x509.Certificate], str]
ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class PeerRejected(PeerError):
    """The peer's certificate is not accepted. ``kind`` names the cause."""

    kind: ClassVar[str] = "tls_certificate"


class UntrustedChain(PeerRejected):
    """The chain does not end in a trust anchor, or a signature in it is wrong."""

    kind = "tls_untrusted"


class CertificateExpired(PeerRejected):
    """A certificate of the chain is past its notAfter."""

    kind = "tls_expired"


class CertificateNotYetValid(PeerRejected):
    """A certificate of the chain is before its notBefore."""

    kind = "tls_not_yet_valid"


class WrongName(PeerRejected):
    """The certificate identifies another peer."""

    kind = "tls_wrong_name"


class WrongUsage(PeerRejected):
    """Key Usage or Extended Key Usage does not allow this use of the certificate."""

    kind = "tls_wrong_usage"


class NotPinned(PeerRejected):
    """The chain is trusted, but has no certificate that the enrollment profile pins."""

    kind = "tls_not_pinned"


class NoCertificate(PeerRejected):
    """The peer presented no certificate."""

    kind = "tls_no_certificate"


_EXTENDED_USAGE_NAMES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


def rejection(error_number: int, certificate: x509.Certificate) -> PeerRejected:
    """The error for an X509_V_ERR number of OpenSSL at ``certificate``."""
    who = f"the certificate {subject_text(certificate)}"
    if error_number == SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED:
        return CertificateExpired(f"{who} expired at {certificate.not_valid_after_utc.isoformat()}")
    if error_number == SSL.X509VerificationCodes.ERR_CERT_NOT_YET_VALID:
        return CertificateNotYetValid(f"{who} is not valid before {certificate.not_valid_before_utc.isoformat()}")
    reason = _code_name(error_number)
    if error_number == SSL.X509VerificationCodes.ERR_INVALID_PURPOSE:
        return WrongUsage(f"{who} is not allowed for this use ({reason})")
    issuer = certificate.issuer.rfc4514_string() or "(empty)"
    return UntrustedChain(f"{who}, issued by {issuer}, does not lead to a trusted CA ({reason})")


class PeerCheck:
    """A verify callback for one TLS connection, for ``SSL.Connection.set_verify``.

    OpenSSL calls it for every certificate of the chain, the peer's own last. ``judge`` then gets the peer's own
    certificate and returns the peer's name, or raises PeerRejected. With ``pins``, one certificate of the chain must be
    among them.
    """

    __slots__ = ("_judge", "_name", "_pinned", "_pins", "rejected")

    def __init__(self, judge: Judge, pins: Collection[x509.Certificate] = ()) -> None:
        self._judge = judge
        self._pins = pins
        self._pinned = not pins
        self._name: str | None = None
        self.rejected: PeerRejected | None = None

    def __call__(self, _connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """Check one certificate of the chain; any doubt refuses the connection."""
        if self.rejected is not None:
            return False
        if ok and depth and self._pinned:
            return True  # OpenSSL has verified it, and only the peer's own has to name the peer
        try:
            found = from_openssl(certificate)
            self._pinned = self._pinned or found in self._pins
            if not ok:
                self.rejected = rejection(error, found)
            elif depth == 0:
                self._name = self._judge_own(found)
        except PeerRejected as rejected:
            self.rejected = rejected
        except (CertificateError, *UNREADABLE) as unreadable:  # the latter: a malformed part, such as a date
            self.rejected = PeerRejected(f"the peer's certificate cannot be read: {unreadable}")
        except Exception as defect:
            self.rejected = PeerRejected(f"the peer's certificate could not be checked: {defect!r}")
            raise
        return self.rejected is None

    def _judge_own(self, certificate: x509.Certificate) -> str:
        if not self._pinned:
            raise NotPinned("expected a certificate that the profile pins in the server's chain, found none")
        return self._judge(certificate)

    @property
    def name(self) -> str:
        """The peer's name. Raises PeerRejected unless everything was checked."""
        if self.rejected is not None:
            raise self.rejected
        if self._name is None:
            raise NoCertificate("the peer presented no certificate")
        return self._name


@lru_cache(_KNOWN_SERVERS)
def server_judge(host: str) -> Judge:
    """A judge of HTTPS servers: the subjectAltName must have ``host``, a name or an IP address (RFC 9525)."""
    return partial(_judge_server, host)


@lru_cache(_KNOWN_SERVERS)
def _judge_server(host: str, certificate: x509.Certificate) -> str:
    """Cached, because the names of a certificate never change; chain and validity are not checked here."""
    try:
        if _is_ip_address(host):
            verify_certificate_ip_address(certificate, host)
        else:
            verify_certificate_hostname(
                certificate, host.removesuffix(".")
            )  # the dot of the DNS root is not in certificates
    except (service_identity.VerificationError, service_identity.CertificateError) as error:
        found = ", ".join(alternative_names(certificate)) or "none"
        raise WrongName(f"expected a server certificate for {host}, found the names {found}") from error
    except ValueError as error:
        raise WrongName(f"expected a host that a certificate can name, found {host!r}: {error}") from error
    return host


def device_judge(expected_name: str) -> Judge:
    """The Controller's judge of a Device: CommonName and dNSName ``expected_name``, serverAuth, the LOM Key Usage."""

    def judge(certificate: x509.Certificate) -> str:
        _check_usage(certificate, ExtendedKeyUsageOID.SERVER_AUTH)
        found = common_name(certificate)
        if not same_name(found, expected_name):
            raise WrongName(f"expected a certificate with CommonName {expected_name}, found {found}")
        _check_alternative_name(certificate, found)
        return found

    return judge


def controller_judge(certificate: x509.Certificate) -> str:
    """The Device's judge of a Controller: a CommonName of its own, clientAuth, the LOM Key Usage."""
    _check_usage(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)
    found = common_name(certificate)
    _check_alternative_name(certificate, found)
    return found


def verify_chain(
    peer: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], judge: Judge, purpose: Purpose
) -> str:
    """Verify the peer of a LOM link without a socket: chain and ``judge``, as OpenSSL and ``PeerCheck`` do in TLS.

    ``peer`` are the certificates that it would present, its own first. Returns its name, or raises PeerRejected.
    """
    if not peer:
        raise NoCertificate("the peer presented no certificate")
    try:
        return _verified(peer, anchors, judge, purpose)
    except (CertificateError, crypto.Error, *UNREADABLE) as error:
        raise PeerRejected(f"the peer's certificate cannot be read: {error}") from error


def _verified(
    peer: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], judge: Judge, purpose: Purpose
) -> str:
    own, *others = (for_openssl(certificate) for certificate in peer)
    store = store_of(anchors)
    set_purpose(store, purpose)
    try:
        chain = crypto.X509StoreContext(store, own, others).get_verified_chain()
    except crypto.X509StoreContextError as error:
        raise rejection(error.errors[0], from_openssl(error.certificate)) from error
    weak = weakness(chain)
    if weak is not None:
        raise rejection(weak[0], from_openssl(weak[1]))
    return judge(peer[0])


def store_of(anchors: Sequence[x509.Certificate]) -> crypto.X509Store:
    """A trust store of exactly these certificates; an intermediate or a leaf may be an anchor too.

    Raises CertificateError.
    """
    store = crypto.X509Store()
    for anchor in anchors:
        store.add_cert(for_openssl(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return store


def common_name(certificate: x509.Certificate) -> str:
    """The one CommonName of a certificate. Raises WrongName for none, several, or an invalid name."""
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        raise WrongName(
            f"expected a certificate with one CommonName, found {len(names)} in {subject_text(certificate)}"
        )
    fault = fault_of_name(names[0])
    if fault:
        raise WrongName(f"expected a CommonName that identifies a peer, found {names[0]!r}: {fault}")
    return str(names[0])


def alternative_names(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses in the subjectAltName, as text."""
    extension = _extension(certificate, x509.SubjectAlternativeName)
    if extension is None:
        return []
    names = extension.get_values_for_type(x509.DNSName)
    return names + [str(address) for address in extension.get_values_for_type(x509.IPAddress)]


def subject_text(certificate: x509.Certificate) -> str:
    """The subject as RFC 4514 writes it, bounded for an error text."""
    return certificate.subject.rfc4514_string()[:200] or "(empty subject)"


def _check_alternative_name(certificate: x509.Certificate, name: str) -> None:
    """The schema has the LOM name in a dNSName, the seed page in the CommonName: where both exist, they must agree."""
    found = alternative_names(certificate)
    for other in found:
        fault = fault_of_name(other)
        if fault:
            raise WrongName(f"expected DNS names in the subjectAltName that identify a peer, found {other!r}: {fault}")
    if found and not any(same_name(name, other) for other in found):
        raise WrongName(f"expected {name}, the CommonName, in the subjectAltName, found {', '.join(found)}")


def _check_usage(certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> None:
    """Source: apple-schema profiles/com.apple.lom.yaml, DeviceCertificateUUID."""
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if extended is None or purpose not in extended:
        wanted = _EXTENDED_USAGE_NAMES[purpose]
        raise WrongUsage(f"the certificate {subject_text(certificate)} lacks the Extended Key Usage {wanted}")
    usage = _extension(certificate, x509.KeyUsage)
    granted = {
        "digitalSignature": usage is not None and usage.digital_signature,
        "keyEncipherment": usage is not None and usage.key_encipherment,
        "dataEncipherment": usage is not None and usage.data_encipherment,
    }
    missing = [name for name, there in granted.items() if not there]
    if missing:
        raise WrongUsage(f"the certificate {subject_text(certificate)} lacks the Key Usage {', '.join(missing)}")


def _extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE as error:  # malformed or repeated extensions
        raise PeerRejected(f"the certificate {subject_text(certificate)} cannot be read: {error}") from error


_CODE_NAMES = {
    number: name.removeprefix("ERR_").lower().replace("_", " ")
    for name, number in vars(SSL.X509VerificationCodes).items()
    if name.startswith("ERR_")
}


def _code_name(error_number: int) -> str:
    return _CODE_NAMES.get(error_number, f"X509_V_ERR {error_number}")


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
