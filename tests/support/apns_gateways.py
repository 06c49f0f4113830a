"""A gateway that runs in the test's reactor, and the clients that push at it from outside of it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred

from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.fleet.population import Mac, Population
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.connection import GatewayLimits
from agent.net.apns.endpoint import PushEndpoint
from agent.net.apns.gateway import NAMES, APNsGateway
from agent.net.apns.outages import Outages
from agent.net.apns.router import PushRouter
from agent.net.mac.fleet.push_endpoint import injected_by
from agent.net.timing import RunClock
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, SERVER_USAGE, Authority, make_key
from agent.push.broker import Injected, Presence, PushBroker
from agent.push.counts import merge_push_counts
from agent.push.requests import NOBODY, PushPolicy
from agent.push.store import Notification
from agent.push.wire import RoutedPush

TOPIC = "com.apple.mgmt.External.test"
AUTHORITY = Authority.create("APNs test CA")
HOST = "127.0.0.1"
SECONDS = 50.0
IDENTITY = AUTHORITY.issue(NAMES[0], SERVER_USAGE, names=[*NAMES, HOST])
POPULATION = Population("apns", 10)


def provider_identity(topic: str | None = TOPIC, authority: Authority = AUTHORITY, **dates: Any) -> Identity:
    """A push certificate: the topic is its subject's UID."""
    key = make_key()
    names = [x509.NameAttribute(NameOID.COMMON_NAME, "APSP:test")]
    if topic is not None:
        names.insert(0, x509.NameAttribute(NameOID.USER_ID, topic))
    return Identity(authority.certify(key.public_key(), x509.Name(names), CLIENT_USAGE, **dates), key)


def push_rule(do: Any, **keys: Any) -> Rule:
    """A rule for pushes."""
    return Rule(on="push", do=do, **keys)


def injecting(
    faults: Faults, mac_of: Callable[[int], Mac], seconds: Callable[[], float]
) -> Callable[[int], Injected | None]:
    """What the rules do to a push for a Mac."""

    def inject(index: int) -> Injected | None:
        hit = faults.decide("push", mac_of(index), seconds())
        return None if hit is None else injected_by(hit)

    return inject


class KnownMacs:
    """The Macs of POPULATION, by their real tokens; how they stand is set by the test."""

    def __init__(self) -> None:
        self.standing = dict.fromkeys(range(len(POPULATION)), Presence.ONLINE)

    def find(self, token: bytes) -> int | None:
        """Whose token it is."""
        return POPULATION.index_of_token(token)

    def presence(self, index: int) -> Presence:
        """How it stands."""
        return self.standing[index]

    def topic(self, _index: int) -> str:
        """What it listens to."""
        return TOPIC

    def left_at(self, _index: int) -> float:
        """When it left."""
        return 1_700_000_000.0


class RunningGateway:
    """A gateway, its Macs, and what reached them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.macs = KnownMacs()
        self.reached: list[Notification] = []
        self.folder = folder
        limits, anchors = settings.pop("limits", GatewayLimits()), settings.pop("provider_anchors", ())
        anonymous = settings.pop("anonymous", NOBODY)
        router = settings.pop("router", None)
        behaviour = PushBehaviour(strict=settings.get("policy", PushPolicy()).strict)
        self.faults = Faults()
        for rule in settings.pop("rules", ()):
            self.faults.add(rule, reactor.seconds())  # type: ignore[attr-defined]
        inject = injecting(self.faults, POPULATION.__getitem__, reactor.seconds)  # type: ignore[attr-defined]
        self.broker = PushBroker(self.macs, inject=inject, **settings)
        clock = RunClock(reactor)
        self.push_endpoint = PushEndpoint(reactor, self.broker, self._reach, clock)
        self.router = PushRouter(reactor, POPULATION, lambda _index: 0, self._send, clock, behaviour)
        self.gateway = APNsGateway(
            reactor,
            router or self.router,
            IDENTITY,
            limits=limits,
            provider_anchors=anchors,
            anonymous=anonymous,
        )
        self.outages = Outages(reactor, self.faults, self.gateway)  # type: ignore[arg-type]
        (folder / "ca.pem").write_bytes(AUTHORITY.certificate.public_bytes(Encoding.PEM))
        self.write("provider", provider_identity())

    def use_default_limits(self) -> None:
        """For connections from now on: on a busy machine a peer of a test is slower than a short time limit."""
        self.gateway._limits = GatewayLimits()

    @property
    def counts(self) -> dict[str, Any]:
        """The outcomes of the pushes, as in the results."""
        return merge_push_counts([self.push_endpoint.counts, self.router.counts])

    def write(self, name: str, identity: Identity) -> tuple[str, str]:
        """Certificate and key in files, as clients want them."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
        key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(certificate), str(key)

    def url(self, index: int = 0, host: str = HOST) -> str:
        """Where to push Mac ``index``."""
        return f"https://{host}:{self.gateway.port}/3/device/{POPULATION[index].push_token.hex()}"

    def payload(self, index: int = 0) -> str:
        """What wakes it."""
        return f'{{"mdm":"{POPULATION[index].push_magic}"}}'

    async def curl(self, *arguments: str, provider: str | None = "provider") -> str:
        """What curl prints; it has to end well."""
        identity = [] if provider is None else ["--cert", f"{self.folder / provider}.pem", "--key",
                                                f"{self.folder / provider}.key"]  # fmt: skip
        output, errors, status = await run(
            "curl", "--silent", "--show-error", "--http2", "--max-time", "20", "--cacert", str(self.folder / "ca.pem"),
            *identity, *arguments,
        )  # fmt: skip
        assert status == 0, errors
        return output

    def _send(self, shard: int, push: RoutedPush) -> None:
        self.router.answered(shard, self.push_endpoint.receive(push))

    def _reach(self, notification: Notification) -> bool:
        self.reached.append(notification)
        return notification.push_magic == POPULATION[notification.index].push_magic


class Peer:
    """A blocking HTTP/2 client over Python's own ssl: a frame is sent on the test's call."""

    def __init__(self, running: RunningGateway, *, provider: str | None = "provider", alpn: str = "h2") -> None:
        context = ssl.create_default_context(cafile=str(running.folder / "ca.pem"))
        context.set_alpn_protocols([alpn])
        if provider is not None:
            context.load_cert_chain(running.folder / f"{provider}.pem", running.folder / f"{provider}.key")
        raw = socket.create_connection((HOST, running.gateway.port), timeout=20)
        self.socket = context.wrap_socket(raw, server_hostname="api.push.apple.com")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.ended = False

    def start(self, **settings: int) -> None:
        """Preface and SETTINGS."""
        if settings:
            codes = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
            self.h2.local_settings = h2.settings.Settings(initial_values=codes)
        self.h2.initiate_connection()
        self.flush()

    def request(self, index: int = 0, *, ended: bool = True, **others: str) -> int:
        """Headers and body of a push; the stream's number."""
        stream_id = self.h2.get_next_available_stream_id()
        path = f"/3/device/{POPULATION[index].push_token.hex()}"
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", HOST), (":path", path), *others.items()]
        self.h2.send_headers(stream_id, headers)
        self.h2.send_data(stream_id, f'{{"mdm":"{POPULATION[index].push_magic}"}}'.encode(), end_stream=ended)
        return stream_id

    def flush(self) -> None:
        """Send what is written."""
        self.socket.sendall(self.h2.data_to_send())

    def read(self) -> None:
        """The next bytes of the gateway."""
        try:
            octets = self.socket.recv(65536)
        except OSError:
            octets = b""
        self.ended = not octets
        if octets:
            self.events += self.h2.receive_data(octets)

    def until(self, kind: Any, count: int = 1) -> list[Any]:
        """Read until so many events of a kind came, or the end."""
        while not self.ended and len(found := [event for event in self.events if isinstance(event, kind)]) < count:
            self.read()
        return [event for event in self.events if isinstance(event, kind)] if self.ended else found

    def statuses(self) -> dict[int, str]:
        """The answers by stream."""
        responses = (event for event in self.events if isinstance(event, h2.events.ResponseReceived))
        return {response.stream_id: dict(response.headers)[":status"] for response in responses}


async def run(command: str, *arguments: str) -> tuple[str, str, int]:
    """Run a command while the reactor goes on: its output, its errors, its exit status."""

    def wait() -> subprocess.CompletedProcess[str]:
        return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)

    done = await in_thread(wait)
    return done.stdout, done.stderr, done.returncode


def in_thread(work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Call a blocking client in a thread of its own, while the reactor goes on."""
    done: Deferred[Any] = Deferred()

    def call() -> None:
        outcome = maybeDeferred(work, *arguments)
        # A turn later: a push is delivered in the turn after its answer, and this may come in between.
        reactor.callFromThread(reactor.callLater, 0, outcome.chainDeferred, done)

    threading.Thread(target=call, daemon=True).start()
    return done


@asynccontextmanager
async def running_gateway(folder: Path, **settings: Any) -> AsyncIterator[RunningGateway]:
    """A gateway that listens; everything is closed after it."""
    running = RunningGateway(folder, **settings)
    running.gateway.listen(HOST)
    running.outages.open()
    try:
        yield running
    finally:
        running.outages.close()
        await running.gateway.close()
        running.router.close()
        running.push_endpoint.close()
