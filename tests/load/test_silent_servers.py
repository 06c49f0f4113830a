"""Servers that stop answering, never answer, or never come to an end: no run against one of them is a good run.

The command as a process, real TLS sockets, and a server of this test's own.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from balance import check_balance
from command import lom_agent
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from scep_pending import cert_rep_pending
from servers import unused_port
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.server import NOT_DONE_YET

from agent import plists
from agent.lab.enrollment.scep import Answer, SCEPService
from agent.lab.mdm.core import Lab, Message
from agent.lab.mdm.push import LabPush, provider_at
from agent.lab.web.server import LabServer
from agent.net.transport.anchors import read_anchors
from agent.pki.issuing.authorities import Authorities
from agent.pki.scep.messages import CONTENT_TYPE, from_query, open_message
from agent.profiles.making import TOPIC, scep_payload

MACS = 4
LIMIT = 1.0  # seconds that a session may take in these runs
SCENARIO = """
limits = ["session.p99 < 1s", "session.errors == 0"]
[server]
adapter = "none"
enroll = "{enroll}"
ca = ["{ca}"]
[fleet]
devices = {macs}
segment_size = 2
{fleet}
[load]
workers = 2
tail = 1
[[phase]]
kind = "enroll"
concurrency = 8
timeout = {limit}
[[phase]]
kind = "checkin"
by = "self"
timeout = {limit}
rate = 10
duration = 2
"""


PUSHED = """
limits = ["delivery.errors == 0"]
[server]
adapter = "lab"
enroll = "{enroll}"
ca = ["{ca}"]
[server.lab]
url = "{url}"
token_file = "{token}"
[push]
listen = "127.0.0.1:{port}"
tls = "{apns}"
[fleet]
devices = {macs}
segment_size = 2
[load]
workers = 2
tail = 1
[[phase]]
kind = "enroll"
concurrency = 8
[[phase]]
{phase}
timeout = {limit}
rate = 20
"""


GATEWAY_NEVER_LATE = """
import agent.load.conductor.pushes, agent.net.apns.router
class Unmeasured(agent.load.conductor.pushes.Stalls):
    def begin(self): pass  # a busy machine makes it own_gateway, which is tested elsewhere
agent.load.conductor.pushes.Stalls = Unmeasured
agent.net.apns.router.STALL_SECONDS = 1e9
"""


class Unhelpful(Lab):
    """A lab whose answers to reports are ``say``'s, once it was asked ``good`` times."""

    def __init__(self, say: Callable[[], Any], good: int = 0) -> None:
        super().__init__()
        self.asked = 0
        self._say = say
        self._good = good

    def report(self, put: Message) -> bytes:
        """Take a report as a lab does, and then answer otherwise."""
        answer = super().report(put)
        self.asked += 1
        return answer if self.asked <= self._good else self._say()


def silence() -> Any:
    """No answer at all."""
    return NOT_DONE_YET


def another() -> bytes:
    """A command, and after it another one."""
    uuid = os.urandom(8).hex()
    return plists.dump_xml({"CommandUUID": uuid, "Command": {"RequestType": "ProfileList"}})


def the_same() -> bytes:
    """One command, again and again."""
    return plists.dump_xml({"CommandUUID": "the same", "Command": {"RequestType": "ProfileList"}})


class Mistaken(Lab):
    """A lab that stores another command than it was asked to queue."""

    def enqueue(self, udid: str, command: Mapping[str, Any], *arguments: Any, **options: Any) -> str:
        """Queue CertificateList."""
        return super().enqueue(udid, {"RequestType": "CertificateList"}, *arguments, **options)


class Erasing(Lab):
    """A lab that erases every Mac in its first session: it is then no longer managed."""

    def report(self, put: Message) -> bytes:
        """Answer Idle with EraseDevice."""
        answer = super().report(put)
        erase = plists.dump_xml(
            {"CommandUUID": os.urandom(8).hex(), "Command": {"RequestType": "EraseDevice", "PIN": "123456"}}
        )
        return erase if b"<string>Idle</string>" in put.body else answer


class LatePush:
    """The push provider of a lab, which connects to the gateway of the run when the first push is due."""

    def __init__(self, server: LabServer, port: int, apns: Path) -> None:
        self._server = server
        self._port = port
        self._apns = apns
        self._push: LabPush | None = None

    def push(self, udid: str) -> Deferred[str]:
        """Push to a Mac."""
        if self._push is None:
            anchors = read_anchors((str(self._apns / "ca.pem"),))
            identity = self._server.authorities.push_identity(TOPIC)
            provider = provider_at(reactor, f"https://127.0.0.1:{self._port}", anchors, identity)
            self._push = LabPush(self._server.lab, provider)
        return self._push.push(udid)

    def close(self) -> None:
        """Close the connection."""
        if self._push is not None:
            self._push.close()


async def run_against(
    lab: Lab, folder: Path, fleet: str = "", pushed: str | None = None, limit: float = LIMIT, *, scep: bool = False
) -> tuple[int, str, Any]:
    """Run the command against this lab: exit status, what it printed, and its results.

    With ``pushed``, the keys of a phase, the lab is asked for commands and pushes by its API.
    """
    server = LabServer(reactor, lab, Authorities(), scep=scep)
    server.listen()
    server._ports[-1].factory.wrappedFactory.endpoints = {}  # twisted.web can leave a request without an answer
    ca, token, apns, port = folder / "ca.pem", folder / "token", folder / "apns", unused_port()
    ca.write_bytes(server.authorities.anchor.public_bytes(Encoding.PEM))
    token.write_text(server.token)
    late = LatePush(server, port, apns)
    server.push = late  # type: ignore[assignment]
    scenario = folder / "scenario.toml"
    values = {"enroll": server.enrollment_url, "ca": ca, "macs": MACS, "limit": limit}
    if pushed is None:
        scenario.write_text(SCENARIO.format(**values, fleet=fleet))
    else:
        scenario.write_text(PUSHED.format(**values, url=server.url, token=token, port=port, apns=apns, phase=pushed))
    arguments = ("run", str(scenario), "--out", str(folder), "--trace", str(folder / "trace.jsonl"))
    outputs = (*arguments, "--junit", str(folder / "junit.xml"))
    try:
        done = await deferToThread(lom_agent, *outputs, patch=GATEWAY_NEVER_LATE)
    finally:
        late.close()
        await server.close()
    assert done.stderr == b""
    return done.returncode, done.stdout.decode(), json.loads((folder / "results.json").read_bytes())


@pytest.mark.parametrize(
    ("phase", "kinds"),
    [
        ('kind = "command"\nrequest = { RequestType = "ProfileList" }', {"no_result", "server_timeout"}),
        ('kind = "checkin"\nby = "push"', {"session_stuck", "server_timeout"}),
    ],
    ids=["command", "checkin"],
)
def test_server_that_ignores_sessions_fails_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path, phase: str, kinds: set[str]
) -> None:
    lab = Unhelpful(silence)
    status, message, document = run_in_reactor(run_against(lab, tmp_path, pushed=phase))
    assert status == 1, message
    assert document["complete"]
    assert lab.asked > 0, "no Mac came after a push"
    delivery, record = document["operations"]["delivery"], document["phases"][1]
    assert delivery["errors"] == delivery["count"] == record["failed"] == record["done"] > 0
    found = {error["kind"] for error in document["errors"] if error["operation"] == "delivery"}
    assert found
    assert found <= kinds
    assert all(kind in message for kind in found)
    assert [limit["ok"] for limit in document["limits"]] == [False]
    assert "No operation of" not in message
    assert ET.parse(tmp_path / "junit.xml").findall(".//failure")
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


# Without it a session without an end is as many commands as this machine can answer.
SLOW = '[[rule]]\non = "command"\ndo = "delay"\nseconds = 0.05'


@pytest.mark.parametrize(
    ("say", "good", "rule"),
    [(silence, 0, ""), (silence, 10, ""), (another, 0, SLOW)],
    ids=["dead", "stalled", "endless"],
)
def test_server_with_endless_sessions_fails_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path, say: Callable[[], Any], good: int, rule: str
) -> None:
    status, message, document = run_in_reactor(run_against(Unhelpful(say, good), tmp_path, rule))
    assert status == 1, message
    session, phase = document["operations"]["session"], document["phases"][1]
    assert document["complete"]
    assert session["errors"] == session["timed_out"] == phase["failed"] > 0
    assert [(error["operation"], error["kind"]) for error in document["errors"]] == [("session", "session_stuck")]
    assert session["latency_ms"]["p99"] >= LIMIT * 1000
    assert [limit["ok"] for limit in document["limits"]] == [False, False]
    assert "session_stuck" in message
    assert "No operation of" not in message
    assert ET.parse(tmp_path / "junit.xml").findall(".//failure")
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


@pytest.mark.parametrize("delay", [1, 3600], ids=["polled", "next poll after the limit"])
def test_scep_ca_that_answers_pending_for_ever_fails_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    asked: Counter[str] = Counter()

    def pending(service: SCEPService, octets: str | bytes) -> Answer:
        message = open_message(from_query(octets) if isinstance(octets, str) else octets)
        asked[message.header.transaction_id] += 1
        return Answer(200, CONTENT_TYPE, cert_rep_pending(message, service._ca.identity, bytes(16)))

    def patient(*arguments: Any) -> dict[str, Any]:
        payload = scep_payload(*arguments)
        content = {**payload["PayloadContent"], "Retries": 1000, "RetryDelay": delay, "Keysize": 1024}
        return {**payload, "PayloadContent": content}

    monkeypatch.setattr(SCEPService, "_pki_operation", pending)
    monkeypatch.setattr("agent.lab.web.server.scep_payload", patient)
    status, said, document = run_in_reactor(run_against(Lab(), tmp_path, scep=True))
    assert status == 1, said
    assert document["complete"]
    operation, phase = document["operations"]["enroll"], document["phases"][0]
    assert operation["errors"] == operation["timed_out"] == phase["failed"] == phase["done"] == MACS
    found = [(error["operation"], error["kind"], error["count"]) for error in document["errors"]]
    assert found == [("enroll", "profile", MACS)]
    assert "the CA still answers PENDING after 1 s, the time limit" in document["errors"][0]["example"]
    assert operation["latency_ms"]["p50"] >= LIMIT * 1000
    reason = f"enroll: {MACS} of {MACS} failed: profile. No limit allows failures."
    assert reason in document["outcome"]["reasons"]
    assert f"{MACS} of {MACS} enroll operations failed: profile." in " ".join(said.split()), said
    assert len(asked) == MACS
    assert max(asked.values()) <= 2, "the request, and the first poll, which has no delay"
    assert reason in [each.get("message") for each in ET.parse(tmp_path / "junit.xml").findall(".//failure")]
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


def test_repeated_notnow_command_is_reported_once_and_the_run_ends(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    lab = Unhelpful(the_same)
    fleet = "not_now = 1.0\nnot_now_retry = 600.0"
    status, said, document = run_in_reactor(run_against(lab, tmp_path, fleet, limit=60.0))
    assert status == 1, said
    text = "were answered with NotNow for a later session"
    assert len([line for line in said.splitlines() if line.startswith("Warning: ") and text in line]) == 1
    session, phase = document["operations"]["session"], document["phases"][1]
    [error] = document["errors"]
    assert (error["operation"], error["kind"], error["count"]) == ("session", "not_now_repeated", session["count"])
    assert text in error["example"]
    assert session["errors"] == session["count"] > 0
    assert phase["failed"] == phase["done"] > 0
    assert document["complete"]
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


def test_a_run_whose_last_phase_has_no_mac_left_has_failed(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    phase = 'kind = "checkin"\nby = "self"\nconcurrency = 8\n[[phase]]\nkind = "command"'
    status, message, document = run_in_reactor(run_against(Erasing(), tmp_path, pushed=phase, limit=60.0))
    assert status == 1, message
    looks, commands = document["phases"][1:]
    assert (looks["done"], looks["failed"]) == (MACS, 0)
    assert commands["dropped"] == commands["planned"] == MACS
    assert document["errors"] == []
    reason = f"The phase command measured nothing: of its operations {MACS} dropped, none done."
    assert reason in document["outcome"]["reasons"]
    assert reason in message
    assert reason in [each.get("message") for each in ET.parse(tmp_path / "junit.xml").findall(".//failure")]
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


def test_a_server_that_delivers_another_command_than_was_queued_fails_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    phase = 'kind = "command"\nrequest = { RequestType = "ProfileList" }'
    status, message, document = run_in_reactor(run_against(Mistaken(), tmp_path, pushed=phase, limit=60.0))
    assert status == 1, message
    assert document["operations"]["delivery"]["errors"] == document["phases"][1]["failed"] == MACS
    assert [(error["operation"], error["kind"]) for error in document["errors"]] == [("delivery", "command_changed")]
    assert document["operations"]["command"]["errors"] == 0  # the Mac carried out its commands
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")
