"""The Device's end of the LOM link on ``[::1]`` with Controllers that share no code with it and mean no good."""

from __future__ import annotations

import contextlib
import plistlib
import resource
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from debian import need
from lom_parties import (
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    NOW,
    QUICK,
    STRANGE_CA,
    YESTERDAY,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import (
    IMPATIENT,
    PEER_SECONDS,
    SHORT,
    RawController,
    answers,
    binary,
    check_no_ticket_was_sent,
    good,
    in_thread,
    pause,
    pem_files,
    read_all,
    request,
    still_serves,
)
from msgspec.structs import replace
from odd_certificates import UNREADABLE, odd_identity
from rsa_keys import rsa_key
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.lom.link import LinkAnswer
from agent.lom.requests import RelayOutcome
from agent.net.transport.listener import Listener
from agent.net.transport.stream import Timeouts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Callable[[Sockets], Deferred[bytes]]]:
    """A raw Controller that sends bytes and reads until the Device closes the link; b"" if it was refused."""

    def prepare(
        *pieces: bytes, identity: Identity | None = CONTROLLER_IDENTITY, **options: Any
    ) -> Callable[[Sockets], Deferred[bytes]]:
        def work(port: int) -> bytes:
            try:
                with RawController(tmp_path, port, identity, **options) as tls:
                    with contextlib.suppress(ConnectionError, ssl.SSLError):
                        for piece in pieces:
                            tls.sendall(piece)
                    return read_all(tls)
            except (ssl.SSLError, ConnectionError):
                return b""

        return lambda sockets: in_thread(lambda: work(sockets.network.port))

    return prepare


Raw = Callable[..., Callable[[Sockets], Deferred[bytes]]]
ODD_FAULTS = ["version 4", "x400Address", "subject of an empty set"]  # that OpenSSL reads


@pytest.mark.parametrize("inside", [True, False], ids=["dialled", "led by name"])
def test_device_key_refused_by_tls_does_not_affect_other_devices(run_in_reactor: Run, raw: Raw, inside: bool) -> None:
    party = device(DEVICE_CA.issue(NAME, LOM_USAGE, key=rsa_key(1024)))
    other = device(index=2, addresses=[ADDRESS_2])

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            sockets.network.add(other, "other.lom.test")
            if inside:
                (outcome,) = await sockets.relay(controller(), item())
                assert "during the TLS handshake" in outcome.error
            else:
                assert await raw(request())(sockets) == b""
            assert await sockets.relay(controller(), item(ADDRESS_2)) == [RelayOutcome("0001")]

    run_in_reactor(run())
    assert not party.asked


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_name_selects_the_device_for_an_outside_controller(
    run_in_reactor: Run, raw: Raw, version: ssl.TLSVersion
) -> None:
    party, other = device(), device(DEVICE_CA.issue("other.lom.test", LOM_USAGE), index=2, addresses=[ADDRESS_2])

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=2)) as sockets:
            sockets.network.add(other, "other.lom.test")
            options = {"minimum_version": version, "maximum_version": version}
            return await raw(request("a"), request("b"), name=NAME.upper(), **options)(sockets)

    assert answers(run_in_reactor(run())) == [good("a"), good("b")]
    assert [(asked.uuid, name) for asked, name in party.asked] == [("a", CONTROLLER_NAME), ("b", CONTROLLER_NAME)]
    assert not other.asked


def test_requests_are_read_in_any_pieces(run_in_reactor: Run, raw: Raw) -> None:
    whole = request("a") + request("b")
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=2)) as sockets:
            return await raw(*(whole[at : at + 1] for at in range(len(whole))))(sockets)

    assert answers(run_in_reactor(run())) == [good("a"), good("b")]


def test_failure_is_answered_with_a_reason(run_in_reactor: Run, raw: Raw) -> None:
    party = device()
    party.answer = lambda asked: LinkAnswer(asked.uuid, "Reset refused: the Mac is off")

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=1)) as sockets:
            return await raw(request())(sockets)

    assert answers(run_in_reactor(run())) == [
        {
            "DeviceRequestUUID": "0001",
            "DeviceRequestSuccess": False,
            "DeviceRequestReturnError": "Reset refused: the Mac is off",
        }
    ]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "identity",
    [
        None,
        STRANGE_CA.issue(CONTROLLER_NAME, LOM_USAGE),
        DEVICE_CA.issue(CONTROLLER_NAME, LOM_USAGE),
        DEVICE_IDENTITY,
        CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE, not_before=NOW - timedelta(days=2), not_after=YESTERDAY),
        CONTROLLER_CA.issue(CONTROLLER_NAME, replace(LOM_USAGE, client_auth=False)),
        CONTROLLER_CA.issue(CONTROLLER_NAME, replace(LOM_USAGE, data_encipherment=False)),
        CONTROLLER_CA.issue(None, LOM_USAGE, names=[CONTROLLER_NAME]),
    ],
    ids=["none", "untrusted", "by the Devices' CA", "a Device's", "expired", "no clientAuth", "no usage", "no name"],
)
def test_untrusted_controller_is_refused(
    run_in_reactor: Run, raw: Raw, identity: Identity | None, version: ssl.TLSVersion
) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request(), identity=identity, minimum_version=version, maximum_version=version)(
                sockets
            )
            assert not party.asked
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


@pytest.mark.parametrize("fault", ODD_FAULTS)
def test_unreadable_controller_certificate_is_refused(run_in_reactor: Run, raw: Raw, fault: str) -> None:
    party = device()
    odd = odd_identity(CONTROLLER_IDENTITY, CONTROLLER_CA.identity.key, UNREADABLE[fault])

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request(), identity=odd)(sockets)
            assert not party.asked
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


@pytest.mark.parametrize("name", ["nobody.lom.test", None, "::1", "xn--nobody"])
def test_unknown_server_name_fails_the_handshake(run_in_reactor: Run, raw: Raw, name: str | None) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request(), name=name)(sockets)
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


@pytest.mark.parametrize("lost", [None, controller().lom], ids=["no payload", "a Controller only"])
def test_device_without_lom_payload_does_not_answer(run_in_reactor: Run, tmp_path: Path, lost: Any) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            first_answered, go_on = threading.Event(), threading.Event()

            def work() -> bytes:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(request("a"))
                    received = tls.recv(65536)
                    first_answered.set()
                    go_on.wait(PEER_SECONDS)
                    tls.sendall(request("b"))
                    return received + read_all(tls)

            working = in_thread(work)
            await in_thread(lambda: first_answered.wait(PEER_SECONDS))
            party.lom = lost
            go_on.set()
            return await working

    assert answers(run_in_reactor(run())) == [good("a")]
    assert len(party.asked) == 1


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack(">I", 4097) + bytes(5000),
        struct.pack(">I", 0),
        b"GET / HTTP/1.1\r\nHost: device\r\n\r\n",
        struct.pack(">I", 20) + b"bplist00" + bytes(12),
        struct.pack(">I", 8) + b"no plist",
        struct.pack(">I", len(plistlib.dumps({}))) + plistlib.dumps({}),
        binary([1, 2]),
        binary({}),
        request(DeviceRequestType="reset"),
        request(LOMProtocolVersion="1"),
        request(DeviceRequestUUID="x" * 257),
        binary(good()),
    ],
    ids=[
        "too long",
        "empty",
        "HTTP",
        "broken plist",
        "no plist",
        "XML plist",
        "array",
        "no keys",
        "unknown request",
        "version as text",
        "long UUID",
        "an answer",
    ],
)
def test_controller_that_violates_the_protocol_is_disconnected(run_in_reactor: Run, raw: Raw, junk: bytes) -> None:
    """Earlier requests are answered, later bytes are not read."""
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request("a"), junk, request("b"))(sockets)
            await still_serves(sockets, party)
        return received

    assert answers(run_in_reactor(run())) == [good("a")]
    assert [asked.uuid for asked, _ in party.asked] == ["a", "0001"]


@pytest.mark.parametrize("pieces", [[], [request()[:-1]], [b"\0"]], ids=["nothing", "half a frame", "one octet"])
def test_silent_controller_is_disconnected(run_in_reactor: Run, raw: Raw, pieces: list[bytes]) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=IMPATIENT) as sockets:
            received = await raw(*pieces)(sockets)
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


def test_occasional_bytes_do_not_extend_the_time_limit(run_in_reactor: Run, tmp_path: Path) -> None:
    async def run() -> int:
        with Sockets(reactor, device(), limits=replace(IMPATIENT, request_seconds=2 * SHORT)) as sockets:

            def work() -> int:
                sent = 0
                with (
                    RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls,
                    contextlib.suppress(ConnectionError, ssl.SSLError),
                ):
                    for octet in request():
                        tls.sendall(bytes([octet]))
                        sent += 1
                        time.sleep(SHORT / 3)
                return sent

            return await in_thread(work)

    assert 1 <= run_in_reactor(run()) < len(request()) / 2


@pytest.mark.parametrize("octets", [b"", b"\x16\x03\x01", b"bplist00"], ids=["silent", "half a hello", "no TLS"])
def test_peer_without_handshake_is_disconnected(run_in_reactor: Run, octets: bytes) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, timeouts=Timeouts(handshake=SHORT)) as sockets:

            def work() -> bytes:
                with socket.create_connection(("::1", sockets.network.port), timeout=PEER_SECONDS) as plain:
                    plain.sendall(octets)
                    received = b""
                    with contextlib.suppress(ConnectionError):
                        while more := plain.recv(65536):
                            received += more
                    return received

            received = await in_thread(work)
            await still_serves(sockets, party)
        return received

    received = run_in_reactor(run())
    assert received[:1] in (b"", b"\x15")  # nothing, or a TLS alert


def test_link_carries_at_most_64_requests(run_in_reactor: Run, raw: Raw) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(b"".join(request(str(number)) for number in range(100)))(sockets)
            assert len(party.asked) == 64
            await still_serves(sockets, party)
        return received

    assert answers(run_in_reactor(run())) == [good(str(number)) for number in range(64)]


def test_controller_that_disconnects_after_its_request_is_harmless(run_in_reactor: Run, tmp_path: Path) -> None:
    """The answers break on a connection that was reset, several of them in one turn."""
    party = device()

    async def run() -> None:
        with Sockets(reactor, party) as sockets:

            def work() -> None:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    tls.sendall(b"".join(request(str(number)) for number in range(20)))

            for _ in range(5):
                await in_thread(work)
            await still_serves(sockets, party)

    run_in_reactor(run())


def test_failed_write_ends_the_link(run_in_reactor: Run, tmp_path: Path) -> None:
    """The Controller resets the connection while its first request is carried out; two more are read already."""
    party = device()
    asked_once, gone = threading.Event(), threading.Event()

    async def run() -> None:
        with Sockets(reactor, party) as sockets:

            def work() -> None:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    tls.sendall(request("a") + request("b") + request("c"))
                    assert asked_once.wait(PEER_SECONDS)
                gone.set()

            def answer(asked: Any) -> LinkAnswer:
                asked_once.set()
                assert gone.wait(PEER_SECONDS)  # the reactor waits, so that the reset comes before the answer
                return LinkAnswer(asked.uuid)

            party.answer = answer
            await in_thread(work)
            await still_serves(sockets, party)

    run_in_reactor(run())
    assert [asked.uuid for asked, _ in party.asked] == ["a", "0001"]


def test_resumption_does_not_replace_a_certificate(run_in_reactor: Run, tmp_path: Path) -> None:
    """A peer that shows no certificate the second time is no Controller, whatever tickets it has."""
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=1)) as sockets:

            def work() -> bytes:
                first = RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY)
                with first as tls:
                    tls.sendall(request())
                    assert answers(read_all(tls)) == [good()]
                    session = tls.session
                first.context.load_cert_chain(*pem_files(tmp_path, STRANGE_CA.issue("x", LOM_USAGE), "strange"))
                plain = socket.create_connection(("::1", sockets.network.port), timeout=PEER_SECONDS)
                with plain, contextlib.suppress(ConnectionError, ssl.SSLError):
                    tls = first.context.wrap_socket(plain, server_hostname=NAME, session=session)
                    with tls:
                        tls.sendall(request("again"))
                        return read_all(tls)
                return b""

            return await in_thread(work)

    assert run_in_reactor(run()) == b""
    assert [asked.uuid for asked, _ in party.asked] == ["0001"]


def test_listener_recovers_from_running_out_of_descriptors(
    run_in_reactor: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = device()
    looks = 0

    def do_read(listener: Listener) -> None:
        nonlocal looks
        looks += 1
        accept(listener)

    accept = Listener.doRead
    monkeypatch.setattr(Listener, "doRead", do_read)

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_INET6) as probe:
                free = probe.fileno()
            peer = socket.socket(socket.AF_INET6)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, peer.fileno()) + 1, hard))
            try:
                peer.connect(("::1", sockets.network.port))  # accepting it takes a descriptor that is not there
                await pause(SHORT)
                assert 1 <= looks <= 100, "the reactor did nothing but fail to accept"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                peer.close()
            await still_serves(sockets, party)

    run_in_reactor(run())


def test_openssl_client_works_as_controller(run_in_reactor: Run, tmp_path: Path) -> None:
    openssl = need("openssl", "openssl")
    certificate, key = pem_files(tmp_path, CONTROLLER_IDENTITY, "controller")
    anchor, _ = pem_files(tmp_path, DEVICE_CA.identity, "ca")
    party = device()

    async def run() -> subprocess.CompletedProcess[bytes]:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=1)) as sockets:
            command = [openssl, "s_client", "-quiet", "-connect", f"[::1]:{sockets.network.port}", "-servername", NAME]
            command += ["-cert", certificate, "-key", key, "-CAfile", anchor, "-verify_return_error"]
            command += ["-msg", "-msgfile", str(tmp_path / "messages")]
            return await in_thread(
                lambda: subprocess.run(command, input=request(), capture_output=True, timeout=PEER_SECONDS, check=False)
            )

    done = run_in_reactor(run())
    assert answers(done.stdout) == [good()], done.stderr.decode()
    check_no_ticket_was_sent(tmp_path / "messages")


def test_closing_the_network_closes_open_links(run_in_reactor: Run, tmp_path: Path) -> None:
    async def run() -> bytes:
        with Sockets(reactor, device(), limits=replace(QUICK, request_seconds=10 * PEER_SECONDS)) as sockets:
            waiting = threading.Event()

            def work() -> bytes:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(request())
                    received = tls.recv(65536)
                    waiting.set()
                    return received + read_all(tls)

            working = in_thread(work)
            await in_thread(lambda: waiting.wait(PEER_SECONDS))
        return await working

    assert answers(run_in_reactor(run())) == [good()]
