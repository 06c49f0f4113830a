"""LOM Devices at an address of the operator's choice, to try the link from another program: the ``lom-device`` command.

These Macs implement LOM only. Each request, each completed boot and each refused peer is reported. The link itself is
that of ``agent.net.lom.device``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import msgspec
from cryptography import x509
from OpenSSL import SSL, crypto

from agent.device.mac import Device
from agent.errors import PeerError
from agent.fleet.population import Mac, Population
from agent.lom.endpoint import LOMConfiguration, device_side
from agent.lom.gate import Gate
from agent.lom.link import LIMITS, LinkAnswer, LinkLimits, LinkRequest
from agent.lom.power import Power, PowerEvent
from agent.net.lom.device import DeviceEnd
from agent.net.timing import Alarm, Reactor
from agent.net.transport.addresses import IPv6SocketAddress, socket_address_text
from agent.net.transport.listener import Listener, listening_socket
from agent.net.transport.stream import TLSStream
from agent.net.transport.tls import send_no_tickets, server_context, server_name_of, use_identity
from agent.pki.identity import Identity, IdentityError
from agent.pki.verify import PeerCheck, PeerRejected, controller_judge


class RequestAnswered(msgspec.Struct, frozen=True):
    """The Device answered a request; ``error`` is empty on success, ``power`` is the state afterwards."""

    device: str
    controller: str
    request: LinkRequest
    error: str
    power: Power


class BootEnded(msgspec.Struct, frozen=True):
    """A Device has completed its boot."""

    device: str


class LinkRefused(msgspec.Struct, frozen=True):
    """A link with ``peer`` was refused, or closed because of what it sent; ``controller`` is empty if unknown."""

    peer: str
    controller: str
    error: PeerError


class RequestDeclined(msgspec.Struct, frozen=True):
    """A request in a version that no Device speaks was answered; the link goes on."""

    controller: str
    answer: LinkAnswer


Event = RequestAnswered | RequestDeclined | BootEnded | LinkRefused
Tell = Callable[[Event], object]


class NoSuchDevice(PeerRejected):
    """The server name of the TLS hello belongs to no Device."""

    kind = "lom_no_such_device"


class StandaloneDevice:
    """One Mac that implements only the LOM Device. It is on at first."""

    def __init__(self, reactor: Reactor, mac: Mac, lom: LOMConfiguration, boot_seconds: float, tell: Tell) -> None:
        self.lom: LOMConfiguration | None = lom
        self._reactor = reactor
        self._tell = tell
        self._device = Device(mac, boot_seconds=lambda: boot_seconds, jitter=lambda: 0.0)
        self._boot = Alarm(reactor, self._advance)

    @property
    def index(self) -> int:
        """The Mac's index."""
        return self._device.mac.index

    @property
    def segment(self) -> int:
        """The Mac's subnet."""
        return self._device.mac.segment

    @property
    def lom_addresses(self) -> tuple[str, ...]:
        """The Mac's link-local addresses; this network does not use them."""
        return self._device.lom_addresses

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Carry out a request, and report it."""
        self._advance()  # report a completed boot first
        answer, _events = self._device.receive_lom_request(request, controller, self._reactor.seconds())
        self._wait()
        power = self._device.power.state
        self._tell(RequestAnswered(self._device.mac.dns_name, controller, request, answer.error, power))
        return answer

    def unacknowledged_lom_answers(self, controller: str) -> Sequence[LinkAnswer]:
        """The recent answers that this Controller has not acknowledged."""
        return self._device.unacknowledged_lom_answers(controller, self._reactor.seconds())

    def lom_answer_arrived(self, uuid: str, controller: str, *, acknowledged: bool) -> None:
        """The Controller has acknowledged an answer, or its link has ended without that."""
        self._device.lom_answer_arrived(uuid, controller, acknowledged=acknowledged)

    def unplug(self) -> None:
        """Stop a boot."""
        self._boot.cancel()

    def _wait(self) -> None:
        """Wait for the end of the boot, if the Device boots."""
        self._boot.set_at(self._device.power.deadline)

    def _advance(self) -> None:
        if PowerEvent.CAME_UP in self._device.power.advance(self._reactor.seconds()):
            self._tell(BootEnded(self._device.mac.dns_name))
        self._wait()


class Cast(msgspec.Struct, frozen=True):
    """The Devices, their identities, and the CAs by which they verify Controllers."""

    macs: Population | Sequence[Mac]
    identity_of: Callable[[Mac], Identity]
    controller_anchors: tuple[x509.Certificate, ...]


class StandaloneDevices:
    """The Devices of a cast at one address, selected by server name (SNI). A single Device accepts any name, or none.

    Raises IdentityError if the (first) Device's identity cannot be used for TLS.
    """

    def __init__(
        self, reactor: Reactor, cast: Cast, *, boot_seconds: float, tell: Tell, limits: LinkLimits = LIMITS
    ) -> None:
        self.address = ""
        self._reactor = reactor
        self._cast = cast
        self._boot_seconds = boot_seconds
        self._tell = tell
        self._limits = limits
        self._gate = Gate(limits)
        self.names = [mac.dns_name for mac in cast.macs]
        self._by_name = {server_name_of(name).lower(): index for index, name in enumerate(self.names)}
        self._devices: dict[int, StandaloneDevice] = {}
        self._links: set[DeviceEnd] = set()
        self._listener: Listener | None = None
        first = cast.identity_of(cast.macs[0])
        try:
            use_identity(SSL.Connection(server_context(()), None), first)
            self._context = server_context(cast.controller_anchors, first.chain)
        except crypto.Error as error:
            raise IdentityError(str(error)) from error
        if len(self.names) > 1:
            self._context.set_tlsext_servername_callback(self._greet)

    def listen(self, address: IPv6SocketAddress) -> None:
        """Open the endpoint; port 0 takes any free one. Raises OperatorError."""
        host, port, _, scope = address
        sock = listening_socket(host, port, what="The LOM Device", scope=scope, ipv6_only=True)
        self.address = socket_address_text(sock.getsockname())
        self._listener = Listener(self._reactor, sock, self._accepted)
        self._listener.resume()

    def close(self) -> None:
        """Close the endpoint and every link."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in list(self._links):
            link.close()
        for device in self._devices.values():
            device.unplug()

    def _accepted(self, sock: socket.socket, _port: int) -> None:
        try:
            caller = sock.getpeername()
        except OSError:  # the peer has already closed
            sock.close()
            return
        tls = SSL.Connection(self._context, sock)
        link = _WatchedEnd(self._reactor, self._limits, self._links.discard, self._gate, caller, self._tell)
        if len(self.names) == 1:
            self._become(tls, link, 0)
        check = PeerCheck(controller_judge)
        tls.set_app_data(link)
        tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        tls.set_accept_state()
        self._links.add(link)
        link.begin(TLSStream(self._reactor, sock, tls, check, link))

    def _greet(self, tls: SSL.Connection) -> None:
        send_no_tickets(tls)
        link: _WatchedEnd = tls.get_app_data()
        name = tls.get_servername() or b""
        index = self._by_name.get(name.lower())
        if index is None:  # no certificate is set, so the handshake fails
            text = f"has {name.decode('ascii', 'backslashreplace')!r}" if name else "has no name"
            link.mistake = NoSuchDevice(f"expected a name of these Devices in the TLS hello (SNI), but it {text}")
            return
        try:
            self._become(tls, link, index)
        except (PeerError, crypto.Error) as error:
            link.mistake = PeerRejected(f"the Device's certificate cannot be used: {error}")

    def _become(self, tls: SSL.Connection, link: DeviceEnd, index: int) -> None:
        device = self._devices.get(index)
        if device is None:
            mac, anchors = self._cast.macs[index], self._cast.controller_anchors
            lom = LOMConfiguration(device_identity=self._cast.identity_of(mac), controller_anchors=anchors)
            device = StandaloneDevice(self._reactor, mac, lom, self._boot_seconds, self._tell)
            self._devices[index] = device
        use_identity(tls, device_side(device).identity)
        link.endpoint = device


class _WatchedEnd(DeviceEnd):
    """A Device's end that reports why a link was refused. ``mistake`` is the fault of the TLS hello, if any."""

    def __init__(
        self,
        reactor: Reactor,
        limits: LinkLimits,
        ended: Callable[[DeviceEnd], object],
        gate: Gate,
        caller: tuple[str, int] | IPv6SocketAddress,
        tell: Tell,
    ) -> None:
        super().__init__(reactor, limits, None, ended, gate=gate, address=caller[0])
        self.mistake: PeerRejected | None = None
        self._caller = socket_address_text(caller)
        self._tell = tell
        self._controller = ""

    def secured(self) -> None:
        """The Controller is verified."""
        if self._stream is not None:
            self._controller = self._stream.peer_name
        super().secured()

    def wronged(self, error: PeerError) -> None:
        """The peer broke the protocol or exceeded a limit."""
        self._tell(LinkRefused(self._caller, self._controller, error))

    def declined(self, answer: LinkAnswer) -> None:
        """A request in an unknown version was answered."""
        self._tell(RequestDeclined(self._controller, answer))

    def lost(self, error: PeerError) -> None:
        """The link ended. That is a refusal only if the Controller was not yet verified."""
        if not self._controller:
            self._tell(LinkRefused(self._caller, "", self.mistake or error))
        super().lost(error)
