"""A fleet with a state file that is killed at any step: its server is owed nothing that is lost, and knows its Macs.

The server is the lab in this process, which outlives the fleet; what it has is the judge.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from examples import USUAL_EXAMPLES
from hypothesis import settings
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from agent import plists
from agent.device.stored.types import DeviceRecord, EnrollmentRecord
from agent.fleet.population import Population
from agent.lab.mdm.core import Lab
from agent.lab.web.server import LabServer
from agent.net.mac.fleet.keeping import MacRecord
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem
from agent.state.fleet import FleetState

pytestmark = [pytest.mark.slow, pytest.mark.hypothesis]  # `tox -e explore` kills five times as often

LAST_STEP = 100
KILLS = 25  # in each of the runs, which take longer than other tests
SECONDS = 300.0  # far beyond what a run takes
RUNS_OF_ALL_STEPS = LAST_STEP // KILLS  # a kill at each of the steps
RUNS = RUNS_OF_ALL_STEPS * (10 if settings.default.max_examples > USUAL_EXAMPLES else 2)  # 1,000 kills, or 200
MACS = 3  # the last of them enrolls anew now and then
QUEUED = 2  # commands of each Mac that the server holds ready
SERVER = Path(__file__).parent.parent / "support" / "killed_fleet.py"
POPULATION = Population("killed", MACS, MACS)
UDIDS = [POPULATION.udid(index) for index in range(MACS)]


@dataclass
class Found:
    """What a state file has of a Mac."""

    device: DeviceRecord
    record: MacRecord

    @property
    def owed(self) -> tuple[str, bytes] | None:
        """The result that is not delivered yet."""
        session = self.record.activity.session
        return (session.command_uuid, session.result) if session.result else None

    @property
    def fingerprints(self) -> set[bytes]:
        """Of the identities that the Mac has enrolled with, or is enrolling with."""
        enrolling = self.device.enrolling
        both = self.device.enrollment, None if enrolling is None else enrolling.enrollment
        return {self._fingerprint(each) for each in both if each is not None}

    def _fingerprint(self, enrollment: EnrollmentRecord) -> bytes:
        number = self.device.identities[enrollment.identity].certificate
        return hashlib.sha256(self.device.certificates[number]).digest()


@dataclass
class Asked:
    """What the server asked of one Mac, in order, and what the Mac owed at some kill."""

    commands: list[tuple[str, str]] = field(default_factory=list)  # CommandUUID and RequestType
    owed: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # the result, and how often it was carried out


class Judge:
    """Queues commands at the lab, and compares it with the state file."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.file = folder / "fleet.sqlite"
        self.executions = folder / "executions"
        self.asked = [Asked() for _ in range(MACS - 1)]

    def queue(self) -> None:
        """Fill the queues of the Macs that are enrolled and stay it."""
        for asked, udid in zip(self.asked, UDIDS, strict=False):
            mac = self.lab.macs.get(udid)
            while mac is not None and mac.enrolled and len(mac.queue) < QUEUED:
                number = len(asked.commands)
                uuid, kind = (
                    f"{udid[:8]}-{number}",
                    ("RemoveProfile", "Settings", "ProfileList", "RestartDevice")[number % 4],
                )
                body: dict[str, Any] = {"RequestType": kind}
                if kind == "RemoveProfile":
                    body["Identifier"] = f"none.{uuid}"
                if kind == "Settings":
                    body["Settings"] = [{"Item": "DeviceName", "DeviceName": uuid}]
                self.lab.enqueue(udid, body, command_uuid=uuid)
                asked.commands.append((uuid, kind))

    def found(self) -> list[Found | None]:
        """The Macs in the file, which no process uses now."""
        found: list[Found | None] = [None] * MACS
        with closing(FleetState(self.file, reactor)) as state:
            for mac in state.macs(0):
                found[mac.index] = Found(msgspec.msgpack.decode(mac.device, type=DeviceRecord), mac.record)
        return found

    def judge(self) -> list[Found | None]:
        """After a kill."""
        executed = Counter(self.executions.read_text().split()) if self.executions.exists() else Counter()
        found = self.found()
        for udid, mac in zip(UDIDS, found, strict=True):
            known = self.lab.macs.get(udid)
            if known is not None:
                assert mac is not None
                assert known.fingerprint in mac.fingerprints, "the Mac has lost the identity that the server knows"
        for asked, udid, mac in zip(self.asked, UDIDS, found, strict=False):
            if udid in self.lab.macs and mac is not None:
                self._judge_results(asked, udid, mac, executed)
        return found

    def _judge_results(self, asked: Asked, udid: str, mac: Found, executed: Counter[str]) -> None:
        results = self.lab.macs[udid].results
        for uuid, (body, times) in asked.owed.items():
            assert executed[uuid] == times, "a command whose result was owed was carried out again"
            assert (results[uuid].body if uuid in results else mac.owed) in (body, (uuid, body)), "a result was lost"
        if mac.owed is not None:
            uuid, body = mac.owed
            asked.owed.setdefault(uuid, (body, executed[uuid]))
        names = [""]
        for uuid, kind in asked.commands:
            if uuid in results:
                check(uuid, kind, plists.load_dict(results[uuid].body))
            if kind == "Settings" and (uuid in results or (mac.owed is not None and mac.owed[0] == uuid)):
                names.append(uuid)
        assert mac.device.settings.device_name == names[-1], "a result and the effect of its command do not agree"


def check(uuid: str, kind: str, result: dict[str, Any]) -> None:
    """The result is that of its command."""
    assert result["CommandUUID"] == uuid
    assert result["Status"] == ("Error" if kind == "RemoveProfile" else "Acknowledged")
    assert ("ProfileList" in result) == (kind == "ProfileList")
    assert ("Settings" in result) == (kind == "Settings")
    if kind == "RemoveProfile":
        assert f"none.{uuid} " in result["ErrorChain"][0]["LocalizedDescription"]


class Killer:
    """Starts fleets that kill themselves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.fixed: dict[str, Any] = {}
        self.owed = 0  # results that Macs owed when they were killed
        self.runs = 0
        self._process = process

    async def run(self, kill_at: int, anew: int) -> None:
        """One fleet, from its start to its kill."""
        assert await deferToThread(self._run, {**self.fixed, "kill_at": kill_at, "anew": anew}) == -signal.SIGKILL

    def _run(self, what: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """A process that has imported everything, from which fleets are forked."""
    line = [sys.executable, str(SERVER)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        killer = Killer(process)
        yield killer
        assert process.stdin is not None
        process.stdin.close()
    assert killer.owed >= killer.runs // 2, "hardly a kill found a Mac that owed a result"


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_fleet_that_is_killed_loses_no_result_and_no_identity(
    run_in_reactor, tmp_path: Path, killer: Killer, seed: int
) -> None:
    async def test() -> None:
        chance = random.Random(seed)
        server = LabServer(reactor, Lab(kept_results=100_000), Authorities())
        server.listen()
        (tmp_path / "ca.pem").write_bytes(certificate_pem(server.authorities.anchor))
        judge = Judge(server.lab, tmp_path)
        killer.fixed = {
            "file": str(judge.file),
            "url": server.enrollment_url,
            "ca": str(tmp_path / "ca.pem"),
            "macs": MACS,
            "executions": str(judge.executions),
        }
        for step in steps_of(seed):
            judge.queue()
            await killer.run(step, chance.choice([MACS - 1, -1, -1]))
            judge.judge()
        await finish(judge, killer)
        killer.runs += 1
        await server.close()

    run_in_reactor(test(), SECONDS)


def steps_of(seed: int) -> list[int]:
    """The steps at which the fleets of a run are killed: consecutive runs have all of them in random order."""
    whole, part = divmod(seed, RUNS_OF_ALL_STEPS)
    steps = list(range(1, LAST_STEP + 1))
    random.Random(whole).shuffle(steps)
    return steps[part * KILLS : (part + 1) * KILLS]


async def finish(judge: Judge, killer: Killer) -> None:
    """Let the Macs answer what is queued, and compare the end."""
    for _ in range(100):
        await killer.run(LAST_STEP, -1)
        found = judge.judge()
        if all(at_rest(judge.lab, udid, mac) for udid, mac in zip(UDIDS, found, strict=True)):
            break
    else:
        pytest.fail("the Macs did not answer everything")
    for asked, udid, mac in zip(judge.asked, UDIDS, found, strict=False):
        assert mac is not None
        results = judge.lab.macs[udid].results
        assert {uuid for uuid, _ in asked.commands} == results.keys()
        killer.owed += len(asked.owed)
        assert mac.record.boots == sum(kind == "RestartDevice" for _, kind in asked.commands)


def at_rest(lab: Lab, udid: str, mac: Found | None) -> bool:
    """Whether the Mac is enrolled, on, and has answered everything."""
    known = lab.macs.get(udid)
    if known is None or mac is None or mac.device.enrollment is None or mac.device.enrolling is not None:
        return False
    return known.enrolled and not known.queue and mac.owed is None and mac.record.activity.power.state == "ON"
