"""Names to addresses, with a resolver that answers on the test's call."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest
from conftest import RunInReactor
from servers import Names
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from agent.errors import PeerError
from agent.net.transport.resolver import (
    RESOLVED_SECONDS,
    Address,
    NameNotFound,
    Resolver,
    is_loopback_name,
    socket_address,
)

V4, V6 = "192.0.2.1", "2001:db8::1"


class Lookup:
    """What became of one lookup: the addresses without their ports, or the error."""

    def __init__(self, resolver: Resolver, host: str, port: int = 443) -> None:
        self.addresses: list[str] = []
        self.ports: set[int] = set()
        self.error: PeerError | None = None
        self.calls = 0
        resolver.lookup(host, port, self._found, self._failed)

    def _found(self, addresses: Sequence[Address]) -> None:
        self.calls += 1
        self.addresses = [address[0] for _, address in addresses]
        self.ports = {address[1] for _, address in addresses}

    def _failed(self, error: PeerError) -> None:
        self.calls += 1
        self.error = error


def test_name_resolves_to_all_addresses_in_system_order() -> None:
    lookup = Lookup(Resolver(Clock(), Names({"mdm.test": [V6, V4, V6]})), "mdm.test", 8443)
    assert lookup.addresses == [V6, V4]
    assert lookup.ports == {8443}


def test_an_address_is_not_looked_up() -> None:
    names = Names({})
    for host in (V4, V6, "::1"):
        assert Lookup(Resolver(Clock(), names), host).addresses == [host]
    assert names.asked == []


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "mdm.localhost"])
def test_localhost_resolves_without_a_lookup(host: str) -> None:
    names = Names({host: [V4]})
    assert Lookup(Resolver(Clock(), names), host).addresses == ["::1", "127.0.0.1"]
    assert names.asked == []


def test_only_localhost_is_a_loopback_name() -> None:
    assert not any(is_loopback_name(host) for host in ("notlocalhost", "localhost.test", "localhost..", ""))


def test_many_lookups_ask_once_and_each_gets_its_own_port() -> None:
    names = Names({"mdm.test": [V4]}, hold=True)
    resolver = Resolver(Clock(), names)
    lookups = [Lookup(resolver, "mdm.test", port) for port in (1, 2, 3)]
    assert [lookup.calls for lookup in lookups] == [0, 0, 0]
    names.release()
    assert [lookup.ports for lookup in lookups] == [{1}, {2}, {3}]
    assert names.asked == ["mdm.test"]


def test_resolved_addresses_are_cached_for_a_limited_time() -> None:
    clock, names = Clock(), Names({"mdm.test": [V4]})
    resolver = Resolver(clock, names)
    Lookup(resolver, "mdm.test")
    clock.advance(RESOLVED_SECONDS - 1.0)
    names.known["mdm.test"] = [V6]
    assert Lookup(resolver, "mdm.test").addresses == [V4]
    clock.advance(1.0)
    assert Lookup(resolver, "mdm.test").addresses == [V6]
    assert names.asked == ["mdm.test"] * 2


def test_failed_lookup_is_reported_to_all_and_not_cached() -> None:
    names = Names({}, hold=True)
    resolver = Resolver(Clock(), names)
    lookups = [Lookup(resolver, "mdm.test") for _ in range(2)]
    names.release()
    for lookup in lookups:
        assert isinstance(lookup.error, NameNotFound)
        assert "mdm.test" in str(lookup.error)
    names.known["mdm.test"] = [V4]
    again = Lookup(resolver, "mdm.test")
    names.release()
    assert again.addresses == [V4]


@pytest.mark.parametrize("host", ["a..b", "." * 3, "x" * 64 + ".test", "x." * 200 + "x" * 64, "ü..b"])
def test_invalid_names_are_reported(host: str) -> None:
    names = Names({})
    lookup = Lookup(Resolver(Clock(), names), host)
    assert isinstance(lookup.error, NameNotFound)
    assert names.asked == []


def test_working_address_is_listed_first() -> None:
    resolver = Resolver(Clock(), Names({"mdm.test": [V6, V4], "other.test": [V6, V4]}))
    resolver.prefer("mdm.test", (socket.AF_INET, (V4, 443)))
    assert Lookup(resolver, "mdm.test").addresses == [V4, V6]
    assert Lookup(resolver, "other.test").addresses == [V6, V4]


def test_preferred_address_is_dropped_if_no_longer_resolved() -> None:
    resolver = Resolver(Clock(), Names({"mdm.test": [V6]}))
    resolver.prefer("mdm.test", (socket.AF_INET, (V4, 443)))
    assert Lookup(resolver, "mdm.test").addresses == [V6]


@pytest.mark.parametrize("scope", ["nosuchif", "9" * 30, "no such interface at all"])
def test_unknown_scope_is_reported(scope: str) -> None:
    lookup = Lookup(Resolver(Clock(), Names({})), f"fe80::1%{scope}")
    assert isinstance(lookup.error, NameNotFound)
    assert "scope" in str(lookup.error)


def test_scope_becomes_its_interface_index() -> None:
    assert socket_address("fe80::1%7", 443) == (socket.AF_INET6, ("fe80::1", 443, 0, 7))
    index, name = socket.if_nameindex()[0]
    assert socket_address(f"fe80::1%{name}", 443) == (socket.AF_INET6, ("fe80::1", 443, 0, index))


def test_the_scope_of_a_looked_up_address_is_kept() -> None:
    class Scoped(Names):
        def resolveHostName(self, receiver: object, host: str) -> object:
            from twisted.internet.address import IPv6Address

            receiver.addressResolved(IPv6Address("TCP", "fe80::1", 0, 0, 3))  # type: ignore[attr-defined]
            receiver.resolutionComplete()  # type: ignore[attr-defined]
            return self

    found: list[Sequence[Address]] = []
    Resolver(Clock(), Scoped({})).lookup("mac.test", 443, found.append, pytest.fail)
    assert found == [[(socket.AF_INET6, ("fe80::1", 443, 0, 3))]]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thread pool for Twisted's resolver, which is gone after the test; the reactor's own would outlive it."""
    from twisted.internet import reactor

    pool = ThreadPool(0, 1)
    pool.start()
    monkeypatch.setattr(reactor, "threadpool", pool)
    yield
    pool.stop()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("host", ["nothing.invalid", "x" * 64 + ".invalid"])
def test_resolver_always_completes_for_twisted(run_in_reactor: RunInReactor, host: str) -> None:
    from twisted.internet import reactor

    async def scenario() -> None:
        end: Deferred[PeerError] = Deferred()
        Resolver(reactor, reactor.nameResolver).lookup(host, 443, pytest.fail, end.callback)  # type: ignore[attr-defined]
        assert (await end).kind == "dns"

    run_in_reactor(scenario())
