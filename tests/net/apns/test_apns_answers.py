"""Every answer of the gateway carries apns-id: that of the request, or a new one where it brings none that is one."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import h2.events
import pytest
from apns_gateways import HOST, POPULATION, Peer, RunningGateway, in_thread, push_rule, running_gateway
from conftest import RunInReactor

from agent.push.broker import Presence
from agent.push.reasons import Reason

ID = "7d0e6f1c-0000-4000-8000-0000000000aa"
TOKEN = POPULATION[0].push_token.hex()
GOOD: dict[str, Any] = {"method": "POST", "path": f"/3/device/{TOKEN}", "body": b'{"mdm":"x"}', "others": [],
                        "provider": "provider"}  # fmt: skip

# The headers of the request that differ from GOOD, and the status of the answer. Each has ID unless it names another.
ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "accepted": ({}, "200"),
    "PayloadTooLarge": ({"body": b'{"mdm":"x","pad":"' + b"y" * 5000 + b'"}'}, "413"),
    "DuplicateHeaders": ({"others": [("apns-priority", "5"), ("apns-priority", "10")]}, "400"),
    "DuplicateHeaders of the id": ({"others": [("apns-id", ID)]}, "400"),
    "MethodNotAllowed": ({"method": "GET"}, "405"),
    "BadPath": ({"path": "/4/device/x"}, "404"),
    "MissingDeviceToken": ({"path": "/3/device/"}, "400"),
    "BadDeviceToken": ({"path": "/3/device/abc"}, "400"),
    "BadDeviceToken of nobody": ({"path": "/3/device/" + "0" * 64}, "400"),
    "MissingProviderToken": ({"provider": None}, "403"),
    "InvalidProviderToken": ({"others": [("authorization", "bearer x")]}, "403"),
    "PayloadEmpty": ({"body": b"[]"}, "400"),
    "BadTopic": ({"others": [("apns-topic", "a b")]}, "400"),
    "TopicDisallowed": ({"others": [("apns-topic", "a.b")]}, "400"),
    "InvalidPushType": ({"others": [("apns-push-type", "none")]}, "400"),
    "BadCollapseId": ({"others": [("apns-collapse-id", "c" * 65)]}, "400"),
    "BadExpirationDate": ({"others": [("apns-expiration", "soon")]}, "400"),
    "BadPriority": ({"others": [("apns-priority", "9")]}, "400"),
    "Unregistered": ({"path": f"/3/device/{POPULATION[1].push_token.hex()}"}, "410"),
    "TooManyRequests": ({"path": f"/3/device/{POPULATION[2].push_token.hex()}"}, "429"),
}


def answer(running: RunningGateway, asked: dict[str, Any], apns_id: list[str]) -> dict[str, str]:
    """The header fields of the answer to one request."""
    asked = {**GOOD, **asked}
    peer = Peer(running, provider=asked["provider"])
    peer.start()
    head = [(":method", asked["method"]), (":scheme", "https"), (":authority", HOST), (":path", asked["path"])]
    head += [("apns-id", each) for each in apns_id] + asked["others"]
    peer.h2.send_headers(1, head)
    peer.h2.send_data(1, asked["body"], end_stream=True)
    peer.flush()
    (response,) = peer.until(h2.events.ResponseReceived)
    peer.socket.close()
    return dict(response.headers)


@pytest.mark.parametrize(("asked", "status"), ASKED.values(), ids=ASKED.keys())
def test_each_answer_has_the_apns_id_of_its_request_or_a_new_one(
    run_in_reactor: RunInReactor, tmp_path: Path, asked: dict[str, Any], status: str
) -> None:
    async def scenario() -> None:
        async with running_gateway(
            tmp_path, rules=[push_rule("refuse", reason="TooManyRequests", macs=("2",))]
        ) as running:
            running.macs.standing[1] = Presence.LEFT
            answered = await in_thread(answer, running, asked, [ID])
            assert (answered[":status"], answered["apns-id"]) == (status, ID)
            if asked.get("others") != [("apns-id", ID)]:
                answered = await in_thread(answer, running, asked, [])
                assert answered[":status"] == status
                assert uuid.UUID(answered["apns-id"]) != uuid.UUID(ID)

    run_in_reactor(scenario())


@pytest.mark.parametrize("apns_id", ["", "none", ID + "0", ID.replace("-", "")])
def test_invalid_apns_id_is_refused_with_a_new_one(run_in_reactor: RunInReactor, tmp_path: Path, apns_id: str) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            answered = await in_thread(answer, running, {}, [apns_id])
            assert answered[":status"] == "400"
            assert uuid.UUID(answered["apns-id"])
            assert running.counts["refused"] == {Reason.BAD_MESSAGE_ID.word: 1}

    run_in_reactor(scenario())


def test_answer_during_shutdown_has_the_apns_id(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:

            def begin() -> Peer:
                peer = Peer(running)
                peer.start()
                peer.request(0, **{"apns-id": ID})
                peer.request(1, ended=False, **{"apns-id": ID})
                peer.flush()
                peer.until(h2.events.StreamEnded)
                return peer

            peer = await in_thread(begin)
            closed = running.gateway.close()
            await in_thread(peer.until, h2.events.ConnectionTerminated)
            peer.socket.close()
            await closed
            responses = [event for event in peer.events if isinstance(event, h2.events.ResponseReceived)]
            found = {dict(each.headers)[":status"]: dict(each.headers)["apns-id"] for each in responses}
            assert found == {"200": ID, "503": ID}

    run_in_reactor(scenario())
