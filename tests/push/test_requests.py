"""The answer of APNs to a request: success, or each refusal with its status."""

from __future__ import annotations

import json
import uuid

import pytest
from apns_parties import NOW, PROVIDER, TOPIC, SettableMacs, fields, payload
from hypothesis import given
from hypothesis import strategies as st

from agent.push.broker import Presence, PushBroker
from agent.push.reasons import Reason
from agent.push.requests import MAX_PAYLOAD_BYTES, NOBODY, Provider, PushPolicy

ID = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"
STRICT = PushPolicy(strict=True)


def reason_of(answer_body: bytes) -> str:
    return str(json.loads(answer_body)["reason"]) if answer_body else ""


def test_success_returns_the_apns_id_or_a_new_one() -> None:
    broker = PushBroker(SettableMacs())
    answer = broker.receive(fields(apns_id=ID), payload(), PROVIDER, NOW)
    assert (answer.status, answer.apns_id, answer.body) == (200, ID, b"")
    made = [broker.receive(fields(), payload(), PROVIDER, NOW).apns_id for _ in range(2)]
    assert made[0] != made[1]
    assert all(str(uuid.UUID(each)).upper() == each for each in made)
    assert broker.counts.accepted == 3


@pytest.mark.parametrize(
    ("changes", "body", "provider", "status", "reason"),
    [
        ({"method": "GET"}, payload(), PROVIDER, 405, "MethodNotAllowed"),
        ({"path": "/"}, payload(), PROVIDER, 404, "BadPath"),
        ({"path": "/2/device/" + "0" * 64}, payload(), PROVIDER, 404, "BadPath"),
        ({"path": "/3/device/x/y"}, payload(), PROVIDER, 404, "BadPath"),
        ({"path": "/3/device/"}, payload(), PROVIDER, 400, "MissingDeviceToken"),
        ({"path": "/3/device"}, payload(), PROVIDER, 400, "MissingDeviceToken"),
        ({"path": "/3/device/zz"}, payload(), PROVIDER, 400, "BadDeviceToken"),
        ({"path": "/3/device/" + "f" * 64}, payload(), PROVIDER, 400, "BadDeviceToken"),
        ({"path": "/3/device/" + "0" * 66}, payload(), PROVIDER, 400, "BadDeviceToken"),
        ({"apns_id": "1"}, payload(), PROVIDER, 400, "BadMessageId"),
        ({"apns_id": ID.replace("-", "")}, payload(), PROVIDER, 400, "BadMessageId"),
        ({"apns_priority": "7"}, payload(), PROVIDER, 400, "BadPriority"),
        ({"apns_priority": "010"}, payload(), PROVIDER, 400, "BadPriority"),
        ({"apns_expiration": "soon"}, payload(), PROVIDER, 400, "BadExpirationDate"),
        ({"apns_expiration": "-1"}, payload(), PROVIDER, 400, "BadExpirationDate"),
        ({"apns_expiration": "\u0661"}, payload(), PROVIDER, 400, "BadExpirationDate"),
        ({"apns_topic": ""}, payload(), PROVIDER, 400, "BadTopic"),
        ({"apns_topic": "com.apple mgmt"}, payload(), PROVIDER, 400, "BadTopic"),
        ({"apns_topic": TOPIC + ".other"}, payload(), PROVIDER, 400, "TopicDisallowed"),
        ({"apns_push_type": "nonsense"}, payload(), PROVIDER, 400, "InvalidPushType"),
        ({"apns_collapse_id": "x" * 65}, payload(), PROVIDER, 400, "BadCollapseId"),
        ({}, b"", PROVIDER, 400, "PayloadEmpty"),
        ({}, b"{}", PROVIDER, 400, "PayloadEmpty"),
        ({}, b"[" * 4000, PROVIDER, 400, "PayloadEmpty"),
        ({}, b"\xff", PROVIDER, 400, "PayloadEmpty"),
        ({}, b" " * (MAX_PAYLOAD_BYTES + 1), PROVIDER, 413, "PayloadTooLarge"),
        ({}, payload(), NOBODY, 403, "MissingProviderToken"),
        ({}, payload(), Provider("", certified=True), 403, "BadCertificate"),
        ({}, payload(), Provider(TOPIC, certified=True, fault="it expired"), 403, "BadCertificate"),
        ({}, payload(), Provider("com.example.app", certified=True), 403, "Forbidden"),
        ({"authorization": "bearer eyJ.e.s"}, payload(), NOBODY, 403, "InvalidProviderToken"),
        ({"authorization": "bearer eyJ.e.s"}, payload(), PROVIDER, 403, "InvalidProviderToken"),
        ({}, payload(), Provider(TOPIC + "2", certified=True), 400, "DeviceTokenNotForTopic"),
    ],
)  # fmt: skip
def test_every_refusal_has_its_status_and_reason(
    changes: dict[str, str], body: bytes, provider: Provider, status: int, reason: str
) -> None:
    broker = PushBroker(SettableMacs())
    answer = broker.receive(fields(**changes), body, provider, NOW)
    assert (answer.status, reason_of(answer.body)) == (status, reason)
    assert broker.take() == []
    assert broker.counts.refused == {reason: 1}
    assert broker.counts.accepted == 0


def test_refusal_returns_the_apns_id() -> None:
    answer = PushBroker(SettableMacs()).receive(fields(apns_id=ID, apns_priority="0"), payload(), PROVIDER, NOW)
    assert answer.apns_id == ID


def test_repeated_header_is_refused() -> None:
    twice = [*fields(apns_priority="10"), ("apns-priority", "5")]
    answer = PushBroker(SettableMacs()).receive(twice, payload(), PROVIDER, NOW)
    assert (answer.status, reason_of(answer.body)) == (400, "DuplicateHeaders")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "MissingTopic"),
        ({"apns_topic": TOPIC}, "InvalidPushType"),
        ({"apns_topic": TOPIC, "apns_push_type": "alert"}, "InvalidPushType"),
        ({"apns_topic": TOPIC, "apns_push_type": "mdm"}, ""),
    ],
)
def test_strict_refuses_missing_headers(changes: dict[str, str], reason: str) -> None:
    strict = PushBroker(SettableMacs(), policy=STRICT).receive(fields(**changes), payload(), PROVIDER, NOW)
    assert reason_of(strict.body) == reason
    assert PushBroker(SettableMacs()).receive(fields(**changes), payload(), PROVIDER, NOW).status == 200


def test_unenrolled_mac_is_410_with_timestamp_and_never_enrolled_is_400() -> None:
    macs = SettableMacs()
    macs.standing[0] = Presence.LEFT
    macs.topics[0] = ""
    answer = PushBroker(macs).receive(fields(), payload(), PROVIDER, NOW)
    assert answer.status == 410
    assert json.loads(answer.body) == {"reason": "Unregistered", "timestamp": int((NOW - 60.5) * 1000)}
    macs.standing[0] = Presence.UNKNOWN
    assert reason_of(PushBroker(macs).receive(fields(), payload(), PROVIDER, NOW).body) == "BadDeviceToken"


def test_every_reason_of_the_table_has_a_status_of_its_kind() -> None:
    assert {reason.status for reason in Reason} == {400, 403, 404, 405, 410, 413, 429, 500, 503}
    assert len({reason.word for reason in Reason}) == len(Reason)


@given(
    st.lists(st.tuples(st.sampled_from([name for name, _ in fields()] + ["apns-id", "apns-topic", "x"]), st.text())),
    st.binary(max_size=200),
)
def test_any_headers_and_body_get_an_answer(headers: list[tuple[str, str]], body: bytes) -> None:
    broker = PushBroker(SettableMacs())
    answer = broker.receive(headers, body, PROVIDER, NOW)
    assert answer.status in (200, 400, 403, 404, 405)
    assert (answer.status == 200) == (broker.counts.accepted == 1) == (not answer.body)
