"""The log of exchanges: its bounds, its search, and that no secret is shown."""

from __future__ import annotations

import json
import plistlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.measure.exchanges import (
    MOST_BODY_BYTES,
    REDACTED,
    ExchangeLog,
    HTTPExchange,
    as_shown,
    decoded,
    is_secret,
)

SECRET = "s3cr3t-value"
SECRET_KEYS = [
    "UnlockToken", "BootstrapToken", "Challenge", "DigestChallenge", "Password", "AdminPasswordHash", "PIN", "Passcode",
    "PersonalRecoveryKey", "AppleCareToken", "Authorization", "password",
]  # fmt: skip
OPEN_KEYS = ["Token", "PushMagic", "UDID", "PINNED", "Topic", "CommandUUID"]

leaves = st.text(max_size=10) | st.integers(-(2**40), 2**40) | st.booleans() | st.binary(max_size=80)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def exchange(number: int = 0, **fields: Any) -> HTTPExchange:
    given_fields: dict[str, Any] = {"udid": f"UDID-{number % 3}", "kind": "report", **fields}
    return HTTPExchange(at=1000.0 + number, seconds=0.1, device=number % 3, **given_fields)


def numbers(found: list[HTTPExchange]) -> list[int]:
    return [each.number for each in found]


def plist(**values_: Any) -> bytes:
    return plistlib.dumps(values_)


# The ring


@given(st.integers(1, 8), st.integers(0, 30))
def test_the_oldest_exchanges_make_room(most: int, count: int) -> None:
    log = ExchangeLog(most=most)
    added = [log.add(exchange(number)) for number in range(count)]
    assert list(log) == added[-most:]
    assert numbers(added) == list(range(1, count + 1))
    assert log.last_number == count


@given(st.lists(st.integers(0, 5000), max_size=30))
def test_the_bytes_are_bounded(sizes: list[int]) -> None:
    log = ExchangeLog(most_bytes=20_000)
    for size in sizes:
        log.add(exchange(request=bytes(size), response=bytes(size)))
        assert len(log) == 1 or sum(len(each.request) + len(each.response) for each in log) <= 20_000
    log.clear()
    assert list(log) == []
    log.add(exchange(request=bytes(15_000)))
    assert len(log) == 1  # its bytes are counted from 0 again


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_body_is_bounded_and_marked(more: int) -> None:
    body = bytes(MOST_BODY_BYTES + more)
    kept = ExchangeLog().add(exchange(request=body, response=b"x"))
    assert kept.request == body[:MOST_BODY_BYTES]
    assert (kept.request_truncated, kept.response_truncated) == (more > 0, False)
    kept = ExchangeLog().add(exchange(response=body))
    assert (kept.request_truncated, kept.response_truncated) == (False, more > 0)


def test_observer_gets_each_exchange_when_it_is_kept() -> None:
    reported: list[HTTPExchange] = []
    log = ExchangeLog(reported.append)
    assert [log.add(exchange()), log.add(exchange(1))] == reported == list(log)


# Finding


def test_the_last_exchanges_of_one_mac() -> None:
    log = ExchangeLog()
    for number in range(9):
        log.add(exchange(number))
    assert numbers(log.of("UDID-1")) == [2, 5, 8]
    assert numbers(log.of("UDID-1", limit=2)) == [5, 8]
    assert log.of("another") == []
    log.clear("UDID-1")
    assert (log.of("UDID-1"), len(log)) == ([], 6)
    assert log.add(exchange()).number == 10


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [1, 2, 3, 4]),
        ({"limit": 2}, [3, 4]),  # the last ones
        ({"after": 2}, [3, 4]),
        ({"udid": "UDID-0"}, [1, 4]),
        ({"kind": "checkin"}, [2]),
        ({"text": "tokenupdate"}, [2]),
        ({"text": "PROFILELIST"}, [1]),
        ({"text": "not now, please"}, [3]),
        ({"text": "a & b"}, [4]),
        ({"text": "flaky"}, [3]),
        ({"text": SECRET}, []),
        ({"text": "nowhere"}, []),
    ],
)
def test_exchanges_are_found_by_text_mac_kind_and_number(wanted: dict[str, Any], found: list[int]) -> None:
    log = ExchangeLog()
    log.add(exchange(0, request_type="ProfileList", request=plist(Password=SECRET)))
    log.add(exchange(1, kind="checkin", message_type="TokenUpdate"))
    log.add(exchange(2, response=b"Not now, please", rules=("flaky",)))
    log.add(exchange(3, request=plist(Name="a & b", UnlockToken=SECRET.encode())))
    assert numbers(log.search(**wanted)) == found


# Showing


@pytest.mark.parametrize("name", SECRET_KEYS)
@pytest.mark.parametrize("fmt", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_secrets_are_not_shown_at_any_depth(name: str, fmt: Any) -> None:
    for secret in (SECRET, SECRET.encode(), [SECRET], {"a": SECRET}):
        inner = plistlib.dumps({"List": [{name: secret}]}, fmt=fmt)
        for body in (inner, plistlib.dumps({"Payload": inner}, fmt=fmt), plistlib.dumps([[{name: secret}]], fmt=fmt)):
            shown = json.dumps(decoded(body))
            assert SECRET not in shown
            assert SECRET.encode().hex() not in shown
            assert REDACTED in shown


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_secrets_of_a_property_list_without_its_end_are_not_shown(name: str) -> None:
    for secret in (SECRET, SECRET.encode()):
        body = plistlib.dumps({name: secret, "Zone": "open"})
        for end in range(1, len(body)):
            shown = json.dumps(decoded(body[:end]))
            assert SECRET not in shown
            assert "czNjcjN0" not in shown  # in base64


@pytest.mark.parametrize("name", OPEN_KEYS)
def test_other_keys_are_shown(name: str) -> None:
    assert not is_secret(name)
    assert decoded(plistlib.dumps({name: "value"})) == {name: "value"}


def test_booleans_are_shown() -> None:
    status = {"PasswordExists": True, "ChangePending": False, "AllowOroms": False}
    answer = {"PasswordVerified": False, "FirmwarePasswordStatus": status, "FDE_HasPersonalRecoveryKey": True}
    assert decoded(plist(**answer)) == answer
    hidden = {"Passwords": {"a": True, "b": SECRET}, "Password": SECRET, "PasswordAttempts": 3}
    assert decoded(plist(**hidden)) == dict.fromkeys(hidden, REDACTED)


def test_the_key_of_a_pkcs12_payload_is_not_shown() -> None:
    profile = {
        "PayloadContent": [{"PayloadType": "com.apple.security.pkcs12", "PayloadContent": b"\x01" * 8, "Password": "x"}]
    }
    assert decoded(plistlib.dumps(profile)) == {
        "PayloadContent": [
            {"PayloadType": "com.apple.security.pkcs12", "PayloadContent": REDACTED, "Password": REDACTED}
        ]
    }


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", None),
        (b'{"mdm": "magic"}', {"mdm": "magic"}),
        (b"<html>Log in</html>", "<html>Log in</html>"),
        (b"\x00\x01\x02\xff" * 100, "400 bytes"),
        (plist(Data=b"\x01\xff"), {"Data": "01ff"}),
        (plist(Data=b"\x01" * 1000), {"Data": "1,000 bytes"}),
        (plist(Inner=plist(A=1)), {"Inner": {"A": 1}}),
        (
            b"<?xml version='1.0'?><plist><dict><key>A</key><string>b",
            "<?xml version='1.0'?><plist><dict><key>A</key><string>b",
        ),
    ],
)
def test_bodies_are_shown(body: bytes, shown: Any) -> None:
    assert decoded(body) == shown


def test_what_is_shown_is_bounded() -> None:
    for body in (
        plist(List=list(range(5000)), Text="x" * 100_000, **{f"k{number}": 1 for number in range(5000)}),
        b"x" * 100_000,
        b"[" * 100_000,
        plistlib.dumps({"a": ["b" * 4000] * 400}),
    ):
        assert len(json.dumps(decoded(body))) < 3_000_000
    nested: Any = "end"
    for _ in range(60):
        nested = [nested]
    assert "…" in json.dumps(decoded(plistlib.dumps(nested)), ensure_ascii=False)


@given(values, st.sampled_from([plistlib.FMT_XML, plistlib.FMT_BINARY]), st.integers(0, 200))
def test_any_body_is_json(value: Any, fmt: Any, cut: int) -> None:
    try:
        body = plistlib.dumps(value, fmt=fmt, skipkeys=False)
    except (ValueError, OverflowError):  # a control character
        return
    json.dumps(decoded(body))
    json.dumps(decoded(body[:cut]))


@given(st.binary(max_size=300))
def test_any_bytes_are_shown(body: bytes) -> None:
    json.dumps(as_shown(exchange(request=body, response=body, rules=("a",))))


def test_a_client_identifier_of_acme_is_not_shown() -> None:
    order = {"identifiers": [{"type": "permanent-identifier", "value": "once"}], "status": "pending"}
    request = {"protected": "e30", "payload": "b25jZQ", "signature": "c2ln"}
    for body in (order, request, {"ClientIdentifier": "once"}):
        shown = json.dumps(decoded(json.dumps(body).encode()))
        assert REDACTED in shown
        assert "once" not in shown
        assert "b25jZQ" not in shown
    other = {"type": "dns", "value": "mdm.test", "payload": 1}
    assert decoded(json.dumps(other).encode()) == other
