"""Raw ends of a LOM link, for tests: they share no code with it and mean no good.

A raw Controller is a plain ``ssl`` client in a thread, led by the server name of its hello; a raw Device is a plain
``ssl`` server in a thread whose port the network gets.
"""

from __future__ import annotations

import contextlib
import plistlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lom_parties import (
    CONTROLLER_CA,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    QUICK,
    Party,
    Sockets,
    controller,
    item,
)
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.lom.requests import RelayOutcome
from agent.pki.identity import Identity

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


def check_no_ticket_was_sent(messages: Path) -> None:
    """Check the messages of a TLS connection that ``openssl s_client -msg -msgfile`` has written."""
    found = messages.read_text()
    assert "Finished" in found
    assert "NewSessionTicket" not in found


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
    """All bytes until the Device closes the link, cleanly or not."""
    received = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        while octets := tls.recv(65536):
            received += octets
    return received


async def still_serves(sockets: Sockets, party: Party) -> None:
    """The network carries a good request, whatever happened before."""
    before = len(party.asked)
    assert await sockets.relay(controller(), item()) == [RelayOutcome("0001")]
    assert len(party.asked) == before + 1


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
