"""Servers that stop answering, never answer, or never come to an end: no run against one of them is a good run.

The installed command as a process, real TLS sockets, and a server of this test's own.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from balance import check_balance
from command import COMMAND
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.server import NOT_DONE_YET

from agent import plists
from agent.lab.core import Lab, Message
from agent.lab.server import LabServer
from agent.pki.authorities import Authorities

MACS = 8
LIMIT = 1.0  # seconds that a session may take in these runs
SCENARIO = """
limits = ["session.p99 < 1s", "session.errors == 0"]
[server]
adapter = "none"
enroll = "{enroll}"
ca = ["{ca}"]
[fleet]
devices = {macs}
segment_size = 4
{fleet}
[load]
workers = 2
tail = 1
[[phase]]
kind = "enroll"
concurrency = 8
[[phase]]
kind = "checkin"
by = "self"
timeout = {limit}
rate = 20
duration = 2
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


async def run_against(lab: Lab, folder: Path, fleet: str = "") -> tuple[int, str, Any]:
    """Run the command against this lab: exit status, what it printed, and its results."""
    server = LabServer(reactor, lab, Authorities())
    server.listen()
    ca = folder / "ca.pem"
    ca.write_bytes(server.authorities.anchor.public_bytes(Encoding.PEM))
    scenario = folder / "scenario.toml"
    scenario.write_text(SCENARIO.format(enroll=server.enrolment_url, ca=ca, macs=MACS, limit=LIMIT, fleet=fleet))
    arguments = ("run", str(scenario), "--out", str(folder), "--trace", str(folder / "trace.jsonl"))
    try:
        out, err, status = await getProcessOutputAndValue(
            COMMAND, (*arguments, "--junit", str(folder / "junit.xml")), env=dict(os.environ)
        )
    finally:
        await server.close()
    assert err == b""
    return status, out.decode(), json.loads((folder / "results.json").read_bytes())


@pytest.mark.parametrize(
    ("say", "good"), [(silence, 0), (silence, 20), (another, 0)], ids=["dead", "stalled", "endless"]
)
def test_a_server_whose_sessions_come_to_no_end_fails_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path, say: Callable[[], Any], good: int
) -> None:
    status, said, document = run_in_reactor(run_against(Unhelpful(say, good), tmp_path))
    assert status == 1, said
    session, phase = document["operations"]["session"], document["phases"][1]
    assert document["complete"]
    assert session["errors"] == session["timed_out"] == phase["failed"] > 0
    assert [(error["operation"], error["kind"]) for error in document["errors"]] == [("session", "session_stuck")]
    assert session["latency_ms"]["p99"] >= LIMIT * 1000
    assert [limit["ok"] for limit in document["limits"]] == [False, False]
    assert "session_stuck" in said
    assert "No operation of" not in said
    assert ET.parse(tmp_path / "junit.xml").findall(".//failure")
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")


def test_a_server_that_repeats_a_command_that_was_put_off_is_told_once_and_the_run_ends(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    lab = Unhelpful(the_same)
    status, said, document = run_in_reactor(run_against(lab, tmp_path, "not_now = 1.0\nnot_now_retry = 600.0"))
    assert status == 1, said
    assert said.count("was answered with NotNow for a later session") == 2  # the warning, and why sessions failed
    kinds = {(error["operation"], error["kind"]) for error in document["errors"]}
    assert ("session", "not_now_repeated") in kinds
    assert document["complete"]
    check_balance(document, tmp_path / "trace.jsonl", tmp_path / "junit.xml")
