"""The control link on the network: TLS, opened by the shard. The messages are those of `agent.load.control`.

Both ends are this program. The shard authenticates the conductor by its certificate, issued by a CA made for this run;
the conductor authenticates the shard by the secret in the shard's plan.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from functools import partial
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.logger import Logger

from agent.errors import LomAgentError, PeerError
from agent.framing import FrameReader
from agent.load.control import MAX_FRAME_BYTES, MAX_HELLO_BYTES, ControlError, Hello, Message, encode, next_message
from agent.net.timing import Alarm, Reactor
from agent.net.transport.listener import Listener, listening_socket
from agent.net.transport.plain import Unchecked
from agent.net.transport.stream import State, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts, make_context
from agent.pki.certificates import own_certificate
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.pki.verify import PeerCheck, server_judge

NAME = "conductor.lom-agent.test"  # in the certificate; never resolved
HELLO_SECONDS = 15.0
_MOST_UNSENT = 256 * 1024 * 1024
_log = Logger()


class LinkOwner(Protocol):
    """The receiver of one end's messages."""

    def message_received(self, link: ControlLink, message: Message) -> None:
        """A message arrived. Raises LomAgentError for one that is not valid, which ends the link."""

    def link_lost(self, link: ControlLink, error: PeerError) -> None:
        """The link broke, or could not be opened."""


class ControlLink:
    """One end of the link. At the conductor's end ``shard`` is the number of the shard, -1 before its Hello."""

    def __init__(self, owner: LinkOwner) -> None:
        self.shard = -1
        self._owner = owner
        self._reader = FrameReader(MAX_HELLO_BYTES)
        self._stream: TLSStream | None = None
        self._waiting: list[bytes] = []

    def begin(self, stream: TLSStream) -> None:
        """Use ``stream``, which is about to connect or to accept."""
        self._stream = stream

    def trust_peer(self) -> None:
        """The other end is authenticated: accept frames of up to MAX_FRAME_BYTES from now on."""
        self._reader.longest = MAX_FRAME_BYTES

    def send(self, message: Message) -> None:
        """Send a message; do nothing if the link is closed."""
        stream, octets = self._stream, encode(message)
        if stream is None:
            return
        if stream.state is State.OPEN:
            if stream.unsent_bytes + len(octets) > _MOST_UNSENT:
                self._lose(
                    ControlError(
                        f"{stream.unsent_bytes:,} bytes on the control link are unsent: its other end does not read"
                    )
                )
                return
            stream.write(octets)
        else:
            self._waiting.append(octets)

    def close(self) -> None:
        """Close the link. ``link_lost`` is called at the other end only."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # Called by the stream.

    def secured(self) -> None:
        """The TLS handshake is complete."""
        waiting, self._waiting = self._waiting, []
        for octets in waiting:
            if self._stream is not None:
                self._stream.write(octets)

    def received(self, octets: bytes) -> None:
        """Bytes arrived."""
        self._reader.receive(octets)
        try:
            while self._stream is not None and (message := next_message(self._reader)) is not None:
                self._owner.message_received(self, message)
        except LomAgentError as error:
            self._lose(ControlError(str(error)))

    def lost(self, error: PeerError) -> None:
        """The stream broke, or could not be opened."""
        self._stream = None
        self._owner.link_lost(self, error)

    def _lose(self, error: PeerError) -> None:
        self.close()
        self._owner.link_lost(self, error)


def connect(reactor: Reactor, address: tuple[str, int], ca: bytes, hello: Hello, owner: LinkOwner) -> ControlLink:
    """Open a shard's link to the conductor at ``address`` (numeric), whose CA certificate is ``ca`` (DER)."""
    link = ControlLink(owner)
    link.trust_peer()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = start_connect(family, address)
    check = PeerCheck(server_judge(NAME))
    tls = TLSContexts().client(sock, (own_certificate(ca),), None, check, NAME)
    stream = TLSStream(reactor, sock, tls, check, link)
    link.begin(stream)
    link.send(hello)
    stream.connect()
    return link


class ControlServer:
    """The conductor's end: listens, and identifies each shard by its secret. ``ca`` is its CA certificate, DER."""

    def __init__(self, reactor: Reactor, shards: int, owner: LinkOwner) -> None:
        self.secrets = [secrets.token_urlsafe(32) for _ in range(shards)]
        self.address = ("", 0)
        self._reactor = reactor
        self._owner = owner
        authority = Authority.create("lom-agent control link CA")
        identity = authority.issue(NAME, SERVER_USAGE, names=[NAME])
        self.ca = authority.certificate.public_bytes(Encoding.DER)
        self._context = make_context(())
        self._context.use_certificate(identity.certificate)
        self._context.use_privatekey(identity.key)
        self._context.set_verify(SSL.VERIFY_NONE)
        self._listener: Listener | None = None
        self._unidentified: dict[ControlLink, Alarm] = {}
        self._links: dict[int, ControlLink] = {}
        self._last_message: Message | None = None

    def listen(self, host: str = "127.0.0.1") -> None:
        """Listen on a free port of ``host``. Raises OperatorError."""
        sock = listening_socket(host, 0, what="The control link")
        self.address = (host, sock.getsockname()[1])
        self._listener = Listener(self._reactor, sock, self._accepted)
        self._listener.resume()

    def send(self, shard: int, message: Message) -> None:
        """Send a message to one shard; do nothing if it is not connected."""
        link = self._links.get(shard)
        if link is not None:
            link.send(message)

    def broadcast(self, message: Message) -> None:
        """Send a message to every connected shard."""
        for link in list(self._links.values()):
            link.send(message)

    def broadcast_last(self, message: Message) -> None:
        """Send a message to every connected shard, and to each that connects later."""
        self._last_message = message
        self.broadcast(message)

    @property
    def connected(self) -> bool:
        """Whether any shard is connected."""
        return bool(self._links)

    def close(self) -> None:
        """Stop listening and close every link."""
        if self._listener is not None:
            self._listener.close()
        for link, alarm in self._unidentified.items():
            alarm.cancel()
            link.close()
        for link in self._links.values():
            link.close()
        self._unidentified, self._links = {}, {}

    def _accepted(self, sock: socket.socket, _port: int) -> None:
        link = ControlLink(self)
        tls = SSL.Connection(self._context, sock)
        tls.set_accept_state()
        stream = TLSStream(self._reactor, sock, tls, Unchecked("shard"), link)
        link.begin(stream)
        alarm = self._unidentified[link] = Alarm(self._reactor, partial(self._refuse, link))
        alarm.set(HELLO_SECONDS)
        stream.accept()

    def message_received(self, link: ControlLink, message: Message) -> None:
        """Pass a shard's message on; the first message has to be a Hello with the shard's secret."""
        if link.shard >= 0:
            self._owner.message_received(link, message)
            return
        match message:
            case Hello(shard, secret) if self._is_valid(shard, secret):
                self._unidentified.pop(link).cancel()
                link.shard = shard
                link.trust_peer()
                self._links[shard] = link
                if self._last_message is not None:
                    link.send(self._last_message)
            case _:
                _log.warn(
                    "refused a connection to the control link: its first message is not a Hello of a shard of this run"
                )
                self._refuse(link)

    def link_lost(self, link: ControlLink, error: PeerError) -> None:
        """A link broke."""
        alarm = self._unidentified.pop(link, None)
        if alarm is not None:
            alarm.cancel()
        if self._links.get(link.shard) is link:
            del self._links[link.shard]
            self._owner.link_lost(link, error)

    def _is_valid(self, shard: int, secret: str) -> bool:
        if not 0 <= shard < len(self.secrets) or shard in self._links:
            return False
        return hmac.compare_digest(secret.encode(), self.secrets[shard].encode())

    def _refuse(self, link: ControlLink) -> None:
        alarm = self._unidentified.pop(link, None)
        if alarm is not None:
            alarm.cancel()
        link.close()
