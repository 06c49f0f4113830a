"""The control link on the network: TLS, opened by the shard. The messages are those of `agent.load.control.messages`.

Both ends are this program. The shard authenticates the conductor by its certificate, issued by a CA made for this run
for the conductor's name or address; the conductor authenticates the shard by its join secret
(`agent.load.control.admission`).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.logger import Logger

from agent.errors import LomAgentError, PeerError
from agent.framing import FrameReader
from agent.load.control.admission import Admission, Refusal
from agent.load.control.joining import Invitation
from agent.load.control.messages import (
    ANY_SHARD,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    Alive,
    ControlError,
    Hello,
    Message,
    Refused,
    encode,
    next_message,
)
from agent.net.timing import Alarm, Reactor
from agent.net.transport.listener import Listener, listening_socket
from agent.net.transport.plain import Unchecked
from agent.net.transport.stream import State, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts, server_context
from agent.pki.certificates import own_certificate
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.pki.verify import PeerCheck, server_judge

HELLO_SECONDS = 15.0
MOST_UNIDENTIFIED = 2048  # connections without a Hello at the same time
_MOST_UNSENT = 256 * 1024 * 1024
_log = Logger()


class LinkOwner(Protocol):
    """The receiver of one end's messages."""

    def message_received(self, link: ControlLink, message: Message) -> None:
        """A message arrived. Raises LomAgentError for one that is not valid, which ends the link."""

    def link_lost(self, link: ControlLink, error: PeerError) -> None:
        """The link broke, or could not be opened."""


class ServerOwner(LinkOwner, Protocol):
    """The conductor, which is told of the shards that join."""

    def joined(self, link: ControlLink, host: str) -> None:
        """A shard has joined from this address."""


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


def connect(reactor: Reactor, invitation: Invitation, owner: LinkOwner) -> ControlLink:
    """Open a shard's link to the conductor. Raises OperatorError for a name that is not found, and ConnectFailed."""
    address = invitation.target
    link = ControlLink(owner)
    link.trust_peer()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = start_connect(family, address)
    check = PeerCheck(server_judge(invitation.host))
    tls = TLSContexts(system_anchors=False).client(
        sock, (own_certificate(invitation.ca),), None, check, invitation.host
    )
    stream = TLSStream(reactor, sock, tls, check, link)
    link.begin(stream)
    link.send(Hello(invitation.secret, invitation.run, invitation.shard))
    stream.connect()
    return link


class ControlServer:
    """The conductor's end: listens, and admits each shard once. ``ca`` is its CA certificate, DER.

    ``names`` are the names and addresses of this machine in its certificate; the first is that of invitations.
    """

    def __init__(
        self, reactor: Reactor, shards: int, owner: ServerOwner, names: Sequence[str] = ("127.0.0.1",)
    ) -> None:
        self.admission = Admission(shards)
        self.port = 0
        self._names = names
        self._reactor = reactor
        self._owner = owner
        authority = Authority.create("lom-agent control link CA")
        identity = authority.issue(names[0], SERVER_USAGE, names=names)
        self.ca = authority.certificate.public_bytes(Encoding.DER)
        self._context = server_context(())
        self._context.use_certificate(identity.certificate)
        self._context.use_privatekey(identity.key)
        self._context.set_verify(SSL.VERIFY_NONE)
        self._listener: Listener | None = None
        self._unidentified: dict[ControlLink, Alarm] = {}
        self._hosts: dict[ControlLink, str] = {}  # of those in _unidentified
        self._unknown: dict[ControlLink, Hello] = {}  # whose secret may still be announced
        self._links: dict[int, ControlLink] = {}
        self._last_message: Message | None = None
        self._expects_secrets = False

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen at ``host``; port 0 is any free one. Raises OperatorError."""
        sock = listening_socket(host, port, what="The control link")
        self.port = sock.getsockname()[1]
        self._listener = Listener(self._reactor, sock, self._accepted)
        self._listener.resume()

    def invite(self, shard: int = ANY_SHARD, address: str = "") -> Invitation:
        """An invitation for one shard, or for each of them; ``address`` if the host is not to be resolved."""
        return self._invitation(shard, address, self.admission.invite(shard))

    def invite_without_secret(self, shard: int) -> Invitation:
        """An invitation for one shard whose join secret is made where the shard starts, and announced."""
        self._expects_secrets = True
        return self._invitation(shard, "", "")

    def _invitation(self, shard: int, address: str, secret: str) -> Invitation:
        return Invitation(
            host=self._names[0],
            port=self.port,
            address=address,
            ca=self.ca,
            run=self.admission.run,
            secret=secret,
            shard=shard,
        )

    def announce(self, shard: int, digest: bytes) -> None:
        """The join secret of a shard has this digest; a shard that has already said Hello with it joins."""
        if self.admission.announce(shard, digest):
            for link, hello in list(self._unknown.items()):
                self._identify(link, hello)

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

    def drop(self, shard: int) -> None:
        """Close the link of a shard, which then ends; its owner is not told."""
        link = self._links.pop(shard, None)
        if link is not None:
            link.close()

    def close(self) -> None:
        """Stop listening and close every link."""
        if self._listener is not None:
            self._listener.close()
        for link in [*self._unidentified, *self._links.values()]:
            self._forget(link)
            link.close()
        self._links = {}

    def _accepted(self, sock: socket.socket, _port: int) -> None:
        if len(self._unidentified) >= MOST_UNIDENTIFIED:
            sock.close()
            return
        link = ControlLink(self)
        tls = SSL.Connection(self._context, sock)
        tls.set_accept_state()
        stream = TLSStream(self._reactor, sock, tls, Unchecked("shard"), link)
        link.begin(stream)
        alarm = self._unidentified[link] = Alarm(self._reactor, partial(self._refuse, link))
        self._hosts[link] = _host_of(sock)
        alarm.set(HELLO_SECONDS)
        stream.accept()

    def message_received(self, link: ControlLink, message: Message) -> None:
        """Pass a shard's message on; the first message has to be a Hello with a join secret of this run."""
        if link.shard >= 0:
            self._owner.message_received(link, message)
        elif isinstance(message, Hello) and link not in self._unknown:
            self._unknown[link] = message
            self._identify(link, message)
        elif link in self._unidentified and not isinstance(message, Alive):
            _log.warn("refused a connection to the control link: its first message is not a Hello")
            self._refuse(link)

    def link_lost(self, link: ControlLink, error: PeerError) -> None:
        """A link broke."""
        self._forget(link)
        if self._links.get(link.shard) is link:
            del self._links[link.shard]
            self._owner.link_lost(link, error)

    def _identify(self, link: ControlLink, hello: Hello) -> None:
        """Admit a shard whose secret is known; another one has until HELLO_SECONDS to become known."""
        if not self.admission.knows(hello):
            if not self._expects_secrets:
                _log.warn("refused a connection to the control link: its join secret is not one of this run")
                self._refuse(link)
            return
        del self._unknown[link]
        try:
            shard = self.admission.admit(hello)
        except Refusal as refusal:
            _log.warn("refused a worker: {reason}", reason=refusal)
            link.send(Refused(str(refusal)))  # it closes the link; else its alarm does
            return
        host = self._hosts[link]
        self._forget(link)
        link.shard = shard
        link.trust_peer()
        self._links[shard] = link
        self._owner.joined(link, host)
        if self._last_message is not None:
            link.send(self._last_message)

    def _refuse(self, link: ControlLink) -> None:
        self._forget(link)
        link.close()

    def _forget(self, link: ControlLink) -> None:
        """It is identified, or closed."""
        self._unknown.pop(link, None)
        self._hosts.pop(link, None)
        alarm = self._unidentified.pop(link, None)
        if alarm is not None:
            alarm.cancel()


def _host_of(sock: socket.socket) -> str:
    """The address of the peer; empty if it is gone already."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return ""
