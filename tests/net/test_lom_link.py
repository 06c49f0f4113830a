"""The LOM link over TCP and mutual TLS on ``[::1]``, with peers that share no code with it and mean no good.

A raw Controller is a plain ``ssl`` client in a thread, led by the server name of its hello; a raw Device is a plain
``ssl`` server in a thread that the network is told the port of.
"""

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
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from debian import need
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    NOW,
    NOWHERE,
    QUICK,
    STRANGE_CA,
    YESTERDAY,
    Party,
    Sockets,
    controller,
    device,
    item,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.errors import OperatorError
from agent.lom.link import LinkAnswer
from agent.lom.network import AddressBook
from agent.lom.requests import Outcome, PowerRequest
from agent.net.lom_link import LoopbackNetwork
from agent.net.stream import Timeouts
from agent.net.tls import TLSContexts
from agent.pki.authority import LOM_USAGE
from agent.pki.identity import Identity

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SHORT = 0.15  # seconds, for limits that a test runs into
IMPATIENT = replace(QUICK, answer_seconds=SHORT, request_seconds=SHORT)
PEER_SECONDS = 20.0  # after which a raw peer gives up, so that a test that fails ends


def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
    """Run something that blocks beside the reactor."""
    done: Deferred[Any] = Deferred()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  # it is raised again where the Deferred is awaited
            reactor.callFromThread(done.errback, error)
        else:
            reactor.callFromThread(done.callback, result)

    threading.Thread(target=run, daemon=True).start()
    return done


def pause(seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


def binary(value: Any) -> bytes:
    body = plistlib.dumps(value, fmt=plistlib.FMT_BINARY)
    return struct.pack(">I", len(body)) + body


def request(uuid: str = "0001", **changes: Any) -> bytes:
    """The frame of a request, by hand."""
    message = {"LOMProtocolVersion": 1, "DeviceRequestUUID": uuid, "DeviceDNSName": NAME, "DeviceRequestType": "Reset"}
    return binary({**message, **changes})


def answers(received: bytes) -> list[Any]:
    """The answers in what a raw Controller received, by hand."""
    found = []
    while received:
        (length,) = struct.unpack_from(">I", received)
        found.append(plistlib.loads(received[4 : 4 + length], fmt=plistlib.FMT_BINARY))
        received = received[4 + length :]
    return found


def good(uuid: str = "0001") -> dict[str, Any]:
    return {"DeviceRequestUUID": uuid, "DeviceRequestSuccess": True}


def pem_files(folder: Path, identity: Identity, name: str) -> tuple[Path, Path]:
    """Write an identity's certificate and key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


class RawController:
    """A Controller made of the standard library, for ``with``, in a thread."""

    def __init__(self, folder: Path, port: int, identity: Identity | None, *, name: str | None = NAME, **context: Any):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.load_verify_locations(cadata=DEVICE_CA.certificate.public_bytes(Encoding.PEM).decode())
        for key, value in context.items():
            setattr(self.context, key, value)
        if identity is not None:
            self.context.load_cert_chain(*pem_files(folder, identity, f"raw-{id(self)}"))
        self._port, self._name = port, name

    def __enter__(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("::1", self._port), timeout=PEER_SECONDS)
        try:
            self._tls = self.context.wrap_socket(plain, server_hostname=self._name)
        except OSError:
            plain.close()
            raise
        return self._tls

    def __exit__(self, *_: object) -> None:
        self._tls.close()


def read_all(tls: ssl.SSLSocket) -> bytes:
    """Everything until the Device hangs up, in good order or not."""
    received = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        while octets := tls.recv(65536):
            received += octets
    return received


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Callable[[Sockets], Deferred[bytes]]]:
    """A raw Controller that sends bytes and reads until the Device hangs up; b"" where it was refused."""

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


async def still_serves(sockets: Sockets, party: Party) -> None:
    """The network carries a good request, whatever happened before."""
    before = len(party.asked)
    assert await sockets.relay(controller(), item()) == [Outcome("0001")]
    assert len(party.asked) == before + 1


# Our own two ends


def test_a_request_reaches_its_device_and_leaves_a_record(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> Sockets:
        with Sockets(reactor, party, wall_clock=lambda: 1000.0) as sockets:
            assert await sockets.relay(controller(), item(request=PowerRequest.OFF)) == [Outcome("0001")]
        return sockets

    (record,) = run_in_reactor(run()).records
    ((asked, name),) = party.asked
    assert (asked.uuid, asked.dns_name, asked.request, asked.version) == ("0001", NAME, PowerRequest.OFF, 1)
    assert name == CONTROLLER_NAME
    assert (record.operation, record.device, record.started, record.failure) == ("lom_link", 0, 1000.0, None)
    assert 0 < record.seconds < PEER_SECONDS
    assert record.facts == {
        "address": ADDRESS,
        "device_dns_name": NAME,
        "request": "PowerOFF",
        "request_uuid": "0001",
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "peer": NAME,
    }


def test_each_address_that_was_tried_leaves_a_record(run_in_reactor: Run) -> None:
    wrong = device(DEVICE_CA.issue("other", LOM_USAGE), addresses=[ADDRESS])
    expired = device(DEVICE_CA.issue(NAME, LOM_USAGE, not_before=NOW - timedelta(days=2), not_after=YESTERDAY), index=2)
    expired.lom_addresses = [ADDRESS_2]
    right = device(index=3, addresses=["fe80::3"])

    async def run() -> Sockets:
        with Sockets(reactor, wrong, expired, right) as sockets:
            assert await sockets.relay(controller(), item(NOWHERE, ADDRESS, ADDRESS_2, "fe80::3")) == [Outcome("0001")]
        return sockets

    sockets = run_in_reactor(run())
    assert sockets.kinds == ["lom_unreachable", "tls_wrong_name", "tls_expired", None]
    assert [record.facts["address"] for record in sockets.records] == [NOWHERE, ADDRESS, ADDRESS_2, "fe80::3"]


def test_a_thousand_items_keep_their_order_and_most_fail_at_once(run_in_reactor: Run) -> None:
    party = device()
    items = [item(ADDRESS if number % 100 == 0 else NOWHERE, uuid=str(number)) for number in range(1000)]

    async def run() -> list[Outcome]:
        with Sockets(reactor, party) as sockets:
            return await sockets.relay(controller(), *items)

    outcomes = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == [wanted.uuid for wanted in items]
    assert [outcome.uuid for outcome in outcomes if outcome.success] == [str(number) for number in range(0, 1000, 100)]
    assert sorted(asked.uuid for asked, _ in party.asked) == sorted(str(number) for number in range(0, 1000, 100))


def test_a_relay_of_nothing_is_over_at_once(run_in_reactor: Run) -> None:
    async def run() -> list[Outcome]:
        with Sockets(reactor) as sockets:
            return await sockets.relay(controller())

    assert run_in_reactor(run()) == []


def test_a_network_that_is_closed_carries_nothing(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[Outcome]:
        with Sockets(reactor, party) as sockets:
            pass
        return await sockets.relay(controller(), item())

    (outcome,) = run_in_reactor(run())
    assert "the LOM network is closed" in outcome.error
    assert not party.asked


def test_a_port_that_is_taken_is_the_operators_to_change() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        network = LoopbackNetwork(reactor, AddressBook(), TLSContexts(), lambda _: None)
        with pytest.raises(OperatorError, match=f"cannot listen on .*{taken.getsockname()[1]}"):
            network.listen(taken.getsockname()[1])


def test_a_controllers_key_that_tls_does_not_take_fails_its_items(run_in_reactor: Run) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    asker = controller(CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE, key=weak))
    party = device()

    async def run() -> list[Outcome]:
        with Sockets(reactor, party) as sockets:
            outcomes = await sockets.relay(asker, item())
            await still_serves(sockets, party)
        return outcomes

    (outcome,) = run_in_reactor(run())
    assert "cannot be used for TLS" in outcome.error
    assert "ee key too small" in outcome.error


@pytest.mark.parametrize("inside", [True, False], ids=["dialled", "led by name"])
def test_a_devices_key_that_tls_does_not_take_harms_no_other_device(
    run_in_reactor: Run, raw: Raw, inside: bool
) -> None:
    party = device(DEVICE_CA.issue(NAME, LOM_USAGE, key=rsa.generate_private_key(65537, 1024)))
    other = device(index=2, addresses=[ADDRESS_2])

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            sockets.network.add(other, "other.lom.test")
            if inside:
                (outcome,) = await sockets.relay(controller(), item())
                assert "during the TLS handshake" in outcome.error
            else:
                assert await raw(request())(sockets) == b""
            assert await sockets.relay(controller(), item(ADDRESS_2)) == [Outcome("0001")]

    run_in_reactor(run())
    assert not party.asked


# A raw Controller


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_controller_from_outside_is_led_by_the_server_name(
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


def test_a_failure_is_answered_in_words(run_in_reactor: Run, raw: Raw) -> None:
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
def test_a_controller_that_is_not_trusted_is_refused(
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


@pytest.mark.parametrize("name", ["nobody.lom.test", None, "::1", "xn--nobody"])
def test_a_server_name_that_is_no_devices_leads_nowhere(run_in_reactor: Run, raw: Raw, name: str | None) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request(), name=name)(sockets)
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


@pytest.mark.parametrize("lost", [None, controller().lom], ids=["no payload", "a Controller only"])
def test_a_device_without_its_payload_answers_no_more(run_in_reactor: Run, tmp_path: Path, lost: Any) -> None:
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
def test_a_controller_that_breaks_the_rules_is_dropped(run_in_reactor: Run, raw: Raw, junk: bytes) -> None:
    """What it asked before is answered, what it says after is not read."""
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(request("a"), junk, request("b"))(sockets)
            await still_serves(sockets, party)
        return received

    assert answers(run_in_reactor(run())) == [good("a")]
    assert [asked.uuid for asked, _ in party.asked] == ["a", "0001"]


@pytest.mark.parametrize("pieces", [[], [request()[:-1]], [b"\0"]], ids=["nothing", "half a frame", "one octet"])
def test_a_controller_that_falls_silent_is_dropped(run_in_reactor: Run, raw: Raw, pieces: list[bytes]) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=IMPATIENT) as sockets:
            received = await raw(*pieces)(sockets)
            await still_serves(sockets, party)
        return received

    assert run_in_reactor(run()) == b""


def test_an_octet_now_and_then_does_not_prolong_a_link(run_in_reactor: Run, tmp_path: Path) -> None:
    async def run() -> float:
        with Sockets(reactor, device(), limits=replace(IMPATIENT, request_seconds=2 * SHORT)) as sockets:

            def work() -> float:
                begun = time.monotonic()
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    with contextlib.suppress(ConnectionError, ssl.SSLError):
                        for octet in request():
                            tls.sendall(bytes([octet]))
                            time.sleep(SHORT / 3)
                    return time.monotonic() - begun

            return await in_thread(work)

    assert run_in_reactor(run()) < len(request()) * SHORT / 3 / 2


@pytest.mark.parametrize("octets", [b"", b"\x16\x03\x01", b"bplist00"], ids=["silent", "half a hello", "no TLS"])
def test_a_peer_that_does_not_shake_hands_is_dropped(run_in_reactor: Run, octets: bytes) -> None:
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


def test_a_link_brings_64_requests_and_no_more(run_in_reactor: Run, raw: Raw) -> None:
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party) as sockets:
            received = await raw(b"".join(request(str(number)) for number in range(100)))(sockets)
            assert len(party.asked) == 64
            await still_serves(sockets, party)
        return received

    assert answers(run_in_reactor(run())) == [good(str(number)) for number in range(64)]


def test_a_controller_that_asks_and_runs_away_harms_nobody(run_in_reactor: Run, tmp_path: Path) -> None:
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


def test_a_write_that_breaks_ends_the_link(run_in_reactor: Run, tmp_path: Path) -> None:
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


def test_a_session_is_not_resumed_for_a_certificate(run_in_reactor: Run, tmp_path: Path) -> None:
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


def test_a_process_out_of_descriptors_serves_again_when_it_has_some(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_INET6) as probe:
                free = probe.fileno()
            peer = socket.socket(socket.AF_INET6)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, peer.fileno()) + 1, hard))
            try:
                peer.connect(("::1", sockets.network.port))  # accepting it takes a descriptor that is not there
                cpu = time.process_time()
                await pause(SHORT)
                assert time.process_time() - cpu < SHORT / 2, "the reactor did nothing but fail to accept"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                peer.close()
            await still_serves(sockets, party)

    run_in_reactor(run())


def test_openssls_own_client_as_controller(run_in_reactor: Run, tmp_path: Path) -> None:
    openssl = need("openssl", "openssl")
    certificate, key = pem_files(tmp_path, CONTROLLER_IDENTITY, "controller")
    anchor, _ = pem_files(tmp_path, DEVICE_CA.identity, "ca")
    party = device()

    async def run() -> subprocess.CompletedProcess[bytes]:
        with Sockets(reactor, party, limits=replace(QUICK, requests_a_link=1)) as sockets:
            command = [openssl, "s_client", "-quiet", "-connect", f"[::1]:{sockets.network.port}", "-servername", NAME]
            command += ["-cert", certificate, "-key", key, "-CAfile", anchor, "-verify_return_error"]
            return await in_thread(
                lambda: subprocess.run(command, input=request(), capture_output=True, timeout=PEER_SECONDS, check=False)
            )

    done = run_in_reactor(run())
    assert answers(done.stdout) == [good()], done.stderr.decode()


# A raw Device


class RawDevice:
    """A Device made of the standard library: ``script`` gets each connection, after the TLS handshake."""

    def __init__(self, folder: Path, script: Callable[[ssl.SSLSocket], None], identity: Identity = DEVICE_IDENTITY):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(cadata=CONTROLLER_CA.certificate.public_bytes(Encoding.PEM).decode())
        self.context.load_cert_chain(*pem_files(folder, identity, "raw-device"))
        self._script = script
        self._listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        """Until the listening socket is closed."""
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(PEER_SECONDS)
            self._threads.append(threading.Thread(target=self._serve_one, args=(plain,), daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        """Wait for what still runs."""
        if self._listener.fileno() != -1:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in self._threads:
            thread.join(PEER_SECONDS)
            assert not thread.is_alive()

    def _serve_one(self, plain: socket.socket) -> None:
        with plain, contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            tls = self.context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
            with tls:
                self._script(tls)


@pytest.fixture
def raw_device(tmp_path: Path) -> Iterator[Callable[..., RawDevice]]:
    made: list[tuple[RawDevice, threading.Thread]] = []

    def make(script: Callable[[ssl.SSLSocket], None], identity: Identity = DEVICE_IDENTITY) -> RawDevice:
        peer = RawDevice(tmp_path, script, identity)
        thread = threading.Thread(target=peer.serve, daemon=True)
        thread.start()
        made.append((peer, thread))
        return peer

    yield make
    for peer, thread in made:
        peer.close()
        thread.join(PEER_SECONDS)


MakeDevice = Callable[..., RawDevice]


async def relay_to(peer: RawDevice, *items: Any, **options: Any) -> tuple[list[Outcome], Sockets]:
    """Relay to a raw Device at ADDRESS; at ADDRESS_2 is one of ours, which must not be asked."""
    ours = device(index=2, addresses=[ADDRESS_2])
    with Sockets(reactor, ours, **options) as sockets:
        sockets.network.add(device(), NAME, port=peer.port)
        outcomes = await sockets.relay(controller(), *items)
        assert not ours.asked
        assert await sockets.relay(controller(), item(ADDRESS_2)) == [Outcome("0001")]
    return outcomes, sockets


def answer_well(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.sendall(binary(good()))
    tls.recv(1)


def test_a_device_of_another_make(run_in_reactor: Run, raw_device: MakeDevice) -> None:
    heard: list[bytes] = []

    def script(tls: ssl.SSLSocket) -> None:
        heard.append(tls.recv(65536))
        for octet in binary(good()):
            tls.sendall(bytes([octet]))
        heard.append(tls.recv(1))

    peer = raw_device(script)
    outcomes, _ = run_in_reactor(relay_to(peer, item(ADDRESS, ADDRESS_2)))
    assert outcomes == [Outcome("0001")]
    peer.close()
    assert heard == [request(), b""]


def reset(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.unwrap()


def say(octets: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        tls.sendall(octets)
        tls.recv(1)

    return script


def say_and_leave(octets: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        tls.sendall(octets)

    return script


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (reset, "lom_link_broken", "went away before it answered"),
        (hang_up, "lom_link_broken", "went away before it answered"),
        (say_and_leave(binary(good())[:-1]), "lom_link_broken", "went away before it answered"),
        (say(binary(good())[:-1]), "lom_answer_timeout", "did not answer within 0.15 s"),
        (say(b""), "lom_answer_timeout", "did not answer within 0.15 s"),
        (say(b"\0\0\x10\x01"), "lom_frame_too_long", "4097 bytes"),
        (say(bytes(4)), "lom_frame_too_long", "0 bytes"),
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "lom_frame_too_long", "bytes"),
        (say(b"\0\0\0\x08no plist"), "lom_frame_malformed", "binary plist"),
        (say(binary([])), "lom_frame_malformed", "dictionary"),
        (say(binary({"DeviceRequestUUID": "0001"})), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary({**good(), "DeviceRequestSuccess": 1})), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary(good("0002"))), "lom_frame_malformed", "'0002'; '0001' was asked"),
        (say(request()), "lom_frame_malformed", "DeviceRequestSuccess"),
        (say(binary({**good(), "DeviceRequestSuccess": False})), "lom_refused", "the Device gave no reason"),
    ],
    ids=[
        "reset",
        "hangs up",
        "half an answer and gone",
        "half an answer",
        "silence",
        "too long",
        "empty",
        "HTTP",
        "no plist",
        "array",
        "no success",
        "success is 1",
        "another request",
        "the request",
        "a failure",
    ],
)
def test_a_device_that_answers_badly_fails_the_item_for_good(
    run_in_reactor: Run, raw_device: MakeDevice, script: Callable[[ssl.SSLSocket], None], kind: str, words: str
) -> None:
    """The request was sent and may have been carried out: no other address is tried."""
    outcomes, sockets = run_in_reactor(
        relay_to(raw_device(script), item(ADDRESS, ADDRESS_2), limits=replace(IMPATIENT, request_seconds=PEER_SECONDS))
    )
    (outcome,) = outcomes
    assert not outcome.success
    assert words in outcome.error
    assert sockets.kinds == [kind, None]


def test_a_device_that_will_not_talk_tls_leads_to_the_next_address(run_in_reactor: Run) -> None:
    silent = socket.create_server(("::1", 0), family=socket.AF_INET6)
    closed = socket.socket(socket.AF_INET6)
    closed.bind(("::1", 0))
    ours = device(index=3, addresses=["fe80::3"])

    async def run() -> Sockets:
        with Sockets(reactor, ours, timeouts=Timeouts(handshake=SHORT)) as sockets:
            sockets.network.add(device(), NAME, port=silent.getsockname()[1])
            sockets.network.add(device(index=2, addresses=[ADDRESS_2]), NAME, port=closed.getsockname()[1])
            assert await sockets.relay(controller(), item(ADDRESS, ADDRESS_2, "fe80::3")) == [Outcome("0001")]
        return sockets

    with silent, closed:
        assert run_in_reactor(run()).kinds == ["tls_timeout", "connect", None]
    assert len(ours.asked) == 1


def test_so_many_links_at_once_and_no_more(run_in_reactor: Run, raw_device: MakeDevice) -> None:
    """Three at a time: each answer waits for three requests to be there, and a fourth would be seen."""
    gate, lock = threading.Barrier(3), threading.Lock()
    open_now, most = 0, 0

    def script(tls: ssl.SSLSocket) -> None:
        nonlocal open_now, most
        asked = answers(tls.recv(65536))[0]["DeviceRequestUUID"]
        with lock:
            open_now += 1
            most = max(most, open_now)
        gate.wait(PEER_SECONDS)
        with lock:
            open_now -= 1
        tls.sendall(binary(good(asked)))
        tls.recv(1)

    items = [item(uuid=str(number)) for number in range(9)]
    outcomes, _ = run_in_reactor(relay_to(raw_device(script), *items, limits=replace(QUICK, relays_at_once=3)))
    assert outcomes == [Outcome(str(number)) for number in range(9)]
    assert most == 3


@pytest.mark.parametrize("how", ["network.close()", "cancel()"])
def test_links_under_way_break_and_their_items_fail(run_in_reactor: Run, raw_device: MakeDevice, how: str) -> None:
    """Nothing is left open: the fixture sees to that."""
    asked = threading.Event()
    ends: list[object] = []

    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        asked.set()
        try:
            ends.append(tls.recv(1))
        except (ConnectionResetError, ssl.SSLEOFError):
            ends.append("broke")

    peer = raw_device(script)
    items = [item(ADDRESS, ADDRESS_2, uuid="a"), item(ADDRESS_2, uuid="b"), item(ADDRESS_2, uuid="c")]

    async def run() -> tuple[list[Outcome], Sockets]:
        with Sockets(reactor, limits=replace(QUICK, relays_at_once=1)) as sockets:
            sockets.network.add(device(), NAME, port=peer.port)
            relayed = sockets.network.relay(controller(), items)
            await in_thread(lambda: asked.wait(PEER_SECONDS))
            if how == "cancel()":
                relayed.cancel()
            else:
                sockets.network.close()
            assert relayed.called, "it must not wait for the peers"
            return await relayed, sockets

    outcomes, sockets = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == ["a", "b", "c"]
    words = "the Controller stopped" if how == "cancel()" else "the LOM network was closed"
    assert all(words in outcome.error for outcome in outcomes)
    assert sockets.kinds == ["lom_abandoned"]
    peer.close()
    assert ends == ["broke"]


def test_closing_the_network_closes_what_peers_hold_open(run_in_reactor: Run, tmp_path: Path) -> None:
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


def test_an_observer_may_close_the_network_at_the_first_failure(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[Outcome]:
        with Sockets(reactor, party, limits=replace(QUICK, relays_at_once=2)) as sockets:
            sockets.network.observer = lambda _: sockets.network.close()
            return await sockets.relay(controller(), item(NOWHERE, ADDRESS, uuid="a"), item(uuid="b"), item(uuid="c"))

    outcomes = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == ["a", "b", "c"]
    assert not any(outcome.success for outcome in outcomes)
    assert not party.asked


def test_an_item_that_was_answered_stays_so_where_its_observer_closes_the_network(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[Outcome]:
        with Sockets(reactor, party, limits=replace(QUICK, relays_at_once=1)) as sockets:
            sockets.network.observer = lambda _: sockets.network.close()
            return await sockets.relay(controller(), item(uuid="a"), item(uuid="b"))

    done, not_begun = run_in_reactor(run())
    assert done == Outcome("a")
    assert "the LOM network was closed" in not_begun.error
    assert [asked.uuid for asked, _ in party.asked] == ["a"]
