"""The control link on the network: TLS, opened by the shard. The messages are those of `agent.load.control`.

Both ends are ours. The shard knows the conductor by its certificate, which is of a CA made for this one run; the
conductor knows the shard by the secret in the plan that it gave to it.
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
from agent.pki.authority import SERVER_USAGE, Authority
from agent.pki.certificates import own_certificate
from agent.pki.verify import PeerCheck, server_judge

NAME = "conductor.lom-agent.test"  # of the certificate; never resolved
HELLO_SECONDS = 15.0
_MOST_UNSENT = 256 * 1024 * 1024
_log = Logger()


class Party(Protocol):
    """Who listens at one end."""

    def said(self, link: ControlLink, message: Message) -> None:
        """A message came. Raises an error of ours for one that makes no sense, which ends the link."""

    def gone(self, link: ControlLink, error: PeerError) -> None:
        """The link is gone, or never came to be."""


class ControlLink:
    """One end of the link. ``shard`` is the number of the other end where this is the conductor's."""

    def __init__(self, party: Party) -> None:
        self.shard = -1
        self._party = party
        self._reader = FrameReader(MAX_HELLO_BYTES)
        self._stream: TLSStream | None = None
        self._waiting: list[bytes] = []

    def begin(self, stream: TLSStream) -> None:
        """Use this stream, which is about to connect or to accept."""
        self._stream = stream

    def know_peer(self) -> None:
        """The other end is who it has to be: long frames are taken from now on."""
        self._reader.longest = MAX_FRAME_BYTES

    def send(self, message: Message) -> None:
        """Send a message, or nothing where the link is gone."""
        stream, octets = self._stream, encode(message)
        if stream is None:
            return
        if stream.state is State.OPEN:
            if stream.unsent_bytes + len(octets) > _MOST_UNSENT:
                self._lose(ControlError("the other end of the control link does not read"))
                return
            stream.write(octets)
        else:
            self._waiting.append(octets)

    def close(self) -> None:
        """End the link; the other end hears of it, this one does not."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # What the stream calls.

    def secured(self) -> None:
        """The other end is there."""
        waiting, self._waiting = self._waiting, []
        for octets in waiting:
            if self._stream is not None:
                self._stream.write(octets)

    def received(self, octets: bytes) -> None:
        """Bytes came."""
        self._reader.receive(octets)
        try:
            while self._stream is not None and (message := next_message(self._reader)) is not None:
                self._party.said(self, message)
        except LomAgentError as error:
            self._lose(ControlError(str(error)))

    def lost(self, error: PeerError) -> None:
        """The stream is gone."""
        self._stream = None
        self._party.gone(self, error)

    def _lose(self, error: PeerError) -> None:
        self.close()
        self._party.gone(self, error)


def connect(reactor: Reactor, address: tuple[str, int], ca: bytes, hello: Hello, party: Party) -> ControlLink:
    """A shard's end of the link to the conductor at ``address`` (numeric). ``ca`` is its CA's certificate, DER."""
    link = ControlLink(party)
    link.know_peer()
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
    """The conductor's end: listens, and knows each shard by its secret. ``ca`` is for the shards' plans, DER."""

    def __init__(self, reactor: Reactor, shards: int, party: Party) -> None:
        self.secrets = [secrets.token_urlsafe(32) for _ in range(shards)]
        self.address = ("", 0)
        self._reactor = reactor
        self._party = party
        authority = Authority.create("lom-agent control link CA")
        identity = authority.issue(NAME, SERVER_USAGE, names=[NAME])
        self.ca = authority.certificate.public_bytes(Encoding.DER)
        self._context = make_context(())
        self._context.use_certificate(identity.certificate)
        self._context.use_privatekey(identity.key)
        self._context.set_verify(SSL.VERIFY_NONE)
        self._listener: Listener | None = None
        self._unidentified: dict[ControlLink, Alarm] = {}
        self._known: dict[int, ControlLink] = {}
        self._dismissal: Message | None = None

    def listen(self, host: str = "127.0.0.1") -> None:
        """Listen at any free port of ``host``. Raises OperatorError."""
        sock = listening_socket(host, 0, what="The control link")
        self.address = (host, sock.getsockname()[1])
        self._listener = Listener(self._reactor, sock, self._accepted)
        self._listener.resume()

    def send(self, shard: int, message: Message) -> None:
        """Send a message to one shard, or nothing where that is not there."""
        link = self._known.get(shard)
        if link is not None:
            link.send(message)

    def broadcast(self, message: Message) -> None:
        """Send a message to every shard that is there."""
        for link in list(self._known.values()):
            link.send(message)

    def dismiss(self, message: Message) -> None:
        """Send a last message to every shard, also to those that call only later."""
        self._dismissal = message
        self.broadcast(message)

    @property
    def connected(self) -> bool:
        """Whether a shard is there."""
        return bool(self._known)

    def close(self) -> None:
        """Listen no longer, and end every link."""
        if self._listener is not None:
            self._listener.close()
        for link, timer in self._unidentified.items():
            timer.cancel()
            link.close()
        for link in self._known.values():
            link.close()
        self._unidentified, self._known = {}, {}

    def _accepted(self, sock: socket.socket, _port: int) -> None:
        link = ControlLink(self)
        tls = SSL.Connection(self._context, sock)
        tls.set_accept_state()
        stream = TLSStream(self._reactor, sock, tls, Unchecked("shard"), link)
        link.begin(stream)
        self._unidentified[link] = limit = Alarm(self._reactor, partial(self._refuse, link))
        limit.set(HELLO_SECONDS)
        stream.accept()

    def said(self, link: ControlLink, message: Message) -> None:
        """What a link has received: the first message says who is there."""
        if link.shard >= 0:
            self._party.said(link, message)
            return
        match message:
            case Hello(shard, secret) if self._is_good(shard, secret):
                self._unidentified.pop(link).cancel()
                link.shard = shard
                link.know_peer()
                self._known[shard] = link
                if self._dismissal is not None:
                    link.send(self._dismissal)
            case _:
                _log.warn("somebody who is no shard of this run called the control link")
                self._refuse(link)

    def gone(self, link: ControlLink, error: PeerError) -> None:
        """A link is gone."""
        timer = self._unidentified.pop(link, None)
        if timer is not None:
            timer.cancel()
        if self._known.get(link.shard) is link:
            del self._known[link.shard]
            self._party.gone(link, error)

    def _is_good(self, shard: int, secret: str) -> bool:
        if not 0 <= shard < len(self.secrets) or shard in self._known:
            return False
        return hmac.compare_digest(secret.encode(), self.secrets[shard].encode())

    def _refuse(self, link: ControlLink) -> None:
        timer = self._unidentified.pop(link, None)
        if timer is not None:
            timer.cancel()
        link.close()
