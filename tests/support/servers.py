"""Scripted TLS servers: real sockets on loopback, real certificates, and a script for what goes wrong.

A server runs in threads of its own, on blocking sockets, so that a script reads from top to bottom and shares nothing
with the client under test but the wire.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from agent.errors import PeerError
from agent.net.http.connection import HTTPConnection
from agent.net.http.http1 import Origin, Response
from agent.net.http.request import request_to
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import SERVER_USAGE, Authority

AUTHORITY = Authority.create("Test CA")
HOST = "127.0.0.1"
_FIRST_PORT = 10_000
IDENTITY = AUTHORITY.issue("server", SERVER_USAGE, names=[HOST, "::1", "localhost", "mdm.test"])
JOIN_SECONDS = 30.0  # after which a server thread is stuck


class Gone(Exception):
    """The client closed or broke the connection: where a script ends that waits for more."""


@dataclass(frozen=True)
class Request:
    """What the server read: ``connection`` counts the accepted connections from 0."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    certificate: x509.Certificate | None


class Talk:
    """The server's end of one connection. Every method raises Gone where the client is not there any more."""

    def __init__(self, server: TLSServer, sock: socket.socket, number: int) -> None:
        self.number = number
        self.sock = sock
        self._server = server
        self._tls: SSL.Connection | None = None
        self._buffer = b""

    @property
    def tls(self) -> SSL.Connection:
        """The connection, after its handshake."""
        if self._tls is None:
            self._tls = SSL.Connection(self._server.context, self.sock)
            self._tls.set_accept_state()
            with _gone():
                self._tls.do_handshake()
        return self._tls

    def read_request(self) -> Request:
        """Wait for the next request, and note it in the server's ``requests``."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        certificate = self.tls.get_peer_certificate(as_cryptography=True)
        request = Request(self.number, method, target, headers, body, certificate)
        self._server.requests.append(request)
        return request

    def read(self) -> bytes:
        """Wait for bytes."""
        with _gone():
            return self.tls.recv(65536)

    def note(self, request: Request) -> None:
        """Note a request that was read in another way."""
        self._server.requests.append(request)

    def send(self, octets: bytes) -> None:
        """Send all of it."""
        with _gone():
            self.tls.sendall(octets)

    def close(self) -> None:
        """End the connection in good order: close_notify, then the end of TCP."""
        with contextlib.suppress(SSL.Error):
            self.tls.shutdown()
        self.drop()

    def drop(self) -> None:
        """End TCP without a word from TLS."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()

    def reset(self) -> None:
        """A TCP reset, as from a server that crashed."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_for_end(self) -> None:
        """Read nothing but the end of the connection, below TLS."""
        with _gone():
            while self.sock.recv(65536):
                pass

    def _receive(self) -> None:
        with _gone():
            self._buffer += self.tls.recv(65536)


Script = Callable[[Talk], None]


@dataclass
class TLSServer:
    """A server that listens. ``scripts[n]`` is run for connection ``n``, the last one for all that follow."""

    context: SSL.Context
    scripts: Sequence[Script]
    listener: socket.socket
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its base URL, by address."""
        host = self.listener.getsockname()[0]
        return f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}"

    def origin(self, host: str = HOST) -> Origin:
        """Its origin, under one of its names."""
        return Origin(host, self.port)

    def start(self) -> None:
        """Accept connections."""
        self._run(self._accept)

    def stop(self) -> None:
        """Close everything; raises what a script raised."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # where shutdown does not wake accept()
            socket.create_connection(self.listener.getsockname()[:2], timeout=1).close()
        self.listener.close()
        accepting, *_ = self._threads
        accepting.join(JOIN_SECONDS)  # first: it may just have started a connection
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a script of the server hangs"
        if self.errors:
            raise self.errors[0]

    def _run(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Gone:
                pass
            except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(sock)
            talk = Talk(self, sock, self.connections)
            self.connections += 1  # before the script runs, for a test may look at it once it has an answer
            self._run(partial(self._serve, talk))

    def _serve(self, talk: Talk) -> None:
        try:
            self.scripts[min(talk.number, len(self.scripts) - 1)](talk)
        finally:
            talk.sock.close()


@contextlib.contextmanager
def serving(
    *scripts: Script,
    identity: Identity = IDENTITY,
    host: str = HOST,
    port: int = 0,
    client_anchors: Sequence[x509.Certificate] = (AUTHORITY.certificate,),
    require_certificate: bool = False,
    tls_1_2: bool = False,
    alpn: Sequence[bytes] | None = None,
) -> Iterator[TLSServer]:
    """A server that runs ``scripts``; without any it answers every request with 200 and its own body.

    ``alpn`` are the protocols that it speaks, its favourite first; None: it knows no ALPN.
    """
    context = server_context(identity, client_anchors, require_certificate=require_certificate, tls_1_2=tls_1_2)
    if alpn is not None:
        context.set_alpn_select_callback(partial(_chosen, alpn))
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    server = TLSServer(context, scripts or (echo,), listener)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def server_context(
    identity: Identity,
    client_anchors: Sequence[x509.Certificate] = (),
    *,
    require_certificate: bool = False,
    tls_1_2: bool = False,
) -> SSL.Context:
    """A server's context that owes nothing to the code under test."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    if tls_1_2:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    store = context.get_cert_store()
    assert store is not None
    for anchor in client_anchors:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if require_certificate else 0)
    context.set_verify(mode, lambda _connection, _certificate, _error, _depth, ok: bool(ok))
    return context


def _chosen(spoken: Sequence[bytes], _connection: object, offered: list[bytes]) -> bytes:
    return next((each for each in spoken if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


# Scripts, and what they are made of.


def answer(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of a plain answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def echo(talk: Talk) -> None:
    """Answer every request with its own body, until the client is gone."""
    while True:
        talk.send(answer(200, talk.read_request().body))


def one_answer(octets: bytes) -> Script:
    """Answer one request with these bytes, then wait for the client to close."""

    def script(talk: Talk) -> None:
        talk.read_request()
        talk.send(octets)
        talk.wait_for_end()

    return script


def silent(talk: Talk) -> None:
    """Accept, and say nothing, not even TLS."""
    talk.wait_for_end()


# The client under test.


class Answer:
    """A caller whose answer is a Deferred."""

    def __init__(self) -> None:
        self.deferred: Deferred[Response] = Deferred()

    def answered(self, response: Response) -> None:
        """The response came."""
        self.deferred.callback(response)

    def broke(self, error: PeerError) -> None:
        """It will not come."""
        self.deferred.errback(error)


def ask(connection: HTTPConnection, origin: Origin, body: bytes = b"", target: str = "/") -> Deferred[Response]:
    """PUT ``body``."""
    caller = Answer()
    connection.request(request_to("PUT", origin, target, {}, body), caller)
    return caller.deferred


def client(
    origin: Origin,
    *,
    anchors: Sequence[x509.Certificate] = (AUTHORITY.certificate,),
    identity: Identity | None = None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    names: Names | None = None,
    contexts: TLSContexts | None = None,
    **keywords: Any,
) -> HTTPConnection:
    """A connection of a Mac's own; ``names`` stands for the system's resolver."""
    from twisted.internet import reactor  # the one that tests/conftest.py runs

    resolver = Resolver(reactor, names or Names({}))
    contexts = contexts or TLSContexts()
    return HTTPConnection(reactor, resolver, contexts, origin, anchors, identity, timeouts=timeouts, **keywords)


def fails(run_in_reactor: RunInReactor, connection: HTTPConnection, origin: Origin, body: bytes = b"") -> PeerError:
    """Ask, and return the error; the connection is left as the error left it."""

    async def scenario() -> PeerError:
        with pytest.raises(PeerError) as caught:
            await ask(connection, origin, body)
        assert not connection.connected
        return caught.value

    error: PeerError = run_in_reactor(scenario())
    return error


async def until(condition: Callable[[], bool]) -> None:
    """Turn the reactor until ``condition`` holds, which another thread may bring about."""
    from twisted.internet import reactor

    while not condition():
        await deferLater(reactor, 0.001)  # type: ignore[arg-type]


class Names:
    """A Twisted name resolver with set addresses, which answers on the test's call.

    ``asked`` lists the names that were looked up. With ``hold`` the answers wait for ``release``.
    """

    def __init__(self, known: dict[str, list[str]], *, hold: bool = False) -> None:
        self.known = known
        self.asked: list[str] = []
        self._hold = hold
        self._held: list[Callable[[], None]] = []

    def resolveHostName(self, receiver: Any, host: str) -> object:
        """Twisted's IHostnameResolver."""
        self.asked.append(host)

        def tell() -> None:
            receiver.resolutionBegan(self)
            for text in self.known.get(host, []):
                kind = IPv6Address if ":" in text else IPv4Address
                receiver.addressResolved(kind("TCP", text, 0))
            receiver.resolutionComplete()

        if self._hold:
            self._held.append(tell)
        else:
            tell()
        return self

    def release(self) -> None:
        """Give the answers that were held back."""
        held, self._held = self._held, []
        for tell in held:
            tell()


def unused_port(host: str = HOST) -> int:
    """A port on which nothing listens, and which the kernel gives to no connection and no listener of others."""
    for _ in range(100):
        port = _FIRST_PORT + secrets.randbelow(_kernels_first_port() - _FIRST_PORT)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock, contextlib.suppress(OSError):
            sock.bind((host, port))
            return port
    raise AssertionError("every port below those of the kernel is in use")


def _kernels_first_port() -> int:
    """The first of the ports that the kernel picks."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        return 49152  # RFC 6335


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (SSL.Error, OSError) as error:
        raise Gone from error
