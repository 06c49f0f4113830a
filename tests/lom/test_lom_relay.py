"""One item at the Controller: which addresses are tried, in which order, and the error if all fail."""

from __future__ import annotations

import plistlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_lom import texts

from agent.errors import MisuseError, PeerError
from agent.lom.link import LinkAnswer, LinkBroken, LinkRequest
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome

FIRST, SECOND, THIRD = "fe80::1", "fe80::2", "fe80::3"


def relay_to(*addresses: str, version: int | None = 1) -> Relay:
    return Relay(RelayItem("0001", "device.lom.test", PowerRequest.OFF, addresses, version))


@pytest.mark.parametrize(("version", "asked"), [(1, 1), (7, 7), (None, 1)])
def test_device_gets_the_servers_request(version: int | None, asked: int) -> None:
    request = relay_to(FIRST, version=version).request
    assert request == LinkRequest("0001", "device.lom.test", PowerRequest.OFF, asked)


def test_next_address_is_tried_after_a_failure_before_sending() -> None:
    relay = relay_to(FIRST, SECOND, THIRD)
    tried = []
    for _ in range(2):
        address = relay.next_address()
        assert address is not None
        tried.append(address)
        relay.not_sent(address, Unreachable("nobody there"))
    assert relay.next_address() == THIRD
    relay.answered(LinkAnswer("0001"))
    assert tried == [FIRST, SECOND]
    assert relay.next_address() is None
    assert relay.outcome == RelayOutcome("0001")
    assert relay.failure is None


def test_error_lists_the_failure_of_every_address() -> None:
    relay = relay_to(FIRST, SECOND)
    for reason in ("nobody there", "somebody else"):
        address = relay.next_address()
        assert address is not None
        relay.not_sent(address, Unreachable(reason))
    assert relay.next_address() is None
    assert relay.outcome == RelayOutcome("0001", "fe80::1: nobody there; fe80::2: somebody else")
    assert isinstance(relay.failure, Unreachable)


def test_sent_request_is_not_repeated() -> None:
    relay = relay_to(FIRST, SECOND, THIRD)
    assert relay.next_address() == FIRST
    relay.not_sent(FIRST, Unreachable("nobody there"))
    assert relay.next_address() == SECOND
    relay.sent_and_failed(SECOND, LinkBroken("went away"))
    assert relay.next_address() is None
    assert relay.outcome == RelayOutcome("0001", "fe80::1: nobody there; fe80::2: went away")


def test_a_refusal_by_the_device_is_final() -> None:
    relay = relay_to(FIRST, SECOND)
    assert relay.next_address() == FIRST
    relay.answered(LinkAnswer("0001", "the Mac is off"))
    assert relay.next_address() is None
    assert relay.outcome == RelayOutcome("0001", "the Mac is off")
    assert relay.failure is not None
    assert relay.failure.kind == "lom_refused"


@pytest.mark.parametrize(
    "address", ["", "fe80::1%en0", "::1", "2001:db8::1", "192.0.2.1", "device.lom.test", "fe80:::1"]
)
def test_malformed_address_is_reported_and_the_next_one_tried(address: str) -> None:
    relay = relay_to(address, SECOND)
    assert relay.next_address() == SECOND
    relay.not_sent(SECOND, Unreachable("nobody there"))
    assert relay.next_address() is None
    assert relay.outcome.error.startswith(f"{address}: expected ")
    assert relay.outcome.error.endswith("fe80::2: nobody there")


def test_an_address_is_tried_in_its_canonical_spelling() -> None:
    assert relay_to("FE80:0000::00C1").next_address() == "fe80::c1"


def test_outcome_before_the_end_is_misuse() -> None:
    relay = relay_to(FIRST)
    with pytest.raises(MisuseError):
        _ = relay.outcome
    relay.next_address()
    with pytest.raises(MisuseError):
        _ = relay.outcome


def test_item_without_addresses_fails() -> None:
    relay = relay_to()
    assert relay.next_address() is None
    assert not relay.outcome.success


@given(st.lists(texts, max_size=16), st.lists(st.text(max_size=600)))
def test_every_outcome_is_a_valid_plist(addresses: list[str], reasons: list[str]) -> None:
    """Names in certificates may have characters that a plist cannot; an error with them must not break the answer."""
    relay = relay_to(FIRST, *addresses)
    for number in range(17):
        address = relay.next_address()
        if address is None:
            break
        relay.not_sent(address, PeerError(reasons[number] if number < len(reasons) else "\x00\ud800\ufffe"))
    else:
        pytest.fail("more addresses were tried than given")
    assert not relay.outcome.success
    written = plistlib.dumps({"DeviceRequestReturnError": relay.outcome.error})
    assert plistlib.loads(written) == {"DeviceRequestReturnError": relay.outcome.error}
    assert len(relay.outcome.error) < 17 * 1000
