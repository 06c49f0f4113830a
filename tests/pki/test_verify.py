"""Verification of peers: every reason to refuse one, by ``verify_chain`` and in a real TLS handshake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from strategies_mdm import changed

from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, SERVER_USAGE, Authority, Usage, make_key
from agent.pki.purpose import Purpose
from agent.pki.verify import (
    CertificateExpired,
    CertificateNotYetValid,
    Judge,
    NoCertificate,
    NotPinned,
    PeerCheck,
    PeerRejected,
    UntrustedChain,
    WrongName,
    WrongUsage,
    alternative_names,
    common_name,
    controller_judge,
    device_judge,
    server_judge,
    store_of,
    verify_chain,
)

NAME = "mac-1.lom.example.com"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
ROOT = Authority.create("LOM Root")
OTHER_ROOT = Authority.create("LOM Root")  # the same name, another key
SERVER_ONLY = Usage(key_encipherment=True, data_encipherment=True, server_auth=True)
CLIENT_ONLY = Usage(key_encipherment=True, data_encipherment=True, client_auth=True)


def issued(
    common_names: Sequence[str] = (NAME,),
    *,
    names: Sequence[x509.GeneralName] | None = None,
    usage: Usage | None = LOM_USAGE,
    issuer: Identity = ROOT.identity,
    ca: bool = False,
    days: tuple[int, int] = (-1, 30),
) -> Identity:
    """A certificate with exactly these names and usages; ``names`` None leaves the subjectAltName out."""
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    builder = x509.CertificateBuilder(issuer.certificate.subject, subject, key.public_key(), 1000 + len(_made))
    builder = builder.not_valid_before(NOW + days[0] * DAY).not_valid_after(NOW + days[1] * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage.key_usage(), critical=True)
        extended = usage.extended_key_usage()
        if extended is not None:
            builder = builder.add_extension(extended, critical=False)
    _made.append(None)
    return Identity(builder.sign(issuer.key, hashes.SHA256()), key)


_made: list[None] = []


def chained(identity: Identity, *others: Identity) -> Identity:
    return Identity(identity.certificate, identity.key, tuple(other.certificate for other in others))


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def shake_hands(
    presented: Identity | None, anchors: Sequence[x509.Certificate], check: PeerCheck, *, as_server: bool
) -> None:
    """A TLS handshake in memory in which one side presents an identity and the other judges it by ``check``."""
    judging, judged = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
    store = judging.get_cert_store()
    assert store is not None
    for anchor in anchors:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if presented is not None:
        judged.use_certificate(presented.certificate)
        judged.use_privatekey(presented.key)
        for certificate in presented.chain:
            judged.add_extra_chain_cert(certificate)
    if not as_server:
        judging.use_certificate(ROOT.certificate)
        judging.use_privatekey(ROOT.identity.key)
    us, them = SSL.Connection(judging, None), SSL.Connection(judged, None)
    us.set_verify(SSL.VERIFY_PEER, check)
    server, client = (them, us) if as_server else (us, them)
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(6):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return  # what the judging side made of it is in ``check``
            try:
                other.bio_write(one.bio_read(65536))
            except SSL.WantReadError:
                continue


def by_chain(presented: Identity, anchors: Sequence[x509.Certificate], judge: Judge, *, as_server: bool = True) -> str:
    purpose = Purpose.TLS_SERVER if as_server else Purpose.TLS_CLIENT
    return verify_chain([presented.certificate, *presented.chain], anchors, judge, purpose)


def by_handshake(
    presented: Identity, anchors: Sequence[x509.Certificate], judge: Judge, *, as_server: bool = True
) -> str:
    check = PeerCheck(judge)
    shake_hands(presented, anchors, check, as_server=as_server)
    return check.name


WAYS = {"chain": by_chain, "handshake": by_handshake}
both_ways = pytest.mark.parametrize("verdict", WAYS.values(), ids=WAYS.keys())


# Devices, as a Controller judges them

INTERMEDIATE = issued(("Intermediate",), usage=None, ca=True)
UNDER_INTERMEDIATE = issued(issuer=INTERMEDIATE)
EXPIRED_CA = issued(("Expired CA",), usage=None, ca=True, days=(-10, -1))
EXPIRED_ROOT = issued(("Expired root",), usage=None, ca=True, days=(-10, -1))
LEAF = issued(names=dns(NAME))


@dataclass(frozen=True)
class Case:
    """The certificates that a peer presents, and the expected outcome."""

    presented: Identity
    rejected: type[PeerRejected] | None = None
    wording: str = ""
    anchors: Sequence[x509.Certificate] = (ROOT.certificate,)


def self_signed() -> Identity:
    return Authority.create(NAME).identity


DEVICES = {
    "as generated": Case(ROOT.issue(NAME, LOM_USAGE, names=[NAME])),
    "no subjectAltName": Case(issued()),
    "a subjectAltName with other names beside its own": Case(issued(names=dns("other.example.com", NAME))),
    "a subjectAltName without DNS names": Case(issued(names=[x509.RFC822Name("root@example.com")])),
    "names in another case": Case(issued((NAME.upper(),), names=dns(NAME.title()))),
    "server usage only": Case(issued(usage=SERVER_ONLY)),
    "through an intermediate": Case(chained(UNDER_INTERMEDIATE, INTERMEDIATE)),
    "an intermediate as anchor": Case(UNDER_INTERMEDIATE, anchors=[INTERMEDIATE.certificate]),
    "itself as anchor": Case(LEAF, anchors=[LEAF.certificate]),
    "one of several anchors": Case(ROOT.issue(NAME, LOM_USAGE), anchors=[OTHER_ROOT.certificate, ROOT.certificate]),
    "self-signed": Case(self_signed(), UntrustedChain, "does not lead to a trusted CA"),
    "another CA": Case(OTHER_ROOT.issue(NAME, LOM_USAGE, names=[NAME]), UntrustedChain),
    "no anchor": Case(LEAF, UntrustedChain, "LOM Root", anchors=[]),
    "an intermediate that is not presented": Case(UNDER_INTERMEDIATE, UntrustedChain, "Intermediate"),
    "issued by a certificate that is no CA": Case(chained(issued(issuer=LEAF), LEAF), UntrustedChain),
    "expired": Case(issued(days=(-10, -1)), CertificateExpired, "expired at"),
    "not yet valid": Case(issued(days=(1, 10)), CertificateNotYetValid, "not valid before"),
    "an expired intermediate": Case(chained(issued(issuer=EXPIRED_CA), EXPIRED_CA), CertificateExpired, "Expired CA"),
    "an expired anchor": Case(
        issued(issuer=EXPIRED_ROOT), CertificateExpired, "Expired root", anchors=[EXPIRED_ROOT.certificate]
    ),
    "another CommonName": Case(issued(("mac-2.lom.example.com",)), WrongName, f"{NAME}, found mac-2"),
    "a longer CommonName": Case(issued((NAME + ".example.net",)), WrongName),
    "a wildcard CommonName": Case(issued(("*.lom.example.com",)), WrongName),
    "no CommonName": Case(issued((), names=dns(NAME)), WrongName, "found 0"),
    "two CommonNames": Case(issued((NAME, "mac-2")), WrongName, "found 2"),
    "two CommonNames, its own last": Case(issued(("mac-2", NAME)), WrongName, "found 2"),
    "the same CommonName twice": Case(issued((NAME, NAME)), WrongName, "found 2"),
    "another subjectAltName": Case(issued(names=dns("mac-2.lom.example.com")), WrongName, "mac-2"),
    "client usage only": Case(issued(usage=CLIENT_ONLY), WrongUsage),
    "no extended key usage": Case(issued(usage=Usage(True, True, True)), WrongUsage, "serverAuth"),
    "no usage at all": Case(issued(usage=None), WrongUsage, "serverAuth"),
    "no dataEncipherment": Case(issued(usage=SERVER_USAGE), WrongUsage, "dataEncipherment"),
    "no digitalSignature": Case(
        issued(usage=Usage(False, True, True, server_auth=True)), WrongUsage, "digitalSignature"
    ),
}


@both_ways
@pytest.mark.parametrize("case", DEVICES.values(), ids=DEVICES.keys())
def test_device_is_identified_by_its_commonname_or_refused(case: Case, verdict: Callable[..., str]) -> None:
    if case.rejected is None:
        assert verdict(case.presented, case.anchors, device_judge(NAME)).lower() == NAME
    else:
        with pytest.raises(case.rejected, match=case.wording or None) as caught:
            verdict(case.presented, case.anchors, device_judge(NAME))
        assert caught.type is case.rejected


@both_ways
def test_expected_name_is_case_insensitive(verdict: Callable[..., str]) -> None:
    assert verdict(LEAF, [ROOT.certificate], device_judge(NAME.upper())) == NAME


# Controllers, as a Device judges them

CONTROLLERS = {
    "as generated": Case(ROOT.issue(NAME, LOM_USAGE, names=[NAME])),
    "client usage only": Case(issued(usage=CLIENT_ONLY)),
    "server usage only": Case(issued(usage=SERVER_ONLY), WrongUsage),
    "no extended key usage": Case(issued(usage=Usage(True, True, True)), WrongUsage, "clientAuth"),
    "no dataEncipherment": Case(issued(usage=CLIENT_USAGE), WrongUsage, "dataEncipherment"),
    "two CommonNames": Case(issued((NAME, "mac-2")), WrongName, "found 2"),
    "no CommonName": Case(issued(()), WrongName, "found 0"),
    "another subjectAltName": Case(issued(names=dns("mac-2")), WrongName),
    "another CA": Case(OTHER_ROOT.issue(NAME, LOM_USAGE), UntrustedChain),
    "expired": Case(issued(days=(-10, -1)), CertificateExpired),
    "not yet valid": Case(issued(days=(1, 10)), CertificateNotYetValid),
}


@both_ways
@pytest.mark.parametrize("case", CONTROLLERS.values(), ids=CONTROLLERS.keys())
def test_controller_is_identified_by_its_commonname_or_refused(case: Case, verdict: Callable[..., str]) -> None:
    if case.rejected is None:
        assert verdict(case.presented, case.anchors, controller_judge, as_server=False) == NAME
    else:
        with pytest.raises(case.rejected, match=case.wording or None) as caught:
            verdict(case.presented, case.anchors, controller_judge, as_server=False)
        assert caught.type is case.rejected


# HTTPS servers


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("mdm.example.com", ["mdm.example.com"]),
        ("MDM.Example.com", ["mdm.EXAMPLE.com"]),
        ("mdm.example.com.", ["mdm.example.com"]),
        ("mdm.example.com", ["*.example.com"]),
        ("mdm_1.example.com", ["mdm_1.example.com"]),
        ("mdm.example.com", ["192.0.2.1", "mdm.example.com"]),
        ("192.0.2.1", ["192.0.2.1"]),
        ("::1", ["0:0::1"]),
        ("2001:db8::1", ["2001:db8::1"]),
    ],
)
@both_ways
def test_server_is_identified_by_its_subjectaltname(host: str, names: list[str], verdict: Callable[..., str]) -> None:
    server = ROOT.issue("anything", SERVER_USAGE, names=names)
    assert verdict(server, [ROOT.certificate], server_judge(host)) == host


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("mdm.example.com", []),
        ("mdm.example.com", ["mdm.example.net"]),
        ("mdm.example.com", ["example.com"]),
        ("a.mdm.example.com", ["*.example.com"]),
        ("example.com", ["*.example.com"]),
        ("mdm.example.com", ["*.com.example"]),
        ("mdm.example.com", ["192.0.2.1"]),
        ("192.0.2.1", ["192.0.2.2"]),
        ("192.0.2.1", []),
        ("::1", ["127.0.0.1"]),
        ("", ["mdm.example.com"]),
        ("*.example.com", ["*.example.com"]),
        ("mdm example com", ["mdm.example.com"]),
    ],
)
@both_ways
def test_server_without_matching_subjectaltname_is_refused(
    host: str, names: list[str], verdict: Callable[..., str]
) -> None:
    server = ROOT.issue(host[:60] or "a", SERVER_USAGE, names=names)
    with pytest.raises(WrongName) as caught:
        verdict(server, [ROOT.certificate], server_judge(host))
    assert caught.type is WrongName


def test_address_in_a_dns_name_does_not_match() -> None:
    server = issued(("192.0.2.1",), names=dns("192.0.2.1"), usage=SERVER_USAGE)
    for verdict in WAYS.values():
        with pytest.raises(PeerRejected):
            verdict(server, [ROOT.certificate], server_judge("192.0.2.1"))


@both_ways
@pytest.mark.parametrize(
    ("server", "rejected"),
    [
        (OTHER_ROOT.issue("a", SERVER_USAGE, names=[NAME]), UntrustedChain),
        (issued(names=dns(NAME), usage=SERVER_USAGE, days=(-10, -1)), CertificateExpired),
        (issued(names=dns(NAME), usage=SERVER_USAGE, days=(1, 10)), CertificateNotYetValid),
    ],
)
def test_matching_name_does_not_excuse_an_invalid_chain(
    server: Identity, rejected: type[PeerRejected], verdict: Callable[..., str]
) -> None:
    with pytest.raises(rejected):
        verdict(server, [ROOT.certificate], server_judge(NAME))


def test_a_server_with_client_usage_only_is_refused_in_tls() -> None:
    server = ROOT.issue("a", CLIENT_USAGE, names=[NAME])
    with pytest.raises(WrongUsage):
        by_handshake(server, [ROOT.certificate], server_judge(NAME))


# Pins


@pytest.mark.parametrize("pinned", [UNDER_INTERMEDIATE, INTERMEDIATE, ROOT.identity])
@pytest.mark.parametrize("others", [[], [OTHER_ROOT.certificate]])
def test_any_certificate_of_the_chain_can_be_pinned(pinned: Identity, others: list[x509.Certificate]) -> None:
    check = PeerCheck(device_judge(NAME), [*others, pinned.certificate])
    shake_hands(chained(UNDER_INTERMEDIATE, INTERMEDIATE), [ROOT.certificate], check, as_server=True)
    assert check.name == NAME


def test_valid_chain_without_the_pinned_certificate_is_refused() -> None:
    check = PeerCheck(device_judge(NAME), [INTERMEDIATE.certificate, OTHER_ROOT.certificate])
    shake_hands(chained(LEAF, INTERMEDIATE), [ROOT.certificate], check, as_server=True)
    with pytest.raises(NotPinned):
        _ = check.name


def test_pin_does_not_excuse_an_invalid_chain_or_name() -> None:
    for anchors, name, rejected in (([], NAME, UntrustedChain), ([ROOT.certificate], "another", WrongName)):
        check = PeerCheck(device_judge(name), [LEAF.certificate])
        shake_hands(LEAF, anchors, check, as_server=True)
        with pytest.raises(rejected):
            _ = check.name


# Fail closed


def trusting(certificate: x509.Certificate) -> str:
    """A judge that accepts every peer."""
    return common_name(certificate)


def test_unverified_peer_has_no_name() -> None:
    with pytest.raises(NoCertificate):
        _ = PeerCheck(trusting).name


def test_peer_without_a_certificate_has_no_name() -> None:
    check = PeerCheck(controller_judge)
    shake_hands(None, [ROOT.certificate], check, as_server=False)
    with pytest.raises(NoCertificate):
        _ = check.name
    with pytest.raises(NoCertificate):
        verify_chain([], [ROOT.certificate], trusting, Purpose.TLS_CLIENT)


def test_issuers_alone_give_no_name() -> None:
    check = PeerCheck(trusting)
    assert check(_connection(), crypto.X509.from_cryptography(ROOT.certificate), 0, 1, 1)
    with pytest.raises(NoCertificate):
        _ = check.name


def test_refused_peer_stays_refused() -> None:
    check = PeerCheck(trusting)
    leaf = crypto.X509.from_cryptography(LEAF.certificate)
    expired = SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED
    assert not check(_connection(), crypto.X509.from_cryptography(ROOT.certificate), expired, 1, 0)
    assert not check(_connection(), leaf, 0, 0, 1)
    with pytest.raises(CertificateExpired):
        _ = check.name


def test_later_refusal_clears_the_name() -> None:
    check = PeerCheck(trusting)
    leaf = crypto.X509.from_cryptography(LEAF.certificate)
    assert check(_connection(), leaf, 0, 0, 1)
    assert check.name == NAME
    assert not check(_connection(), leaf, SSL.X509VerificationCodes.ERR_CERT_REVOKED, 0, 0)
    with pytest.raises(UntrustedChain, match="revoked"):
        _ = check.name


def test_exception_in_a_check_refuses_the_peer() -> None:
    def defective(_certificate: x509.Certificate) -> str:
        raise ZeroDivisionError

    check = PeerCheck(defective)
    shake_hands(LEAF, [ROOT.certificate], check, as_server=True)
    with pytest.raises(PeerRejected, match="ZeroDivisionError"):
        _ = check.name


def _connection() -> SSL.Connection:
    return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


# Certificates that cannot be read

DER = LEAF.certificate.public_bytes(Encoding.DER)


def of_version_5(certificate: asn1_x509.Certificate) -> None:
    certificate["tbs_certificate"]["version"] = 4


def with_an_extension_twice(certificate: asn1_x509.Certificate) -> None:
    extensions = certificate["tbs_certificate"]["extensions"]
    extensions.append(extensions[-1].copy())


@pytest.mark.parametrize("edit", [of_version_5, with_an_extension_twice])
@pytest.mark.parametrize("judge", [device_judge(NAME), controller_judge, server_judge(NAME)])
def test_a_certificate_that_only_openssl_reads_is_refused(
    edit: Callable[[asn1_x509.Certificate], None], judge: Judge
) -> None:
    certificate = asn1_x509.Certificate.load(DER)
    edit(certificate)
    read = crypto.load_certificate(crypto.FILETYPE_ASN1, certificate.dump(force=True))
    check = PeerCheck(judge)
    assert not check(_connection(), read, 0, 0, 1)
    with pytest.raises(PeerRejected, match="cannot be read"):
        _ = check.name


@given(changed(DER), st.sampled_from([device_judge(NAME), controller_judge, server_judge(NAME)]), st.integers(0, 90))
@examples(60, explored=150)
def test_any_certificate_is_identified_or_refused(octets: bytes, judge: Judge, error: int) -> None:
    try:
        certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, octets)
    except crypto.Error:
        return
    check = PeerCheck(judge)
    taken = check(_connection(), certificate, error, 0, int(error == 0))
    assert taken == (error == 0 and check.rejected is None)
    if not taken:
        with pytest.raises(PeerRejected):
            _ = check.name


# Names in certificates


def test_alternative_names_are_dns_names_and_addresses() -> None:
    certificate = ROOT.issue("a", SERVER_USAGE, names=["a.example.com", "::1"]).certificate
    assert alternative_names(certificate) == ["a.example.com", "::1"]
    assert alternative_names(issued().certificate) == []


def test_store_has_only_its_anchors() -> None:
    context = crypto.X509StoreContext(
        store_of([OTHER_ROOT.certificate]), crypto.X509.from_cryptography(LEAF.certificate)
    )
    with pytest.raises(crypto.X509StoreContextError):
        context.verify_certificate()


def test_each_rejection_has_its_own_kind() -> None:
    classes = [UntrustedChain, CertificateExpired, CertificateNotYetValid, WrongName, WrongUsage, NotPinned]
    classes.append(NoCertificate)
    assert len({rejected.kind for rejected in [PeerRejected, *classes]}) == len(classes) + 1


def test_extended_key_usages_are_those_of_tls() -> None:
    extension = LEAF.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extension) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert isinstance(LEAF.key, ec.EllipticCurvePrivateKey)
