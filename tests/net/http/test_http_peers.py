"""Who is at the other end of a Mac's HTTPS connection, who the Mac is to it, and servers that are not there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from rsa_keys import rsa_key
from servers import (
    AUTHORITY,
    HOST,
    IDENTITY,
    Names,
    Talk,
    ask,
    client,
    echo,
    fails,
    serving,
    silent,
    unused_port,
)

from agent.net.http.connection import HTTPConnection
from agent.net.http.http1 import Origin
from agent.net.transport.stream import Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, SERVER_USAGE, Authority, make_key

OTHER_AUTHORITY = Authority.create("Another CA")
MIB = 1024 * 1024


# Who the server is


def test_server_can_be_named_by_name_or_address(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        for host in ("mdm.test", HOST):
            origin = server.origin(host)
            connection = client(origin, names=Names({"mdm.test": [HOST]}))

            async def scenario(connection: HTTPConnection = connection, origin: Origin = origin) -> None:
                assert (await ask(connection, origin, b"x")).body == b"x"
                connection.close()

            run_in_reactor(scenario())
        assert [request.headers["host"] for request in server.requests] == [
            f"mdm.test:{server.port}",
            f"{HOST}:{server.port}",
        ]


@pytest.mark.parametrize(("host", "hello"), [("mdm.test", b"mdm.test"), (HOST, None)])
def test_client_hello_has_the_server_name(run_in_reactor: RunInReactor, host: str, hello: bytes | None) -> None:
    heard: list[bytes | None] = []

    def listens(talk: Talk) -> None:
        heard.append(talk.tls.get_servername())
        echo(talk)

    with serving(listens) as server:
        origin = server.origin(host)
        connection = client(origin, names=Names({"mdm.test": [HOST]}))

        async def scenario() -> None:
            await ask(connection, origin)
            connection.close()

        run_in_reactor(scenario())
    assert heard == [hello]


def test_intermediates_are_sent_with_the_identity(run_in_reactor: RunInReactor) -> None:
    """Two Macs of one fleet whose identities come from different intermediate CAs; the server knows the root only."""
    contexts = TLSContexts()
    identities = []
    for name in ("First", "Second"):
        intermediate = intermediate_of(AUTHORITY, name)
        issued = intermediate.issue("mac", CLIENT_USAGE)
        identities.append(Identity(issued.certificate, issued.key, chain=(intermediate.certificate,)))
    with serving(require_certificate=True) as server:

        async def scenario() -> None:
            for identity in identities:
                connection = client(server.origin(), identity=identity, contexts=contexts)
                await ask(connection, server.origin())
                connection.close()

        run_in_reactor(scenario())
    assert [request.certificate for request in server.requests] == [identity.certificate for identity in identities]


def intermediate_of(root: Authority, name: str) -> Authority:
    """A CA below another one."""
    key = make_key()
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return Authority(Identity(builder.sign(root.identity.key, hashes.SHA256()), key))


def server_identity(**options: object) -> Identity:
    return AUTHORITY.issue("server", SERVER_USAGE, **options)  # type: ignore[arg-type]


LONG_AGO = datetime.now(UTC) - timedelta(days=2)


@pytest.mark.parametrize(
    ("identity", "kind", "words"),
    [
        (OTHER_AUTHORITY.issue("server", SERVER_USAGE, names=[HOST]), "tls_untrusted", "Another CA"),
        (server_identity(names=["other.test", "192.0.2.1"]), "tls_wrong_name", "other.test, 192.0.2.1"),
        (server_identity(), "tls_wrong_name", "found the names none"),
        (AUTHORITY.issue(HOST, SERVER_USAGE), "tls_wrong_name", "found the names none"),
        (
            server_identity(names=[HOST], not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1)),
            "tls_expired",
            "expired",
        ),
        (
            server_identity(names=[HOST], not_before=datetime.now(UTC) + timedelta(days=1)),
            "tls_not_yet_valid",
            "before",
        ),
        (AUTHORITY.issue("client", CLIENT_USAGE, names=[HOST]), "tls_wrong_usage", "not allowed"),
    ],
    ids=["untrusted", "other name", "no SAN", "CN without SAN", "expired", "not yet valid", "client certificate"],
)
def test_server_with_a_wrong_certificate_gets_no_request(
    run_in_reactor: RunInReactor, identity: Identity, kind: str, words: str
) -> None:
    with serving(identity=identity) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin(), b"secret")
        assert error.kind == kind
        assert words in str(error)
        assert server.requests == []


def test_verified_server_does_not_make_another_trusted(run_in_reactor: RunInReactor) -> None:
    """Over the same contexts: what was found of a certificate stands for no other one, no other name or anchors."""
    contexts = TLSContexts()
    good = server_identity(names=[HOST])
    others = [
        (server_identity(names=["other.test"]), HOST, [AUTHORITY.certificate], "tls_wrong_name"),
        (OTHER_AUTHORITY.issue("server", SERVER_USAGE, names=[HOST]), HOST, [AUTHORITY.certificate], "tls_untrusted"),
        (good, "mdm.test", [AUTHORITY.certificate], "tls_wrong_name"),
        (good, HOST, [OTHER_AUTHORITY.certificate], "tls_untrusted"),
        (good, HOST, [], "tls_untrusted"),
    ]
    for identity, host, anchors, kind in others:
        with serving(identity=good) as server:
            origin = server.origin()
            connection = client(origin, contexts=contexts)

            async def scenario(connection: HTTPConnection = connection, origin: Origin = origin) -> None:
                await ask(connection, origin)
                connection.close()

            run_in_reactor(scenario())
        with serving(identity=identity) as server:
            origin, names = server.origin(host), Names({"mdm.test": [HOST]})
            error = fails(run_in_reactor, client(origin, anchors=anchors, names=names, contexts=contexts), origin)
            assert error.kind == kind
            assert server.requests == []


def test_certificate_is_refused_once_it_has_expired(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL verifies chain and time in every full handshake; here it is made to look at a later moment."""
    contexts = TLSContexts()
    with serving() as server:
        connection = client(server.origin(), contexts=contexts)

        async def scenario() -> None:
            await ask(connection, server.origin())
            connection.close()

        run_in_reactor(scenario())
        made = contexts.client

        def later(*arguments: Any, **options: Any) -> SSL.Connection:
            tls = made(*arguments, **options)
            store = tls.get_context().get_cert_store()
            assert store is not None
            store.set_time(datetime.now(UTC) + timedelta(days=36500))
            return tls

        monkeypatch.setattr(contexts, "client", later)
        assert fails(run_in_reactor, connection, server.origin()).kind == "tls_expired"
        assert len(server.requests) == 1


def test_no_server_is_trusted_without_an_anchor(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        error = fails(run_in_reactor, client(server.origin(), anchors=()), server.origin())
        assert error.kind == "tls_untrusted"
        assert server.requests == []


def test_host_names_and_addresses_match_their_own_san_type(run_in_reactor: RunInReactor) -> None:
    """A certificate for the address does not stand for a name that leads there."""
    with serving(identity=server_identity(names=[HOST])) as server:
        origin = server.origin("mdm.test")
        error = fails(run_in_reactor, client(origin, names=Names({"mdm.test": [HOST]})), origin)
        assert error.kind == "tls_wrong_name"


def test_unresolvable_name_is_reported(run_in_reactor: RunInReactor) -> None:
    origin = Origin("nothing.test", 443)
    error = fails(run_in_reactor, client(origin, names=Names({})), origin)
    assert (error.kind, "nothing.test" in str(error)) == ("dns", True)


# Who the Mac is


def test_each_connection_presents_its_own_identity(run_in_reactor: RunInReactor) -> None:
    """Two Macs in turn over one set of contexts, over kept-alive and new connections; a third has no identity."""
    macs = [AUTHORITY.issue(f"mac-{number}", CLIENT_USAGE) for number in range(2)]
    macs.append(Identity(macs[0].certificate, macs[0].key, chain=(AUTHORITY.certificate,)))
    identities = [*macs, None]
    contexts = TLSContexts()
    with serving() as server:
        connections = [client(server.origin(), identity=identity, contexts=contexts) for identity in identities]

        async def scenario() -> None:
            for turn in range(3):
                for number, connection in enumerate(connections):
                    await ask(connection, server.origin(), b"%d" % number)
                    if turn == 1:
                        connection.close()
            for connection in connections:
                connection.close()

        run_in_reactor(scenario())
        assert len(server.requests) == 12
        for request in server.requests:
            identity = identities[int(request.body)]
            assert request.certificate == (None if identity is None else identity.certificate)


REFUSALS = [
    pytest.param(OTHER_AUTHORITY.issue("mac", CLIENT_USAGE), "unknown ca", id="of another CA"),
    pytest.param(None, "certificate required|handshake failure", id="none"),
    pytest.param(
        AUTHORITY.issue("mac", CLIENT_USAGE, not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1)),
        "certificate expired",
        id="expired",
    ),
]


@pytest.mark.parametrize("tls_1_2", [False, True], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize(("identity", "words"), REFUSALS)
@pytest.mark.parametrize("body_bytes", [0, 4 * MIB])
@pytest.mark.parametrize("stays", [False, True], ids=["closes", "stays"])
def test_refused_client_certificate_is_reported(
    run_in_reactor: RunInReactor, identity: Identity | None, words: str, tls_1_2: bool, body_bytes: int, stays: bool
) -> None:
    def script(talk: Talk) -> None:
        try:
            talk.read_request()
        finally:
            if stays:
                talk.wait_for_end()

    with serving(script, require_certificate=True, tls_1_2=tls_1_2) as server:
        connection = client(server.origin(), identity=identity)
        error = fails(run_in_reactor, connection, server.origin(), b"x" * body_bytes)
        assert server.requests == []
        if stays:
            assert error.kind == ("tls" if "handshake failure" in str(error) and tls_1_2 else "tls_refused")
            assert any(word in str(error) for word in words.split("|"))
        else:  # its reset may come during our write, and take the reason that it gave along
            assert "certificate" in str(error) or any(word in str(error) for word in words.split("|"))


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity(IDENTITY.certificate, AUTHORITY.identity.key), "key values mismatch"),
        (AUTHORITY.issue("mac", CLIENT_USAGE, key=rsa_key(1024)), "key too small"),
    ],
    ids=["another key", "short key"],
)
def test_unusable_identity_is_reported(run_in_reactor: RunInReactor, identity: Identity, words: str) -> None:
    with serving() as server:
        error = fails(run_in_reactor, client(server.origin(), identity=identity), server.origin())
        assert error.kind == "identity"
        assert words in str(error)
        assert server.requests == []


# Servers that are not there


def test_refused_connection_is_reported_with_its_address(run_in_reactor: RunInReactor) -> None:
    origin = Origin(HOST, unused_port())
    error = fails(run_in_reactor, client(origin), origin)
    assert error.kind == "connect"
    assert "Connection refused" in str(error)
    assert f"{HOST}:{origin.port}" in str(error)


def test_the_handshake_has_a_time_limit(run_in_reactor: RunInReactor) -> None:
    with serving(silent) as server:
        connection = client(server.origin(), timeouts=Timeouts(handshake=0.05))
        error = fails(run_in_reactor, connection, server.origin())
        assert (error.kind, str(error)) == ("tls_timeout", "no TLS handshake within 0.05 s")


def test_server_without_tls_is_reported(run_in_reactor: RunInReactor) -> None:
    def plain(talk: Talk) -> None:
        talk.sock.recv(4096)
        talk.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.wait_for_end()

    with serving(plain) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "tls"
        assert "does not speak TLS" in str(error)


@pytest.mark.parametrize("end", [Talk.drop, Talk.reset], ids=["end of TCP", "reset"])
def test_connection_closed_during_the_handshake_is_reported(run_in_reactor: RunInReactor, end: object) -> None:
    def hangs_up(talk: Talk) -> None:
        talk.sock.recv(16)
        end(talk)  # type: ignore[operator]

    with serving(hangs_up) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "tls"
        assert "during the TLS handshake" in str(error)


# Names with several addresses


def test_next_address_is_tried_after_a_refusal(run_in_reactor: RunInReactor) -> None:
    """``localhost`` is ::1 first; the server listens on 127.0.0.1 only. The second request goes there at once."""
    with serving() as server:
        origin = server.origin("localhost")
        connection = client(origin)

        async def scenario() -> None:
            for _ in range(2):
                assert (await ask(connection, origin, b"x")).body == b"x"
                connection.close()

        run_in_reactor(scenario())
        assert server.connections == 2


def test_unusable_address_is_skipped(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        origin = server.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["255.255.255.255", "fe80::1", HOST]}))

        async def scenario() -> None:
            assert (await ask(connection, origin, b"x")).body == b"x"
            connection.close()

        run_in_reactor(scenario())


def test_last_working_address_is_tried_first(run_in_reactor: RunInReactor) -> None:
    with serving(host="127.0.0.2") as server:
        origin = server.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["127.0.0.3", "127.0.0.2"]}))

        async def scenario() -> None:
            await ask(connection, origin)
            connection.close()

        run_in_reactor(scenario())
        with serving(host="127.0.0.3", port=server.port) as came_up_later:
            run_in_reactor(scenario())
            assert (server.connections, came_up_later.connections) == (2, 0)


def test_error_names_every_refusing_address(run_in_reactor: RunInReactor) -> None:
    origin = Origin("localhost", unused_port())
    error = fails(run_in_reactor, client(origin), origin)
    assert error.kind == "connect"
    assert f"[::1]:{origin.port}, {HOST}:{origin.port}" in str(error)


def test_wrong_certificate_stops_the_search_for_an_address(run_in_reactor: RunInReactor) -> None:
    """Only a refused connection leads to the next address: another address must not hide a TLS error."""
    wrong = OTHER_AUTHORITY.issue("x", SERVER_USAGE, names=["mdm.test"])
    with serving() as right, serving(identity=wrong, host="127.0.0.2", port=right.port):
        origin = right.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["127.0.0.2", HOST]}))
        assert fails(run_in_reactor, connection, origin).kind == "tls_untrusted"
        assert right.connections == 0
